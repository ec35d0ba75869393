"""What a device computes beside what the processor computes: how far apart, and how far apart it may be.

Every comparison yields (what, deviation, tolerance). tests/test_gpu.py asserts them, tests/gpu_check.py prints them.
Tolerances: float32 sums in another order give 1e-6 to 1e-5 of the largest number, a product in TF32 would give 1e-3.
Convolutions do run in TF32 on a GPU unless torch is told otherwise, so whole networks may differ by 1e-2.
"""
from copy import deepcopy
from dataclasses import replace
from inspect import signature

import bench_losses
import numpy as np
import torch

from hil.core.names import MODALITIES
from hil.core.vectors import unit_rows
from hil.method.cluster import pseudo_labels
from hil.method.losses import mccl_loss, neighbor_loss
from hil.method.memory import ClusterMemory, InstanceMemory
from hil.method.neighbors import knn
from hil.method.rerank import jaccard_distance
from hil.models.build import build_model
from hil.training.step import half_shallow

LOSSES = dict(n={"visible": 600, "infrared": 400}, batch={"visible": 32, "infrared": 16}, d=64, clusters=20, centres=4)
SMALL = dict(height=64, width=32)  # pixels
NETWORKS = {"lite0": {}, "vit_tiny_ics": SMALL, "agw_resnet50": SMALL}


def on(function, device):
    "The argument that names the device, where a function has one."
    return {"device": device} if "device" in signature(function).parameters else {}


def relative(got, expected):
    "Length of the difference by the length of what was expected."
    got, expected = (torch.as_tensor(x).detach().cpu().double() for x in (got, expected))
    return ((got - expected).norm() / expected.norm().clamp_min(1e-30)).item()


def crowd(n, d=64, seed=0):
    "Raw features float32 [n, d] of people with 20 images each."
    rng = np.random.default_rng(seed)
    people = rng.standard_normal((max(n // 20, 2), d), dtype=np.float32)
    return people[rng.integers(len(people), size=n)] + .8 * rng.standard_normal((n, d), dtype=np.float32)


def cosines(x, found):
    "Cosine of every row with its neighbours, falling -> float64 [N, k]."
    x = unit_rows(x).astype(np.float64)
    blocks = [np.einsum("nd,nkd->nk", x[rows], x[found[rows]])
              for rows in np.array_split(np.arange(len(x)), len(x) // 256 + 1)]
    return -np.sort(-np.concatenate(blocks), axis=1)


def neighbours(device, n=600, d=64):
    x = crowd(n, d)
    here, there = knn(x, 20), knn(x, 20, **on(knn, device))
    yield "neighbours: rows that do not begin with themselves", int((there[:, 0] != np.arange(n)).sum()), 0
    yield "neighbours: largest difference of a cosine", float(np.abs(cosines(x, there) - cosines(x, here)).max()), 1e-5


def labels(device, n=600, d=64):
    x = crowd(n, d)
    def of(**options): return pseudo_labels(jaccard_distance(x, 20, 6, .6, neighbors=knn(x, 20, **options)), .6)
    here, there = of(), of(**on(knn, device))
    yield "clusters: share of images with another label", float((here != there).mean()), 5e-3


def moved(tree, device):
    "A copy of nested dictionaries of tensors on a device; leaves that learn stay leaves."
    if isinstance(tree, dict): return {k: moved(x, device) for k, x in tree.items()}
    return tree.detach().to(device).requires_grad_(tree.requires_grad)


def terms(memories, features, rows, banks):
    "{name: scalar} the losses of one step: cluster contrast, multi-centre contrast, neighbour consistency."
    y = {m: rows[m].remainder(len(banks["deep"])) for m in features}
    views = {m: len(features[m]["deep"]) // len(rows[m]) for m in features}
    own = {m: {d: w[rows[m]] for d, w in memories[m].items()} for m in features}
    coarse = {d: ClusterMemory(bank[:, 0]) for d, bank in banks.items()}
    contrast = [coarse[d](f, y[m].repeat(views[m])) for m, both in features.items() for d, f in both.items()]
    near = [half_shallow(neighbor_loss(features[a], own[a], memories[b])) for a in features for b in features]
    return {"cluster contrast": sum(contrast), "neighbour consistency": sum(near),
            "multi-centre contrast": sum(half_shallow(mccl_loss(f, banks)) for f in features.values())}


def losses(device, size=LOSSES):
    worlds = [[moved(tree, where) for tree in bench_losses.world(**size)] for where in ("cpu", device)]
    here, there = (terms(*world) for world in worlds)
    leaves = [[f for both in world[1].values() for f in both.values()] for world in worlds]
    for name in here:
        yield f"{name}: loss", relative(there[name], here[name]), 1e-4
        one, two = (torch.cat([g.flatten().cpu() for g in torch.autograd.grad(both[name], x)])
                    for both, x in zip((here, there), leaves))
        yield f"{name}: gradient", relative(two, one), 1e-3  # a pair at the edge may fall on the other side of it


def memories(device, n=600, d=64, clusters=20):
    torch.manual_seed(0)
    centres, features, y = torch.randn(clusters, d), torch.randn(96, d), torch.randint(clusters, (96,))
    for how in ("sample", "mean", "hard"):
        here, there = (ClusterMemory(centres.to(where)) for where in ("cpu", device))
        here.update(features, y, how)
        there.update(features.to(device), y.to(device), how)
        yield f'memory of clusters, "{how}"', relative(there.centers, here.centers), 1e-5
    rows, banks = torch.randint(n, (96,)), torch.randn(n, d)
    here, there = (InstanceMemory(banks.to(where)) for where in ("cpu", device))
    here.update(features, rows)
    there.update(features.to(device), rows.to(device))
    yield "memory of instances", relative(there.features, here.features), 1e-5


def passed(model, batch, dtype=None):
    "Features and parameters' gradients of one pass, each as one vector."
    device = next(model.parameters()).device
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        out = model({m: x.to(device) for m, x in batch.items()})
    features = torch.cat([f.float().flatten() for both in out.values() for f in both.values()])
    features.square().mean().backward()
    return features, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def networks(device, names=NETWORKS):
    for name in names:
        torch.manual_seed(0)
        model, batch = build_model(name, "random", **NETWORKS[name]), {m: torch.randn(4, 3, 64, 32) for m in MODALITIES}
        here = passed(deepcopy(model), batch)
        there = passed(deepcopy(model).to(device), batch)
        yield f"{name}: features", relative(there[0], here[0]), 1e-2
        yield f"{name}: gradient", relative(there[1], here[1]), 5e-2
        if torch.device(device).type == "cpu": continue  # a processor's 16 bits have a test of their own
        yield f"{name}, bf16: features", relative(passed(model.to(device), batch, torch.bfloat16)[0], here[0]), 5e-2


def training(device, config, folder):
    "The same short run on both; the heads' dropout is off, because its draws differ between devices."
    from hil.training.trainer import Trainer
    here, there = (Trainer(replace(config, device=where, dropout=0., run_dir=f"{folder}/{number}"),
                           progress=False).fit().history for number, where in enumerate(("cpu", device)))
    yield "training: mAP before it", abs(there.mAP.iloc[0] - here.mAP.iloc[0]), .02
    yield "training: loss of the first epoch", abs(there.loss_total.iloc[1] / here.loss_total.iloc[1] - 1), .02
    yield "training: mAP after it", abs(there.mAP.iloc[-1] - here.mAP.iloc[-1]), .05
