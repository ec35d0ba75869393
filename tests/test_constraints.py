"""hil.method.constraints: what is known holds in every cluster, label and identity; plain references beside it."""
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hil.core.names import MODALITIES
from hil.method.cluster import pseudo_labels
from hil.method.constraints import Known, known_clusters, known_of, known_transfer, permitted_matches
from hil.method.identities import find_identities
from hil.method.labels import Rules, apart_labels, epoch_labels
from hil.method.match import MATCHERS

RULES = Rules(eps=.6, min_samples=3, k1=8, k1_infrared=6, k2=3, threshold=.8)
ROWS = {"visible": 36, "infrared": 28}


def world(seed=0, people=4, noise=.9):
    "Features and identities of a few people who are easily mistaken, 9 images by day and 7 by night."
    rng = np.random.default_rng(seed)
    who, moved = rng.standard_normal((people, 16)), {"visible": 0, "infrared": .3 * rng.standard_normal(16)}
    pids = {m: np.repeat(np.arange(people), n) for m, n in zip(MODALITIES, (9, 7))}
    return {m: (who[p] + moved[m] + noise * rng.standard_normal((len(p), 16))).astype(np.float32)
            for m, p in pids.items()}, pids


def some_facts(seed, pids):
    "True names for some images, and true answers about some pairs."
    rng = np.random.default_rng(seed)
    share = rng.choice([0, .2, .6])
    named = {m: np.where(rng.random(len(p)) < share, p, -1) for m, p in pids.items()}
    ends = [tuple((m, int(rng.integers(len(pids[m])))) for m in rng.choice(MODALITIES, 2))
            for _ in range(rng.integers(0, 12))]
    links = [(bool(pids[a[0]][a[1]] == pids[b[0]][b[1]]), a, b) for a, b in ends if a != b]
    return known_of(named, links)


def pairs_of(known):
    "Every pair of places (visible first) that must be together, and every pair that must not; the slow way."
    group = np.concatenate(list(known.groups.values()))
    apart = {(int(a), int(b)) for a, b in known.apart} | {(int(b), int(a)) for a, b in known.apart}
    must, cannot = [], []
    for i, g in enumerate(group):
        for j, h in enumerate(group[:i]):
            if min(g, h) < 0: continue
            two_names = min(known.people[g], known.people[h]) >= 0 and known.people[g] != known.people[h]
            if g == h: must.append((i, j))
            elif two_names or (int(g), int(h)) in apart: cannot.append((i, j))
    return must, cannot


def slow_clusters(distance, known, eps, min_samples):
    "The rules of the lesson, with sets: ties, then again and again the shortest line between two who may meet."
    n, group = len(distance), known.groups["visible"]
    must, cannot = pairs_of(replace(known, groups={"visible": group, "infrared": known.groups["infrared"][:0]}))
    near = {(i, j) for i in range(n) for j in range(n) if i != j and distance[i, j] <= eps}
    dense = [sum((i, j) in near for j in range(n)) + 1 >= min_samples for i in range(n)]
    core = [dense[i] or (group[i] >= 0 and known.sizes[group[i]] > 1) for i in range(n)]
    company = {i: {i} for i in range(n)}

    def join(i, j):
        if company[i] is company[j] or any({a, b} <= company[i] | company[j] for a, b in cannot): return
        both = company[i] | company[j]
        for k in both: company[k] = both
    for i, j in must: join(i, j)
    for _, i, j in sorted((distance[i, j], i, j) for i, j in near if i < j and dense[i] and dense[j]): join(i, j)
    waiting = {group[i] for i in range(n) if core[i] and not dense[i]} - {group[i] for i in range(n) if dense[i]}
    for _, i, j in sorted((distance[i, j], i, j) for i, j in near if core[i] and not dense[i] and dense[j]):
        if group[i] not in waiting: continue
        before = company[i]
        join(i, j)
        if company[i] is not before: waiting.discard(group[i])
    labels = [-1] * n
    for c, everybody in enumerate({id(company[i]): company[i] for i in range(n) if core[i]}.values()):
        for k in everybody: labels[k] = c if core[k] else -1
    for i in [i for i in range(n) if not core[i]]:
        for c, j in sorted((labels[j], j) for j in range(n) if (i, j) in near and dense[j]):
            free = group[i] < 0
            if free or not any({a, b} <= company[i] | company[j] for a, b in cannot):
                if not free: join(i, j)
                labels[i] = c
                break
    return labels


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 14), st.floats(.1, .9), st.integers(1, 5))
def test_clusters_are_the_plain_rules(seed, n, eps, min_samples):
    rng = np.random.default_rng(seed)
    distance = rng.integers(0, 9, (n, n)) / 9                              # equal lengths occur
    distance = np.triu(distance, 1) + np.triu(distance, 1).T
    truth = rng.integers(0, 3, n)
    named = np.where(rng.random(n) < .3, truth, -1)
    links = [(bool(truth[i] == truth[j]), ("visible", int(i)), ("visible", int(j)))
             for i, j in rng.integers(0, n, (rng.integers(0, 5), 2)) if i != j]
    known = known_of({"visible": named, "infrared": np.full(1, -1)}, links)
    found = known_clusters(distance, known.groups["visible"], known, eps, min_samples)
    assert found.tolist() == slow_clusters(distance, known, eps, min_samples)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(MATCHERS), st.sampled_from(["sample", "cluster"]),
       st.sampled_from(["visible_to_infrared", "infrared_to_visible", ""]),
       st.sampled_from(["plain", "modality_balanced"]))
def test_what_is_known_holds_in_an_epochs_labels(seed, matcher, level, direction, jaccard):
    features, pids = world(seed % 50)
    known = some_facts(seed, pids)
    rules = replace(RULES, matcher=matcher, level=level, jaccard=jaccard)
    labels = epoch_labels(features, rules, direction, known=known)
    must, cannot = pairs_of(known)
    side = np.repeat([0, 1], list(ROWS.values()))
    apart, final = (np.concatenate([y[m] for m in MODALITIES]) for y in (labels.apart, labels.final))
    for i, j in must:
        if side[i] == side[j]: assert apart[i] == apart[j] >= 0 and final[i] == final[j]
        elif labels.shared and matcher != "none": assert final[i] == final[j] >= 0
    for i, j in cannot:
        if side[i] == side[j]: assert apart[i] != apart[j] or apart[i] < 0
        if labels.shared or side[i] == side[j]: assert final[i] != final[j] or final[i] < 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_what_is_known_holds_in_the_identities(seed):
    features, pids = world(seed % 50)
    known = some_facts(seed, pids)
    who = find_identities(features, apart_labels(features, RULES, known=known), known)
    identity = np.concatenate([who.labels[m] for m in MODALITIES])
    must, cannot = pairs_of(known)
    assert all(identity[i] == identity[j] >= 0 for i, j in must)
    assert all(identity[i] != identity[j] or identity[i] < 0 for i, j in cannot)
    assert set(identity) - {-1} == set(range(identity.max() + 1))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 50), st.sampled_from(MATCHERS))
def test_where_nothing_is_known_nothing_changes(seed, matcher):
    features, pids = world(seed)
    nothing = known_of({m: np.full(n, -1) for m, n in ROWS.items()})
    rules = replace(RULES, matcher=matcher)
    plain, told = (epoch_labels(features, rules, "visible_to_infrared", known=k) for k in (None, nothing))
    for m in MODALITIES:
        np.testing.assert_array_equal(plain.apart[m], told.apart[m])
        np.testing.assert_array_equal(plain.final[m], told.final[m])
        np.testing.assert_array_equal(find_identities(features, plain.apart).labels[m],
                                      find_identities(features, plain.apart, nothing).labels[m])


def test_the_order_of_facts_does_not_matter():
    features, pids = world(3)
    rng = np.random.default_rng(0)
    ends = [((m, int(i)), (n, int(j))) for m, i, n, j in zip(rng.choice(MODALITIES, 30), rng.integers(0, 28, 30),
                                                              rng.choice(MODALITIES, 30), rng.integers(0, 28, 30))]
    links = [(bool(pids[a[0]][a[1]] == pids[b[0]][b[1]]), a, b) for a, b in ends if a != b]
    empty = {m: np.full(n, -1) for m, n in ROWS.items()}
    one, two = (epoch_labels(features, RULES, "visible_to_infrared", known=known_of(empty, given))
                for given in (links, links[::-1]))
    for m in MODALITIES: np.testing.assert_array_equal(one.final[m], two.final[m])


def test_a_picture_that_is_hard_to_recognise_pulls_no_strangers_in():
    "Image 6 is known to be the person of 0, 1, 2, and lies beside 3, 4, 5: these stay a cluster of their own."
    place = np.array([0, 1, 2, 50, 51, 52, 53.5])
    far = np.minimum(np.abs(place[:, None] - place) / 10, 1)
    known = known_of({"visible": np.array([7, -1, -1, -1, -1, -1, 7]), "infrared": np.full(0, -1)})
    assert known_clusters(far, known.groups["visible"], known, .15, 3).tolist() == [0, 0, 0, 1, 1, 1, 0]


def test_a_partner_that_is_known_is_taken():
    "Both sides of person 0 are named: nobody else may go there, unless little of the clusters is known."
    labels = {"visible": np.array([0, 0, 0, 1, 1]), "infrared": np.array([0, 0, 0, 1])}
    most = known_of({"visible": np.array([5, 5, -1, -1, -1]), "infrared": np.array([5, 5, -1, -1])})
    assert permitted_matches(labels, most, *MODALITIES).tolist() == [[True, False], [False, True]]
    little = known_of({"visible": np.array([5, -1, -1, -1, -1]), "infrared": np.array([5, -1, -1, -1])})
    assert permitted_matches(labels, little, *MODALITIES).tolist() == [[True, False], [True, True]]


def test_a_known_person_with_one_picture_a_modality_is_learned():
    features, pids = world(0)
    named = {m: np.full(n, -1) for m, n in ROWS.items()}
    for y in named.values(): y[0] = 0
    labels = epoch_labels(features, replace(RULES, min_samples=9), "visible_to_infrared", known=known_of(named))
    assert labels.final["visible"][0] == labels.final["infrared"][0] >= 0


def test_contradictions_name_the_pictures():
    named = {"visible": np.array([1, -1, 2]), "infrared": np.array([-1])}
    paths = {"visible": list("abc"), "infrared": ["d"]}
    same = [(True, ("visible", 0), ("infrared", 0)), (True, ("infrared", 0), ("visible", 1))]
    with pytest.raises(ValueError, match="^a and b are said to be two people, and by other links or labels to be one"):
        known_of(named, [*same, (False, ("visible", 0), ("visible", 1))], paths)
    with pytest.raises(ValueError, match="^a and c have different identities, and links say that they are one person"):
        known_of(named, [*same, (True, ("visible", 1), ("visible", 2))], paths)
    with pytest.raises(ValueError, match="no image 4 in infrared; expected visible 0 to 2 and infrared 0 to 0"):
        known_of(named, [(True, ("visible", 0), ("infrared", 4))])


def test_kept_and_read_again():
    known = some_facts(5, world()[1])
    again = Known.of(known.arrays())
    assert pairs_of(again) == pairs_of(known) and known.told() == again.told() and Known.of({}) is None


def test_transfer_lets_the_larger_part_go_first():
    "Two people who were only seen by day are sent to one night cluster: the larger part may stay."
    labels = {"visible": np.array([0, 0, 1, 1, 1]), "infrared": np.array([0, 0])}
    known = known_of({"visible": np.array([1, 1, 2, 2, 2]), "infrared": np.full(2, -1)})
    assert known_transfer(np.zeros(5, int), labels, known, *MODALITIES).tolist() == [-1, -1, 0, 0, 0]


def test_as_plain_dbscan_where_facts_agree_with_it():
    distance = np.minimum(np.abs(np.subtract.outer([0, 1, 2, 9, 10, 11.], [0, 1, 2, 9, 10, 11.])) / 10, 1)
    known = known_of({"visible": np.array([3, 3, -1, 4, -1, -1]), "infrared": np.full(0, -1)})
    found = known_clusters(distance, known.groups["visible"], known, .25, 2)
    assert (found == pseudo_labels(distance, .25, 2)).all()
