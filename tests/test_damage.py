"""What disks, kills, clocks and hands do to run folders and caches: named, made again, or no harm. Never silent."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import hil
from hil.core import files
from hil.core.errors import DataError, RunError
from hil.core.files import held, is_gone, myself, save_array, write_atomic
from hil.core.manifest import NAME, Manifest, fingerprint
from hil.core.names import MODALITIES
from hil.data.check import check_folder
from hil.data.images import cached_images, merge_truth, read_images
from hil.data.training_views import cached, clear_stale
from hil.explore.journal import Journal
from hil.explore.source import from_run
from hil.explore.what_if import Graph
from hil.runs.config import Config
from hil.runs.folder import Run
from hil.synth.render import complete, load_truth
from hil.synth.stand_ins import write_layout
from hil.training.trainer import Trainer

# --- a recorded run -------------------------------------------------------------------------------------------------

FILES = ["config.json", "images.csv", "files.csv", "history.csv", *(f"epochs/{e:04d}.npz" for e in range(3)),
         "checkpoint.pt", "best.pt"]


def keep(run, e, best=False):
    "An epoch of four images; its weights are its number."
    arrays = {f"{name}_{m}": np.arange(2) + e for name in ("labels", "final", "sub") for m in MODALITIES}
    run.record({"epoch": e, "stage": int(e > 0), "mAP": .1 * e, "transfer_direction": "visible_to_infrared"},
               {**arrays, **{f"features_{m}": np.full((2, 4), e, np.float16) for m in MODALITIES}},
               {"epoch": e, "model": {"heads.weight": torch.full((3,), float(e))}}, best)


def table_of(root):
    table = pd.DataFrame({"path": [f"{m}/{k}.png" for m in MODALITIES for k in range(2)], "pid": [1, 2, 1, 2],
                          "camid": [1, 1, 3, 3], "modality": [m for m in MODALITIES for _ in range(2)],
                          "split": "train", "train": True})
    table.attrs["root"] = str(root)
    return table


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    "A run of three epochs, the second one the best, and the folder of its images."
    home = tmp_path_factory.mktemp("recorded")
    for k, path in enumerate(table_of(home).path):
        (home / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 16), (40 * k, 0, 0)).save(home / "data" / path)
    run = Run.create(Config(run_dir=str(home / "run")), table_of(home / "data"))
    for e in range(3): keep(run, e, best=e == 1)
    return run.path


@pytest.fixture
def run(recorded, tmp_path):
    "A copy to damage."
    shutil.copytree(recorded, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def images(recorded, tmp_path):
    "The table of a copy of the images."
    shutil.copytree(recorded.parent / "data", tmp_path / "data")
    return table_of(tmp_path / "data")


def flipped(content): return content[:len(content) // 2] + bytes([content[len(content) // 2] ^ 4]) + content[
    len(content) // 2 + 1:]


DAMAGE = {"empty": lambda b: b"", "cut": lambda b: b[:-7], "half": lambda b: b[:len(b) // 2], "flipped": flipped,
          "garbled": lambda b: bytes(range(256)) * 4, "a list": lambda b: b"[1, 2]\n",
          "nested": lambda b: b"[" * 100_000, "longer": lambda b: b + b"\n", "not utf-8": lambda b: b"\xff\xfe" + b,
          "null": lambda b: b"null", "missing": None}


def damage(file, kind):
    if DAMAGE[kind] is None: file.unlink()
    else: file.write_bytes(DAMAGE[kind](file.read_bytes()))


def readers(path):
    "Everything that can be read: {file: () -> something to compare}."
    def numbers(arrays): return {k: v.tolist() for k, v in arrays.items()}
    def weights(name): return Run(path).checkpoint(name)["model"]["heads.weight"].tolist()
    return {"config.json": lambda: Run(path).config, "images.csv": lambda: Run(path).images.to_csv(),
            "files.csv": lambda: Run(path).files.to_csv(), "history.csv": lambda: Run(path).history.to_csv(),
            **{f"epochs/{e:04d}.npz": lambda e=e: numbers(Run(path).epoch(e)) for e in range(3)},
            **{name: lambda name=name: weights(name) for name in ("checkpoint.pt", "best.pt")}}


@pytest.fixture(scope="module")
def wanted(recorded): return {name: read() for name, read in readers(recorded).items()}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_with_what_can_still_be_used(wanted, run, name, kind):
    damage(run / name, kind)
    for other, read in readers(run).items():
        if other != name and name != "config.json":
            assert read() == wanted[other], "what is whole can be read"
            continue
        with pytest.raises(RunError) as error: read()
        said = str(error.value)
        assert str(run / name) in said and "Still whole: " in said and ". ." not in said and len(said) < 700, said
        assert [epochs for epochs in ("epochs 0 to 2", "epochs 0, 2", "epochs 1 to 2", "epochs 0 to 1")
                if epochs in said], "the epochs that are whole"


@pytest.mark.parametrize("kind", ["empty", "cut", "half", "garbled", "a list", "nested", "not utf-8", "null"])
@pytest.mark.parametrize("name", [name for name in FILES if name != "files.csv"])
def test_without_a_manifest_what_can_be_seen_is_named(run, name, kind):
    "Folders of 0.1 and 0.2 have none; they had no files.csv either."
    if name.endswith("npz") and kind == "not utf-8": pytest.skip("an archive may have something in front of it")
    (run / NAME).unlink()
    damage(run / name, kind)
    with pytest.raises(RunError) as error: readers(run)[name]()
    assert str(run / name) in str(error.value), error.value


@pytest.mark.parametrize("manifest", [True, False])
@pytest.mark.parametrize("edit", [lambda rows: rows[:2] + rows[3:], lambda rows: rows[:-1],
                                  lambda rows: rows[:1] + rows[2:3] + rows[1:2] + rows[3:], lambda rows: rows[:1],
                                  lambda rows: [*rows, rows[-1]], lambda rows: [rows[0], "0,0", *rows[2:]]],
                         ids=["gap", "no end", "order", "none", "doubled", "short row"])
def test_a_history_that_was_edited(run, edit, manifest):
    file = run / "history.csv"
    if not manifest:
        (run / NAME).unlink()
        keep(Run(run), 3)  # one epoch more, as one more may be recorded than the history says
        (run / NAME).unlink()
    file.write_text("\n".join(edit(file.read_text().splitlines())) + "\n")
    if not manifest and file.read_text().count("\n") == 4: return  # the last row: its process may have been killed
    with pytest.raises(RunError) as error: _ = Run(run).history
    assert str(file) in str(error.value) and "writes it again from checkpoint.pt" in str(error.value)


@pytest.mark.parametrize("kind", ["flipped", "half", "missing"])
@pytest.mark.parametrize("name", FILES[1:])
def test_going_on_with_a_damaged_run(recorded, run, images, name, kind, caplog):
    "The history is written again, a damaged epoch is named; without the rest nobody goes on."
    damage(run / name, kind)
    config = Config(run_dir=str(run), resume=True)
    if name in ("images.csv", "files.csv", "checkpoint.pt"):
        with pytest.raises(RunError, match=name): Run.resume(config).go_on(config, images)
        return
    again = Run.resume(config)
    again.go_on(config, images)
    assert str(run / name) in caplog.text
    assert again.history.to_csv() == Run(recorded).history.to_csv()
    keep(again, 3, best=True)
    assert again.checkpoint("best.pt")["epoch"] == again.checkpoint()["epoch"] == 3


@pytest.mark.parametrize("place", [.1, .5, .9])
def test_a_damaged_manifest_is_no_damaged_file(run, place):
    content = bytearray((run / NAME).read_bytes())
    at = int(place * len(content))
    content[at] ^= 1
    (run / NAME).write_bytes(content)
    with pytest.raises(RunError, match=rf"{NAME}: line \d+ is damaged.*delete it: then the files are taken as they"):
        Run(run)
    (run / NAME).unlink()
    assert Run(run).history.epoch.tolist() == [0, 1, 2]


def test_weights_that_are_not_numbers_are_blamed_on_the_checkpoint(run):
    (run / NAME).unlink()
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    state["model"]["heads.weight"][1] = float("nan")
    torch.save(state, run / "checkpoint.pt")
    with pytest.raises(RunError, match=r"checkpoint.pt holds NaN or infinity in heads.weight"): Run(run).checkpoint()


def test_a_checkpoint_that_was_deleted_is_no_fresh_start(run, images):
    (run / "checkpoint.pt").unlink(), (run / NAME).unlink()
    config = Config(run_dir=str(run), resume=True)
    with pytest.raises(RunError, match="checkpoint.pt is missing, and 3 epochs are recorded"):
        Run.resume(config).go_on(config, images)


def test_what_is_left_of_a_run_is_not_begun_anew(run):
    (run / "config.json").unlink()
    with pytest.raises(RunError, match="holds what is left of a run"): Run.check_free(run)


def test_a_folder_of_an_older_version_is_gone_on_with(run, images, caplog):
    for name in (NAME, "files.csv"): (run / name).unlink()
    config = Config(run_dir=str(run), resume=True)
    again = Run.resume(config)
    again.go_on(config, images)
    assert f"has no {NAME}" in caplog.text and again.manifest.problems() == {}
    keep(again, 3)
    assert Run(run).history.epoch.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["half", "flipped", "missing"])
def test_the_explorer_leaves_a_damaged_epoch_out(run, kind, caplog):
    damage(run / "epochs/0002.npz", kind)
    source = from_run(run)
    assert source.epochs == [0, 1] and "0002.npz" in caplog.text and "This epoch is left out" in caplog.text
    assert source.features(1).max() == 1


# --- kills ----------------------------------------------------------------------------------------------------------

class Killed(BaseException): pass


def killed_at(monkeypatch, step, after):
    "Every rename and every line of the manifest counts as a step; the process ends before or after one of them."
    count = [0]
    def wrap(real):
        def call(*args):
            count[0] += 1
            if count[0] == step and not after: raise Killed
            real(*args)
            if count[0] == step: raise Killed
        return call
    monkeypatch.setattr("hil.core.files.os.replace", wrap(os.replace))
    monkeypatch.setattr(Manifest, "_add", wrap(Manifest._add))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", range(1, 13))
def test_a_kill_between_any_two_steps_leaves_a_healthy_run(run, images, monkeypatch, step, after):
    "Four files, each announced, renamed, confirmed. Whatever is there is what was written, and the run goes on."
    with monkeypatch.context() as patch:
        killed_at(patch, step, after)
        with pytest.raises(Killed): keep(Run(run), 3, best=True)
    assert Manifest(run).problems() == {}
    config = Config(run_dir=str(run), resume=True)
    again = Run.resume(config)
    done = again.checkpoint()["epoch"]
    assert done == (3 if step > 8 or (step, after) == (8, True) else 2)
    again.go_on(config, images)
    assert again.checkpoint("best.pt")["epoch"] == (3 if done == 3 else 1), "best.pt follows checkpoint.pt"
    if done == 2: keep(again, 3, best=True)
    assert again.history.epoch.tolist() == [0, 1, 2, 3] and again.checkpoint("best.pt")["epoch"] == 3


def test_a_line_that_was_cut_short_is_no_damage(run):
    with open(run / NAME, "ab") as f: f.write(b'{"file": "history.csv", "size": 12')
    keep(Run(run), 3)
    assert Manifest(run).problems() == {} and Run(run).checkpoint()["epoch"] == 3


# --- two at once ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_in_use_is_refused_before_anything_is_read(run, tmp_path, monkeypatch, resume):
    monkeypatch.setattr("hil.training.trainer.load_images", lambda *a: pytest.fail("read before it was refused"))
    folder = run if resume else tmp_path / "new"
    half = folder / f".{os.getpid()}-1-checkpoint.pt"
    config = Config(run_dir=str(folder), resume=resume)
    early = Trainer(config, progress=False)
    with Run.claimed(folder, resume=resume):
        half.write_bytes(b"half")
        for call in (lambda: Trainer(config, progress=False), early.fit):
            with pytest.raises(RunError, match=f"process {os.getpid()} on .* writes here since"): call()
        assert half.exists(), "what the other process writes is left alone"
        half.unlink()
    assert resume or not folder.exists(), "nothing was begun"


def test_a_trainer_lets_go_of_its_folder(tmp_path, monkeypatch):
    def fails(*a): raise DataError("no images")
    monkeypatch.setattr("hil.training.trainer.load_images", fails)
    config = Config(run_dir=str(tmp_path / "run"))
    for _ in range(2):
        with pytest.raises(DataError, match="no images"): Trainer(config, progress=False).fit()
    assert not (tmp_path / "run").exists()


def test_runs_without_a_name_get_names_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Run.claimed("") as a, Run.claimed("") as b, Run.claimed("") as c: assert len({a, b, c}) == 3


def test_a_pid_that_was_given_away_again_holds_nothing(tmp_path):
    me = myself()
    assert not is_gone(me) and not is_gone({**me, "host": "elsewhere"}) and not is_gone({})
    if me["began"] is None: pytest.skip("this system does not say when a process began")
    (tmp_path / ".lock").write_text(json.dumps({**me, "began": me["began"] - 1, "since": "yesterday"}))
    with held(tmp_path): pass
    (tmp_path / ".lock").write_text("")
    with pytest.raises(RunError, match="delete"), held(tmp_path): pass


# --- other images, another schedule ---------------------------------------------------------------------------------

def again_with(run, images, **changes):
    config = Config(run_dir=str(run), resume=True, **changes)
    again = Run.resume(config)
    again.go_on(config, images)
    return again


def test_the_same_images_elsewhere_are_the_same(run, images):
    again = again_with(run, images, data_root=images.attrs["root"])
    assert again.data_root == Run(run).data_root == images.attrs["root"]
    assert Run(run).config.data_root == images.attrs["root"]
    for path in images.path: os.utime(Path(images.attrs["root"], path))
    again_with(run, images)


def repaint(images):
    Image.new("RGB", (8, 16), "white").save(Path(images.attrs["root"], images.path[1]))
    return images


@pytest.mark.parametrize("change,says", [
    (lambda t: t.drop(index=1), r"1 image removed \(visible/1.png\)"),
    (lambda t: pd.concat([t, t[:1].assign(path="visible/0.PNG")]), r"1 image added \(visible/0.PNG\)"),
    (repaint, r"1 image replaced \(visible/1.png\)"),
    (lambda t: t.assign(pid=[1, 2, 1, 3]), r"pid of 1 image \(infrared/1.png: was 2, is 3\)"),
    (lambda t: t.assign(split="val"), "split of 4 images"), (lambda t: t[::-1], "the order of the images")],
    ids=["removed", "added", "replaced", "person", "split", "order"])
def test_other_images_are_refused(run, images, change, says):
    if "added" in says: shutil.copy(Path(images.attrs["root"], "visible/0.png"), Path(images.attrs["root"],
        "visible/0.PNG"))
    changed = change(images)
    changed.attrs = dict(images.attrs)
    with pytest.raises(RunError, match=f"other images than it began with: {says}.*another run"):
        again_with(run, changed)


def test_a_longer_schedule_is_allowed_and_put_down(run, images):
    assert again_with(run, images, stage2_epochs=9).config.stage2_epochs == 9
    saved = json.loads((run / "config.json").read_text())
    assert saved["config"]["stage2_epochs"] == 9
    assert [(c["after_epoch"], c["stage2_epochs"]) for c in saved["changes"]] == [(2, [6, 9])]
    with pytest.raises(RunError, match="stage2_epochs was 9, is 5"): again_with(run, images, stage2_epochs=5)


@pytest.mark.parametrize("longer,says", [(9, "Epochs 6, 7 were trained at the rate of the shorter schedule"),
                                         (6, "")])
def test_what_a_longer_schedule_means_for_the_rate_is_said(longer, says, caplog):
    run = SimpleNamespace(path="run", checkpoint=lambda: {"epoch": 7})
    Trainer.say_rates(SimpleNamespace(run=run, config=Config(stage2_epochs=longer, lr_end=1., lr_drop=.7)),
                      Config(lr_end=1., lr_drop=.7))
    assert says in caplog.text and bool(caplog.text) == bool(says)


def test_other_threads_are_said(run, images, monkeypatch, caplog):
    threads = torch.get_num_threads()
    monkeypatch.setattr("hil.runs.folder.torch.get_num_threads", lambda: threads + 3)
    again_with(run, images)
    assert f"goes on with another threads (was {threads}, is {threads + 3}): from epoch 3 on" in caplog.text
    caplog.clear()
    again_with(run, images)
    assert not caplog.text, "once"


# --- caches ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["flipped", "cut", "half", "empty", "missing"])
@pytest.mark.parametrize("name", ["pixels", "sums", "stamps"])
def test_a_pixel_cache_heals(images, tmp_path, name, kind, caplog):
    def make(): return cached_images(images.path, 9, 4, root=images.attrs["root"], folder=tmp_path / "c")
    wanted = read_images(images.path, 9, 4, root=images.attrs["root"])
    assert torch.equal(make(), wanted)
    file = next((tmp_path / "c").glob(f"*/{name}.npy"))
    if kind == "flipped": file.write_bytes(flipped(file.read_bytes()[:128]) + flipped(file.read_bytes()[128:]))
    else: damage(file, kind)
    assert torch.equal(make(), wanted) and torch.equal(make(), wanted)


def test_a_black_row_is_decoded_again(images, tmp_path, caplog):
    def make(): return cached_images(images.path, 9, 4, root=images.attrs["root"], folder=tmp_path / "c")
    wanted = make().clone()
    np.load(next((tmp_path / "c").glob("*/pixels.npy")), mmap_mode="r+")[2] = 255
    assert torch.equal(make(), wanted) and "1 row of a pixel cache are damaged" in caplog.text.replace("is", "are")


STORE = {m: {name: torch.arange(6.).view(1, 2, 3) for name in ("clean", "views")} for m in MODALITIES}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", ["visible-views.npy", NAME])
def test_a_view_store_is_made_again(tmp_path, name, kind, caplog):
    cached(tmp_path, "key", lambda: STORE)
    cached(tmp_path, "key", lambda: pytest.fail("it is there"))
    damage(tmp_path / "key" / name, kind)
    store = cached(tmp_path, "key", lambda: STORE)
    assert all(torch.equal(store[m][k], STORE[m][k]) for m in STORE for k in STORE[m])
    harmless = name == NAME and kind in ("longer", "cut")  # an empty line; a last line that its process did not finish
    assert harmless or ("computed again" in caplog.text and "key" in caplog.text)


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", ["a-visible-60.npy", "a-answers.npz", NAME])
def test_what_the_explorer_keeps_is_made_again(tmp_path, name, kind):
    x = np.random.default_rng(0).standard_normal((24, 8)).astype(np.float32)
    side = np.repeat(MODALITIES, 12)
    def graph(): return Graph(x, side, dict(k1=4, k1_infrared=4, k2=2, min_samples=2, eps=.6), store=tmp_path / "a")
    first = graph()
    wanted = first.cluster()
    first.keep()
    damage(tmp_path / name, kind)
    again = graph()
    for m in MODALITIES:
        for _ in again.search(m, 4): pass
        np.testing.assert_array_equal(again._near[m], first._near[m])
        np.testing.assert_array_equal(again.cluster()[m], wanted[m])


@pytest.mark.parametrize("lines,says", [
    (['{"do": "outlier", "images": [1]}', "garbage"], "line 3 cannot be read.*The 1 actions before it are whole"),
    (['{"do": "outlier", "images": [99]}'], "line 2 is no action that can be played"),
    (['{"do": "undo"}'], "line 2 is no action"), (["[1]"], "line 2 is no action"), (['{"images": [1]}'], "line 2"),
    (['{"do": "merge", "into": "x", "others": [0]}'], "line 2 is no action"), (["[" * 100_000], "line 2 cannot")])
def test_a_damaged_journal_is_named(tmp_path, lines, says):
    file = tmp_path / "j.jsonl"
    Journal(file, list("abcd"), [0, 0, 1, 1], ["A", "B"])
    with open(file, "a") as f: f.write("\n".join([*lines, ""]))
    with pytest.raises(ValueError, match=f"j.jsonl: .*{says}"): Journal(file, list("abcd"), [0, 0, 1, 1], ["A", "B"])


def test_a_clock_that_jumps_sweeps_nobody(tmp_path, monkeypatch):
    "The store is being written, and the clock says that it is tomorrow."
    seen, tomorrow = [], time.time() + 10**6
    def write(part, array):
        monkeypatch.setattr(time, "time", lambda: tomorrow)
        clear_stale(tmp_path)
        seen.append(part.parent.is_dir())
        save_array(part, array)
    monkeypatch.setattr("hil.data.training_views.save_array", write)
    cached(tmp_path, "key", lambda: STORE)
    assert seen == [True] * 4 and [p.name for p in tmp_path.iterdir()] == ["key"]
    gone, far = (tmp_path / f"tmp-{2**22 + 5}-0-{host}-abcdefgh" for host in (myself()["host"], "elsewhere"))
    gone.mkdir(), far.mkdir()
    clear_stale(tmp_path)
    assert not gone.exists() and far.exists()


# --- full and closed disks ------------------------------------------------------------------------------------------

def test_a_full_disk_is_one_sentence(images, tmp_path, monkeypatch):
    "Before a mapped file is filled: there a full disk would end the process."
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "disk_usage", lambda folder: usage._replace(free=100))
        with pytest.raises(DataError) as error:
            cached_images(images.path, 9, 4, root=images.attrs["root"], folder=tmp_path / "c")
        assert "the disk is full" in str(error.value) and str(tmp_path / "c") in str(error.value)
        assert "HIL_HOME" in str(error.value)
        def torch_says(part): raise RuntimeError("PytorchStreamWriter failed writing file")
        with pytest.raises(DataError, match="the disk is full.*HIL_HOME"): write_atomic(tmp_path / "x", torch_says)
    def no_space(part): raise OSError(28, "No space left on device")
    for call in (lambda: write_atomic(tmp_path / "x", no_space), lambda: Manifest(tmp_path).keep("x", no_space)):
        with pytest.raises(DataError, match="the disk is full.*HIL_HOME"): call()
    def mistake(part): raise RuntimeError("a mistake")
    with pytest.raises(RuntimeError, match="a mistake"): write_atomic(tmp_path / "x", mistake)
    assert not [p for p in tmp_path.iterdir() if p.is_file()]


def test_space_is_taken_before_it_is_mapped(images, tmp_path):
    cached_images(images.path, 300, 200, root=images.attrs["root"], folder=tmp_path / "c")
    stat = next((tmp_path / "c").glob("*/pixels.npy")).stat()
    assert stat.st_blocks * 512 >= stat.st_size


READ_ONLY = """
import os, sys
CLOSED = os.path.dirname(sys.argv[1]), "/nowhere"
def refuse(event, args):  # root may write anywhere, so permissions alone are not enough here
    writes = event == "os.mkdir" or event == "open" and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes and os.path.abspath(str(args[0])).startswith(CLOSED): raise PermissionError(13, "Permission denied")
sys.addaudithook(refuse)
sys.path.insert(0, sys.argv[1])
import hil.method.cluster, hil.method.rerank, hil.method.sub_clusters, hil.synth.raster, hil.core.compiled, numba
assert hil.__file__.startswith(sys.argv[1]), hil.__file__
print(numba.config.CACHE_DIR or "beside the source")
from hil.data.check import check_folder
print(check_folder(sys.argv[2], expect="any"))
"""


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_where_nothing_can_be_written_it_can_be_imported_and_checks(images):
    with tempfile.TemporaryDirectory() as folder:
        package, data = Path(folder) / "package", Path(folder) / "data"
        shutil.copytree(Path(hil.__file__).parent, package / "hil", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(images.attrs["root"], data)
        for path in (Path(folder), *Path(folder).rglob("*")): path.chmod(0o555 if path.is_dir() else 0o444)
        done = subprocess.run([sys.executable, "-c", READ_ONLY, package, data], cwd=data, capture_output=True,
                              text=True, env={**os.environ, "HOME": "/nowhere", "HIL_HOME": "", "XDG_CACHE_HOME": "",
                                              "PYTHONPATH": "", "NUMBA_CACHE_DIR": "", "PYTHONDONTWRITEBYTECODE": "1"})
        for path in Path(folder).rglob("*"): path.chmod(0o755)
        Path(folder).chmod(0o755)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "hil-numba-" in done.stdout and "decoded: 4" in done.stdout


def test_a_sheet_that_was_asked_for_and_cannot_be_written(images, capsys):
    assert check_folder(images.attrs["root"], expect="any", sheet=f"{images.attrs['root']}/no/where.png") == 1
    assert "no camera sheet" in capsys.readouterr().out


# --- renderings -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '"x"'])
def test_a_damaged_manifest_of_a_rendering_is_named(tmp_path, text):
    (tmp_path / "synth.json").write_text(text)
    for call in (lambda: complete(tmp_path, {"format": 5}), lambda: write_layout("sysu", tmp_path)):
        with pytest.raises(DataError, match="synth.json: .*Delete that folder"): call()


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "path,pid\nx,1\ny\n", "path,pid\nx,1", "\0\0\0",
                                  "path,pid\n\"x,1\n"])
def test_a_damaged_truth_is_named(tmp_path, text):
    (tmp_path / "truth.csv").write_text(text)
    table = pd.DataFrame({"path": ["x"]})
    table.attrs["root"] = str(tmp_path)
    for call in (lambda: merge_truth(table), lambda: load_truth(tmp_path)):
        with pytest.raises(DataError, match="truth.csv: .*Render the data set again"): call()


# --- a real run -----------------------------------------------------------------------------------------------------

def test_training_goes_on_from_a_damaged_folder_and_elsewhere(small, hil_home, tmp_path, caplog):
    "History and view store damaged, a longer schedule: the run goes on; with another image it does not."
    config = small(run_dir=str(tmp_path / "run"), stage1_epochs=0, stage2_epochs=1, iterations=1, trials=1)
    run = Trainer(config, progress=False).fit()
    assert run.manifest.problems() == {} and set(run.manifest.expected()) >= {*FILES[:6], "checkpoint.pt"}
    damage(run.path / "history.csv", "half")
    again = Trainer(replace(config, resume=True, stage2_epochs=2), progress=False).fit()
    assert again.history.epoch.tolist() == [0, 1, 2] and "It is written again now" in caplog.text
    assert "2 epochs in place of 1" in caplog.text and again.manifest.problems() == {}
    moved = tmp_path / "moved"
    shutil.copytree(run.data_root, moved)
    longer = replace(config, resume=True, stage2_epochs=3, data_root=str(moved))
    file = next(moved.glob("cam1/*/*.jpg"))
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(RunError, match="1 image replaced"): Trainer(longer, progress=False).fit()
    (run.path / "checkpoint.pt").unlink()
    with pytest.raises(RunError, match="checkpoint.pt is missing"):
        Trainer(replace(config, resume=True, stage2_epochs=2), progress=False).fit()


def test_the_digest_is_of_the_whole_file(tmp_path):
    (tmp_path / "x").write_bytes(b"a" * 5_000_000)
    one = fingerprint(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"a" * 4_999_999 + b"b")
    assert one["size"] == 5_000_000 and one != fingerprint(tmp_path / "x")
