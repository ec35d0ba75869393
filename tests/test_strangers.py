"What strangers wrote: names, paths and files of somebody else, in pictures, pages, tables and on the disk."
import json
import os
import re
import struct
import threading
import zlib
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hil.core.errors import DataError, RunError
from hil.core.files import load_npz, save_npz, write_atomic
from hil.core.text import from_cell, in_markdown, short, to_cell
from hil.data.layouts import read_list
from hil.evaluation.metrics import Metrics
from hil.evaluation.tables import render_table, result_table
from hil.explore.curation_view import CurationView, before_after
from hil.explore.identity_view import IdentityView
from hil.explore.journal import Journal, export_labels, read_labels
from hil.explore.match_view import MatchView
from hil.explore.retrieval_view import RetrievalView
from hil.explore.session import as_session
from hil.explore.source import open_source, thumbnail
from hil.plots import curves, maps, sheets
from hil.runs.config import Config
from hil.runs.folder import Run

SCRIPT = "<img src=x onerror=alert(1)>"
LONG = "very long " * 1000
NAMES = [SCRIPT, "$x^2$", "$", r"$\frac{", "a$b$c_{", "=1+1", "x" * 5000, LONG, "a\nb\x1b[2J\u202ec", "", "  ",
         "名前", "</script>"]


# ---- paths --------------------------------------------------------------------------------------------------------

def a_run(folder, path):
    "A run folder whose second picture is at `path`."
    table = pd.DataFrame({"path": ["cam1/1.jpg", path], "camid": [1, 3], "modality": ["visible", "infrared"],
                          "pid": [1, 1], "train": True})
    run = Run.create(Config(run_dir=str(folder / "run")), table)
    arrays = {f"{kind}_{m}": x for m in ("visible", "infrared")
              for kind, x in (("features", np.ones((1, 4), np.float16)), ("labels", np.zeros(1, np.int32)))}
    run.record(dict(epoch=0), arrays, {})
    return run


@pytest.mark.parametrize("path", ["../../x.png", "/etc/hostname", "cam1/../../x.png", "..", "C:\\x.png",
                                  "\\\\host\\x.png", "..\\x.png", "cam1/\x01x"])
def test_a_run_folder_whose_table_leads_out(tmp_path, path):
    run = a_run(tmp_path, path)
    with pytest.raises(RunError, match=r"images.csv, line 3: path .* leads out") as error: open_source(run.path)
    assert "Nothing was opened" in str(error.value)


def test_a_run_folder_that_stays_inside_opens(tmp_path):
    assert open_source(a_run(tmp_path, "cam3/..jpg").path).n == 2


def test_ones_own_table_says_where_its_pictures_are(tmp_path):
    Image.new("RGB", (4, 8)).save(tmp_path / "a.png")
    table = pd.DataFrame({"path": [str(tmp_path / "a.png"), "../b.png"], "camid": [1, 3],
                          "modality": ["visible", "infrared"], "label": 0})
    source = open_source(table, np.eye(2))
    assert Image.open(BytesIO(source.thumbs([0])[0])).size == (48, 96)


@pytest.mark.parametrize("path", ["../5/a.bmp", "/etc/5/a.bmp", "Visible/../../5/a.bmp"])
def test_a_list_that_leads_out(tmp_path, path):
    (tmp_path / "idx.txt").write_text(f"Visible/1/a.bmp 0\n{path} 1\n")
    with pytest.raises(DataError, match="idx.txt, line 2: .* leads out"): read_list(tmp_path, "idx.txt", "Visible")


# ---- names on pages -----------------------------------------------------------------------------------------------

@pytest.fixture
def session(tmp_path, monkeypatch):
    "Four images of two people; names and cameras are those of somebody who means no good."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HIL_HOME", str(tmp_path / "home"))
    table = pd.DataFrame({"path": [f"{SCRIPT}{i}.jpg" for i in range(4)], "camid": [1, 1, 3, 3], "label": [0, 1, 0, 1],
                          "modality": ["visible", "visible", "infrared", "infrared"], "name": [SCRIPT, LONG] * 2,
                          "pid": [SCRIPT, "$" + LONG] * 2})
    x = np.eye(4, dtype=np.float32)[[0, 1, 0, 1]] + .1
    return as_session(table, x, xy=np.eye(4)[:, :2], journal=tmp_path / "<b>journal.jsonl")


def test_names_are_escaped_where_html_is_written(session):
    view = CurationView(session)
    session.open(0)
    for name in NAMES:
        view.name.value = name
        view.do("rename")
        assert not [mark for mark in ("<img", "<b>journal", "</script") if mark in view.table.value]
        assert len(view.table.value) < 4000
    session.select([0])
    view.name.value = SCRIPT
    view.do("split selection")
    assert "&lt;img" in view.table.value and "<img" not in view.table.value


def test_a_very_long_name_does_not_break_a_view(session):
    for kind in (IdentityView, MatchView, RetrievalView, CurationView):
        view = kind(session)
        session.open(1)
        session.image = 1
        width, height = view.static().canvas.get_width_height()
        assert 100 < width < 2500 and 100 < height < 2500, kind
        view._repr_mimebundle_()
    assert all(len(label) < 60 for label, _ in CurationView(session).one.options)
    assert len(session.name(1)) == 32 and session.labels.names[1] == LONG, "shown short, kept whole"


def test_what_cannot_be_exported_is_said_in_the_view(session):
    view = CurationView(session)
    for file in ("/proc/x.csv", "labels.txt", " ", "x" * 300 + ".csv", "~no-such-user-here/x.csv"):
        view.file.value = file
        view.do("export")
        assert view.frame.warn and "Errno" not in view.frame.warn, file


# ---- names in pictures --------------------------------------------------------------------------------------------

def drawn(fig):
    "The figure as PNG, so that every text is laid out; its size in pixels."
    fig.savefig(png := BytesIO(), format="png")
    return Image.open(png).size


@pytest.mark.parametrize("name", [r"$\frac{", "$x^2$ a\nb\x1b\u202e", LONG], ids=["half", "formula", "long"])
@pytest.mark.filterwarnings("error")
def test_any_name_can_be_drawn(name):
    image = np.zeros((2, 3, 8, 4), np.uint8)
    labels = np.array([name, "other"] * 5)
    pairs = pd.DataFrame({"source": [name, "V1"], "target": ["I0", name], "n_samples": [3, 2], "n_accepted": [3, 1],
                          "similarity": [.9, .5]})
    cameras = pd.DataFrame([[.5, .6]], index=[name], columns=[name, 2])
    figures = [
        curves.cmc_plot({name: np.array([.5, 1])}), curves.camera_matrix(cameras),
        curves.history_plot(pd.DataFrame({"epoch": [1, 2], "mAP": [.1, .2]}), {name: .5}),
        maps.umap_panels(np.random.default_rng(0).normal(size=(10, 2)), {name: labels}),
        maps.match_graph_plot(pairs),
        sheets.contact_sheet([[image[0], image[1]]], [name], [name, name], title=name),
        sheets.subcluster_sheet(image, [0, 0], ["visible", "infrared"], [name, name], [name, name], title=name),
        sheets.retrieval_sheet(image[:1], image, np.array([[0, 1]]), [name], [name, "x"], [name], [name, "1"],
                               never=()),
        before_after({name: dict(ari=.5, identities=1, outliers=0), "b": dict(ari=.6, identities=1, outliers=0)})]
    for fig in figures:
        width, height = drawn(fig)
        assert width < 2600 and height < 2600
        plt.close(fig)


def test_a_dollar_is_shown_as_a_dollar():
    fig = curves.cmc_plot({"$x^2$": np.array([.5, 1])})
    texts = [t for t in fig.findobj(plt.Text) if "$" in t.get_text()]
    assert texts and not any(t.get_parse_math() for t in texts)


# ---- names in tables ----------------------------------------------------------------------------------------------

FORMULAS = ["=1+1", "+1+cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''@x", "=HYPERLINK(\"http://x\")", "-", "+"]


def test_no_cell_of_an_export_is_a_formula_and_labels_come_back(tmp_path):
    paths = [f"{f}/{i}.jpg" for i, f in enumerate(FORMULAS)]
    journal = Journal(None, paths, range(len(paths)), FORMULAS)
    table = pd.DataFrame({"camid": 1, "modality": "visible", "pid": FORMULAS})
    export_labels(journal, tmp_path / "labels.csv", table)
    text = pd.read_csv(tmp_path / "labels.csv", dtype=str, keep_default_na=False)
    assert not [cell for cell in text.to_numpy().ravel() if cell[:1] in "=+-@\t\r" and cell[:1]]
    assert read_labels(tmp_path / "labels.csv", paths).tolist() == list(range(len(paths)))
    assert text.name.map(from_cell).tolist() == FORMULAS


def test_numbers_and_plain_words_stay():
    for value in (-1, -1.5, "-1", "+3.5", "plain", "it's", "'quoted'", "", None, True):
        assert to_cell(value) is value and from_cell(to_cell(value)) == value


def test_tables_of_results_show_names_as_they_are():
    figures = [Metrics(np.full(20, .5), .5, .5)]
    for name in ("a|b", SCRIPT, "$x$", "**b**", "[l](javascript:1)", "`c`", "n\nn"):
        table = result_table({name: {name: figures}}, published=False)
        page = render_table(table, notes=[name])
        assert "<img" not in page and page.count("\n|") == 3 and in_markdown(name) in page
        assert not re.search(r"(?<!\\)(\$x|\[l\]|`c)|[^\\*]\*\*b", page)
    tex = render_table(result_table({"s": {r"$\{}~^_%&#": figures}}, published=False), "latex")
    assert r"\$\textbackslash{}\{\}\textasciitilde{}\textasciicircum{}\_\%\&\#" in tex
    cells = render_table(result_table({"s": {"=cmd": figures}}, published=False), "csv")
    assert ",'=cmd," in cells


def test_short_names():
    assert short("plain") == "plain" and len(short(LONG)) == 40 and short(LONG, 9) == "very …ng "
    assert short("a\nb\x1bc\u202ed") == "a b c d"


# ---- files --------------------------------------------------------------------------------------------------------

def test_a_half_written_file_is_never_a_link(tmp_path):
    victim, target = tmp_path / "victim", tmp_path / "x.txt"
    victim.write_text("precious")
    for lead in (victim, tmp_path / "made-by-a-link"):
        (tmp_path / f".{os.getpid()}-{threading.get_ident()}-x.txt").symlink_to(lead)
        write_atomic(target, lambda part: part.write_text("new"))
        assert victim.read_text() == "precious" and target.read_text() == "new" and not target.is_symlink()
    assert not (tmp_path / "made-by-a-link").exists()
    target.unlink()
    target.symlink_to(victim)
    write_atomic(target, lambda part: part.write_text("new"))
    assert victim.read_text() == "precious" and not target.is_symlink()


def zip_with(path, name, content, **more):
    import zipfile
    with zipfile.ZipFile(path, "w", **more) as z: z.writestr(name, content)


def head(shape, descr="<f8"):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize("make,says", [
    (lambda p: np.savez_compressed(p, x=np.zeros(10**7)), "at most"),
    (lambda p: zip_with(p, "x.npy", head((10**13,))), "says 80,000,000,000,128 bytes, and holds 128"),
    (lambda p: zip_with(p, "x.npy", head((2,)) + b"1234567"), "says 144 bytes"),
    (lambda p: zip_with(p, "x.npy", head((1,), "|O") + b"12345678"), "says"),
    (lambda p: zip_with(p, "x.npy", b"hello"), "cannot be read"), (lambda p: p.write_bytes(b""), "cannot be read"),
    (lambda p: p.write_bytes(b"PK\x03\x04"), "cannot be read"),
    (lambda p: zip_with(p, "x.npy", b""), "cannot be read")])
def test_an_npz_is_bounded_before_it_is_expanded(tmp_path, make, says):
    make(tmp_path / "x.npz")
    with pytest.raises(DataError, match="x.npz") as error: load_npz(tmp_path / "x.npz")
    assert says in str(error.value)


def test_an_honest_npz_is_read(tmp_path):
    save_npz(tmp_path / "x.npz", {"a": np.arange(6).reshape(2, 3), "b": np.float16([1]), "c": np.array("word")})
    found = load_npz(tmp_path / "x.npz")
    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and found["b"].dtype == np.float16 and found["c"] == "word"
    assert list(load_npz(tmp_path / "x.npz", ["b", "z"])) == ["b"]


def png(width, height):
    "A PNG that claims a size, and holds hardly anything."
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("content", [png(60_000, 60_000), png(10_000, 10_000), png(2**31 - 1, 1), b"", b"hello",
                                     b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", png(90_000, 1)],
                         ids=["bomb", "warning", "wide", "empty", "text", "eps", "strip"])
def test_a_thumbnail_of_anything_is_a_card(tmp_path, content):
    (tmp_path / "x.jpg").write_bytes(content)
    shown = Image.open(BytesIO(thumbnail(tmp_path / "x.jpg")))
    assert shown.format == "JPEG" and shown.height == 96 and shown.width <= 4 * 96


def test_a_thumbnail_of_a_pipe_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    assert thumbnail(tmp_path / "x.jpg")


def test_a_journal_of_somebody_else_is_shown_without_running(session, tmp_path):
    lines = [json.loads(line) for line in Path(session.journal_file).read_text().splitlines()] if Path(
        session.journal_file).exists() else []
    session.act(dict(do="rename", identity=0, name=SCRIPT))
    assert not lines and "<img" not in CurationView(session).table.value
