"nbs/evaluate.ipynb through papermill: four layouts, with truth and without; and what encode and scoring promise."
import re
from dataclasses import asdict, replace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import papermill
from jupyter_client import KernelManager
from nbclient import NotebookClient
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from hil.core.errors import RunError
from hil.evaluation import metrics, protocols, tables
from hil.evaluation.encode import extract, load_encoder
from hil.evaluation.scoring import Evaluation
from hil.models.build import build_model
from hil.plots import sheets
from hil.runs.config import Config
from hil.runs.folder import Run
from hil.training.run_images import load_images

NOTEBOOK = Path(__file__).parents[1] / "nbs" / "evaluate.ipynb"
PICTURES = {"## How soon the right person comes", "## The map", "## Which cameras understand each other",
            "## What a search returns", "## The hardest errors"}


@pytest.fixture(scope="module")
def evaluated(hil_home):
    "evaluated(folder, **parameters): what papermill does, in one kernel for all; raises what the notebook raises."
    manager = KernelManager(kernel_name="python3")
    def run(folder, **parameters):
        nb = parameterize_notebook(load_notebook_node(str(NOTEBOOK)),
                                   {k: v if isinstance(v, (int, str)) else str(v) for k, v in parameters.items()})
        nb.cells.insert(0, nbformat.v4.new_code_cell(f"%reset -f\n%cd -q {folder}"))
        NotebookClient(nb, km=manager, timeout=300).execute()
        nbformat.write(nb, folder / "out.ipynb")
    yield run
    manager.shutdown_kernel(now=True)


def report(folder):
    "(texts, headings under which a picture stands) of out.ipynb."
    texts, seen, heading = [], set(), ""
    for c in nbformat.read(folder / "out.ipynb", 4).cells:
        if c.cell_type == "markdown": heading = c.source.splitlines()[0]
        for o in c.get("outputs", []):
            assert o.output_type != "error"
            data = o.get("data", {})
            texts.append(data.get("text/markdown") or data.get("text/plain", "") or o.get("text", ""))
            if {"image/png", "image/jpeg"} & set(data): seen.add(heading)
    return "\n".join(texts), seen


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    "stand_in(layout) -> its root, written once."
    from hil.synth.stand_ins import write_layout
    roots = {}
    def write(layout):
        if layout not in roots:
            roots[layout] = write_layout(layout, tmp_path_factory.mktemp(layout) / "data", people=8, images=3)
        return roots[layout]
    return write


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    "A checkpoint as papers publish it: wrapped, with the prefix of several GPUs, of a ViT that tests can afford."
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("vit") / "published.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in build_model("vit_tiny_ics", "random").state_dict().items()},
                "epoch": 30}, file)
    return file


def test_what_is_committed_is_of_a_trained_run():
    "And the cell that names the run is where papermill's own would be, so that any parameter takes its place."
    cells = nbformat.read(NOTEBOOK, 4).cells
    tags = [c.metadata.get("tags", []) for c in cells]
    at = tags.index(["parameters"])
    assert tags[at + 1] == ["injected-parameters"] and sum("injected-parameters" in t for t in tags) == 1
    shown = [o.data.get("text/markdown", "") for c in cells if c.cell_type == "code" for o in c.outputs if "data" in o]
    assert any(re.match(r"### lite0, run [0-9-]+, epoch [1-9]", text) for text in shown)


SETTINGS = {"sysu": ["SYSU-MM01 all-search", "SYSU-MM01 indoor-search"],
            "regdb": ["RegDB infrared to visible", "RegDB visible to infrared"],
            "llcm": ["LLCM infrared to visible", "LLCM visible to infrared"]}


@pytest.mark.slow
@pytest.mark.parametrize("dataset", SETTINGS)
def test_from_a_checkpoint_and_a_data_root_to_the_table(evaluated, stand_in, vit, tmp_path, dataset):
    # RegDB: ten splits, each with a checkpoint of its own
    splits = range(dataset == "regdb" and 10)
    for k in splits: (tmp_path / f"published-{k + 1}.pth").symlink_to(vit)
    more = dict(split=0, checkpoint="published-{split}.pth") if splits else dict(checkpoint=vit)
    settings = dict(dataset=dataset, data_root=stand_in(dataset), expect="stand-in", trials=3, out_dir="tables", **more)
    if splits:                                                                 # as a user calls it
        done = papermill("evaluate", tmp_path, **settings)
        assert done.returncode == 0, done.stderr[-3000:]
    else: evaluated(tmp_path, **settings, resize="lanczos")
    text, seen = report(tmp_path)
    name = f"vit_tiny_ics, published{'-{split}' if splits else ''}.pth"
    assert seen == PICTURES and ("resized by Lanczos" in text) == (not splits)
    assert all(words in text for words in (name, "a rendered stand-in", "no published figure compares"))
    assert {p.name for p in (tmp_path / "tables").iterdir()} == {"results.md", "results.tex", "results.csv",
        "camera_pairs.csv", "hardest_errors.csv"}
    table = pd.read_csv(tmp_path / "tables" / "results.csv", comment="#")
    own = table[table.source == tables.OWN]
    assert own.setting.tolist() == SETTINGS[dataset] and (own.runs == (10 if splits
        else 3)).all() and own.mAP.between(1, 100).all()
    paper = table[table.source != tables.OWN]
    assert (len(paper) == 0) == (dataset == "llcm") and paper.source.str.contains("not reproduced here").all()
    assert re.search(rf"\| {re.escape(name)} \| {own.rank1.iloc[0]:.2f}", text)
    configs = [Config(dataset=dataset, data_root=str(stand_in(dataset)), expect="stand-in", trials=3, split=k + 1)
               for k in splits or range(1)]
    resize = "bilinear" if splits else "lanczos"
    expected = 100 * np.mean([scored(load_encoder(vit), c, resize=resize) for c in configs])
    assert own.mAP.iloc[0] == pytest.approx(expected, abs=.01), "the notebook scores what the library scores"


@pytest.mark.slow
def test_a_folder_without_truth_gets_pictures_and_no_score(evaluated, stand_in, tmp_path):
    evaluated(tmp_path, dataset="folder", data_root=stand_in("folder"))
    text, seen = report(tmp_path)
    assert seen == {"## The map", "## What a search returns"}
    assert "### untrained lite0" in text and "no truth is known, so nothing is scored" in text
    assert not re.search(r"Rank-1 \d|mAP \d", text)
    assert {p.name for p in tmp_path.iterdir()} == {"out.ipynb"}


# ---- hil.evaluation.encode and scoring ----------------------------------------------------------------------------

def scored(encoder, config, **options):
    "mAP of an encoder on the images that a run held out."
    table = load_images(config, progress=False)
    held = table[~table.train].reset_index(drop=True)
    held.attrs = table.attrs
    return metrics.mean_metrics(protocols.evaluate_draws(extract(encoder.model, held, progress=False, **options), held,
                                                         protocols.Protocol.of(config)))[0].mAP


def test_a_run_scores_what_its_history_says(whole):
    encoder = load_encoder(whole.path)
    assert encoder.run.path == whole.path and not encoder.notes and encoder.name == "lite0, run run, epoch 3"
    assert scored(encoder, Evaluation(checkpoint=str(whole.path), trials=2).config(encoder.run),
                  flip=False) == pytest.approx(whole.history.mAP.iloc[-1], abs=.02)
    assert load_encoder(whole.path / "checkpoint.pt").name == encoder.name
    with pytest.raises(RunError, match="trained 'lite0'; leave model empty"): load_encoder(whole.path, "agw_resnet50")


def test_what_a_reader_must_know_is_said(train):
    best = load_encoder(train("best", select="test_best", stage1_epochs=0, stage2_epochs=1).path)
    assert "chosen on the test labels" in best.notes[0]
    truth = load_encoder(train("truth", supervision="truth", stage1_epochs=0, stage2_epochs=1).path)
    assert "ceiling" in truth.notes[0]


def test_the_runs_own_data_and_no_other_by_mistake(whole):
    settings = Evaluation(checkpoint=str(whole.path))
    assert {k: v for k, v in asdict(settings.config(whole)).items()
            if k in ("dataset", "preset", "render_seed")} == dict(dataset="synth", preset="tiny",
        render_seed=whole.config.render_seed)
    with pytest.raises(RunError, match="preset given, but the data set is that of the run"):
        replace(settings, preset="large").config(whole)
    assert replace(settings, preset="large", dataset="synth").config(whole).preset == "large"
    assert replace(settings, data_root="elsewhere").config(whole).data_root == "elsewhere"


class Trained:
    "A run on one split of RegDB, as far as settings ask."
    path, config = Path("runs/regdb"), Config(dataset="regdb", data_root="RegDB", split=3)


def test_nobody_is_tested_on_people_that_were_trained_on():
    assert Evaluation(checkpoint="runs/regdb").config(Trained).split == 3
    with pytest.raises(RunError, match="was trained on split 3"):
        Evaluation(checkpoint="runs/regdb", dataset="regdb", data_root="RegDB").config(Trained)
    every = Evaluation(checkpoint="runs/regdb-{split}", split=0)
    assert list(every.splits) == list(range(1, 11)) and every.config(Trained, 3).split == 3
    with pytest.raises(RunError, match="trained on split 3"): every.config(Trained, 4)
    with pytest.raises(RunError, match="write {split} into checkpoint"): Evaluation(checkpoint="runs/regdb", split=0)
    with pytest.raises(RunError, match="split = 0 is for dataset"): Evaluation(split=0)
    with pytest.raises(RunError, match="people that were trained on"):
        Evaluation(evaluate_on="val", checkpoint="x").config(replaced(train_splits="train+val"))


def replaced(**changes): return type("Of", (), {"path": Path("runs/x"), "config": replace(Config(), **changes)})


@pytest.mark.parametrize("wrong,says", [
    (dict(depths="all"), "depths = 'all'"), (dict(flip="true"), "flip = 'true'"),
    (dict(resize="area"), "resize = 'area'"),
    (dict(model="vit"), "model = 'vit'"), (dict(batch=0), "batch = 0"), (dict(split=11), "split = 11"),
    (dict(direction="visible_to_infrared"), "direction = 'visible_to_infrared' is for"),
    (dict(chekpoint="x"), "checkpoint"),
    (dict(dataset="sysu"), "needs data_root"), (dict(hardest=2.5), "hardest = 2.5 is a float"),
    (dict(dataset="sysu", data_root="x", render_seed=3), "render_seed = 3 is for"),
    (dict(trials="ten"), "trials = 'ten' is a str: expected a int")])
def test_wrong_settings(wrong, says):
    with pytest.raises(RunError) as error: Evaluation(**wrong)
    assert says in str(error.value)


def test_an_empty_run_and_a_broken_network_are_refused(small, tmp_path, stand_in, vit, hil_home):
    images = load_images(small(), progress=False)
    run = Run.create(small(run_dir=str(tmp_path / "run")), images)
    with pytest.raises(RunError, match="no epoch was finished"): load_encoder(run.path)
    torch.save({"weight": torch.zeros(3)}, tmp_path / "odd.pth")
    with pytest.raises(RunError, match="do not tell which network"): load_encoder(tmp_path / "odd.pth")
    model = load_encoder(vit).model
    next(model.parameters()).data.fill_(np.nan)
    part = images.iloc[:3]
    part.attrs = images.attrs
    with pytest.raises(RunError, match="3 of 3 features are NaN"): extract(model, part, progress=False)


def test_flip_is_the_mean_of_both_ways(small, vit):
    model, images = load_encoder(vit).model, load_images(small(), progress=False)
    part = images.iloc[[0, -1, 5]]                                             # both modalities, mixed
    part.attrs = images.attrs
    both, deep, single, sharp = (extract(model, part, progress=False, **o)
                                 for o in (dict(), dict(depths=("deep",)), dict(flip=False), dict(resize="lanczos")))
    assert torch.equal(both, sharp), "images of the model's size are left alone"
    assert torch.allclose(both[:, :96], deep) and not torch.allclose(both, single, atol=1e-4)
    one = [extract(model, p, progress=False, batch=1)
           for p in (part.iloc[[i]] for i in range(3)) if p.attrs.update(images.attrs) is None]
    assert torch.allclose(torch.cat(one), both, atol=1e-5)


def test_sheets_take_llcms_rule():
    "A query never sees its own person from its own camera; other people of that camera stay."
    image, who = np.zeros((3, 3, 8, 4), np.uint8), (np.array([1]), np.array([1, 2, 1]), np.array([5]),
                                                    np.array([5, 5, 7]))
    query, gallery = (pd.DataFrame({"pid": p, "camid": c}) for p, c in ((who[0], who[2]), (who[1], who[3])))
    removed = protocols.left_out(query, gallery, protocols.Protocol("llcm"))
    distance = np.array([[.1, .2, .3]])
    def texts(fig):
        return " ".join(t.get_text() for ax in fig.axes for t in ax.texts)
    assert "✓ cam 5" not in texts(fig := sheets.retrieval_sheet(image[:1], image, distance.argsort(1), *who,
                                                                removed=removed)) and "✗ cam 5" in texts(fig)
    assert "✓ cam 5" in texts(sheets.retrieval_sheet(image[:1], image, distance.argsort(1), *who))
    assert "rank 2" in texts(sheets.hardest_mistakes(image[:1], image, distance, *who, removed=removed))
