"""hil.runs.two_journals: what two people did is kept, what contradicts is listed, and nothing is decided silently."""
from itertools import takewhile

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hil.runs.actions import apply, standing
from hil.runs.two_journals import merge_actions, merge_journals

LABELS, NAMES = np.repeat(np.arange(5), 3), list("ABCDE")


def some_actions(rng, many):
    "Random actions that can be played one after the other."
    labels, names, done = LABELS, NAMES, []
    for number in range(many):
        here = np.unique(labels[labels >= 0]).tolist()
        kind = rng.choice(["merge", "split", "rename", "outlier"])
        images = rng.choice(15, rng.integers(1, 3), False).tolist()
        if kind == "merge" and len(here) > 1:
            into, other = rng.choice(here, 2, False).tolist()
            action = dict(do="merge", into=into, others=[other])
        elif kind == "split": action = dict(do="split", images=images, name=f"N{number}{rng.integers(99)}")
        elif kind == "rename": action = dict(do="rename", identity=int(rng.choice(here)), name=f"R{rng.integers(3)}")
        else: action = dict(do="outlier", images=images)
        if action["do"] == "merge" and len(here) < 2: continue
        labels, names = apply(labels, names, action)
        done.append(action)
    return done


def partition(actions):
    _, labels, names = standing("", LABELS, NAMES, actions)
    return [(frozenset(np.flatnonzero(labels == c).tolist()), names[c]) for c in np.unique(labels[labels >= 0])]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 4), st.integers(0, 4))
@example(301, 3, 2)  # both begin with the same merge
def test_whatever_two_people_did(seed, n, m):
    rng = np.random.default_rng(seed)
    one, two = some_actions(rng, n), some_actions(rng, m)
    done, conflicts = merge_actions(LABELS, NAMES, one, two)
    turned, again = merge_actions(LABELS, NAMES, two, one)
    assert set(partition(done)) == set(partition(turned)), "the order of the two people does not matter"
    assert sorted(i for *_, images in conflicts for i in images) == sorted(i for *_, images in again for i in images)
    touched = {i for *_, images in conflicts for i in images}
    begun = [a for a, _ in takewhile(lambda both: both[0] == both[1], zip(one, two))]
    before = dict(partition(begun))  # what both did first is agreed
    for company, name in partition(done):
        if company & touched: assert before.get(company) == name, "what is not agreed is as it was"
    in_conflict = [a for mine, yours, _ in conflicts for a in (*mine, *yours)]
    if not one or not two: assert not conflicts and set(partition(done)) == set(partition(one or two))
    if not conflicts and not two: assert done == one
    assert all(a in one or a in two for a in in_conflict)


def test_alone_or_the_same_nothing_is_asked():
    actions = some_actions(np.random.default_rng(3), 4)
    assert merge_actions(LABELS, NAMES, actions, []) == (actions, [])
    assert merge_actions(LABELS, NAMES, actions, actions) == (actions, [])
    more = [*actions, dict(do="outlier", images=[0])]
    assert merge_actions(LABELS, NAMES, actions, more) == (more, [])


def test_two_answers_to_one_question():
    yes = dict(do="link", same=True, a=["visible", 0], b=["visible", 3], images=[0, 3])
    no = {**yes, "same": False}
    done, conflicts = merge_actions(LABELS, NAMES, [yes], [no])
    assert done == [] and conflicts == [([yes], [no], [0, 1, 2, 3, 4, 5])]
    joined = dict(do="merge", into=0, others=[1])
    assert merge_actions(LABELS, NAMES, [joined], [no])[1] == [([joined], [no], [0, 1, 2, 3, 4, 5])]
    assert merge_actions(LABELS, NAMES, [joined], [yes])[1] == []


def test_journals_of_two_runs(tmp_path):
    for name, image in (("a", "x"), ("b", "y")):
        (tmp_path / f"{name}.jsonl").write_text(
            f'{{"journal": 1, "images": "{image}", "note": "", "labels": [0, 0], "names": ["A"]}}\n')
    with pytest.raises(ValueError, match="did not begin with the same images"):
        merge_journals(tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "out.jsonl")
    with pytest.raises(ValueError, match="no such file"):
        merge_journals(tmp_path / "a.jsonl", tmp_path / "c.jsonl", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
