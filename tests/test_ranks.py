"""A batch in parts, and rows over processes: the gradients, memories and figures of one batch on one process."""
import json
import os
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from hil.core.errors import RunError
from hil.core.names import MODALITIES
from hil.core.precision import bfloat16_fault
from hil.models.agw import AgwResNet50
from hil.models.build import build_model
from hil.runs.folder import Run
from hil.training import distributed
from hil.training.cli import launch, train_run
from hil.training.gradient_cache import Parts, Whole, cut, passage, skipped
from hil.training.trainer import Trainer

VIT = dict(model="vit_tiny_ics", weights="random", trainable="all", stage1_epochs=1, stage2_epochs=1, iterations=2,
           batch_ids=3, instances=2, k1=8, k1_infrared=6, k2=3, min_samples=2, eps=.7, n_sub=2,
           level="sample", threshold=.5, lr=1e-4, optimizer="sgd", memory_update="sample", mccl_warmup=0, trials=1)
TINY_AGW = dict(channels=8, blocks=(1, 1, 1, 1), non_local=(0, 1, 0, 0), height=32, width=32)
MADE = {"vit": lambda **k: build_model("vit_tiny_ics", "random", drop_path=.5, height=32, width=32, **k),
        "lite0": lambda **k: build_model("lite0", "random", dropout=.5),
        "agw": lambda **k: AgwResNet50(**TINY_AGW, **k)}


def images(n, size=32):
    rng = torch.Generator().manual_seed(0)
    return {m: torch.randn(k, 3, size, size, generator=rng) for m, k in zip(MODALITIES, n)}


def freeze(model):
    "BatchNorm of the body as in evaluation: it takes nothing from other rows."
    for module in model.train().modules():
        if isinstance(module, nn.BatchNorm2d): module.eval()
    return model


def coupled(features):
    return sum((f @ f.T / f.shape[1]).softmax(1).square().sum() + f.pow(3).mean() for both in features.values()
               for f in both.values())


def gradients(way, batch):
    torch.manual_seed(5)
    out = way.forward(batch)
    way.backward(coupled(out))
    grad = torch.cat([p.grad.flatten() for p in way.model.parameters() if p.grad is not None])
    return grad, {m: {d: f.detach() for d, f in both.items()} for m, both in out.items()}, torch.get_rng_state()


def distance(a, b): return ((a - b).norm() / a.norm()).item()


# --- parts ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name,options",
                         [("vit", {}), ("vit", dict(gradient_checkpointing=True)), ("agw", {}), ("lite0", {})])
@pytest.mark.parametrize("n", [(8, 4), (11, 5)])
def test_parts_have_the_gradient_of_the_whole(name, options, n):
    torch.manual_seed(0)
    model, batch = freeze(MADE[name](**options)), images(n, 64 if name == "lite0" else 32)
    one = deepcopy(model)
    expected, features, state = gradients(Whole(one), batch)
    for parts in (1, 2, 4):
        split = deepcopy(model)
        found, got, after = gradients(Parts(split, parts=parts), batch)
        assert distance(expected, found) < 1e-4
        for m in MODALITIES:
            for d in ("deep", "shallow"): torch.testing.assert_close(features[m][d], got[m][d], rtol=1e-3, atol=1e-4)
        assert torch.equal(state, after), "the next step draws what it would have drawn"
        # the necks' running statistics too
        for k, x in one.state_dict().items():
            torch.testing.assert_close(x, split.state_dict()[k], rtol=1e-4, atol=1e-5, msg=k)


def test_small_batches_added_up_are_another_gradient():
    "What `accumulate` is not: were it so, the tests above would notice."
    torch.manual_seed(0)
    model, batch = freeze(MADE["vit"]()), images((8, 4))
    expected = gradients(Whole(deepcopy(model)), batch)[0]
    way = Whole(model)
    for i in range(4): way.backward(coupled(way.forward({m: x[i::4] for m, x in batch.items()})))
    assert distance(expected, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])) > .1


def test_batch_norm_of_the_body_takes_the_parts_statistics_once_each():
    torch.manual_seed(0)
    model, batch = MADE["vit"]().train(), images((8, 4))
    stem = model.base.patch_embed.conv[1].BN
    seen = []
    stem.register_forward_hook(lambda layer, x, y: seen.append(x[0].detach()))
    gradients(Parts(model, parts=2), batch)
    assert len(seen) == 4 and stem.num_batches_tracked == 2 and model.bottleneck.num_batches_tracked == 1
    mean = torch.zeros(stem.num_features)
    for x in seen[2:]: mean = .9 * mean + .1 * x.mean((0, 2, 3))
    torch.testing.assert_close(stem.running_mean, mean)


def test_after_a_step_nothing_is_left_behind():
    torch.manual_seed(0)
    model, batch = MADE["vit"](), images((8, 4))
    before = model(batch)["visible"]["deep"]
    freeze(model)
    gradients(Parts(model, parts=4), batch)
    model.bottleneck.reset_running_stats()
    after = model.eval()(batch)["visible"]["deep"]
    torch.testing.assert_close(before, after)
    with pytest.raises(KeyError), skipped([model.bottleneck]): raise KeyError
    assert "forward" not in vars(model.bottleneck)


def test_too_many_parts():
    with pytest.raises(RunError, match="4 images of one modality .* cannot be split into accumulate = 5"):
        Parts(MADE["vit"]().train(), parts=5).forward(images((8, 4)))


@pytest.mark.parametrize("name", MADE)
def test_the_cut_loses_nothing(name):
    torch.manual_seed(0)
    model, batch = MADE[name]().eval(), images((3, 2), 64 if name == "lite0" else 32)
    body, top, above = cut(model)
    for m, both in top(body(batch)).items():
        for d, f in both.items(): torch.testing.assert_close(f, model(batch)[m][d])
    assert above and all(isinstance(module, nn.Module) for module in above)


# --- precision ------------------------------------------------------------------------------------------------------

def refused(model, config):
    "Where the processor is wrong in 16 bits the run must be refused, and the figures of the test are left out."
    if fault := bfloat16_fault(model, model.height, model.width, gradients=True):
        with pytest.raises(RunError, match='precision = "bf16" is refused'): passage(model, config)
        pytest.skip(f"16 bits are refused here, as they should be: {fault}")


def test_sixteen_bits(small):
    torch.manual_seed(0)
    model, batch = freeze(MADE["vit"]()), images((8, 4))
    refused(model, small(**VIT, precision="bf16"))
    exact, rough = (gradients(Whole(deepcopy(model), p), batch) for p in ("float32", "bf16"))
    assert rough[1]["visible"]["deep"].dtype == torch.float32 and 1e-4 < distance(exact[0], rough[0]) < .2
    assert distance(rough[0], gradients(Parts(deepcopy(model), "bf16", 4), batch)[0]) < .05


def test_settings_that_a_cpu_or_heads_cannot_take(small):
    with pytest.raises(RunError, match='"fp16" is for GPUs'): passage(MADE["vit"](), small(**VIT, precision="fp16"))
    for changes in (dict(precision="bf16"), dict(accumulate=2)):
        with pytest.raises(RunError, match='is for trainable = "all"'): small(**changes)


def test_a_run_in_parts_and_sixteen_bits(small, train):
    refused(build_model("vit_tiny_ics", "random"), small(**VIT, precision="bf16"))
    h = train(**{**VIT, "stage1_epochs": 0}, accumulate=3, precision="bf16").history
    assert np.isfinite(h.loss_total[1:]).all()


# --- processes ------------------------------------------------------------------------------------------------------

TWO = """
import hashlib, json, sys
from pathlib import Path
import torch.distributed as dist
from hil.training import distributed, trainer
from hil.runs.config import Config
digests, writes = [], []
train, write = trainer.Trainer.train, trainer.Run.record
def watched(self, labels, memories, e):
    out = train(self, labels, memories, e)
    state = [*self.model.state_dict().values(), *memories.tensors()]
    digests.append(hashlib.sha256(b"".join(x.cpu().numpy().tobytes() for x in state)).hexdigest())
    return out
trainer.Trainer.train = watched
trainer.Run.record = lambda self, *a: (writes.append(1), write(self, *a))
with distributed.joined():
    for settings in json.loads(sys.argv[1]): trainer.Trainer(Config(**settings), progress=False).fit()
    box = [None] * distributed.world()
    dist.all_gather_object(box, (digests, len(writes)))
    if distributed.rank() == 0: print(json.dumps(box))
threads = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
outlived = [name for name in threads if "gloo" in name]
assert not outlived, f"{outlived}: a thread of the group that outlives it can crash the process at its exit"
"""


def bare():
    "The environment without a number of threads: torchrun sets one then."
    return {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}


def alike(one, two, rtol):
    names = [c for c in one.history if c not in ("seconds", "transfer_direction")]
    pd.testing.assert_frame_equal(one.history[names], two.history[names], rtol=rtol)
    for e in one.history.epoch:
        a, b = one.epoch(e), two.epoch(e)
        assert a.keys() == b.keys()
        for k in a:
            near = 0 if a[k].dtype.kind == "i" else 2e-2
            np.testing.assert_allclose(a[k], b[k], rtol=near, atol=near, err_msg=k)
    a, b = one.checkpoint()["model"], two.checkpoint()["model"]
    for k in a: torch.testing.assert_close(a[k], b[k], rtol=1e-3, atol=1e-4, msg=k)


def test_two_processes_are_one(small, tmp_path):
    """A ViT whole and in parts, and heads on cached features: one and two processes agree. Both ranks hold the same
    weights and memories, and one of them writes."""
    runs = {"whole": VIT, "parts": dict(VIT, accumulate=2, stage1_epochs=0, iterations=1),
            "heads": dict(stage1_epochs=0, stage2_epochs=1, iterations=2, trials=1)}
    two = [small(run_dir=str(tmp_path / "two" / name), **settings) for name, settings in runs.items()]
    (tmp_path / "two.py").write_text(TWO)
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
                           str(tmp_path / "two.py"), json.dumps([vars(c) for c in two])],
                          capture_output=True, text=True, timeout=200, env=bare())
    assert done.returncode == 0, done.stderr[-3000:]
    (first, wrote), (second, silent) = json.loads(done.stdout.splitlines()[-1])
    assert first == second and len(set(first)) == 4 and (wrote, silent) == (3 + 2 + 2, 0)
    for config in two:
        one = Trainer(replace(config, run_dir=config.run_dir.replace("two", "one")), progress=False).fit()
        alike(one, Run(config.run_dir), 1e-3)
    for file in tmp_path.rglob("*.pt"): file.unlink()


CORES = """
import json, os, sys, time
import torch
import torch.distributed as dist
from hil.core.threads import own_cores
from hil.runs.config import Config
from hil.training import distributed, step, trainer
seen = {"OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"], "cores": len(own_cores())}
def watched(module, name, note):
    made = getattr(module, name)
    def noting(*args, **more):
        seen.setdefault(note, []).append(torch.get_num_threads())
        return made(*args, **more)
    setattr(module, name, noting)
watched(step, "secondary_assign", "k-means")
watched(trainer, "epoch_labels", "clusters")
watched(trainer.metrics, "mean_metrics", "figures")
watched(trainer, "step_losses", "steps")
with distributed.joined():
    seen["before"] = torch.get_num_threads()
    trainer.Trainer(Config(**json.loads(sys.argv[1])), progress=False).fit()
    seen["after"], begun = torch.get_num_threads(), time.process_time()
    distributed.from_first(lambda: time.sleep(1))
    seen["waited"] = time.process_time() - begun
    box = [None] * distributed.world()
    dist.all_gather_object(box, seen)
    if distributed.rank() == 0: print(json.dumps(box))
"""


def test_the_first_takes_all_cores_while_the_others_wait(small, tmp_path):
    """torchrun sets OMP_NUM_THREADS=1. Clusters, k-means and figures are computed once, on all cores; in steps each
    rank has its share; whoever waits sleeps."""
    (tmp_path / "cores.py").write_text(CORES)
    config = small(run_dir=str(tmp_path / "run"), stage1_epochs=0, stage2_epochs=1, iterations=2, threads="auto")
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
                           str(tmp_path / "cores.py"), json.dumps(vars(config))],
                          capture_output=True, text=True, timeout=200, env=bare())
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = json.loads(done.stdout.splitlines()[-1])
    cores = first.pop("cores")
    share = max(1, cores // 2)
    assert first.pop("waited") < .3 and second.pop("waited") < .3, "a process that waits does not turn in a loop"
    assert first == {"OMP_NUM_THREADS": "1", "before": 1, "after": 1, "k-means": [cores] * 2, "clusters": [cores],
                     "figures": [cores] * 2, "steps": [share] * 2}
    assert second == {"OMP_NUM_THREADS": "1", "cores": cores, "before": 1, "after": 1, "steps": [share] * 2}
    for file in tmp_path.rglob("*.pt"): file.unlink()


def test_a_number_that_was_asked_for_holds_for_the_first_too(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(distributed, "own_cores", lambda: range(5))
    before = torch.get_num_threads()
    with distributed.alone("auto"): assert torch.get_num_threads() == 5
    with distributed.alone(3): assert torch.get_num_threads() == before
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    with distributed.alone("auto"): assert torch.get_num_threads() == before
    with pytest.raises(KeyError), distributed.alone("auto"): raise KeyError
    assert torch.get_num_threads() == before


def test_an_error_on_the_first_is_told(small, tmp_path):
    with pytest.raises(RunError, match="two are needed: two clusters of min_samples = 1000 images need 2000"):
        launch(small(run_dir=str(tmp_path / "run"), **{**VIT, "min_samples": 1000}), processes=2)


def test_one_process_is_nothing_special(small, tmp_path, capsys):
    assert (distributed.rank(), distributed.world(), distributed.from_first(lambda: 3)) == (0, 1, 3)
    with distributed.joined(), distributed.first_alone(): pass
    assert type(distributed.synchronise(MADE["vit"]()).base.patch_embed.conv[7]) is nn.BatchNorm2d
    config = small(run_dir=str(tmp_path / "run"), stage1_epochs=0, stage2_epochs=1, iterations=1, trials=1)
    train_run(config)
    assert capsys.readouterr().out.startswith("epoch 1/1: loss ") and Run(config.run_dir).config == config
    for file in tmp_path.rglob("*.pt"): file.unlink()


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("parts", [1, 2, 5])
def test_every_row_is_dealt_once(monkeypatch, world, parts):
    monkeypatch.setattr(distributed, "world", lambda: world)
    deal = []
    for r in range(world):
        monkeypatch.setattr(distributed, "rank", lambda r=r: r)
        deal += [distributed.share(43, i, parts) for i in range(parts)]
    assert torch.cat(deal).sort().values.tolist() == list(range(43)) and max(map(len, deal)) - min(map(len, deal)) <= 1


def test_a_gpu_for_each(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert distributed.own_device(torch.device("cpu")).type == "cpu"
    with pytest.raises(RunError, match="process 1 on this machine has no GPU: torch shows 1"):
        distributed.own_device(torch.device("cuda"))
    with pytest.raises(RunError, match="each takes a GPU of its own"): distributed.own_device(torch.device("cuda:0"))
