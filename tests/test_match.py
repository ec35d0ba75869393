"""hil.method.match against the release's figures, the slow reference, and by hand."""
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import label_transfer
from scipy.optimize import linear_sum_assignment

from hil.method.cluster import centroids
from hil.method.match import (
    MATCHERS,
    _sinkhorn,
    brst,
    forward,
    match_hungarian,
    match_mutual,
    match_none,
    match_one_way,
    match_sinkhorn,
    match_table,
    transfer,
    transfer_quality,
)

GOLDEN = np.load(Path(__file__).parent / "golden" / "label_transfer.npz")


@pytest.mark.parametrize("case", [0, 1])
@pytest.mark.parametrize("data, t", [("sysu", 0.5), ("regdb", 0.8)])
@pytest.mark.parametrize("source, target", [("rgb", "ir"), ("ir", "rgb")])
def test_release_labels(case, data, t, source, target):
    x, y = GOLDEN[f"s{case}_{source}_features"], GOLDEN[f"s{case}_{source}_labels"]
    p, wanted = GOLDEN[f"s{case}_{target}_prototypes"], GOLDEN[f"{data}{case}_{source}_from_{target}"]
    assert (brst(x, y, p, t) == wanted).all()
    assert (brst(torch.tensor(x), torch.tensor(y), torch.tensor(p), t) == wanted).all()


def world(seed, n=40, n_targets=5, d=6):
    rng = np.random.default_rng(seed)
    labels = np.r_[np.arange(4), rng.integers(-1, 4, n - 4)]
    noise, people, prototypes = (rng.normal(size=(rows, d)).astype(np.float32) for rows in (n, 5, n_targets))
    return noise + people[labels], labels, prototypes


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**31), st.integers(4, 50), st.integers(1, 8), st.integers(1, 9),
       st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]))
def test_agrees_with_the_reference(seed, n, n_targets, d, t):
    x, labels, p = world(seed, n, n_targets, d)
    if d == 1 or t == 1: t = 0.5 if d > 1 else 0.0            # a cosine equal to its own limit: left to rounding
    assert (brst(x, labels, p, t) == label_transfer(x, labels, p, t)).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31))
def test_blocks_and_levels(seed):
    x, labels, p = world(seed)
    for small, whole in zip(forward(x, p, block=7), forward(x, p)): assert np.allclose(small, whole, atol=1e-6)
    mu = centroids(x, labels)
    for matcher in (lambda *a: brst(*a, 0.8, "cluster"), lambda *a: match_one_way(*a, "cluster"), match_mutual,
                    match_hungarian, match_sinkhorn):
        new = matcher(x, labels, p)
        assert (new[labels == -1] == -1).all() and all(len(set(new[labels == c])) == 1 for c in range(4))
    by_hand = brst(mu, np.arange(4), p, 0.8)
    assert (brst(x, labels, p, 0.8, "cluster")[labels >= 0] == by_hand[labels[labels >= 0]]).all()
    everybody = match_one_way(x, labels, p)
    accepted = brst(x, labels, p, 0.8)
    assert (everybody[accepted >= 0] == accepted[accepted >= 0]).all()


def test_outliers_raise_the_bar_but_get_no_label():
    x, p = np.float32([[1, 0], [0.6, 0.8]]), np.float32([[1, 0]])
    assert brst(x, [0, 0], p, 0.8).tolist() == [0, -1]
    assert brst(x, [-1, 0], p, 0.8).tolist() == [-1, -1]               # the outlier sits on the centre
    assert brst(x, [-1, -1], p).tolist() == [-1, -1] and brst(x[:0], [], p).tolist() == []


def test_source_labels_need_not_be_dense():
    x, labels, p = world(0)
    apart = np.where(labels >= 0, 10 * labels + 3, -1)
    for name in MATCHERS: assert (transfer(x, labels, p, name) == transfer(x, apart, p, name)).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9))
def test_hungarian_is_the_best_one_to_one(seed, n_targets):
    x, labels, p = world(seed, n_targets=n_targets)
    mu = centroids(x, labels).numpy()
    cosine = (mu / np.linalg.norm(mu, axis=1, keepdims=True)) @ (p / np.linalg.norm(p, axis=1, keepdims=True)).T
    single = match_hungarian(x, labels, p, progressive=False)[:4]
    got = single >= 0
    assert got.sum() == min(4, n_targets) == len(set(single[got]))
    rows, columns = linear_sum_assignment(-cosine)
    assert np.isclose(cosine[np.arange(4)[got], single[got]].sum(), cosine[rows, columns].sum(), atol=1e-5)
    rounds = match_hungarian(x, labels, p)[:4]
    assert (rounds >= 0).all() and np.bincount(rounds, minlength=n_targets).max() <= -(-4 // n_targets)


@pytest.mark.parametrize("shape", [(3, 3), (5, 2), (2, 7)])
def test_sinkhorn_keeps_the_masses(shape):
    plan = _sinkhorn(np.random.default_rng(0).uniform(-1, 1, shape), 0.1)
    assert np.allclose(plan.sum(0), 1 / shape[1], atol=1e-5) and np.allclose(plan.sum(1), 1 / shape[0], atol=1e-5)


def test_sinkhorn_with_little_entropy_is_the_assignment():
    x, labels, p = world(3, n_targets=4)
    assert (match_sinkhorn(x, labels, p, entropy=0.01) == match_hungarian(x, labels, p)).all()


def test_table_counts_every_sample_once():
    x, labels, p = world(5)
    table = match_table(x, labels, p, 0.5)
    assert list(table) == ["source", "target", "n_samples", "n_accepted", "similarity", "threshold"]
    assert table.n_samples.sum() == (labels >= 0).sum() and (table.source >= 0).all()
    assert table.n_accepted.sum() == (brst(x, labels, p, 0.5) >= 0).sum()


def test_quality_by_hand():
    quality = transfer_quality([0, 1, -1, -1], [5, 5, 6, 6], [5, 6], labels=[0, 0, 1, -1])
    assert quality == dict(precision=0.5, coverage=2 / 3)
    assert np.isnan(transfer_quality(match_none([[1.0]], [0], [[1.0]]), [1], [1])["precision"])


def test_errors_say_what_to_do():
    x, labels, p = world(0)
    with pytest.raises(ValueError, match="one of brst, none, one_way, mutual, hungarian, sinkhorn"):
        transfer(x, labels, p, "best")
    with pytest.raises(ValueError, match="'sample' or 'cluster'"): brst(x, labels, p, level="image")
    with pytest.raises(ValueError, match=r"threshold must lie in \[0, 1\]"): brst(x, labels, p, 1.5)
    with pytest.raises(ValueError, match="must share D"): brst(x, labels, p[:, :2])
    with pytest.raises(ValueError, match="labels must have shape"): brst(x, labels[1:], p)
    with pytest.raises(ValueError, match="no cluster to match with"): brst(x, labels, p[:0])
    with pytest.raises(ValueError, match="entropy must be positive"): match_sinkhorn(x, labels, p, 0)
    x[7, 1] = np.nan
    with pytest.raises(ValueError, match="features: row 7 holds NaN"): brst(x, labels, p)
    many = np.ones((9000, 4), np.float32)
    many[8500, 2] = np.nan                                                                       # in the second block
    with pytest.raises(ValueError, match="features: row 8500 holds NaN"):
        brst(many, np.zeros(9000, int), np.eye(4, dtype=np.float32))
