"The explorer's front end without a browser: JavaScript in node, static files, what it needs of jupyter-scatter."
import inspect
import re
import shutil
import subprocess
from pathlib import Path

import jscatter
import numpy as np
import pandas as pd
import pytest

from hil.explore import widgets
from hil.explore.map_view import MapView
from hil.explore.session import as_session

TOP = Path(__file__).resolve().parents[1]
WIDGETS = {"sheet.js": widgets.Sheet, "match_graph.js": widgets.MatchGraph, "curves.js": widgets.Curves,
           "frame.js": widgets.Frame, "timeline.js": widgets.Timeline}
needs_node = pytest.mark.skipif(shutil.which("node") is None,
                                reason="no JavaScript test: node is not installed (Debian: apt-get install nodejs)")


def node(*arguments):
    done = subprocess.run(["node", *map(str, arguments)], capture_output=True, text=True, cwd=TOP, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_node
def test_javascript():
    tests = sorted((TOP / "tests" / "js").glob("*.test.js"))
    passed = re.search(r"^# pass (\d+)$", node("--test", "--test-reporter=tap", *tests), re.M)
    assert passed and int(passed[1]) >= 20


@needs_node
@pytest.mark.parametrize("name", WIDGETS)
def test_a_widgets_module_stands_alone(tmp_path, name):
    "What the browser gets: one module without imports, whose default export renders."
    text = str(WIDGETS[name]._esm)
    assert text == widgets.bundled(name) and not re.search(r"^import ", text, re.M)
    (tmp_path / "widget.mjs").write_text(text)
    (tmp_path / "look.mjs").write_text('import widget from "./widget.mjs"; console.log(typeof widget.render);')
    assert node(tmp_path / "look.mjs") == "function\n"


def test_every_static_file_is_used():
    used = {*WIDGETS, "dom.js", "hil.css", "notice.html", "twin.html", "saved.html", "saved.css", "saved.js"}
    assert {file.name for file in widgets.STATIC.iterdir()} == used
    alone = used - {*WIDGETS, "saved.js"}
    assert all("import " not in (widgets.STATIC / name).read_text() for name in alone), "see `bundled`"


def test_every_class_in_the_style_sheet_is_used():
    "Each .hil-... of hil.css is a class that a widget or a view sets."
    style = (widgets.STATIC / "hil.css").read_text()
    code = "".join(file.read_text() for file in [*(TOP / "hil/explore").glob("*.py"), *widgets.STATIC.glob("*.js")])
    unused = [name for name in set(re.findall(r"\.(hil-[a-z-]+)", style)) if f'"{name}"' not in code]
    assert not unused


def test_map_view_and_jupyter_scatter():
    """`MapView.hovered` takes the place of jupyter-scatter's private `_handle_tooltip`, and answers as that one does.

    Read from jupyter-scatter 1.0.1. Where this fails after an update: look for the place in jscatter/widget.py where
    a message of the browser with type "tooltip" is answered, and let `MapView.plot` hang `hovered` there.
    """
    widget = jscatter.widget.JupyterScatter
    said = f"jupyter-scatter {jscatter.__version__} (read: 1.0.1) answers tooltips otherwise: see this test's docstring"
    assert list(inspect.signature(widget._handle_tooltip).parameters) == ["self", "event"], said
    assert jscatter.widget.EVENT_TYPES["TOOLTIP"] == "tooltip", said
    # its own answer and ours, to the same question
    table = pd.DataFrame({"path": ["a.jpg", "b.jpg"], "camid": [1, 3], "modality": ["visible", "infrared"], "label": 0})
    view = MapView(as_session(table, np.eye(2), xy=np.eye(2), journal="none.jsonl"))
    heard, question = [], {"type": "tooltip", "index": 1, "preview": "image", "properties": ["about"]}
    view.scatter.widget.send = heard.append
    view.scatter.widget._handle_custom_msg(question, [])
    widget._handle_tooltip(view.scatter.widget, question)
    ours, own = heard
    assert ours.keys() == own.keys() and ours["properties"].keys() == own["properties"].keys(), said
    assert (ours["type"], ours["index"]) == (own["type"], own["index"]) and "camera 3" in ours["properties"]["about"]
