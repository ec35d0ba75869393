"""hil.models.weights: every published layout loads, every entry is accounted for, nothing in a file is run, and nothing
is loaded by halves."""
import argparse
import re
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hil.models.agw import AgwResNet50
from hil.models.build import build_model
from hil.models.vit import VitIcs
from hil.models.weights import (
    LoadReport,
    load_checkpoint,
    match_state,
    read_file,
    resize_positions,
    unwrap,
)

VIT = dict(dim=12, depth=3, heads=2, stem=4, height=64, width=32)
AGW = dict(channels=4, blocks=(1, 3, 3, 1), height=64, width=32)
BUILD = {"vit": lambda **o: VitIcs(**{**VIT, **o}), "agw": lambda **o: AgwResNet50(**{**AGW, **o})}


def noisy(model, seed=0):
    "A state dict of the model with other numbers everywhere."
    rng = torch.Generator().manual_seed(seed)
    return OrderedDict((k, torch.randn(v.shape, generator=rng) if v.is_floating_point() else v + 7)
                       for k, v in model.state_dict().items())


def trunk_of(state):
    "What TransReID-SSL publishes: one stem, all blocks, no heads."
    return {k.removeprefix("base."): v for k, v in state.items() if k.startswith("base.")
            and not re.match(r"base\.(patch_embed2|fc|decoder_norm)\.", k)}


def imagenet_of(state):
    "torchvision's ResNet-50: one stem, four stages, a classifier; no num_batches_tracked, as in resnet50-19c8e357."
    out = {k.removeprefix("visible_module.visible."): v for k, v in state.items() if k.startswith("visible_module.")}
    out |= {k.removeprefix("base_resnet.base."): v for k, v in state.items() if k.startswith("base_resnet.")}
    out |= {"fc.weight": torch.zeros(1000, 8), "fc.bias": torch.zeros(1000)}
    return {k: v for k, v in out.items() if "num_batches" not in k}


def whole_resnets(state):
    "AGW, ADCA and PGM save a whole ResNet in each stem and in the base, and a classifier."
    names = {"visible_module.visible.": "visible_module.", "thermal_module.thermal.": "thermal_module."}
    more = {to + k.removeprefix("base_resnet.base."): v for k, v in state.items() if k.startswith("base_resnet.")
            for to in names}
    more |= {"base_resnet.base." + k.removeprefix("visible_module.visible."): v
             for k, v in state.items() if k.startswith("visible_module.")}
    return {**state, **more, "classifier.weight": torch.zeros(395, 8)}


@pytest.fixture
def saved(tmp_path):
    "saved(anything) -> path of a file that holds it"
    def save(what):
        torch.save(what, tmp_path / "file.pth")
        return tmp_path / "file.pth"
    return save


def under(prefix, state): return {prefix + k: v for k, v in state.items()}


WRAPS = {"bare": lambda s: s,
         "SDCL": lambda s: {"state_dict": under("module.", s), "epoch": 30, "best_mAP": np.float64(.64)},
         "kit": lambda s: {"epoch": 3, "model": s, "optimizer": {"state": {}, "param_groups": [{"lr": .1}]}},
         "AGW": lambda s: {"net": s, "mAP": np.float32(.4), "epoch": 80},
         "twice": lambda s: {"model": {"state_dict": under("module.module.", s)}}}


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("kind", BUILD)
def test_a_whole_checkpoint(kind, wrap, saved):
    model, state = BUILD[kind](), noisy(BUILD[kind]())
    report = load_checkpoint(model, saved(WRAPS[wrap](state)))
    assert report.matched == list(state) and vars(report) == vars(LoadReport(matched=report.matched))
    for k, v in model.state_dict().items(): assert torch.equal(v, state[k]), k


def dino(trunk):
    return {"student": {"module.backbone.x": torch.zeros(1)},
            "teacher": under("module.backbone.", trunk) | {"module.head.last.weight": torch.zeros(2)},
            "args": argparse.Namespace(lr=5e-4, arch="vit_base"), "epoch": 100}


TRUNKS = {"bare": lambda t: t, "state_dict": lambda t: {"state_dict": t}, "DINO": dino,
          "teacher without module": lambda t: {"teacher": under("backbone.", t)},
          "TransReID fine-tuned": lambda t: under("base.", t) | {"bottleneck.weight": torch.ones(12),
                                                                 "classifier.weight": torch.ones(5, 12)}}


@pytest.mark.parametrize("wrap", TRUNKS.values(), ids=TRUNKS)
def test_a_trunk_of_transreid_ssl_fills_two_stems_and_two_heads(wrap, saved):
    source = VitIcs(**{**VIT, "height": 128, "width": 64})
    trunk = trunk_of(noisy(source))
    model = VitIcs(**VIT)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    report = load_checkpoint(model, saved(wrap(trunk)))
    after = model.state_dict()
    for k, v in trunk.items():
        if k == "pos_embed": v = resize_positions(v, (4, 2))
        assert torch.equal(after["base." + k], v), k
        for name, copies in {"patch_embed.": ["base.patch_embed2."], "blocks.2.": ["b1.0.", "b2.0."],
                             "norm.": ["b1.1.", "b2.1."]}.items():
            if k.startswith(name):
                for copy in copies: assert torch.equal(after[copy + k.removeprefix(name)], v), (copy, k)
    assert [r.split()[0] for r in report.resized] == ["base.pos_embed"] and not report.wrong
    for k in report.fresh:
        assert re.match(r"base\.(fc|decoder_norm)|bottlenecks?\.", k) and torch.equal(after[k], before[k]), k
    assert report.loaded + len(report.fresh) == len(after)
    second = {k for k in after if re.match(r"base\.patch_embed2\.|b[12]\.", k)}
    assert {r.split(" <- ")[0] for r in report.duplicated} == second
    assert all(re.match("head|classifier", k) for k in report.ignored)


def test_a_second_stem_in_a_trunk_is_used():
    state = noisy(VitIcs(**VIT))
    trunk = {k.removeprefix("base."): v for k, v in state.items() if k.startswith("base.")}
    new, report = match_state(VitIcs(**VIT), trunk)
    assert torch.equal(new["base.patch_embed2.proj.bias"], trunk["patch_embed2.proj.bias"]) and not report.wrong


def test_another_classifier_is_no_fault(saved):
    state = noisy(VitIcs(**VIT))
    state["base.fc.weight"] = torch.zeros(21, 12)
    report = load_checkpoint(VitIcs(**VIT), saved(state))
    assert report.fresh == ["base.fc.weight"] and not report.wrong


def test_imagenet_fills_both_stems_of_agw(saved):
    state = noisy(AgwResNet50(**AGW))
    file = imagenet_of(state)
    model = AgwResNet50(**AGW)
    report = load_checkpoint(model, saved(file))
    after = model.state_dict()
    stems = ("visible_module.visible.", "thermal_module.thermal.")
    for k, v in file.items():
        if k.startswith("fc"): continue
        for to in stems if re.match("conv1|bn1", k) else ("base_resnet.base.",): assert torch.equal(after[to + k], v), k
    assert report.ignored == ["fc.bias", "fc.weight"]
    assert all(re.search(r"NL_|bottleneck|num_batches_tracked", k) for k in report.fresh)


def test_published_agw_files_hold_more_than_is_used(saved):
    "AGW and PGM have no shallow neck; ADCA no non-local blocks either. A fresh non-local block changes nothing."
    state = {k: v for k, v in noisy(AgwResNet50(**AGW)).items() if not k.startswith("bottlenecks.")}
    for k in state:
        if k.endswith("running_var"): state[k] = state[k].abs() + .5
    x = {"visible": torch.randn(2, 3, 64, 32)}
    report = load_checkpoint(BUILD["agw"](), saved({"state_dict": under("module.", whole_resnets(state))}))
    assert all(k.startswith("bottlenecks.") for k in report.fresh)
    assert not report.wrong and "classifier.weight" in report.ignored
    adca = {k: v for k, v in state.items() if not k.startswith("NL_")}
    models = [BUILD["agw"](), BUILD["agw"](non_local=(0, 0, 0, 0))]
    for model in models: assert not load_checkpoint(model, saved(adca)).wrong
    with torch.no_grad(): a, b = (m.eval()(x)["visible"]["deep"] for m in models)
    assert torch.equal(a, b)
    partial = {k: v for k, v in state.items() if not k.startswith("NL_3.2")}
    with pytest.raises(ValueError, match=r"12 missing \(NL_3\.2"): load_checkpoint(BUILD["agw"](), saved(partial))


# --- what does not fit ------------------------------------------------------------------------------------------------

@settings(max_examples=25, deadline=None)
@given(st.sampled_from(list(BUILD)), st.data())
def test_one_fault_of_each_kind_is_found_and_named(kind, data):
    model = BUILD[kind]()
    state = noisy(model)
    names = [k for k in state if not re.match(getattr(model, "unused", None) or "$^", k) and "num_batches" not in k
             and state[k].ndim]
    gone, bent = data.draw(st.lists(st.sampled_from(names), min_size=2, max_size=2, unique=True))
    del state[gone]
    state[bent] = torch.zeros(*state[bent].shape, 1)
    state["stranger.weight"] = torch.zeros(1)
    new, report = match_state(model, state)
    assert report.missing == [gone] and report.extra == ["stranger.weight"]
    assert [m.split(" is ")[0] for m in report.misshapen] == [bent]
    assert set(new) == set(model.state_dict()) - {gone, bent}


def test_all_or_nothing(saved):
    model = VitIcs(**VIT)
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, noisy(VitIcs(**VIT))
    del state["b1.0.attn.qkv.weight"]
    state |= {"b9.weight": torch.zeros(1), "bottleneck.weight": torch.zeros(5)}
    with pytest.raises(ValueError) as error: load_checkpoint(model, saved(state))
    for says in ("file.pth", "nothing was loaded", "1 missing (b1.0.attn.qkv.weight)", "1 extra (b9.weight)",
                 "bottleneck.weight is (5,), not (12,)", "strict=False"):
        assert says in str(error.value)
    for k, v in model.state_dict().items(): assert torch.equal(v, before[k]), "a refused file changes nothing"
    report = load_checkpoint(model, saved(state), strict=False)
    assert len(report.matched) == len(before) - 2
    assert torch.equal(model.state_dict()["bottleneck.weight"], before["bottleneck.weight"])
    assert "missing       1  b1.0.attn.qkv.weight" in repr(report)


@pytest.mark.parametrize("state,says", [({"a": torch.ones(1)}, "does not fit this model"),
                                        ({"base.pos_embed": torch.zeros(1, 11, 12)}, "no grid of height to width 2:1")])
def test_files_of_another_kind(state, says, saved):
    for strict in (True, False):
        with pytest.raises(ValueError, match=says): load_checkpoint(VitIcs(**VIT), saved(state), strict)


def test_fewer_blocks_than_the_file(saved):
    with pytest.raises(ValueError, match=r"12 extra \(blocks\.2"):
        load_checkpoint(VitIcs(**{**VIT, "depth": 2}), saved(trunk_of(noisy(VitIcs(**VIT)))))


# --- reading ----------------------------------------------------------------------------------------------------------

class Trap:
    ran = []
    def __reduce__(self): return Trap.ran.append, (1,)


class Mine:
    "Any class of a release."


def test_nothing_in_a_file_is_run(saved):
    for what in ({"state_dict": {}, "x": Mine()}, Mine()):
        with pytest.raises(ValueError, match="could run code. Nothing was run"):
            load_checkpoint(VitIcs(**VIT), saved(what))
    import os
    class Shell:
        def __reduce__(self): return os.system, ("touch /nonexistent/hil",)
    with pytest.raises(ValueError, match=r"(posix|os)\.system"): read_file(saved({"w": torch.ones(1), "x": Shell()}))


def test_plain_data_of_published_files_is_read(saved):
    inside = read_file(saved({"state_dict": {"w": torch.ones(1)}, "best_mAP": np.float64(.5), "r1": np.float32(.4),
                              "n": np.int64(3), "args": argparse.Namespace(a=1)}))
    assert inside["best_mAP"] == .5 and inside["n"] == 3 and inside["args"].a == 1


def test_numbers_of_an_older_numpy_are_read(tmp_path):
    torch.save({"best_mAP": np.float64(.25)}, tmp_path / "new.pth", _use_new_zipfile_serialization=False)
    old = (tmp_path / "new.pth").read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert b"numpy.core.multiarray" in old
    (tmp_path / "old.pth").write_bytes(old)
    assert read_file(tmp_path / "old.pth")["best_mAP"] == .25


def test_files_that_cannot_be_read(saved, tmp_path):
    whole = saved({"w": torch.randn(500)})
    (tmp_path / "cut.pth").write_bytes(whole.read_bytes()[:700])
    (tmp_path / "page.pth").write_text("<html>Google Drive: quota exceeded</html>")
    (tmp_path / "empty.pth").write_bytes(b"")
    for name, says in (("cut", "or cut short"), ("page", "but a web page"), ("empty", "or cut short")):
        with pytest.raises(ValueError, match=f"{name}.pth: not a file that torch.save wrote, {says}"):
            read_file(tmp_path / f"{name}.pth")
    with pytest.raises(FileNotFoundError, match="no such checkpoint"): read_file(tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match="no weights: .* got epoch, args"):
        load_checkpoint(VitIcs(**VIT), saved({"epoch": 1, "args": {}}))
    with pytest.raises(ValueError, match="no weights: .* got list"): load_checkpoint(VitIcs(**VIT), saved([1, 2]))


def test_a_file_of_old_torch(tmp_path):
    state = noisy(VitIcs(**VIT))
    torch.save({"state_dict": state}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert len(load_checkpoint(VitIcs(**VIT), tmp_path / "old.pth").matched) == len(state)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), st.just(torch.ones(1)), min_size=1),
       st.lists(st.sampled_from(["state_dict", "model", "net", "teacher"]), max_size=2),
       st.integers(0, 2), st.booleans())
def test_unwrapping_undoes_wrapping(state, wrappers, modules, backbone):
    what = under("module." * modules + "backbone." * backbone, state)
    for w in wrappers: what = {w: what, "epoch": 1}
    assert unwrap(what) == (state, [])


# --- positions --------------------------------------------------------------------------------------------------------

def by_hand(old, rows, columns):
    "Bilinear, a number at a time: centres of cells, edges repeated."
    h, w = old.shape
    new = np.zeros((rows, columns))
    for i in range(rows):
        for j in range(columns):
            y, x = max((i + .5) * h / rows - .5, 0), max((j + .5) * w / columns - .5, 0)
            a, b = int(y), int(x)
            c, d = min(a + 1, h - 1), min(b + 1, w - 1)
            above, below = ((1 - (x - b)) * old[row, b] + (x - b) * old[row, d] for row in (a, c))
            new[i, j] = (1 - (y - a)) * above + (y - a) * below
    return new


@pytest.mark.parametrize("grid", [(18, 9), (8, 4), (24, 8), (16, 8)])
def test_resizing_as_the_release(grid):
    "The golden case's shape, [1, 129, 8] -> [1, 163, 8], and others, against a loop."
    old = torch.randn(1, 129, 8, dtype=torch.float64)
    new = resize_positions(old, grid)
    assert new.shape == (1, 1 + grid[0] * grid[1], 8) and torch.equal(new[:, 0], old[:, 0])
    for d in range(8):
        np.testing.assert_allclose(new[0, 1:, d].reshape(grid), by_hand(old[0, 1:, d].reshape(16, 8).numpy(), *grid),
                                   atol=1e-12)


def test_the_same_grid_stays(): torch.testing.assert_close(resize_positions(x := torch.randn(1, 163, 4), (18, 9)), x)


# --- by name ----------------------------------------------------------------------------------------------------------

def test_build_model_loads(saved):
    state = noisy(build_model("vit_tiny_ics", "random"))
    model = build_model("vit_tiny_ics", saved({"state_dict": under("module.", state)}))
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items()) and not model.training
    with pytest.warns(UserWarning, match="TransReID-SSL"): build_model("vit_tiny_ics")
    with pytest.raises(ValueError, match='there is "lite0", "lite1", "lite2", "vit_base_ics"'): build_model("vit_huge")
