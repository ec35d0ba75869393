"""Processor time of the losses of one training step, forward and backward, and of the memory updates after it,
against the plain versions of tests/reference.py and against the bare products of features and memories (the floor)."""
import time

import reference
import torch

from hil.core.vectors import unit
from hil.method.losses import mccl_loss, neighbor_loss
from hil.method.memory import InstanceMemory
from hil.training.step import half_shallow

VIEWS = {"visible": 2, "infrared": 1}
SIZES = {"SYSU-MM01": dict(n={"visible": 22258, "infrared": 11909}, batch={"visible": 256, "infrared": 128}, d=768,
                           clusters=395, centres=10),
         "embedded": dict(n={"visible": 7680, "infrared": 3840}, batch={"visible": 192, "infrared": 96}, d=768,
                          clusters=80, centres=5)}
TERMS = (("visible", "visible", .1), ("infrared", "infrared", .1), ("visible", "infrared", .01))    # of an even epoch


def world(n, batch, d, clusters, centres, seed=0):
    "Instance memories, batch features, the batch's own rows and multi-centre banks, per modality and level."
    g = torch.Generator().manual_seed(seed)
    people = {level: torch.randn(clusters, d, generator=g) for level in ("deep", "shallow")}
    banks = {level: unit(p[:, None] + .1 * torch.randn(clusters, centres, d, generator=g))
             for level, p in people.items()}
    memories, features, rows = {}, {}, {}
    for m in n:
        who = torch.randint(clusters, (n[m],), generator=g)
        memories[m] = {level: unit(p[who] + .25 * torch.randn(n[m], d, generator=g)) for level, p in people.items()}
        rows[m] = torch.randint(n[m], (batch[m] // VIEWS[m],), generator=g)
        features[m] = {level: (w[rows[m]].repeat(VIEWS[m], 1)
                               + .7 * torch.randn(batch[m], d, generator=g) / d**.5).requires_grad_()
                       for level, w in memories[m].items()}
    return memories, features, rows, banks


def neighbours(loss, memories, features, rows, all_views):
    "The three neighbour terms; the plain version wants a query for every row of the batch."
    own = {m: {level: w[rows[m]].repeat(VIEWS[m] if all_views else 1, 1) for level, w in memories[m].items()}
           for m in memories}
    return sum(weight * half_shallow(loss(features[a], own[a], memories[b])) for a, b, weight in TERMS)


def bare_products(pairs):
    "Forward and backward product of every (features, memory), block by block."
    for f, w in pairs:
        for block in w.split(1024): f.detach() @ block.T @ block


def processor_seconds(works, rounds):
    "Best of some rounds on one thread (threads that wait spin, which counts as work), the contestants taking turns."
    best, threads = dict.fromkeys(works, float("inf")), torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(rounds):
        for name, work in works.items():
            started = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - started)
    torch.set_num_threads(threads)
    return best


def bench(size, rounds=3):
    "One size -> rows (step, ours, reference, floor) in processor seconds."
    memories, features, rows, banks = world(**SIZES[size])
    leaves = [f for both in features.values() for f in both.values()]
    def grad(total): torch.autograd.grad(total, leaves)
    def neighbour_step(loss, all_views=False): grad(neighbours(loss, memories, features, rows, all_views))
    def centre_step(loss): grad(sum(half_shallow(loss(f, banks)) for f in features.values()))
    searched = [(f, memories[b][level]) for a, b, _ in TERMS for level, f in features[a].items()]
    compared = [(f, banks[level].flatten(0, 1)) for both in features.values() for level, f in both.items()]
    near = processor_seconds(dict(ours=lambda: neighbour_step(neighbor_loss),
                                  plain=lambda: neighbour_step(reference.neighbor_loss, all_views=True),
                                  floor=lambda: bare_products(searched)), rounds)
    centres = processor_seconds(dict(ours=lambda: centre_step(mccl_loss),
                                     plain=lambda: centre_step(reference.mccl_loss),
                                     floor=lambda: bare_products(compared)), rounds)
    kept = {m: {level: InstanceMemory(w) for level, w in both.items()} for m, both in memories.items()}
    spare = {m: {level: w.clone() for level, w in both.items()} for m, both in memories.items()}
    x = {m: {level: unit(f.detach()) for level, f in both.items()} for m, both in features.items()}
    y = {m: r.repeat(VIEWS[m]) for m, r in rows.items()}
    def update():
        for m in x:
            for level, f in x[m].items(): kept[m][level].update(f, y[m])
    def plain_update():
        for m in x:
            for level, f in x[m].items(): reference.move_in_place(spare[m][level], f, y[m], .9)
    moved = processor_seconds(dict(ours=update, plain=plain_update), rounds)
    table = [(f"neighbour losses, {size}", near), (f"MCCL, {size}", centres), (f"memory updates, {size}", moved)]
    whole = {k: sum(t.get(k, 0) for _, t in table) for k in ("ours", "plain", "floor")}
    table.append((f"losses and updates, {size}", whole))
    return [(name, t["ours"], t["plain"], t.get("floor")) for name, t in table]
