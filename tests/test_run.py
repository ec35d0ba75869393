"""hil.runs.config: settings that refuse nonsense, and a folder that survives a crash."""
import ast
import inspect
import json
import os
import re
from dataclasses import asdict, fields
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hil.core.errors import RunError
from hil.core.files import save_npz, write_atomic
from hil.runs.config import CHOICES, RANGES, Config, config_from
from hil.runs.folder import Run

NOTEBOOK = Path(__file__).parents[1] / "nbs" / "train.ipynb"
DEFAULT = {f.name: f.default for f in fields(Config)}


# --- settings -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", DEFAULT)
def test_wrong_type_names_the_setting(name):
    wrong = 3 if isinstance(DEFAULT[name], str) else "3"
    with pytest.raises(RunError,
                       match=rf"^{name} = .* is a {type(wrong).__name__}: expected a {type(DEFAULT[name]).__name__}"):
        Config(**{name: wrong})


@pytest.mark.parametrize("changes", [dict(stage2_epochs=2.), dict(stage2_epochs=True), dict(flip=1), dict(lr=True), dict(data_root=None), dict(seed=np.int64(1)), dict(run_dir=Path("x"))])
def test_nothing_is_converted(changes):
    with pytest.raises(RunError, match="expected a"): Config(**changes)


def test_a_whole_number_passes_for_a_float(): assert Config(lr=1).lr == 1


@pytest.mark.parametrize("name", RANGES)
def test_ranges(name):
    low, high = RANGES[name]
    step = type(DEFAULT[name])(1)
    for value in (low - step, high + step, *([float("nan"), float("inf")] if isinstance(DEFAULT[name], float) else [])):
        with pytest.raises(RunError,
                           match=rf"^{name} = {re.escape(str(value))}: expected a value from {re.escape(str(low))} to {re.escape(str(high))}"):
            Config(**{name: value})


def test_every_number_has_a_range():
    assert set(RANGES) == {n for n, v in DEFAULT.items() if type(v) in (int, float)}
    assert all(low <= DEFAULT[n] <= high for n, (low, high) in RANGES.items())


@pytest.mark.parametrize("name", CHOICES)
def test_choices(name):
    assert DEFAULT[name] in CHOICES[name]
    with pytest.raises(RunError) as error: Config(**{name: CHOICES[name][0] + "x"})
    assert f"did you mean {CHOICES[name][0]!r}?" in str(error.value) and all(v in str(error.value)
        for v in CHOICES[name])
    with pytest.raises(RunError) as error: Config(**{name: "%%%%"})
    assert "did you mean" not in str(error.value)


@pytest.mark.parametrize("changes,says", [
    (dict(stage1_epochs=0, stage2_epochs=0), "nothing would be trained"), (dict(dataset="sysu"), "needs data_root"), (dict(k2=31), "k2 = 31 is more than k1 = 30"),
    (dict(k2=13), "k1_infrared = 12"), (dict(k1=5, k1_infrared=0), "k2 = 6 is more than k1 = 5"), (dict(resume=True), "resume = True needs run_dir"),
    (dict(cluster_weight=0., mccl_weight=0., neighbor_weight=0.), "no loss is left"), (dict(supervision="truth"), "set stage1_epochs = 0"),
    (dict(train_splits="train+val", evaluate_on="val"), "measures people that were trained on"), (dict(update_sub_centers=True, n_sub=0), "needs n_sub > 0"),
    (dict(update_sub_centers=True, mccl_weight=0.), "mccl_weight > 0")])
def test_contradictions(changes, says):
    with pytest.raises(RunError) as error: Config(**changes)
    assert says in str(error.value)


def test_what_looks_contradictory_and_is_not():
    for changes in (dict(k1_infrared=0), dict(k2=12), dict(resume=True, run_dir="x"),
                    dict(supervision="truth", stage1_epochs=0), dict(dataset="sysu", data_root="x"),
                    dict(train_splits="train+val"), dict(stage2_epochs=0), dict(neighbor_weight=0.,
                        mccl_weight=0.)): Config(**changes)


def test_a_config_does_not_change():
    with pytest.raises(AttributeError): Config().lr = 1.


# --- the parameters cell --------------------------------------------------------------------------------------------

def annotated(source):
    "{name: (annotation, default, comment)} of `name: type = value  # comment` lines, in order, with the headings between them."
    lines = [line.strip() for line in source.splitlines() if re.match(r"\s*\w+: (str|int|float|bool) = |\s*# ", line)]
    out = []
    for line in lines:
        if line.startswith("#"):
            out.append(line)
            continue
        node, comment = ast.parse(line).body[0], re.search(r"  # (.*)$", line)
        out.append((node.target.id, node.annotation.id, ast.literal_eval(node.value), comment and comment[1]))
    return out


def parameters_cell():
    return next(c.source for c in nbformat.read(NOTEBOOK, 4).cells if "parameters" in c.metadata.get("tags", []))


def test_parameters_cell_is_the_config():
    body = inspect.getsource(Config).split("def __post_init__")[0]
    cell, config = annotated(parameters_cell()), annotated(body)
    assert [x[0] for x in config if not isinstance(x, str)] == list(DEFAULT) and {x[0]: x[2]
        for x in config if not isinstance(x, str)} == DEFAULT
    assert cell == config


def test_parameters_cell_runs_to_the_defaults():
    names = {}
    exec(parameters_cell(), names)
    assert config_from(names, {"__builtins__"}) == Config()


def test_every_setting_is_commented_or_needs_none():
    assert [x[0] for x in annotated(parameters_cell()) if not isinstance(x, str) and not x[3]] == ["weight_decay"]


@pytest.mark.parametrize("name,close", [("stage2_epoch", "stage2_epochs"), ("learning_rat", None), ("nsub", "n_sub"), ("Seed", "seed")])
def test_mistyped_parameter(name, close):
    with pytest.raises(RunError) as error: config_from({**DEFAULT, name: 3}, set())
    message = str(error.value)
    assert message.startswith(f"{name!r} is not a parameter" + (f"; did you mean {close!r}?" if close else "\n")) and all(n in message for n in DEFAULT)


@pytest.mark.parametrize("value", [3, .5, "x", True, None, [1], {"a": 1}])  # all that papermill can inject
def test_no_kind_of_mistyped_value_slips_through(value):
    with pytest.raises(RunError, match="not a parameter"): config_from({"epochz": value}, set())


def test_a_notebooks_other_names_are_not_parameters():
    assert config_from({"np": np, "old": 3, "_i1": "x", "help": len, "lr": .5, "Path": Path}, {"old"}) == Config(lr=.5)


# --- the folder -----------------------------------------------------------------------------------------------------

IMAGES = pd.DataFrame({"path": ["cam1/0001/0001.jpg", "cam3/0001/0001.jpg"], "pid": [1, 1], "note": ["", "NA"]})


@pytest.fixture
def run(tmp_path):
    run = Run.create(Config(run_dir=str(tmp_path / "run")), IMAGES)
    for e in (0, 1): keep(run, e)
    return run


def keep(run, e, value=None):
    run.record({"epoch": e, "mAP": value or e / 10}, {"labels_visible": np.array([e])},
               {"epoch": e, "w": torch.tensor([float(e)])})


def content(folder): return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def test_round_trip(run):
    again = Run(run.path)
    assert again.config == run.config and again.history.mAP.tolist() == [0,
        .1] and again.epoch(-1)["labels_visible"].tolist() == [1]
    assert again.checkpoint()["epoch"] == 1 and again.checkpoint("best.pt") is None
    pd.testing.assert_frame_equal(again.images, IMAGES)  # "" and "NA" are text


@settings(max_examples=25, deadline=None)
@given(old=st.binary(max_size=50) | st.none(), new=st.binary(max_size=50), fails=st.booleans())
def test_write_atomic_is_all_or_nothing(tmp_path_factory, old, new, fails):
    folder = tmp_path_factory.mktemp("atomic")
    file = folder / "x"
    if old is not None: file.write_bytes(old)
    def write(part):
        assert part != file and part.parent == folder
        part.write_bytes(new)
        if fails: raise KeyboardInterrupt
    if fails:
        with pytest.raises(KeyboardInterrupt): write_atomic(file, write)
    else: write_atomic(file, write)
    expected = old if fails else new
    assert content(folder) == ({} if expected is None else {"x": expected})


@pytest.mark.parametrize("step", [0, 1, 2])
def test_crash_between_files_keeps_the_old_state(run, monkeypatch, step):
    "record writes arrays, history, checkpoint; stop it half through each: the checkpoint and the epochs before are untouched."
    before, calls = content(run.path), []
    def replace(source, target):
        calls.append(Path(target).name)
        if len(calls) > step: raise OSError("no space left on device")
        os.rename(source, target)
    with monkeypatch.context() as patch:
        patch.setattr("hil.core.files.os.replace", replace)
        with pytest.raises(OSError): keep(run, 2)
    assert calls == ["0002.npz", "history.csv", "checkpoint.pt"][:step + 1]
    after = content(run.path)
    allowed = {"epochs/0002.npz", "history.csv"}
    assert {k: v for k, v in after.items() if k not in allowed} == {k: v for k, v in before.items() if k not in allowed}
    again = Run(run.path)
    assert again.checkpoint()["epoch"] == 1 and again.epoch(1)["labels_visible"].tolist() == [1] and again.history.mAP.tolist()[:2] == [0, .1]
    keep(again, 2, .3)
    assert again.history.mAP.tolist() == [0, .1, .3] and again.checkpoint()["epoch"] == 2


@pytest.mark.parametrize("what", ["arrays", "checkpoint"])
def test_a_write_that_fails_leaves_no_half_file(run, monkeypatch, what):
    before = content(run.path)
    def half(*a, **k):
        Path(a[0] if what == "arrays" else a[1]).write_bytes(b"half")
        raise OSError("no space left on device")
    monkeypatch.setattr(*(("hil.runs.folder.save_npz", half) if what == "arrays"
                          else ("hil.runs.folder.torch.save", half)))
    with pytest.raises(OSError): keep(run, 2)
    new = set(content(run.path)) - set(before)
    assert new == (set() if what == "arrays" else {"epochs/0002.npz"}) and run.checkpoint()["epoch"] == 1


def test_an_epoch_told_twice_counts_once(run):
    keep(run, 1, .7)
    assert run.history.mAP.tolist() == [0, .7]


def test_resuming_sweeps_up_after_a_killed_process_and_touches_nothing_else(run):
    def stop(part): raise MemoryError
    names = []
    # the names that write_atomic gives to this run's files
    for file in sorted(p for p in run.path.rglob("*") if p.is_file()):
        with pytest.raises(MemoryError): write_atomic(file, lambda part: (names.append(part), stop(part)))
    names.append(run.path / ".77-best.pt")
    others = [run.path / n for n in (".7-notes.txt", ".gitignore", "7-history.csv", ".x-history.csv",
                                     ".7-history.csv.bak", ".-history.csv", "supervised/.7-history.csv")]
    (run.path / "supervised").mkdir()
    for file in (*names, *others): file.write_bytes(b"half")
    before = content(run.path)
    with pytest.raises(RunError, match="other settings"): Run.resume(Config(run_dir=str(run.path), lr=.5))
    Run(run.path)
    assert content(run.path) == before, "only a run that is gone on with is swept"
    assert Run.resume(Config(run_dir=str(run.path), resume=True)).history.epoch.tolist() == [0, 1]
    assert len(names) == 7 and content(run.path) == {k: v for k, v in before.items() if run.path / k not in names}
    with pytest.raises(RunError, match="no run here"): Run.resume(Config(run_dir=str(run.path / "epochs"), resume=True))


def test_save_npz_adds_no_suffix(tmp_path):
    save_npz(tmp_path / "odd.part", {"a": np.arange(3)})
    assert [p.name for p in tmp_path.iterdir()] == ["odd.part"]


def test_a_begun_run_is_never_overwritten(run):
    with pytest.raises(RunError, match="holds a run already; set resume = True"): Run.create(run.config, IMAGES)
    assert len(run.history) == 2


@pytest.mark.parametrize("version", [0, 99, None])
def test_another_format_is_refused(run, version):
    saved = json.loads((run.path / "config.json").read_text())
    (run.path / "config.json").write_text(json.dumps({**saved, "format": version, "version": "7.8"}))
    with pytest.raises(RunError) as error: Run(run.path)
    assert str(run.path) in str(error.value) and f"format {version}" in str(error.value) and "7.8" in str(error.value)


def test_no_run_there(tmp_path):
    with pytest.raises(RunError, match="no run here"): Run(tmp_path)
    with pytest.raises(RunError, match="no run here"): Run(tmp_path / "nowhere")


def test_an_epoch_that_was_not_recorded(run):
    with pytest.raises(RunError, match="epoch 9 was not recorded"): run.epoch(9)


@pytest.mark.parametrize("name", DEFAULT)
def test_resume_with_other_settings(run, name):
    other = {**asdict(run.config), "stage1_epochs": 0} if name == "supervision" else asdict(run.config)
    value = {str: lambda v: next((c for c in CHOICES.get(name, ("x",)) if c != v), "x"), bool: lambda v: not v,
             int: lambda v: v - 1 if v == RANGES[name][1] else v + 1,
             float: lambda v: v / 2}[type(DEFAULT[name])](other[name])
    needs = {"dataset": {}, "split": {"dataset": "regdb"}, "direction": {"dataset": "llcm"},
             "draws": {"dataset": "sysu"}, "accumulate": {"trainable": "all"}, "precision": {"trainable": "all"},
             "sampler": {"same_ids": False}}
    other = {**other, name: value, **({"data_root": "x", **needs[name]} if name in needs else {}),
             **({"run_dir": str(run.path)} if name == "resume" else {})}
    if name in ("run_dir", "resume", "device"): return run.check_resumable(Config(**other))
    speed = name in ("gradient_checkpointing", "compile")  # may change, but not for lite0
    with pytest.raises(RunError) as error:
        run.check_resumable(Config(**{**other, **(dict(model="vit_tiny_ics", trainable="all", weights="random")
                                                  if speed else {})}))
    if speed: assert name not in str(error.value)
    else: assert f"{name} was {DEFAULT[name]!r}, is {value!r}" in str(error.value)
