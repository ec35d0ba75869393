"""hil.method.cluster against the release's figures and scikit-learn."""
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import as_dense, dbscan
from scipy.sparse import csr_array

from hil.method.cluster import centroids, cluster_quality, majority_pids, pseudo_labels
from hil.method.rerank import jaccard_distance

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


@pytest.mark.parametrize("settings_, message", [
    (dict(eps=1.0), r"eps must lie in \(0, 1\), got 1.0"), (dict(eps=0.0), "eps must"),
    (dict(min_samples=0), "min_samples must be at least 1")])
def test_bad_dbscan_settings(settings_, message):
    with pytest.raises(ValueError, match=message): pseudo_labels(jaccard_distance(np.eye(3)), **settings_)


def test_distance_must_be_square():
    with pytest.raises(ValueError, match="square"): pseudo_labels(np.ones((3, 4)))


def test_release_centres():
    x, labels = CENTERS["features"], CENTERS["labels"]
    assert np.abs(centroids(x, labels).numpy() - CENTERS["centers"]).max() < 1e-5


BAD_LABELS = [([-1, -1, -1], "every image is an outlier"), ([0, 0, 2], "cluster 1 has no image"),
              ([0, 0], r"shape \[3\]")]


@pytest.mark.parametrize("labels, message", BAD_LABELS)
def test_bad_labels(labels, message):
    with pytest.raises(ValueError, match=message): centroids(torch.ones(3, 2), labels)


def test_quality():
    assert (majority_pids([1, 1, 1, 0, -1], [4, 5, 5, 9, 4]) == [9, 5]).all()
    quality = cluster_quality([1, 1, 1, 0, -1], [4, 5, 5, 9, 4])
    assert quality["purity"] == 0.75 and quality["n_clusters"] == 2 and quality["n_outliers"] == 1
    perfect = cluster_quality([0, 0, 1, 1], [7, 7, 3, 3])
    assert perfect["ari"] == perfect["ami"] == 1
    assert cluster_quality([0, 0, -1, -1], [7, 7, 3, 3])["ari"] < 1                     # outliers cost
    assert np.isnan(cluster_quality([-1, -1], [1, 2])["purity"])
