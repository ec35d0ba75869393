"""hil.models.pickles and what load_checkpoint refuses: harmless data of published files is read, nothing of a file
runs, and the advice in a refusal works when it is followed."""
import argparse
import functools
import os
import pathlib
import re
import struct
import subprocess
from collections import OrderedDict, defaultdict, deque

import numpy as np
import pytest
import torch

from hil.models.agw import AgwResNet50
from hil.models.pickles import read_file
from hil.models.vit import VitIcs
from hil.models.weights import check_sound, grid_of, load_checkpoint, resize_positions, unwrap

AGW = dict(channels=4, blocks=(1, 3, 3, 1), height=64, width=32)
VIT = dict(dim=12, depth=3, heads=2, stem=4, height=64, width=32)
W = {"w": torch.ones(2)}


@pytest.fixture
def saved(tmp_path):
    "saved(anything) -> path of a file that holds it"
    def save(what, **how):
        torch.save(what, tmp_path / "file.pth", **how)
        return tmp_path / "file.pth"
    return save


# ---- what is read ----------------------------------------------------------------------------------------------------

PLAIN = {"cmc": np.linspace(0, 1, 5), "by columns": np.arange(6, dtype=np.int32).reshape(2, 3).T,
         "none": np.zeros((0, 3)), "big endian": np.arange(3, dtype=">f8"), "texts": np.array(["ab", "c"]),
         "objects": np.array([1, "a", None], object), "bool": np.array([True, False]),
         "half": np.float16(1), "number": np.float32(.5), "whole": np.int64(3),
         "complex": np.array([1j]), "true": np.bool_(True), "text": np.str_("abc"), "no text": np.str_(""),
         "one": np.array(3.), "type": np.dtype("f4"), "bytes": b"", "set": {1, 2}, "frozen": frozenset([1]),
         "counts": defaultdict(int, a=1), "ordered": OrderedDict(a=1), "queue": deque([1, 2], 3),
         "nested": [(np.ones(2),)],
         "arrays": np.array([np.ones(2), None], object)}


@pytest.mark.parametrize("legacy", [False, True])
def test_plain_data_is_read(saved, legacy):
    read = read_file(saved(PLAIN, _use_new_zipfile_serialization=not legacy))
    for key, value in PLAIN.items():
        if isinstance(value, np.ndarray):
            assert type(read[key]) is np.ndarray and read[key].dtype == value.dtype and read[key].shape == value.shape
            assert str(read[key]) == str(value), key
        else:
            kind = {deque: list, defaultdict: dict}.get(type(value), lambda x: x)    # what stands in for it
            assert str(read[key]) == str(kind(value)), key


def test_paths_and_command_lines_are_read(saved):
    line = argparse.Namespace(root=pathlib.Path("/data"), steps=np.array([1, 2]))
    read = read_file(saved({"args": line, "win": pathlib.PureWindowsPath("C:/data")}))
    assert str(read["args"].root) == "/data" and str(read["win"]) == "C:\\data"
    assert read["args"].steps.tolist() == [1, 2]


def test_arrays_of_an_older_numpy_are_read(tmp_path):
    torch.save({"cmc": np.array([.5, 1.])}, tmp_path / "new.t", _use_new_zipfile_serialization=False)
    old = (tmp_path / "new.t").read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    (tmp_path / "old.t").write_bytes(old)
    assert read_file(tmp_path / "old.t")["cmc"].tolist() == [.5, 1.]


@pytest.mark.parametrize("legacy", [False, True])
def test_the_files_of_agw_load(saved, legacy):
    "As AGW's train.py writes them."
    net = AgwResNet50(**AGW).state_dict()
    state = {"net": net, "cmc": np.linspace(.4, 1, 301), "mAP": np.float64(.47), "mINP": np.float64(.35), "epoch": 57}
    model = AgwResNet50(**AGW)
    assert len(load_checkpoint(model, saved(state, _use_new_zipfile_serialization=not legacy)).matched) == len(net)
    assert all(torch.equal(v, net[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("wrap", [
    lambda s: {"weights": s}, lambda s: {"_orig_mod." + k: v for k, v in s.items()},
    lambda s: {"ema": {"module.model." + k: v for k, v in s.items()}, "optimizer": {"state": {}}, "cmc": np.ones(3)},
    lambda s: {"net": {k: v.numpy() for k, v in s.items()}}], ids=["a name", "torch.compile", "prefixes", "numpy"])
def test_weights_are_found(saved, wrap):
    net = AgwResNet50(**AGW).state_dict()
    assert len(load_checkpoint(AgwResNet50(**AGW), saved(wrap(net))).matched) == len(net)


def test_several_dictionaries_of_weights_are_not_guessed_among(saved):
    with pytest.raises(ValueError, match="weights under several names: first, second. Keep those you mean"):
        load_checkpoint(AgwResNet50(**AGW), saved({"first": W, "second": W}))


# ---- what is refused, and runs nothing -------------------------------------------------------------------------------

class Call:
    def __init__(self, function, *args): self.call = function, args
    def __reduce__(self): return self.call


class Mine(torch.nn.Linear):
    "A model of a release."
    def __init__(self): super().__init__(2, 2)


class Other:
    "Anything else of a release."


CALLS = {"posix.system": (os.system,), "eval": (eval,), "exec": (exec,), "getattr": (getattr, "a", "upper"),
         "commands.Popen": (subprocess.Popen,), "functools.partial": (functools.partial, print)}


@pytest.mark.parametrize("where", ["top", "beside", "inside"])
@pytest.mark.parametrize("name", CALLS)
def test_nothing_runs(saved, tmp_path, name, where):
    function, *args = CALLS[name]
    mark = tmp_path / "ran"
    call = Call(function, *(args or [f"touch {mark}" if function is not exec else f"open({str(mark)!r}, 'w')"]))
    file = saved({"top": call, "beside": {"net": W, "x": call}, "inside": {"net": {**W, "x": call}}}[where])
    with pytest.raises(ValueError, match=f"asks to call {name} .*Nothing was run. Do not load it in another way"):
        read_file(file)
    assert not mark.exists()


FORGED = [Call(np.ndarray, (1,), "O", b"\x10" * 8), Call(np.dtype, "V8"), Call(np.dtype, "O,i8")]


@pytest.mark.parametrize("what", FORGED, ids=["array from bytes", "void", "fields"])
def test_numpy_makes_no_array_of_pointers(saved, what):
    with pytest.raises(ValueError, match="holds an array .*as no file of weights needs to. Nothing was run"):
        read_file(saved({"net": W, "x": what}))


def test_an_array_with_too_few_bytes(saved):
    file = saved({"cmc": np.arange(4, dtype=np.uint8)}, _use_new_zipfile_serialization=False)
    raw = file.read_bytes()
    assert (at := raw.find(b"K\x04\x85")) > 0     # the tuple (4,): the shape
    file.write_bytes(raw[:at] + b"K\x09\x85" + raw[at + 3:])
    with pytest.raises(ValueError, match=r"holds an array \(9,\) of"): read_file(file)


@pytest.mark.parametrize("what,keys", [
    (lambda: Mine(), "False).state_dict()"), (lambda: {"epoch": 1, "model": Mine()}, "False)['model'].state_dict()"),
    (lambda: {"args": Other(), "net": Mine().state_dict()}, "False)['net']"),
    (lambda: {"x": Other(), "w": torch.ones(2)}, ".items() if torch.is_tensor(v)}"),
    (lambda: {"a": Other(), "run": {"ema": Mine().state_dict()}}, "False)['run']['ema']")],
    ids=["model", "model inside", "net", "flat", "deep"])
def test_the_advice_works(saved, tmp_path, monkeypatch, what, keys):
    "What the refusal says is run as it stands; the file that it writes loads."
    with pytest.raises(ValueError, match="Nothing was run. If you trust the file, keep its weights only") as e:
        read_file(saved(what()))
    line = re.search(r"torch\.save\(.*'weights\.pth'\)", str(e.value))[0]
    assert f"{keys}, 'weights.pth')" in line
    monkeypatch.chdir(tmp_path)
    exec(line, {"torch": torch})
    assert unwrap(read_file("weights.pth"))[0]


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_other_kinds_of_files(saved, tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    with pytest.raises(ValueError, match="a TorchScript program, not weights"): read_file(tmp_path / "script.pt")
    with pytest.warns(UserWarning, match="pickle protocol"), pytest.raises(ValueError, match="another pickle protocol"):
        read_file(saved({"net": W}, pickle_protocol=4))
    with pytest.raises(FileNotFoundError, match="a folder, not a checkpoint"): read_file(tmp_path)
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    with pytest.raises(ValueError, match="not a file that torch.save wrote"): read_file(tmp_path / "x.safetensors")


def test_a_damaged_file_is_one_sentence(saved):
    "Any byte may be another one: the file is read, or refused with its name."
    file = saved({"net": W, "cmc": np.ones(3), "root": pathlib.Path("/a")}, _use_new_zipfile_serialization=False)
    raw, rng = file.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        bad = bytearray(raw)
        for at in rng.integers(0, len(raw), 3): bad[at] = rng.integers(256)
        file.write_bytes(bad)
        try: read_file(file)
        except ValueError as error: assert str(error).startswith(str(file))


# ---- weights that are none -------------------------------------------------------------------------------------------

X = torch.ones(2, 3)
UNSOUND = {"NaN": (X * torch.nan, "6 of 6 values that are NaN or infinite"), "inf": (X / 0, "NaN or infinite"),
           "beyond float32": (X.double() * 1e300, "NaN or infinite in torch.float32"),
           "complex": (X + 0j, "is complex"), "sparse": (X.to_sparse(), "is sparse"),
           "codes": (X.to(torch.int8), "whole numbers"), "bools": (X > 0, "whole"),
           "meta": (X.to("meta"), "holds no numbers"),
           "quantised": (torch.quantize_per_tensor(X, .1, 0, torch.qint8), "quantised")}


@pytest.mark.parametrize("value,says", UNSOUND.values(), ids=UNSOUND)
def test_unsound_weights_are_refused_by_name(saved, value, says):
    model = torch.nn.Linear(3, 2)
    before = model.weight.clone()
    for strict in (True, False):
        with pytest.raises(ValueError, match=f"file.pth: weight .*{says}"):
            load_checkpoint(model, saved({"weight": value, "bias": torch.zeros(2)}), strict)
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_taken(kind): check_sound("w", X.to(kind), X)


# ---- TransReID -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("n,grid", [(128, (16, 8)), (162, (18, 9)), (192, (24, 8)), (196, (14, 14)), (210, (21, 10)),
                                    (310, (31, 10))])
def test_grids_are_told_by_their_number(n, grid):
    assert grid_of(n) == grid
    assert resize_positions(torch.randn(1, 1 + n, 4), (18, 9)).shape == (1, 163, 4)


def test_resized_rows_keep_their_order():
    ramp = torch.cat([torch.tensor([-1.]), torch.arange(24.).repeat_interleave(8)])[None, :, None]
    rows = resize_positions(ramp, (18, 9))[0, 1:, 0].reshape(18, 9)
    assert (rows.diff(dim=0) > 0).all() and torch.allclose(rows, rows[:, :1].expand_as(rows))


def trunk(**sizes):
    state = VitIcs(**{**VIT, **sizes}).state_dict()
    return {k: v for k, v in state.items() if k.startswith("base.") and not re.match(r"base\.(patch_embed2|fc|dec)", k)}


def test_weights_of_384_x_128_images_load(saved):
    report = load_checkpoint(VitIcs(**VIT), saved(trunk(height=96)))        # 6 x 2, as 24 x 8: three times as high
    assert len(report.resized) == 1 and not report.wrong
    assert not load_checkpoint(VitIcs(**{**VIT, "height": 96}), saved(trunk(height=96))).resized


def test_two_heads_of_transreid_are_used(saved):
    "Its jigsaw branch calls them b1 and b2 as SDCL does, but has one stem."
    state = VitIcs(**VIT).state_dict()
    file = trunk() | {k: v + 1 for k, v in state.items() if k.startswith(("b1.", "b2."))}
    file |= {f"bottleneck{k}.weight": torch.ones(12) for k in ("", "_1")} | {"classifier_1.weight": torch.ones(3, 12)}
    model = VitIcs(**VIT)
    assert not load_checkpoint(model, saved(file)).wrong
    assert torch.equal(model.state_dict()["b2.0.mlp.fc1.weight"], file["b2.0.mlp.fc1.weight"])


def plain_stem():
    state = {k: v for k, v in trunk().items() if "patch_embed" not in k}
    stem = {"weight": torch.zeros(12, 3, 16, 16), "bias": torch.zeros(12)}
    return state | {f"base.patch_embed.proj.{k}": v for k, v in stem.items()}


@pytest.mark.parametrize("state,says", [
    (lambda: trunk() | {"base.sie_embed": torch.zeros(6, 1, 12)}, "embedding of cameras .SIE.* MODEL.SIE_CAMERA False"),
    (plain_stem, "one plain convolution .* use TransReID-SSL's files with ics"),
    (lambda: trunk(dim=24), "tokens have 24 numbers, the model's 12: set model"),
    (lambda: trunk(depth=4), "has 4 blocks, the model 3")], ids=["SIE", "plain stem", "width", "depth"])
def test_a_file_of_another_build_is_named(saved, state, says):
    with pytest.raises(ValueError, match=says): load_checkpoint(VitIcs(**VIT), saved(state()))


def test_the_advice_about_sie_works(saved, tmp_path, monkeypatch):
    file = saved(trunk() | {"base.sie_embed": torch.ones(6, 1, 12)})
    with pytest.raises(ValueError) as error: load_checkpoint(VitIcs(**VIT), file)
    line = re.search(r"from hil.*'without_sie\.pth'\)", str(error.value))[0]
    monkeypatch.chdir(tmp_path)
    exec(line, {"torch": torch})
    assert not load_checkpoint(VitIcs(**VIT), "without_sie.pth").wrong


def test_an_encoder_names_the_file(saved):
    from hil.evaluation.encode import load_encoder
    with pytest.raises(ValueError, match=r"file\.pth: no weights: .* got epoch"): load_encoder(str(saved({"epoch": 3})))
