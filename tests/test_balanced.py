"""hil.method.balanced and camera_aware against slow references, and in a run."""
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import as_dense, unit_rows

from hil.core.errors import RunError
from hil.core.names import MODALITIES
from hil.method.balanced import joint_clusters, meeting_quality, modality_balanced_distance
from hil.method.camera_aware import camera_aware_distance
from hil.method.labels import Rules, apart_labels, epoch_labels, label_quality
from hil.runs.config import Config, variant


def nearest_of(x, i, part, k):
    "The k rows of `part` nearest to row i, itself first."
    return sorted(part, key=lambda j: (j != i, -(x[i] @ x[j])))[:k]


def slow_distance(x, lists, half_lists, expansions):
    "Jaccard distance from lists, half lists and expansion weights, one row at a time."
    n = len(x)
    V = np.zeros((n, n))
    for i in range(n):
        own = {j for j in lists[i] if i in lists[j]}
        members = set(own)
        for j in own:
            friends = {h for h in half_lists[j] if j in half_lists[h]}
            if 3 * len(friends & own) > 2 * len(friends): members |= friends
        members = sorted(members)
        away = np.exp(-((x[i] - x[members])**2).sum(1))
        V[i, members] = away / away.sum()
    V = np.stack([sum(share * V[j] for j, share in expansion) for expansion in expansions])
    s = np.minimum(V[:, None], V[None]).sum(2)
    return 1 - s / (2 - s)


def slow_balanced(features, k1, k2):
    x = np.concatenate([unit_rows(f) for f in features.values()])
    n = len(features["visible"])
    parts = {"visible": range(n), "infrared": range(n, len(x))}
    lists = [sorted((j for m, part in parts.items() for j in nearest_of(x, i, part, k1[m] // 2)),
                    key=lambda j: (j != i, -(x[i] @ x[j]))) for i in range(len(x))]
    half = round(len(lists[0]) / 2) + 1
    near = [[nearest_of(x, i, part, k2[m]) for m, part in parts.items()] for i in range(len(x))]
    expansions = [[(j, 1 / len(row) / 2) for row in rows for j in row] for rows in near]
    return slow_distance(x, lists, [row[:half] for row in lists], expansions)


def slow_camera_aware(x, cameras, k1, k2):
    x = unit_rows(x)
    own, first = max(1, round(k1 / 5)), max(1, round(k2 / 3))
    both = [[np.flatnonzero((cameras == cameras[i]) == same).tolist() for same in (True, False)] for i in range(len(x))]
    def lists(i, here, there): return nearest_of(x, i, both[i][0], here) + nearest_of(x, i, both[i][1], there)
    near = [lists(i, min(own, first), min(k1 - own, k2 - first)) for i in range(len(x))]
    return slow_distance(x, [lists(i, own, k1 - own) for i in range(len(x))], [[] for _ in x],
                         [[(j, 1 / len(row)) for j in row] for row in near])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 14), st.integers(1, 9), st.integers(2, 12), st.data())
def test_balanced_distance_is_the_slow_one(seed, n, m, k1, data):
    k2, k1_infrared = data.draw(st.integers(1, k1)), data.draw(st.integers(2, 12))
    rng = np.random.default_rng(seed)
    features = {"visible": rng.normal(size=(n, 6)), "infrared": rng.normal(size=(m, 6))}
    k1, k2 = {"visible": k1, "infrared": k1_infrared}, {"visible": k2, "infrared": min(k2, k1_infrared)}
    found = as_dense(modality_balanced_distance(features, k1, k2))
    assert np.abs(found - slow_balanced(features, k1, k2)).max() < 1e-4


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 20), st.integers(2, 12), st.data())
def test_camera_aware_distance_is_the_slow_one(seed, n, k1, data):
    k2 = data.draw(st.integers(1, k1))
    rng = np.random.default_rng(seed)
    x, cameras = rng.normal(size=(n, 6)), np.concatenate([[0, 1], rng.integers(0, 3, n - 2)])
    found = as_dense(camera_aware_distance(x, cameras, k1, k2))
    assert np.abs(found - slow_camera_aware(x, cameras, k1, k2)).max() < 1e-4
    names = np.array(["a", "b", "c"])[cameras]
    assert (camera_aware_distance(x, names, k1, k2) != camera_aware_distance(x, cameras, k1, k2)).nnz == 0


def circle(*degrees): return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)


def test_two_pairs_by_hand():
    pairs = {"visible": circle(0, 180), "infrared": circle(60, 240)}
    found = as_dense(modality_balanced_distance(pairs, 2, 1))
    np.testing.assert_allclose(found, 1 - np.tile(np.eye(2), (2, 2)), atol=1e-6)


def test_joint_clusters_are_numbered_for_readers():
    "Visible clusters have no gaps; in infrared the clusters without a visible image come first, as names go on there."
    pairs = {"visible": circle(0, 2, 120, 122), "infrared": circle(236, 238, 125, 127, 5, 7)}
    apart, final = joint_clusters(pairs, 4, 1, eps=.5, min_samples=2)
    assert final["visible"].tolist() == apart["visible"].tolist() == [0, 0, 1, 1]
    assert final["infrared"].tolist() == [2, 2, 1, 1, 0, 0] and apart["infrared"].tolist() == [0, 0, 2, 2, 1, 1]
    pids = {"visible": np.array([7, 7, 8, 9]), "infrared": np.array([5, 5, 8, 8, 7, 7])}
    told = meeting_quality(apart, final, pids)  # visible: 3 of 4 right, not 9; infrared: 4 of 6 met, and all are right
    assert told == pytest.approx(dict(precision=.875, coverage=5 / 6))
    nobody = {m: np.full(len(y), -1) for m, y in final.items()}
    assert np.isnan(meeting_quality(apart, final, nobody)["precision"])


def test_labels_are_joint_only_where_modalities_meet():
    from test_labels import RULES, world
    features, pids = world()
    rules = replace(RULES, jaccard="modality_balanced")
    before = epoch_labels(features, rules)
    assert not before.shared
    for m in MODALITIES: np.testing.assert_array_equal(before.apart[m], apart_labels(features, RULES)[m])
    met = epoch_labels(features, rules, "visible_to_infrared")
    assert met.shared and met.space == met.direction == "joint"
    apart, final = joint_clusters(features, {"visible": 8, "infrared": 6}, 3, .6, 3)
    for m in MODALITIES: np.testing.assert_array_equal(met.final[m], final[m])
    told = label_quality(met, pids)
    assert {k: told[f"transfer_{k}"] for k in ("precision", "coverage")} == meeting_quality(apart, final, pids)
    assert "transfer_precision" not in label_quality(met, pids, known=False)
    given = epoch_labels(features, rules, "visible_to_infrared", apart=before.apart)
    assert given.space == "infrared", "clusters that are there already are matched"
    with pytest.raises(ValueError, match="give a number"): epoch_labels(features, replace(rules, eps="auto"), "joint")


def test_camera_aware_labels_need_cameras():
    from test_labels import RULES, world
    features, _ = world()
    rules = replace(RULES, jaccard="camera_aware")
    with pytest.raises(ValueError, match="pass cameras="): epoch_labels(features, rules)
    cameras = {m: np.arange(len(x)) % 2 for m, x in features.items()}
    found = epoch_labels(features, rules, cameras=cameras)
    assert all(y.max() > 0 for y in found.apart.values())
    with pytest.raises(ValueError, match="all images are of one camera"):
        epoch_labels(features, rules, cameras={m: np.zeros(len(x)) for m, x in features.items()})
    assert Rules().jaccard == "plain"


@pytest.mark.parametrize("changes, says", [
    (dict(jaccard="modality_balanced", matcher="mutual"), "matcher = 'mutual' is for clusters of either modality"),
    (dict(jaccard="modality_balanced", threshold=.3), "threshold = 0.3 is for"),
    (dict(jaccard="modality_balanced", stage2_epochs=0, stage1_epochs=2), "stage2_epochs > 0"),
    (dict(jaccard="camera_aware", neighbors="ivf"), 'set neighbors = "exact"'),
    (dict(jaccard="camera_aware", dataset="regdb", data_root="x", k1=20), "one camera a modality"),
    (dict(jaccard="camera_aware", supervision="truth", stage1_epochs=0), "is for supervision"),
    (dict(jaccard="balanced"), "modality_balanced")])
def test_settings_that_contradict_the_distance_are_refused(changes, says):
    with pytest.raises(RunError, match=says): Config(**changes)
    assert variant(Config(threshold=.3), jaccard="modality_balanced").threshold == Config().threshold


@pytest.mark.parametrize("jaccard", ["modality_balanced", "camera_aware"])
def test_a_run_with_another_distance(train, jaccard):
    run = train(jaccard=jaccard, stage2_epochs=1)
    last = run.history.iloc[-1]
    assert np.isfinite(last.loss_total) and 0 <= last.transfer_coverage <= 1
    assert (last.transfer_direction == "joint") == (jaccard == "modality_balanced")
