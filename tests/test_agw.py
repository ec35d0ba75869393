"""hil.models.agw: torchvision's and the releases' names, and an independent float64 twin."""
import re

import pytest
import torch
import torch.nn.functional as F

from hil.core.names import DEPTHS
from hil.models.agw import AgwResNet50, NonLocal, gem
from hil.models.build import build_model

TINY = dict(channels=4, blocks=(1, 2, 3, 1), height=64, width=32)


def noisy(model, seed=0):
    rng = torch.Generator().manual_seed(seed)
    for k, v in model.state_dict().items():
        if v.is_floating_point():
            v.copy_(1 + .2 * torch.rand(v.shape, generator=rng) if v.ndim == 1 and "bias" not in k and "mean" not in k
                    else torch.randn(v.shape, generator=rng) * (2 / max(v[0].numel(), 1)) ** .5 if v.ndim > 1
                    else .1 * torch.randn(v.shape, generator=rng))
    # products of three features: five of them in a row would overflow
    for block in (*model.NL_2, *model.NL_3): block.W[1].weight.data *= .01
    return model.double()


def images(n=3, k=2):
    rng = torch.Generator().manual_seed(1)
    return {"visible": torch.randn(n, 3, 64, 32, generator=rng).double(),
            "infrared": torch.randn(k, 3, 64, 32, generator=rng).double()}


def twin(w, x, blocks, train):
    "AGW from its state dict: modality stems, joint stages, non-local blocks with their N x N matrix, GeM, necks."
    def norm(x, at):
        rows, shape = x.transpose(0, 1).flatten(1), (1, -1) + (1,) * (x.ndim - 2)
        mean, var = w[at + ".running_mean"], w[at + ".running_var"]
        if train: mean, var = rows.mean(1), rows.var(1, unbiased=False)
        weight, bias, mean, var = (v.view(shape) for v in (w[at + ".weight"], w[at + ".bias"], mean, var))
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias
    def conv(x, at, stride=1, pad=0): return F.conv2d(x, w[at + ".weight"], w.get(at + ".bias"), stride, pad)
    def block(x, at, stride):
        y = F.relu(norm(conv(x, at + ".conv1"), at + ".bn1"))
        y = F.relu(norm(conv(y, at + ".conv2", stride, 1), at + ".bn2"))
        y = norm(conv(y, at + ".conv3"), at + ".bn3")
        if at + ".downsample.0.weight" in w: x = norm(conv(x, at + ".downsample.0", stride), at + ".downsample.1")
        return F.relu(y + x)
    def non_local(x, at):
        theta, phi, g = (conv(x, at + name).flatten(2) for name in (".theta", ".phi", ".g.0"))
        f = theta.transpose(1, 2) @ phi / theta.shape[2]                       # [B, N, N]
        y = (f @ g.transpose(1, 2)).transpose(1, 2).reshape(len(x), 1, *x.shape[2:])
        return x + norm(conv(y, at + ".W.0"), at + ".W.1")
    stems = {"visible": "visible_module.visible", "infrared": "thermal_module.thermal"}
    x = torch.cat([F.max_pool2d(F.relu(norm(conv(x[m], at + ".conv1", 2, 3), at + ".bn1")), 3, 2, 1)
                   for m, at in stems.items() if m in x])
    for i, n in enumerate(blocks, 1):
        extra = len({k.split(".")[1] for k in w if k.startswith(f"NL_{i}.")})
        for j in range(n):
            x = block(x, f"base_resnet.base.layer{i}.{j}", 2 if i in (2, 3) and j == 0 else 1)
            if j >= n - extra: x = non_local(x, f"NL_{i}.{j - n + extra}")
        if i == 3: early = x
    def pool(x): return ((x.clamp(min=0) ** 3).mean((2, 3)) + 1e-12) ** (1 / 3)
    return {"deep": norm(pool(x), "bottleneck"), "shallow": norm(pool(early), "bottlenecks")}


@pytest.mark.parametrize("train", [False, True])
def test_features_and_gradients(train):
    model, x = noisy(AgwResNet50(**TINY)).train(train), images()
    state = {k: v.clone().requires_grad_(v.is_floating_point() and "running" not in k)
             for k, v in model.state_dict().items()}
    out, expected = model(x), twin(state, x, TINY["blocks"], train)
    rows = {d: torch.cat([out[m][d] for m in x]) for d in DEPTHS}
    for d in DEPTHS: torch.testing.assert_close(rows[d], expected[d], rtol=1e-9, atol=1e-9)
    sum((f * torch.linspace(-1, 1, f.numel()).double().view(f.shape)).sum() for f in rows.values()).backward()
    sum((f * torch.linspace(-1, 1, f.numel()).double().view(f.shape)).sum() for f in expected.values()).backward()
    for n, p in model.named_parameters():
        if p.requires_grad: assert (p.grad - state[n].grad).abs().max() <= 1e-9 * state[n].grad.abs().max() + 1e-9, n


def test_names_of_the_releases():
    model = build_model("agw_resnet50", "random")
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    some = {"visible_module.visible.conv1.weight": (64, 3, 7, 7), "thermal_module.thermal.bn1.running_var": (64,),
            "base_resnet.base.layer1.0.downsample.0.weight": (256, 64, 1, 1),
            "base_resnet.base.layer3.5.conv2.weight": (256, 256, 3, 3), "base_resnet.base.layer4.2.bn3.bias": (2048,),
            "NL_2.1.theta.weight": (1, 512, 1, 1), "NL_3.2.W.1.running_mean": (1024,), "NL_3.0.g.0.bias": (1,),
            "bottleneck.weight": (2048,), "bottlenecks.weight": (1024,)}
    assert {k: shapes[k] for k in some} == some
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["bottleneck.bias", "bottlenecks.bias"]
    assert not [k for k in shapes if re.match(r"NL_[14]|NL_2\.2|NL_3\.3|classifier", k)]
    assert (model.height, model.width) == (288, 144)
    # torchvision's resnet50 has 320 entries: 53 num_batches_tracked, 2 of fc, 5 of the stem, and these
    assert len([k for k in shapes if k.startswith("base_resnet.") and "num_batches" not in k]) == 320 - 53 - 2 - 5


def test_the_last_stage_keeps_its_resolution():
    model, seen = AgwResNet50(**TINY).eval(), {}
    for i in (3, 4):
        last = model.base_resnet["base"][f"layer{i}"][-1]
        last.register_forward_hook(lambda module, inputs, out, i=i: seen.update({i: out.shape[2:]}))
    with torch.no_grad(): model({"visible": torch.zeros(1, 3, 64, 32)})
    assert seen == {3: (4, 2), 4: (4, 2)}


@pytest.mark.parametrize("options", [dict(gradient_checkpointing=True), dict(compile="eager")], ids=str)
def test_settings_that_change_no_number(options):
    results = []
    for o in ({}, options):
        model, x = noisy(AgwResNet50(**TINY, **o)).train(), images()
        out = model(x)
        sum(f.square().sum() + f[:, 0].sum() for b in out.values() for f in b.values()).backward()
        results.append(({n: p.grad for n, p in model.named_parameters() if p.requires_grad}, model.state_dict()))
    for a, b in zip(*results):
        for k in a: torch.testing.assert_close(b[k], a[k], msg=k)


def test_pooling_of_negative_and_dead_maps_has_gradients():
    x = torch.tensor([[[[-1., 0.]], [[0., 0.]], [[1., 2.]]]], requires_grad=True)
    gem(x).sum().backward()
    assert gem(x).isfinite().all() and x.grad.isfinite().all() and (x.grad[0, 2] > 0).all()


def test_a_fresh_non_local_block_is_the_identity():
    x = torch.randn(2, 6, 4, 3)
    for train in (True, False): torch.testing.assert_close(NonLocal(6).train(train)(x), x)


def test_the_trainer_trains_it_end_to_end(small, tmp_path, monkeypatch):
    "Deep and shallow features of different lengths pass every step of an epoch."
    from hil.models import build
    from hil.training.trainer import Trainer
    monkeypatch.setitem(build.MODELS, "agw_resnet50",
                        dict(channels=4, blocks=(1, 1, 1, 1), non_local=(0, 1, 1, 0), height=64, width=32))
    run = Trainer(small(model="agw_resnet50", weights="random", trainable="all", stage1_epochs=0, stage2_epochs=1,
                        iterations=2, batch_ids=3, instances=2, trials=1, run_dir=str(tmp_path / "run")),
                        progress=False).fit()
    assert run.epoch(1)["features_infrared"].shape[1] == 128 + 64 and run.history[["loss_cluster", "loss_mccl",
        "loss_neighbor"]].iloc[-1].notna().all()
