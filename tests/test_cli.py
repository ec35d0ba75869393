"""The command line, as a user calls it: `python -m hil` from another folder."""
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, fields, replace

import nbformat
import pandas as pd
import pytest
from conftest import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st

import hil
from hil.cli import COMMANDS, explore_notebook, training_settings
from hil.core.errors import RunError
from hil.core.settings import allowed
from hil.evaluation.scoring import Evaluation
from hil.runs.config import Config
from hil.runs.folder import Run
from hil.runs.recipes import RECIPES
from hil.training.cli import launch, words_of

SETTINGS = {"train": Config, "evaluate": Evaluation}


def call(folder, *words, **more):
    "(exit code, stdout, stderr) of `python -m hil`."
    done = subprocess.run([sys.executable, "-m", "hil", *map(str, words)], cwd=folder, capture_output=True, text=True,
                          timeout=300, env=os.environ | {"COLUMNS": "200"} | more)
    return done.returncode, done.stdout, done.stderr


def options(**given): return [w for name, value in given.items() for w in (f"--{name.replace('_', '-')}", str(value))]


# --- help -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_names_every_command(tmp_path, words):
    code, out, _ = call(tmp_path, *words)
    assert code == 0 and all(name in out for name in COMMANDS)


def test_help_is_quick(tmp_path):
    "It loads neither torch nor tyro."
    loaded = ("import sys, hil.cli; hil.cli.main(['--help'])\n"
              "print([m for m in ('torch', 'tyro', 'numpy') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", loaded], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr


def test_version(tmp_path): assert call(tmp_path, "--version") == (0, f"hil {hil.__version__}\n", "")


@pytest.mark.parametrize("command", SETTINGS)
def test_help_shows_every_setting_with_its_comment(tmp_path, command):
    code, out, _ = call(tmp_path, command, "--help")
    text = " ".join(out.replace("│", " ").split())
    assert code == 0
    for f in fields(SETTINGS[command]): assert f"--{f.name.replace('_', '-')}" in text, f.name
    for comment in {"train": ("DBSCAN on the Jaccard distance (0.6 SYSU, 0.3 RegDB)", "of everything random"),
                    "evaluate": ("regdb: which of its ten given splits; 0: all ten", "images at a time")}[command]:
        assert comment in text
    for name, (_, choices, *_) in allowed(SETTINGS[command]).items():
        assert not choices or "{" + ",".join(map(str, choices)) + "}" in text, name


@pytest.mark.parametrize("preset", RECIPES)
def test_help_shows_a_recipes_numbers(capsys, preset):
    with pytest.raises(SystemExit): training_settings(["--preset", preset, "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "(default: 3.5e-05)" in text and f"(default: {preset})" in text


@pytest.mark.parametrize("command", ["check", "explore", "runs", "ablation"])
def test_the_others_have_help_too(tmp_path, command):
    code, out, _ = call(tmp_path, command, "--help")
    assert code == 0 and out.startswith("usage: ")


# --- what is refused ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("words,says", [
    (["train", "--dataset", "sysu"], 'hil train: dataset = "sysu" needs data_root'),
    (["train", "--lr", "200"], "hil train: lr = 200.0: expected a value from 1e-09 to 100"),
    (["train", "--reload-epoch", "3"], "hil train: reload_epoch = 3 is for"),
    (["train", "--resume", "--run-dir", "nowhere"], "hil train: nowhere: no run here"),
    (["train", "--dataset", "sysu", "--data-root", "nowhere"], "hil train: "),
    (["evaluate", "--checkpoint", "nowhere"], "hil evaluate: checkpoint = 'nowhere': no such file or folder"),
    (["evaluate", "--dataset", "folder", "--data-root", "x"], 'hil evaluate: dataset = "folder" has no truth'),
    (["explore", "nowhere"], "hil explore: nowhere: no run here"), (["runs", "nowhere"], "hil runs: nowhere: no such"),
    (["ablation", "--variants", "HILL"], "hil ablation: variant = 'HILL': expected one of modalities apart"),
    (["ablation", "--settings", "iteration=3"], "hil ablation: 'iteration' is not a parameter"),
    (["ablation", "--renderings"], "hil ablation: no data set"),
    (["ablation", "--backend", "joblib", "--threads", "9999"], "hil ablation: threads = 9999")])
def test_one_line_and_exit_code_1(hil_home, tmp_path, words, says):
    code, out, error = call(tmp_path, *words)
    assert code == 1 and out == "" and error.startswith(says), error
    assert error.count("\n") == 1 + ("\nParameters: " in error), error
    assert not list(tmp_path.iterdir()), "nothing is begun"


@pytest.mark.parametrize("words,says", [
    (["trian"], "'trian' is no command; did you mean 'train'?"), (["train", "--epochz", "3"], "--epochz"),
    (["train", "--preset", "sisu"], "'sisu'"), (["train", "--lr", "fast"], "fast"), (["train", "--preset"], "--preset"),
    (["evaluate", "--trials", "ten"], "ten"), (["explore"], "required")])
def test_odd_words(tmp_path, words, says):
    code, _, error = call(tmp_path, *words)
    assert code == 2 and says in error and "Traceback" not in error


# --- settings -------------------------------------------------------------------------------------------------------

def test_both_ways_to_write_a_name():
    ways = (["--run_dir", "x", "--k1_infrared=6"], ["--run-dir=x", "--k1-infrared", "6"])
    assert training_settings(ways[0]) == training_settings(ways[1]) == Config(run_dir="x", k1_infrared=6)


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20).filter(
    lambda words: all(name.strip() for name in words.split("/") if name))  # a blank name in a path is refused


@settings(max_examples=30, deadline=None)
@given(run_dir=WORDS, weights=WORDS, lr=st.floats(1e-9, 100), seed=st.integers(0, 10**9), flip=st.booleans(),
       preset=st.sampled_from(["tiny", "default", "sysu"]), release=st.booleans())
def test_words_bring_the_same_settings(run_dir, weights, lr, seed, flip, preset, release):
    "Every value survives the way through the command line, a recipe's too."
    odd = dict(run_dir=run_dir, lr=lr, seed=seed, flip=flip, preset=preset, release=release)
    config = Config(**odd, **(dict(data_root="x", weights=weights or "random") if preset == "sysu" else {}))
    assert training_settings(words_of(config)) == config


# --- runs -----------------------------------------------------------------------------------------------------------

QUICK = {**SMALL, "stage1_epochs": 0, "stage2_epochs": 1, "iterations": 2}


@pytest.fixture(scope="module")
def trained(hil_home, tmp_path_factory):
    "(folder, what `hil train` said) of one run, in a folder of its own."
    folder = tmp_path_factory.mktemp("trained")
    yield folder, call(folder, "train", *options(**QUICK, device="cpu"), "--run_dir", "mine")
    for file in folder.rglob("*.pt"): file.unlink()


@pytest.mark.slow
def test_train_tells_each_epoch_and_the_folder(trained):
    folder, (code, out, error) = trained
    assert code == 0, error
    lines, run = out.splitlines(), Run(folder / "mine")
    assert lines[0].startswith("epoch 1/1: loss ") and ", mAP " in lines[0] and lines[1:] == ["mine"]
    assert run.config == Config(**QUICK, device="cpu", run_dir="mine") and run.history.epoch.tolist() == [0, 1]
    code, _, error = call(folder, "train", *options(**QUICK, device="cpu"), "--run_dir", "mine")
    assert code == 1 and error.startswith("hil train: mine: holds a run already")


@pytest.mark.slow
def test_evaluate_scores_what_the_history_says(trained):
    folder, _ = trained
    code, out, error = call(folder, "evaluate", "--checkpoint", "mine", "--trials", "2", "--out-dir", "table")
    assert code == 0, error
    assert {p.name for p in (folder / "table").iterdir()} == {"results.md", "results.tex", "results.csv"}
    table, last = pd.read_csv(folder / "table" / "results.csv", comment="#"), Run(folder / "mine").history.iloc[-1]
    assert table.setting.tolist() == ["Rendered people all-search", "Rendered people indoor-search"]
    # training keeps trunk features in 16 bits where that is fast
    assert table.mAP[0] == pytest.approx(100 * last.mAP, abs=2) and f"{table.mAP[0]:.2f} ±" in out
    assert "lite0, run mine, epoch 1" in out and "no published figure compares" in out and out.endswith("\ntable\n")


@pytest.mark.slow
def test_check_ends_as_the_report_does(tmp_path):
    from hil.synth.stand_ins import write_layout
    root = write_layout("regdb", tmp_path / "regdb", people=8, images=3)
    code, out, error = call(tmp_path, "check", root, "--expect", "stand-in")
    assert code == 0 and "regdb" in out.lower(), out + error
    code, out, error = call(tmp_path, "check", root)
    assert code == 1 and "stand-in" in out + error and "Traceback" not in error


# --- several processes ----------------------------------------------------------------------------------------------

@pytest.mark.slow
def test_torchrun_starts_it(hil_home, tmp_path):
    words = options(**QUICK, device="cpu", run_dir="two")
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m",
                           "hil", "train", *words], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["epoch 1/1", "two"], "one of them tells"
    for file in tmp_path.rglob("*.pt"): file.unlink()


@pytest.mark.slow
def test_launch_says_what_a_process_said(small, tmp_path):
    config = replace(small(), dataset="sysu", preset="default", data_root=str(tmp_path / "nowhere"),
                     run_dir=str(tmp_path / "r"))
    with pytest.raises(RunError) as error: launch(config)
    assert str(error.value).startswith(str(tmp_path / "nowhere")) and "Traceback" not in str(error.value)


# --- the explorer ---------------------------------------------------------------------------------------------------

def test_the_notebook_of_the_explorer(tmp_path):
    nb = nbformat.from_dict(explore_notebook(tmp_path, root=tmp_path / "images", columns=tmp_path / "times.csv"))
    nbformat.validate(nb)
    compile(nb.cells[0].source, "cell", "exec")
    assert repr(str(tmp_path)) in nb.cells[0].source and f"root={str(tmp_path / 'images')!r}" in nb.cells[0].source
    assert f"columns={str(tmp_path / 'times.csv')!r}" in nb.cells[0].source


LAB = """
import json, sys
from pathlib import Path
file = Path(sys.argv[-1])
print(json.dumps(dict(file=str(file), source=json.loads(file.read_text())["cells"][0]["source"])))
"""


def test_explore_opens_jupyterlab_beside_the_run(tmp_path):
    "With a JupyterLab that only tells what it was given: the run and the present folder stay as they are."
    for name in ("lab", "images"): (tmp_path / name).mkdir()
    (tmp_path / "lab" / "jupyterlab.py").write_text(LAB)
    run = Run.create(Config(run_dir=str(tmp_path / "run")), pd.DataFrame({"path": ["a.jpg"]}))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    path = os.pathsep.join([str(tmp_path / "lab"), os.environ.get("PYTHONPATH", "")])
    code, out, error = call(tmp_path, "explore", "run", "--root", "images", PYTHONPATH=path,
                            PYTHONDONTWRITEBYTECODE="1")
    assert code == 0, error
    told = json.loads(out)
    assert f"explore({str(run.path)!r}, root={str(tmp_path / 'images')!r})" in told["source"]
    assert not os.path.exists(told["file"]) and not told["file"].startswith(str(tmp_path))
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}


def test_explore_says_what_to_install(tmp_path, monkeypatch, capsys):
    Run.create(Config(run_dir=str(tmp_path / "run")), pd.DataFrame({"path": ["a.jpg"]}))
    monkeypatch.setattr("hil.cli.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended: hil.cli.main(["explore", str(tmp_path / "run")])
    assert 'pip install "hil[notebook]"' in ended.value.code


def test_the_words_of_a_config_are_quick():
    begun = time.perf_counter()
    assert len(words_of(Config())) == len(asdict(Config()))
    assert time.perf_counter() - begun < 1
