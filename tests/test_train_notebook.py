"""nbs/train.ipynb through papermill, as a user calls it: from another folder."""
import re

import nbformat
import numpy as np
import pytest
from conftest import SMALL, papermill

from hil.runs.folder import Run


@pytest.fixture(scope="session")
def report(hil_home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    done = papermill("train", folder, run_dir="mine/first", **SMALL)
    yield folder, done
    for file in folder.rglob("*.pt"): file.unlink()


def outputs(folder):
    return [o for c in nbformat.read(folder / "out.ipynb", 4).cells if c.cell_type == "code" for o in c.outputs]


@pytest.mark.slow
def test_from_another_folder_to_a_report(report):
    folder, done = report
    assert done.returncode == 0, done.stderr[-3000:]
    run = Run(folder / "mine" / "first")
    assert run.history.epoch.tolist() == [0, 1, 2, 3] and run.checkpoint()["epoch"] == 3
    assert {k: getattr(run.config, k) for k in SMALL} == SMALL
    files = {str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file() and "supervised" not in p.parts}
    assert files == {"config.json", "images.csv", "files.csv", "history.csv", "checkpoint.pt", "manifest.jsonl",
                     *(f"epochs/000{e}.npz" for e in range(4))}
    arrays, n = run.epoch(-1), run.images.groupby("modality").train.agg(["size", "sum"])
    for m in ("visible", "infrared"):
        assert arrays[f"features_{m}"].shape[0] == n.loc[m, "size"] and all(len(arrays[f"{k}_{m}"]) == n.loc[m, "sum"]
            for k in ("labels", "final", "sub"))
    columns = ["loss_total", *(f"{k}_{m}" for k in ("clusters", "outliers", "ari", "ami")
                               for m in ("visible", "infrared")), "rank1", "mAP", "mINP", "seconds"]
    assert run.history.loc[1:, columns].notna().all(axis=None) and run.history.loc[2:,
        ["transfer_precision", "transfer_coverage"]].notna().all(axis=None)
    assert Run(run.path / "supervised").config.supervision == "truth"
    assert {p.name for p in folder.iterdir()} == {"mine", "out.ipynb"}, "a run writes into run_dir only"


@pytest.mark.slow
def test_the_report_has_its_pictures_and_no_error(report):
    folder, _ = report
    every = outputs(folder)
    assert not [o for o in every if o.output_type == "error"]
    assert not [o.text for o in every if o.output_type == "stream" and re.search("warning|traceback", o.text, re.I)]
    # losses live, history, CMC, maps, two sub-cluster sheets, match graph, threshold, retrieval, mistakes
    assert sum(bool({"image/png", "image/jpeg"} & set(o.get("data", {}))) for o in every) >= 8
    assert re.search(r"the first epoch took \d+ s; about \d+ s to go",
                     "".join(o.text for o in every if o.output_type == "stream"))


@pytest.mark.slow
def test_every_cell_after_a_picture_heading_shows_one(report):
    cells, heading = nbformat.read(report[0] / "out.ipynb", 4).cells, ""
    want = {"## Inside one identity: sub-clusters", "## Between the modalities: the match graph", "## The map",
            "## Retrieval", "### The hardest mistakes", "## What was learned"}
    seen = {}
    for c in cells:
        if c.cell_type == "markdown": heading = c.source.splitlines()[0]
        else: seen[heading] = seen.get(heading, 0) + sum(bool({"image/png", "image/jpeg"} & set(o.get("data", {})))
                                                         for o in c.outputs)
    assert {h: seen.get(h) for h in want if not seen.get(h)} == {}


@pytest.mark.slow
def test_the_reports_figures_are_the_historys(report):
    run = Run(report[0] / "mine" / "first")
    text = next(o.data["text/markdown"] for o in outputs(report[0]) if "text/markdown" in o.get("data", {}))
    rows = [[float(x) for x in re.findall(r"\| *(\d+\.\d) *(?=\|)", line)]
            for line in text.splitlines() if re.search(r"\d\.\d \|", line)]
    ceiling = Run(run.path / "supervised").history
    for row, h in zip(rows, (run.history.iloc[0], run.history.iloc[-1], ceiling.iloc[-1]), strict=True):
        np.testing.assert_allclose(row, [100 * h[k] for k in ("rank1", "mAP", "mINP")], atol=.0501)
    assert "after 3 epochs without a label" in text and "test_best" not in text


@pytest.mark.slow
def test_a_report_without_truth(hil_home, tmp_path):
    from hil.synth.stand_ins import write_layout
    root = write_layout("folder", tmp_path / "crops", images=3)
    done = papermill("train", tmp_path, run_dir="run",
                     **{**SMALL, "preset": "default", "k1": 6, "k1_infrared": 6, "k2": 2, "min_samples": 2, "n_sub": 2,
                        "batch_ids": 3},
                     dataset="folder", data_root=root)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "mAP" not in Run(tmp_path / "run").history and not (tmp_path / "run" / "supervised").exists()
    text = "".join(str(o.get("data", {}).get("text/markdown", "")) + o.get("text", "") for o in outputs(tmp_path))
    assert "images that nobody has named" in text and "no truth, no mistakes" in text
    for file in tmp_path.rglob("*.pt"): file.unlink()
