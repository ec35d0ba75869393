"""hil.method.sub_clusters against the release's figures and scikit-learn."""
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import inertia, secondary_centers
from sklearn.cluster import KMeans
from test_cluster import BAD_LABELS

from hil.method.cluster import centroids
from hil.method.sub_clusters import secondary_assign, secondary_cluster, sub_centers

CENTERS = np.load(Path(__file__).parent / "golden" / "centers.npz")


def test_release_sub_centres():
    x, labels = CENTERS["features"], CENTERS["labels"]
    assert np.abs(secondary_cluster(x, labels, 9).numpy() - CENTERS["kmeans10"]).max() < 1e-5    # row by row
    assert np.abs(secondary_cluster(x, labels, 2).numpy() - CENTERS["kmeans3"]).max() < 1e-5
    assert np.abs(secondary_cluster(CENTERS["dup_features"], CENTERS["dup_labels"]).numpy()
                  - CENTERS["dup_kmeans10"]).max() < 1e-5


def random_clusters(seed, n_clusters=4, largest=60):
    rng = np.random.default_rng(seed)
    d, labels = rng.choice([1, 2, 8, 64]), np.repeat(np.arange(n_clusters), rng.integers(2, largest, n_clusters))
    x = rng.normal(size=(len(labels), d)) + 5 * rng.normal(size=(n_clusters, d))[labels]
    if seed % 3 == 0: x = x[rng.integers(len(x), size=len(x))]        # duplicates
    order = rng.permutation(len(x) + 3)
    return np.r_[x, rng.normal(size=(3, d))].astype(np.float32)[order], np.r_[labels, -1, -1, -1][order]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 10), st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_centres_are_the_references(seed, n_sub, shrink):
    x, labels = random_clusters(seed)
    ours, theirs = secondary_cluster(x, labels, n_sub, shrink).numpy(), secondary_centers(x, labels, n_sub, shrink)
    assert ours.shape == theirs.shape
    # a draw may fall on the other side of a rounding
    assert np.mean([np.abs(a - b).max() < 1e-4 for a, b in zip(ours, theirs)]) >= 0.75


def test_inertia_is_no_worse_than_scikit_learns():
    rng, ratios = np.random.default_rng(0), []
    sizes = rng.integers(10, 110, 60)
    labels = np.repeat(np.arange(60), sizes)
    x = rng.normal(size=(len(labels), 40)).astype(np.float32) + rng.normal(size=(60, 40)).astype(np.float32)[labels]
    sub = secondary_assign(x, labels, 9)
    for c in range(60):
        theirs = KMeans(9, n_init=10, random_state=0).fit_predict(x[labels == c])
        ratios.append(inertia(x[labels == c], sub[labels == c]) / inertia(x[labels == c], theirs))
    assert np.mean(np.array(ratios) <= 1 + 1e-6) >= 0.95 and max(ratios) <= 1.02


def test_large_clusters_take_the_other_road_to_the_same_place():
    x = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    labels = np.r_[np.zeros(200, int), np.ones(100, int)]
    assert (secondary_assign(x, labels, 3, large=150) == secondary_assign(x, labels, 3)).all()


def test_copies_are_not_split_by_rounding():
    rng = np.random.default_rng(0)
    for n_distinct in (1, 2, 5, 8):
        x = (100 + rng.normal(size=(n_distinct, 300)))[rng.integers(n_distinct, size=67)].astype(np.float32)
        assert (secondary_assign(x, np.zeros(67, int), 9) == 0).all()
        assert (secondary_cluster(x, np.zeros(67, int), 9) == x_mean(x)).all()


def x_mean(x): return centroids(x, np.zeros(len(x), int))[:, None]


def test_sub_clusters_of_all_kinds():
    x, labels = random_clusters(1)
    sub = secondary_assign(x, labels, 5, random_state=3)
    assert ((sub == -1) == (labels == -1)).all()
    assert (sub == secondary_assign(torch.tensor(x), torch.tensor(labels), 5, 3)).all()
    for c in range(labels.max() + 1): assert len(set(sub[labels == c])) in (1, 5)
    assert (sub_centers(x, labels, sub, 5) == secondary_cluster(x, labels, 5, random_state=3)).all()
    assert (secondary_assign(x, labels, 5.0, random_state=3) == sub).all()
    assert secondary_cluster(x, labels, 0).shape[1] == 1
    one = secondary_cluster(x, labels, 1)
    assert (one[:, 1] == one[:, 0]).all()
    assert secondary_cluster(x.astype(np.float16), labels).dtype == torch.float32
    assert secondary_cluster(x.astype(np.float64), labels).dtype == torch.float64


def test_centres_that_are_known_are_taken():
    x, labels = random_clusters(1)
    sub, mu = secondary_assign(x, labels, 5), centroids(x, labels)
    computed, handed = sub_centers(x, labels, sub, 5), sub_centers(x, labels, sub, 5, centers=mu)
    assert (handed[:, 0] == mu).all() and torch.allclose(handed, computed, atol=1e-5)
    away = sub_centers(x, labels, sub, 5, shrink=1., centers=mu.numpy() + 1)
    assert torch.allclose(away, (mu + 1)[:, None].expand_as(away))                       # taken, not computed again
    assert (sub_centers(x, labels, sub, 0, centers=mu) == mu[:, None]).all()
    with pytest.raises(ValueError, match="centers must have shape"): sub_centers(x, labels, sub, 5, centers=mu[1:])


@pytest.mark.parametrize("labels, message", BAD_LABELS)
def test_bad_labels(labels, message):
    for function in (secondary_cluster, secondary_assign):
        with pytest.raises(ValueError, match=message): function(torch.ones(3, 2), labels)


def test_bad_sub_settings():
    with pytest.raises(ValueError, match="shrink must lie"): secondary_cluster(torch.ones(3, 2), [0, 0, 0], shrink=1.1)
    for sub in ([0, 2, 0], [0, -1, 1], [0, 1]):
        with pytest.raises(ValueError, match=r"a sub-cluster 0\.\.1"): sub_centers(torch.ones(3, 2), [0, 0, 0], sub, 2)
    with pytest.raises(ValueError, match="n_sub must be"): secondary_cluster(torch.ones(3, 2), [0, 0, 0], n_sub=-1)
