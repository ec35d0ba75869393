"Batches: the release's very rows under its seeds, by a second, plainer way; what they promise; a run on them."
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hil.core.errors import RunError
from hil.core.names import MODALITIES
from hil.data import samplers
from hil.data.samplers import Batches, draw_batch, one_turn, turns
from hil.data.training_views import cached, clear_stale
from hil.runs.config import Config


def dealt(labels, cams, instances, seed):
    "The same from golden/README.md and the papers: three global generators in turn, people as dictionaries."
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    people = {}
    for row, (label, cam) in enumerate(zip(labels, cams)):
        if label >= 0: people.setdefault(label, []).append((row, cam))
    names, rows = list(people), []
    for place in torch.randperm(len(names)):
        album = people[names[place]]
        anchor = random.choice(album)
        others = ([n for n, (row, cam) in enumerate(album) if cam != anchor[1]]
                  or [n for n, (row, cam) in enumerate(album) if row != anchor[0]])
        rows.append(anchor[0])
        if others:
            rows += [album[n][0] for n in np.random.choice(others, size=instances - 1, replace=len(others) < instances)]
    return rows


def whole_numbers(low, high, n): return st.lists(st.integers(low, high), min_size=n, max_size=n).map(np.array)


tables = st.integers(1, 60).flatmap(lambda n: st.tuples(whole_numbers(-1, 6, n), whole_numbers(1, 3, n)))


@settings(max_examples=200, deadline=None)
@given(table=tables, instances=st.integers(2, 16), seed=st.integers(0, 99))
def test_the_releases_rows(table, instances, seed):
    labels, cams = table
    assert one_turn(labels, instances, cams, seed).tolist() == dealt(labels, cams, instances, seed)
    assert one_turn(labels, instances, None, seed).tolist() == dealt(labels, np.ones_like(cams), instances, seed)


@settings(max_examples=200, deadline=None)
@given(table=tables, instances=st.integers(2, 6), seed=st.integers(0, 99))
def test_a_turn(table, instances, seed):
    "Everybody once; nobody twice while there are others; never two cameras alike where there is a choice."
    labels, cams = table
    rows = one_turn(labels, instances, cams, seed)
    sizes = Counter(labels[labels >= 0].tolist())
    taken = labels[rows].tolist() if len(rows) else []
    assert Counter(taken) == {c: instances if n > 1 else 1 for c, n in sizes.items()}
    for c in sizes:
        mine = rows[labels[rows] == c]
        elsewhere = (cams[labels == c] != cams[mine[0]]).sum()
        if elsewhere: assert (cams[mine[1:]] != cams[mine[0]]).all()
        if max(elsewhere, (sizes[c] - 1) * (not elsewhere)) >= instances: assert len(set(mine)) == instances


def test_batches_without_end():
    labels, cams = np.repeat(np.arange(10), 4), np.tile([1, 1, 2, 2], 10)
    batches = [labels[b.numpy()].reshape(4, 3) for b in islice(turns(labels, 4, 3, cams, 0), 6)]
    assert all((b == b[:, :1]).all() for b in batches)
    for one, two in zip(batches[::2], batches[1::2]):
        assert len({*one[:, 0], *two[:, 0]}) == 8, "two of 10 / 4 batches a turn, nobody twice in them"
    few = next(turns(labels[:8], 4, 3, cams[:8], 0))
    taken = Counter(labels[few.numpy()].tolist())
    assert taken == {0: 6, 1: 6}, "with fewer identities than a batch holds, turns follow each other"
    again, other = (next(turns(labels, 4, 3, cams, s)) for s in (0, 1))
    assert not torch.equal(again, other) and torch.equal(again, next(turns(labels, 4, 3, cams, 0)))
    with pytest.raises(RunError, match="no pseudo-identity is left"): next(turns(np.array([-1, -1]), 2, 2, None, 0))


def by_a_plain_loop(labels, ids, instances, rng, kind, together, cams, steps):
    "What a training loop draws when it asks the functions itself."
    if kind == "random": return [draw_batch(labels, ids, instances, together, rng) for _ in range(steps)]
    dealt = {}
    for m in MODALITIES:
        dealt[m] = turns(labels[m], ids, instances, cams[m] if kind == "camera" else None, int(rng.integers(2**31)))
    return [{m: next(dealt[m]) for m in MODALITIES} for _ in range(steps)]


@settings(max_examples=60, deadline=None)
@given(visible=tables, infrared=tables, seed=st.integers(0, 99), ids=st.integers(1, 5), instances=st.integers(1, 4),
       how=st.sampled_from([("random", True), ("random", False), ("camera", False), ("no_camera", False)]))
def test_one_sampler_draws_what_a_plain_loop_draws(visible, infrared, seed, ids, instances, how):
    labels, cams = ({m: t[k] for m, t in zip(MODALITIES, (visible, infrared))} for k in (0, 1))
    mine, its = (np.random.default_rng([seed, 3]) for _ in range(2))
    try: wanted = by_a_plain_loop(labels, ids, instances, mine, *how, cams, 5)
    except RunError as error:
        with pytest.raises(RunError, match=str(error)): next(Batches(labels, ids, instances, its, *how, cams))
        return
    got = list(islice(Batches(labels, ids, instances, its, *how, cams), 5))
    for a, b in zip(wanted, got):
        assert list(a) == list(b) == list(MODALITIES) and all(torch.equal(a[m], b[m]) for m in MODALITIES)
    assert mine.integers(2**31) == its.integers(2**31), "the loop's generator stands where it stood"


def test_settings_that_do_not_fit():
    labels = {m: np.arange(4) for m in MODALITIES}
    for message, bad in (("expected random, camera or no_camera", {"kind": "by turns"}),
                         ("needs the camera", {"kind": "camera"}),
                         ("set together = False", {"kind": "no_camera", "together": True})):
        with pytest.raises(ValueError, match=message): Batches(labels, 2, 2, np.random.default_rng(0), **bad)


@pytest.mark.parametrize("sampler", ["camera", "no_camera"])
def test_a_run_by_turns(train, sampler, monkeypatch):
    seen = []
    def one_turn_(labels, instances, cams, dice):
        seen.append((cams is None, id(dice)))
        kept.append(dice)
        return one_turn(labels, instances, cams, dice)
    kept = []  # so that no two have one id
    monkeypatch.setattr(samplers, "one_turn", one_turn_)
    h = train(sampler=sampler, same_ids=False, iterations=2).history
    assert np.isfinite(h.loss_total[1:]).all()
    assert len({dice for _, dice in seen}) == 6, "each modality has its own seed in each of three epochs"
    assert {without for without, _ in seen} == {sampler == "no_camera"}


def test_settings_of_the_sampler():
    assert Config(release=True).sampler == "camera" and Config().sampler == "random"
    with pytest.raises(RunError, match="set same_ids = False, or sampler"): Config(sampler="camera")


# ---- what killed runs leave in the store of views -----------------------------------------------------------------

def test_only_what_nobody_writes_is_cleared(tmp_path):
    killed, slow, fresh = (Path(tempfile.mkdtemp(dir=tmp_path)) for _ in range(3))
    keep = tmp_path / "0123456789abcdef"                                           # a store
    for folder in (killed, slow, keep):
        (folder / "part").mkdir(parents=True), (folder / "part" / "visible-clean.npy").write_bytes(b"x")
    old = time.time() - 7200
    # but not the file that `slow` writes
    for path in (*killed.rglob("*"), killed, slow / "part", slow, keep, *keep.rglob("*")): os.utime(path, (old, old))
    clear_stale(tmp_path)
    assert {p for p in tmp_path.iterdir()} == {slow, fresh, keep}


def test_nothing_lies_there_while_views_are_computed(tmp_path):
    seen = []
    def make():
        seen.extend(tmp_path.iterdir())
        return {m: {k: torch.zeros(1, 2, 3) for k in ("clean", "views")} for m in ("visible", "infrared")}
    store = cached(tmp_path, "a" * 16, make)
    assert not seen and [p.name for p in tmp_path.iterdir()] == ["a" * 16]
    assert store["visible"]["clean"].shape == (1, 2, 3)
    cached(tmp_path, "a" * 16, lambda: pytest.fail("it is there"))
    shutil.rmtree(tmp_path / ("a" * 16))
