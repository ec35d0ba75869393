"Maps and match graphs of hil.plots.maps on ordinary, tiny and degenerate input, and the facts they print."
import warnings

import numpy as np
import pandas as pd
import pytest
from pictures import CAM, FEATURES, MODALITY, PID, XY, N, axes_titles, check_drawing, said

from hil.plots import maps

TABLE = pd.DataFrame({"source": [0, 0, 1, 2], "target": [0, 1, 1, 7],
                      "n_samples": [10, 4, 8, 5], "n_accepted": [10, 1, 8, 0],
                      "similarity": [0.8, 0.4, 0.7, 0.3], "correct": [True, False, True, False]})

CASES = {
    "umap": lambda: maps.umap_panels(XY, {"person": PID, "camera": CAM, "modality": MODALITY,
                                          "outliers": np.where(PID == 1, -1, PID)}, MODALITY, FEATURES, total=500),
    "umap on the map, hundreds of labels": lambda: maps.umap_panels(XY, {"id": np.arange(N)}),
    "umap one point": lambda: maps.umap_panels(XY[:1], {"id": [3]}, ["infrared"]),
    "umap all outliers": lambda: maps.umap_panels(XY, {"cluster": np.full(N, -1)}),
    "umap missing labels": lambda: maps.umap_panels(XY[:2], {"cluster": [None, np.nan]}),
    "umap empty": lambda: maps.umap_panels(np.zeros((0, 2)), {"id": []}),
    "graph": lambda: maps.match_graph_plot(TABLE),
    "graph back, no truth": lambda: maps.match_graph_plot(TABLE.drop(columns="correct"), "infrared", "visible"),
    "graph some truth": lambda: maps.match_graph_plot(TABLE.assign(correct=[True, None, np.nan, False],
                                                                   similarity=np.nan)),
    "graph one": lambda: maps.match_graph_plot(TABLE[:1]),
    "graph all refused": lambda: maps.match_graph_plot(TABLE.assign(n_accepted=0)),
    "graph few": lambda: maps.match_graph_plot(TABLE, max_clusters=1),
    "graph empty": lambda: maps.match_graph_plot(TABLE[:0]),
}


@pytest.mark.parametrize("name", CASES)
def test_draws_with_a_title_and_leaks_nothing(name): check_drawing(CASES[name])


def test_axes_are_named():
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in CASES["umap"]().axes)
    assert CASES["graph"]().axes[1].get_xlabel() and CASES["graph"]().axes[1].get_ylabel()


def test_titles_tell_figures_one_can_check():
    title = said(maps.match_graph_plot(TABLE))
    assert "70 % of 27 samples accepted, 95 % of them right (of the refused, 0 % would have been)" in title
    assert title != said(maps.match_graph_plot(TABLE.assign(n_accepted=1)))


def test_purity_is_that_of_hand_counted_neighbours():
    near, codes = np.array([[1], [0], [3], [0]]), np.array([0, 0, 1, -1])
    share, chance = maps._purity(near, codes)
    assert share == pytest.approx(2 / 3) and chance == pytest.approx(2 / 9)     # 2 of 3 known; 2*1 ordered pairs of 3*3
    panel = axes_titles(maps.umap_panels(XY, {"p": PID}, features=FEATURES))[0]
    assert panel.startswith("p: 90 %")                                          # ten of each person: 9 of 10


@pytest.mark.parametrize("n", [0, 1, 2, 9, 10, 40, N])
def test_embed_sizes_seed_and_silence(n):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        index, xy = maps.embed(FEATURES[:n])
    assert index.tolist() == list(range(n)) and xy.shape == (n, 2) and np.isfinite(xy).all()
    np.testing.assert_array_equal(xy, maps.embed(FEATURES[:n])[1])


def test_embed_samples_evenly_and_refuses_nonsense():
    index, xy = maps.embed(FEATURES, max_points=45, groups=PID)
    assert set(np.bincount(PID[index])) == {5} and len(np.unique(index)) == 45 == len(xy)
    for row in (1., 0.): assert np.isfinite(maps.embed(np.full((30, 4), row))[1]).all()     # all equal, no direction
    for bad in (np.full((20, 2), np.nan), np.zeros(5)):
        with pytest.raises(ValueError, match="finite"): maps.embed(bad)


def test_barycentre_untangles_a_ladder():
    edges = pd.DataFrame({"source": [0, 1, 2, 3], "target": [9, 4, 7, 1], "n_samples": [1, 1, 1, 1]})
    left, right = maps.barycentre([0, 1, 2, 3], edges)
    assert [left[s] for s in edges["source"]] == [right[t] for t in edges["target"]]


def test_sources_are_drawn_evenly_from_most_to_least_troubled():
    many = pd.DataFrame({"source": range(50), "target": range(50), "n_samples": [90] * 47 + [10] * 3,
                         "n_accepted": [90] * 47 + [2, 10, 10], "similarity": 0.5,
                         "correct": [True] * 48 + [False, True]})
    shown, words = maps._drawn(many, 8)
    assert shown[0] == 48 and shown[-1] == 49 and len(set(shown)) == 8          # ten wrong samples; few, and right
    assert words.startswith("8 of 50") and "2 of all have" in words
    assert set(maps._drawn(many, 50)[0]) == set(range(50))


def test_visible_comes_first_in_every_legend():
    for ax in CASES["umap"]().axes:
        names = [t.get_text() for t in ax.get_legend().get_texts() if t.get_text() in ("visible", "infrared")]
        assert names == ["visible", "infrared"]
