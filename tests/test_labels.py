"""hil.method.labels: one epoch's labels against their parts, for any rules; and what is said of them."""
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hil.core.names import MODALITIES
from hil.core.settings import allowed
from hil.method.cluster import centroids, majority_pids, pseudo_labels
from hil.method.labels import Rules, Transfer, apart_labels, compact, epoch_labels, label_quality, true_labels
from hil.method.match import MATCHERS, transfer, transfer_quality
from hil.method.rerank import jaccard_distance
from hil.runs.config import Config

RULES = Rules(eps=.6, min_samples=3, k1=8, k1_infrared=6, k2=3, threshold=.8)


def world(seed=0, people=8, noise=.45):
    "Features and identities of some people, 9 images by day and 7 by night, whose directions moved in between."
    rng = np.random.default_rng(seed)
    who = rng.standard_normal((people, 16))
    pids = {m: np.repeat(np.arange(people), n) for m, n in zip(MODALITIES, (9, 7))}
    moved = {"visible": 0, "infrared": .3 * rng.standard_normal(16)}
    return {m: (who[p] + moved[m] + noise * rng.standard_normal((len(p), 16))).astype(np.float32)
            for m, p in pids.items()}, pids


def test_rules_are_read_by_name_from_anything():
    config = Config(eps=.4, k1_infrared=7)
    assert Rules.of(config) == Rules.of(vars(config)) == Rules.of(SimpleNamespace(**vars(config)))
    assert {f.name for f in fields(Rules)} <= {f.name for f in fields(Config)}
    assert Rules.of({"k1": 9}) == Rules(k1=9)
    assert (Rules.of(config).k1_of("visible"), Rules.of(config).k1_of("infrared")) == ("auto", 7)
    assert Rules(k1_infrared=0).k1_of("infrared") == 30
    assert MATCHERS == ("brst", *(m for m in allowed(Config)["matcher"].choices if m != "brst"))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), eps=st.floats(.2, .8), k1=st.integers(4, 12), min_samples=st.integers(2, 5))
def test_each_modality_is_clustered_alone(seed, eps, k1, min_samples):
    features, _ = world(seed)
    rules = replace(RULES, eps=eps, k1=k1, k1_infrared=0, min_samples=min_samples)
    for m, found in apart_labels(features, rules).items():
        np.testing.assert_array_equal(found, pseudo_labels(jaccard_distance(features[m], k1, 3), eps, min_samples))


@pytest.mark.parametrize("matcher", MATCHERS)
@pytest.mark.parametrize("direction", ["visible_to_infrared", "infrared_to_visible"])
@pytest.mark.parametrize("level", ["sample", "cluster"])
def test_labels_cross_as_the_matcher_says(matcher, direction, level):
    features, pids = world(noise=.8)
    labels = epoch_labels(features, replace(RULES, matcher=matcher, level=level), direction)
    source, target = direction.split("_to_")
    if matcher == "none":
        assert not labels.shared and labels.final is labels.apart
        return
    centres = centroids(features[target], labels.apart[target])
    sent = transfer(features[source], labels.apart[source], centres, matcher, level, RULES.threshold)
    np.testing.assert_array_equal(labels.final[source], sent)
    assert labels.final[target] is labels.apart[target] and labels.shared and labels.space == target
    people = majority_pids(labels.apart[target], pids[target])
    want = transfer_quality(sent, pids[source], people, labels.apart[source])
    told = label_quality(labels, pids)
    assert (told["transfer_precision"], told["transfer_coverage"]) == (want["precision"], want["coverage"])
    way = Transfer(features, labels.apart, direction, pids)
    assert way.quality(way.send(matcher, level, RULES.threshold)) == pytest.approx(want)


def test_the_curve_is_asked_point_by_point():
    features, pids = world(noise=.8)
    way = Transfer(features, apart_labels(features, RULES), "infrared_to_visible", pids)
    curve = way.curve("sample", thresholds=(0, .5, 1))
    for t, precision, coverage in curve.itertuples(index=False):
        assert dict(precision=precision, coverage=coverage) == pytest.approx(way.quality(way.send("brst", "sample", t)))
    assert curve.coverage.is_monotonic_decreasing and curve.coverage.iloc[0] == 1


def test_nobody_to_meet_is_no_error():
    features, pids = world()
    features["infrared"], pids["infrared"] = features["infrared"][:2], pids["infrared"][:2]
    labels = epoch_labels(features, RULES, "visible_to_infrared")
    assert not labels.shared and labels.apart["infrared"].tolist() == [-1, -1]
    way = Transfer(features, labels.apart, pids=pids)
    assert way.empty and (way.send() == -1).all() and way.table().empty


def test_codes_may_have_gaps_and_unknown_people_are_not_counted():
    features, pids = world()
    apart = {m: np.where(y < 0, -1, 10 * y + 3) for m, y in apart_labels(features, RULES).items()}
    unknown = {m: np.where(p == 0, -1, p) for m, p in pids.items()}
    way = Transfer(features, apart, pids=unknown)
    np.testing.assert_array_equal(way.labels, compact(apart["visible"])[0])
    sent = way.send("one_way")
    known = unknown["visible"] >= 0
    right = way.target_pid[sent[known & (sent >= 0)]] == unknown["visible"][known & (sent >= 0)]
    assert way.quality(sent)["precision"] == pytest.approx(right.mean())


def test_the_truth_is_one_label_space():
    labels = true_labels({"visible": np.array([7, 7, 9]), "infrared": np.array([9, 11])})
    assert labels.shared and labels.space == labels.direction == "truth"
    assert labels.final["visible"].tolist() == [0, 0, 1] and labels.final["infrared"].tolist() == [1, 2]
    told = label_quality(labels, {"visible": np.array([7, 7, 9]), "infrared": np.array([9, 11])})
    assert told["ari_visible"] == 1 and "transfer_precision" not in told
