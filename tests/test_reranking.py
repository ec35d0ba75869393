"""hil.evaluation.reranking against slow references, and its figures in tables and runs: columns of their own."""
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import dense_jaccard, nearest, unit_rows

from hil.core.errors import RunError
from hil.evaluation.metrics import Metrics, cosine_distance
from hil.evaluation.protocols import Protocol, evaluate_draws
from hil.evaluation.reranking import RERANKERS, graph_distance, k_reciprocal_distance, search_distance
from hil.evaluation.scoring import Evaluation
from hil.evaluation.tables import COLUMNS, RERANKED, render_table, result_table
from hil.runs.config import Config

worlds = given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 12), st.integers(2, 9), st.data())


@settings(max_examples=40, deadline=None)
@worlds
def test_k_reciprocal_is_the_slow_one(seed, n, m, k1, data):
    k2 = data.draw(st.integers(1, k1))
    x = np.random.default_rng(seed).normal(size=(n + m, 6))
    unit = unit_rows(x)
    cosine = 1 - unit[:n] @ unit[n:].T
    slow = .7 * dense_jaccard(x, k1, k2)[:n, n:] + .3 * cosine / cosine.max(1, keepdims=True)
    assert np.abs(k_reciprocal_distance(x[:n], x[n:], k1, k2) - slow).max() < 1e-4


def slow_graph(x, cameras, n, k1, k2, rounds, same):
    "Arrow by arrow."
    near, x = nearest(x, k1), unit_rows(x)
    A = np.zeros((len(x), len(x)))
    for i, row in enumerate(near):
        for j in row: A[i, j] = same if cameras[i] == cameras[j] else 1 / same
    for _ in range(rounds):
        A = A + A.T
        A = np.stack([row / row.sum() for row in A])
        A = np.stack([sum((x[i] @ x[j])**2 * A[j] for j in row[:k2]) for i, row in enumerate(near)])
    return -(A @ A.T)[:n, n:]


@settings(max_examples=40, deadline=None)
@worlds
def test_graph_is_the_slow_one(seed, n, m, k1, data):
    k2, same = data.draw(st.integers(1, k1)), data.draw(st.floats(.2, 2))
    rng = np.random.default_rng(seed)
    x, cameras = rng.normal(size=(n + m, 6)), rng.integers(0, 3, n + m)
    found = graph_distance(x[:n], x[n:], cameras[:n], cameras[n:], k1, k2, 2, same)
    assert np.abs(found - slow_graph(x, cameras, n, k1, k2, 2, same)).max() < 1e-4
    named = np.array(["a", "b", "c"])[cameras]
    np.testing.assert_array_equal(graph_distance(x[:n], x[n:], named[:n], named[n:], k1, k2, 2, same), found)


def circle(*degrees): return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)


def test_by_hand():
    w = 1 / (1 + np.exp(-1))
    assert k_reciprocal_distance(circle(0), circle(60, 180), 2, 1)[0] == pytest.approx([.7 * (2 - 1 / w) + .075, 1])
    assert -graph_distance(circle(0), circle(60, 180), [1], [2, 3], 2, 1, 1)[0] == pytest.approx([8 / 35, 8 / 15])


def test_a_plain_search_stays_plain():
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(search_distance(x[:3], x[3:]), cosine_distance(x[:3], x[3:]))


@pytest.mark.parametrize("call, says", [
    (lambda: search_distance(circle(0), circle(1), "zhong"), "expected one of none, k_reciprocal, graph"),
    (lambda: k_reciprocal_distance(circle(0), circle(1), share=2), "share must lie in 0..1"),
    (lambda: k_reciprocal_distance(circle(0), np.ones((2, 3))), "features of one length"),
    (lambda: graph_distance(circle(0), circle(1), [1], [1], same=0), "same must be above 0"),
    (lambda: graph_distance(circle(0), circle(1), [1], [1], k1=3, k2=4), "1 <= k2 <= k1"),
    (lambda: graph_distance(circle(0), circle(1), [1, 2], [1]), "q_camids")])
def test_bad_values_are_refused(call, says):
    with pytest.raises(ValueError, match=says): call()


def test_settings_know_the_names():
    for kind in (Config, Evaluation):
        for name in RERANKERS: assert kind(rerank=name).rerank == name
        with pytest.raises(RunError, match="k_reciprocal"): kind(rerank="k-reciprocal")
    with pytest.raises(RunError, match="has no truth"): Config(dataset="folder", data_root="x", rerank="graph")


@pytest.mark.parametrize("rerank", RERANKERS[1:])
def test_draws_are_searched_again(rerank):
    rng = np.random.default_rng(0)
    table = pd.DataFrame([dict(pid=p, camid=c, modality=m, split="test", path=f"{p}-{c}-{i}")
                          for p in range(6) for c, m in {3: "infrared", 6: "infrared", 1: "visible"}.items()
                          for i in range(3)])
    x = torch.tensor(rng.normal(size=(6, 8))[table.pid] + rng.normal(size=(len(table), 8)), dtype=torch.float32)
    plain, again = (evaluate_draws(x, table, Protocol(trials=2), rerank=name) for name in ("none", rerank))
    assert len(again) == 2 and all(a.mAP != b.mAP for a, b in zip(plain, again))


def some(value): return Metrics(np.linspace(value, 1, 20), value, value / 2)


@pytest.mark.parametrize("style", ["markdown", "latex", "csv"])
def test_reranked_figures_have_columns_of_their_own(style):
    plain, again = {"set": {"ours": [some(.5), some(.7)]}}, {"set": {"ours": [some(.8), some(.8)]}}
    alone, both = result_table(plain), result_table(plain, reranked=again)
    assert not set(RERANKED) & set(alone) and set(RERANKED) <= set(both)
    pd.testing.assert_frame_equal(both[list(alone)], alone)
    assert both[["mAP_rerank", "mINP_rerank", "mAP_rerank spread"]].iloc[0].tolist() == pytest.approx([80, 40, 0])
    text, before = render_table(both, style), render_table(alone, style)
    assert ("re-ranked" in text or "mAP_rerank" in text) and "rerank" not in before and "re-ranked" not in before
    assert "60.00" in text and "80.00" in text or style == "csv"
    if style == "latex": assert "{l" + "r" * (len(COLUMNS) + 3) + "}" in text and "multicolumn{10}" in text


def test_a_run_reports_both(train, whole):
    run = train(rerank="k_reciprocal", stage2_epochs=0)
    shared = [c for c in whole.history if c != "seconds" and c in run.history]
    pd.testing.assert_frame_equal(run.history[shared][:1], whole.history[shared][:1])
    assert {"rank1_rerank", "mAP_rerank", "mINP_rerank", "mAP_rerank_spread"} <= set(run.history)
    assert not any("rerank" in c for c in whole.history)
