"Tables, run folders, pictures, checkpoints and words that look right and are not: told in a sentence, or read right."
import gzip
import io
import json
import os
import struct
import warnings
import zipfile
import zlib
from unicodedata import normalize

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hil.cli import main
from hil.core.errors import DataError, RunError
from hil.core.ids import checked_ids
from hil.core.names import MODALITIES
from hil.core.pictures import camera_ranges, measured, read_picture
from hil.core.tables import rows_by_path
from hil.data.check import check
from hil.data.folder import load_folder
from hil.evaluation.sightings import identity_table
from hil.experiments.listing import list_runs
from hil.explore.source import from_frame, more_columns, open_source
from hil.models.weights import read_weights
from hil.runs.config import Config
from hil.runs.corrections import given_people
from hil.runs.folder import Run
from hil.synth.render import render

# ---- tables ---------------------------------------------------------------------------------------------------------

PATHS = {"visible": ["visible/0.jpg", "visible/1.jpg"], "infrared": ["infrared/0.jpg"]}
TABLE = pd.DataFrame({"path": sum(PATHS.values(), []), "camid": 1, "modality": ["visible", "visible", "infrared"]})
X = np.random.default_rng(0).normal(size=(3, 4))


def names_of(file):
    "What a table of labels calls each visible image; \"\" where nobody knows."
    labels, called = given_people(file, PATHS)
    return [called[number] if number >= 0 else "" for number in labels["visible"]]


@pytest.mark.parametrize("text,says", [
    *((f"path,identity\nvisible/0.jpg,3\nvisible/1.jpg,{name}\n", rf"row 2 \(visible/1.jpg\): identity '{told}'; exp")
      for name, told in (("nan", "nan"), ("None", "None"), ("-2", "-2"), ("1.5", "1.5"), ("inf", "inf"), ("+3", r"\+3"),
                         ("1e3", "1e3"), ('"1,000"', "1,000"), ("<NA>", "<NA>"))),
    ("path,identity,identity\nvisible/0.jpg,1,2\n", "two columns are called identity"),
    ("path,path,identity\nvisible/0.jpg,visible/1.jpg,2\n", "two columns are called path"),
    ("path;identity\nvisible/0.jpg;1\n", "parted by semicolons; save it with commas"),
    ("path\tidentity\nvisible/0.jpg\t1\n", "parted by tabs"), ("sep=,\npath,identity\n", "what its first line says"),
    ("path,identity\nvisible/0.jpg,1\n ,2\n", "row 2: names no image")])
def test_a_table_that_cannot_be_meant(tmp_path, text, says):
    (tmp_path / "who.csv").write_text(text)
    with pytest.raises(ValueError, match=says): names_of(tmp_path / "who.csv")


def test_names_that_look_like_numbers_stay(tmp_path):
    (tmp_path / "who.csv").write_text("path,identity\nvisible/0.jpg,0012\nvisible/1.jpg,Nathan\ninfrared/0.jpg,12a\n")
    assert names_of(tmp_path / "who.csv") == ["0012", "Nathan"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_letters_of_two_signs_are_those_of_one(form):
    "macOS writes an é as e and an accent."
    one, two = (normalize(f, "visible/\u00e9.png") for f in ("NFC", "NFD"))
    assert rows_by_path([normalize(form, one), "b.png"], ["b.png", one], "who.csv").tolist() == [1, 0]
    assert rows_by_path([two, one], [one, two], "who.csv").tolist() == [1, 0]


def test_ids_that_are_masked_or_of_half_precision():
    with pytest.raises(ValueError, match="q_pids is an array of which 1 entries are masked"):
        checked_ids("q_pids", np.ma.array([1, 2], mask=[True, False]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checked_ids("q_pids", np.array([1, 2048], np.float16)).tolist() == [1, 2048]


KINDS = {"Int64": pd.array([1, None], dtype="Int64"), "string": pd.array(["1", None], dtype="string"),
         "category": pd.Categorical([1, None]), "float": [1., np.nan]}


@pytest.mark.parametrize("suffix", [".parquet", ".PARQUET"])
@pytest.mark.parametrize("kind", KINDS)
def test_parquet_of_any_kind_of_column(tmp_path, kind, suffix):
    table = pd.DataFrame({"path": PATHS["visible"], "identity": KINDS[kind]})
    for written in (table, table.set_index("path")):
        written.to_parquet(tmp_path / f"who{suffix}")
        assert names_of(tmp_path / f"who{suffix}") == ["1", ""]


@pytest.mark.parametrize("content", [b"", b"path,identity\nvisible/0.jpg,1\n", b"PAR1" + bytes(40) + b"PAR1"])
def test_what_is_no_parquet(tmp_path, content):
    (tmp_path / "who.parquet").write_bytes(content)
    with pytest.raises(ValueError, match="who.parquet: is no Parquet file that can be read"):
        names_of(tmp_path / "who.parquet")


@pytest.mark.parametrize("call,says", [
    (lambda: from_frame(TABLE.assign(train="yes"), X), r"train\[0\] is 'yes'; expected True or False"),
    (lambda: from_frame(TABLE.assign(train=False), X), "train is False in every row"),
    (lambda: from_frame(TABLE.assign(path=["a", None, "b"]), X), "row 1 has no path"),
    (lambda: from_frame(TABLE, X + 1j), "complex128; expected real numbers"),
    (lambda: from_frame(TABLE, [["a"] * 4] * 3), "expected real numbers"),
    (lambda: from_frame(TABLE, [[1] * 4] * 2 + [[1]]), "rows of different lengths"),
    (lambda: from_frame(TABLE, X, eps="x"), "eps = 'x' is a str"),
    (lambda: open_source(TABLE, X, labels="who.csv"), "labels: given beside a table"),
    (lambda: open_source(TABLE, X, crops="new"), "crops: given beside a table"),
    (lambda: open_source(from_frame(TABLE, X), eps=.3), "eps: given beside a Source"),
    (lambda: open_source("a run", eps=.3), "eps: given beside a run"),
    (lambda: more_columns(from_frame(TABLE, X), ["time"]), "columns: a list"),
    (lambda: more_columns(from_frame(TABLE, X), pd.DataFrame([["a", 1, 2]], columns=["path", "at", "at"])),
     "two columns are called at")])
def test_what_would_be_dropped_in_silence(call, says):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((ValueError, RunError), match=says): call()


@pytest.mark.parametrize("yes,no", [(True, False), (1., 0.), ("TRUE", "FALSE"), ("1", "0")])
def test_yes_and_no_as_programs_write_them(yes, no):
    assert from_frame(TABLE.assign(train=[yes, yes, no]), X).n == 2


def test_features_of_a_network_that_learns():
    assert np.allclose(from_frame(TABLE, torch.tensor(X).requires_grad_()).features(0), X)


# ---- names ----------------------------------------------------------------------------------------------------------

ODD = ["2024-01-01T12:00:00.png", "a..b.png", 'qu"ote.png', "com,ma.png", "'apos.png", "=1+1.png", " lead.png",
       "C:x.png"]


def test_names_that_break_a_table_are_counted_and_odd_ones_come_back(tmp_path):
    for m in MODALITIES:
        (tmp_path / m / " ").mkdir(parents=True)
        for k, name in enumerate(["line\nfeed.png", "car\rriage.png", "tab\t.png", "Icon\r", *ODD, " /x.png"]):
            Image.new("RGB", (4, 8), (9 * k, 0, 0)).save(tmp_path / m / name, "PNG")
    table = load_folder(tmp_path)
    assert set(table.path) == {f"{m}/{name}" for m in MODALITIES for name in [*ODD, " /x.png"]}
    left = table.attrs["left_out"]
    assert r"control character (rename them): 6 (visible/car\rriage.png, visible/line\nfeed.png" in left["control"]
    assert r"Icon\r" in left["hidden"] and "PROBLEM" in check(tmp_path).verdict
    run = Run.create(Config(run_dir=str(tmp_path / "run")), table.assign(train=True))
    assert run.images.path.tolist() == table.path.tolist() and run.files.path.tolist() == table.path.tolist()


# ---- run folders ----------------------------------------------------------------------------------------------------

NUMBERS = dict(eps=.6, min_samples=2, k1=2, k1_infrared=2, k2=1, n_sub=1)


@pytest.fixture
def run(tmp_path):
    "The folder of a run of two epochs, as an older version left it: without a manifest."
    table = pd.DataFrame({"path": [f"{m}/{k}.png" for m in MODALITIES for k in range(3)], "pid": 1, "camid": 1,
                          "modality": np.repeat(MODALITIES, 3), "split": "train", "train": True})
    run = Run.create(Config(run_dir=str(tmp_path / "runs/run"), **NUMBERS), table)
    for e in range(2):
        run.record({"epoch": e, "mAP": .1}, {f"features_{m}": np.eye(3, 4, dtype=np.float16) for m in MODALITIES},
                   {"epoch": e, "model": {}})
    (run.path / "manifest.jsonl").unlink()
    return run.path


def setting(**changes):
    def edit(run):
        about = json.loads((run / "config.json").read_text())
        about["config"] |= changes
        (run / "config.json").write_text(json.dumps(about))
    return edit


def rows(name, change):
    def edit(run): change(pd.read_csv(run / name)).to_csv(run / name, index=False)
    return edit


def choice(text): return lambda run: (run / "chosen.json").write_text(text)


def pipe(name):
    def edit(run):
        (run / name).unlink()
        os.mkfifo(run / name)
    return edit


def without_infrared(run):
    np.savez(run / "epochs/0001.npz", features_visible=np.eye(3, 4, dtype=np.float16))


EDITS = { # what was done to it -> (how, what is said)
    "a text for a number": (setting(n_sub="x"), "config.json: was changed, .* n_sub = 'x' is a str"),
    "null": (setting(k1=None), "config.json: was changed, .* k1 = None"),
    "a list": (setting(eps=[1]), r"config.json: was changed, .* eps = \[1\]"),
    "a word of nobody": (setting(select="best"), "config.json: was changed, .* select = 'best': expected one of"),
    "a setting of a later version": (setting(later=1), "config.json: .* another version .*'later' is not a parameter"),
    "a choice that is no object": (choice('{"settings": [1]}'), "chosen.json: holds no settings"),
    "a choice of nothing": (choice('{"settings": {"k1": "x"}}'), "chosen.json: was changed, .* k1 = 'x'"),
    "no modality": (rows("images.csv", lambda t: t.drop(columns="modality")), "images.csv: has no column modality"),
    "another modality": (rows("images.csv", lambda t: t.assign(modality="rgb")), "images.csv: line 2 has modality 'r"),
    "neither": (rows("images.csv", lambda t: t.assign(train="maybe")), "images.csv: line 2 has train 'maybe'"),
    "no row": (rows("images.csv", lambda t: t[:0]), "images.csv: names no image"),
    "a row less": (rows("images.csv", lambda t: t[1:]), "0001.npz: holds visible features .* 2 visible images"),
    "half an epoch": (rows("history.csv", lambda t: t.assign(epoch=t.epoch + .5)), "history.csv: line 2 is of epoch 0"),
    "a pipe for a history": (pipe("history.csv"), "history.csv is no file, but a folder or a named pipe"),
    "a pipe for an epoch": (pipe("epochs/0001.npz"), "0001.npz is no file, but a folder or a named pipe"),
    "no history": (lambda run: (run / "history.csv").unlink(), "no epoch is recorded yet"),
    "one modality": (without_infrared, "0001.npz|keep_features")}


@pytest.mark.parametrize("name", EDITS)
def test_a_run_folder_that_looks_right_and_is_not(run, name):
    edit, says = EDITS[name]
    edit(run)
    with pytest.raises(RunError, match=says) as caught: identity_table(run)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    assert len(list_runs(run.parent)) == 1, "the list of runs goes on"
    if "epoch" not in name:                             # the explorer leaves a damaged epoch out
        with pytest.raises(RunError, match=says.replace("0001", "000.")): open_source(run).labels(1)


# ---- pictures -------------------------------------------------------------------------------------------------------

RAMP = np.linspace(7000, 7800, 48 * 24).reshape(48, 24).round().astype(np.uint16)


def grey(file): return np.asarray(read_picture(file).convert("L"), int)


def test_counts_under_the_name_of_a_jpeg_have_the_range_of_their_camera(tmp_path):
    files = [tmp_path / f"{k}.jpg" for k in range(3)]
    for k, file in enumerate(files): Image.fromarray(RAMP + 1000 * k).save(file, "PNG")
    assert camera_ranges(files, [1] * 3) == {1: measured([RAMP + 1000 * k for k in range(3)])}


def tiff(pixels, bits, white_is_0, kind=1):
    "A TIFF of one strip, written by hand: (tag, type, value) each."
    tags = [(256, 3, 24), (257, 3, 48), (258, 3, bits), (259, 3, 1), (262, 3, int(not white_is_0)),
            (273, 4, 8 + 2 + 12 * 9 + 4), (277, 3, 1), (279, 4, len(pixels)), (339, 3, kind)]
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 9) + b"".join(
        struct.pack("<HHII", *tag[:2], 1, tag[2]) for tag in tags) + bytes(4) + pixels


def test_white_that_is_0(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(RAMP.astype("<u2").tobytes(), 16, False))
    (tmp_path / "b.tif").write_bytes(tiff((65535 - RAMP).astype("<u2").tobytes(), 16, True))
    a, b = grey(tmp_path / "a.tif"), grey(tmp_path / "b.tif")
    assert np.array_equal(a, b) and len(np.unique(a)) > 99


def test_eight_bits_with_a_sign(tmp_path):
    signed = np.linspace(-100, 100, 48 * 24).reshape(48, 24).round().astype(np.int8)
    (tmp_path / "a.tif").write_bytes(tiff(signed.tobytes(), 8, False, 2))
    (tmp_path / "b.tif").write_bytes(tiff((signed.astype(int) * 99).astype("<i2").tobytes(), 16, False, 2))
    assert np.abs(grey(tmp_path / "a.tif") - grey(tmp_path / "b.tif")).max() <= 1
    assert (np.diff(grey(tmp_path / "a.tif").ravel()) >= 0).all()


def test_a_tiff_that_is_not_read_is_not_said_to_be(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(RAMP.astype("<f8").tobytes(), 64, False, 3))
    with pytest.raises(DataError, match="a kind of TIFF that is not read .*as a PNG"): read_picture(tmp_path / "a.tif")


def png(kind, *channels):
    def number(n): return struct.pack(">I", n)
    def chunk(name, data): return number(len(data)) + name + data + number(zlib.crc32(name + data))
    lines = b"".join(b"\0" + line.tobytes() for line in np.stack(channels, -1).astype(">u2"))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 24, 48, 16, kind, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("name,content", [
    ("alpha.png", png(4, RAMP, RAMP * 0 + 65535)), ("colour.png", png(2, RAMP, RAMP, RAMP)),
    ("colour.ppm", b"P6\n24 48\n65535\n" + np.repeat(RAMP.ravel(), 3).astype(">u2").tobytes())])
def test_counts_in_colours_are_told(tmp_path, name, content):
    for m in MODALITIES:
        (tmp_path / m).mkdir()
        for k in range(2): Image.fromarray((RAMP // 32 + 9 * k).astype(np.uint8)).save(tmp_path / m / f"{k}.png")
    assert "16 bits in each" not in str(check(tmp_path))
    (tmp_path / "infrared" / name).write_bytes(content)
    assert "1 of 5 decoded images have 16 bits in each of several channels, of which the upper" in str(check(tmp_path))


def test_a_palette_with_alpha_is_read_without_a_word(tmp_path):
    Image.new("RGB", (4, 4), "red").quantize(4).save(tmp_path / "a.png", transparency=b"\7" * 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_picture(tmp_path / "a.png").getpixel((0, 0)) == (255, 0, 0)


# ---- checkpoints, words ---------------------------------------------------------------------------------------------

def zipped(name):
    with zipfile.ZipFile(out := io.BytesIO(), "w") as z: z.writestr(name, "x" * 99)
    return out.getvalue()


@pytest.mark.parametrize("content,says", [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    (b"\n<!DOCTYPE html><html>", "a web page"), (gzip.compress(b"x" * 99), "an archive; unpack it"),
    (struct.pack("<Q", 90) + b'{"w":{"dtype":"F32"}}' + bytes(90), "safetensors.torch.load_file"),
    (zipped("a.txt"), "an archive that holds a.txt; unpack it"), (zipped("w.npy"), "HDF5 or NumPy"),
    (bytes(257) + b"ustar" + bytes(99), "an archive; unpack it"), (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5 or NumPy"),
    (b"", "cut short .EOFError.; download it again")])
def test_what_is_no_checkpoint_is_called_what_it_is(tmp_path, content, says):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ValueError, match=f"not a file that torch.save.*{says}"): read_weights(tmp_path / "w.pth")


def test_a_long_list_of_names_is_shortened(tmp_path):
    torch.save({k: torch.ones(1) for k in range(500)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="got 0, 1, 2, 3, 4 and 495 more$"): read_weights(tmp_path / "w.pth")


LONG = "x" * 10**5


@pytest.mark.parametrize("wrong", [dict(dataset=LONG), dict(device=LONG), {LONG: 1}, dict(k1=LONG)])
def test_an_endless_value_is_shortened(wrong):
    with pytest.raises(RunError) as caught: Config(**wrong)
    assert len(str(caught.value).partition("\n")[0]) < 300


@pytest.mark.parametrize("words,says", [
    (["ablation", "--variants"], "nothing to run: name at least one variant and one seed"),
    (["ablation", "--seeds"], "nothing to run"), (["explore", "RUN", "--root", "nowhere"], "root = 'nowhere'"),
    (["explore", "RUN", "--columns", "nowhere.csv"], "columns = 'nowhere.csv'")])
def test_words_that_lead_nowhere(run, monkeypatch, words, says):
    monkeypatch.chdir(run.parent)
    monkeypatch.setattr("hil.cli.subprocess.run", lambda *_, **__: pytest.fail("JupyterLab was opened"))
    with pytest.raises(SystemExit, match=says): main([str(run) if word == "RUN" else word for word in words])


def test_a_home_that_is_a_file_is_called_home(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HIL_HOME", str(tmp_path / "file"))
    with pytest.raises(RunError, match="HIL_HOME = "): render("tiny", progress=False)
