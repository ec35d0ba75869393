"""Split prototypes, hard prototypes and soft labels: cases by hand, slow references, and runs with them."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import nearest, unit_rows

from hil.core.errors import RunError
from hil.core.names import DEPTHS, MODALITIES
from hil.core.vectors import unit
from hil.method.cluster import centroids
from hil.method.hard_prototypes import HardMemory
from hil.method.memory import ClusterMemory
from hil.method.soft_labels import neighbor_soft_labels, soft_contrast
from hil.method.split_prototypes import SplitMemory
from hil.runs.config import Config
from hil.training.step import move_memories, remember, step_losses


def at(*degrees): return torch.tensor([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])
def angle(x): return torch.rad2deg(torch.atan2(x[..., 1], x[..., 0])).tolist()


def two_modalities(seed, n=12, m=9, clusters=5, d=6):
    "Random features and labels of a label space, in which some clusters lack a modality and some images a cluster."
    rng = np.random.default_rng(seed)
    features = {name: torch.tensor(rng.normal(size=(k, d)), dtype=torch.float32) for name, k in zip(MODALITIES, (n, m))}
    labels = {name: rng.integers(-1, clusters, len(x)) for name, x in features.items()}
    seen = np.unique(np.concatenate(list(labels.values())))
    seen = seen[seen >= 0]
    if not len(seen): labels["visible"][0], seen = 0, np.array([0])
    return features, {name: np.where(y < 0, -1, np.searchsorted(seen, y)) for name, y in labels.items()}


# --- split prototypes ------------------------------------------------------------------------------------------------

def slow_split_loss(x, y, rows, temp, most):
    "Mean of -log p over the own rows, one sample at a time; `rows` is {(cluster, modality): unit row}."
    losses = []
    for f, c in zip(x.double(), y.tolist()):
        f = f / f.norm()
        logit = {key: float(f @ row) / temp for key, row in rows.items()}
        own = [v for (cluster, _), v in logit.items() if cluster == c]
        others = sorted((v for (cluster, _), v in logit.items() if cluster != c), reverse=True)[:most - len(own)]
        total = math.log(sum(math.exp(v) for v in own + others))
        losses.append(np.mean([total - v for v in own]))
    return np.mean(losses)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(3, 12))
def test_split_loss_is_the_slow_one(seed, most):
    features, labels = two_modalities(seed)
    memory = SplitMemory(features, labels, temp=.3, most=most)
    rows = {(c, m): unit(features[m][labels[m] == c].double().mean(0, keepdim=True))[0]
            for m in MODALITIES for c in np.unique(labels[m][labels[m] >= 0])}
    assert len(memory.centers) == len(rows)
    for m in MODALITIES:
        inside = torch.as_tensor(labels[m] >= 0)
        if not inside.any(): continue
        x, y = features[m][inside].requires_grad_(), torch.as_tensor(labels[m])[inside]
        loss = memory(x, y)
        loss.backward()
        assert loss.item() == pytest.approx(slow_split_loss(x.detach(), y, rows, .3, most), rel=1e-4)
        assert torch.isfinite(x.grad).all()


def test_split_loss_and_its_update_by_hand():
    features = {"visible": at(-10, 10, 90), "infrared": at(60, 180)}
    memory = SplitMemory(features, {"visible": np.array([0, 0, 1]), "infrared": np.array([0, 2])}, temp=1., momentum=.5)
    e = math.e
    assert memory(at(0), torch.tensor([0])).item() == pytest.approx(math.log(e + e**.5 + 1 + 1 / e) - .75, rel=1e-5)
    memory.side("infrared").update(at(150), torch.tensor([0]))
    np.testing.assert_allclose(angle(memory.centers), [0, 90, 105, 180], atol=1e-3)
    assert memory.side("visible").centers is memory.centers
    with pytest.raises(ValueError, match="there is no cluster"):
        SplitMemory(features, {"visible": np.full(3, -1), "infrared": np.full(2, -1)})
    with pytest.raises(ValueError, match="at least 3"): SplitMemory(features, {"visible": np.zeros(3, int),
                                                                              "infrared": np.zeros(2, int)}, most=2)


# --- hard prototypes -------------------------------------------------------------------------------------------------

@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_hard_loss_is_the_slow_one(seed):
    features, labels = two_modalities(seed)
    x, y = torch.cat(list(features.values())), np.concatenate(list(labels.values()))
    centers = unit(centroids(x, y))
    memory = HardMemory(x, y, centers, temp=.3)
    far = torch.stack([min(unit(x[y == c]), key=lambda f, c=c: float(f @ centers[c])) for c in range(len(centers))])
    assert torch.allclose(memory.hard, far, atol=1e-6)
    inside = y >= 0
    def entropies(rows):
        logits = unit(x[inside]) @ rows.T / .3
        return [float(torch.logsumexp(row, 0) - row[c]) for row, c in zip(logits, y[inside])]
    slow = np.mean([(h + max(m - .2, 0)) / 2 for h, m in zip(entropies(far), entropies(centers))])
    assert memory(x[inside], torch.as_tensor(y[inside])).item() == pytest.approx(slow, rel=1e-4)


def test_hard_rows_by_hand():
    features, labels = at(0, 20, 100, 180), torch.tensor([0, 0, 0, 1])
    memory = HardMemory(features, labels, torch.stack([features[:3].mean(0), features[3]]), momentum=.5)
    np.testing.assert_allclose(np.abs(angle(memory.hard)), [100, 180], atol=1e-3)
    before = memory.centers
    memory.update(at(30, 120), torch.tensor([0, 0]), "mean")
    np.testing.assert_allclose(np.abs(angle(memory.hard)), [110, 180], atol=1e-3)
    plain = ClusterMemory(before, momentum=.5)
    plain.update(at(30, 120), torch.tensor([0, 0]), "mean")
    assert torch.equal(memory.centers, plain.centers), "the centres move as ever"


# --- soft labels -----------------------------------------------------------------------------------------------------

def slow_soft_labels(x, labels, k, gamma):
    "Soft labels as a dense matrix [N, C], and weights."
    near, sizes = nearest(x, k), np.bincount(labels[labels >= 0])
    soft = np.zeros((len(x), len(sizes)))
    for i, row in enumerate(near):
        for c, size in enumerate(sizes):
            n = (labels[row] == c).sum()
            soft[i, c] = n / (len(row) - n + size)
        soft[i] /= max(soft[i].sum(), 1e-12)
    own = np.array([s[y] if y >= 0 else 0 for s, y in zip(soft, labels)])
    return soft, np.exp(-gamma * (1 - own)**2)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 12), st.floats(0, 1), st.floats(0, 20))
def test_soft_labels_are_the_slow_ones(seed, k, beta, gamma):
    features, labels = two_modalities(seed)
    x, y = torch.cat(list(features.values())), np.concatenate(list(labels.values()))
    found, (soft, weights) = neighbor_soft_labels(x, y, k, gamma), slow_soft_labels(unit_rows(x), y, k, gamma)
    dense = torch.zeros(soft.shape, dtype=torch.float).scatter_add(1, found.clusters, found.shares)
    np.testing.assert_allclose(dense, soft, atol=1e-6)
    inside = np.flatnonzero(y >= 0)
    np.testing.assert_allclose(found.weights[inside], weights[inside], atol=1e-6)
    memory = ClusterMemory(centroids(x, y), temp=.3)
    log_p = torch.log_softmax(unit(x[inside]) @ memory.centers.T / .3, 1).numpy()
    target = beta * np.eye(soft.shape[1])[y[inside]] + (1 - beta) * soft[inside]
    slow = (weights[inside] * -(target * log_p).sum(1)).mean()
    loss = soft_contrast(memory, x[inside], torch.as_tensor(y[inside]), found.of(inside), beta)
    assert loss.item() == pytest.approx(slow, rel=1e-4, abs=1e-6)


def test_soft_labels_by_hand():
    "9 degrees: two of its own cluster of two (2/3), one of a cluster of three (1/5)."
    found = neighbor_soft_labels(at(0, 2, 4, 9, 11, 60), [0, 0, 0, 1, 1, -1], 3)
    own = found.shares[3][found.clusters[3] == 1].sum().item()
    assert own == pytest.approx(10 / 13) and found.weights[3].item() == pytest.approx(math.exp(-10 * (3 / 13)**2))


# --- in a step and in a run ------------------------------------------------------------------------------------------

def batch_of(features, labels):
    rows = {m: torch.as_tensor(np.flatnonzero(labels[m] >= 0)) for m in MODALITIES}
    x = {m: {d: features[m][rows[m]].repeat(2, 1) for d in DEPTHS} for m in MODALITIES}  # two views of each
    return x, {m: torch.as_tensor(labels[m])[rows[m]].repeat(2) for m in MODALITIES}, rows


@pytest.mark.parametrize("switch, kind", [("split_prototypes", SplitMemory), ("hard_prototypes", HardMemory)])
def test_a_step_uses_the_memory_where_labels_are_shared(switch, kind):
    features, labels = two_modalities(3)
    both = {m: {d: x for d in DEPTHS} for m, x in features.items()}
    config = Config(n_sub=0, mccl_weight=0., neighbor_weight=0., smoothing=0., **{switch: True})
    memories = remember(both, labels, config, shared=True, banks=False)
    inner = {m: getattr(memories.cluster[m]["deep"], "memory", memories.cluster[m]["deep"]) for m in MODALITIES}
    assert all(isinstance(x, kind) for x in inner.values()) and len({id(x) for x in inner.values()}) == 1
    assert len(memories.tensors()) == (4 if kind is HardMemory else 2)
    x, y, rows = batch_of(features, labels)
    loss = step_losses(x, y, rows, memories, config, 0)["cluster"]
    assert loss.item() == pytest.approx(2 * sum(inner[m](x[m]["deep"], y[m]).item() for m in MODALITIES), rel=1e-5)
    before = [t.clone() for t in memories.tensors()]
    move_memories(x, y, rows, memories, config)
    assert all((a != b).any() for a, b in zip(before, memories.tensors()))


def test_soft_labels_of_a_step_are_those_of_its_rows():
    features, labels = two_modalities(3)
    both = {m: {d: x for d in DEPTHS} for m, x in features.items()}
    config = Config(n_sub=0, mccl_weight=0., neighbor_weight=0., neighbor_soft_labels=True, soft_neighbors=4)
    memories = remember(both, labels, config, shared=True, banks=False)
    x, y, rows = batch_of(features, labels)
    loss = step_losses(x, y, rows, memories, config, 0)["cluster"]
    joined, everybody = torch.cat(list(features.values())), np.concatenate(list(labels.values()))
    soft = dict(zip(MODALITIES, neighbor_soft_labels(joined, everybody, 4).split([len(v) for v in labels.values()])))
    want = 2 * sum(soft_contrast(memories.cluster[m]["deep"], features[m][rows[m]], torch.as_tensor(labels[m])[rows[m]],
                                 soft[m].of(rows[m])).item() for m in MODALITIES)
    assert loss.item() == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("changes, says", [
    (dict(split_prototypes=True, hard_prototypes=True), "switch on one of them"),
    (dict(split_prototypes=True, matcher="none"), "a stage 2 where modalities meet"),
    (dict(hard_prototypes=True, cluster_weight=0.), "a stage 2 where modalities meet"),
    (dict(neighbor_soft_labels=True, smoothing=.1), "smoothing = 0.1 is for"),
    (dict(neighbor_soft_labels=True, supervision="truth", stage1_epochs=0), "is for cluster_weight > 0 and s"),
    (dict(soft_neighbors=10), "is for neighbor_soft_labels = True"),
    (dict(neighbor_soft_labels=True, soft_own=1.5), "soft_own")])
def test_settings_that_would_do_nothing_are_refused(changes, says):
    with pytest.raises(RunError, match=says): Config(**changes)


@pytest.mark.parametrize("changes, kept", [
    ({}, True), (dict(dataset="sysu", data_root="x"), True), (dict(hard_prototypes=False), False),
    (dict(preset="tiny"), False), (dict(preset="tiny", hard_prototypes=True), True), (dict(release=True), False),
    (dict(preset="sysu", data_root="x", weights="random"), False), (dict(split_prototypes=True), False),
    (dict(neighbor_soft_labels=True), False), (dict(supervision="truth", stage1_epochs=0), False),
    (dict(matcher="none"), False), (dict(stage2_epochs=0), False)], ids=str)
def test_hard_prototypes_are_kept_by_default_where_nothing_takes_their_place(changes, kept):
    assert Config(**changes).keeps_hard_prototypes is kept


@pytest.mark.parametrize("switch", ["split_prototypes", "hard_prototypes", "neighbor_soft_labels"])
def test_a_run_with_a_newer_idea(train, whole, switch):
    run = train(stage2_epochs=1, **{switch: True})
    last = run.history.iloc[-1]
    assert np.isfinite(last.loss_cluster) and last.loss_cluster != whole.history.loss_cluster.iloc[2]
