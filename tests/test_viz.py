"Every curve of hil.plots.curves on ordinary, tiny and degenerate input: titles computed, axes named, nothing leaks."
import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from jupyter_client.manager import start_new_kernel
from pictures import check_drawing, png, said
from PIL import Image

from hil.core import names, text
from hil.plots import curves, style

HISTORY = pd.DataFrame({"epoch": range(4), "stage": [1, 1, 2, 2], "loss_total": [3, 2, 1, 0.5],
                        "clusters_visible": [5, 6, 7, 8], "clusters_infrared": [4, 5, 6, 7],
                        "outliers_visible": [9, 5, 3, 1], "ari_visible": [0.1, 0.2, 0.3, 0.4],
                        "transfer_precision": [np.nan, np.nan, 0.5, 0.6],
                        "transfer_coverage": [np.nan, np.nan, 0.9, 0.8], "rank1": [0.2, 0.3, 0.4, 0.5],
                        "mAP": [0.1, 0.2, 0.3, 0.41], "seconds": [1, 1, 1, 1]})
SWEEP = pd.DataFrame({"threshold": [0.2, 0.8], "precision": [0.6, 0.9], "coverage": [1, 0.5]})
EPS = pd.DataFrame({"eps": [0.4, 0.5], "clusters": [3, 6], "outliers": [9, 2]})

CASES = {
    "history": lambda: curves.history_plot(HISTORY, {"untrained": 0.1, "supervised": 0.8}),
    "history one epoch": lambda: curves.history_plot(HISTORY[:1], {"untrained": np.nan, "supervised": None}),
    "history NaN": lambda: curves.history_plot(HISTORY * np.nan),
    "history list": lambda: curves.history_plot([{"epoch": 0, "loss_total": 1.0}]),
    "history restarts": lambda: curves.history_plot(HISTORY.assign(epoch=[0, 1, 0, 1])),
    "history empty": lambda: curves.history_plot(pd.DataFrame()),
    "cmc": lambda: curves.cmc_plot({"trained": np.linspace(0.5, 1, 30), "untrained": [0.1, 0.2]}),
    "cmc empty": lambda: curves.cmc_plot({"trained": None, "untrained": [np.nan]}),
    "threshold": lambda: curves.threshold_curve(SWEEP, current=0.5),
    "threshold no truth": lambda: curves.threshold_curve(SWEEP.drop(columns="precision")),
    "threshold empty": lambda: curves.threshold_curve(SWEEP[:0]),
    "eps": lambda: curves.eps_curve(EPS, 0.45, people=5),
    "eps empty": lambda: curves.eps_curve(EPS[:0]),
}


@pytest.mark.parametrize("name", CASES)
def test_draws_with_a_title_and_leaks_nothing(name): check_drawing(CASES[name])


@pytest.mark.parametrize("name", ["history", "cmc", "threshold", "eps"])
def test_axes_are_named(name):
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in CASES[name]().axes if ax.axison)


@pytest.mark.parametrize("draw, one, other", [
    (curves.history_plot, HISTORY, HISTORY.assign(mAP=0.77)),
    (curves.cmc_plot, {"a": [0.5, 1]}, {"a": [0.6, 1]}),
    (curves.threshold_curve, SWEEP, SWEEP.assign(precision=0.1)),
    (curves.eps_curve, EPS, EPS.assign(clusters=[9, 1]))])
def test_titles_follow_the_data(draw, one, other):
    assert said(draw(one)) != said(draw(other))
    assert said(draw(one)) == said(draw(one))


def test_titles_tell_figures_one_can_check():
    assert "mAP is 41 %: 44 % of the way" in said(curves.history_plot(HISTORY, {"untrained": 0.1, "supervised": 0.8}))


def test_live_plot_is_silent_outside_a_kernel():
    assert curves.LivePlot(3).update(HISTORY) is False


@pytest.fixture(scope="module")
def kernel_messages():
    "What a real kernel sends while LivePlot draws three of four histories: [(type, content)]."
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_viz import HISTORY, curves
live, drew = curves.LivePlot(4), []
for n in (1, 2, 4):
    if n == 2: live.due += 1e6                    # as if the first drawing had taken long
    drew.append(live.update(HISTORY[:n]))
live.due = 0
drew + [live.update(HISTORY[:3])]"""
    manager, client = start_new_kernel(kernel_name="python3")
    messages = []
    def keep(message): messages.append((message["header"]["msg_type"], message["content"]))
    client.execute_interactive(code, timeout=60, output_hook=keep)
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    return messages


def test_live_plot_keeps_one_picture_and_skips_what_comes_too_soon(kernel_messages):
    told = ("display_data", "update_display_data", "execute_result", "error")
    shown = [(kind, content) for kind, content in kernel_messages if kind in told]
    assert [kind for kind, _ in shown] == [*told[:2], told[1], told[2]], "one picture, updated in place, none left over"
    assert shown[-1][1]["data"]["text/plain"] == "[True, False, True, True]"
    pictures = [content for kind, content in kernel_messages if kind.endswith("display_data")]
    assert len({p["transient"]["display_id"] for p in pictures}) == 1
    assert len({p["data"]["image/png"] for p in pictures}) == 3


def test_live_plot_keeps_its_room_on_the_page(kernel_messages):
    "JupyterLab empties the output before the next picture is decoded: without a size the page below jumps."
    sizes = set()
    for content in (content for kind, content in kernel_messages if kind.endswith("display_data")):
        image = Image.open(io.BytesIO(base64.b64decode(content["data"]["image/png"])))
        assert content["metadata"]["image/png"] == dict(zip(("width", "height"), image.size))
        assert image.convert("RGBA").getpixel((1, 1)) == (255, 255, 255, 255), "white ground, for the dark theme"
        sizes.add(image.size)
    assert len(sizes) == 1


def test_axes_stay_where_they_are_while_a_run_grows():
    "In the live plot nothing but the lines should move; tick labels may take a few pixels."
    boxes = []
    for n in (1, 2, 4):
        fig = curves.history_plot(HISTORY[:n], total_epochs=4)
        png(fig)
        boxes.append([ax.get_position().bounds for ax in fig.axes])
    np.testing.assert_allclose(boxes[0], boxes[2], atol=0.012)
    np.testing.assert_allclose(boxes[1], boxes[2], atol=0.012)


def test_no_minus_nought():
    said_ = [text.percent(x) for x in (-0.001, 0.004, 0.415, 1, np.nan, None)]
    assert said_ == ["0 %", "0 %", "42 %", "100 %", "unknown", "unknown"]


@pytest.mark.parametrize("draw", [CASES["history"], CASES["history one epoch"]])
def test_counts_start_at_nought_and_nothing_is_cut_off(draw):
    for ax in (ax for ax in draw().axes if ax.lines):
        low, high = ax.get_ylim()
        assert low <= 0 and high > np.nanmax([np.nanmax(line.get_ydata()) for line in ax.lines])


def test_palette_is_distinct_and_modalities_differ():
    assert len(np.unique(style.palette(30), axis=0)) == 30 and style.palette(300).shape == (300, 3)
    assert names.COLORS["visible"] == "#0072B2" and names.COLORS["infrared"] == "#D55E00"
    assert curves.COLORS is names.COLORS


def test_where_nobody_is_named_the_clusters_are_the_headline():
    found = pd.DataFrame({"epoch": [1, 2], "clusters_visible": [5., 25.], "clusters_infrared": [3., 1.]})
    assert curves._history_finding(found, {}) == "After 2 epochs: 25 visible clusters and 1 infrared cluster"
    assert curves._history_finding(found[[]], {}) == "After 2 epochs: retrieval was not measured"
