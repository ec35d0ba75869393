"The release's batches: its very rows under its seeds, by a second, plainer way; what they promise; and a run that trains on them."
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
from hil.data.samplers import one_turn, turns
from hil.data.training_views import cached, clear_stale
from hil.runs.config import Config


def dealt(labels, cams, instances, seed):
    "The same from golden/README.md and the papers: the three global generators, one after the other, people as dictionaries."
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    people = {}
    for row, (label, cam) in enumerate(zip(labels, cams)):
        if label >= 0: people.setdefault(label, []).append((row, cam))
    names, rows = list(people), []
    for place in torch.randperm(len(names)):
        album = people[names[place]]
        anchor = random.choice(album)
        others = [n for n, (row, cam) in enumerate(album) if cam != anchor[1]] or [n
            for n, (row, cam) in enumerate(album) if row != anchor[0]]
        rows.append(anchor[0])
        if others:
            rows += [album[n][0] for n in np.random.choice(others, size=instances - 1, replace=len(others) < instances)]
    return rows


tables = st.integers(1, 60).flatmap(lambda n: st.tuples(*(st.lists(st.integers(low, high), min_size=n,
    max_size=n).map(np.array) for low, high in ((-1, 6), (1, 3)))))


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
    assert Counter(labels[rows].tolist() if len(rows) else []) == {c: instances if n > 1 else 1
        for c, n in sizes.items()}
    order = list(dict.fromkeys(labels[rows].tolist() if len(rows) else []))
    for c in order:
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
    assert Counter(labels[few.numpy()].tolist()) == {0: 6,
                                                     1: 6}, "with fewer identities than a batch holds, turns follow each other"
    again, other = (next(turns(labels, 4, 3, cams, s)) for s in (0, 1))
    assert not torch.equal(again, other) and torch.equal(again, next(turns(labels, 4, 3, cams, 0)))
    with pytest.raises(RunError, match="no pseudo-identity is left"): next(turns(np.array([-1, -1]), 2, 2, None, 0))


@pytest.mark.parametrize("sampler", ["camera", "no_camera"])
def test_a_run_by_turns(train, sampler, monkeypatch):
    seen = []
    monkeypatch.setattr("hil.training.trainer.turns",
                        lambda labels, ids, instances, cams, seed: (seen.append((cams is None, seed)),
        turns(labels, ids, instances, cams, seed))[1])
    h = train(sampler=sampler, same_ids=False, iterations=2).history
    assert np.isfinite(h.loss_total[1:]).all() and len(seen) == 6 == len({s for _, s in seen}) and {none
        for none, _ in seen} == {sampler == "no_camera"}


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
    assert not seen and [p.name for p in tmp_path.iterdir()] == ["a" * 16] and store["visible"]["clean"].shape == (1, 2,
        3)
    cached(tmp_path, "a" * 16, lambda: pytest.fail("it is there"))
    shutil.rmtree(tmp_path / ("a" * 16))
