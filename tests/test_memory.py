"""hil.method.memory against the release's figures, plain loops and properties."""
import math
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hil.core.vectors import unit
from hil.method.fast_memory import occurrence
from hil.method.memory import ClusterMemory, InstanceMemory

GOLDEN = Path(__file__).parent / "golden"
quick = settings(max_examples=40, deadline=None)


def load(name):
    with np.load(GOLDEN / f"{name}.npz") as z:
        return {k: torch.from_numpy(np.atleast_1d(z[k])) for k in z.files}


def rand(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(a, b, rtol=1e-6, atol=1e-9):
    torch.testing.assert_close(torch.as_tensor(a).double(), torch.as_tensor(b).double(), rtol=rtol, atol=atol)


def gradient(loss, *inputs): return torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("how,name", [("sample", "mean"), ("hard", "hard")])  # "mean_": moved by sample
def test_cluster_memory_golden(dtype, how, name):
    g, bits = load("cluster_memory"), {torch.float64: "f64", torch.float32: "f32"}[dtype]
    memory, f = ClusterMemory(g["memory"].to(dtype)), g["inputs"].to(dtype).requires_grad_()
    loss = memory(f, g["targets"])
    tol = dict(rtol=1e-6, atol=1e-9) if dtype == torch.float64 else dict(rtol=1e-4, atol=1e-6)
    close(loss, g[f"{name}_{bits}_loss"][0], **tol)
    close(gradient(loss, f)[0], g[f"{name}_{bits}_grad"], rtol=tol["rtol"], atol=1e-7)
    memory.update(f, g["targets"], how=how)
    close(memory.centers, g[f"{name}_{bits}_memory_after"], rtol=tol["rtol"], atol=1e-7)


def test_cluster_memory_weights_golden():
    g = load("cluster_memory")
    memory, f = ClusterMemory(g["memory"].double(), momentum=0.7), g["inputs"].double().requires_grad_()
    loss = memory(f, g["targets"], weights=g["ca"])
    close(loss, g["ca_loss"][0])
    close(gradient(loss, f)[0], g["ca_grad"], atol=1e-7)
    memory.update(f, g["targets"])
    close(memory.centers, g["ca_memory_after_m07"], atol=1e-7)


def test_two_batches_through_one_memory():
    "Both gradients use the memory of the forward pass (the release's first does not); updates compose, b then a."
    g = load("cluster_memory")
    memory = ClusterMemory(g["memory"].double())
    a, b = g["inputs"].double().requires_grad_(), g["pair_inputs_b"].double().requires_grad_()
    loss_a, loss_b = memory(a, g["targets"]), memory(b, g["pair_targets_b"])
    memory.update(b, g["pair_targets_b"])
    memory.update(a, g["targets"])
    grad_a, grad_b = gradient(loss_a + loss_b, a, b)
    close(loss_b, g["pair_loss_b"][0])
    close(grad_b, g["pair_grad_b"], atol=1e-7)
    close(grad_a, g["mean_f64_grad"], atol=1e-7)
    assert (grad_a - g["pair_grad_a"]).abs().max() > 1e-4
    close(memory.centers, g["pair_memory_after"], atol=1e-7)


@pytest.mark.parametrize("momentum,key", [(0.9, "after_m09"), (0.1, "after_m01")])
def test_instance_memory_golden(momentum, key):
    g = load("update_em")
    memory = InstanceMemory(g["memory"].double(), momentum=momentum, mix="raw")
    memory.update(g["inputs"].double(), g["indexes"])
    close(memory.features, g[key], atol=1e-7)


def test_trainer_memories_after_golden():
    g = load("trainer_regdb")
    for s in ("", "_s"):
        shared = ClusterMemory(g[f"in_shared{s}"].double())
        for m in ("rgb", "ir"):  # the release's order
            shared.update(g[f"in_f_{m}{s}"].double(), g[f"in_labels_{m}"])
            wise = InstanceMemory(g[f"in_wise_{m}{s}"].double(), mix="raw")
            wise.update(g[f"in_f_{m}{s}"].double(), g[f"in_index_{m}"])
            close(wise.features, g[f"e0_after_wise_{m}{s}"], rtol=1e-5, atol=1e-6)
        close(shared.centers, g[f"e0_after_shared{s}"], rtol=1e-5, atol=1e-6)


@quick
@given(seed=st.integers(0, 10**6), C=st.integers(1, 9), B=st.integers(1, 40), momentum=st.floats(0, 1))
def test_updates_equal_the_loop(seed, C, B, momentum):
    centers, f = rand(C, 4, seed=seed), rand(B, 4, seed=seed + 1)
    y = torch.from_numpy(np.random.default_rng(seed).integers(0, C, B))
    memory = ClusterMemory(centers, momentum=momentum)
    memory.update(f, y)
    close(memory.centers, reference.move_in_place(unit(centers), unit(f), y, momentum))
    for mix in ("unit", "raw"):
        memory = InstanceMemory(centers, momentum=momentum, mix=mix)
        memory.update(f, y)
        close(memory.features, reference.move_in_place(unit(centers), unit(f) if mix == "unit" else f, y, momentum))


@quick
@given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_occurrence_counts_repeats(labels):
    assert occurrence(torch.tensor(labels)).tolist() == [labels[:i].count(y) for i, y in enumerate(labels)]


@pytest.mark.parametrize("how", ["mean", "hard"])
def test_one_update_a_cluster(how):
    centers, f, y = unit(rand(4, 5)), rand(30, 5, seed=1), torch.from_numpy(np.random.default_rng(0).integers(0, 3, 30))
    memory = ClusterMemory(centers)
    memory.update(f, y, how=how)
    for c in range(3):
        x = unit(f[y == c])
        new = x.mean(0) if how == "mean" else x[(x @ centers[c]).argmin()]
        close(memory.centers[c], unit(.1 * centers[c] + .9 * new))
    close(memory.centers[3], centers[3])


def test_memories_travel_with_state_dicts():
    a, b = ClusterMemory(rand(3, 4)), ClusterMemory(rand(3, 4, seed=1))
    b.load_state_dict(a.state_dict())
    assert (a.centers == b.centers).all() and not list(a.parameters())


BAD = {"NaN": (torch.full((2, 4), math.nan), torch.tensor([0, 1])), "shape": (torch.ones(2, 5), torch.tensor([0, 1])),
       "expected \\[B, 4\\]": (torch.ones(0, 4), torch.zeros(0, dtype=int)),
       "outliers": (torch.ones(2, 4), torch.tensor([0, -1])), "0..2": (torch.ones(2, 4), torch.tensor([0, 3])),
       "integer labels": (torch.ones(2, 4), torch.tensor([0.5, 1.])),
       "2 integer": (torch.ones(2, 4), torch.tensor([0]))}


@pytest.mark.parametrize("word", BAD)
def test_bad_batches_are_refused(word):
    f, y = BAD[word]
    cluster, instance = ClusterMemory(torch.eye(4)[:3]), InstanceMemory(torch.eye(4)[:3])
    for call in (cluster, cluster.update, instance.update):
        with pytest.raises(ValueError, match=word): call(f, y)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="were there any clusters"): ClusterMemory(torch.ones(0, 4))
    with pytest.raises(ValueError, match="mix must be"): InstanceMemory(torch.eye(4), mix="half")
    with pytest.raises(ValueError, match="how must be"):
        ClusterMemory(torch.eye(4)).update(torch.ones(2, 4), torch.tensor([0, 1]), how="last")
