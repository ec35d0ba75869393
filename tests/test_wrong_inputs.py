"Wrong inputs: each gets one clear sentence of the kit's own, before anything is rendered, opened or computed."
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import hil
from hil.core import room
from hil.core.errors import DataError, RunError
from hil.core.files import cache_home, new_folder, write_atomic
from hil.core.paths import writable_folder
from hil.core.room import Forecast
from hil.data.check import check, check_folder
from hil.data.layouts import load
from hil.evaluation import scoring
from hil.evaluation.encode import load_encoder
from hil.evaluation.scoring import Evaluation, check_rendered, score_splits, write_results
from hil.evaluation.tables import result_table
from hil.explore.journal import Journal, export_labels, read_labels
from hil.explore.source import from_frame, open_source
from hil.models.build import build_model
from hil.runs.config import Config
from hil.runs.folder import Run
from hil.synth.render import render
from hil.synth.stand_ins import write_layout
from hil.training.run_images import RunImages, check_views, find_device, load_images, views_size
from hil.training.trainer import Trainer

TABLE = pd.DataFrame({"path": ["a.jpg", "b.jpg"], "camid": [1, 3], "modality": ["visible", "infrared"]})


@pytest.fixture
def place(tmp_path, monkeypatch):
    "A folder with a file, a link in a circle, a link to nowhere and an empty folder; it is the present one."
    (tmp_path / "file").write_text("text")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "nowhere").symlink_to("not-there")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HIL_HOME", str(tmp_path / "home"))
    return tmp_path


def refused(call, says):
    "The one sentence with which a call is refused: raised by the kit itself, and not by a package below it."
    with pytest.raises((RunError, DataError, ValueError, FileNotFoundError)) as caught: call()
    text, frame = str(caught.value).partition("\nParameters: ")[0], caught.traceback[-1]
    assert Path(frame.path).is_relative_to(Path(hil.__file__).parent), f"raised in {frame.path}: {text}"
    assert says in text and len(text) < 600 and "Errno" not in text and "Traceback" not in text, text
    assert "\n" not in text, text
    return text


# ---- settings, at construction ------------------------------------------------------------------------------------

LONG = "x" * 300
SETTINGS = [
    (dict(device="gpu"), 'device = \'gpu\': expected "auto", "cpu", "cuda" or "cuda:1"'),
    (dict(device="cuda:01"), "device = 'cuda:01'"), (dict(device=""), "device = ''"),
    (dict(device="CPU"), "device = 'CPU'"), (dict(device=0), "device = 0 is a int"),
    (dict(model="resnet50"), "did you mean 'agw_resnet50'?"), (dict(model=""), "model = ''"),
    (dict(model="Lite0"), "did you mean 'lite0'?"), (dict(model=None), "model = None is a NoneType"),
    (dict(run_dir=" "), "blank"), (dict(run_dir="\t"), "blank"), (dict(run_dir="runs/ /x"), "blank"),
    (dict(run_dir="a\nb"), "control character"), (dict(run_dir="a\0b"), "control character"),
    (dict(run_dir=LONG), "too long"), (dict(run_dir="x/" * 2500), "too long"), (dict(run_dir="\ud800"), "no file name"),
    (dict(run_dir="~no-such-user-here/x"), "home folder"), (dict(run_dir=Path("x")), "PosixPath"),
    (dict(data_root=" "), "blank"), (dict(dataset="sysu", data_root=" "), "blank"), (dict(weights=" "), "blank"),
    (dict(weights="~no-such-user-here/w.pth"), "home folder"), (dict(weights=LONG), "too long"),
    (dict(expect="stand-in"), "here it would do nothing"), (dict(expect="any"), "here it would do nothing"),
    (dict(dataset="folder", data_root="x", expect="any"), "here it would do nothing"),
    (dict(preset="tiny", expect="stand-in"), "here it would do nothing"),
    (dict(iterations=10**9), "from 1 to 100000"), (dict(stage2_epochs=10**9), "from 0 to 10000"),
    (dict(stage1_epochs=10**6), "from 0 to 10000"), (dict(batch_ids=10**9), "from 2 to 4096"),
    (dict(instances=10**9), "from 1 to 1024"), (dict(batch_ids=4096, instances=1024), "65,536 images"),
    (dict(n_views=101), "from 1 to 100"), (dict(n_views=0), "from 1 to 100"), (dict(n_sub=10**9), "n_sub"),
    (dict(k1=10**9), "k1"), (dict(shots=10**9), "shots"), (dict(lr=float("nan")), "lr = nan"),
    (dict(lr=10**400), "lr = "), (dict(seed=-1), "seed = -1"), (dict(seed=1.5), "seed = 1.5 is a float"),
    (dict(flip=1), "flip = 1 is a int"), (dict(lr="1e-3"), "is a str"), (dict(lr=1j), "is a complex"),
    (dict(eps=np.float64(.5)), "float64"), (dict(preset="huge"), "preset = 'huge'"), (dict(preset=[]), "preset = []"),
    (dict(dataset="SYSU"), "did you mean 'sysu'?"), (dict(devise="cpu"), "did you mean 'device'?"),
    (dict(select="best"), "select = 'best'")]


@pytest.mark.parametrize("wrong,says", SETTINGS, ids=lambda x: str(x)[:40])
def test_settings_are_refused_whole(place, wrong, says):
    before = sorted(place.rglob("*"))
    refused(lambda: Config(**wrong), says)
    assert sorted(place.rglob("*")) == before, "nothing is begun"


@pytest.mark.parametrize("wrong,says", [
    (dict(device="gpu"), "device"), (dict(model="resnet50"), "agw_resnet50"), (dict(out_dir=" "), "blank"),
    (dict(checkpoint=" "), "blank"), (dict(checkpoint=LONG), "too long"), (dict(data_root="a\nb"), "control"),
    (dict(out_dir="~no-such-user-here"), "home folder"), (dict(expect="any"), "do nothing"),
    (dict(trials=11), "from 1 to 10"), (dict(batch=0), "batch = 0"), (dict(shots=10**9), "shots")])
def test_settings_of_an_evaluation(place, wrong, says): refused(lambda: Evaluation(**wrong), says)


# ---- folders and files --------------------------------------------------------------------------------------------

BAD_FOLDERS = [("file", "is a file"), ("file/below", "below it"), ("circle", "leads nowhere"),
               ("circle/x", "leads nowhere"), ("nowhere", "leads nowhere"), ("/proc/hil", "can be written")]


@pytest.mark.parametrize("folder,says", BAD_FOLDERS)
@pytest.mark.parametrize("call", [
    lambda folder: writable_folder(folder, "run_dir"),
    lambda folder: Trainer(Config(preset="tiny", run_dir=folder)),
    lambda folder: Run.create(Config(run_dir=folder), TABLE),
    lambda folder: score_splits(Evaluation(out_dir=folder), load_images),
    lambda folder: write_results(folder, pd.DataFrame()),
    lambda folder: render("tiny", root=folder, progress=False),
    lambda folder: load_images(Config(preset="tiny", data_root=folder), progress=False),
    lambda folder: write_layout("regdb", folder),
    lambda folder: new_folder(f"{folder}/run"),
    lambda folder: export_labels(Journal(None, ["a.jpg"], [0], ["V0"]), f"{folder}/labels.csv"),
    lambda folder: check_folder("empty", sheet=f"{folder}/sheet.png")],
    ids=["writable", "trainer", "run", "evaluate", "results", "render", "load", "stand_in", "new_folder", "export",
         "check"])
def test_a_folder_that_cannot_be_written(place, call, folder, says):
    refused(lambda: call(folder), says)
    assert not (place / "home").exists(), "nothing is rendered for it"


@pytest.mark.parametrize("folder,says", BAD_FOLDERS[:3])
def test_a_home_that_cannot_be_written(place, monkeypatch, folder, says):
    monkeypatch.setenv("HIL_HOME", folder)
    assert "HIL_HOME" in refused(lambda: Trainer(Config(preset="tiny")), says)


@pytest.mark.parametrize("call,says", [
    (lambda: Run(LONG), "too long"), (lambda: Run(" "), "blank"), (lambda: Run("file"), "no run here"),
    (lambda: Run("circle"), "no run here"), (lambda: open_source(LONG), "too long"),
    (lambda: open_source("~no-such-user-here/run"), "home folder"), (lambda: open_source(3), "expected a run folder"),
    (lambda: load("sysu", LONG), "too long"), (lambda: load("regdb", "a\nb"), "control character"),
    (lambda: load("folder", " "), "blank"), (lambda: load("llcm", "file"), "no such folder"),
    (lambda: load("sysu", "circle"), "no such folder"), (lambda: check(LONG), "too long"),
    (lambda: check("file"), "no such folder"), (lambda: check_folder("empty", sheet="sheet.txt"), ".png"),
    (lambda: load_encoder(LONG), "too long"), (lambda: load_encoder("circle"), "no such file"),
    (lambda: load_encoder("file"), "not a file that torch.save wrote"),
    (lambda: build_model("lite0", "file"), "not a file that torch.save wrote"),
    (lambda: build_model("lite0", LONG), "too long"), (lambda: build_model("lite0", "not-there"), "no such checkpoint"),
    (lambda: Trainer(Config(preset="tiny", weights="not-there")), "no such file"),
    (lambda: Trainer(Config(preset="tiny", weights="empty")), "no such file"),
    (lambda: Trainer(Config(preset="tiny", weights="file")).fit(), "not a file that torch.save wrote"),
    (lambda: Trainer(Config(preset="tiny", device="cuda:99")), "CUDA devices"),
    (lambda: Trainer(Config(preset="tiny", resume=True, run_dir="not-there")), "no run here"),
    (lambda: find_device("gpu"), "device = 'gpu'"), (lambda: read_labels(LONG, []), "too long"),
    (lambda: Journal(" ", ["a"], [0], ["V0"]), "blank"),
    (lambda: export_labels(Journal(None, ["a.jpg"], [0], ["V0"]), "labels.txt"), ".csv or .parquet"),
    (lambda: export_labels(Journal(None, ["a.jpg"], [0], ["V0"]), f"{LONG}.csv"), "too long"),
    (lambda: from_frame(TABLE, np.zeros((2, 3)), root=" "), "blank"),
    (lambda: write_atomic("file/x", lambda part: part.write_text("x")), "file/x")])
def test_files_that_cannot_be(place, call, says):
    refused(call, says)
    assert not (place / "home").exists() and not any(place.glob("runs/*")), "nothing is rendered or begun for it"


@pytest.mark.parametrize("config", [Config(preset="tiny", data_root="typo"), Config(preset="tiny", data_root="empty")])
def test_nothing_is_rendered_into_a_mistyped_folder(place, monkeypatch, config):
    "An evaluation, and a run that goes on, need pictures that are there."
    assert "no synth.json" in refused(lambda: check_rendered(config), config.data_root)
    on = replace(config, resume=True, run_dir="run")
    refused(lambda: load_images(on, progress=False), config.data_root)
    monkeypatch.setattr(scoring, "load_encoder", lambda *_: SimpleNamespace(run=None))
    refused(lambda: score_splits(Evaluation(preset="tiny", data_root=config.data_root), load_images), "no synth.json")
    assert not (place / "typo").exists() and not any((place / "empty").iterdir())


@pytest.mark.parametrize("home,says", [(" ", "blank"), ("a\nb", "control character"), (LONG, "too long")])
def test_an_impossible_home(place, monkeypatch, home, says):
    monkeypatch.setenv("HIL_HOME", home)
    assert "HIL_HOME" in refused(cache_home, says)


# ---- sizes and times ----------------------------------------------------------------------------------------------

def test_views_without_room_are_refused_before_one_is_computed(monkeypatch):
    table = pd.DataFrame({"path": "x", "camid": [1, 3] * 5000, "modality": ["visible", "infrared"] * 5000, "pid": 1,
                          "train": True})
    table.attrs["root"] = "."
    trunk = torch.nn.Linear(1, 1)
    trunk.forward = lambda images: {m: x.flatten(1)[:, :1536] for m, x in images.items()}
    model = SimpleNamespace(trunk=trunk, height=32, width=16)
    images, config = RunImages(table), Config(n_views=100)
    assert views_size(images, 1536, config) == 2 * 1536 * (10_000 + 5000 * 2 * 100 + 5000 * 100)
    monkeypatch.setattr(room, "free_memory", lambda: 8 * 10**9)
    refused(lambda: check_views(images, model, config), "n_views = 100 for 10,000 images: 9.3 GB of memory are needed")
    monkeypatch.setattr(room, "free_memory", lambda: None)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    refused(lambda: check_views(images, model, config), "4.6 GB are needed in")
    check_views(images, model, Config(n_views=1))


@pytest.mark.parametrize("people,images", [(10**9, 2), (8, 10**6)])
def test_a_stand_in_for_all_mankind(place, people, images):
    refused(lambda: write_layout("regdb", "x", people, images), "at most 100,000")


def test_a_disk_without_room_for_a_rendering(place, monkeypatch):
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    refused(lambda: render("tiny", root="new", progress=False), "480 rendered pictures: 3.8 MB are needed in new")
    assert not (place / "new").exists()


def test_what_takes_long_is_announced_once(caplog):
    now = [0.]
    slow = Forecast("1,000,000 steps", 10**6, "lower iterations", clock=lambda: now[0])
    for now[0] in (0., 80., 81., 90., 100.): slow.update()
    assert caplog.messages == ["1,000,000 steps: about 926 days to go on this machine; lower iterations"]
    quick = Forecast("10 steps", 10, clock=lambda: now[0])
    for now[0] in range(10): quick.update()
    assert len(caplog.messages) == 1


# ---- the home folder ----------------------------------------------------------------------------------------------

def test_home_is_expanded_wherever_a_path_is_taken(place, monkeypatch):
    home = place / "me"
    home.mkdir()
    for name in ("HOME", "USERPROFILE"): monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("HIL_HOME", "~/kept")
    config = Config(run_dir="~/run", data_root="~/data", weights="~/w.pth")
    assert [config.run_dir, config.data_root, config.weights] == [str(home / x) for x in ("run", "data", "w.pth")]
    settings = Evaluation(checkpoint="~/run", data_root="~/data", out_dir="~/out")
    assert [settings.checkpoint, settings.out_dir] == [str(home / "run"), str(home / "out")]
    assert cache_home() == home / "kept" and from_frame(TABLE, np.zeros((2, 3)), root="~/data").root == home / "data"
    for call in (lambda: Run("~/run"), lambda: open_source("~/run"), lambda: load("sysu", "~/data"),
                 lambda: load("folder", "~/data"), lambda: load("regdb", "~/data"), lambda: load("llcm", "~/data"),
                 lambda: check("~/data"), lambda: load_encoder("~/w.pth"), lambda: build_model("lite0", "~/w.pth")):
        refused(call, str(home))
    journal = Journal("~/journal.jsonl", ["a.jpg"], [0], ["V0"])
    export_labels(journal, "~/labels.csv")
    write_results("~/out", result_table({}))
    new_folder("~/runs/x")
    assert read_labels("~/labels.csv", ["a.jpg"]).tolist() == [0]
    assert {p.name for p in home.iterdir()} == {"journal.jsonl", "labels.csv", "out", "runs"}
    assert not (place / "~").exists()
