"""hil.training.trainer: the same seed the same run, a killed run resumed, every switch, every way to fail."""
import logging
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_memory import close, load
from tqdm.std import tqdm

from hil.core.errors import DataError, RunError
from hil.core.names import DEPTHS, MODALITIES
from hil.core.settings import allowed
from hil.core.vectors import unit
from hil.data.samplers import draw_batch
from hil.data.training_views import (
    VIEWS,
    CachedViews,
    PixelViews,
    cache_views,
    cached,
    store_key,
)
from hil.evaluation.encode import load_encoder
from hil.method.cluster import centroids, pseudo_labels
from hil.method.labels import Rules, Transfer, apart_labels
from hil.method.losses import mccl_loss
from hil.method.memory import ClusterMemory, InstanceMemory
from hil.method.rerank import jaccard_distance
from hil.runs.config import Config
from hil.runs.folder import Run
from hil.training.run_images import find_device
from hil.training.step import Memories, move_memories, remember, step_losses
from hil.training.trainer import Trainer


def same_runs(a, b):
    "Equal history (but for the seconds) and equal arrays of every epoch."
    pd.testing.assert_frame_equal(a.history.drop(columns="seconds"), b.history.drop(columns="seconds"),
                                  check_exact=True)
    for e in a.history.epoch:
        x, y = a.epoch(e), b.epoch(e)
        assert x.keys() == y.keys()
        for name in x: np.testing.assert_array_equal(x[name], y[name], err_msg=f"epoch {e}, {name}")


# --- seeds, kills, resumes ------------------------------------------------------------------------------------------

def test_the_same_seed_is_the_same_run(whole, train): same_runs(whole, train())


def test_another_seed_is_another_run(whole, train):
    other = train(seed=1)
    assert (other.history.loss_total[1:] != whole.history.loss_total[1:]).all()
    assert (other.epoch(-1)["features_visible"] != whole.epoch(-1)["features_visible"]).any()


KILLED = """
import os, signal, sys, torch
from hil.training import trainer
from hil.runs.config import Config
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "step":  # in the middle of the second epoch
    def check_finite(self, values, where):
        if where == "epoch 2, step 3": die()
    trainer.Trainer.check_finite = check_finite
else:  # while the second epoch's checkpoint is written; its figures are there already
    save = torch.save
    def half(state, path):
        save(state, path)
        if state["epoch"] == 2: os.truncate(path, 1000); die()
    torch.save = half
trainer.Trainer(Config(**eval(sys.argv[2])), progress=False).fit()
"""


@pytest.mark.parametrize("moment,recorded", [("step", 2), ("save", 3)])
def test_killed_and_resumed_equals_uninterrupted(whole, tmp_path, moment, recorded):
    config = replace(whole.config, run_dir=str(tmp_path / "run"))
    killed = subprocess.run([sys.executable, "-c", KILLED, moment, repr(vars(config))], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run = Run(config.run_dir)
    assert run.checkpoint()["epoch"] == 1 and len(run.history) == recorded
    half = [p.name for p in run.path.rglob(".*") if p.name != ".lock"]
    assert len(half) == (moment == "save") and all(n.endswith("-checkpoint.pt") for n in half)
    resumed = Trainer(replace(config, resume=True), progress=False).fit()
    same_runs(whole, resumed)
    a, b = whole.checkpoint(), resumed.checkpoint()
    for k in a["model"]: assert torch.equal(a["model"][k], b["model"][k]), k
    assert not list(run.path.rglob(".*")), "what was half written is gone"
    before = (run.path / "history.csv").read_bytes()
    Trainer(replace(config, resume=True), progress=False).fit()  # a finished run: nothing to do
    assert (run.path / "history.csv").read_bytes() == before
    with pytest.raises(RunError, match=f"lr was {config.lr}, is 0.1"):
        Trainer(replace(config, resume=True, lr=.1), progress=False)
    with pytest.raises(RunError, match="holds a run already"): Trainer(config, progress=False)
    for file in tmp_path.rglob("*.pt"): file.unlink()


def test_test_images_are_scored_every_so_many_epochs(whole, train):
    "What is trained is the same to the last digit; between, there are no figures and no features of test images."
    run, n = train(evaluate_every=2), int(whole.images.query("modality == 'visible'").train.sum())
    scored = run.history.mAP.notna()
    assert scored.tolist() == [True, False, True, True], "every second epoch, the untrained model and the last one"
    for column in ("mAP", "health"):
        assert (run.history[column][scored] == whole.history[column][scored]).all()
        assert run.history[column][~scored].isna().all()
    assert (run.history.loss_total == whole.history.loss_total)[1:].all()
    for e in (1, 2):
        found, expected = (z.epoch(e)["features_visible"] for z in (run, whole))
        np.testing.assert_array_equal(found[:n], expected[:n])
        assert np.isnan(found[n:]).all() == (e == 1) and len(found) == len(expected)
    assert f"mAP {100 * run.history.mAP.iloc[-1]:.1f} %" in repr(run)


def test_the_bar_tells_the_map_that_was_measured_last(small, tmp_path, monkeypatch):
    "An epoch that is not scored leaves NaN in the history, and the last figure on the bar."
    told = []
    monkeypatch.setattr(tqdm, "set_postfix_str", lambda bar, text, **_: told.append(text))
    run = Trainer(small(evaluate_every=2, run_dir=str(tmp_path / "run"))).fit()
    scores = run.history.mAP
    assert scores.isna().tolist() == [False, True, False, False]
    assert told == [f"mAP {100 * scores[e]:.1f} %" for e in (0, 0, 2)]


def test_deterministic_kernels_change_nothing_on_a_cpu(whole, train):
    same_runs(whole, train(deterministic=True))
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_a_run_records(whole):
    h, n = whole.history, whole.images.groupby("modality").train.agg(["size", "sum"])
    assert h.epoch.tolist() == [0, 1, 2, 3] and h.stage.tolist() == [0, 1, 2,
        2] and h.transfer_direction[2:].tolist() == ["visible_to_infrared", "infrared_to_visible"]
    assert h.loss_mccl.isna().tolist() == [True, True, False, False] and h.transfer_precision.isna().tolist() == [True,
        True, False, False]
    np.testing.assert_allclose(h.loss_total[2:], h[["loss_cluster", "loss_mccl", "loss_neighbor"]][2:].sum(axis=1),
                               rtol=1e-5)
    for e in (1, 2, 3):
        z = whole.epoch(e)
        for m in MODALITIES:
            own = z[f"labels_{m}"]
            assert len(own) == n.loc[m, "sum"]
            assert h[f"clusters_{m}"][e] == own.max() + 1
            assert h[f"outliers_{m}"][e] == (own < 0).sum()
            assert ((z[f"sub_{m}"] >= 0) == (z[f"final_{m}"] >= 0)).all() if e > 1 else (z[f"final_{m}"] == own).all()
        if e > 1:
            source, target = h.transfer_direction[e].split("_to_")
            assert (z[f"final_{target}"] == z[f"labels_{target}"]).all()
            assert z[f"final_{source}"].max() <= z[f"labels_{target}"].max()
            assert 0 <= z[f"sub_{source}"].max() < whole.config.n_sub


def test_images_come_as_promised(whole):
    t = whole.images
    assert t.modality.tolist() == sorted(t.modality, reverse=True)
    for _, part in t.groupby("modality"): assert part.train.is_monotonic_decreasing and 0 < part.train.sum() < len(part)
    assert not set(t.pid[t.train]) & set(t.pid[~t.train]) and set(t.split[~t.train]) == {"test"}


# --- switches -------------------------------------------------------------------------------------------------------

SHORT = dict(stage1_epochs=0, stage2_epochs=1, iterations=2, trials=1)


@pytest.fixture
def quick(train, whole):
    "quick(lr=1) -> a finished Run of two steps that begins with trained heads, which saves a second of calibration."
    return lambda run_dir="run", **changes: train(run_dir,
                                                  **{**SHORT, "weights": str(whole.path / "checkpoint.pt"), **changes})


@pytest.fixture(scope="module")
def short(small, whole, tmp_path_factory):
    "The run that switches are compared with."
    run = Trainer(small(**SHORT, weights=str(whole.path / "checkpoint.pt"),
                        run_dir=str(tmp_path_factory.mktemp("short") / "run")), progress=False).fit()
    yield run
    (run.path / "checkpoint.pt").unlink()


def test_approximate_neighbours_are_asked_for_and_their_recall_is_said(quick, caplog):
    with caplog.at_level("INFO", "hil.method.fast_neighbors"): run = quick(neighbors="ivf")
    said = [record.getMessage() for record in caplog.records if record.name == "hil.method.fast_neighbors"]
    # before training, for the images that the run's health is read from, and in every epoch
    assert len(said) == 2 * len(run.history) and all("recall@" in line for line in said)
    assert np.isfinite(run.history.loss_total[1:]).all()


@pytest.mark.parametrize("off", ["cluster", "mccl", "neighbor"])
def test_a_loss_of_weight_0_is_gone(quick, off):
    history = quick(**{f"{off}_weight": 0.}).history
    assert {c for c in history if c.startswith("loss_")} == {"loss_total", "loss_cluster", "loss_mccl",
                                                             "loss_neighbor"} - {f"loss_{off}"}
    assert np.isfinite(history.loss_total.iloc[-1])


@pytest.mark.parametrize("matcher", allowed(Config)["matcher"].choices)
@pytest.mark.parametrize("level", allowed(Config)["level"].choices)
def test_matchers_and_levels(quick, matcher, level):
    if matcher not in ("brst", "one_way") and level == "sample": pytest.skip("level does nothing there and is refused")
    run = quick(matcher=matcher, level=level)
    z, h = run.epoch(1), run.history
    if matcher == "none":
        assert "transfer_direction" not in h and all((z[f"labels_{m}"] == z[f"final_{m}"]).all() for m in MODALITIES)
        return
    source, target = h.transfer_direction.iloc[-1].split("_to_")
    own, new = z[f"labels_{source}"], z[f"final_{source}"]
    assert (z[f"final_{target}"] == z[f"labels_{target}"]).all()
    assert (new[own < 0] == -1).all()
    assert 0 < h.transfer_coverage.iloc[-1] <= 1
    if level == "cluster":
        assert all(len(set(new[own == c])) == 1 for c in range(own.max() + 1)), "a cluster moves as a whole"
    if matcher == "one_way": assert h.transfer_coverage.iloc[-1] == 1


@pytest.mark.parametrize("direction,turns", [("alternate", ["visible_to_infrared", "infrared_to_visible"]),
                                             ("visible_to_infrared", ["visible_to_infrared"] * 2),
                                             ("infrared_to_visible", ["infrared_to_visible"] * 2)])
def test_directions(quick, direction, turns):
    assert quick(stage2_epochs=2, brst_direction=direction).history.transfer_direction[1:].tolist() == turns


@pytest.mark.parametrize("changes", [dict(memory_update="sample"), dict(memory_update="hard"),
                                     dict(mccl_variant="softmax"), dict(update_sub_centers=True),
                                     dict(same_ids=False), dict(n_sub=0),
                                     dict(optimizer="sgd"), dict(momentum=.9), dict(temp=.1), dict(mccl_warmup=0),
                                     dict(shrink=0.), dict(weight_decay=0.), dict(n_views=2), dict(weights="random"),
                                     dict(dropout=0.)],
                         ids=lambda c: "-".join(f"{k}={v}" for k, v in c.items()))
def test_a_switch_changes_the_run(short, quick, changes):
    other = quick(**{**changes})
    assert np.isfinite(other.history.loss_total.iloc[-1])
    assert other.history.loss_total.iloc[-1] != short.history.loss_total.iloc[-1]
    if "n_sub" in changes: assert all(other.epoch(1)[f"sub_{m}"].max() == 0 for m in MODALITIES)
    if "optimizer" in changes: assert "momentum" in str(other.checkpoint()["optimizer"]["param_groups"][0].keys())
    if "mccl_warmup" in changes: assert other.history.loss_mccl.iloc[-1] > 5 * short.history.loss_mccl.iloc[-1]


def test_without_mirror_images(quick):
    run = quick(flip=False)
    assert np.isfinite(run.history.mAP).all()


def test_without_features_on_disk(quick):
    run = quick(keep_features=False)
    assert not [k for k in run.epoch(-1) if k.startswith("features")] and "labels_visible" in run.epoch(-1)


def test_one_stage_alone(quick):
    first = quick(**{"stage1_epochs": 1, "stage2_epochs": 0})
    assert first.history.stage.tolist() == [0, 1]
    assert "transfer_direction" not in first.history
    assert "loss_mccl" not in first.history


def test_validation_people_indoors(quick):
    images = quick(evaluate_on="val", search_mode="indoor").images
    assert set(images.split) == {"train", "val"}
    assert set(quick("more", train_splits="train+val").images.query("train").split) == {"train", "val"}


def met_across(run, e):
    "Share of the training people's infrared images whose nearest visible centre is their own, after epoch `e`."
    t, z = run.images.query("train"), run.epoch(e)
    pids = {m: t.pid[t.modality == m].to_numpy() for m in MODALITIES}
    # training images come first
    x = {m: torch.from_numpy(z[f"features_{m}"][:len(p)]).float() for m, p in pids.items()}
    names, y = np.unique(pids["visible"], return_inverse=True)
    return (names[(unit(x["infrared"]) @ unit(centroids(x["visible"], y)).T).argmax(1)] == pids["infrared"]).mean()


def test_the_ceiling_trains_on_the_truth(quick):
    run = quick(iterations=90, weights="", supervision="truth")
    t, z = run.images.query("train"), run.epoch(1)
    names = np.unique(t.pid)
    for m in MODALITIES: assert (names[z[f"final_{m}"]] == t.pid[t.modality == m]).all()
    assert run.history.transfer_direction.iloc[-1] == "truth"
    assert run.history.ari_visible.iloc[-1] == 1
    assert "loss_mccl" not in run.history
    assert met_across(run, 0) < .9 and met_across(run, 1) > .95, "who is told who is who must learn it"


def test_best_epoch_on_the_test_labels(quick):
    run = quick(select="test_best", stage2_epochs=2)
    best = run.checkpoint("best.pt")
    # as the release chooses
    best_epoch = run.history.epoch[(run.history.rank1 + run.history.mAP).idxmax()]
    assert best["epoch"] == best_epoch and not (quick("last").path / "best.pt").exists()


def test_the_whole_network_learns_when_told_to(quick):
    few = dict(iterations=1, batch_ids=3, instances=2, flip=False, optimizer="sgd", lr=1e-3)
    run = quick(**few, trainable="all")
    trunk = {k: v for k, v in run.checkpoint()["model"].items() if k.startswith("trunk.")}
    heads = {k: v for k, v in quick("heads", **few).checkpoint()["model"].items() if k.startswith("trunk.")}
    weights = [k for k in trunk if k.endswith("weight") and trunk[k].ndim == 4]
    assert weights and all((trunk[k] != heads[k]).any() for k in weights), "every convolution moves"
    assert np.isfinite(run.history.loss_total.iloc[-1])


def test_a_frozen_trunk_stays_as_it_came(quick):
    from hil.models.build import build_model
    before, after = build_model("lite0").state_dict(), quick().checkpoint()["model"]
    for k in before:
        if k.startswith("trunk."): assert torch.equal(before[k], after[k]), k
    assert any((before[k] != after[k]).any() for k in before if k.startswith("heads."))


def test_learning_rate_warms_up_and_drops(small, tmp_path, monkeypatch):
    trainer = Trainer(small(run_dir=str(tmp_path), stage1_epochs=1, stage2_epochs=3, iterations=1, lr=1e-3,
                            warmup_lr=.2, lr_end=1., lr_drop=.5, trials=1), progress=False)
    rates = []
    monkeypatch.setattr(trainer, "record", lambda number, *a: rates.append(trainer.optimizer.param_groups[0]["lr"]))
    trainer.fit()
    assert rates[1:] == pytest.approx([2e-4, 1e-3, 1e-4, 1e-4])


def test_what_an_epoch_is_given(small, tmp_path, monkeypatch):
    "Stage and epoch reach the losses, same_ids the batches; every epoch of every seed has its own random numbers."
    told, together, seeds = [], [], []
    def losses(*args):
        told.append(args[-1])
        return step_losses(*args)
    def draw(labels, ids, instances, both, rng):
        together.append(both)
        seeds[-1].append(rng.bit_generator.state["state"]["state"])
        return draw_batch(labels, ids, instances, both, rng)
    def watch(trainer):
        draw, label = trainer.prepare().views.draw, trainer.label
        def first(stage):
            seeds.append([torch.initial_seed()])
            return label(stage)
        def views(m, idx, generator):
            seeds[-1].append(generator.initial_seed())
            return draw(m, idx, generator)
        trainer.label, trainer.views.draw = first, views
        return trainer
    monkeypatch.setattr("hil.training.trainer.step_losses", losses)
    monkeypatch.setattr("hil.data.samplers.draw_batch", draw)
    for k, changes in enumerate((dict(), dict(seed=1), dict(same_ids=False))):
        told.clear(), together.clear()
        watch(Trainer(small(run_dir=str(tmp_path / str(k)), iterations=1, trials=1, **changes), progress=False)).fit()
        assert told == [0, 0, 1] and together == [False, *[changes.get("same_ids") is not False] * 2]
        (tmp_path / str(k) / "checkpoint.pt").unlink()
    for kind in zip(*seeds[:6]): assert len(set(kind)) == 6, kind        # torch, batches, views: 2 seeds x 3 epochs
    assert seeds[6:] == seeds[:3]


def test_an_epoch_keeps_what_was_clustered_and_what_was_matched(small, tmp_path):
    trainer, seen = Trainer(small(run_dir=str(tmp_path), **SHORT), progress=False), {}
    label = trainer.label
    def labelled(stage):
        labels, quality = label(stage)
        seen.update(labels=labels.apart, final=labels.final)
        return labels, quality
    trainer.label = labelled
    z = trainer.fit().epoch(1)
    for name, both in seen.items():
        for m in MODALITIES: np.testing.assert_array_equal(z[f"{name}_{m}"], both[m], err_msg=f"{name}, {m}")
    assert (z["labels_visible"] != z["final_visible"]).any(), "else this shows nothing"
    (tmp_path / "checkpoint.pt").unlink()


@pytest.mark.parametrize("scores,best", [(((.3, .3), (.1, .1), (.5, .5), (.5, .5)), 2),
                                         (((.6, .6), (.1, .1), (.5, .5), (.4, .4)), 0),
                                         (((.1, .1), (.2, .2), (.3, .3), (.4, .4)), 3),
                                         (((.1, .1), (.5, .4), (.8, .3), (.2, .6)), 2)])
def test_best_is_the_first_epoch_with_the_highest_score(small, tmp_path, scores, best):
    "Rank-1 + mAP, as the release chooses: the last case has its best mAP elsewhere."
    trainer = Trainer(small(run_dir=str(tmp_path), select="test_best", stage1_epochs=0, stage2_epochs=3, iterations=1,
                            trials=1), progress=False)
    trainer.features = trainer.prepare().extract()
    (metrics, spread), left = trainer.evaluate(), list(scores)
    def evaluated():
        rank1, mAP = left.pop(0)
        return metrics._replace(cmc=np.full(20, rank1), mAP=mAP), spread
    trainer.evaluate = evaluated
    run = trainer.fit()
    assert run.checkpoint("best.pt")["epoch"] == best and run.checkpoint()["epoch"] == 3 and run.history[["rank1",
        "mAP"]].to_numpy().tolist() == [list(s) for s in scores]
    assert load_encoder(run.path).name.endswith(f"epoch {best}"), "a report names the epoch that was chosen"
    for file in tmp_path.glob("*.pt"): file.unlink()


def test_each_epoch_is_shown_and_timed(small, tmp_path, caplog):
    seen = []
    with caplog.at_level(logging.INFO, "hil"):
        Trainer(small(run_dir=str(tmp_path), iterations=1, trials=1),
                on_epoch=lambda run: seen.append(len(run.history)), progress=False).fit()
    assert seen == [2, 3, 4] and re.search(r"the first epoch took \d+ s; about \d+ s to go", caplog.text)
    (tmp_path / "checkpoint.pt").unlink()


# --- batches and memories -------------------------------------------------------------------------------------------

label = st.lists(st.integers(-1, 6), min_size=1, max_size=60).map(np.array)


@settings(max_examples=150, deadline=None)
@given(visible=label, infrared=label, ids=st.integers(2, 9), instances=st.integers(1, 5), together=st.booleans(),
       seed=st.integers(0, 99))
def test_batches(visible, infrared, ids, instances, together, seed):
    labels = dict(visible=visible, infrared=infrared)
    there = {m: set(y[y >= 0]) for m, y in labels.items()}
    if together: there = dict.fromkeys(labels, there["visible"] & there["infrared"])
    if not all(there.values()):
        with pytest.raises(RunError, match="no pseudo-identity"):
            draw_batch(labels, ids, instances, together, np.random.default_rng(seed))
        return
    rows, again = (draw_batch(labels, ids, instances, together, np.random.default_rng(seed)) for _ in range(2))
    for m, y in labels.items():
        drawn = y[rows[m].numpy()].reshape(ids, instances)
        assert torch.equal(rows[m], again[m]) and (drawn >= 0).all() and (drawn == drawn[:, :1]).all() and set(drawn[:,
            0]) <= there[m]
        assert len(set(drawn[:, 0])) == min(ids, len(there[m])) or len(there[m]) < ids
        for c, part in zip(drawn[:, 0], rows[m].reshape(ids, instances)):
            if (y == c).sum() >= instances:
                assert len(set(part.tolist())) == instances, "no image twice while there are others"
    if together: assert (visible[rows["visible"].numpy()] == infrared[rows["infrared"].numpy()]).all()


def features(n, dim=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {m: {d: torch.randn(k, dim, generator=g) for d in DEPTHS} for m, k in n.items()}


@pytest.mark.parametrize("shared", [True, False])
def test_one_memory_for_one_label_space(shared):
    x, y = features(dict(visible=30, infrared=20)), dict(visible=np.arange(30) % 4 - 1, infrared=np.arange(20) % 4 - 1)
    memories = remember(x, y, Config(n_sub=2), shared)
    for d in DEPTHS:
        assert (memories.cluster["visible"][d] is memories.cluster["infrared"][d]) == shared
        assert (memories.banks["visible"][d] is memories.banks["infrared"][d]) == shared
        assert memories.instance["visible"][d] is not memories.instance["infrared"][d]
        assert memories.banks["visible"][d].shape == (3, 3, 8)
    mean = torch.cat([x[m]["deep"][y[m] == 1] for m in (MODALITIES if shared else MODALITIES[:1])]).mean(0)
    close(memories.cluster["visible"]["deep"].centers[1], mean / mean.norm(), rtol=1e-5)
    before = memories.cluster["infrared"]["deep"].centers.clone()
    rows = {"visible": torch.tensor([1]), "infrared": torch.tensor([], dtype=torch.long)}
    move_memories({"visible": {d: f[1:2] for d, f in x["visible"].items()}}, {"visible": torch.tensor([0])}, rows,
                  memories, Config())
    assert torch.equal(memories.cluster["infrared"]["deep"].centers, before) == (not shared)


def test_sub_centers_move_in_both_modalities_or_stay():
    x, y = features(dict(visible=30, infrared=20)), dict(visible=np.arange(30) % 3, infrared=np.arange(20) % 3)
    batch, t = {m: {d: f[:6] for d, f in x[m].items()} for m in x}, {m: torch.from_numpy(y[m][:6]) for m in x}
    for moves in (False, True):
        memories = remember(x, y, Config(n_sub=2), True)
        before = memories.banks["visible"]["deep"].clone()
        move_memories(batch, t, {m: torch.arange(6) for m in x}, memories, Config(update_sub_centers=moves))
        assert memories.banks["visible"]["deep"] is memories.banks["infrared"]["deep"]
        assert torch.equal(memories.banks["visible"]["deep"], before) != moves


# --- coarse clusters ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("noise", [.6, .9])
def test_labels_are_those_of_the_whole_distance(monkeypatch, noise):
    "Only the pairs that DBSCAN looks at are stored: the same labels, also for an eps that is some pair's distance."
    g = torch.Generator().manual_seed(0)
    x = {m: torch.randn(20, 1, 32, generator=g).add(noise * torch.randn(20, n, 32, generator=g)).flatten(0, 1)
         for m, n in (("visible", 15), ("infrared", 9))}
    every, stored = {m: jaccard_distance(f, 12, 4) for m, f in x.items()}, []
    def storing(*args, **options):
        stored.append(jaccard_distance(*args, **options))
        return stored[-1]
    monkeypatch.setattr("hil.method.labels.jaccard_distance", storing)
    kinds = set()
    for eps in (.3, .6, .9, 1 - 1e-9, *np.unique(every["visible"].data)[10:-10:100].tolist()):
        want = {m: pseudo_labels(d, eps, 4) for m, d in every.items()}
        if min(y.max() for y in want.values()) < 1: continue
        config = Config(eps=eps, k1=12, k1_infrared=0, k2=4, k2_infrared=0, min_samples=4, n_sub=9)
        got = apart_labels(x, Rules.of(config))
        for m in MODALITIES: np.testing.assert_array_equal(got[m], want[m], err_msg=f"{m}, eps = {eps}")
        assert all(s.data.max() <= eps + 1e-5 for s in stored[-2:]), "nothing is stored that DBSCAN would not look at"
        kinds.add(tuple(want["visible"]))
    assert len(kinds) > 5, len(kinds)


# --- the release's trainer, one iteration ---------------------------------------------------------------------------

def golden_memories():
    g, names = load("trainer_regdb"), dict(visible="rgb", infrared="ir")
    x = {m: {d: g[f"in_f_{n}{s}"].double() for d, s in zip(DEPTHS, ("", "_s"))} for m, n in names.items()}
    shared = {d: ClusterMemory(g[f"in_shared{s}"].double()) for d, s in zip(DEPTHS, ("", "_s"))}
    bank = {d: g[f"in_shared_d{s}"].double() for d, s in zip(DEPTHS, ("", "_s"))}
    wise = {m: {d: InstanceMemory(g[f"in_wise_{n}{s}"].double(), mix="raw") for d, s in zip(DEPTHS, ("", "_s"))}
            for m, n in names.items()}
    memories = Memories({m: shared for m in names}, {m: dict(bank) for m in names}, wise, {}, True)
    return g, x, {m: g[f"in_labels_{n}"] for m, n in names.items()}, {m: g[f"in_index_{n}"]
        for m, n in names.items()}, memories


@pytest.mark.parametrize("epoch", [0, 21])
def test_total_loss_golden(epoch):
    g, x, y, rows, memories = golden_memories()
    half = len(rows["visible"]) // 2
    assert torch.equal(rows["visible"][:half], rows["visible"][half:])
    config = Config(mccl_warmup=20, cluster_weight=1., mccl_weight=1., neighbor_weight=1.)
    for picked in (rows, {**rows, "visible": rows["visible"][:half]}):  # both views' rows, or each image once
        close(sum(step_losses(x, y, picked, memories, config, epoch).values()), g[f"e{epoch}_total_loss"][0], rtol=2e-6)
    losses = step_losses(x, y, rows, memories, replace(config, cluster_weight=2., mccl_weight=3., neighbor_weight=5.),
                         epoch)
    plain = step_losses(x, y, rows, memories, config, epoch)
    assert list(losses) == ["cluster", "mccl", "neighbor"]
    for k, w in zip(losses, (2, 3, 5)): close(losses[k], w * plain[k])


def test_memories_after_a_step_golden():
    g, x, y, rows, memories = golden_memories()
    move_memories(x, y, {**rows, "visible": rows["visible"][:len(rows["visible"]) // 2]}, memories,
                  Config(memory_update="sample"))
    for d, s in zip(DEPTHS, ("", "_s")):
        close(memories.cluster["visible"][d].centers, g[f"e0_after_shared{s}"], rtol=1e-5, atol=1e-6)
        for m, n in (("visible", "rgb"), ("infrared", "ir")):
            close(memories.instance[m][d].features, g[f"e0_after_wise_{n}{s}"], rtol=1e-5, atol=1e-6)


def test_mccl_counts_a_tenth_while_it_warms_up():
    _, x, y, rows, memories = golden_memories()
    mccl = [step_losses(x, y, rows, memories, Config(mccl_warmup=3), e)["mccl"] for e in range(5)]
    close(torch.stack(mccl) / mccl[-1], torch.tensor([.1, .1, .1, 1, 1]).double())


def test_modalities_meet_in_stage_2_only():
    _, x, y, rows, memories = golden_memories()
    apart = replace(memories, shared=False)
    far, near = step_losses(x, y, rows, memories, Config(mccl_warmup=0), 0), step_losses(x, y, rows, apart,
        Config(mccl_warmup=0), 0)
    close(far["mccl"], 2 * near["mccl"])
    assert far["neighbor"] > near["neighbor"] and torch.equal(far["cluster"], near["cluster"])


def test_no_agreement_in_mccl_is_a_zero_that_trains():
    x = {"deep": torch.eye(4)[:2].requires_grad_(), "shallow": torch.eye(4)[:2].requires_grad_()}
    losses = mccl_loss(x, {"deep": torch.eye(4)[:2, None], "shallow": torch.eye(4)[[1, 0], None]})
    assert all(x == 0 for x in losses.values())
    (sum(losses.values()) + x["deep"].sum()).backward()
    assert torch.isfinite(x["deep"].grad).all()


# --- what goes wrong ------------------------------------------------------------------------------------------------

def fails(train, error, says, **changes):
    with pytest.raises(error) as caught: train(**changes)
    assert says in str(caught.value), caught.value
    return str(caught.value)


def test_all_outliers(whole, quick):
    n = (whole.images.query("train").modality == "visible").sum()
    assert "run" in fails(quick, RunError,
                          f"visible: {n} images, eps = 1e-06, min_samples = 30: {n} outliers and 0 cluster(s), "
                          "two are needed: raise eps, or lower min_samples", eps=1e-6, min_samples=30)


def test_one_cluster(quick):
    "Everybody is everybody's neighbour."
    fails(quick, RunError, "0 outliers and 1 cluster(s), two are needed: lower eps", eps=.9999, k1=999, k1_infrared=999)


def test_nothing_is_lost_when_an_epoch_fails(small, tmp_path, monkeypatch):
    "No identity survives the second transfer: the first epoch stays, and can be gone on with."
    calls, send = [], Transfer.send
    def refuse(way, *args):
        calls.append(1)
        return send(way, *args) if len(calls) == 1 else np.full(len(way.labels), -1)
    config = small(**{**SHORT, "stage2_epochs": 2}, run_dir=str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(Transfer, "send", refuse)
        with pytest.raises(RunError,
                           match="no pseudo-identity with images of both modalities is left to train on; "
                                 "try a lower threshold or another matcher"):
            Trainer(config, progress=False).fit()
    assert Run(tmp_path).checkpoint()["epoch"] == 1
    assert Trainer(replace(config, resume=True), progress=False).fit().history.epoch.tolist() == [0, 1, 2]
    (tmp_path / "checkpoint.pt").unlink()


@pytest.mark.parametrize("stage", [1, 2])
def test_a_loss_that_is_not_finite(quick, stage):
    fails(quick, RunError, "Lower lr (now 100.0)", lr=100., optimizer="sgd", temp=1e-9, iterations=4,
          **{"stage1_epochs": 2 - stage, "stage2_epochs": stage - 1})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["shallow infrared features", "mccl loss"])
def test_what_is_not_finite_is_named_before_it_is_learned(small, tmp_path, monkeypatch, where, value):
    trainer = Trainer(small(run_dir=str(tmp_path), **SHORT), progress=False).prepare()
    if "loss" in where:
        monkeypatch.setattr("hil.training.trainer.step_losses",
                            lambda *args: {**step_losses(*args), "mccl": torch.tensor(value)})
    else: trainer.model.register_forward_hook(lambda model, args, out: {**out,
        "infrared": {**out["infrared"], "shallow": out["infrared"]["shallow"] * value}} if model.training else out)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items() if v.ndim == 2}
    with pytest.raises(RunError, match=f"epoch 1, step 1: NaN or infinity in {where}. Lower lr"): trainer.fit()
    assert all(torch.equal(v, trainer.model.state_dict()[k])
               for k, v in before.items()) and Run(tmp_path).checkpoint()["epoch"] == 0
    (tmp_path / "checkpoint.pt").unlink()


def test_a_gpu_that_is_not_there(quick):
    n = torch.cuda.device_count()
    for i in (n, 256, 10**9):  # torch takes an index modulo 256
        with pytest.raises(RunError, match=f"device = 'cuda:{i}': this machine shows {n} CUDA devices to torch"):
            find_device(f"cuda:{i}")
    fails(quick, RunError, f"device = 'cuda:{n}': this machine shows {n} CUDA devices to torch", device=f"cuda:{n}")
    for name in ("tpu", "", "cuda:-1", "gpu", "mps", "meta", "cpu:0", "cuda:", "cuda:01", "CUDA", "cuda:1 "):
        with pytest.raises(RunError, match='expected "auto", "cpu", "cuda" or "cuda:1"'): find_device(name)


@pytest.mark.parametrize("cams,left", [((3, 6), "infrared"), ((1, 2, 4, 5), "visible")])
def test_one_modality_alone(whole, quick, tmp_path, cams, left):
    root = tmp_path / "half"
    shutil.copytree(whole.data_root, root, ignore=lambda folder, names: [n
        for n in names if n in {f"cam{c}" for c in cams}])
    with pytest.raises(DataError) as error: quick(dataset="sysu", data_root=str(root), preset="default")
    assert str(root) in str(error.value) and (left in str(error.value) or f"cam{cams[0]}" in str(error.value))


def test_the_real_layout_is_read_like_the_rendered_one(whole, quick):
    run, rendered = quick(dataset="sysu", data_root=whole.data_root, preset="default"), quick("rendered")
    same_runs(run, rendered)


@pytest.mark.parametrize("overlap", [.5, 0])
def test_people_in_one_modality_only(small, quick, overlap):
    run = quick(overlap=overlap)
    pids = run.images.query("train").groupby("modality").pid.agg(set)
    assert len(pids.visible & pids.infrared) == overlap * len(pids.visible | pids.infrared)
    assert np.isfinite(run.history.loss_total.iloc[-1])
    if overlap == 0: assert run.history.transfer_precision.iloc[-1] == 0


@pytest.mark.parametrize("changes,error,says", [(dict(model="resnet"), RunError, "expected one of lite0"),
                                                (dict(weights="/nowhere.pt"), RunError, "no such file"),
                                                (dict(dataset="sysu", preset="default", data_root="/nowhere"),
                                                 DataError, "/nowhere")])
def test_what_is_not_there_is_named(quick, tmp_path, changes, error, says):
    fails(quick, error, says, **changes)
    assert not list(tmp_path.rglob("config.json")), "no run was begun"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: training on a GPU was not tried")
@pytest.mark.parametrize("trainable", ["heads", "all"])
def test_on_a_gpu(quick, trainable):
    run = quick(stage1_epochs=1, stage2_epochs=1, iterations=2, batch_ids=3, instances=2, trials=1, device="cuda",
                trainable=trainable)
    assert np.isfinite(run.history.loss_total[1:]).all() and run.history.mAP.iloc[-1] > 0


# --- views ----------------------------------------------------------------------------------------------------------

def counting_trunk():
    class Trunk(torch.nn.Module):
        def forward(self, batch): return {m: x.flatten(1).mean(1, keepdim=True).repeat(1, 5) for m, x in batch.items()}
    return Trunk().eval()


def test_both_kinds_of_views_answer_alike(tmp_path):
    "Same calls, same number of rows; clean rows equal the trunk on clean pixels."
    g = torch.Generator().manual_seed(0)
    images = {m: torch.randint(0, 256, (n, 3, 16, 8), generator=g).to(torch.uint8)
              for m, n in (("visible", 9), ("infrared", 7))}
    pixels, trunk, n_train, calls = PixelViews(images, 16, 8), counting_trunk(), dict(visible=6, infrared=5), []
    def make():
        calls.append(1)
        return cache_views(pixels, trunk, n_train, n_views=2, progress=False)
    stores = [CachedViews(cached(tmp_path, store_key("x"), make)) for _ in range(2)]
    assert len(calls) == 1 and len(list(tmp_path.iterdir())) == 1
    idx = torch.tensor([4, 0, 4])
    for m in images:
        a, b = pixels.batch(m, idx, g), stores[0].batch(m, idx, g)
        assert len(a) == len(b) == len(VIEWS[m]) * 3 and b.dtype == torch.float32
        for flip in (False, True):
            close(stores[1].clean(m, idx, flip), trunk({m: pixels.clean(m, idx, flip)})[m], rtol=2e-2, atol=2e-2)
        one, two = (stores[0].batch(m, idx, torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(one, two)


def test_a_store_that_fails_is_not_kept(tmp_path):
    def make(): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): cached(tmp_path, "key", make)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("a,b", [((1, 2), (1, 3)), (("ab", "c"), ("a", "bc"))])
def test_a_store_is_of_its_settings(a, b): assert store_key(*a) != store_key(*b) and store_key(*a) == store_key(*a)


def test_a_store_is_of_its_weights():
    one, two = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert store_key(1, module=one) != store_key(1, module=two) != store_key(1)
