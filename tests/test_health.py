"""Health of a run, averaged weights, smoothed targets: slow references, properties, and the epoch that is chosen."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hil.core.names import MODALITIES
from hil.data.samplers import Batches
from hil.method.health import agreement, round_trips, steadiness, travellers, warnings
from hil.method.labels import Rules
from hil.method.memory import ClusterMemory
from hil.models.lite0 import Head
from hil.runs.config import Config
from hil.runs.recipes import RECIPES
from hil.runs.records import chosen_epoch
from hil.training.schedule import Averaged
from hil.training.watch import Watch


def features(seed, n=40, d=8):
    rng = torch.Generator().manual_seed(seed)
    return {m: torch.randn(n, d, generator=rng) for m in MODALITIES}


def slow_round_trips(x, clusters):
    "One image after the other."
    unit = {m: f / f.norm(dim=1, keepdim=True) for m, f in x.items()}
    shares = []
    for home, abroad in (MODALITIES, MODALITIES[::-1]):
        home_again = []
        for i, cluster in enumerate(clusters[home]):
            if cluster < 0: continue
            there = max(range(len(unit[abroad])), key=lambda j: float(unit[home][i] @ unit[abroad][j]))
            back = max(range(len(unit[home])), key=lambda j: float(unit[abroad][there] @ unit[home][j]))
            home_again.append(clusters[home][back] == cluster)
        shares.append(np.mean(home_again))
    return np.mean(shares)


# --- round trips ----------------------------------------------------------------------------------------------------

@given(st.integers(0, 1000), st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_round_trips_against_a_loop(seed, people):
    x, rng = features(seed), np.random.default_rng(seed)
    clusters = {m: np.append(rng.integers(-1, people, 39), 0) for m in MODALITIES}
    assert round_trips(x, clusters) == pytest.approx(slow_round_trips(x, clusters))


@given(st.integers(0, 1000), st.floats(.1, 10))
@settings(max_examples=25, deadline=None)
def test_lengths_and_turns_change_nothing(seed, length):
    x = features(seed)
    clusters = {m: np.arange(40) % 5 for m in MODALITIES}
    turn, _ = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(seed)))
    moved = {m: length * f @ turn for m, f in x.items()}
    assert round_trips(moved, clusters) == pytest.approx(round_trips(x, clusters))


def test_the_same_pictures_on_both_sides_all_come_home():
    x = features(0)["visible"]
    assert round_trips(dict.fromkeys(MODALITIES, x), {m: np.arange(40) for m in MODALITIES}) == 1


def test_a_sample_of_the_travellers_stands_for_all():
    x, clusters = features(1, n=3000), {m: np.arange(3000) % 3 for m in MODALITIES}
    assert round_trips(x, clusters, most=1500) == pytest.approx(round_trips(x, clusters, most=3000), abs=.05)


def test_nobody_travels():
    assert math.isnan(round_trips(features(0), {m: np.full(40, -1) for m in MODALITIES}))


@given(st.integers(0, 1000), st.floats(.05, 1))
@settings(max_examples=25, deadline=None)
def test_whole_clusters_travel(seed, share):
    rng = np.random.default_rng(seed)
    clusters = {m: rng.integers(-1, 12, 100) for m in MODALITIES}
    chosen = travellers(clusters, share, seed)
    for m, y in clusters.items():
        codes = np.unique(y[y >= 0])
        away = np.unique(chosen[m][chosen[m] >= 0])
        assert len(away) == max(1, round(share * len(codes)))
        assert np.array_equal(chosen[m] >= 0, np.isin(y, away))


# --- agreement, steadiness, warnings --------------------------------------------------------------------------------

def test_agreement_of_matched_and_of_crossed_clusters():
    y = {m: np.arange(8) for m in MODALITIES}
    assert agreement(dict.fromkeys(MODALITIES, torch.eye(8)), y) == 1
    crossed = {"visible": torch.eye(8), "infrared": torch.ones(8, 8) + .01 * torch.eye(8)[0]}
    assert agreement(crossed, y) == pytest.approx(1 / 8)
    assert math.isnan(agreement(crossed, {"visible": y["visible"], "infrared": np.full(8, -1)}))


def test_steadiness_looks_at_images_that_are_in_clusters_both_times():
    assert steadiness([0, 0, 1, 1, -1], [3, 3, 2, 2, 0]) == 1
    assert steadiness([0, 0, 1, 1], [0, 1, 0, 1]) < .1
    assert math.isnan(steadiness([-1, -1], [0, 0]))


HEALTHY = dict(health=.8, agreement=.8, clusters_visible=400, outliers_visible=10, clusters_infrared=400,
               outliers_infrared=10)


@pytest.mark.parametrize(("change", "said"), [
    (dict(health=.7), "round trips come home less often"), (dict(agreement=.2), "matches contradict each other"),
    (dict(clusters_visible=300, health=.78), "visible clusters shrink"),
    (dict(clusters_infrared=300, health=.78), "infrared clusters shrink")])
def test_each_warning(change, said):
    history = pd.DataFrame([dict(epoch=1, **HEALTHY), dict(epoch=2, **HEALTHY | change)])
    assert said in " ".join(warnings(history)) and len(warnings(history)) == 1


def test_a_healthy_run_warns_of_nothing():
    assert warnings(pd.DataFrame([dict(epoch=e, **HEALTHY) for e in range(4)])) == []
    fewer = HEALTHY | dict(clusters_visible=300, outliers_visible=400, health=.78)  # they fell apart: nobody was merged
    assert warnings(pd.DataFrame([dict(epoch=1, **HEALTHY), dict(epoch=2, **fewer)])) == []
    joined = HEALTHY | dict(clusters_visible=300)  # people who were split before, if round trips are as good as ever
    assert warnings(pd.DataFrame([dict(epoch=1, **HEALTHY), dict(epoch=2, **joined)])) == []


# --- the epoch that is chosen ---------------------------------------------------------------------------------------

def test_epochs_that_are_chosen():
    history = pd.DataFrame(dict(epoch=[0, 1, 2, 3], health=[.5, .9, .9, .8], rank1=[.1, .2, .3, .4],
                                mAP=[.1, .2, .5, .3]))
    assert [chosen_epoch(history, select) for select in ("last", "healthiest", "test_best")] == [3, 2, 2]
    assert chosen_epoch(history.assign(health=[.5, .9, .8, .86]), "healthiest") == 3  # four points less may be chance,
    assert chosen_epoch(history.assign(health=[.5, .9, .8, .84]), "healthiest") == 1  # six are not
    assert chosen_epoch(history.assign(health=[.9, .7, .8, .8]), "healthiest") == 0  # nothing but harm
    assert chosen_epoch(history[:1], "healthiest") == 0
    assert chosen_epoch(history, "healthiest", None) == 1  # a run that began before: the first of the healthiest
    assert chosen_epoch(history.assign(health=[.5, .9, .9, np.nan]), "healthiest") == 2  # 3 was not evaluated
    assert chosen_epoch(history.drop(columns="health"), "healthiest") == 3  # a run of an older version


@given(health=st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_the_model_that_was_kept_is_that_of_the_chosen_epoch(health):
    "The trainer keeps an epoch's model when it is the choice so far: at the end the last one kept must be the choice."
    history = pd.DataFrame(dict(epoch=range(len(health)), health=health))
    kept = [e for e in range(len(health)) if chosen_epoch(history[:e + 1], "healthiest") == e]
    assert kept[-1] == chosen_epoch(history, "healthiest")


def test_where_there_is_nobody_to_choose_an_epoch_on():
    for dataset in ("folder", "sysu", "regdb", "llcm"):
        assert Config(dataset=dataset, data_root="x").select == "healthiest"
    for preset in RECIPES: assert Config(preset=preset, data_root="x", weights="random").select == "last"
    assert Config(dataset="folder", data_root="x", select="last").select == Config().select == "last"


# --- averaged weights -----------------------------------------------------------------------------------------------

@given(st.floats(.1, .999), st.integers(1, 30))
@settings(max_examples=20, deadline=None)
def test_average_against_a_loop(share, steps):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    averaged, expected = Averaged(net, share), net[0].weight.detach().clone()
    for step in range(1, steps + 1):
        with torch.no_grad(): net[0].weight.add_(torch.randn(2, 3))
        net(torch.randn(5, 3))
        averaged.update()
        stays = min(share, step / (step + 9))
        expected = stays * expected + (1 - stays) * net[0].weight.detach()
    own = {k: v.clone() for k, v in net.state_dict().items()}
    with averaged.inside():
        assert torch.allclose(net[0].weight, expected, atol=1e-5)
        assert int(net[1].num_batches_tracked) == steps
        state, saved = averaged.state(), {k: v.clone() for k, v in net.state_dict().items()}
    assert all(torch.equal(v, own[k]) for k, v in net.state_dict().items())
    net.load_state_dict(saved)  # as a resumed run does
    again = Averaged(net, share)
    again.resume(state)
    assert again.steps == steps and all(torch.equal(v, own[k]) for k, v in net.state_dict().items())
    assert all(torch.equal(v, averaged.average[k]) for k, v in again.average.items())


def test_without_a_share_the_network_stands_for_itself():
    net = torch.nn.Linear(2, 2)
    averaged = Averaged(net, 0.)
    averaged.update()
    with averaged.inside(): assert not averaged.average and not averaged.state()["learner"]


# --- smoothed targets and damped axes -------------------------------------------------------------------------------

@given(st.floats(0, .9), st.integers(2, 9))
@settings(max_examples=20, deadline=None)
def test_smoothed_loss_by_hand(smoothing, clusters):
    torch.manual_seed(clusters)
    centers, f, y = torch.randn(clusters, 5), torch.randn(6, 5), torch.arange(6) % clusters
    target = (1 - smoothing) * torch.eye(clusters)[y] + smoothing / clusters
    unit = torch.nn.functional.normalize
    expected = -(target * (unit(f) @ unit(centers).T / .05).log_softmax(1)).sum(1).mean()
    assert torch.allclose(ClusterMemory(centers, smoothing=smoothing)(f, y), expected, rtol=1e-4)


def test_noisy_axes_are_damped():
    torch.manual_seed(0)
    parts = {m: torch.cat([torch.randn(500, 1).repeat(1, 6), torch.randn(500, 6)], 1) for m in MODALITIES}
    head = Head(12, dim=7, damping=3.).eval()  # one axis of variance 6, shared by six columns, and six of variance 1
    head.calibrate(parts)
    spread = torch.cat(list(head(parts).values())).std(0)
    assert spread[0].item() == pytest.approx((6 / 9) ** .5, abs=.03)
    assert spread[1:].detach().numpy() == pytest.approx((1 / 4) ** .5, abs=.06)


# --- whom a run's health is read from -------------------------------------------------------------------------------

@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_who_is_set_aside_comes_into_no_batch(seed):
    people = features(seed, n=10)["visible"].repeat_interleave(4, 0)
    x = {m: people + .01 * features(seed, n=40)[m] for m in MODALITIES}
    watch = Watch.begun(x, Rules(k1=4, k2=2, min_samples=2), held_out=False, seed=seed)
    labels = {m: np.arange(40) // 4 for m in MODALITIES}
    batches = Batches(watch.left_to_train(labels), 3, 2, np.random.default_rng(seed))
    drawn = [next(batches) for _ in range(20)]
    for m, clusters in watch.clusters.items():
        aside = np.flatnonzero(clusters >= 0)
        assert len(aside) and not np.isin(np.concatenate([batch[m].numpy() for batch in drawn]), aside).any()
