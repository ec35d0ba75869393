"""nbs/train.ipynb through papermill, as a user calls it: from another folder."""
import re
from dataclasses import fields
from pathlib import Path

import nbformat
import numpy as np
import pytest
from conftest import SMALL, papermill

from hil.runs.config import Config
from hil.runs.folder import Run

NOTEBOOK = Path(__file__).parents[1] / "nbs" / "train.ipynb"


@pytest.fixture(scope="session")
def report(hil_home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    done = papermill("train", folder, run_dir="mine/first", **SMALL)
    yield folder, done
    for file in folder.rglob("*.pt"): file.unlink()


def outputs(folder):
    return [o for c in nbformat.read(folder / "out.ipynb", 4).cells if c.cell_type == "code" for o in c.outputs]


def texts(folder): return [o.data["text/markdown"] for o in outputs(folder) if "text/markdown" in o.get("data", {})]


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
    want = {"## Inside two clusters", "## Between the modalities", "## The map",
            "## Retrieval", "### The hardest cases", "## What was learned"}
    seen = {}
    for c in cells:
        if c.cell_type == "markdown": heading = c.source.splitlines()[0]
        else: seen[heading] = seen.get(heading, 0) + sum(bool({"image/png", "image/jpeg"} & set(o.get("data", {})))
                                                         for o in c.outputs)
    assert {h: seen.get(h) for h in want if not seen.get(h)} == {}


@pytest.mark.slow
def test_the_reports_figures_are_the_historys(report):
    run = Run(report[0] / "mine" / "first")
    text = next(text for text in texts(report[0]) if "untrained heads |" in text)
    rows = [[float(x) for x in re.findall(r"\| *(\d+\.\d) *(?=\|)", line)]
            for line in text.splitlines() if re.search(r"\d\.\d \|", line)]
    ceiling = Run(run.path / "supervised").history
    for row, h in zip(rows, (run.history.iloc[0], run.history.iloc[-1], ceiling.iloc[-1]), strict=True):
        np.testing.assert_allclose(row, [100 * h[k] for k in ("rank1", "mAP", "mINP")], atol=.0501)
    assert "after 3 epochs without a label" in text and "test_best" not in text


@pytest.mark.slow
def test_the_verdict_is_the_runs(report):
    "Its figures are those of the history, and it says that one run is one run."
    h = Run(report[0] / "mine" / "first").history
    text = next(text for text in texts(report[0]) if "Training without a label" in text)
    gain = h.mAP.iloc[-1] - h.mAP.iloc[0]
    if abs(gain) >= .01: assert ("raised" if gain > 0 else "LOWERED") + f" mAP by {100 * abs(gain):.1f} points" in text
    else: assert "left mAP where it was" in text
    assert f"{int(h.clusters_visible.iloc[-1])} visible" in text and "This is a single run" in text


@pytest.mark.slow
def test_settings_that_were_changed_are_marked(report):
    text = next(text for text in texts(report[0]) if "| | settings |" in text)
    changed = {k: v for k, v in SMALL.items() if v != getattr(Config, k)}
    assert changed and all(f"**{k} {v}** (default" in text for k, v in changed.items())
    assert "**lr " not in text and "lr 0.00015" in text


@pytest.mark.slow
def test_each_picture_is_followed_by_what_is_seen(report):
    for cell in nbformat.read(report[0] / "out.ipynb", 4).cells:
        shown = ["picture" if {"image/png", "image/jpeg"} & set(o.get("data", {})) else
                 o.get("data", {}).get("text/markdown", "")[:16] for o in cell.get("outputs", ())]
        for what, following in zip(shown, [*shown[1:], ""]):
            if what == "picture": assert following == "**What we see.**", cell.source[:80]


@pytest.mark.slow
def test_the_report_ends_in_what_to_try(report):
    steps = [text for text in texts(report[0]) if text.startswith("- ")]
    assert len(steps) == 1
    for command in re.findall(r"`-p (\w+) [^`]+`", steps[0]): assert command in {f.name for f in fields(Config)}
    assert "-p seed 1" in steps[0]


def test_report_cells_are_folded():
    "Only the training itself is open: what a reader sees first are results."
    cells = [c for c in nbformat.read(NOTEBOOK, 4).cells if c.cell_type == "code"]
    opened = [c.source for c in cells if not c.metadata.get("jupyter", {}).get("source_hidden")]
    assert len(opened) == 1 and "trainer.fit()" in opened[0]


@pytest.mark.slow
def test_a_finished_run_gives_its_report_again(report, tmp_path):
    folder, _ = report
    done = papermill("train", tmp_path, run_dir=folder / "mine" / "first", resume=True, **SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    again, first = ([t for t in texts(f) if "Training without a label" in t] for f in (tmp_path, folder))
    assert again == first


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
    text = "\n".join(str(o.get("data", {}).get("text/markdown", "")) + o.get("text", "") for o in outputs(tmp_path))
    assert "images that nobody has named" in text and "so there is none" in text
    cells = nbformat.read(tmp_path / "out.ipynb", 4).cells
    prose = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    table = next(t for t in texts(tmp_path) if "| | settings |" in t)
    said = (text.replace(table, "").replace(str(tmp_path), "") + prose).lower()
    strange = [word for word in ("truth", "rendered", "never trained on", "mistake", "mixed", "test people", "cam 0",
                                 "somebody else", "not measured", "the same map") if word in said]
    assert not strange, strange
    for cell in cells:
        shown = ["picture" if {"image/png", "image/jpeg"} & set(o.get("data", {})) else
                 o.get("data", {}).get("text/markdown", "")[:16] for o in cell.get("outputs", ())]
        for what, following in zip(shown, [*shown[1:], ""]):
            if what == "picture": assert following == "**What we see.**", cell.source[:80]
    for file in tmp_path.rglob("*.pt"): file.unlink()
