"Sixteen bits on a CPU: rounding passes, a fault is found, and a run never computes with wrong numbers in silence."
import logging

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from tqdm.auto import tqdm

from hil.core.errors import RunError
from hil.core.names import MODALITIES
from hil.core.precision import BOUND, PRODUCTS, Compared, bfloat16_fault
from hil.data.images import read_images
from hil.data.training_views import PixelViews, through, use_bfloat16
from hil.evaluation.encode import calibrate
from hil.models.agw import AgwResNet50
from hil.models.build import build_model
from hil.training.gradient_cache import passage
from hil.training.trainer import Trainer

VIT = dict(model="vit_tiny_ics", weights="random", trainable="all")
SMALL_AGW = dict(channels=8, blocks=(1, 1, 1, 1), non_local=(0, 1, 0, 0), height=64, width=32)


class Broken(TorchFunctionMode):
    "A processor that answers one product wrongly, in 16 bits only."
    def __init__(self, product=torch.conv2d, harm=lambda x: x.roll(1, -1)):
        super().__init__()
        self.product, self.harm = product, harm

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        return self.harm(out) if func is self.product and out.dtype == torch.bfloat16 else out


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x.clone()

    @staticmethod
    def backward(ctx, gradient): return gradient.roll(1, -1)


def last_column(x): return torch.cat([x[..., :-1], -x[..., -1:]], -1)


@pytest.fixture
def sound(monkeypatch):
    "A processor that is right for sure: torch's own loops in place of oneDNN."
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)


@pytest.fixture
def fast(monkeypatch): monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)


def vit(): return build_model("vit_tiny_ics", "random")
def check(model, **options): return bfloat16_fault(model, model.height, model.width, **options)


# --- the comparison -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("make", [vit, lambda: build_model("lite0"), lambda: AgwResNet50(**SMALL_AGW)])
def test_rounding_is_far_from_the_bound(sound, make):
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad(), Compared(gradients=True) as compared:
        model({m: torch.randn(1, 3, model.height, model.width) for m in MODALITIES})
    assert .002 < compared.error < BOUND / 3
    assert check(model, gradients=True) == ""


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("harm", [lambda x: x.roll(1, -1), lambda x: x * 1.1, lambda x: x * torch.nan, last_column])
def test_a_wrong_product_is_found(sound, product, harm):
    with Broken(product, harm): fault = check(vit())
    assert product.__name__ in fault and "ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16" in fault


@pytest.mark.parametrize("product", [p for p, gradients in PRODUCTS.items() if gradients])
def test_a_wrong_gradient_is_found_where_gradients_are_used(sound, product):
    with Broken(product, WrongGradient.apply):
        assert check(vit()) == ""
        assert f"a gradient of {product.__name__}" in check(vit(), gradients=True)


def test_the_figure_and_the_layer_are_named(sound):
    with Broken(F.linear, lambda x: x * 3): fault = check(vit())
    assert "linear of (4, 33, " in fault and " is 200% away from float32" in fault


def test_broken_weights_are_not_the_processors_fault(sound):
    model = vit()
    model.base.blocks[0].mlp.fc1.weight.data[:] = torch.nan
    assert check(model, gradients=True) == ""


def test_the_network_is_left_as_it_was(sound):
    model = vit().train()
    model.base.blocks[1].eval()
    before, modes = {k: v.clone() for k, v in model.state_dict().items()}, [m.training for m in model.modules()]
    state = torch.get_rng_state()
    check(model, gradients=True)
    assert torch.equal(state, torch.get_rng_state()) and modes == [m.training for m in model.modules()]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_compiled_blocks_are_compared_uncompiled(sound):
    model, stats = build_model("vit_tiny_ics", "random", compile="eager"), torch._dynamo.utils.counters["stats"]
    before = stats["unique_graphs"]
    with Broken(F.linear): assert "linear" in check(model)
    assert stats["unique_graphs"] == before


# --- chosen by the kit ----------------------------------------------------------------------------------------------

def test_sixteen_bits_are_used_where_they_are_fast_and_right(sound, monkeypatch):
    trunk = build_model("lite0").trunk
    for fast in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda fast=fast: fast)
        assert use_bfloat16(trunk, 128, 64, "cpu") is fast


def test_a_faulty_processor_gets_float32_to_the_bit(small, tmp_path, fast, caplog):
    with Broken(), caplog.at_level(logging.WARNING, "hil"):
        trainer = Trainer(small(run_dir=str(tmp_path / "run")), progress=False).prepare()
    assert len(caplog.messages) == 1 and "the trunk runs in float32" in caplog.messages[0]
    assert "conv2d" in caplog.messages[0] and "away from float32" in caplog.messages[0]
    for m, table in trainer.images.tables.items():
        paths, n = table.path[:128], min(len(table), 128)
        pixels = PixelViews({m: read_images(paths, 128, 64, trainer.images.root)}, 128, 64)
        exact = through(trainer.model.trunk, m, lambda idx, m=m, pixels=pixels: pixels.clean(m, idx), n,
                        tqdm(disable=True), False)
        assert torch.equal(trainer.views.store[m]["clean"][0][:n], exact)


def test_the_store_tells_16_from_32_bits(small, tmp_path):
    "Features rounded before an update that brings a fault are not served after it, nor the other way round."
    if not use_bfloat16(build_model("lite0").trunk, 128, 64, "cpu"):
        pytest.skip("this processor is slow or wrong in 16 bits: the kit keeps float32 features only")
    def clean(name):
        store = Trainer(small(run_dir=str(tmp_path / name)), progress=False).prepare().views.store
        return torch.cat([store[m]["clean"].flatten() for m in MODALITIES]).float()
    rounded = clean("rounded")
    with Broken(): exact = clean("exact")
    assert 1e-3 < (rounded - exact).norm() / exact.norm() < BOUND


def test_calibration_on_a_faulty_processor(small, tmp_path, fast, monkeypatch):
    table = Trainer(small(run_dir=str(tmp_path / "run")), progress=False).prepare().images.table
    def heads():
        torch.manual_seed(0)
        model = build_model("lite0")
        calibrate(model, table, most=20, progress=False)
        return model.heads.state_dict()
    with Broken(): checked = heads()
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    exact = heads()
    assert all(torch.equal(checked[k], v) for k, v in exact.items())


# --- asked for ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("harm", [lambda x: x.roll(1, -1), WrongGradient.apply])
def test_a_run_that_asks_for_16_bits_is_refused(sound, small, harm):
    config = small(**VIT, precision="bf16")
    assert passage(vit(), config).dtype == torch.bfloat16
    with Broken(harm=harm), pytest.raises(RunError) as refused: passage(vit(), config)
    for part in ('precision = "bf16" is refused', "conv2d of", "% away", 'precision = "float32"', "ONEDNN_MAX_CPU_ISA"):
        assert part in str(refused.value)
    with Broken(harm=harm): passage(vit(), small(**VIT))  # float32 has nothing to fear
