"hil.data.sysu against the release's figures, against broken folders, and against what has to hold for any folder."
import json
import logging
import os
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from hil.core.errors import DataError
from hil.data.images import merge_truth, read_images, table_key, train_table
from hil.data.sysu import (
    CAUSES,
    INFRARED_CAMS,
    MODALITY,
    SPLITS,
    SYSU_COUNTS,
    VISIBLE_CAMS,
    counts,
    load_sysu,
    query_gallery,
    read_permutation,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "sysu_protocol.json").read_text())
MINI = {(cam, pid): 3 for cam in MODALITY for pid in (1, 2, 3, 4)}
EXP = {"train": "1,2", "val": "3", "test": "4"}


def write(root, cells=MINI, exp=EXP):
    "Empty image files in SYSU-MM01's layout."
    for (cam, pid), n in cells.items():
        folder = root / f"cam{cam}" / f"{pid:04d}"
        folder.mkdir(parents=True)
        for k in range(1, n + 1): (folder / f"{k:04d}.jpg").touch()
    (root / "exp").mkdir(parents=True)
    for split, ids in exp.items(): (root / "exp" / f"{split}_id.txt").write_text(ids)
    return root


def manifest(root):
    "A synth.json that tells the truth about the folder."
    table = load_sysu(root, strict=False)
    ids = {s: sorted(set(table.pid[table.split == s].tolist())) for s in SPLITS}
    images = {str(c): int((table.camid == c).sum()) for c in MODALITY}
    said = {"preset": "tiny", "seed": 0, "ids": ids, "images_per_camera": images}
    (root / "synth.json").write_text(json.dumps(said))
    return root


@pytest.fixture
def mini(tmp_path): return manifest(write(tmp_path / "mini"))


@pytest.fixture(scope="module")
def golden_table(tmp_path_factory):
    cells = {(int(k[3]), int(k[5:])): n for k, n in GOLDEN["tree"].items()}
    return load_sysu(write(tmp_path_factory.mktemp("golden"), cells, {"test": GOLDEN["test_id_txt"]}), strict=False)


# ---- the protocol -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mode", ["all", "indoor"])
@pytest.mark.parametrize("trial", [0, 1, 2, 9])
def test_draws_are_the_releases(golden_table, mode, trial):
    query, gallery = query_gallery(golden_table, mode=mode, trial=trial)
    for rows, name in ((query, f"query_{mode}"), (gallery, f"gallery_{mode}_{trial}")):
        assert rows.path.tolist() == GOLDEN[name]
        assert rows.pid.tolist() == GOLDEN[f"{name}_pid"]
        assert rows.camid.tolist() == GOLDEN[f"{name}_cam"]


def test_draws_ignore_the_order_of_rows_and_the_global_generator(golden_table):
    random.seed(3)
    state = random.getstate()
    shuffled = golden_table.sample(frac=1, random_state=1)
    query, gallery = query_gallery(shuffled, trial=2)
    assert gallery.path.tolist() == GOLDEN["gallery_all_2"] and query.path.tolist() == GOLDEN["query_all"]
    assert random.getstate() == state


@settings(max_examples=60, deadline=None)
@given(cells=st.dictionaries(st.tuples(st.sampled_from(sorted(MODALITY)), st.integers(1, 6)), st.integers(1, 14),
                             min_size=1),
       trial=st.integers(0, 20), shots=st.sampled_from([1, 2, 10]), mode=st.sampled_from(["all", "indoor"]))
def test_any_draw_holds_the_protocol(cells, trial, shots, mode):
    rows = [(f"cam{c}/{p:04d}/{k:04d}.jpg", p, c, MODALITY[c], "test") for (c, p), n in cells.items() for k in range(n)]
    table = pd.DataFrame(rows, columns=["path", "pid", "camid", "modality", "split"])
    cams = {"all": VISIBLE_CAMS, "indoor": (1, 2)}[mode]
    if not {c for c, _ in cells} & set(cams) or not {c for c, _ in cells} & set(INFRARED_CAMS):
        with pytest.raises(ValueError, match="expected query and gallery images"): query_gallery(table, mode=mode)
        return
    query, gallery = query_gallery(table, mode=mode, trial=trial, shots=shots)
    assert len(query) == sum(n for (c, _), n in cells.items() if c in INFRARED_CAMS)
    taken = {k: min(shots, n) for k, n in cells.items() if k[0] in cams}
    assert gallery.groupby(["camid", "pid"]).size().to_dict() == taken
    assert gallery.path.is_unique
    assert list(zip(gallery.pid, gallery.camid)) == sorted(zip(gallery.pid, gallery.camid))
    assert table.loc[gallery.index].equals(gallery)


def test_official_permutation(tmp_path, golden_table):
    cams = np.empty((6, 1), object)
    for c in range(6):
        cams[c, 0] = np.empty((520, 1), object)
        for p in range(520): cams[c, 0][p, 0] = np.zeros((0, 0))
    rng = np.random.default_rng(0)
    for key, n in GOLDEN["tree"].items():
        cams[int(key[3]) - 1, 0][int(key[5:]) - 1, 0] = np.stack([rng.permutation(n) + 1 for _ in range(10)])
    savemat(tmp_path / "rand_perm_cam.mat", {"rand_perm_cam": cams})
    perm = read_permutation(tmp_path / "rand_perm_cam.mat")
    _, single = query_gallery(golden_table, trial=7, permutation=perm)
    assert single.path.tolist() == [f"cam{c}/{p:04d}/{perm[c, p][7, 0]:04d}.jpg"
                                    for p, c in zip(single.pid, single.camid)]
    assert len(single) == len(GOLDEN["gallery_all_0"])
    _, multi = query_gallery(golden_table, trial=7, shots=10, permutation=perm)
    cell = multi[(multi.camid == 1) & (multi.pid == 42)]  # four images only: all four, in the order of the file
    assert cell.path.tolist() == [f"cam1/0042/{n:04d}.jpg" for n in perm[1, 42][7]]
    with pytest.raises(DataError, match="cam1/0007.*10 trials.*permutation=None"):
        query_gallery(golden_table, trial=10, permutation=perm)
    with pytest.raises(DataError, match="belongs to this data set"):
        query_gallery(golden_table[golden_table.path != single.path.iloc[0]], trial=7, permutation=perm)
    (tmp_path / "text.mat").write_text("no matlab " * 50)
    with pytest.raises(DataError, match="not a MATLAB file"): read_permutation(tmp_path / "text.mat")
    with pytest.raises(DataError, match="no such file.*evaluation code"): read_permutation(tmp_path / "none.mat")


@pytest.mark.parametrize("kwargs, message", [
    ({"mode": "outdoor"}, "mode='outdoor': expected one of"), ({"trial": -1}, "trial=-1"),
    ({"trial": 1.5}, "trial=1.5"), ({"shots": 0}, "shots=0"),
    ({"split": "valid"}, r"split='valid'.*'test', 'train', 'val'")])
def test_bad_arguments(mini, kwargs, message):
    with pytest.raises(ValueError, match=message): query_gallery(load_sysu(mini), **kwargs)


def test_train_table(mini):
    table = load_sysu(mini)
    assert train_table(table).pid.unique().tolist() == [1, 2]
    assert train_table(table, "val").index.tolist() == list(range(18))
    assert train_table(table, ("train", "val")).pid.unique().tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="splits=.*valid"): train_table(table, ("valid",))


# ---- the folder ---------------------------------------------------------------------------------------------------

def test_table(mini):
    table = load_sysu(mini)
    assert table.columns.tolist() == ["path", "pid", "camid", "modality", "split"]
    assert table.attrs["root"] == str(mini) and len(table) == 72
    assert table.path.tolist() == [f"cam{c}/{p:04d}/{k:04d}.jpg" for p in (1, 2, 3, 4) for c in range(1, 7)
                                   for k in (1, 2, 3)]
    assert (table.modality == table.camid.map(MODALITY)).all()
    assert table.pid.map({1: "train", 2: "train", 3: "val", 4: "test"}).tolist() == table.split.tolist()


def test_what_is_no_image_of_the_set_is_left_out(mini):
    for name in ("cam1/0001/Thumbs.db", "cam1/0001/._0001.jpg", "cam1/.DS_Store", "cam1/notes.txt"):
        (mini / name).touch()
    shutil.copytree(mini / "cam1/0001", mini / "cam1/0099")      # a person in no list
    shutil.copytree(mini / "cam1/0001", mini / "cam1/0001 (copy)")
    assert len(load_sysu(mini)) == 72


def test_lists_as_people_write_them(mini):
    (mini / "exp/train_id.txt").write_bytes(b"\xef\xbb\xbf2, 1,\r\n")
    assert len(load_sysu(mini)) == 72


def remove(*names):
    return lambda root: [shutil.rmtree(root / n) if (root / n).is_dir() else (root / n).unlink() for n in names]
def text(name, content): return lambda root: (root / name).write_text(content)
def empty(name): return lambda root: [f.unlink() for f in (root / name).iterdir()]
def nest(root):
    (root.parent / "x").mkdir()
    root.rename(root.parent / "x/SYSU-MM01")
    (root.parent / "x").rename(root)
def all_cams(root): remove(*[f"cam{c}" for c in MODALITY])(root)


BROKEN = {
    "no folder": (lambda root: shutil.rmtree(root), True,
                  r"no such folder\. Expected the root of SYSU-MM01.*Check the path"),
    "one level up": (nest, True, r"no camera folder.*Did you mean .*mini/SYSU-MM01\?"),
    "no cameras": (all_cams, True, "no camera folder. Expected cam1 ... cam6 and exp. It holds exp"),
    "camera missing": (remove("cam3"), True,
                       r"not the whole data set:\n  missing: cam3\nDelete the folder and render it again, or"),
    "cam7": (lambda root: (root / "cam7").mkdir(), False,
             "camera outside the protocol: cam7.*infrared \\(3, 6\\).*Move the folder away"),
    "list missing": (remove("exp/val_id.txt"), True, "missing: exp/val_id.txt"),
    "no exp": (remove("exp"), False, "no exp/train_id.txt.*copy its folder exp as well"),
    "interrupted rendering": (lambda root: (root / "synth.json").rename(root / "exp/plan.json"), False,
                              "rendering was interrupted.*Call hil.synth.render.render again.*continues"),
    "neither exp nor synth.json": (remove("exp", "synth.json"), False,
                                   "If hil.synth.render made this folder, call hil.synth.render.render again"),
    "letters in a list": (text("exp/val_id.txt", "3,abc"), False,
                          "val_id.txt: expected each identity number once.*found 'abc'.*Copy the file again"),
    "html instead of a list": (text("exp/val_id.txt", "<!DOCTYPE html> not found"), False, "found '<!DOCTYPE'"),
    "empty list": (text("exp/val_id.txt", "\n"), False, "val_id.txt: .*found nothing"),
    "id twice in a list": (text("exp/train_id.txt", "1,2,01"), False, "train_id.txt: .*found 1 more than once"),
    "id in two lists": (text("exp/test_id.txt", "4,2"), False,
                        "identities 2 are in test_id.txt and in train_id.txt.*must not share people"),
    "id without a folder": (text("exp/val_id.txt", "3,77"), True, "identities in exp without an image: 77"),
    "empty folder": (empty("cam6/0002"), True,
                     r"folders without an image: cam6/0002\n  cam6 images: expected 12, found 9"),
    "an image lost": (remove("cam5/0004/0002.jpg"), True,
                      "cam5 images: expected 12, found 11\nDelete the folder and render it again"),
    "manifest cut off": (text("synth.json", '{"preset": "ti'), False,
                         "synth.json: not a manifest of hil.synth.render.*Delete the folder and render it again"),
    "manifest of another kind": (text("synth.json", '{"ids": {"train": 3}}'), False,
                                 "not a manifest of hil.synth.render"),
    "not SYSU's counts": (remove("synth.json"), True,
                          r"train \+ val identities: expected 395, found 3\n.*22,258, found 36\n.*11,909, found 18\n"
                          r".*96, found 1\n.*3,803, found 6\n.*301, found 4\nCopy it again, or, for a subset"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folders_are_refused_with_one_message(mini, name):
    spoil, strict, message = BROKEN[name]
    spoil(mini)
    with pytest.raises(DataError, match=message) as caught: load_sysu(mini, strict=strict)
    assert str(mini) in str(caught.value)
    assert caught.value.__cause__ is None and (caught.value.__context__ is None or caught.value.__suppress_context__)


@pytest.mark.parametrize("name", [n for n, (_, strict, _) in BROKEN.items()
                                  if strict and n not in ("no folder", "one level up", "no cameras")])
def test_subsets_are_logged_and_read(mini, caplog, name):
    BROKEN[name][0](mini)
    with caplog.at_level(logging.WARNING): table = load_sysu(mini, strict=False)
    assert len(table) >= 54 and str(mini) in caplog.text


def test_the_well_known_incomplete_copy(tmp_path):
    "367 training identities with 11,333 infrared images: written as real files once, because everybody meets it."
    cells = {(3, p): 30 for p in range(1, 367)} | {(3, 367): 11333 - 366 * 30, (1, 1): 1}
    exp = {"train": ",".join(map(str, range(1, 297))), "val": ",".join(map(str, range(297, 396))), "test": "400"}
    root = write(tmp_path / "SYSU-MM01", cells | {(c, 1): 1 for c in (2, 4, 5, 6)}, exp)
    (root / "cam6/0001/0001.jpg").unlink()
    with pytest.raises(DataError) as caught: load_sysu(root)
    for part in ("expected 395, found 367", "expected 11,909, found 11,333", *CAUSES.values(),
                 "368, 369, 370, 371, 372 and 24 more"):
        assert part in str(caught.value)


def test_the_real_counts_pass(tmp_path, caplog):
    "A folder of the published size is accepted without a word."
    def spread(total, cams, ids):
        return {(c, p): total // (len(cams) * len(ids)) + (k < total % (len(cams) * len(ids)))
                for k, (c, p) in enumerate((c, p) for c in cams for p in ids)}
    train, test = range(1, 396), range(396, 492)
    gallery = dict(list(spread(1000, VISIBLE_CAMS, test).items())[:301])
    cells = (spread(22258, VISIBLE_CAMS, train) | spread(11909, INFRARED_CAMS, train) | gallery
             | spread(3803, INFRARED_CAMS, test))
    exp = {"train": train[:296], "val": train[296:], "test": test}
    root = write(tmp_path / "SYSU-MM01", cells, {split: ",".join(map(str, ids)) for split, ids in exp.items()})
    with caplog.at_level(logging.WARNING): table = load_sysu(root)
    assert not caplog.text and len(train_table(table, ("train", "val"))) == 22258 + 11909
    assert {k: counts(table)[k] for k in SYSU_COUNTS} == SYSU_COUNTS


def test_people_in_one_modality_only_are_allowed_and_logged(tmp_path, caplog):
    cells = {k: n for k, n in MINI.items() if k not in {(3, 1), (6, 1)} and not (k[1] == 2 and k[0] in VISIBLE_CAMS)}
    root = manifest(write(tmp_path / "half", cells))
    caplog.clear()
    with caplog.at_level(logging.WARNING): load_sysu(root)
    said = [r.getMessage() for r in caplog.records]
    assert said == ["train: 1 identities only in visible, 1 only in infrared images (allowed)"]


# ---- pixels -------------------------------------------------------------------------------------------------------

def noise(shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def test_pixels_come_back_in_order(tmp_path):
    pixels = noise((9, 8, 4, 3))
    for i, p in enumerate(pixels): Image.fromarray(p).save(tmp_path / f"{i}.png")
    order = [5, 0, 8, 8, 2]
    for workers in (1, 3):
        images = read_images([f"{i}.png" for i in order], 8, 4, root=tmp_path, workers=workers)
        assert images.dtype == torch.uint8 and torch.equal(images, torch.tensor(pixels[order]).permute(0, 3, 1, 2))
    assert torch.equal(read_images([tmp_path / "5.png"], 8, 4), images[:1])
    assert read_images([], 8, 4).shape == (0, 3, 8, 4)


def test_other_sizes_are_resized_bilinearly(tmp_path):
    Image.fromarray(np.repeat(np.array([[10], [50]], np.uint8), 4, 1)).save(tmp_path / "a.png")
    # samples at 1/4 and 3/4 of the way
    assert read_images([tmp_path / "a.png"], 4, 4)[0, 0, :, 0].tolist() == [10, 20, 40, 50]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    rgb = noise((8, 4, 3))
    if mode == "I;16":
        deep = noise((8, 4), np.uint16)
        Image.fromarray(deep).save(tmp_path / "a.png")
        want = np.repeat((deep[..., None] / 257).round(), 3, -1)
    else:
        img = Image.fromarray(rgb).convert(mode)
        img.save(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
        want = np.asarray(img.convert("RGB"))
    assert (read_images([next(tmp_path.iterdir())], 8, 4)[0].permute(1, 2, 0).numpy() == want).all()


def test_unreadable_images_are_named(tmp_path):
    b = tmp_path / "good.jpg"
    Image.fromarray(noise((64, 32, 3))).save(b)
    for name, content, why in (("empty.jpg", b"", "the file is empty"),
                               ("text.jpg", b"<html>", "of 6 bytes .UnidentifiedImageError"),
                               ("half.jpg", b.read_bytes()[:900], "of 900 bytes .OSError: image file is truncated")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError,
                           match=rf"{name}: cannot be read as an image .*{why}.*Copy this file again") as caught:
            read_images(["good.jpg"] * 5 + [name] + ["good.jpg"] * 5, 64, 32, root=tmp_path)
        assert caught.value.__suppress_context__
    with pytest.raises(DataError, match="gone.jpg: no such image.*load the data set again"):
        read_images(["gone.jpg"], 64, 32, root=tmp_path)
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(DataError, match="folder.jpg: cannot be read"):
        read_images(["folder.jpg"], 64, 32, root=tmp_path)


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(["JPEG", "PNG", "BMP"]), cut=st.integers(0, 3000),
       edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4))
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_bytes_are_read_or_refused_but_never_leak_another_error(kind, cut, edits):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a"
        Image.fromarray(noise((24, 16, 3))).save(file, kind)
        data = bytearray(file.read_bytes()[:cut])
        for at, value in edits:
            if at < len(data): data[at] = value
        file.write_bytes(data)
        try: assert read_images([file], 24, 16).shape == (1, 3, 24, 16)
        except DataError as error: assert str(file) in str(error)


# ---- keys and truth -----------------------------------------------------------------------------------------------

def test_table_key_changes_with_files_and_rows_only(mini, tmp_path):
    table = load_sysu(mini)
    key, file = table_key(table), mini / "cam1/0001/0001.jpg"
    assert key == table_key(load_sysu(mini)) and len(key) == 16
    assert len({key, table_key(table[1:]), table_key(table[::-1])}) == 3
    stat = file.stat()
    file.write_bytes(b"x")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))     # another size, the same time
    assert table_key(table) != key
    file.write_bytes(b"")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))  # the same size, another time
    assert table_key(table) != key
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert table_key(table) == key
    mini.rename(tmp_path / "moved")                              # a moved folder keeps its caches
    assert table_key(load_sysu(tmp_path / "moved")) == key
    with pytest.raises(DataError, match="no such image.*load the data set again"): table_key(table)


def test_merge_truth(mini):
    table = load_sysu(mini)
    assert merge_truth(table).equals(table)
    truth = table[["path", "pid"]].assign(viewpoint=range(72), bag="none").sample(frac=1, random_state=0)
    truth.to_csv(mini / "truth.csv", index=False)
    part = table[table.camid == 3]
    merged = merge_truth(part)
    assert merged.viewpoint.tolist() == part.index.tolist() == merged.index.tolist()
    assert merged.columns.tolist() == [*table.columns, "viewpoint", "bag"]
    assert set(merged.bag) == {"none"} and merged.attrs["root"] == str(mini)
    truth[truth.path != "cam3/0001/0001.jpg"].to_csv(mini / "truth.csv", index=False)
    with pytest.raises(DataError, match="no row for cam3/0001/0001.jpg.*Render"): merge_truth(part)
    truth.drop(columns="path").to_csv(mini / "truth.csv", index=False)
    with pytest.raises(DataError, match="expected a column path, found pid, viewpoint, bag"): merge_truth(part)
