"Intervals and paired differences: cases by hand, properties, coverage; the main table and README computed again."
import json
import re
from pathlib import Path

import headline
import nbformat
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hil.experiments.ablation import report
from hil.experiments.cells import CODE
from hil.experiments.intervals import Cases, drawn_again, estimate_of, parts_of
from hil.experiments.ranks import rank_agreement
from hil.experiments.results import read_people, read_results
from hil.experiments.statistics import (
    blocks_of,
    chosen_settings,
    differences,
    flattery,
    holm,
    means,
    paired_blocks,
    paired_runs,
    points,
    verdict,
)
from hil.plots.differences import differences_plot

NBS = Path(__file__).resolve().parents[1] / "nbs"
RESULTS = NBS / "bench" / "ablation.csv"
MAIN = NBS / "bench" / "questions_one_factor.csv"
QUESTIONS = sorted(file for file in NBS.glob("bench/questions_*.csv") if not file.stem.endswith("_people"))


def block(values, weights=None):
    "A data set whose values are [seeds], or [seeds, draws, people]."
    values = np.asarray(values, float)
    if values.ndim == 1: values = values[:, None, None]
    weights = np.ones(values.shape[1:]) if weights is None else np.asarray(weights, float)
    return Cases(values, weights / weights.sum(1, keepdims=True), tuple(range(len(values))))


def run(variant, data, seed, mAP, **more):
    return dict(variant=variant, data=data, seed=seed, run=f"{variant}{data}{seed}", mAP=mAP, best_mAP=mAP, threads=1,
                settings="{}") | more


# ---- by hand ------------------------------------------------------------------------------------------------------

def test_a_mean_counts_queries_and_then_draws():
    "Two draws, two people with 1 and 3 queries: (1 + 0) / 4 = .25 and (0 + 3) / 4 = .75, so .5."
    assert block([[[1, 0], [0, 1]]], [[1, 3], [1, 3]]).mean == .5


def test_three_seeds_give_the_interval_of_the_textbooks():
    x = np.array([.70, .74, .75])
    found, half = estimate_of([block(x)], n=40_000), 4.3027 * x.std(ddof=1) / 3**.5
    assert (found.low, found.high) == pytest.approx((x.mean() - half, x.mean() + half), abs=1e-3)
    assert found.over == ("seed",) and found.runs == 3


def test_sixty_people_of_one_run_give_the_interval_of_the_textbooks():
    x = np.random.default_rng(0).random(60)
    found, half = estimate_of([block(x[None, None])], n=40_000), 2.001 * x.std(ddof=1) / 60**.5
    assert (found.low, found.high) == pytest.approx((x.mean() - half, x.mean() + half), abs=1e-3)
    assert found.over == ("person",)


def test_what_each_level_brings():
    "Two data sets with means 1 and 3: s^2 / n = 2 / 2; seeds differ by 2 and by 0: (2 / 2 + 0) / 4."
    parts = parts_of([block([0, 2]), block([3, 3])])
    assert parts.variance.to_dict() == {"data set": 1, "seed": .25}
    assert parts.freedom.to_dict() == {"data set": 1, "seed": 2}


def test_replicates_have_the_variance_that_is_known():
    "Drawing n of n again has the variance s^2 (n - 1) / n^2, at one level and at two that are crossed."
    seeds, people = np.array([0, 1, 5.]), np.array([0, 2, 3, 9.])
    again = drawn_again([block(seeds[:, None, None] + people)], n=60_000)
    assert again.var() == pytest.approx(seeds.var() / 3 + people.var() / 4, rel=.03)
    assert again.mean() == pytest.approx((seeds[:, None] + people).mean(), abs=.02)


def test_one_value_alone_has_no_interval():
    found = estimate_of([block([.7])])
    assert np.isnan([found.low, found.high]).all() and found.p == 1 and found.over == ()
    with pytest.raises(ValueError, match="no run"): estimate_of([])


def test_holm_by_hand():
    assert holm([.04, .01, .03]) == pytest.approx([.06, .03, .06])
    assert holm([.5, .9]).tolist() == [1, 1] and holm([]).tolist() == []


def test_differences_are_paired():
    "Data sets differ by thirty points; one-way is a point worse on each, with a little noise: decided by pairs only."
    rng, rows = np.random.default_rng(0), []
    for data, level in (("a", .4), ("b", .55), ("c", .7), ("d", .5)):
        for seed in range(3):
            base = level + .03 * rng.standard_normal()
            worse = base - .01 + .001 * rng.standard_normal()
            rows += [run("HIL", data, seed, base), run("one-way", data, seed, worse)]
    [row] = differences(pd.DataFrame(rows), "HIL").to_dict("records")
    assert row["decided"] and -.013 < row["low"] < row["high"] < -.007 and row["p_above"] < .01 and row["runs"] == 12
    apart = means(pd.DataFrame(rows)).set_index("variant")
    assert apart.low["HIL"] < apart["mean"]["one-way"] < apart.high["HIL"], "their own intervals say nothing"


def test_each_variant_may_have_its_own_reference():
    "A is 10 points below B, B is 5 below C on every set: two comparisons, each with its own pairs and dots."
    table = pd.DataFrame([run(name, data, 0, level + more) for data, level in (("x", .5), ("y", .7))
                          for name, more in (("A", 0), ("B", .1), ("C", .15))])
    found = differences(table, {"B": "A", "C": "B"}).set_index("variant")
    assert found.reference.to_dict() == {"B": "A", "C": "B"}
    assert found["mean"].to_dict() == pytest.approx({"B": .1, "C": .05})
    dots = paired_runs(table, {"B": "A", "C": "B"})
    assert dots.groupby("variant").difference.agg(["mean", "size"]).to_dict("index") == {
        "B": pytest.approx(dict(mean=.1, size=2)), "C": pytest.approx(dict(mean=.05, size=2))}
    with pytest.raises(ValueError, match="reference = 'D': no such variant"): differences(table, {"B": "D"})


def test_only_what_both_have_is_paired():
    table = pd.DataFrame([run("A", "x", 0, .5), run("A", "x", 1, .6), run("A", "y", 0, .1), run("B", "x", 1, .7),
                          run("B", "z", 0, .9)])
    assert paired_runs(table, "B").to_dict("records") == [
        dict(variant="A", data="x", seed=1, difference=pytest.approx(-.1))]
    assert differences(table, "B")["mean"].tolist() == pytest.approx([-.1])
    with pytest.raises(ValueError, match="nothing to pair"):
        differences(pd.DataFrame([run("A", "x", 0, .5), run("B", "x", 1, .5)]), "A")


def test_a_seed_that_is_there_twice_is_refused():
    with pytest.raises(ValueError, match="x: seed 0 is there twice"):
        blocks_of(pd.DataFrame([run("A", "x", 0, .5), run("A", "x", 0, .6)]))


def test_people_are_paired_where_they_are_known():
    "Two people and one draw: the difference is 0 for one and .2 for the other."
    def of(*ap): return pd.DataFrame(dict(draw=[0], queries=[np.array([1., 1.])], ap=[np.array(ap)]))
    table = pd.DataFrame([run("A", "x", 0, .6), run("B", "x", 0, .5)])
    people = {table.run[0]: of(.3, .9), table.run[1]: of(.3, .7)}
    pairs = paired_blocks(*(blocks_of(table[table.variant == v], people) for v in "AB"))
    assert pairs["x"].values.ravel() == pytest.approx([0, .2])
    [row] = differences(table, "B", people).to_dict("records")
    assert row["mean"] == pytest.approx(.1) and row["over"] == "person"
    assert differences(table, "B", {table.run[0]: of(.3, .9)}).over[0] == "", "known of one only: whole runs are paired"


def test_flattery_by_hand():
    table = pd.DataFrame([run("A", "x", 0, .5, best_mAP=.6), run("A", "x", 1, .5, best_mAP=.5)])
    assert flattery(table)["mean"].tolist() == pytest.approx([.05])


def test_a_budget_is_the_same_for_all():
    tried = pd.DataFrame([run(m, "v", 0, .1 * t, settings=f"t={t}") for m, n in (("A", 3), ("B", 9)) for t in range(n)])
    best = chosen_settings(tried, budget=3)
    assert best.trials.tolist() == [3, 3] and best.mAP[0] == pytest.approx(.2)
    wins = [chosen_settings(tried, 3, seed).mAP[1] for seed in range(60)]
    assert np.mean(wins) == pytest.approx(.1 * np.mean([max(np.random.default_rng(s).permutation(9)[:3])
                                                         for s in range(60)]), abs=.1) and min(wins) < .8
    with pytest.raises(ValueError, match="A: 3 settings were tried, the budget is 4"): chosen_settings(tried, budget=4)
    with pytest.raises(ValueError, match="different data sets or seeds"):
        chosen_settings(pd.concat([tried, pd.DataFrame([run("A", "w", 0, .9, settings="t=0")])]), budget=2)


# ---- properties ---------------------------------------------------------------------------------------------------

FIGURES = st.lists(st.floats(0, 1), min_size=6, max_size=6)


@settings(max_examples=30, deadline=None)
@given(FIGURES, st.floats(-.5, .5).filter(lambda x: abs(x) > 1e-3))
def test_a_constant_shift_is_a_point(figures, shift):
    rows = [run(v, f"set {i % 3}", i, x + s) for v, s in (("A", 0), ("B", shift)) for i, x in enumerate(figures)]
    [row] = differences(pd.DataFrame(rows), "A", n=50).to_dict("records")
    assert [row["low"], row["mean"], row["high"]] == pytest.approx([shift] * 3, abs=1e-9)
    assert row["p_above"] == (shift > 0) and row["decided"]


@settings(max_examples=30, deadline=None)
@given(FIGURES, FIGURES)
def test_an_exchange_turns_the_sign(one, two):
    rows = [run(v, f"set {i % 2}", i, x) for v, xs in (("A", one), ("B", two)) for i, x in enumerate(xs)]
    ab, ba = (differences(pd.DataFrame(rows), v, n=300).iloc[0] for v in "AB")
    assert ab["mean"] == pytest.approx(-ba["mean"], abs=1e-9) and ab.decided == ba.decided
    assert (ab.low, ab.high) == pytest.approx((-ba.high, -ba.low), abs=1e-9)
    assert ab.p_above == pytest.approx(1 - ba.p_above, abs=1e-9) and ab.low <= ab["mean"] <= ab.high


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_never_lowers(p):
    adjusted = holm(p)
    assert (adjusted >= np.asarray(p) - 1e-12).all() and (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= -1e-12).all()


@pytest.mark.parametrize("data,seeds,people,spread", [
    (5, 3, 12, (.02, .01, .02)), (5, 3, 1, (.02, .01, 0)), (1, 3, 1, (0, .02, 0)), (1, 5, 12, (0, .005, .1))])
def test_an_interval_holds_the_truth_as_often_as_it_says(data, seeds, people, spread):
    "Seeded simulation; at least .95 within what 200 experiments can show, and never much too wide for all cases."
    rng, hits = np.random.default_rng(3), []
    def noise(scale, *shape): return scale * rng.standard_normal(shape)
    for _ in range(200):
        shapes = ((1, 1, 1), (seeds, 1, 1), (1, 1, people))
        blocks = [block(.02 + sum(noise(scale, *shape) for scale, shape in zip(spread, shapes))) for _ in range(data)]
        found = estimate_of(blocks, n=150)
        hits.append(found.low <= .02 <= found.high)
    assert np.mean(hits) >= .92


def test_crossed_people_are_not_counted_for_every_seed():
    "Ten seeds meet the same twelve people: the interval stays as wide as these are few."
    x = np.random.default_rng(0).random(12)
    one, ten = (estimate_of([block(np.broadcast_to(x, (n, 1, 12)))], n=4000) for n in (1, 10))
    assert ten.high - ten.low == pytest.approx(one.high - one.low, rel=.1)


# ---- sentences and pictures ---------------------------------------------------------------------------------------

def test_a_sentence_claims_no_more_than_its_interval():
    row = pd.Series(dict(variant="X", mean=-.011, low=-.03, high=.007, p_above=.12, decided=False))
    assert verdict(row, "HIL") == "X: −1.1 points [−3.0, +0.7] against HIL, P(X > HIL) = 0.12: not decided"
    assert verdict(row.replace({False: True}), "HIL").endswith("decided, worse") and points(np.nan) == "unknown"
    assert [points(x) for x in (.012, -.012, .0004, -.0004)] == ["+1.2", "−1.2", "0.0", "0.0"]
    assert "nothing can be said" in verdict(pd.Series(dict(row, low=np.nan)), "HIL")


def test_means_over_other_runs_are_not_offered_for_comparison():
    even = pd.DataFrame([run(name, data, 0, .5) for name in ("HIL", "HIL, one-way") for data in "xy"])
    assert "do not compare" not in report(even) and "do not compare" in report(even.iloc[:-1])


def test_every_pair_of_runs_is_a_dot():
    table = pd.DataFrame([run(v, d, s, .5 + .01 * s + (v == "B") * .1) for v in "ABC" for d in "xy" for s in range(3)])
    found, dots = differences(table, "A"), paired_runs(table, "A")
    fig = differences_plot(found, dots, "A")
    assert sum(len(c.get_offsets()) for c in fig.axes[0].collections) == len(dots) == 12
    assert fig.get_suptitle() == "1 of 2 comparisons with A is decided: 1 better"
    assert "nothing was compared" in differences_plot(found.iloc[:0], dots, "A").get_suptitle()


# ---- the order of methods in two worlds ---------------------------------------------------------------------------

def order(figures, data="set", seed=0):
    return [run(name, data, seed, mAP) for name, mAP in figures.items()]


def test_rank_agreement_by_hand():
    "Five methods, of which the outer two change places: ranks 1 2 3 4 5 and 5 2 3 4 1."
    one = pd.DataFrame(order(dict(A=.1, B=.2, C=.3, D=.4, E=.5)))
    other = pd.DataFrame(order(dict(A=.95, B=.92, C=.93, D=.94, E=.91)))
    found = rank_agreement(one, other)
    assert found.spearman == pytest.approx(1 - 6 * 32 / (5 * 24)) and found.kendall == pytest.approx((3 - 7) / 10)
    assert (found.low, found.high) == pytest.approx((found.spearman, found.spearman)), "one run each: nothing varies"


def test_methods_share_what_is_drawn_again():
    "Sets differ by thirty points and methods by one, always in the same order: no replicate turns the order round."
    one = pd.DataFrame(sum((order({name: level + more for name, more in zip("ABCD", (0, .01, .02, .03))}, data)
                            for data, level in (("x", .3), ("y", .6), ("z", .9))), []))
    found = rank_agreement(one, one)
    assert (found.spearman, found.low, found.high, found.kendall_low) == pytest.approx((1, 1, 1, 1))


@pytest.mark.parametrize("change,says", [
    (lambda t: t[t.variant != "C"], "2 methods in both worlds"),
    (lambda t: t[(t.variant != "A") | (t.data != "set")], "no data set on which all"),
    (lambda t: t.assign(seed=[0, 1, 0]), "no seed with which all")])
def test_orders_that_cannot_be_compared_are_refused(change, says):
    table = pd.DataFrame(order(dict(A=.1, B=.2, C=.3)))
    more = pd.DataFrame(order(dict(A=.1), "elsewhere"))
    with pytest.raises(ValueError, match=says): rank_agreement(table, change(pd.concat([table, more])
                                                               if "data set" in says else table))


# ---- what is committed --------------------------------------------------------------------------------------------

def shown_report():
    "The report that nbs/ablation.ipynb shows."
    cells = nbformat.read(NBS / "ablation.ipynb", 4).cells
    texts = [out.data["text/markdown"] for c in cells if c.cell_type == "code" for out in c.outputs
             if "text/markdown" in out.get("data", {})]
    [shown] = [text for text in texts if "| variant |" in text]
    return shown


def test_the_main_table_is_computed_again_from_its_runs():
    "The report in nbs/ablation.ipynb, letter by letter, from the runs and what is known of their people."
    assert report(read_results(MAIN), read_people(MAIN)) == shown_report()


def test_the_main_table_is_the_plain_mean_of_its_runs():
    "Mean over data sets of the mean over seeds, by hand, from the figures of the runs alone."
    by_set = read_results(MAIN).groupby(["variant", "data"]).mAP.mean().groupby("variant").mean()
    rows = re.findall(r"^\| (.*?) \| (\d+) \| ([\d.]+) \|", shown_report(), re.M)
    assert {name for name, *_ in rows} == set(by_set.index)
    for name, _, mean in rows: assert float(mean) == pytest.approx(100 * by_set[name], abs=.12), name


@pytest.mark.parametrize("file", QUESTIONS, ids=lambda file: file.stem)
def test_no_claim_goes_beyond_its_interval(file):
    "What is decided has an interval on one side of zero, against whichever variant the others are compared with."
    table, people = read_results(file), read_people(file)
    for reference in table.variant.unique():
        if table[table.variant != reference].empty: continue
        shared = {row.variant: reference for row in paired_runs(table, reference).itertuples()}
        if not shared: continue
        for row in differences(table, shared, people).itertuples():
            if row.decided: assert row.low * row.high > 0, (reference, row.variant)


@pytest.mark.parametrize("file", QUESTIONS, ids=lambda file: file.stem)
def test_runs_agree_with_what_is_known_of_their_people(file):
    table, people = read_results(file), read_people(file)
    known = table[table.run.isin(people)]
    assert len(known) and set(people) <= set(table.run), "people of runs that are not in the table"
    for row in known.itertuples():
        [found] = blocks_of(table.loc[[row.Index]], people).values()
        assert found.mean == pytest.approx(row.mAP, abs=6e-4), row.run
    for text in table.settings: assert text.startswith("those that ") or isinstance(json.loads(text), dict)


def test_readme_shows_the_figures_of_the_table():
    now = headline.README.read_text(encoding="utf-8")
    again = headline.written(now, headline.figures())
    assert again == now, "README's figures are not those of nbs/bench: python tests/headline.py"


def test_the_results_page_says_where_hard_prototypes_gained():
    table = read_results(RESULTS)
    pairs = paired_runs(table[table.variant.isin(["HIL", headline.DEFAULT])], "HIL")
    page = (headline.TOP / "docs" / "pages" / "results.md").read_text(encoding="utf-8")
    assert len(pairs) >= 10 and ("It gained on all of them" in page) == bool((pairs.difference > 0).all())


def test_the_headline_counts_default_runs_at_one_number_of_threads():
    hard, published = '{"hard_prototypes": true}', '{"hard_prototypes": false}'
    rows = [run(headline.DEFAULT, f"rendering {d}", s, .7 + .01 * d, untrained=.4, best_mAP=.9, settings=hard)
            for d in (1, 2, 3) for s in (0, 1)]
    rows += [run("HIL", f"rendering {d}", 0, .68 + .01 * d, untrained=.4, best_mAP=.9, settings=published)
             for d in (1, 2)]
    odd = [run(headline.DEFAULT, "rendering 1", 5, .1, threads=2, settings=hard),
           run(headline.DEFAULT, "tiny rendering 1", 0, .1, settings=hard),
           run(headline.DEFAULT, "rendering 4", 0, .1, settings='{"lr": 1.0}'),
           run("HIL, one-way", "rendering 1", 0, .1, settings=published)]
    rows, odd = ([row | dict(code=CODE) for row in part] for part in (rows, odd))
    odd.append(run(headline.DEFAULT, "rendering 1", 6, .1, settings=hard, code=CODE - 1))  # by the code of before
    text = headline.block(pd.DataFrame(rows + odd), {})
    assert "6 runs of the default, 3 renderings, training seeds 0, 1, 1 thread(s) a run" in text
    assert re.search(r"without a label\*\* \| 72.0 \| \d+\.\d to \d+\.\d \| 6 \|", text) and "10.0" not in text
    assert "`hard_prototypes`, the idea of another paper (PCLHD), adds +2.0 points" in text
    assert "between 71.0 % (rendering 1, seed 0) and 73.0 % (rendering 3, seed 0)" in text
    assert headline.block(pd.DataFrame(odd).iloc[1:], {}).startswith("No run of the default settings")
    with pytest.raises(ValueError, match="expected the marks"): headline.written("no marks", "x")
