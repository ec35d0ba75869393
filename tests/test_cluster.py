"""hil.method.cluster against the release's figures and scikit-learn."""
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import as_dense, dbscan, inertia, secondary_centers
from scipy.sparse import csr_array
from sklearn.cluster import KMeans

from hil.method.cluster import centroids, cluster_quality, majority_pids, pseudo_labels
from hil.method.rerank import jaccard_distance
from hil.method.sub_clusters import secondary_assign, secondary_cluster, sub_centers

HERE = Path(__file__).parent / "golden"
CENTERS, JACCARD = np.load(HERE / "centers.npz"), np.load(HERE / "jaccard_n600_d64.npz")


@pytest.mark.parametrize("k1", [30, 20])
@pytest.mark.parametrize("eps", [0.6, 0.5, 0.3])
def test_release_labels(k1, eps):
    distance = jaccard_distance(JACCARD["features"], k1)
    wanted = JACCARD[f"k{k1}_dbscan_eps{str(eps).replace('.', '')}"]
    assert (pseudo_labels(distance, eps) == wanted).all()
    assert (pseudo_labels(as_dense(distance), eps) == wanted).all()
    assert (pseudo_labels(jaccard_distance(JACCARD["features"], k1, keep=0.61), eps) == wanted).all()


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 60), st.floats(0.05, 0.95), st.integers(1, 8))
def test_labels_are_scikit_learns(seed, n, eps, min_samples):
    rng = np.random.default_rng(seed)
    full = np.ones((n, n), np.float32)                                # sparse random graphs: many border points
    i, j = rng.integers(n, size=(2, 2 * n))
    full[i, j] = rng.random(2 * n).round(1)
    full = np.minimum(full, full.T)
    near = np.nonzero(full < 1)
    wanted = dbscan(full, eps, min_samples)
    assert (pseudo_labels(csr_array((full[near], near), shape=(n, n)), eps, min_samples) == wanted).all()
    assert (pseudo_labels(full, eps, min_samples) == wanted).all()


def test_equal_images_and_nothing_but_outliers():
    assert (pseudo_labels(jaccard_distance(np.ones((9, 2)))) == 0).all()
    assert (pseudo_labels(jaccard_distance(np.eye(3)), min_samples=4) == -1).all()


@pytest.mark.parametrize("settings_, message", [(dict(eps=1.0), r"eps must lie in \(0, 1\), got 1.0"), (dict(eps=0.0), "eps must"),
                                                (dict(min_samples=0), "min_samples must be at least 1")])
def test_bad_dbscan_settings(settings_, message):
    with pytest.raises(ValueError, match=message): pseudo_labels(jaccard_distance(np.eye(3)), **settings_)


def test_distance_must_be_square():
    with pytest.raises(ValueError, match="square"): pseudo_labels(np.ones((3, 4)))


def test_release_centres():
    x, labels = CENTERS["features"], CENTERS["labels"]
    assert np.abs(centroids(x, labels).numpy() - CENTERS["centers"]).max() < 1e-5
    # row by row, not only as sets
    assert np.abs(secondary_cluster(x, labels, 9).numpy() - CENTERS["kmeans10"]).max() < 1e-5
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
    assert ((sub == -1) == (labels == -1)).all() and (sub == secondary_assign(torch.tensor(x), torch.tensor(labels), 5,
        3)).all()
    for c in range(labels.max() + 1): assert len(set(sub[labels == c])) in (1, 5)
    assert (sub_centers(x, labels, sub, 5) == secondary_cluster(x, labels, 5, random_state=3)).all()
    assert (secondary_assign(x, labels, 5.0, random_state=3) == sub).all()
    assert secondary_cluster(x, labels, 0).shape[1] == 1
    one = secondary_cluster(x, labels, 1)
    assert (one[:, 1] == one[:, 0]).all()
    assert secondary_cluster(x.astype(np.float16), labels).dtype == torch.float32
    assert secondary_cluster(x.astype(np.float64), labels).dtype == torch.float64


@pytest.mark.parametrize("labels, message", [([-1, -1, -1], "every image is an outlier"), ([0, 0, 2], "cluster 1 has no image"),
                                             ([0, 0], r"shape \[3\]")])
def test_bad_labels(labels, message):
    for function in (centroids, secondary_cluster, secondary_assign):
        with pytest.raises(ValueError, match=message): function(torch.ones(3, 2), labels)


def test_bad_sub_settings():
    with pytest.raises(ValueError, match="shrink must lie"): secondary_cluster(torch.ones(3, 2), [0, 0, 0], shrink=1.1)
    for sub in ([0, 2, 0], [0, -1, 1], [0, 1]):
        with pytest.raises(ValueError, match=r"a sub-cluster 0\.\.1"): sub_centers(torch.ones(3, 2), [0, 0, 0], sub, 2)
    with pytest.raises(ValueError, match="n_sub must be"): secondary_cluster(torch.ones(3, 2), [0, 0, 0], n_sub=-1)


def test_quality():
    assert (majority_pids([1, 1, 1, 0, -1], [4, 5, 5, 9, 4]) == [9, 5]).all()
    quality = cluster_quality([1, 1, 1, 0, -1], [4, 5, 5, 9, 4])
    assert quality["purity"] == 0.75 and quality["n_clusters"] == 2 and quality["n_outliers"] == 1
    perfect = cluster_quality([0, 0, 1, 1], [7, 7, 3, 3])
    assert perfect["ari"] == perfect["ami"] == 1
    assert cluster_quality([0, 0, -1, -1], [7, 7, 3, 3])["ari"] < 1                     # outliers cost
    assert np.isnan(cluster_quality([-1, -1], [1, 2])["purity"])
