"""Recipes hold every number of the method (sections 2 to 6); what is given wins, wherever settings are made."""
import subprocess
import sys
from dataclasses import replace

import nbformat
import numpy as np
import pytest

from hil.cli import training_settings
from hil.core.errors import RunError
from hil.core.settings import settings_from
from hil.evaluation.metrics import Metrics
from hil.method.memory import InstanceMemory
from hil.runs.config import Config
from hil.runs.recipes import RECIPES, RELEASE
from hil.training.cli import words_of
from hil.training.trainer import Trainer

MINE = dict(data_root="x", weights="random")
# typed out of the method by hand, section by section, not read from the code
COMMON = dict(model="vit_base_ics", flip=True, trainable="all",                                            # 1
              k1=30, k1_infrared=0, k2=6, k2_infrared=0, min_samples=4,                                            # 2
              shrink=.9, update_sub_centers=False,                                                         # 3, 5
              matcher="brst", level="sample", brst_direction="alternate",                                  # 4
              batch_ids=8, instances=16, temp=.05, momentum=.1, memory_update="sample",                    # 5
              mccl_warmup=20, mccl_variant="published", instance_mix="unit", cluster_weight=1.,
              mccl_weight=1., neighbor_weight=1., hard_prototypes=False,
              stage1_epochs=30, stage2_epochs=30, optimizer="sgd", lr=3.5e-5, warmup_lr=1.,                # 6
              weight_decay=5e-4, lr_end=1., lr_drop=1., averaging=0., smoothing=0., select="last",
              reload_epoch=0, supervision="none", trials=10, accumulate=1, precision="float32", release=False)
OWN = {"sysu": dict(dataset="sysu", train_splits="train+val", eps=.6, n_sub=9, threshold=.5, iterations=100),
       "regdb": dict(dataset="regdb", train_splits="train", eps=.3, n_sub=2, threshold=.8, iterations=50),
       "llcm": dict(dataset="llcm", train_splits="train", eps=.6, n_sub=9, threshold=.5, iterations=100)}


@pytest.mark.parametrize("name", OWN)
def test_every_number(name):
    config = Config(preset=name, **MINE)
    assert {k: getattr(config, k) for k in (*COMMON, *OWN[name])} == COMMON | OWN[name]
    assert set(RECIPES[name]) <= set(COMMON | OWN[name]), "a recipe sets what this test does not know"
    assert not {"data_root", "weights", "seed", "device", "run_dir", "resume"} & set(RECIPES[name])


def test_a_recipe_needs_data_and_weights():
    with pytest.raises(RunError, match="needs data_root"): Config(preset="sysu", weights="random")
    with pytest.raises(RunError, match="comes without weights"): Config(preset="sysu", data_root="x")
    with pytest.raises(RunError, match='leave dataset alone'): Config(preset="sysu", dataset="synth", **MINE)
    # its numbers on somebody's crops
    assert Config(preset="sysu", dataset="folder", train_splits="train", **MINE).eps == .6


@pytest.mark.parametrize("wrong,close", [("sisu", "sysu"), ("reg_db", "regdb"), ("LLCM", None), ("dfault", "default")])
def test_a_mistyped_preset(wrong, close):
    with pytest.raises(RunError) as error: Config(preset=wrong, **MINE)
    assert "expected one of tiny, small, default, large, sysu, regdb, llcm" in str(error.value) and (close is None
        or f"did you mean {close!r}?" in str(error.value))


def test_what_is_no_name_at_all():
    for value in (3, None, ["sysu"]):
        with pytest.raises(RunError, match="preset = .*expected a str"): Config(preset=value)
    with pytest.raises(RunError, match="did you mean 'preset'"): Config(presett="sysu")


@pytest.mark.parametrize("given", [dict(n_sub=9), dict(eps=.6), dict(optimizer="adam"),
                                   dict(trainable="heads", model="lite0"), dict(lr=1)])
def test_what_is_given_wins_even_where_it_is_the_default(given):
    config = Config(preset="regdb", **MINE, **given)
    assert {k: getattr(config, k) for k in given} == given and config.threshold == .8
    assert replace(config, seed=1) == Config(preset="regdb", **MINE, **given, seed=1), "a copy fills in no recipe again"
    assert training_settings(words_of(config)) == config


def test_without_a_recipe_nothing_changed():
    assert Config() == Config(preset="default") and Config().lr == 1.5e-4 and Config().model == "lite0"


def test_the_parameters_cell_with_a_recipe():
    default = vars(Config())
    changed = default | dict(preset="regdb", lr=.5, **MINE)
    assert settings_from(changed, set(), Config) == Config(preset="regdb", lr=.5, **MINE)
    assert settings_from(changed | {"In": ["x = 1", "# Parameters\nn_sub = 'auto'\n"]}, {"In"}, Config).n_sub == "auto"
    # equal to False, and still no bool
    with pytest.raises(RunError, match="flip = 0 is a int"): settings_from(default | dict(flip=0), set(), Config)


def test_papermill_marks_what_it_injects(tmp_path):
    "The one thing taken from papermill: its cell begins with '# Parameters'."
    lines = [f"{k}: {type(v).__name__} = {v!r}" for k, v in vars(Config()).items()]
    cells = [nbformat.v4.new_code_cell(s)
             for s in ("from hil.runs.config import Config\nfrom hil.core.settings import settings_from\n"
                       "before = set(globals()) | {'before'}", "\n".join(lines),
                       "c = settings_from(globals(), before, Config)\nprint(c.n_sub, c.eps, c.lr)")]
    cells[1].metadata["tags"] = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells,
                                            metadata={"kernelspec": {"name": "python3", "display_name": "python3",
        "language": "python"}}), tmp_path / "in.ipynb")
    given = [w for k, v in dict(preset="regdb", n_sub=9, **MINE).items() for w in ("-p", k, str(v))]
    done = subprocess.run([sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb", "--no-progress-bar", *given],
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert nbformat.read(tmp_path / "out.ipynb", 4).cells[-1].outputs[0].text == "9 0.3 3.5e-05\n"


# --- the release ----------------------------------------------------------------------------------------------------

def test_release_is_one_word():
    config = Config(preset="sysu", release=True, **MINE)
    assert {k: getattr(config, k) for k in RELEASE} == dict(brst_direction="visible_to_infrared", level="sample",
                                                            memory_update="sample", same_ids=False, sampler="camera",
                                                            instance_mix="raw", hard_prototypes=False,
                                                            select="test_best", reload_epoch=20)
    assert config.eps == .6 and config.release and Config(preset="tiny", release=True).select == "test_best"
    assert Config(preset="sysu", release=True, select="last", **MINE).select == "last"


@pytest.mark.parametrize("given", [dict(), dict(select="last"), dict(matcher="none", n_sub=9), dict(mccl_weight=0)],
                         ids=str)
@pytest.mark.parametrize("preset", RECIPES)
def test_python_papermill_and_the_command_line_mean_the_same_run(preset, given):
    words = [w for k, v in dict(preset=preset, **given, **MINE).items() for w in (f"--{k.replace('_', '-')}", str(v))]
    told = dict(preset=preset, release=True, **given, **MINE)
    names = vars(Config()) | told | {"In": ["# Parameters\n" + "".join(f"{k} = {v!r}\n" for k, v in told.items())]}
    config = Config(**told)
    assert training_settings([*words, "--release"]) == config == settings_from(names, {"In"}, Config)


@pytest.mark.parametrize("mix", ["unit", "raw"])
def test_what_moves_an_instance_memory(quick_run, mix, monkeypatch):
    made = []
    begin = InstanceMemory.__init__
    monkeypatch.setattr(InstanceMemory, "__init__",
                        lambda self, *a, **k: (begin(self, *a, **k), made.append(self.mix))[0])
    quick_run(instance_mix=mix)
    assert made and set(made) == {mix}


@pytest.fixture
def quick_run(train):
    return lambda **changes: train(**{**dict(stage1_epochs=0, stage2_epochs=1, iterations=1, trials=1), **changes})


@pytest.mark.parametrize("reload_epoch,back", [(1, True), (0, False)])
def test_reload_goes_back_to_the_best(small, tmp_path, monkeypatch, reload_epoch, back):
    scores, seen = iter([.5, .3, .4]), []  # the untrained model is the best
    trainer = Trainer(small(run_dir=str(tmp_path / "run"), select="test_best", reload_epoch=reload_epoch,
                            stage1_epochs=0, stage2_epochs=2, iterations=1), progress=False)
    monkeypatch.setattr(trainer, "evaluate", lambda: (Metrics(np.ones(1), next(scores), 0.),
                                                      Metrics(np.zeros(1), 0., 0.)))
    label = trainer.label
    def labelled(stage):
        seen.append(trainer.joined()["visible"].clone())
        return label(stage)
    monkeypatch.setattr(trainer, "label", labelled)
    trainer.fit()
    assert len(seen) == 2 and bool((seen[0] == seen[1]).all()) == back
    for file in tmp_path.rglob("*.pt"): file.unlink()


def test_the_smallest_rendering_trains_with_its_own_word(hil_home, tmp_path):
    "`hil train --preset tiny`, which README shows, with nothing else set."
    run = Trainer(Config(preset="tiny", run_dir=str(tmp_path / "run"), device="cpu"), progress=False).fit()
    assert len(run.history) == 5 and np.isfinite(run.history.loss_total[1:]).all()
    for file in tmp_path.rglob("*.pt"): file.unlink()


def test_a_recipe_has_a_constructor_of_its_own():
    assert Config.recipe("sysu", data_root="x", weights="random", n_sub=4) == Config(
        preset="sysu", data_root="x", weights="random", n_sub=4)
    with pytest.raises(RunError, match="recipe = 'syssu': expected one of sysu, regdb, llcm; did you mean 'sysu'"):
        Config.recipe("syssu", data_root="x")
