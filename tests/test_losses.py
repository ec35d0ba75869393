"""hil.method.losses against the release's figures, plain loops and properties."""
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_memory import BAD, close, gradient, load, quick, rand

from hil.core.vectors import unit
from hil.method import fast_losses
from hil.method.fast_losses import neighbor_pairs, sub_center_cosines
from hil.method.losses import mccl_loss, neighbor_loss, update_sub_centers
from hil.method.memory import ClusterMemory, InstanceMemory

SHARE = {"deep": 1, "shallow": .5}


def trainer_losses(g, epoch):
    "The terms of one iteration of the release's trainer, by their names there -> {name: (loss, features behind it)}."
    f = {m: {"deep": g[f"in_f_{m}"].double().requires_grad_(), "shallow": g[f"in_f_{m}_s"].double().requires_grad_()}
         for m in ("rgb", "ir")}
    wise = {m: {"deep": g[f"in_wise_{m}"].double(), "shallow": g[f"in_wise_{m}_s"].double()} for m in ("rgb", "ir")}
    shared = {"deep": ClusterMemory(g["in_shared"].double()), "shallow": ClusterMemory(g["in_shared_s"].double())}
    banks = {"deep": g["in_shared_d"].double(), "shallow": g["in_shared_d_s"].double()}
    end, terms = {"deep": "", "shallow": "_s"}, {}
    own = {m: {level: w[g[f"in_index_{m}"]] for level, w in wise[m].items()} for m in wise}
    for m in ("rgb", "ir"):
        for level in end:
            terms[f"loss_{m}{end[level]}"] = shared[level](f[m][level], g[f"in_labels_{m}"]), f[m][level]
    for a, b in (("rgb", "rgb"), ("ir", "ir"), ("rgb", "ir"), ("ir", "rgb")):
        for level, loss in mccl_loss(f[a], banks).items():
            terms[f"id_{a}_{b}_loss{end[level]}"] = loss * SHARE[level], f[a][level]
        if (a, b) == (("ir", "rgb") if epoch % 2 == 0 else ("rgb", "ir")): continue
        across = .1 if (a, b) == ("rgb", "ir") else 1
        for level, loss in neighbor_loss(f[a], own[a], wise[b]).items():
            terms[f"{a}_{b}_loss{end[level]}"] = loss * SHARE[level] * across, f[a][level]
    return terms


def check_trainer(g, epochs):
    "Every loss, its gradient where the release recorded one, and their sum -> names of the gradients seen."
    seen = set()
    for epoch in epochs:
        terms = trainer_losses(g, epoch)
        for name, (loss, f) in terms.items():
            close(loss, g[f"e{epoch}_{name}"][0])
            for end in ("rgb", "ir", "rgb_s", "ir_s"):
                key = f"e{epoch}_pg_{name}_{end}"
                if key not in g or (end.endswith("_s") and not name.endswith("_s")): continue
                close(gradient(loss, f)[0], g[key], rtol=1e-5, atol=1e-6)
                seen.add(key)
        weight = {"id": 1 if epoch >= 20 else .1, "loss": 1}
        total = sum(loss * weight.get(name.split("_")[0], .1) for name, (loss, _) in terms.items())
        close(total, g[f"e{epoch}_total_loss"][0], rtol=2e-6)
    return seen


def test_trainer_golden():
    g = load("trainer_regdb")
    assert check_trainer(g, (0, 21)) == {k for k in g if "_pg_" in k}


def test_trainer_selections_golden():
    g = load("trainer_regdb")
    for m in ("rgb", "ir"):
        near = [sub_center_cosines(g[f"in_f_{m}{s}"].double(), g[f"in_shared_d{s}"].double()).amax(2).argmax(1)
                for s in ("", "_s")]
        assert near[0].tolist() == g[f"e0_center_indices_{m}"].tolist()
        assert near[1].tolist() == g[f"e0_center_indices_{m}_s"].tolist()
    for a, b in (("rgb", "ir"), ("rgb", "rgb"), ("ir", "ir")):
        q = {level: g[f"in_wise_{a}{s}"].double()[g[f"in_index_{a}"]] for level, s in (("deep", ""), ("shallow", "_s"))}
        rows, _ = neighbor_pairs(q, {"deep": g[f"in_wise_{b}"].double(), "shallow": g[f"in_wise_{b}_s"].double()})
        assert (rows.bincount(minlength=len(q["deep"])) + 1).tolist() == g[f"e0_num_neighbor_{a}_{b}"].tolist()


def slow_mccl(features, banks):
    "Equation by equation, one sample at a time."
    chosen, losses = {}, {}
    for level, f in features.items():
        chosen[level], losses[level] = [], []
        for x in f:
            d = (x / x.norm() - banks[level]).norm(dim=2)  # [C, P]
            n = int(d.amin(1).argmin())
            pos, neg = (1 / d[n]).mean(), torch.stack([1 / d[c].min() for c in range(len(d)) if c != n]).mean()
            chosen[level].append(n)
            losses[level].append(-torch.log(pos / (pos + neg)))
    keep = [i for i in range(len(f)) if len({c[i] for c in chosen.values()}) == 1]
    return {level: torch.stack([loss[i] for i in keep]).mean() if keep else torch.tensor(0.)
            for level, loss in losses.items()}


def slow_neighbor(features, queries, memories, temp=0.05, ratio=0.9):
    "Neighbour by neighbour."
    S = {level: queries[level] @ memories[level].T for level in queries}
    B, out = len(features["deep"]), {level: 0. for level in S}
    for i in range(B):
        near = [j for j in range(len(memories["deep"])) if all(s[i, j] > ratio * s[i].max() for s in S.values())]
        for level in S:
            p = torch.softmax(unit(features[level][i]) @ memories[level].T / temp, 0)
            for j in near: out[level] = out[level] - torch.log(torch.clamp(p[j], min=1e-8)) / (len(near) + 1) / B
    return out


def batch(seed, B=12, C=5, P=3, D=6):
    f = {"deep": rand(B, D, seed=seed).requires_grad_(),
         "shallow": rand(B, D, seed=seed + 1).mul(.3).add(rand(B, D, seed=seed)).requires_grad_()}
    bank = unit(rand(C, P, D, seed=seed + 2))
    return f, {"deep": bank, "shallow": unit(bank + .1 * rand(C, P, D, seed=seed + 3))}


@quick
@given(seed=st.integers(0, 10**6), P=st.integers(1, 4), C=st.integers(2, 6))
def test_mccl_equals_the_loop(seed, P, C):
    f, banks = batch(seed, C=C, P=P)
    fast, slow, dense = mccl_loss(f, banks), slow_mccl(f, banks), reference.mccl_loss(f, banks)
    for level in f:
        if slow[level].requires_grad: close(dense[level], slow[level], rtol=1e-8)
        close(fast[level], slow[level], rtol=1e-8)
        if slow[level].requires_grad:
            close(gradient(fast[level], f[level])[0], gradient(slow[level], f[level])[0], rtol=1e-6, atol=1e-10)


@quick
@given(seed=st.integers(0, 10**6), shift=st.sampled_from([0., 1., 3.]), temp=st.sampled_from([.05, 1.]))
def test_neighbor_equals_the_loop(seed, shift, temp):
    f, W = batch(seed, B=7)[0], {"deep": unit(rand(30, 6, seed=seed + 5) + shift),
                                 "shallow": unit(rand(30, 6, seed=seed + 6) + shift)}
    q = {level: w[:7] for level, w in W.items()}
    fast, slow = neighbor_loss(f, q, W, temp), slow_neighbor(f, q, W, temp)
    for level in f:
        close(fast[level], slow[level], rtol=1e-8)
        close(gradient(fast[level], f[level])[0], gradient(slow[level], f[level])[0], rtol=1e-6, atol=1e-10)


@quick
@given(seed=st.integers(0, 10**6))
def test_losses_ignore_order_and_length(seed):
    f, banks = batch(seed)
    p, c = (torch.randperm(n, generator=torch.Generator().manual_seed(seed)) for n in (12, 5))
    other = mccl_loss({level: 7 * x[p] for level, x in f.items()},
                      {level: 3 * bank[c].flip(1) for level, bank in banks.items()})
    for level, loss in mccl_loss(f, banks).items(): close(loss, other[level], rtol=1e-9)


def test_views_share_their_neighbors():
    f, W = batch(3, B=12)[0], {"deep": unit(rand(20, 6, seed=8) + 2), "shallow": unit(rand(20, 6, seed=9) + 2)}
    q = {level: w[:4] for level, w in W.items()}
    short, full = neighbor_loss(f, q, W), neighbor_loss(f, {level: x.repeat(3, 1) for level, x in q.items()}, W)
    for level in f: close(short[level], full[level], rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mccl_hazards_stay_finite(dtype):
    bank = unit(rand(3, 2, 8, dtype=dtype))
    for name, deep, shallow, banks in [("on centres", bank[:, 0], bank[:, 1], bank),
                                       ("no agreement", bank[:1, 0], bank[1:2, 0], bank),
                                       ("one cluster", bank[:2, 0], bank[:2, 0], bank[:1]),
                                       ("twin clusters", bank[:1, 0], bank[:1, 0], bank[[0, 0]])]:
        f = {"deep": deep.clone().requires_grad_(), "shallow": shallow.clone().requires_grad_()}
        loss = mccl_loss(f, {"deep": banks, "shallow": banks})
        total = loss["deep"] + loss["shallow"]
        grads = gradient(total, *f.values())
        assert torch.isfinite(total) and all(g.isfinite().all() and g.norm() < 100 for g in grads), name
        if name in ("no agreement", "one cluster"): assert total == 0 and all((g == 0).all() for g in grads), name


@pytest.mark.parametrize("scale", [1e-8, 1e-6, 1e-4, 1e-2])
def test_mccl_gradient_is_bounded_near_a_centre(scale):
    bank = unit(rand(6, 4, 64, dtype=torch.float32))
    f = (bank[:, 2] + scale * rand(6, 64, seed=4, dtype=torch.float32)).requires_grad_()
    loss = mccl_loss({"deep": f}, {"deep": bank})["deep"]
    assert torch.isfinite(loss) and gradient(loss, f)[0].norm() < 100


def test_no_neighbor_gives_zero_with_a_graph():
    f = rand(3, 4).requires_grad_()
    w = -unit(rand(3, 4)[:1]).repeat(5, 1)
    loss = neighbor_loss({"deep": f}, {"deep": unit(rand(3, 4)[:1])}, {"deep": w})["deep"]
    assert loss == 0 and (gradient(loss, f)[0] == 0).all()


def test_softmax_variant():
    f, banks = batch(5)
    y = torch.arange(12) % 5
    near = {level: sub_center_cosines(f[level], banks[level]).amax(2) for level in f}
    keep = near["deep"].argmax(1) == near["shallow"].argmax(1)
    assert 0 < keep.sum() < 12
    for level, loss in mccl_loss(f, banks, y, variant="softmax").items():
        close(loss, torch.nn.functional.cross_entropy(near[level][keep] / 0.1, y[keep]))


def test_update_sub_centers_moves_the_nearest_of_its_own_cluster():
    bank, f, y = unit(rand(4, 3, 6)), rand(20, 6, seed=2), torch.arange(20) % 3
    new, want = update_sub_centers(bank, f, y, 0.3), bank.clone()
    for x, c in zip(unit(f), y.tolist()):
        k = 1 + int((bank[c, 1:] @ x).argmax())
        want[c, k] = unit(.3 * want[c, k] + .7 * x)
    close(new, want)
    close(new[:, 0], bank[:, 0], rtol=0, atol=0)
    assert (new[3] == bank[3]).all() and (bank == unit(rand(4, 3, 6))).all()    # nobody's cluster; the old bank
    assert update_sub_centers(bank[:, :1], f, y).shape == (4, 1, 6)


def test_the_gradient_belongs_to_the_memory_of_the_forward_pass():
    memory, f = InstanceMemory(rand(9, 4)), rand(2, 4, seed=1).requires_grad_()
    def loss(): return neighbor_loss({"deep": f}, {"deep": memory.features[:2]}, {"deep": memory.features})["deep"]
    want, late = gradient(loss(), f)[0], loss()
    memory.update(f, torch.tensor([0, 1]))
    close(gradient(late, f)[0], want, rtol=1e-12)
    assert (gradient(loss(), f)[0] - want).abs().max() > 1e-3


@quick
@given(seed=st.integers(0, 10**6), cross=st.booleans(), N=st.sampled_from([40, 1500, 2500]),
       shift=st.sampled_from([0., 3.]), V=st.integers(1, 3))
def test_neighbor_equals_the_dense_version(seed, cross, N, shift, V):
    "Several blocks, several views, queries inside and outside the memory, few neighbours and nearly all."
    W = {"deep": unit(rand(N, 8, seed=seed) + shift), "shallow": unit(rand(N, 8, seed=seed + 1) + shift)}
    own = {level: unit(rand(6, 8, seed=seed + 2) + shift) if cross else w[torch.arange(6) * (N // 6)]
           for level, w in W.items()}
    f = {level: (q.repeat(V, 1) + .3 * rand(6 * V, 8, seed=seed + 3)).requires_grad_() for level, q in own.items()}
    fast = neighbor_loss(f, own, W)
    slow = reference.neighbor_loss(f, {level: q.repeat(V, 1) for level, q in own.items()}, W)
    for level in f:
        close(fast[level], slow[level], rtol=1e-9)
        close(gradient(fast[level], f[level])[0], gradient(slow[level], f[level])[0], rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize("order", [1, -1])
def test_neighbor_over_several_blocks(order):
    "The largest similarity in the first or in the last block, so that earlier sums are scaled down or not."
    W = {level: unit(rand(9000, 8, seed=s)) for s, level in enumerate(("deep", "shallow"))}
    W = {level: w[(order * w[:, 0]).argsort()] for level, w in W.items()}
    own = {level: unit(rand(5, 8, seed=7) * .3 + torch.eye(8, dtype=torch.float64)[0]) for level in W}
    f = {level: q.clone().requires_grad_() for level, q in own.items()}
    fast, slow = neighbor_loss(f, own, W, ratio=.8), reference.neighbor_loss(f, own, W, ratio=.8)
    for level in f:
        assert slow[level] > 0
        close(fast[level], slow[level], rtol=1e-9)
        close(gradient(fast[level], f[level])[0], gradient(slow[level], f[level])[0], rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize("views", [1, 2])
def test_rows_without_a_neighbour_are_spared_both_products(monkeypatch, views):
    "Deep names one image, shallow another: these rows have no neighbour, no loss and no gradient."
    W = {level: torch.eye(6, dtype=torch.float64) for level in ("deep", "shallow")}
    own = {"deep": W["deep"][:4], "shallow": W["shallow"][[0, 2, 2, 5]]}           # rows 1 and 3 disagree
    f = {level: rand(4 * views, 6).requires_grad_() for level in own}
    asked, products = [], fast_losses._products
    monkeypatch.setattr(fast_losses, "_products", lambda x, *rest: asked.append(len(x)) or products(x, *rest))
    fast = neighbor_loss(f, own, W, temp=1.)
    assert asked[-2:] == [2 * views, 2 * views]
    slow = reference.neighbor_loss(f, {level: q.repeat(views, 1) for level, q in own.items()}, W, temp=1.)
    for level in f:
        gradients = [torch.autograd.grad(loss[level], f[level])[0] for loss in (fast, slow)]
        torch.testing.assert_close(fast[level], slow[level])
        torch.testing.assert_close(*gradients)
        assert (gradients[0][1] == 0).all() and (gradients[0][0] != 0).any()


def test_a_batch_without_any_neighbour_has_no_loss():
    W = {level: torch.eye(6, dtype=torch.float64) for level in ("deep", "shallow")}
    f = {level: rand(2, 6).requires_grad_() for level in W}
    found = neighbor_loss(f, {"deep": W["deep"][:2], "shallow": W["shallow"][2:4]}, W)
    for level, loss in found.items():
        assert loss == 0 and (torch.autograd.grad(loss, f[level])[0] == 0).all()


def test_losses_accept_a_weight_and_frozen_features():
    f, banks = batch(2)
    W = {level: b.flatten(0, 1) for level, b in banks.items()}
    for loss_of in (lambda f: mccl_loss(f, banks),
                    lambda f: neighbor_loss(f, {level: w[:12] for level, w in W.items()}, W)):
        for level, x in f.items():
            close(gradient(3 * loss_of(f)[level], x)[0], 3 * gradient(loss_of(f)[level], x)[0], rtol=1e-12)
        frozen = loss_of({level: x.detach() for level, x in f.items()})
        for level, loss in loss_of(f).items(): close(loss, frozen[level], rtol=1e-12)
        assert not any(loss.requires_grad for loss in frozen.values())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_neighbor_of_half_features_is_computed_in_full(kind):
    W = {level: unit(rand(300, 16, seed=s)).float() for s, level in enumerate(("deep", "shallow"))}
    f = {level: (w[:8] + .1 * rand(8, 16, seed=5).float()).to(kind).requires_grad_() for level, w in W.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = neighbor_loss(f, {level: w[:8] for level, w in W.items()}, W)
    whole = {level: unit(x).float().detach().requires_grad_() for level, x in f.items()}
    for level, want in neighbor_loss(whole, {level: w[:8] for level, w in W.items()}, W).items():
        assert loss[level].dtype == torch.float32 and gradient(loss[level], f[level])[0].dtype == kind
        close(loss[level], want, rtol=0, atol=1e-4)  # 16-bit products would be off by 1e-2


def test_half_features_are_computed_in_full():
    f, banks = batch(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a = mccl_loss({level: x.detach().float() for level, x in f.items()},
                      {level: bank.float() for level, bank in banks.items()})
        loss = ClusterMemory(banks["deep"][:, 0].float())(f["deep"].detach().bfloat16(), torch.zeros(12, dtype=int))
    for level, loss64 in mccl_loss(f, banks).items(): close(a[level], loss64, rtol=1e-4)
    assert loss.dtype == torch.float32


def test_the_neighbor_mask_is_strict():
    "At a best similarity of 0 nothing is above 0.9 * 0; at ratio 1 nothing is above the best."
    m = {"deep": torch.eye(3)}
    assert not len(neighbor_pairs({"deep": torch.zeros(1, 3)}, m)[0]) and not len(neighbor_pairs(m, m, ratio=1.)[0])


@pytest.mark.parametrize("word", BAD)
def test_bad_batches_are_refused(word):
    f, y = BAD[word]
    bank = torch.eye(4)[:3, None]
    with pytest.raises(ValueError, match=word): update_sub_centers(bank, f, y)
    with pytest.raises(ValueError, match=word): mccl_loss({"deep": f}, {"deep": bank}, y, variant="softmax")


def test_bad_arguments_are_refused():
    f = {"deep": torch.ones(2, 4)}
    with pytest.raises(ValueError, match="variant must be"): mccl_loss(f, f, variant="other")
    with pytest.raises(ValueError, match="needs the pseudo-labels"):
        mccl_loss(f, {"deep": torch.ones(2, 1, 4)}, variant="softmax")
    with pytest.raises(ValueError, match="must have shape"): mccl_loss(f, f)
    with pytest.raises(ValueError, match="views"):
        neighbor_loss(f, {"deep": torch.ones(3, 4)}, {"deep": torch.eye(4)})
