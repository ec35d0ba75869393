"Sliders in lessons: moved, they show another picture; without a kernel, a still one stands there. And the cast."
import ast
import importlib
import json
import os
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from hil.explore.playground import Playground
from hil.plots.groups import group_mosaic, group_sheets
from hil.plots.style import styled

NBS = Path(__file__).parents[1] / "nbs"
LESSONS = {"4_method/02_cluster": {"eps", "min_samples", "k1"}, "4_method/03_sub_clusters": {"n_sub", "shrink"},
           "4_method/04_match": {"t", "overlap"}, "4_method/05_memory": {"momentum"}}


def code(name):
    "Source and outputs of each code cell."
    cells = json.loads((NBS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return [("".join(c["source"]), c["outputs"]) for c in cells if c["cell_type"] == "code"]


def playground(name):
    "Run a lesson up to its sliders, its module imported instead of made -> the Playground."
    module = re.search(r"default_exp (\S+)", "\n".join(source for source, _ in code(name)))[1]
    space = dict(vars(importlib.import_module(f"hil.{module}")))
    for source, _ in code(name):
        if source.startswith("#|"): continue
        tree = ast.parse(source)
        last = tree.body.pop() if "Playground(" in source and "import" not in source else None
        exec(compile(tree, name, "exec"), space)
        plt.close("all")
        if last is not None: return eval(compile(ast.Expression(last.value), name, "eval"), space)


@pytest.mark.parametrize("name", LESSONS)
def test_each_slider_of_a_lesson_draws_another_picture(name, hil_home, monkeypatch):
    monkeypatch.chdir(NBS / name.partition("/")[0])
    matplotlib.use("Agg")
    shown = playground(name)
    assert set(shown.sliders) == LESSONS[name]
    for slider in shown.sliders.values():
        before, value = shown.picture.value, slider.value
        slider.value = slider.min if value != slider.min else slider.max
        assert shown.picture.value != before, f"{name}: {slider.description} moved, and nothing changed"
        slider.value = value
        assert shown.picture.value == before


@pytest.mark.parametrize("name", LESSONS)
def test_a_reader_without_a_kernel_sees_a_picture_in_place_of_the_sliders(name):
    outputs = [outputs for source, outputs in code(name) if re.search(r"^Playground\(", source, re.M)]
    kinds = {kind for shown in outputs for out in shown for kind in out.get("data", {})}
    assert len(outputs) == 1 and "image/png" in kinds and not any("widget" in kind for kind in kinds)


def line(height=1.):
    fig, ax = plt.subplots(figsize=(2, 1))
    ax.plot([0, 1], [0, height])
    ax.set_ylim(0, 5)
    plt.close(fig)
    return fig


def test_a_playground_shows_both_its_widget_and_its_still():
    shown = Playground(line, line(2.), height=(0., 5., .5, 1.))
    bundle = shown._repr_mimebundle_()
    assert {"text/plain", "image/png", "application/vnd.jupyter.widget-view+json"} <= set(bundle)
    assert "height = 1" in bundle["text/plain"]


@pytest.mark.parametrize("told", [(0, 5, 1), (0, 5, 1, 6), (3, 5, 1, 2)])
def test_a_slider_outside_of_its_range_is_refused(told):
    with pytest.raises(ValueError, match="slider height: got .*first <= value <= last"):
        Playground(line, line(), height=told)


def test_a_styled_picture_leaves_the_settings_of_a_notebook_alone():
    "The notebook's backend switches `interactive` on when the first figure is made, and needs it to stay on."
    @styled
    def draws():
        plt.rcParams["interactive"] = True
        return line()
    size, plt.rcParams["interactive"] = plt.rcParams["font.size"], False
    draws()
    try: assert plt.rcParams["interactive"] and plt.rcParams["font.size"] == size
    finally: plt.rcParams["interactive"] = False


def test_every_picture_of_a_group_is_in_the_mosaic():
    rng = np.random.default_rng(0)
    groups, people = rng.integers(-1, 4, 40), rng.integers(0, 5, 40)
    canvas, marks = group_mosaic(np.zeros((40, 8, 4, 3), np.uint8), groups, people, across=5, height=20)
    lines = sum(-(-np.sum(groups == g) // 5) for g in np.unique(groups))
    assert canvas.shape == (lines * 29, 5 * 18, 3) and [g for g, _ in marks] == [0, 1, 2, 3, -1]
    black = (canvas.reshape(lines, 29, 5, 18, 3)[:, 3:23, :, 3:13] == 0).all((1, 3, 4)).sum()
    assert black == 40
    fig = group_sheets(np.zeros((40, 8, 4, 3), np.uint8), {"a": groups, "b": people}, people, "Two groupings")
    assert len(fig.axes) == 2


def test_the_cast_is_the_same_each_time(hil_home):
    from hil.synth.cast import six_people
    assert os.environ["HIL_HOME"] == str(hil_home)
    six_people.cache_clear()
    one = six_people()
    six_people.cache_clear()
    two = six_people()
    assert (one.pictures == two.pictures).all() and (one.features == two.features).all()
    assert np.allclose(np.linalg.norm(one.features, axis=1), 1) and (np.bincount(one.pids) == 12).all()
    for m in ("visible", "infrared"):
        assert len(one.portraits(m)) == 6 and set(one.of(m).table.modality) == {m}
    for camera in one.table.camid.unique():  # no person is told by the camera alone
        assert (one.table.pid[one.table.camid == camera].value_counts() == 2).all()
