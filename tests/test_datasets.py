"RegDB, LLCM and folders of crops: stand-ins as they should be and broken as copies break; a cache that repairs itself."
import logging
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hil.core.errors import DataError
from hil.data import check, images
from hil.data.folder import camera_of, load_folder
from hil.data.images import read_image, read_images
from hil.data.layouts import LLCM_COUNTS, REGDB_COUNTS, detect, load, load_llcm, load_regdb, table_counts
from hil.synth import stand_ins

NAMES = ("sysu", "regdb", "llcm", "folder")


@pytest.fixture(scope="session")
def standins(tmp_path_factory):
    "One stand-in of each layout; not to be written to."
    home = tmp_path_factory.mktemp("standins")
    return {name: stand_ins.write_layout(name, home / name) for name in NAMES}


@pytest.fixture
def copy(standins, tmp_path):
    "copy('regdb') -> a stand-in that may be broken."
    return lambda name: shutil.copytree(standins[name], tmp_path / name)


# ---- stand-ins ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_writes_the_same_bytes(standins, tmp_path, name):
    again = stand_ins.write_layout(name, tmp_path / name)
    files = {p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file()}
    assert files == {p.relative_to(standins[name]): p.read_bytes() for p in standins[name].rglob("*") if p.is_file()}
    other = stand_ins.write_layout(name, tmp_path / "other", seed=1)
    assert any((other / p).exists() and (other / p).read_bytes() != data for p, data in files.items())


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(NAMES), people=st.integers(4, 30), images=st.integers(1, 3), seed=st.integers(0, 5))
def test_any_plan_names_each_file_once_and_leaves_no_camera_empty(name, people, images, seed):
    plan = stand_ins.PLANS[name](people, images, seed)
    paths = [p.path for p in plan.pictures]
    assert len(set(paths)) == len(paths) and {p.pid for p in plan.pictures} == set(range(1, people + 1))
    if name == "llcm":
        cams = {p.split("/")[1] for p in paths if p.startswith("test_nir")}
        assert cams == {f"cam{c}" for c in (1, 2, 4, 5, 6, 7, 8, 9)}


def test_stand_ins_need_real_decoding(standins):
    seen = Counter()
    for root in standins.values():
        for p in root.rglob("*"):
            if p.suffix in stand_ins.FORMATS:
                with Image.open(p) as image: seen[image.format, image.mode] += 1
    assert {f for f, _ in seen} == {"JPEG", "PNG", "BMP"} and {m for _, m in seen} == {"RGB", "L", "P", "I;16"}


@pytest.mark.parametrize("name", NAMES)
def test_a_stand_in_is_read_whole(standins, name, caplog):
    with caplog.at_level(logging.WARNING): table = load(name, standins[name], expect="stand-in")
    assert not caplog.text and detect(standins[name]) == name
    files = {p.relative_to(standins[name]).as_posix()
             for p in standins[name].rglob("*") if p.suffix in stand_ins.FORMATS}
    assert set(table.path) == files and table.path.is_unique and table.attrs["root"] == str(standins[name])
    assert set(table.modality) == {"visible", "infrared"}
    assert list(table.columns) == ["path", "pid", "camid", "modality", "split"]
    shown = {x.path: (x.pid, x.cam in (3, 6)) for x in stand_ins.PLANS[name](12, 2, 0).pictures}
    assert [m == "infrared" for m in table.modality] == [shown[p][1] for p in table.path]
    # one number, one person, in both modalities
    if name != "folder":
        people = table.assign(person=[shown[p][0] for p in table.path]).groupby("pid").person.nunique()
        assert people.eq(1).all() and len(people) == 12


def test_settings_that_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="expected one of sysu, regdb, llcm, folder"):
        stand_ins.write_layout("market", tmp_path / "x")
    with pytest.raises(ValueError, match="at least 4 people"): stand_ins.write_layout("regdb", tmp_path / "x", people=3)


# ---- published counts, without published images -------------------------------------------------------------------

def touch(root, paths):
    for folder in {os.path.dirname(p) for p in paths}: (root / folder).mkdir(parents=True, exist_ok=True)
    for p in paths: os.close(os.open(f"{root}/{p}", os.O_CREAT))


def write_regdb(root, people=412, images=10):
    "RegDB in its published size, with empty image files."
    names = {(m, p): [f"{m}/{p}/person_{m[0].lower()}_{p:05d}_{k}.bmp" for k in range(1, images + 1)]
             for m in ("Visible", "Thermal") for p in range(1, people + 1)}
    touch(root, sum(names.values(), []))
    (root / "idx").mkdir()
    for k in range(1, 11):
        order = random.Random(k).sample(range(1, people + 1), people)
        for part, ids in (("train", order[:people // 2]), ("test", order[people // 2:])):
            for m, name in (("Visible", "visible"), ("Thermal", "thermal")):
                rows = [f"{f} {i}\n" for i, p in enumerate(ids) for f in names[m, p]]
                (root / f"idx/{part}_{name}_{k}.txt").write_text("".join(rows))
    return root


@pytest.fixture(scope="module")
def regdb(tmp_path_factory): return write_regdb(tmp_path_factory.mktemp("published") / "RegDB")


@pytest.mark.parametrize("split", [1, 10])
def test_regdb_in_its_published_size(regdb, split, caplog):
    with caplog.at_level(logging.WARNING): table = load_regdb(regdb, split)
    assert not caplog.text and len(table) == 8240
    assert table_counts(table) == {k: n for k, n in REGDB_COUNTS.items() if "a person" not in k}
    want = {int(Path(line.split()[0]).parent.name)
            for line in (regdb / f"idx/train_thermal_{split}.txt").read_text().splitlines()}
    assert set(table.pid[table.split == "train"]) == want


def test_llcm_in_its_published_size(tmp_path, caplog):
    root, train, test = tmp_path / "LLCM", range(1, 714), range(714, 1065)
    def spread(total, cells):
        return {cell: total // len(cells) + (i < total % len(cells)) for i, cell in enumerate(cells)}
    for m, n_train, n_test, cams in (("vis", 16946, 8680, range(1, 10)),
                                     ("nir", 13975, 7166, (1, 2, 4, 5, 6, 7, 8, 9))):
        cells = spread(n_train, [(p, c) for p in train for c in (1 + p % 9, 1 + (p + 4) % 9)])
        lines = [(f"{m}/{p:04d}/{p:04d}_c{c:02d}_s{k}_f1_{m}.jpg", p - 1) for (p, c), n in cells.items()
                 for k in range(n)]
        touch(root, [path for path, _ in lines])
        (root / "idx").mkdir(exist_ok=True)
        (root / f"idx/train_{m}.txt").write_text("\n".join(f"{path} {label}" for path, label in lines))
        touch(root, [f"test_{m}/cam{c}/{p:04d}/{k}.jpg"
                     for (p, c), n in spread(n_test, [(p, cams[p % len(cams)]) for p in test]).items()
                     for k in range(n)])
    (root / "idx/test_id.txt").write_text(",".join(map(str, test)))
    (root / "test_nir/cam3").mkdir()                                      # there, and empty, in the published set
    with caplog.at_level(logging.WARNING): table = load_llcm(root)
    assert not caplog.text and table_counts(table) == LLCM_COUNTS
    assert sum(n for k, n in LLCM_COUNTS.items() if "images" in k) == 46767
    shutil.rmtree(root / "test_vis/cam4")
    says = ("test_vis without cam4(.|\n)*test visible images: expected 8,680, found 7,7(.|\n)*"
            "LLCM was changed after its publication")
    with pytest.raises(DataError, match=says): load_llcm(root)


def test_a_stand_in_never_passes_for_the_published_set(standins):
    for name in ("sysu", "regdb", "llcm"):
        with pytest.raises(DataError, match='rendered stand-in .* say expect="stand-in"'): load(name, standins[name])
    with pytest.raises(ValueError, match="expected one of published, stand-in, any"):
        load("regdb", standins["regdb"], expect="yes")


@pytest.mark.parametrize("name", ["sysu", "regdb", "llcm"])
def test_the_published_set_is_no_stand_in(copy, name):
    root = copy(name)
    (root / "synth.json").unlink()
    with pytest.raises(DataError, match='no synth.json.*say expect="published"'): load(name, root, expect="stand-in")


# ---- broken copies ------------------------------------------------------------------------------------------------

def edit(name, change): return lambda root: (root / name).write_text(change((root / name).read_text()))
def drop(*names):
    return lambda root: [shutil.rmtree(root / n) if (root / n).is_dir() else (root / n).unlink() for n in names]
def lines(change): return lambda text: "\n".join(change(text.splitlines()))
def relabel(old, new):
    def exchanged(row):
        path, label = row.rsplit(" ", 1)
        return f"{path} { {old: new, new: old}.get(label, label)}"
    return lines(lambda rows: [exchanged(row) for row in rows])


def rename(root):
    for f in (root / "Visible/1").iterdir(): f.rename(f.with_suffix(".PNG"))


def fill_cam3(root): touch(root, ["test_nir/cam3/0003/1.jpg"])


BROKEN = {
    "regdb: no lists": ("regdb", drop("idx"), "RegDB without idx"),
    "regdb: one modality": ("regdb", drop("Thermal"), "RegDB without Thermal"),
    "regdb: one list gone": ("regdb", drop("idx/test_thermal_1.txt"), r"test_thermal_1.txt: no such list"),
    "regdb: empty list": ("regdb", edit("idx/train_visible_1.txt", lambda t: "\n"), "the list is empty"),
    "regdb: list of another format": ("regdb", edit("idx/train_visible_1.txt", lambda t: t.replace(" 0", ",0")),
                                      r"line 1: expected an image in a numbered folder and its label.*_1\.bmp,0'"),
    "regdb: an image is gone": ("regdb", drop("Visible/2/person_v_00002_1.bmp"),
                                r"names 1 images that are not there: Visible/2/person_v_00002_1.bmp"),
    "regdb: a person is gone": ("regdb", drop("Thermal/4"), r"names 2 images that are not there: Thermal/4"),
    "regdb: converted": ("regdb", rename, r"person_v_00001_1.PNG is there: files that were converted or renamed"),
    "regdb: labels exchanged": ("regdb", edit("idx/train_thermal_1.txt", relabel("0", "1")),
                                "2 labels mean other folders in infrared than in visible"),
    "regdb: a label twice": ("regdb", edit("idx/train_visible_1.txt", lines(lambda r: [x[:-1] + "0" for x in r])),
                             "label 0 stands with folders"),
    "regdb: a folder with two labels": ("regdb", edit("idx/train_visible_1.txt",
                                                      lines(lambda r: [r[0][:-1] + "77", *r[1:]])),
                                       "folder 1 stands with labels 0, 77|folder . stands with labels"),
    "regdb: an image twice": ("regdb", edit("idx/train_visible_1.txt", lines(lambda r: [r[0], *r])),
                              "names 1 images twice"),
    "regdb: a shorter list": ("regdb", edit("idx/train_visible_1.txt", lines(lambda r: r[:-2])),
                              "people in the lists of one modality only(.|\n)*train visible images: expected 12, "
                              "found 10"),
    "regdb: an image less": ("regdb", edit("idx/test_visible_1.txt", lines(lambda r: r[:-1])),
                             "1 people without 2 images in a modality: .* has 1 visible"),
    "regdb: test people trained on": ("regdb", lambda root: [
        shutil.copy(root / f"idx/test_{m}_1.txt", root / f"idx/train_{m}_1.txt") for m in ("visible", "thermal")],
                                      "people in the train and in the test lists of split 1"),
    "llcm: no test ids": ("llcm", drop("idx/test_id.txt"), "LLCM without idx/test_id.txt"),
    "llcm: no near-infrared training": ("llcm", drop("nir"), "LLCM without nir"),
    "llcm: half a camera": ("llcm", drop("test_nir/cam7"),
                            "test_nir without cam7(.|\n)*test infrared images: expected"),
    "llcm: half a person": ("llcm", drop("test_vis/cam1/0008"), "test visible images: expected .*, found"),
    "llcm: an image is gone": ("llcm", lambda root: next((root / "vis/0001").iterdir()).unlink(),
                               "names 1 images that are not there"),
    "llcm: camera 3 has come back": ("llcm", fill_cam3,
                                     "test_nir/cam3 holds 1 images: the published test part has none"),
    "llcm: test ids as words": ("llcm", edit("idx/test_id.txt", lambda t: "a,b"), "expected each identity number once"),
    "llcm: a test id too many": ("llcm", edit("idx/test_id.txt", lambda t: t.strip() + ",999"),
                                 "identities of idx/test_id.txt without an image in test_vis: 999"),
    "llcm: labels exchanged": ("llcm", edit("idx/train_nir.txt", relabel("2", "3")), "labels mean other folders"),
    "folder: one modality": ("folder", drop("visible"),
                             r"no folder of visible images \(visible or vis or rgb\).*the folder holds infrared"),
    "folder: an empty branch": ("folder", lambda root: [drop("visible")(root), (root / "visible").mkdir()],
                                r"no visible image \(visible holds none\)"),
    "folder: two candidates": ("folder", lambda root: touch(root, ["rgb/a.png"]),
                               "rgb and visible could both hold the visible images"),
    "manifest of another kind": ("regdb", edit("synth.json", lambda t: '{"counts": [1]}'),
                                 "not a manifest of hil.synth.stand_ins"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_copy_is_refused_with_one_message(copy, name):
    layout, spoil, message = BROKEN[name]
    root = copy(layout)
    spoil(root)
    with pytest.raises(DataError, match=message) as caught: load(layout, root, expect="stand-in")
    assert str(root) in str(caught.value) and (caught.value.__context__ is None or caught.value.__suppress_context__)


@pytest.mark.parametrize("name", ["regdb: an image less", "llcm: half a camera", "llcm: camera 3 has come back",
                                  "regdb: labels exchanged"])
def test_under_expect_any_differences_are_logged_and_read(copy, caplog, name):
    layout, spoil, message = BROKEN[name]
    root = copy(layout)
    spoil(root)
    with caplog.at_level(logging.WARNING): table = load(layout, root, expect="any")
    assert len(table) and len(caplog.records) >= 1
    if "camera 3" in name: assert not table.path.str.contains("test_nir/cam3").any()


@pytest.mark.parametrize("asked", NAMES)
@pytest.mark.parametrize("there", NAMES)
def test_another_data_set_is_recognised(standins, there, asked):
    if asked == there: return
    with pytest.raises(DataError, match=f'(?i)set dataset = "{there}"') as caught:
        load(asked, standins[there], expect="stand-in")
    assert str(standins[there]) in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_no_folder_and_nothing_in_it(standins, tmp_path, name):
    for root, says in ((tmp_path / "nowhere", "no such folder"), (tmp_path, "nothing|no folder")):
        with pytest.raises(DataError, match=says) as caught: load(name, root, expect="any")
        assert str(root) in str(caught.value)


@pytest.mark.parametrize("name", ["regdb", "llcm"])
def test_one_level_up(standins, tmp_path, name):
    (tmp_path / name).symlink_to(standins[name])
    with pytest.raises(DataError, match=f"Did you mean {tmp_path / name}"): load(name, tmp_path, expect="any")


def test_splits_outside(standins):
    for k in (0, 11, "1"):
        with pytest.raises(ValueError, match="RegDB has the splits 1 ... 10"):
            load_regdb(standins["regdb"], k, "stand-in")


# ---- folders of crops ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("branches", [("visible", "infrared"), ("RGB", "ir"), ("vis", "NIR"), ("Visible", "Thermal_")])
def test_names_of_the_branches(tmp_path, branches):
    touch(tmp_path, [f"{branches[0]}/a/b/c/1.PNG", f"{branches[0]}/.hidden/2.png", f"{branches[0]}/._3.png",
                     f"{branches[1]}/4.jpeg", f"{branches[1]}/notes.txt"])
    if branches[1] == "Thermal_":
        with pytest.raises(DataError, match="no folder of infrared images"): load_folder(tmp_path)
    else: assert load_folder(tmp_path).path.tolist() == [f"{branches[0]}/a/b/c/1.PNG", f"{branches[1]}/4.jpeg"]


@pytest.mark.parametrize("path,camera", [
    ("cam1/a.png", 1), ("Camera-07/x/a.png", 7), ("c3/a.png", 3), ("a_c03_f2.jpg", 3), ("cam12-001.jpg", 12),
    ("0002_c1s1_000451.jpg", 1), ("cam1/c02_a.png", 1), ("cam1/cam2/a.png", 2), ("cat3.jpg", 0), ("abc3_1.jpg", 0),
    ("2024-03-01.jpg", 0), ("cam.png", 0), ("person_c_1.jpg", 0), ("campus2/a.png", 0)])
def test_cameras_in_paths(path, camera): assert camera_of(path) == camera


# ---- pixels -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", NAMES)
def test_the_cache_shows_what_decoding_shows(standins, tmp_path, name):
    table = load(name, standins[name], expect="stand-in").sample(20, random_state=0)
    table.attrs["root"] = str(standins[name])
    cached = images.cached_images(table.path, 33, 17, root=standins[name], folder=tmp_path, workers=3)
    assert torch.equal(cached, read_images(table.path, 33, 17, root=standins[name]))


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=1, max_size=4))
def test_whatever_changes_is_decoded_again_and_nothing_else(tmp_path_factory, steps):
    home, time = tmp_path_factory.mktemp("cache"), 10 ** 18
    def paint(i, value):
        nonlocal time
        time += 10 ** 9
        Image.new("L", (8, 8), value).save(home / f"{i}.png")
        os.utime(home / f"{i}.png", ns=(time, time))
    files, decoded = [f"{i}.png" for i in range(6)], []
    for i in range(6): paint(i, 10 * i)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "read_image", lambda file, *how: (decoded.append(Path(file).name),
                                                                read_image(file, *how))[1])
        for n, changed in enumerate([[], *steps]):
            for i in changed: paint(i, 60 + 20 * n + i)
            decoded.clear()
            x = images.cached_images(files, 8, 8, root=home, folder=home / "c", workers=2)
            assert sorted(decoded) == sorted({f"{i}.png" for i in (range(6) if n == 0 else set(changed))})
            assert torch.equal(x, read_images(files, 8, 8, root=home))


def test_each_way_to_resize_has_a_cache_of_its_own(standins, tmp_path):
    table = load("llcm", standins["llcm"], expect="stand-in").iloc[:6]
    both = {how: images.cached_images(table.path, 40, 20, root=standins["llcm"], folder=tmp_path, resize=how)
            for how in ("bilinear", "lanczos")}
    with Image.open(standins["llcm"] / table.path[0]) as image:
        expected = np.asarray(image.convert("RGB").resize((20, 40), Image.LANCZOS))
    assert np.array_equal(both["lanczos"][0].permute(1, 2, 0), expected) and not torch.equal(*both.values())
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(KeyError): read_image(standins["llcm"] / table.path[0], 40, 20, "nearby")


def test_writing_to_the_cache_stays_in_memory(standins, tmp_path):
    table = load("folder", standins["folder"])
    first = images.cached_images(table.path, 8, 4, root=standins["folder"], folder=tmp_path)
    keep = first.clone()
    first.zero_()
    assert torch.equal(images.cached_images(table.path, 8, 4, root=standins["folder"], folder=tmp_path), keep)


def test_a_killed_decoder_goes_on(copy, tmp_path, monkeypatch):
    root = copy("folder")
    table, done = load("folder", root), []
    files = [root / p for p in table.path]
    x, seen = np.zeros((len(files), 3, 8, 4), np.uint8), np.zeros((len(files), 2), np.int64)
    real = images.read_image
    def dies(file, *how):
        if len(done) == 25: raise KeyboardInterrupt
        done.append(file)
        return real(file, *how)
    monkeypatch.setattr(images, "read_image", dies)
    with pytest.raises(KeyboardInterrupt): images.refresh(files, x, seen, 1, block=10)
    assert (seen[:20] > 0).all() and (seen[20:] == 0).all(), "whole blocks are marked, the broken one is not"
    monkeypatch.undo()
    assert images.refresh(files, x, seen, 2) == len(files) - 20
    assert np.array_equal(x, read_images(table.path, 8, 4, root=root).numpy())


def test_cache_files_cut_off_and_images_that_are_not_there(copy, tmp_path):
    root = copy("folder")
    table = load("folder", root)
    def make():
        return images.cached_images(table.path, 8, 4, root=root, folder=tmp_path / "c")
    first = make().clone()
    pixels, stamps, _ = sorted((tmp_path / "c").glob("*/*.npy"))
    pixels.write_bytes(pixels.read_bytes()[:50])
    assert torch.equal(make(), first)
    pixels.write_bytes(pixels.read_bytes()[:-9])
    assert torch.equal(make(), first)
    stamps.unlink()
    assert torch.equal(make(), first) and len(list((tmp_path / "c").iterdir())) == 1
    (root / table.path[0]).unlink()
    with pytest.raises(DataError, match="no such image"): make()
    assert images.cached_images([], 8, 4, folder=tmp_path).shape == (0, 3, 8, 4)


def test_two_processes_fill_one_cache(standins, tmp_path):
    code = ("import sys; from hil.data.images import cached_images; from hil.data.layouts import load; "
            "t = load('folder', sys.argv[1]); "
            "cached_images(t.path, 64, 32, root=sys.argv[1], folder=sys.argv[2], progress=False)")
    both = [subprocess.Popen([sys.executable, "-c", code, standins["folder"], tmp_path / "c"]) for _ in range(2)]
    assert [p.wait(60) for p in both] == [0, 0] and len(list((tmp_path / "c").iterdir())) == 1
    table = load("folder", standins["folder"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "read_image", lambda *_: pytest.fail("decoded again"))
        cached = images.cached_images(table.path, 64, 32, root=standins["folder"], folder=tmp_path / "c")
    assert torch.equal(cached, read_images(table.path, 64, 32, root=standins["folder"]))


def no_links(*where): raise OSError(95, "Operation not supported")


def test_a_cache_needs_no_links_and_a_lost_race_is_no_failure(standins, tmp_path, monkeypatch):
    table = load("folder", standins["folder"]).iloc[:8]
    def make(name): return images.cached_images(table.path, 8, 4, root=standins["folder"], folder=tmp_path / name)
    wanted = read_images(table.path, 8, 4, root=standins["folder"])
    monkeypatch.setattr("os.link", no_links)
    assert torch.equal(make("no links"), wanted)
    def another_was_faster(part, target):
        "Its arrays are there; its first rows are decoded, the rest is still to be done."
        shutil.copytree(part, target)
        pixels, seen = (np.load(target / f"{name}.npy", mmap_mode="r+") for name in ("pixels", "stamps"))
        pixels[:3], seen[:3] = wanted[:3], images.stamps([standins["folder"] / p for p in table.path[:3]])
        raise OSError(39, "Directory not empty")
    monkeypatch.setattr("os.rename", another_was_faster)
    assert torch.equal(make("race"), wanted) and len(list((tmp_path / "race").iterdir())) == 1
    monkeypatch.setattr("os.rename", no_links)
    with pytest.raises(OSError, match="not supported"): make("refused")
    assert not list((tmp_path / "refused").iterdir())


def test_another_process_that_starts_anew_leaves_no_black_rows(standins, tmp_path, monkeypatch):
    "While this one decodes, another takes the folder for broken and puts an empty one in its place."
    table, real = load("folder", standins["folder"]).iloc[:8], images.refresh
    def disturbed(files, pixels, seen, *how):
        done = real(files, pixels, seen, *how)
        if len(calls) < 1:
            cache = next(tmp_path.iterdir())
            shutil.rmtree(cache)
            images._arrays(cache, {"pixels": (np.uint8, *pixels.shape), "stamps": (np.int64, *seen.shape)})
        calls.append(done)
        return done
    calls = []
    monkeypatch.setattr(images, "refresh", disturbed)
    x = images.cached_images(table.path, 8, 4, root=standins["folder"], folder=tmp_path)
    assert calls == [8, 8, 0] and torch.equal(x, read_images(table.path, 8, 4, root=standins["folder"]))


def test_the_cache_lies_at_home(standins, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HIL_HOME", "~/caches")
    images.cached_images(load("folder", standins["folder"]).path[:1], 8, 4, root=standins["folder"])
    assert len(list((tmp_path / "caches/pixels").glob("*/pixels.npy"))) == 1


# ---- the health report --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", NAMES)
def test_a_healthy_set(standins, name):
    report = check.check(standins[name], expect="stand-in", sample=40)
    assert report.verdict == "HEALTHY" and report.dataset == name, str(report)
    assert "HEALTHY" in str(report) and "<--" not in str(report) and "decoded: 40 of" in str(report)
    assert report.sheet.size[0] > 100 and len(np.unique(np.asarray(report.sheet).reshape(-1, 3), axis=0)) > 1000


SICK = {
    "truncated": ("llcm", lambda root: [f.write_bytes(f.read_bytes()[:200])
                                        for f in sorted((root / "vis/0001").iterdir())[:2]],
                  "2 of .* decoded images cannot be read: .*0001_c"),
    "two people, one picture": (
        "regdb", lambda root: shutil.copy(*(root / f"Visible/{p}/person_v_0000{p}_1.bmp" for p in (1, 2))),
        "1 images appear under two people or modalities: Visible/1/person_v_00001_1.bmp = Visible/2"),
    "a list of split 7": ("regdb", drop("idx/test_visible_7.txt"), "test_visible_7.txt: no such list"),
    "named, but not there": ("llcm", lambda root: next((root / "nir/0001").iterdir()).unlink(),
                             "names 1 images that are not there"),
    "half a camera": ("sysu", drop("cam4"), "cam4"),
    "nothing": ("folder", drop("visible", "infrared", "synth.json"),
                "no known layout: expected SYSU-MM01 .*it holds nothing"),
    "one modality": ("folder", drop("infrared"), "no folder of infrared images"),
}


@pytest.mark.parametrize("name", SICK)
def test_a_sick_set(copy, tmp_path, capsys, name):
    layout, spoil, says = SICK[name]
    root = copy(layout)
    spoil(root)
    assert check.check_folder(str(root), expect="stand-in", everything=True, sheet=str(tmp_path / "sheet.png")) == 1
    out = capsys.readouterr().out
    assert re.search(says, out) and re.search(r"[1-9]\d* PROBLEM", out), out


def test_doubled_images_of_one_person_and_exchanged_modalities_are_notes(copy):
    root = copy("folder")
    for old, new in (("visible", "x"), ("infrared", "visible"), ("x", "infrared")): (root / old).rename(root / new)
    file = next((root / "visible").glob("*.bmp"))
    shutil.copy(file, file.with_name("again.bmp"))
    report = check.check(root, expect="any", sample=None)
    assert report.healthy and "1 images lie there twice" in str(report)
    assert "infrared images are coloured: were the modalities exchanged?" in str(report)


def test_a_set_in_which_no_image_can_be_read(copy):
    root = copy("folder")
    for file in [*root.rglob("*.png"), *root.rglob("*.jpg"), *root.rglob("*.bmp")]: file.write_bytes(file.name.encode())
    report = check.check(root, sample=10)
    assert len(report.problems) == 1 and "10 of 10 decoded images cannot be read" in str(report)


def test_the_exit_code_tells(standins, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = str(standins["regdb"])
    assert check.check_folder(root) == 1 and "rendered stand-in" in capsys.readouterr().out
    assert check.check_folder(root, expect="stand-in") == 0 and "HEALTHY" in capsys.readouterr().out
    assert check.check_folder(root, expect="any") == 0 and not any(tmp_path.iterdir()) # no sheet unasked
    assert check.check_folder(root, expect="any", sheet="sheet.png") == 0 and Path("sheet.png").is_file()
    assert "camera sheet: sheet.png" in capsys.readouterr().out
    assert check.check_folder("/nowhere") == 1 and "/nowhere: no such folder" in capsys.readouterr().out
    with pytest.raises(ValueError, match="expected one of sysu, regdb"): check.check_folder("/", dataset="market")
