"""What runs on a GPU, on one that computes nothing (`fake_gpu`): devices are never mixed, the host seldom waits; and
that what a GPU takes another way for gives a CPU's numbers."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_gpu import fake_gpu
from torch import nn

from hil.core.names import DEPTHS, MODALITIES
from hil.core.vectors import unit
from hil.data import augment
from hil.data.training_views import VIEWS, CachedViews, PixelViews, use_bfloat16
from hil.method import fast_losses, losses
from hil.method.fast_memory import Rounds, batch_means, hardest
from hil.method.labels import Rules, epoch_labels
from hil.method.memory import ClusterMemory, InstanceMemory
from hil.method.sub_clusters import secondary_assign
from hil.models.agw import AgwResNet50
from hil.models.build import build_model
from hil.runs.config import Config
from hil.training import distributed, feed
from hil.training.gradient_cache import passage
from hil.training.step import Memories, move_memories, plan_moves
from hil.training.trainer import Trainer

D, C, K, N = 96, 6, 2, 40
MOST = 5  # waits of a step
GPU = torch.device("cuda", 0)


def recipe(**changes): return Config.recipe("sysu", data_root="/nowhere", weights="random", **changes)


def built(make):
    with torch.device(GPU): return make()


def both(make): return {m: {d: make() for d in DEPTHS} for m in MODALITIES}


def memories(config):
    "Memories of one label space on the fake GPU."
    cluster = {d: ClusterMemory(torch.randn(C, D, device=GPU), config.temp, config.momentum) for d in DEPTHS}
    banks = {d: unit(torch.randn(C, 1 + K, D, device=GPU)) for d in DEPTHS}
    instance = both(lambda: InstanceMemory(torch.randn(N, D, device=GPU), mix=config.instance_mix))
    return Memories(dict.fromkeys(MODALITIES, cluster), {m: dict(banks) for m in MODALITIES}, instance, {}, True)


def stand_in(config, model):
    "What `Trainer.step` uses of a trainer, with an optimizer; autograd wants a real GPU, so gradients are given."
    trainer = object.__new__(Trainer)
    trainer.config, trainer.device, trainer.model = config, GPU, model
    trainer.passage = passage(model, config)
    def backward(total):
        for p in model.parameters(): p.grad = torch.zeros_like(p)
    trainer.passage.backward = backward
    trainer.optimizer = torch.optim.SGD(model.parameters(), lr=.1, momentum=.9, foreach=False)
    trainer.averaged = SimpleNamespace(update=lambda: None)
    trainer.run = SimpleNamespace(path="a run")
    return trainer


def planned():
    "Rows, labels and plan of a batch of 2 identities, 2 images each, as the feed makes them."
    rows = {m: torch.tensor([0, 1, 2, 3]) for m in MODALITIES}
    y = {m: torch.tensor([0, 0, 1, 1]).repeat(len(VIEWS[m])) for m in MODALITIES}
    return rows, y, plan_moves(y, rows)


def faked(value): return feed.each(lambda x: torch.zeros(x.shape, dtype=x.dtype, device=GPU), value)


@pytest.mark.parametrize("changes", [dict(), dict(update_sub_centers=True, memory_update="hard")])
def test_a_step_of_the_paper_waits_at_most_five_times(changes):
    config = recipe(model="vit_tiny_ics", **changes)
    rows, y, plan = planned()
    with fake_gpu() as waits:
        model = built(lambda: build_model(config.model, "random")).train()
        trainer, known = stand_in(config, model), memories(config)
        on_gpu = faked(dict(rows=rows, y=y, plan=plan))
        images = {m: torch.zeros(9, 3, 144, 72, dtype=torch.uint8, device=GPU) for m in MODALITIES}
        views = PixelViews(images, 128, 64, GPU)
        drawn = {m: {"images": images[m][:4]} | {f"{k}{i}": x for i in range(len(VIEWS[m])) for k, x in dict(
            u=torch.rand(4, sum(augment.DRAWS), device=GPU), channel=torch.zeros(4, dtype=int, device=GPU)).items()}
                 for m in MODALITIES}
        waits.seen.clear()
        batch = {m: views.make(m, drawn[m]) for m in MODALITIES}
        found = trainer.step(batch, on_gpu["y"], on_gpu["rows"], known, config.stage1_epochs, 0, on_gpu["plan"])
        assert {"total", "cluster", "mccl", "neighbor"} == set(found) and found["total"].device == GPU
    assert 0 < len(waits.seen) <= MOST, waits.seen


def test_who_reads_every_loss_is_counted():
    "The counter sees what made a step slow: numbers that are read, masks, lengths that depend on numbers, copies."
    with fake_gpu() as waits:
        x = torch.randn(8, 4, device=GPU)
        for wait in (lambda: x.sum().item(), lambda: bool((x > 0).all()), lambda: x[x[:, 0] > 0], x.nonzero, x.cpu,
                     lambda: torch.zeros(3).to(GPU)):
            waits.seen.clear()
            wait()
            assert len(waits.seen) == 1, waits.seen
        waits.seen.clear()
        x[:, None, 1:], x[..., 0], x[torch.zeros(2, dtype=int, device=GPU)], torch.zeros(3).to(GPU, non_blocking=True)
        assert not waits.seen
        with pytest.raises(Exception, match="same device"): x @ torch.randn(4, 2)


def test_with_a_plan_the_memories_move_without_a_wait():
    config = recipe(model="vit_tiny_ics")
    rows, y, plan = planned()
    with fake_gpu() as waits:
        known, features = memories(config), {m: {d: torch.randn(len(y[m]), D, device=GPU) for d in DEPTHS} for m in y}
        on_gpu = faked(dict(rows=rows, y=y, plan=plan))
        waits.seen.clear()
        move_memories(features, on_gpu["y"], on_gpu["rows"], known, config, on_gpu["plan"])
        assert not waits.seen


@pytest.mark.parametrize("make", [lambda: build_model("vit_tiny_ics", "random"), lambda: AgwResNet50(
    channels=8, blocks=(1, 1, 1, 1), non_local=(0, 1, 0, 0), height=128, width=64)], ids=["vit", "agw"])
def test_models_stay_on_their_device(make):
    with fake_gpu() as waits:
        model = built(make).train()
        waits.seen.clear()
        out = model({m: torch.randn(3, 3, 128, 64, device=GPU) for m in MODALITIES})
        assert all(f.device == GPU for b in out.values() for f in b.values()) and not waits.seen
        with pytest.raises(Exception, match="device"): model({"visible": torch.randn(3, 3, 128, 64)})


def test_lite0_stays_on_its_device():
    with fake_gpu() as waits:
        model = built(lambda: build_model("lite0", "random")).train()
        waits.seen.clear()
        out = model({m: torch.randn(3, 3840, device=GPU) for m in MODALITIES})
        out |= {f"images of {m}": f for m, f in model({m: torch.randn(3, 3, 128, 64, device=GPU)
                                                       for m in MODALITIES}).items()}
        assert all(f.device == GPU for b in out.values() for f in b.values()) and not waits.seen


def test_cached_rows_on_a_gpu_are_looked_up_there():
    with fake_gpu() as waits:
        store = {m: {"clean": torch.zeros(2, 9, 5, device=GPU).half(),
                     "views": torch.zeros(len(VIEWS[m]), 3, 7, 5, device=GPU).half()} for m in MODALITIES}
        views = CachedViews(store, GPU)
        drawn = {"idx": torch.zeros(4, dtype=int, device=GPU), "draws": torch.zeros(2, 4, 1, dtype=int, device=GPU)}
        waits.seen.clear()
        assert views.make("visible", drawn).shape == (8, 5) and views.show("infrared", drawn, True).device == GPU
        assert not waits.seen


# --- a GPU's own ways give a CPU's numbers ---------------------------------------------------------------------------

def rand(*shape, seed=0): return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_pairs_of_a_gpu_are_those_of_a_cpu():
    q, memory = rand(9, 8), unit(rand(300, 8, seed=1))
    for ratio in (.5, .9, .99):
        near = fast_losses._near(q, memory, ratio) & fast_losses._near(2 * q, memory, ratio)
        expected = fast_losses.neighbor_pairs({"deep": q, "shallow": 2 * q}, dict.fromkeys(DEPTHS, memory), ratio)
        for a, b in zip(near.nonzero(as_tuple=True), expected): assert torch.equal(a, b)


def test_rounds_move_as_the_loop_does():
    "A plan by cluster serves sub-centres too: what shares a sub-centre shares the cluster."
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.integers(0, 5, 60))
    plan = Rounds.of(y)
    assert sum(plan.sizes) == 60 and plan.sizes[0] == len(y.unique())
    for part in y[plan.order].split(plan.sizes): assert len(part.unique()) == len(part)
    x, bank = rand(60, 8), unit(rand(5, 4, 8, seed=2))
    assert torch.equal(losses.update_sub_centers(bank, x, y, rounds=plan), losses.update_sub_centers(bank, x, y))


def test_means_and_hardest_rows_come_in_the_order_of_labels():
    y, x = torch.tensor([7, 3, 7, 5, 3]), unit(rand(5, 4))
    mean, labels = batch_means(x, y, Rounds.of(y))
    assert labels.tolist() == [3, 5, 7] and torch.allclose(mean[2], (x[0] + x[2]) / 2)
    rows, labels = hardest(x, y, unit(rand(8, 4, seed=3)), Rounds.of(y))
    assert sorted(labels.tolist()) == [3, 5, 7] and all((x == r).all(1).any() for r in rows)


# --- the feed --------------------------------------------------------------------------------------------------------

def test_ahead_of_time_is_the_same_sequence():
    def batches():
        rng, g = np.random.default_rng(0), torch.Generator().manual_seed(0)
        return lambda i: (i, rng.random(), torch.rand(1, generator=g).item())
    assert list(feed.ahead_of_time(batches(), range(20), 2)) == list(map(batches(), range(20)))


def test_rows_lie_on_the_gpu_where_they_fit(monkeypatch):
    store = {"visible": {"clean": torch.zeros(10, 10)}}  # 400 bytes
    for free, home in ((1600, "cuda"), (1599, "cpu")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**9))
        assert feed.home_of(store, GPU).type == home


# --- what belongs to one GPU -----------------------------------------------------------------------------------------

def test_one_process_takes_the_gpu_it_was_told(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert distributed.own_device(torch.device("cuda:1")) == torch.device("cuda", 1) and taken[0].index == 1
    assert distributed.own_device(torch.device("cuda")) == torch.device("cuda", 0)


def test_imitated_bfloat16_is_not_fast(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert use_bfloat16(None, 1, 1, "cuda:1") is False
    with fake_gpu(), pytest.raises(Exception, match="has no 16-bit units of that kind"):
        passage(built(lambda: nn.Linear(2, 2)), recipe(precision="bf16"))


def test_a_gpu_gets_torchs_own_batch_norm(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 2)
    def made(): return nn.Sequential(nn.Sequential(nn.BatchNorm2d(3)), nn.BatchNorm1d(3))
    with fake_gpu():
        model = built(made)
        names, weight = list(model.state_dict()), model[0][0].weight
        assert type(distributed.synchronise(model)[0][0]) is nn.SyncBatchNorm and type(model[1]) is nn.BatchNorm1d
        assert list(model.state_dict()) == names and model[0][0].weight is weight
    assert type(distributed.synchronise(made())[0][0]) is distributed.SyncedBatchNorm2d


# --- what is computed on the CPU on purpose fetches its numbers itself -----------------------------------------------

class Away(torch.Tensor):
    "Real numbers that numpy cannot have before `cpu()`, as those of a GPU."
    def cpu(self): return self.as_subclass(torch.Tensor)
    def to(self, *args, **kwargs): return super().to(*args, **kwargs).as_subclass(
        torch.Tensor if "cpu" in map(str, (*args, *kwargs.values())) else Away)
    def numpy(self, **_): raise TypeError("can't convert cuda:0 device type tensor to numpy")
    def __array__(self, *_, **__): raise TypeError("can't convert cuda:0 device type tensor to numpy")


def people(n=6, each=8, seed=0):
    centers = rand(n, 16, seed=seed)
    return (centers.repeat_interleave(each, 0) + .1 * rand(n * each, 16, seed=seed + 1))


def test_clusters_matches_and_sub_clusters_of_features_on_a_gpu():
    rules = Rules.of(Config(eps=.6, k1=8, k1_infrared=8, k2=3, k2_infrared=3, min_samples=3, n_sub=2, threshold=.5))
    x = {"visible": people(), "infrared": people(seed=0) + .05}
    with pytest.raises(TypeError, match="cuda:0"): np.asarray(x["visible"].as_subclass(Away))
    here, there = (epoch_labels(kind, rules, "infrared_to_visible")
                   for kind in (x, {m: f.as_subclass(Away) for m, f in x.items()}))
    for m in MODALITIES:
        np.testing.assert_array_equal(here.apart[m], there.apart[m])
        np.testing.assert_array_equal(here.final[m], there.final[m])
    y = here.apart["visible"]
    assert y.max() >= 1
    np.testing.assert_array_equal(secondary_assign(x["visible"], y, 2, 0),
                                  secondary_assign(x["visible"].as_subclass(Away), y, 2, 0))
