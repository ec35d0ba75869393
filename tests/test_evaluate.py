"""hil.evaluation.metrics against a plain loop written from the protocol's text, hand-worked cases and properties."""
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hil.evaluation.metrics import Metrics, cosine_distance, evaluate_regdb, evaluate_sysu, mean_metrics, rank_gallery

quick = settings(max_examples=80, deadline=None)
GOLDEN = Path(__file__).parent / "golden" / "eval.npz"


def slow(distance, q_pids, g_pids, q_cams=None, g_cams=None, max_rank=20):
    "One query at a time, as the golden README words it. Cameras given: SYSU-MM01; else RegDB."
    sysu, cmc_sum, ap, inp, valid = q_cams is not None, np.zeros(max_rank), [], [], 0
    for i, q in enumerate(q_pids):
        kept = [j for j in range(len(g_pids)) if not (sysu and q_cams[i] == 3 and g_cams[j] == 2)]
        ranked = [g_pids[j] for j in sorted(kept, key=lambda j: distance[i][j])]  # sorted() is stable
        listed = list(dict.fromkeys(ranked)) if sysu else ranked
        for k in range(max_rank): cmc_sum[k] += q in listed[:k + 1]
        places = [k for k, p in enumerate(ranked, 1) if p == q]
        if not places: continue
        valid += 1
        ap.append(np.mean([(n + 1) / k for n, k in enumerate(places)]))
        inp.append(len(places) / places[-1])
    length = min(max_rank, len(set(g_pids)) if sysu else len(g_pids))
    return Metrics(cmc_sum[:length] / valid, np.mean(ap), np.mean(inp))


def same(a, b):
    np.testing.assert_allclose(a.cmc, b.cmc, rtol=1e-12)
    np.testing.assert_allclose(a[1:], b[1:], rtol=1e-12)


def case(seed, Q=15, G=40, people=8, decimals=None):
    rng = np.random.default_rng(seed)
    d = rng.standard_normal((Q, G))
    if decimals is not None: d = d.round(decimals)
    return d, rng.integers(0, people, Q), rng.integers(0, people, G), rng.choice([3, 6], Q), rng.choice([1, 2, 4, 5], G)


def match_exists(q, g, qc=None, gc=None):
    ok = q[:, None] == g
    return (ok if qc is None else ok & ~((qc[:, None] == 3) & (gc == 2))).any()


@quick
@given(seed=st.integers(0, 10**6), Q=st.integers(1, 20), G=st.integers(1, 45), people=st.integers(1, 30),
       decimals=st.sampled_from([None, 1, 0]))
def test_equals_the_loop(seed, Q, G, people, decimals):
    "Few and many people, queries without a match, ties, galleries shorter than the CMC."
    d, q, g, qc, gc = case(seed, Q, G, people, decimals)
    if match_exists(q, g): same(evaluate_regdb(d, q, g), slow(d, q, g))
    if match_exists(q, g, qc, gc): same(evaluate_sysu(d, q, g, qc, gc), slow(d, q, g, qc, gc))


@pytest.mark.skipif(not GOLDEN.exists(), reason="eval.npz is not part of the figures at hand")
def test_golden():
    with np.load(GOLDEN) as z:
        for name in sorted({k.removesuffix("_distmat") for k in z if k.endswith("_distmat")}):
            args = [z[f"{name}_{k}"] for k in ("distmat", "q_pids", "g_pids", "q_camids", "g_camids")
                    if f"{name}_{k}" in z]
            got = evaluate_regdb(*args[:3]) if name.startswith("regdb") else evaluate_sysu(*args)
            np.testing.assert_allclose(got.cmc, z[f"{name}_cmc"], rtol=1e-6)
            np.testing.assert_allclose(got[1:], [z[f"{name}_mAP"], z[f"{name}_mINP"]], rtol=1e-9)


@quick
@given(seed=st.integers(0, 10**6))
def test_properties(seed):
    d, q, g, qc, gc = case(seed)
    p = np.random.default_rng(seed).permutation(len(g))
    for m, other in [(evaluate_regdb(d, q, g), evaluate_regdb(d[:, p], q, g[p])),
                     (evaluate_sysu(d, q, g, qc, gc), evaluate_sysu(d[:, p], q, g[p], qc, gc[p]))]:
        same(m, other)
        assert (np.diff(m.cmc) >= 0).all() and all(0 < x <= 1 for x in (m.mAP, m.mINP, m.cmc[-1]))
    same(evaluate_sysu(d, q, g, qc, gc), evaluate_sysu(np.exp(3 * d) + 7, q, g, qc, gc))  # only the order counts
    same(evaluate_sysu(d, q, g, qc, gc), evaluate_sysu(torch.from_numpy(d), *map(torch.from_numpy, (q, g, qc, gc))))


def test_perfect_and_worst():
    q, g = np.arange(5), np.repeat(np.arange(5), 3)
    perfect = (q[:, None] != g).astype(float)
    for m in (evaluate_regdb(perfect, q, g), evaluate_sysu(perfect, q, g, np.full(5, 6), np.ones(15))):
        assert m.rank(1) == m.mAP == m.mINP == 1
    worst = evaluate_sysu(-perfect, q, g, np.full(5, 6), np.ones(15))
    assert worst.cmc.tolist() == [0, 0, 0, 0, 1] and worst.mINP == 3 / 15


def test_by_hand():
    "Right images at ranks 1, 3 and 6; persons in the order 1, 2, 3."
    d, g = np.arange(6.)[None], [1, 2, 1, 3, 3, 1]
    m = evaluate_regdb(d, [1], g)
    assert m.mAP == pytest.approx((1 + 2/3 + 3/6) / 3) and m.mINP == .5 and m.cmc.tolist() == [1] * 6
    assert evaluate_sysu(d, [3], g, [6], [1] * 6).cmc.tolist() == [0, 0, 1]
    assert evaluate_regdb(d, [3], g).cmc.tolist() == [0, 0, 0, 1, 1, 1]


def test_camera_three_ignores_camera_two():
    d, g, gc = [[.1, .2, .3]], [2, 1, 1], [2, 2, 4]
    assert evaluate_sysu(d, [1], g, [3], gc).mAP == 1                                  # both camera-2 images are gone
    assert evaluate_sysu(d, [1], g, [6], gc).mAP == pytest.approx((1/2 + 2/3) / 2)     # camera 6 sees them all


def test_ties_keep_the_order_of_the_gallery():
    d = np.zeros((1, 30))
    assert evaluate_regdb(d, [7], np.arange(30)).cmc.argmax() == 7
    assert evaluate_regdb(d, [7], np.arange(30)[::-1]).cmc.tolist() == [0] * 20        # place 23, beyond the CMC


def test_unmatched_queries_are_left_out():
    d, q, g, qc, gc = case(0)
    lost = np.r_[q, 99, 98]
    d2 = np.r_[d, d[:2]]
    same(evaluate_sysu(d2, lost, g, np.r_[qc, 3, 6], gc), evaluate_sysu(d, q, g, qc, gc))
    assert np.isnan(rank_gallery(d2, lost, g).ap[-2:]).all()


def test_inputs_stay_untouched():
    d, q, g, qc, gc = case(0)
    before = d.copy()
    evaluate_sysu(d, q, g, qc, gc)
    assert (d == before).all()


BAD = {"NaN or infinite": lambda d, q, g: (np.where(d > 1, np.inf, d), q, g), "transposed": lambda d, q, g: (d.T, q, g),
       "neither empty": lambda d, q, g: (d[:, :0], q, g[:0]),
       "no query has": lambda d, q, g: (d, q + 100, g), "g_pids has shape": lambda d, q, g: (d, q, g[1:]),
       "queries, gallery": lambda d, q, g: (d[0], q, g)}


@pytest.mark.parametrize("match", BAD)
def test_bad_input_is_refused(match):
    d, q, g, qc, gc = case(0)
    d, q, g = BAD[match](d, q, g)
    with pytest.raises(ValueError, match=match): evaluate_regdb(d, q, g)
    with pytest.raises(ValueError, match=match):
        evaluate_sysu(d, q, g, qc, gc[:len(g)] if match != "g_pids has shape" else gc)


def test_mean_metrics_and_repr():
    a, b = Metrics(np.array([.5, .7, 1.]), .4, .2), Metrics(np.array([.7, .9]), .6, .4)
    mean, std = mean_metrics([a, b])
    same(mean, Metrics(np.array([.6, .8]), .5, .3))
    same(std, Metrics(np.array([.1, .1]), .1, .1))
    assert repr(mean) == "Metrics(mAP 50.00 mINP 30.00 R1 60.00 %)"
    for call in (lambda: mean_metrics([]), lambda: a.rank(0), lambda: a.rank(4)):
        with pytest.raises(ValueError): call()


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_cosine_distance(kind):
    rng = np.random.default_rng(0)
    q, g = rng.standard_normal((4, 6)), rng.standard_normal((5, 6))
    want = 1 - (q @ g.T) / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(g, axis=1)
    got = cosine_distance(kind(q), kind(g))
    assert type(got) is type(kind(q)) and np.allclose(got, want)


def test_sysu_size_is_quick():
    d, q, g, qc, gc = case(0, 3803, 301, 96)
    evaluate_sysu(d[:9], q[:9], g, qc[:9], gc)
    start = time.process_time()
    evaluate_sysu(d, q, g, qc, gc)
    assert time.process_time() - start < 2  # 0.15 s on an idle core; the common loop takes over 1 s
