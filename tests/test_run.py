"""hil.runs and what it stands on: settings that refuse nonsense, and a folder that survives a crash."""
import ast
import inspect
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import get_args

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hil.core.errors import DataError, RunError
from hil.core.files import held, new_folder, save_npz, write_atomic
from hil.core.settings import allowed, settings_from
from hil.evaluation.scoring import Evaluation
from hil.runs.config import NEEDS, Config, variant
from hil.runs.folder import Run
from hil.runs.recipes import RECIPES

NOTEBOOKS = {kind: Path(__file__).parents[1] / "nbs" / f"{name}.ipynb"
             for kind, name in ((Config, "train"), (Evaluation, "evaluate"))}
DEFAULT = {f.name: f.default for f in fields(Config)}
CHOICES = {name: a.choices for name, a in allowed(Config).items() if a.choices}
RANGES = {name: a.range for name, a in allowed(Config).items() if a.range}
KINDS = {name: a.kind for name, a in allowed(Config).items()}


# --- settings -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", DEFAULT)
def test_wrong_type_names_the_setting(name):
    wrong = 3 if KINDS[name] is str else "3"
    with pytest.raises(RunError,
                       match=rf"^{name} = .* is a {type(wrong).__name__}: expected a {KINDS[name].__name__}"):
        Config(**{name: wrong})


@pytest.mark.parametrize("changes", [dict(stage2_epochs=2.), dict(stage2_epochs=True), dict(flip=1), dict(lr=True),
                                     dict(data_root=None), dict(seed=np.int64(1)), dict(run_dir=Path("x"))])
def test_nothing_is_converted(changes):
    with pytest.raises(RunError, match="expected a"): Config(**changes)


def test_a_whole_number_passes_for_a_float(): assert Config(lr=1).lr == 1


@pytest.mark.parametrize("name", RANGES)
def test_ranges(name):
    low, high = RANGES[name]
    step = KINDS[name](1)
    for value in (low - step, high + step, *([float("nan"), float("inf")] if KINDS[name] is float else [])):
        with pytest.raises(RunError) as error: Config(**{name: value})
        assert str(error.value) == f"{name} = {value}: expected a value from {low} to {high}"


@pytest.mark.parametrize("name", CHOICES)
def test_choices(name):
    assert DEFAULT[name] in CHOICES[name]
    with pytest.raises(RunError) as error: Config(**{name: CHOICES[name][0] + "x"})
    assert f"did you mean {CHOICES[name][0]!r}?" in str(error.value) and all(v in str(error.value)
        for v in CHOICES[name])
    with pytest.raises(RunError) as error: Config(**{name: "%%%%"})
    assert "did you mean" not in str(error.value)


@pytest.mark.parametrize("changes,says", [
    (dict(stage1_epochs=0, stage2_epochs=0), "nothing would be trained"),
    (dict(dataset="sysu"), "needs data_root"),
    (dict(k2=31, k1=30), "k2 = 31 is more than k1 = 30"),
    (dict(k2=13, k1=30, k1_infrared=12), "k1_infrared = 12"),
    (dict(k1=5, k1_infrared=0, k2=6), "k2 = 6 is more than k1 = 5"),
    (dict(resume=True), "resume = True needs run_dir"),
    (dict(cluster_weight=0., mccl_weight=0., neighbor_weight=0.), "no loss is left"),
    (dict(supervision="truth"), "set stage1_epochs = 0"),
    (dict(train_splits="train+val", evaluate_on="val"), "measures people that were trained on"),
    (dict(dataset="regdb", data_root="x", train_splits="train+val"), "has no validation people"),
    (dict(preset="sysu", dataset="synth"), "is a recipe for real data"),
    (dict(sampler="camera"), "set same_ids = False"),
    (dict(model="vit_base_ics", weights="random"), 'set trainable = "all"'),
    (dict(model="vit_base_ics", trainable="all"), "comes without weights")])
def test_contradictions(changes, says):
    with pytest.raises(RunError) as error: Config(**changes)
    assert says in str(error.value)


@pytest.mark.parametrize("changes", [
    dict(k1_infrared=0), dict(k2=12), dict(resume=True, run_dir="x"), dict(supervision="truth", stage1_epochs=0),
    dict(dataset="sysu", data_root="x"), dict(train_splits="train+val"), dict(stage2_epochs=0),
    dict(neighbor_weight=0., mccl_weight=0.), dict(matcher="one_way", level="sample"),
    dict(sampler="camera", same_ids=False), dict(matcher="none", sampler="camera", same_ids=False),
    dict(select="test_best", reload_epoch=3),
    dict(reload_epoch=0), dict(mccl_weight=0., n_sub=3)], ids=str)
def test_what_looks_contradictory_and_is_not(changes): Config(**changes)


# --- settings that do nothing ---------------------------------------------------------------------------------------

SYSU, LLCM = (dict(dataset=name, data_root="x") for name in ("sysu", "llcm"))
BIG = dict(model="agw_resnet50", weights="random", trainable="all")
IDLE = [  # written by hand: (what is set, what it makes idle)
    (SYSU, dict(preset="tiny")), (SYSU, dict(render_seed=1)), (SYSU, dict(overlap=.5)), (SYSU, dict(looks=.5)),
    (SYSU, dict(split=2)),
    (SYSU, dict(direction="visible_to_infrared")), ({}, dict(direction="visible_to_infrared")),
    ({}, dict(draws="official")), (LLCM, dict(draws="official")), (LLCM, dict(search_mode="indoor")),
    (LLCM, dict(shots=10)),
    (BIG, dict(dropout=.1)), (BIG, dict(n_views=2)), ({}, dict(compile=True)), ({}, dict(gradient_checkpointing=True)),
    ({}, dict(accumulate=2)), ({}, dict(precision="bf16")), (dict(stage1_epochs=0), dict(warmup_lr=.5)),
    (dict(matcher="none"), dict(same_ids=False)), (dict(matcher="none"), dict(brst_direction="visible_to_infrared")),
    (dict(matcher="one_way"), dict(threshold=.5)), (dict(matcher="hungarian"), dict(level="sample")),
    (dict(n_sub=0), dict(shrink=.5)), (dict(mccl_weight=0.), dict(shrink=.5)),
    (dict(n_sub=0), dict(update_sub_centers=True)),
    (dict(mccl_weight=0.), dict(mccl_warmup=1)), (dict(mccl_weight=0.), dict(mccl_variant="softmax")),
    (dict(neighbor_weight=0.), dict(instance_mix="raw")), (dict(cluster_weight=0.), dict(momentum=.5)),
    (dict(cluster_weight=0.), dict(memory_update="hard")), (dict(cluster_weight=0.), dict(smoothing=.1)),
    ({}, dict(expect="any")), (dict(cluster_weight=0., neighbor_weight=0.), dict(temp=1.)),
    ({}, dict(reload_epoch=2)), (dict(select="test_best"), dict(reload_epoch=6)),
    (dict(dataset="folder", data_root="x"), dict(rerank="graph")),
    (dict(stage1_epochs=0, supervision="truth"), dict(jaccard="camera_aware")),
    (dict(stage1_epochs=0, supervision="truth"), dict(labels="who.csv")),
    (dict(stage1_epochs=0, supervision="truth"), dict(links="curation.jsonl")), ({}, dict(labels_complete=True)),
    (dict(jaccard="modality_balanced"), dict(matcher="mutual")),
    (dict(cluster_weight=0.), dict(split_prototypes=True)), (dict(matcher="none"), dict(hard_prototypes=True)),
    (dict(cluster_weight=0.), dict(neighbor_soft_labels=True)), ({}, dict(soft_neighbors=10)), ({}, dict(soft_own=.5)),
    ({}, dict(soft_gamma=5.))]


@pytest.mark.parametrize("beside,changes", IDLE, ids=str)
def test_a_setting_that_does_nothing_is_refused(beside, changes):
    (name, value), = changes.items()
    with pytest.raises(RunError) as error: Config(**beside, **changes)
    assert str(error.value).startswith(f"{name} = {value!r} is for ")
    assert f"here it would do nothing, so leave it at {DEFAULT[name]!r}" in str(error.value)
    assert getattr(variant(Config.saved(changes), **beside), name) == DEFAULT[name], "a variant lets go of it"


def test_the_list_by_hand_knows_every_line():
    assert {name for _, changes in IDLE for name in changes} == {name for names, *_ in NEEDS for name in names.split()}


@pytest.mark.parametrize("preset", RECIPES)
@pytest.mark.parametrize("release", [False, True])
@pytest.mark.parametrize("changes", [
    dict(matcher="none"), dict(mccl_weight=0.), dict(neighbor_weight=0.), dict(select="last"), dict(cluster_weight=0.),
    dict(supervision="truth", stage1_epochs=0, mccl_weight=0.), dict(stage1_epochs=0)], ids=str)
def test_what_a_recipe_brought_is_nobodys_belief(preset, release, changes):
    "Its values may lie idle, also in a copy by dataclasses.replace."
    recipe = Config(preset=preset, release=release, data_root="x", weights="random")
    changed = replace(recipe, **changes)
    assert all(getattr(changed, k) == v for k, v in changes.items())
    assert Config(preset=preset, release=release, data_root="x", weights="random", **changes) == changed
    with pytest.raises(RunError, match="mccl_warmup = 7 is for"): replace(recipe, mccl_weight=0., mccl_warmup=7)


def test_a_variant_keeps_what_is_asked_for():
    base = Config(threshold=.5, mccl_warmup=1, level="sample")
    assert variant(base, matcher="one_way") == Config(mccl_warmup=1, level="sample", matcher="one_way")
    with pytest.raises(RunError, match="threshold = 0.6 is for"): variant(base, matcher="none", threshold=.6)
    with pytest.raises(RunError, match="'epochz' is not a parameter"): variant(base, epochz=3)


def test_a_config_does_not_change():
    with pytest.raises(AttributeError): Config().lr = 1.


# --- the parameters cell --------------------------------------------------------------------------------------------

def plain(source, kind):
    "The lines `name: type = value  # comment` and the headings between them, with the plain type that papermill knows."
    out = []
    for line in (line.strip() for line in source.splitlines()):
        if re.match(r"\w+: .* = ", line):
            node, comment = ast.parse(line).body[0], line.partition("  # ")[2]
            name, annotation = node.target.id, ast.unparse(node.annotation)
            if annotation not in ("str", "int", "float", "bool"): annotation = allowed(kind)[name].kind.__name__
            out.append((name, annotation, ast.literal_eval(node.value), comment))
        elif line.startswith("# "): out.append(line)
    return out


def parameters_cell(kind):
    cells = nbformat.read(NOTEBOOKS[kind], 4).cells
    return next(c.source for c in cells if "parameters" in c.metadata.get("tags", []))


@pytest.mark.parametrize("kind", NOTEBOOKS)
def test_parameters_cell_is_the_list(kind):
    written = plain(re.split(r"\n    (?:def|@)", inspect.getsource(kind))[0], kind)
    assert {x[0]: x[2] for x in written if not isinstance(x, str)} == {f.name: f.default for f in fields(kind)}
    assert plain(parameters_cell(kind), kind) == written


def test_the_mirror_is_not_blind():
    "Another type, default, comment or heading is seen."
    cell, seen = parameters_cell(Config), plain(parameters_cell(Config), Config)
    for old, new in (("eps: float", "eps: int"), ('k1: int = "auto"', "k1: int = 20"), ("# DBSCAN on", "# OPTICS on"),
                     ("# losses", "# loss"), ('k2: int = "auto"', 'k3: int = "auto"')):
        assert cell.count(old) == 1 and plain(cell.replace(old, new), Config) != seen


@pytest.mark.parametrize("kind", NOTEBOOKS)
def test_parameters_cell_runs_to_the_defaults(kind):
    names = {}
    exec(parameters_cell(kind), names)
    assert settings_from(names, {"__builtins__"}, kind) == kind()


@pytest.mark.parametrize("kind", NOTEBOOKS)
def test_every_line_is_commented_and_fits(kind):
    lines = [line for line in inspect.getsource(kind).splitlines() if re.match(r"    \w+: .* = ", line)]
    assert len(lines) == len(fields(kind)) and max(map(len, lines)) <= 120
    assert {line.split(":")[0].strip() for line in lines if "  # " not in line} <= {"weight_decay"}


@pytest.mark.parametrize("kind", NOTEBOOKS)
def test_every_number_is_bounded(kind):
    for name, (what, choices, bounds, words) in allowed(kind).items():
        default = getattr(kind, name)
        assert default in words or type(default) is what
        assert (bounds is not None) == (what in (int, float))
        assert (not choices or default in choices)
        assert default in words or not bounds or bounds.low <= default <= bounds.high


def test_an_evaluation_knows_every_data_set():
    of = {kind: get_args(kind.__annotations__["dataset"]) for kind in NOTEBOOKS}
    assert of[Evaluation] == ("", *of[Config])


@pytest.mark.parametrize("name,close", [("stage2_epoch", "stage2_epochs"), ("learning_rat", None), ("nsub", "n_sub"),
                                        ("Seed", "seed")])
def test_mistyped_parameter(name, close):
    with pytest.raises(RunError) as error: settings_from({**DEFAULT, name: 3}, set(), Config)
    message = str(error.value)
    assert message.startswith(f"{name!r} is not a parameter" + (f"; did you mean {close!r}?" if close else "\n"))
    assert all(n in message for n in DEFAULT)


@pytest.mark.parametrize("value", [3, .5, "x", True, None, [1], {"a": 1}])  # all that papermill can inject
def test_no_kind_of_mistyped_value_slips_through(value):
    with pytest.raises(RunError, match="not a parameter"): settings_from({"epochz": value}, set(), Config)


def test_a_notebooks_other_names_are_not_parameters():
    names = {"np": np, "old": 3, "_i1": "x", "help": len, "lr": .5, "Path": Path}
    assert settings_from(names, {"old"}, Config) == Config(lr=.5)


# --- the folder -----------------------------------------------------------------------------------------------------

IMAGES = pd.DataFrame({"path": ["cam1/0001/0001.jpg", "cam3/0001/0001.jpg"], "pid": [1, 1], "camid": [1, 3],
                       "modality": ["visible", "infrared"], "train": True, "note": ["", "NA"]})


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
    assert again.config == run.config and again.history.mAP.tolist() == [0, .1]
    assert again.epoch(-1)["labels_visible"].tolist() == [1]
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
    "record writes arrays, history, checkpoint; stop it half through each: checkpoint and epochs before are untouched."
    before, calls = content(run.path), []
    def replace(source, target):
        calls.append(Path(target).name)
        if len(calls) > step: raise OSError("no space left on device")
        os.rename(source, target)
    with monkeypatch.context() as patch:
        patch.setattr("hil.core.files.os.replace", replace)
        with pytest.raises(DataError, match="no space left") as error: keep(run, 2)
    assert calls[-1] in str(error.value) and "could not be put in its place" in str(error.value)
    assert calls == ["0002.npz", "history.csv", "checkpoint.pt"][:step + 1]
    after = content(run.path)
    allowed = {"epochs/0002.npz", "history.csv", "manifest.jsonl"}
    assert {k: v for k, v in after.items() if k not in allowed} == {k: v for k, v in before.items() if k not in allowed}
    again = Run(run.path)
    assert again.checkpoint()["epoch"] == 1 and again.epoch(1)["labels_visible"].tolist() == [1]
    assert again.history.mAP.tolist()[:2] == [0, .1]
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
    with pytest.raises(DataError, match="no space left"): keep(run, 2)
    new = set(content(run.path)) - set(before)
    assert new == (set() if what == "arrays" else {"epochs/0002.npz"}) and run.checkpoint()["epoch"] == 1


def test_an_epoch_told_twice_counts_once(run):
    keep(run, 1, .7)
    assert run.history.mAP.tolist() == [0, .7]


def test_a_writer_sweeps_up_after_a_killed_process_and_touches_nothing_else(run):
    def stop(part): raise MemoryError
    names = []
    # the names that write_atomic gives to this run's files
    for file in sorted(p for p in run.path.rglob("*") if p.is_file() and p.suffix != ".jsonl"):
        with pytest.raises(MemoryError): write_atomic(file, lambda part: (names.append(part), stop(part)))
    names += [run.path / ".77-best.pt", run.path / ".77-1234-checkpoint.pt"]
    others = [run.path / n for n in (".7-notes.txt", ".gitignore", "7-history.csv", ".x-history.csv",
                                     ".7-history.csv.bak", ".-history.csv", "supervised/.7-history.csv")]
    (run.path / "supervised").mkdir()
    for file in (*names, *others): file.write_bytes(b"half")
    before = content(run.path)
    with pytest.raises(RunError, match="other settings"): Run.resume(Config(run_dir=str(run.path), lr=.5))
    again = Run.resume(Config(run_dir=str(run.path), resume=True))
    assert content(run.path) == before, "only who holds the lock sweeps: another process may be writing"
    with again.locked(): assert again.history.epoch.tolist() == [0, 1]
    assert len(names) == 8 and content(run.path) == {k: v for k, v in before.items() if run.path / k not in names}
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
    assert all(what in str(error.value) for what in (str(run.path), f"format {version}", "7.8"))


def test_no_run_there(tmp_path):
    with pytest.raises(RunError, match="no run here"): Run(tmp_path)
    with pytest.raises(RunError, match="no run here"): Run(tmp_path / "nowhere")


def test_an_epoch_that_was_not_recorded(run):
    with pytest.raises(RunError, match="epoch 9 was not recorded"): run.epoch(9)


# what must stand beside a setting so that another value of it means something
BESIDE = {"dataset": dict(data_root="x"), "split": dict(dataset="regdb", data_root="x"),
          "direction": dict(dataset="llcm", data_root="x"), "draws": SYSU, "accumulate": dict(trainable="all"),
          "precision": dict(trainable="all"), "sampler": dict(same_ids=False), "supervision": dict(stage1_epochs=0),
          "reload_epoch": dict(select="test_best"), "gradient_checkpointing": BIG, "compile": BIG,
          "resume": dict(run_dir="x"), "model": dict(trainable="all", weights="random"),
          "expect": dict(dataset="regdb", data_root="x"), "labels_complete": dict(labels="x"),
          **dict.fromkeys(("soft_neighbors", "soft_own", "soft_gamma"), dict(neighbor_soft_labels=True))}


def another(name):
    "A value of the setting that is not its default."
    default, (kind, choices, bounds, words) = DEFAULT[name], allowed(Config)[name]
    if words: return {int: bounds and int(bounds.low + 5), float: .5, bool: False}[kind]
    if isinstance(default, bool): return not default
    if name == "device": return "cpu"
    if isinstance(default, str): return next((c for c in choices if c != default), "x")
    if isinstance(default, float): return default / 2 or .5
    return default - 1 if default == bounds.high else default + 1


def test_a_run_keeps_the_rule_with_which_it_began(tmp_path):
    "best.pt of an older run holds the healthiest epoch, so that stays its result."
    run = Run.create(Config(select="healthiest", run_dir=str(tmp_path / "run")), IMAGES)
    history = pd.DataFrame(dict(epoch=[0, 1, 2], health=[.5, .9, .88]))
    assert run.choice(history) == 2
    del run.about["chance"]
    assert run.choice(history) == 1


@pytest.mark.parametrize("name", DEFAULT)
def test_resume_with_other_settings(tmp_path, name):
    beside, value = BESIDE.get(name, {}), another(name)
    run = Run.create(Config(**{**beside, "run_dir": str(tmp_path / "run")}), IMAGES)
    other = Config(**{**beside, name: value})
    if name in ("run_dir", "resume", "device", "threads", "deterministic", "gradient_checkpointing", "compile",
                "data_root", "stage2_epochs"):
        return run.check_resumable(other)  # where the data lies, and a longer schedule, are no other run
    with pytest.raises(RunError) as error: run.check_resumable(other)
    assert f"{name} was {DEFAULT[name]!r}, is {value!r}" in str(error.value)


# --- a run that an older version wrote ------------------------------------------------------------------------------

OLD = Path(__file__).parent / "golden" / "run_0_1_0"  # preset tiny, written by hil 0.1.0 (commit 37ac7b0)


def test_an_old_run_opens():
    run = Run(OLD)
    assert json.loads((OLD / "config.json").read_text())["version"] == "0.1.0"
    assert run.config.preset == "tiny" and run.config.iterations == 2 and run.config.lr == 7e-4
    assert run.history.epoch.tolist() == [0, 1, 2] and run.history.mAP.iloc[-1] == pytest.approx(.6404, abs=1e-4)
    assert {"path", "pid", "camid", "modality", "split", "train"} <= set(run.images)
    assert Evaluation(checkpoint=str(OLD)).config(run).preset == "tiny"


def test_what_it_accepted_is_not_refused_when_it_is_read():
    run = Run(OLD)
    assert run.config.reload_epoch == 3 and run.config.select == "last"
    with pytest.raises(RunError, match="reload_epoch = 3 is for"): replace(run.config, seed=1)
    today = variant(run.config)
    assert today == Config.saved({**asdict(run.config), "reload_epoch": 0})
    run.check_resumable(today)  # it did nothing there
    with pytest.raises(RunError, match="lr was 0.0007"): run.check_resumable(replace(today, lr=.1))


@pytest.mark.parametrize("changes", [dict(dataset="sysu", render_seed=3, overlap=.5),
                                     dict(dataset="regdb", preset="tiny")])
def test_an_old_runs_idle_settings_are_no_obstacle_to_its_evaluation(tmp_path, changes):
    saved = json.loads((OLD / "config.json").read_text())
    saved["config"] |= {**changes, "data_root": "x"}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    run = Run(tmp_path)
    config = Evaluation(checkpoint=str(tmp_path)).config(run)
    assert (config.dataset, config.render_seed, config.preset) == (changes["dataset"], 9, "default")


def test_a_name_that_never_was_a_setting_is_refused(tmp_path):
    saved = json.loads((OLD / "config.json").read_text())
    saved["config"]["epochz"] = 3
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.raises(RunError, match="'epochz' is not a parameter"): Run(tmp_path)


# --- two at once ----------------------------------------------------------------------------------------------------

BEGIN = """
import sys, time
import pandas as pd
from hil.core.errors import RunError
from hil.runs.config import Config
from hil.runs.folder import Run
images = pd.DataFrame({"path": ["a.jpg"], "pid": [1]})
time.strftime = lambda *a: "20260101-120000"
sys.stdin.readline()
try: print(Run.create(Config(run_dir=sys.argv[1]), images).path)
except RunError as error: print("refused:", error)
"""


def together(folder, code, *args, count=6):
    "Lines of processes that wait for one word to begin."
    started = [subprocess.Popen([sys.executable, "-c", code, *args], cwd=folder, text=True, stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(count)]
    for process in started: process.stdin.write("\n")
    for process in started: process.stdin.flush()
    return [process.communicate(timeout=120) for process in started]


@pytest.mark.slow
def test_runs_that_begin_together_get_folders_of_their_own(tmp_path):
    lines = [out.strip() for out, _ in together(tmp_path, BEGIN, "")]
    name = "runs/20260101-120000"
    assert sorted(lines) == sorted([name, *(f"{name}-{k}" for k in range(2, 7))])
    assert all(Run(tmp_path / line).config == Config() for line in lines)


@pytest.mark.slow
def test_of_several_that_begin_in_one_folder_one_does(tmp_path):
    lines = [out.strip() for out, _ in together(tmp_path, BEGIN, "mine")]
    assert lines.count("mine") == 1 and sum(line.startswith("refused: mine: ") for line in lines) == 5, lines
    assert {p.name for p in (tmp_path / "mine").iterdir()} == {"config.json", "images.csv", "epochs", "manifest.jsonl"}


def test_new_folders(tmp_path):
    (tmp_path / "a").touch()
    assert [new_folder(tmp_path / "a").name for _ in range(2)] == ["a-2", "a-3"]
    assert new_folder(tmp_path / "deep" / "er") == tmp_path / "deep" / "er"


def test_one_writer_at_a_time(run):
    with run.locked():
        with pytest.raises(RunError) as error:
            with Run(run.path).locked(): pass
        assert f"process {os.getpid()} on" in str(error.value) and f"delete {run.path / '.lock'}" in str(error.value)
        keep(run, 2)
    assert ".lock" not in content(run.path)
    with run.locked(): pass
    with pytest.raises(KeyError):
        with run.locked(): raise KeyError
    assert ".lock" not in content(run.path), "an error lets go of it"


TAKE = """
import sys, time
from hil.core.errors import RunError
from hil.core.files import held
sys.stdin.readline()
try:
    with held("."):
        print("held", flush=True)
        time.sleep(3)
except RunError as error: print("refused", error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stale", [False, True])
def test_of_several_that_take_a_folder_one_gets_it(tmp_path, stale):
    if stale:
        dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
        with held(tmp_path): text = (tmp_path / ".lock").read_text()
        (tmp_path / ".lock").write_text(text.replace(f'"pid": {os.getpid()}', f'"pid": {int(dead.stdout)}'))
    words = [out.split()[0] for out, _ in together(tmp_path, TAKE)]
    assert sorted(words) == ["held"] + ["refused"] * 5 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("lock,says", [('{"pid": 1, "host": "elsewhere", "since": "noon"}', "process 1 on elsewhere"),
                                       ("", "process ? on ?"), ("half a li", "process ? on ?")])
def test_a_lock_that_cannot_be_judged_is_respected(tmp_path, lock, says):
    (tmp_path / ".lock").write_text(lock)
    with pytest.raises(RunError, match=re.escape(says)) as error: held(tmp_path).__enter__()
    assert "delete" in str(error.value) and [p.name for p in tmp_path.iterdir()] == [".lock"]


def test_two_threads_that_write_one_file_leave_a_whole_one(tmp_path):
    from concurrent.futures import ThreadPoolExecutor
    parts, texts = set(), [str(k) * 100_000 for k in range(4)]
    def write(text):
        write_atomic(tmp_path / "x", lambda part: (parts.add(part.name), part.write_text(text)))
    with ThreadPoolExecutor(4) as pool: list(pool.map(write, texts * 5))
    assert (tmp_path / "x").read_text() in texts and [p.name for p in tmp_path.iterdir()] == ["x"] and len(parts) > 1
