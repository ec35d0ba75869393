"Every picture of hil.viz on ordinary, tiny and degenerate input: titles computed, axes named, nothing leaks, no glyph missing."
import warnings

import numpy as np
import pandas as pd
import pytest
from pictures import CAM, FEATURES, MODALITY, N, PID, XY, axes_titles, check_drawing, said

from hil import viz

HISTORY = pd.DataFrame({"epoch": range(4), "stage": [1, 1, 2, 2], "loss_total": [3, 2, 1, 0.5],
                        "clusters_visible": [5, 6, 7, 8], "clusters_infrared": [4, 5, 6, 7], "outliers_visible": [9, 5, 3, 1],
                        "ari_visible": [0.1, 0.2, 0.3, 0.4], "transfer_precision": [np.nan, np.nan, 0.5, 0.6], "transfer_coverage": [np.nan, np.nan, 0.9, 0.8], "rank1": [0.2, 0.3, 0.4, 0.5],
                        "mAP": [0.1, 0.2, 0.3, 0.41], "seconds": [1, 1, 1, 1]})
TABLE = pd.DataFrame({"source": [0, 0, 1, 2], "target": [0, 1, 1, 7], "n_samples": [10, 4, 8, 5], "n_accepted": [10, 1, 8, 0],
                      "similarity": [0.8, 0.4, 0.7, 0.3], "correct": [True, False, True, False]})
SWEEP = pd.DataFrame({"threshold": [0.2, 0.8], "precision": [0.6, 0.9], "coverage": [1, 0.5]})
EPS = pd.DataFrame({"eps": [0.4, 0.5], "clusters": [3, 6], "outliers": [9, 2]})

CASES = {
    "umap": lambda: viz.umap_panels(XY, {"person": PID, "camera": CAM, "modality": MODALITY, "outliers": np.where(PID == 1, -1, PID)}, MODALITY,
                                    FEATURES, total=500),
    "umap on the map, hundreds of labels": lambda: viz.umap_panels(XY, {"id": np.arange(N)}),
    "umap one point": lambda: viz.umap_panels(XY[:1], {"id": [3]}, ["infrared"]),
    "umap all outliers": lambda: viz.umap_panels(XY, {"cluster": np.full(N, -1)}),
    "umap missing labels": lambda: viz.umap_panels(XY[:2], {"cluster": [None, np.nan]}),
    "umap empty": lambda: viz.umap_panels(np.zeros((0, 2)), {"id": []}),
    "history": lambda: viz.history_plot(HISTORY, {"untrained": 0.1, "supervised": 0.8}),
    "history one epoch": lambda: viz.history_plot(HISTORY[:1], {"untrained": np.nan, "supervised": None}),
    "history NaN": lambda: viz.history_plot(HISTORY * np.nan),
    "history list": lambda: viz.history_plot([{"epoch": 0, "loss_total": 1.0}]),
    "history restarts": lambda: viz.history_plot(HISTORY.assign(epoch=[0, 1, 0, 1])),
    "history empty": lambda: viz.history_plot(pd.DataFrame()),
    "cmc": lambda: viz.cmc_plot({"trained": np.linspace(0.5, 1, 30), "untrained": [0.1, 0.2]}),
    "cmc empty": lambda: viz.cmc_plot({"trained": None, "untrained": [np.nan]}),
    "threshold": lambda: viz.threshold_curve(SWEEP, current=0.5),
    "threshold no truth": lambda: viz.threshold_curve(SWEEP.drop(columns="precision")),
    "threshold empty": lambda: viz.threshold_curve(SWEEP[:0]),
    "eps": lambda: viz.eps_curve(EPS, 0.45, people=5),
    "eps empty": lambda: viz.eps_curve(EPS[:0]),
    "graph": lambda: viz.match_graph(TABLE),
    "graph back, no truth": lambda: viz.match_graph(TABLE.drop(columns="correct"), "infrared", "visible"),
    "graph some truth": lambda: viz.match_graph(TABLE.assign(correct=[True, None, np.nan, False], similarity=np.nan)),
    "graph one": lambda: viz.match_graph(TABLE[:1]),
    "graph all refused": lambda: viz.match_graph(TABLE.assign(n_accepted=0)),
    "graph few": lambda: viz.match_graph(TABLE, max_clusters=1),
    "graph empty": lambda: viz.match_graph(TABLE[:0]),
}


@pytest.mark.parametrize("name", CASES)
def test_draws_with_a_title_and_leaks_nothing(name): check_drawing(CASES[name])


@pytest.mark.parametrize("name", ["umap", "history", "cmc", "threshold", "eps"])
def test_axes_are_named(name):
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in CASES[name]().axes if ax.axison)


@pytest.mark.parametrize("draw, one, other", [
    (viz.history_plot, HISTORY, HISTORY.assign(mAP=0.77)),
    (viz.cmc_plot, {"a": [0.5, 1]}, {"a": [0.6, 1]}),
    (viz.threshold_curve, SWEEP, SWEEP.assign(precision=0.1)),
    (viz.eps_curve, EPS, EPS.assign(clusters=[9, 1])),
    (viz.match_graph, TABLE, TABLE.assign(n_accepted=1))])
def test_titles_follow_the_data(draw, one, other):
    assert said(draw(one)) != said(draw(other))
    assert said(draw(one)) == said(draw(one))


def test_titles_tell_figures_one_can_check():
    assert "mAP is 41 %: 44 % of the way" in said(viz.history_plot(HISTORY, {"untrained": 0.1, "supervised": 0.8}))
    assert "70 % of 27 samples accepted, 95 % of them right (of the refused, 0 % would have been)" in said(viz.match_graph(TABLE))


def test_purity_is_that_of_hand_counted_neighbours():
    near, codes = np.array([[1], [0], [3], [0]]), np.array([0, 0, 1, -1])
    share, chance = viz._purity(near, codes)
    assert share == pytest.approx(2 / 3) and chance == pytest.approx(2 / 9)   # two of three known; 2*1 ordered pairs of 3*3
    assert axes_titles(viz.umap_panels(XY, {"p": PID}, features=FEATURES))[0].startswith("p: 90 %")  # ten of each person: 9 of 10


def test_neighbours_equal_a_full_sort():
    unit = viz._unit(FEATURES)
    cos = unit @ unit.T
    np.fill_diagonal(cos, -np.inf)
    near, sim = viz._neighbors(unit, 7, block=32)
    np.testing.assert_allclose(sim, -np.sort(-cos, axis=1)[:, :7])
    assert not (near == np.arange(N)[:, None]).any()


@pytest.mark.parametrize("n", [0, 1, 2, 9, 10, 40, N])
def test_embed_sizes_seed_and_silence(n):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        index, xy = viz.embed(FEATURES[:n])
    assert index.tolist() == list(range(n)) and xy.shape == (n, 2) and np.isfinite(xy).all()
    np.testing.assert_array_equal(xy, viz.embed(FEATURES[:n])[1])


def test_embed_samples_evenly_and_refuses_nonsense():
    index, xy = viz.embed(FEATURES, max_points=45, groups=PID)
    assert set(np.bincount(PID[index])) == {5} and len(np.unique(index)) == 45 == len(xy)
    assert np.isfinite(viz.embed(np.ones((30, 4)))[1]).all()                   # all rows equal
    for bad in (np.full((20, 2), np.nan), np.zeros(5)):
        with pytest.raises(ValueError, match="finite"): viz.embed(bad)


def test_barycentre_untangles_a_ladder():
    edges = pd.DataFrame({"source": [0, 1, 2, 3], "target": [9, 4, 7, 1], "n_samples": [1, 1, 1, 1]})
    left, right = viz._barycentre([0, 1, 2, 3], edges)
    assert [left[s] for s in edges["source"]] == [right[t] for t in edges["target"]]


def test_troubled_sources_come_first():
    many = pd.DataFrame({"source": range(50), "target": range(50), "n_samples": [90] * 47 + [10] * 3,
                         "n_accepted": [90] * 47 + [2, 10, 10], "similarity": 0.5, "correct": [True] * 48 + [False, True]})
    shown, words = viz._troubled(many, 2)
    assert set(shown) == {47, 48} and words.startswith("2 of 50") and "2 have" in words


def test_live_plot_is_silent_outside_a_kernel():
    assert viz.LivePlot(3).update(HISTORY) is False


def test_live_plot_keeps_one_picture(monkeypatch):
    import IPython
    import IPython.display
    shown, updated = [], []
    handle = type("Handle", (), {"update": lambda self, fig: updated.append(fig)})()
    monkeypatch.setattr(IPython, "get_ipython", lambda: type("Shell", (), {"kernel": None})())
    monkeypatch.setattr(IPython.display, "display", lambda fig, display_id: shown.append(fig) or handle)
    live = viz.LivePlot(4)
    assert [live.update(HISTORY[:n]) for n in (1, 2, 4)] == [True, False, True]  # too soon is skipped, the last never
    assert (len(shown), len(updated)) == (1, 1)


def test_palette_is_distinct_and_modalities_differ():
    assert len(np.unique(viz.palette(30), axis=0)) == 30 and viz.palette(300).shape == (300, 3)
    assert viz.COLORS["visible"] == "#0072B2" and viz.COLORS["infrared"] == "#D55E00"
