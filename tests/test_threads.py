"""How many threads compute: as many as cores are free, or the number that was asked for; how they wait."""
import os
import subprocess
import sys
import time

import pytest
import torch
from threadpoolctl import threadpool_info

from hil.core import threads
from hil.core.threads import Threads, own_cores, threads_for, worked_by_all
from hil.training.trainer import Trainer


class Machine:
    "A clock, what this process has worked, and what all have; moved by hand."
    def __init__(self, cores): self.time, self.mine, self.all, self.cores = 0., 0., 0., cores

    def passes(self, own, seconds, mine, others):
        self.time, self.mine = self.time + seconds, self.mine + seconds * mine
        self.all += seconds * (mine + others)
        own.look()
        return own.now


@pytest.fixture
def two(monkeypatch):
    "two(asked) -> (Threads of a process with two threads on two cores, its Machine)"
    machine, before = Machine(2), torch.get_num_threads()
    monkeypatch.setattr(threads, "own_cores", lambda: {0, 1})
    torch.set_num_threads(2)
    def make(asked="auto", **more):
        own = Threads(asked, clock=lambda: machine.time, worked=lambda: machine.mine,
                      by_all=lambda cores: machine.all, **more)
        own.begin()
        return own, machine
    yield make
    torch.set_num_threads(before)


def test_a_thread_is_given_up_and_taken_back(two, caplog):
    own, machine = two()
    assert [machine.passes(own, 3, 2, 0), torch.get_num_threads()] == [2, 2]
    assert [machine.passes(own, 3, 1.33, .67), torch.get_num_threads()] == [1, 1]
    assert {x["num_threads"] for x in threadpool_info()} == {1}, "the matrix libraries too"
    assert machine.passes(own, 3, 1, 1) == 1 and machine.passes(own, 3, 1, .5) == 1, "half a core is not free"
    assert [machine.passes(own, 3, 1, .1), torch.get_num_threads()] == [2, 2]
    assert machine.passes(own, 3, 1.33, .67) == 1
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(said) == 1 and "other processes keep 0.7 of 2 cores busy: going on with 1 of 2 threads" in said[0]
    own.begin()
    own.close()
    assert torch.get_num_threads() == 2
    machine.passes(own, 3, 1, 1)
    assert torch.get_num_threads() == 2, "whoever has finished leaves the threads alone"


def test_a_moment_changes_nothing(two):
    own, machine = two()
    for _ in range(10): assert machine.passes(own, .1, 1, 1) == 2, "two seconds are measured"
    assert machine.passes(own, 1.1, 2, 0) == 2, "half a core in their mean is not enough"


@pytest.mark.parametrize("asked,more", [(2, {}), (1, {}), ("auto", dict(sharers=2))])
def test_what_was_asked_for_and_a_share_stay(two, asked, more):
    own, machine = two(asked, **more)
    most = asked if asked != "auto" else 1
    assert [machine.passes(own, 3, 1, 1), machine.passes(own, 3, 2, 0), torch.get_num_threads()] == [most] * 3


def test_where_nobody_counts_all_threads_stay(two, monkeypatch):
    own, machine = two()
    own.by_all = lambda cores: None
    own.begin()
    assert machine.passes(own, 3, 1, 1) == 2


@pytest.mark.parametrize("most", [1, 2, 3, 8, 64])
def test_never_less_than_half_never_more_than_all(most):
    for now in range(1, most + 1):
        for tenth in range(0, 10 * most + 1):
            assert max(1, most // 2) <= threads_for(tenth / 10, now, most) <= most
    assert threads_for(most, 1, most) == most


def test_a_machine_with_a_steady_load_comes_to_rest():
    "Whatever the load, the number of threads settles: others get more when threads are given up."
    for most in (2, 4, 16):
        for burners in range(3 * most):
            now, seen = most, []
            for _ in range(50):
                taken = min(burners, most * burners / (burners + now))
                now = threads_for(most - taken, now, most)
                seen.append(now)
            assert len(set(seen[-5:])) == 1, (most, burners, seen)


def test_the_machine_counts_for_all():
    before, begun, own = worked_by_all(own_cores()), time.perf_counter(), time.process_time()
    if before is None: pytest.skip("nobody counts here")
    while time.process_time() - own < .3: pass
    done, passed = worked_by_all(own_cores()) - before, time.perf_counter() - begun
    assert .2 < done < len(own_cores()) * passed + .1


def test_how_threads_wait_is_set_before_torch_and_what_somebody_set_stays():
    code = "import hil, os; print([os.environ.get(k) for k in ('GOMP_SPINCOUNT', 'OPENBLAS_THREAD_TIMEOUT')])"
    names = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OPENBLAS_THREAD_TIMEOUT", "OMP_WAIT_POLICY")
    bare = {k: v for k, v in os.environ.items() if k not in names}
    def said(**more):
        done = subprocess.run([sys.executable, "-c", code], env=bare | more, capture_output=True, text=True, check=True)
        return done.stdout.strip()
    assert said() == "['10000', '20']" and said(OMP_WAIT_POLICY="active") == "[None, '20']"
    assert said(GOMP_SPINCOUNT="7", OPENBLAS_THREAD_TIMEOUT="26") == "['7', '26']"


def test_a_run_keeps_the_number_that_was_asked_for(small, tmp_path, monkeypatch):
    before, seen = torch.get_num_threads(), []
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, *a: (seen.append(torch.get_num_threads()), step(self, *a))[1])
    run = Trainer(small(run_dir=str(tmp_path / "run"), threads=3, stage1_epochs=0, stage2_epochs=1, iterations=2),
                  progress=False).fit()
    assert seen == [3, 3] and torch.get_num_threads() == before and run.about["threads"] == 3
    for file in tmp_path.rglob("*.pt"): file.unlink()
