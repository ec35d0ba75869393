"""hil.method.neighbors and rerank against the release's figures, the slow reference and what must hold for any data."""
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import as_dense, dense_jaccard, nearest

from hil.core.vectors import unit_rows
from hil.method.cluster import centroids, pseudo_labels
from hil.method.fast_neighbors import _half_product
from hil.method.match import brst
from hil.method.neighbors import knn, knn_blocks, knn_recall
from hil.method.rerank import jaccard_distance
from hil.method.sub_clusters import secondary_cluster

GOLDEN = np.load(Path(__file__).parent / "golden" / "jaccard_n600_d64.npz")


def golden(k1):
    "The release's dense matrix, unpacked."
    n = len(GOLDEN["features"])
    upper = np.triu_indices(n)
    stored = np.unpackbits(GOLDEN[f"k{k1}_triu_mask_packed"])[: len(upper[0])].astype(bool)
    values = np.ones(len(stored))
    values[stored] = GOLDEN[f"k{k1}_triu_values"]
    full = np.ones((n, n))
    full[upper] = full.T[upper] = values
    return full


@pytest.mark.parametrize("k1", [30, 20])
def test_release_figures(k1):
    x = GOLDEN["features"]
    ours, theirs = jaccard_distance(x, k1), golden(k1)
    assert (knn(x, k1) == GOLDEN[f"k{k1}_rank"]).all()
    assert np.abs(as_dense(ours) - theirs).max() < 1e-5
    assert ours.nnz == (theirs != 1).sum()
    assert np.abs(as_dense(jaccard_distance(x, k1, k2=1)).sum(1) - GOLDEN[f"k{k1}_noqe_rowsum"]).max() < 1e-3


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 45), st.integers(2, 12), st.integers(1, 35), st.data())
def test_agrees_with_the_reference(seed, n, d, k1, data):
    k2 = data.draw(st.integers(1, k1))
    x = unit_rows(np.random.default_rng(seed).normal(size=(n, d)))
    assert (knn(x, k1) == nearest(x, k1)).all() or d == 2             # float32 may swap near ties where angles crowd
    ours = jaccard_distance(x, k1, k2)
    assert np.abs(as_dense(ours) - dense_jaccard(x, k1, k2, rank=knn(x, k1))).max() < 1e-4


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 150), st.integers(1, 20), st.integers(1, 60), st.integers(1, 60),
       st.data())
def test_half_of_the_product_orders_equals_by_number(seed, n, d, block, width, data):
    "Small whole numbers: their products are exact, whatever the order of summation, and full of ties."
    x, k = np.random.default_rng(seed).integers(-2, 3, size=(n, d)).astype(np.float32), data.draw(st.integers(1, n))
    whole = x @ x.T
    np.fill_diagonal(whole, np.inf)
    parts = list(_half_product(x, k, block, width))
    assert (np.concatenate(parts) == np.argsort(-whole, axis=1, kind="stable")[:, :k]).all()
    assert [len(part) for part in parts] == [min(block, n - start) for start in range(0, n, block)]


def test_pieces_one_below_the_other_are_the_whole():
    x = np.random.default_rng(0).normal(size=(5000, 40))                # more than one tile each way
    same = np.concatenate(list(knn_blocks(x, 20))) == knn(x, 20)
    assert same.mean() > .9999                                         # a tile of other shape may round a tie otherwise


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 60), st.sampled_from([1, 2, 3, 8]), st.sampled_from([1, 2, 3, 5, 30]),
       st.booleans())
def test_form_of_the_result(seed, n, d, k1, copies):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    if copies: x = x[rng.integers(max(n // 4, 1), size=n)]
    distance = jaccard_distance(x, k1, min(6, k1))
    full = as_dense(distance)
    assert distance.shape == (n, n) and distance.dtype == np.float32 and distance.has_canonical_format
    assert (distance.data >= 0).all() and (distance.data < 1).all()
    assert np.abs(np.diag(full)).max() < 1e-6 and (np.diff(distance.indptr) >= 1).all()
    assert (full == full.T).all()
    assert (full == as_dense(jaccard_distance(x, k1, min(6, k1)))).all()
    assert (knn(x, k1)[:, 0] == np.arange(n)).all()
    assert all(len(set(row)) == min(k1, n) for row in knn(x, k1).tolist())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(5, 60))
def test_shuffling_the_rows_shuffles_the_result(seed, n):
    rng = np.random.default_rng(seed)
    x, order = rng.normal(size=(n, 8)), rng.permutation(n)
    shuffled = as_dense(jaccard_distance(x[order], 10, 4))
    assert np.abs(shuffled - as_dense(jaccard_distance(x, 10, 4))[np.ix_(order, order)]).max() < 1e-5


def test_number_types_and_containers():
    x = np.random.default_rng(0).normal(size=(80, 16)).astype(np.float16)
    wanted = as_dense(jaccard_distance(x.astype(np.float32)))
    for same in (x, x.astype(np.float64), 7 * x.astype(np.float64), torch.tensor(x),
                 torch.tensor(x).double().requires_grad_(), x.astype(np.float32)[:, ::-1]):
        assert np.abs(as_dense(jaccard_distance(same)) - wanted).max() < 1e-5
    bfloat = torch.tensor(x).bfloat16()
    assert np.abs(as_dense(jaccard_distance(bfloat)) - as_dense(jaccard_distance(bfloat.float()))).max() == 0
    assert np.isfinite(unit_rows(np.float64([[1e-200, 0], [1e200, 1e200]]))).all()


def test_equal_rows_and_one_dimension():
    assert np.abs(as_dense(jaccard_distance(np.ones((20, 3)), 30, 6))).max() < 1e-6           # N < k1: one clique
    line = as_dense(jaccard_distance(np.r_[np.full(6, 2.), np.full(6, -1.)][:, None], 6, 3))    # D = 1: two directions
    assert np.abs(line - (1 - np.kron(np.eye(2), np.ones((6, 6))))).max() < 1e-6
    crowd = jaccard_distance(np.ones((500, 4)), 5, 2)                                         # far more copies than k1
    assert np.isfinite(crowd.data).all() and np.abs(crowd.diagonal()).max() < 1e-6
    assert as_dense(jaccard_distance([[3.0, 4.0]])) == 0                                      # a single image


def test_keep_bounds_what_is_stored():
    x = np.random.default_rng(0).normal(size=(200, 6))
    everything, near = jaccard_distance(x), jaccard_distance(x, keep=0.5)
    full, kept = as_dense(everything), as_dense(near)
    assert near.data.max() < 0.5 and (kept[full < 0.5] == full[full < 0.5]).all() and near.nnz == (full < 0.5).sum()


@pytest.mark.parametrize("bad, message", [
    ([[1, 0], [np.nan, 0]], "row 1 holds NaN"), ([[1, 0], [0, 1], [np.inf, 0]], "row 2 holds NaN or infinity"),
    ([[1, 0], [0, np.nan]], "row 1 holds NaN"), ([[1e-300, 1], [np.nan, np.nan]], "row 1 holds NaN"),
    ([[0, 0], [1, 0]], "row 0 is all zeros"), ([1, 2, 3], r"shape \[N, D\]"), (np.empty((0, 4)), r"shape \[N, D\]")])
def test_bad_features(bad, message):
    for function in (jaccard_distance, lambda x: knn(x, 2)):
        with pytest.raises(ValueError, match=message): function(bad)


def test_bad_row_is_found_far_down():
    x = np.ones((5000, 2))
    x[4500, 1] = np.nan
    with pytest.raises(ValueError, match="row 4500"): jaccard_distance(x)


@pytest.mark.parametrize("k1, k2", [(0, 0), (5, 6), (5, 0), (2.5, 1), (-3, 1)])
def test_bad_settings(k1, k2):
    with pytest.raises(ValueError, match="1 <= k2 <= k1"): jaccard_distance(np.eye(4), k1, k2)


def test_bad_k_and_keep():
    with pytest.raises(ValueError, match="at least 1, got 0"): knn(np.eye(4), 0)
    with pytest.raises(ValueError, match="keep must lie"): jaccard_distance(np.eye(4), keep=1.5)


def crowd(n_people, n_images=35, d=48, noise=.7, seed=0):
    "People of n_images rows each around a direction, shuffled."
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_people, d)).repeat(n_images, 0) + noise * rng.normal(size=(n_people * n_images, d))
    return x[rng.permutation(len(x))]


def test_approximate_neighbours_find_nearly_all(caplog):
    x = crowd(120)
    with caplog.at_level(logging.INFO, "hil.method.fast_neighbors"): found = knn(x, 30, "ivf")
    assert "recall@30" in caplog.text and caplog.records[-1].levelno == logging.INFO
    assert knn_recall(x, found, n_sample=1000, seed=9) > .93 and knn_recall(x, knn(x, 30)) == 1
    assert (found[:, 0] == np.arange(len(x))).all() and all(len(set(row)) == 30 for row in found.tolist())
    assert (found == knn(x, 30, "ivf")).all() and (found != knn(x, 30, "ivf", seed=1)).any()      # a seed, a result
    exact = (found == knn(x, 30)).all(1)
    assert .05 < exact.mean() < 1                                                                # something is left out


def test_approximate_distance_is_close_and_exact_stays_the_default():
    x = crowd(60)
    exact, near = jaccard_distance(x), jaccard_distance(x, neighbors="ivf", recall=.98)
    assert (exact != jaccard_distance(x, neighbors="exact")).nnz == 0
    assert np.abs(as_dense(exact) - as_dense(near)).mean() < .01


def test_a_recall_that_is_missed_is_a_warning(caplog):
    x = np.random.default_rng(0).normal(size=(6000, 32))                # no clusters: no list helps
    with caplog.at_level(logging.INFO, "hil.method.fast_neighbors"): found = knn(x, 30, "ivf", recall=.999)
    assert caplog.records[-1].levelno == logging.WARNING and 0 < knn_recall(x, found) < .999
    assert all(len(set(row)) == 30 for row in found.tolist()), "who is met again in another deal is listed once"


def test_more_recall_costs_more_lists(caplog):
    x = np.random.default_rng(0).normal(size=(4000, 6))                 # no clusters: neighbours lie in many lists
    with caplog.at_level(logging.INFO, "hil.method.fast_neighbors"):
        low, high = (knn_recall(x, knn(x, 30, "ivf", recall=r)) for r in (.3, .98))
    assert .3 <= low < high and high > .96 and all(record.levelno == logging.INFO for record in caplog.records)


def test_rows_whose_lists_hold_too_few_are_searched_exactly():
    x = np.random.default_rng(0).normal(size=(4000, 16))
    found = knn(x, 900, "ivf", recall=.1)                               # eight lists hold about 320 rows
    assert (found >= 0).all() and (found[::100] == knn(x, 900)[::100]).all()
    assert all(len(set(row)) == 900 for row in found[::100].tolist())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 200), st.sampled_from([1, 2, 8]), st.booleans())
def test_approximate_neighbours_of_odd_worlds(seed, n, d, copies):
    "Fewer rows than k, one dimension, copies: lists may be empty or short."
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    if copies: x = x[rng.integers(max(n // 20, 1), size=n)]
    found = knn(x, 30, "ivf")
    assert found.shape == (n, min(30, n)) and (found[:, 0] == np.arange(n)).all()
    assert all(len(set(row)) == len(row) for row in found.tolist())


def answers(folder):
    "What the method says of 400 images, as arrays; the sub-process below asks the same without faiss."
    x = crowd(40, 10).astype(np.float32)
    labels = pseudo_labels(jaccard_distance(x, 20))
    mu = centroids(x, labels)
    np.savez(folder / "answers.npz", near=knn(x, 9), lists=knn(x, 9, "ivf"), recall=knn_recall(x, knn(x, 9)),
             labels=labels, distance=as_dense(jaccard_distance(x, 20)), bank=secondary_cluster(x, labels, 2),
             new=brst(x, labels, mu, .8))
    return dict(np.load(folder / "answers.npz"))


def test_nothing_needs_faiss(tmp_path):
    code = f"""
import sys
from pathlib import Path
sys.modules["faiss"] = None                       # as if it were not installed
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_rerank
test_rerank.answers(Path("."))
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    without = dict(np.load(tmp_path / "answers.npz"))
    for name, value in answers(tmp_path).items(): assert (value == without[name]).all(), name
    assert without["recall"] == 1 and without["labels"].max() > 5


def test_bad_neighbours():
    with pytest.raises(ValueError, match='"exact" or "ivf", got \'annoy\''):
        jaccard_distance(np.eye(4), neighbors="annoy")
    with pytest.raises(ValueError, match="recall must lie"): knn(np.eye(4), 2, "ivf", recall=0)
