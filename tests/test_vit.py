"""hil.models.vit: names, shapes and order of the release; features, gradients and BatchNorm statistics of an
independent float64 twin (reference_vit)."""
import re
import zlib

import numpy as np
import pytest
import reference_vit as ref
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hil.core.names import DEPTHS, MODALITIES
from hil.models.build import build_model
from hil.models.two_stems import recomputed
from hil.models.vit import DropPath, HalfNorm, VitIcs

TINY = dict(dim=24, depth=4, heads=3, stem=6, height=64, width=32)


def filled(model):
    "The model with the recipe's weights."
    model.load_state_dict(ref.weights({k: v.shape for k, v in model.state_dict().items()}))
    return model


@pytest.fixture(scope="module")
def full(): return filled(VitIcs())


@pytest.fixture(autouse=True)
def one_seed(): torch.manual_seed(0)


def pair(n=3, k=2, height=64, width=32, dtype=torch.float64):
    return {"visible": ref.image("rgb_train", n, height, width).to(dtype),
            "infrared": ref.image("ir_train", k, height, width).to(dtype)}


def same(got, expected, rtol, name=""):
    "Relative to the largest number expected."
    got, expected = got.detach().double(), expected.detach().double()
    assert got.shape == expected.shape, name
    error = (got - expected).abs().max()
    assert error <= rtol * expected.abs().max(), f"{name} {error / expected.abs().max():.1e}"


# --- names ------------------------------------------------------------------------------------------------------------

def test_every_entry_has_the_releases_name_shape_type_and_place():
    model = build_model("vit_base_ics", "random")
    parameters, state = dict(model.named_parameters()), model.state_dict()
    mine = [dict(key=k, shape=list(v.shape), dtype=str(v.dtype).removeprefix("torch."),
                 kind="param" if k in parameters else "buffer",
                 requires_grad=k in parameters and parameters[k].requires_grad) for k, v in state.items()]
    assert mine == ref.KEYS and list(parameters) == ref.ORDER
    assert (model.height, model.width) == (288, 144) and not model.training


def test_the_recipe_by_hand():
    "The second number of a key, in whole Python numbers."
    v = (2 * 2654435761 + zlib.crc32(b"base.cls_token")) % 2**32
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)): v = (v ^ (v >> shift)) * factor % 2**32
    assert ref.noise("base.cls_token", (1, 1, 2))[0, 0, 1] == v / 2**31 - 1
    assert ref.value("base.cls_token", (1, 1, 2))[0, 0, 1] == np.float32(.5 * (v / 2**31 - 1))


# --- against the twin -------------------------------------------------------------------------------------------------

def test_features_in_evaluation(full):
    "At full size, in float32, both modalities and each alone."
    x = {m: ref.image(name, 1) for m, name in zip(MODALITIES, ("rgb", "ir"))}
    twin = ref.Net(full.state_dict())
    full.eval()
    with torch.no_grad():
        together = full(x)
        for m in MODALITIES:
            expected, alone = twin(**{m: x[m]}), full({m: x[m]})
            for d in DEPTHS:
                same(together[m][d], expected[d], 1e-4)
                same(alone[m][d], expected[d], 1e-4)


def loss_of(deep, shallow):
    def u(name, f): return torch.from_numpy(ref.noise(name, tuple(f.shape)).astype(np.float32)).to(f)
    return (deep * u("loss_deep", deep)).sum() + (shallow * u("loss_shallow", shallow)).sum()


def train_step(model, x):
    "The release's train_ entry: loss, gradients by name, state afterwards; stochastic depth off."
    model.train()
    for module in model.modules():
        if isinstance(module, DropPath): module.drop_prob = 0.
    out = model(x)
    loss = loss_of(*(torch.cat([out[m][d] for m in x]) for d in DEPTHS))
    loss.backward()
    return loss, {n: p.grad for n, p in model.named_parameters()}, model.state_dict()


def twin_step(state, x, heads, names):
    state = {k: v.double().requires_grad_(k in names) for k, v in state.items()}
    twin = ref.Net(state, heads, train=True)
    twin.w = {k: state[k] for k in state}
    loss = loss_of(*twin(**x).values())
    loss.backward()
    return loss, {n: state[n].grad for n in names}, twin.w


def check_step(model, x, heads, rtol):
    state = {k: v.clone() for k, v in model.state_dict().items()}
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    loss, grads, after = train_step(model, x)
    expected_loss, expected_grads, expected_after = twin_step(state, x, heads, names)
    same(loss, expected_loss, rtol)
    largest = max(g.norm() for g in expected_grads.values() if g is not None)
    for n in names:
        if expected_grads[n] is None: assert grads[n] is None, n
        elif expected_grads[n].norm() < 1e-6 * largest:
            assert grads[n].norm() < rtol * largest, f"{n}: what comes before a BatchNorm as a constant has gradient 0"
        else: same(grads[n], expected_grads[n], rtol, n)
    for k, v in after.items():
        if "running" in k or "num_batches" in k: same(v, expected_after[k], rtol, k)
    return grads


TWELVE = dict(dim=48, depth=12, heads=12, stem=64, height=96, width=48)


@pytest.mark.parametrize("options", [TINY, TWELVE], ids=["tiny", "twelve blocks"])
def test_a_training_step(options):
    """The train_ entry of golden/README on narrower networks, where float64 is cheap: loss, every gradient, running
    statistics, to 1e-9."""
    grads = check_step(filled(VitIcs(**options)).double(), pair(3, 2, options["height"], options["width"]),
                       options["heads"], 1e-9)
    # the last block, its norm and the classifier are in no path; the necks' biases are frozen
    idle = rf"base\.(blocks\.{options['depth'] - 1}|norm|fc|decoder_norm)\.|bottlenecks?\.bias"
    assert {n for n, g in grads.items() if g is None} == {n for n in grads if re.match(idle, n)}


def test_the_necks_see_both_modalities_at_once():
    model, x = filled(VitIcs(**TINY, drop_path=0.)).double().train(), pair()
    joint = model(x)
    apart = {m: filled(VitIcs(**TINY, drop_path=0.)).double().train()({m: x[m]})[m] for m in x}
    rows = torch.cat([joint[m]["deep"] for m in x])
    same(rows.mean(0), model.bottleneck.bias, 1e-6)
    assert all((joint[m]["deep"] - apart[m]["deep"]).abs().max() > .1 for m in x)


# --- properties -------------------------------------------------------------------------------------------------------

@settings(max_examples=15, deadline=None)
@given(st.permutations(range(4)), st.permutations(range(3)))
def test_rows_do_not_meet_in_evaluation(order, other):
    model, x = filled(VitIcs(**TINY)).eval(), pair(4, 3, dtype=torch.float32)
    moved = {"visible": x["visible"][list(order)], "infrared": x["infrared"][list(other)]}
    with torch.no_grad(): a, b, swapped = model(x), model(moved), model(dict(reversed(x.items())))
    for m, rows in zip(MODALITIES, (order, other)):
        for d in DEPTHS:
            torch.testing.assert_close(b[m][d], a[m][d][list(rows)], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(swapped[m][d], a[m][d], atol=1e-4, rtol=1e-4)
    assert list(swapped) == ["infrared", "visible"] and list(swapped["visible"]) == list(DEPTHS)


def test_stochastic_depth_rises_to_a_tenth():
    model = VitIcs(**{**TINY, "depth": 12})
    np.testing.assert_allclose([b.drop_path.drop_prob for b in model.base.blocks], np.linspace(0, .1, 12))
    assert model.b1[0].drop_path.drop_prob == model.b2[0].drop_path.drop_prob == .1
    x = torch.ones(20_000, 1, 1)
    y = DropPath(.1).train()(x)
    assert y.mean().item() == pytest.approx(1, abs=.02) and sorted(y.unique().tolist()) == pytest.approx([0, 1 / .9])
    assert torch.equal(DropPath(.1).eval()(x), x)


def test_random_stems_and_heads_start_alike():
    model = VitIcs(**TINY)
    def equal(a, b): return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    assert equal(model.base.patch_embed, model.base.patch_embed2)
    assert equal(model.b1, model.b2) and equal(model.b1[0], model.base.blocks[-1])


@pytest.mark.parametrize("options", [dict(gradient_checkpointing=True), dict(compile="eager"),
                                     dict(compile="eager", gradient_checkpointing=True)], ids=str)
def test_settings_that_change_no_number(options):
    x = pair()
    plain, other = (filled(VitIcs(**TINY, **o)).double() for o in ({}, options))
    assert list(plain.state_dict()) == list(other.state_dict())
    (loss, grads, after), (loss2, grads2, after2) = train_step(plain, x), train_step(other, x)
    same(loss2, loss, 1e-12)
    for n, g in grads.items():
        assert (g is None) == (grads2[n] is None) and (g is None or torch.allclose(g, grads2[n], atol=1e-9)), n
    for k in after: torch.testing.assert_close(after2[k], after[k], msg=k)


def test_recomputing_with_stochastic_depth_drops_the_same_branches():
    model, x = filled(VitIcs(**TINY, gradient_checkpointing=True)).double().train(), pair()
    for module in model.modules():
        if isinstance(module, DropPath): module.drop_prob = .5
    runs = []
    for on in (True, False):
        model.gradient_checkpointing = on
        model.zero_grad()
        torch.manual_seed(3)
        out = model(x)
        sum(f.square().sum() + f.sum() for b in out.values() for f in b.values()).backward()
        runs.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    for n in runs[0]: torch.testing.assert_close(runs[0][n], runs[1][n])


def test_half_precision_ends_in_float32():
    model = VitIcs(**TINY)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad(): out = model(pair(dtype=torch.float32))
    assert all(f.dtype == torch.float32 for b in out.values() for f in b.values())


def test_batch_statistics_move_once_under_checkpointing():
    norm, x = HalfNorm(4), torch.randn(3, 4, 5, 5, requires_grad=True)
    recomputed(norm, x).square().sum().backward()
    torch.testing.assert_close(norm.BN.running_mean, .1 * x[:, 2:].mean((0, 2, 3)).detach())
    assert norm.BN.num_batches_tracked == 1 and norm.BN.momentum == .1


@pytest.mark.parametrize("name,shape,says", [
    ("visible", (1, 3, 32, 64), "expected images [B, 3, 64, 32], got (1, 3, 32, 64)"),
    ("visible", (1, 1, 64, 32), "expected images"), ("visible", (1, 3840), "expected images"),
    ("thermal", (1, 3, 64, 32), "unknown modality ['thermal']")])
def test_what_it_cannot_take(name, shape, says):
    with pytest.raises(ValueError, match=re.escape(says)): VitIcs(**TINY)({name: torch.zeros(shape)})
    with pytest.raises(ValueError, match="none given"): VitIcs(**TINY)({})


@pytest.mark.parametrize("options,says", [(dict(height=100), "multiples of the patch size"),
                                          (dict(dim=25), "multiple of heads"), (dict(depth=1), "two blocks")])
def test_what_it_cannot_be(options, says):
    with pytest.raises(ValueError, match=says): VitIcs(**{**TINY, **options})


# --- in the trainer ---------------------------------------------------------------------------------------------------

RUN = dict(trainable="all", weights="random", stage1_epochs=0, stage2_epochs=1, iterations=2, batch_ids=3, instances=2,
           trials=1, optimizer="sgd", lr=1e-3)


def test_the_trainer_trains_it_end_to_end(small, tmp_path):
    "Pixels in, every weight that is in a path moves; a second run starts from the first one's checkpoint."
    from hil.training.trainer import Trainer
    trainer = Trainer(small(model="vit_tiny_ics", run_dir=str(tmp_path / "a"), gradient_checkpointing=True, **RUN),
                      progress=False)
    before = {k: v.clone() for k, v in trainer.prepare().model.state_dict().items()}
    run = trainer.fit()
    assert np.isfinite(run.history.loss_total.iloc[-1]) and run.epoch(1)["features_visible"].shape[1] == 2 * 96
    assert trainer.model.gradient_checkpointing
    after = run.checkpoint()["model"]
    none = r"base\.(blocks\.3|norm|fc|decoder_norm)\.|bottlenecks?\.bias|b[12]\.1\.bias"
    for k, v in after.items():
        assert torch.equal(v, before[k]) == bool(re.match(none, k)) or re.match(r"b[12]\.1\.bias", k), k
    again = Trainer(small(model="vit_tiny_ics", run_dir=str(tmp_path / "b"),
                          **{**RUN, "weights": str(run.path / "checkpoint.pt")}), progress=False)
    for k, v in again.prepare().model.state_dict().items(): assert torch.equal(v, after[k]), k


@pytest.mark.parametrize("changes,says", [
    (dict(trainable="heads"), 'set trainable = "all"'), (dict(weights=""), "comes without weights"),
    (dict(model="lite0", compile=True), "for the vit and agw models"),
    (dict(model="lite0", gradient_checkpointing=True), "for the vit and agw models")])
def test_contradictory_settings(small, changes, says):
    from hil.core.errors import RunError
    with pytest.raises(RunError, match=re.escape(says)): small(**{**RUN, "model": "vit_base_ics", **changes})
