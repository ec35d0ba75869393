"Adopted labels, answers to questions, and why two images are together, on embeddings whose people are known."
import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array

from hil.core.names import MODALITIES
from hil.core.vectors import unit_rows
from hil.explore.app import TABS, explore
from hil.explore.colorings import coloring
from hil.explore.journal import Journal, apply, read_labels
from hil.explore.parts import cuts_of, identity_parts, near_parts
from hil.explore.review import ORDERS, Review, honour, link_action
from hil.explore.review_view import ReviewView
from hil.explore.session import as_session, in_step
from hil.explore.source import join_labels
from hil.explore.why import chain, crossing, why_joined
from hil.method.labels import compact
from hil.method.match import transfer
from hil.method.sub_clusters import secondary_assign

SMALL = dict(k1=8, k1_infrared=8, k2=2, min_samples=3, n_sub=2, threshold=.5)


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    "Maps, graphs and answers are kept here, and by no other test."
    monkeypatch.setenv("HIL_HOME", str(tmp_path / "home"))


def people(n=8, k=6, seed=0, spread=.4, apart=0.):
    "Embeddings of k people, n images of each in each modality, the infrared ones a way off."
    rng, who = np.random.default_rng(seed), np.tile(np.repeat(np.arange(k), n), 2)
    table = pd.DataFrame({"path": [f"{i}.jpg" for i in range(len(who))], "camid": np.repeat([1, 3], n * k),
                          "modality": np.repeat(MODALITIES, n * k), "pid": who})
    x = rng.standard_normal((k, 16))[who] + spread * rng.standard_normal((len(who), 16))
    return table, (x + apart * (table.modality == "infrared").to_numpy()[:, None]).astype(np.float32)


def opened(tmp_path, table, x, **options):
    return explore(table, x, xy=x[:, :2], journal=tmp_path / "j.jsonl", **{**SMALL, **options})


# ---- adopt ----------------------------------------------------------------------------------------------------------

def test_adopted_clusters_are_what_all_goes_on_from(tmp_path):
    app = opened(tmp_path, *people(spread=1.2))
    s, knobs = app.session, app.view("Knobs")
    first = s.labels
    knobs.eps.value, knobs.k1.value = .75, 6
    wanted = join_labels(knobs.labels()).apart
    assert not np.array_equal(compact(wanted)[0], compact(first.apart)[0])
    knobs.adopt.click()
    np.testing.assert_array_equal(compact(s.labels.apart)[0], compact(wanted)[0])
    assert "adopted" in knobs.said.note and not knobs.said.warn
    assert (s.settings["eps"], s.settings["k1"], s.settings["k1_infrared"]) == (.75, 6, 6)
    curation = app.view("Curation")
    assert "adopt the labels of eps 0.75" in curation.table.value
    # corrections and export begin with the adopted labels
    code = int(np.bincount(s.labels.identity[s.labels.identity >= 0]).argmax())
    s.open(code)
    curation.do("split in two")
    assert s.name(s.identity) == "N0" and curation.frame.warn == ""
    curation.file.value = str(tmp_path / "people.csv")
    curation.do("export")
    np.testing.assert_array_equal(read_labels(tmp_path / "people.csv", s.source.paths), compact(s.labels.identity)[0])
    # another kernel the day after, then back to the beginning
    again = opened(tmp_path, *people(spread=1.2))
    np.testing.assert_array_equal(again.session.labels.identity, s.labels.identity)
    assert again.view("Knobs").eps.value == .75 and again.view("Knobs").k1.value == 6
    for _ in range(2): s.undo()
    np.testing.assert_array_equal(s.labels.identity, first.identity)
    np.testing.assert_array_equal(s.labels.apart, first.apart)


@pytest.mark.parametrize("matcher", ["hungarian", "mutual", "none", "brst"])
def test_adopted_matches_are_those_of_the_matcher_and_refused_clusters_stay(tmp_path, matcher):
    app = opened(tmp_path, *people(spread=.8, apart=.5))
    s, view = app.session, app.view("Matches")
    apart, kind = s.labels.apart.copy(), s.source.modality
    view.matcher.value, view.threshold.value = matcher, .97
    sent = transfer(s.source.before(0)[kind == "visible"], compact(apart[kind == "visible"])[0], view.way.prototypes,
                    matcher, view.level.value, .97)
    view.adopt.click()
    y = s.labels.identity
    infrared = np.unique(apart[(kind == "infrared") & (apart >= 0)])
    np.testing.assert_array_equal(y[kind == "visible"],
                                  np.where(sent >= 0, infrared[sent], apart[kind == "visible"]))
    np.testing.assert_array_equal(y[kind == "infrared"], apart[kind == "infrared"])
    np.testing.assert_array_equal(s.nobody, apart < 0)
    assert s.settings["matcher"] == matcher and s.direction() == "visible_to_infrared"
    s.undo()
    assert s.settings["matcher"] == s.source.settings["matcher"]


def test_a_refused_cluster_is_listed_named_and_merged(tmp_path):
    app = opened(tmp_path, *people(), matcher="none")
    s, curation = app.session, app.view("Curation")
    assert {name[:2] for name, code in curation.one.options if code >= 0} == {f"{m}{i}" for m in "VI" for i in range(6)}
    s.open(s.labels.names.index("V2"))
    curation.name.value = "Ada"
    curation.do("rename")
    curation.other.value = s.labels.names.index("I3")
    curation.do("merge")
    assert curation.frame.warn == "" and (s.labels.identity == s.labels.names.index("Ada")).sum() == 16


def test_what_is_only_shown_cannot_be_answered(tmp_path):
    app = opened(tmp_path, *people())
    app.view("Knobs").apply.click()
    review = app.view("Review")
    review.pressed("y")
    assert "use these settings" in review.frame.warn and not app.session.curated


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["merge", "split", "outlier", "yes", "no", "adopt", "undo"]),
                          st.integers(0, 95), st.integers(0, 95)), max_size=8))
def test_all_views_count_the_same_images_in_no_identity(tmp_path_factory, actions):
    table, x = people(spread=.9)
    s = as_session(table, x, xy=x[:, :2], journal=tmp_path_factory.mktemp("j") / "j.jsonl", **SMALL)
    for do, i, j in actions:
        try: act(s, do, i, j)
        except ValueError: continue
    y, n = s.labels, int(s.nobody.sum())
    assert n == (y.identity < 0).sum() == (y.apart < 0).sum() == (y.sub < 0).sum()
    assert s.source.quality(y.identity)["outliers"] == n
    for by in ("identity", "cluster", "sub-cluster", "outlier"):
        told = [int(number) for label, _ in coloring(s, by)[1] for number in re.findall(r"outlier \((\d+)\)", label)]
        assert sum(told) == n, by
    assert y.apart.max() < len(y.names) and y.identity.max() < len(y.names)


def act(s, do, i, j):
    "One random correction of images i and j."
    y = s.labels.identity
    if do == "merge": s.act(dict(do="merge", into=int(y[i]), others=[int(y[j])]))
    if do == "split": s.act(dict(do="split", images=[i, j], name="new"))
    if do == "outlier": s.act(dict(do="outlier", images=[i, j]))
    if do in ("yes", "no"):
        ends = [[str(s.source.modality[k]), int(k % 48)] for k in (i, j)]
        away = dict(away=[j], name="alone") if y[i] == y[j] or do == "yes" and max(y[i], y[j]) < 0 else {}
        s.act(dict(do="link", same=do == "yes", a=ends[0], b=ends[1], images=[i, j], **away))
    if do == "adopt": s.adopt(s.met(s.graph().cluster(.3 + i / 200, 3)))
    if do == "undo": s.undo()


def test_answers_hold_in_adopted_labels_and_other_corrections_do_not(tmp_path):
    app = opened(tmp_path, *people(spread=.5), matcher="none")
    s, review = app.session, app.view("Review")
    pid = s.source.pid
    for _ in range(6):
        first, second = (pid[images[0]] for images, _ in review.sides())
        review.pressed("y" if first == second else "n")
    s.act(dict(do="outlier", images=[0, 1]))
    links = s.journal.links
    assert len(links) == 6 and any(same for *_, same in links)
    told = s.adopt(s.met(s.graph().cluster(.6, 3)), eps=.6)
    assert "1 correction made before no longer counted" in told
    for i, j, same in links: assert (s.labels.identity[i] == s.labels.identity[j]) == same
    assert (s.labels.identity[:2] >= 0).all()


# ---- the journal's lines --------------------------------------------------------------------------------------------

def test_a_link_is_a_readable_line_and_a_no_forbids(tmp_path):
    app = opened(tmp_path, *people(), matcher="none")
    s, review = app.session, app.view("Review")
    question = review.question
    review.pressed("n")
    line = json.loads((tmp_path / "j.jsonl").read_text().splitlines()[-1])
    i, j = question.speakers
    assert line == dict(do="link", same=False, a=["visible", i], b=["infrared", j - 48], images=[i, j])
    codes = s.labels.identity[[i, j]]
    with pytest.raises(ValueError, match="you answered that .* show two people"):
        s.act(dict(do="merge", into=int(codes[0]), others=[int(codes[1])]))
    s.undo()
    s.act(dict(do="merge", into=int(codes[0]), others=[int(codes[1])]))


@pytest.mark.parametrize("wrong, words", [
    (dict(images=[1]), "two images"), (dict(same="yes"), "true or false"), (dict(a=["sonar", 1]), r"\[modality, row\]"),
    (dict(images=[1, 99]), "images 0..5"), (dict(same=False, away=[1]), "needs a name")])
def test_a_link_that_means_nothing_is_refused(wrong, words):
    line = dict(do="link", same=True, a=["visible", 1], b=["infrared", 0], images=[1, 3])
    with pytest.raises(ValueError, match=words):
        apply(np.array([0, 0, 1, 1, 2, 2]), ["A", "B", "C"], {**line, **wrong})


# ---- what to ask next -----------------------------------------------------------------------------------------------

def ask(x, modality, who, y, order, n, seed=0):
    "Answer n questions by the person of the speakers -> (journal, questions)."
    journal = Journal(None, np.arange(len(x)), y.identity, y.names)
    review, asked = Review(unit_rows(x), modality, y.identity, y.apart, seed=seed), []
    for k in range(n):
        question = next(review.questions(order), None)
        if question is None: break
        same = who[question.speakers[0]] == who[question.speakers[1]]
        journal.do(link_action(question, same, modality, f"N{k}"))
        asked.append((question, bool(same)))
        now = in_step(y._replace(identity=journal.labels,
                                 apart=np.where(journal.labels >= len(y.names), journal.labels, y.apart)))
        review.update(now.identity, now.apart, journal.links)
    return journal, asked


def clustered(table, x, seed, share=.15):
    "Clusters by person, some images in a wrong one, and matches of which some are wrong."
    rng, kind = np.random.default_rng(seed), table.modality.to_numpy()
    label = np.where(rng.random(len(x)) < share, rng.integers(0, table.pid.max() + 1, len(x)), table.pid)
    label[rng.random(len(x)) < .05] = -1
    apart = {m: compact(label[kind == m])[0] for m in MODALITIES}
    sent = rng.integers(-1, apart["infrared"].max() + 1, apart["visible"].max() + 2)
    final = {"visible": np.where(apart["visible"] >= 0, sent[apart["visible"]], -1), "infrared": apart["infrared"]}
    return join_labels(apart, final, None, "infrared")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10 ** 6), st.sampled_from([*ORDERS]))
def test_nothing_is_asked_that_follows_from_the_answers(seed, order):
    table, x = people(seed=seed % 97, spread=.8)
    y, who = clustered(table, x, seed), table.pid.to_numpy()
    journal, asked = ask(x, table.modality.to_numpy(), who, y, order, 25)
    pairs = [tuple(sorted(question.speakers)) for question, _ in asked]
    assert len(set(pairs)) == len(pairs)
    person, strangers = {}, set()
    def root(i):
        while person.get(i, i) != i: i = person[i]
        return i
    for (i, j), (question, same) in zip(pairs, asked):
        assert root(i) != root(j), "a yes that follows from the answers"
        assert not any({root(a), root(b)} == {root(i), root(j)} for a, b in strangers), "a no that follows from them"
        assert 0 < len(question.first) and 0 < len(question.second)
        assert not np.intersect1d(question.first, question.second).size
        if same: person[root(i)] = root(j)
        else: strangers.add((i, j))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10 ** 6), st.sampled_from([*ORDERS]))
@example(6736, "uncertain") # a half of a cluster leaves that was joined to another one
def test_right_answers_hold_in_the_labels(seed, order):
    table, x = people(seed=seed % 97, spread=.8)
    y, who = clustered(table, x, seed), table.pid.to_numpy()
    journal, asked = ask(x, table.modality.to_numpy(), who, y, order, 25)
    for i, j, same in journal.links: assert (journal.labels[i] == journal.labels[j]) == same
    # undo brings back what was there
    while journal.actions: journal.undo()
    np.testing.assert_array_equal(journal.labels, y.identity)


def test_a_hundred_right_answers_help_more_when_the_doubtful_come_first():
    table, x = people(n=6, k=40, spread=.8, seed=3)
    kind, who = table.modality.to_numpy(), table.pid.to_numpy()
    s = as_session(table, x, journal="none.jsonl", **{**SMALL, "matcher": "hungarian"})
    before = s.source.quality(s.labels.identity)["ari"]
    after = {order: s.source.quality(ask(x, kind, who, s.labels, order, 60)[0].labels)["ari"]
             for order in ("uncertain", "random")}
    assert before + .03 < after["uncertain"] > after["random"] + .02, (before, after)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10 ** 6))
def test_parts_are_what_a_cluster_gave_to_an_identity(seed):
    table, x = people(seed=seed % 97)
    y, kind = clustered(table, x, seed), table.modality.to_numpy()
    parts = identity_parts(unit_rows(x), kind, y.identity, y.apart)
    np.testing.assert_array_equal(parts.of < 0, y.identity < 0)
    groups = pd.DataFrame({"identity": y.identity, "apart": y.apart, "kind": kind, "part": parts.of})
    inside = groups[groups.part >= 0]
    assert inside.groupby("part").nunique().drop(columns=[]).eq(1).all().all()
    assert len(inside.groupby(["identity", "apart", "kind"])) == len(parts.size) == inside.part.nunique()
    for p in range(len(parts.size)):
        own = np.flatnonzero(parts.of == p)
        centre = unit_rows(unit_rows(x)[own].mean(0)[None])[0]
        np.testing.assert_allclose(parts.centre[p], centre, atol=1e-5)
        cosine = unit_rows(x) @ centre
        assert parts.speaker[p] in own and cosine[own].max() - cosine[parts.speaker[p]] < 1e-5


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10 ** 6), st.integers(1, 12), st.integers(0, 12))
def test_near_parts_are_those_of_the_plain_way(seed, k, kept):
    "What is known already of the first parts, taken over."
    table, x = people(n=4, seed=seed % 97)
    y = clustered(table, x, seed)
    parts = identity_parts(unit_rows(x), table.modality.to_numpy(), y.identity, y.apart)
    plain = parts.centre @ parts.centre.T
    np.fill_diagonal(plain, -2)
    near, value, cosine = near_parts(parts, k, plain[:kept, :kept])
    np.testing.assert_allclose(cosine, plain, atol=1e-5)
    for p in range(len(parts.size)):
        for m in range(2):
            others = sorted((plain[p, q] for q in np.flatnonzero(parts.modality == m) if q != p), reverse=True)[:k]
            found, told = near[p, m][near[p, m] >= 0], value[p, m][near[p, m] >= 0]
            np.testing.assert_allclose(told, others, atol=1e-5)
            np.testing.assert_allclose(plain[p, found], told, atol=1e-5)
            assert (parts.modality[found] == m).all() and len(set(found)) == len(found) and p not in found


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10 ** 6), st.lists(st.integers(1, 9), max_size=6))
def test_cuts_are_those_of_the_plain_way(seed, sizes):
    rng = np.random.default_rng(seed)
    rows = rng.permutation(sum(sizes) + 3)[:sum(sizes)]
    x = unit_rows(rng.standard_normal((len(rows) + 3, 5)))
    groups = np.split(rows, np.cumsum(sizes)[:-1]) if sizes else []
    for group in groups:
        if rng.random() < .3: x[group] = x[group[0]]           # all look the same
    cuts = cuts_of(x, groups)
    assert len(cuts) == len(groups)
    for group, cut in zip(groups, cuts):
        half = secondary_assign(x[group], np.zeros(len(group), int), 2)
        assert (cut is None) == (half.max() < 1)
        if cut is None: continue
        wanted = sorted((group[half == h] for h in (0, 1)), key=len, reverse=True)
        if len(wanted[0]) == len(wanted[1]) and wanted[0][0] != cut.halves[0][0]: wanted = wanted[::-1]
        for h, own, speaker, centre in zip(wanted, cut.halves, cut.speakers, cut.centres):
            np.testing.assert_array_equal(own, h)
            np.testing.assert_allclose(centre, unit_rows(x[h].mean(0)[None])[0], atol=1e-5)
            assert speaker in h and (x[h] @ centre).max() - x[speaker] @ centre < 1e-5


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10 ** 6), st.lists(st.booleans(), min_size=1, max_size=5))
def test_what_is_kept_between_answers_is_what_would_be_found_anew(seed, steps):
    "Identities are cut or joined one after the other; all figures are those of the parts as they are then."
    table, x = people(n=4, seed=seed % 97)
    y, kind, rng = clustered(table, x, seed), table.modality.to_numpy(), np.random.default_rng(seed)
    identity, apart, x = y.identity.copy(), y.apart.copy(), unit_rows(x)
    review = Review(x, kind, identity, apart)
    for k, cut in enumerate(steps):
        there, identity, apart = np.unique(identity[identity >= 0]), identity.copy(), apart.copy()
        if not len(there): break
        inside = identity == rng.choice(there)
        if cut:
            away = inside & (rng.random(len(x)) < .5)
            identity[away] = apart[away] = len(y.names) + k
        else: identity[inside] = rng.choice(there)
        review.update(identity, apart, [])
    parts = review.parts
    np.testing.assert_array_equal(parts.of < 0, identity < 0)
    anew = identity_parts(x, kind, parts.of, parts.of)         # each part alone an identity
    for now, then in zip(parts, anew): np.testing.assert_allclose(now, then, atol=1e-5)
    for now, then in zip((review.value, review.cosine), near_parts(anew)[1:]):
        np.testing.assert_allclose(now, then, atol=1e-5)
    assert [*review.cut_part] == [*review.cuts]
    for k, p in enumerate(review.cut_part):
        np.testing.assert_array_equal(np.sort(np.concatenate(review.cuts[p].halves)), np.flatnonzero(parts.of == p))
        np.testing.assert_array_equal(review._beside[k], review.near[p, parts.modality[p]])
        np.testing.assert_allclose(review._rivals[k], review.cuts[p].centres @ parts.centre[review._beside[k]].T,
                                   atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10 ** 6), st.lists(st.tuples(st.integers(0, 95), st.integers(0, 95)), max_size=12))
def test_consistent_answers_hold_wherever_clusters_allow_it(seed, pairs):
    table, x = people(seed=seed % 97)
    y, who = clustered(table, x, seed, share=0), table.pid.to_numpy() # no cluster mixes people: every answer can hold
    links = [(i, j, bool(who[i] == who[j])) for i, j in pairs if i != j and min(y.identity[[i, j]]) >= 0]
    now, names, broken = honour(y.identity, y.apart, y.names, links)
    assert broken == sum((now[i] == now[j]) != same for i, j, same in links) and now.max() < len(names)
    for i, j, same in links: assert same or now[i] != now[j]
    np.testing.assert_array_equal(now < 0, y.identity < 0)
    if not links: np.testing.assert_array_equal(now, y.identity)


# ---- the view -------------------------------------------------------------------------------------------------------

def test_questions_are_answered_by_keys_where_they_are_seen(tmp_path):
    app = opened(tmp_path, *people(), matcher="none")
    s, review = app.session, app.view("Review")
    app.pressed("y")
    assert not s.curated # nobody saw the question
    app.tabs.selected_index = list(TABS).index("Review")
    first = review.question.speakers
    app.pressed("k")
    assert review.question.speakers != first and not s.curated and "1 skipped" in review.frame.note
    second, thinking = review.question.speakers, s.review()
    app.pressed("y")
    assert s.review() is thinking # an answer builds nothing anew
    assert s.labels.identity[second[0]] == s.labels.identity[second[1]]
    assert "1 answer (1 yes, 0 no)" in review.frame.note
    app.pressed("u")
    assert review.question.speakers == second and not s.journal.actions # the same question again
    app.pressed("u")
    assert "nothing to take back" in review.frame.warn
    app.pressed("n")
    assert s.journal.links == [(*sorted(second), False)] and review.frame.warn == ""
    review.find.click()
    assert len(s.selection) == len(review.question.first) + len(review.question.second)
    review.static()


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_comes_to_its_end(tmp_path, order):
    app = opened(tmp_path, *people(k=3, n=5, spread=.9), matcher="none")
    review = app.view("Review")
    review.order.value = order
    for _ in range(200):
        if review.question is None: break
        review.pressed("n")
        assert review.frame.warn == ""
    assert review.question is None and review.strips.rows == [] and review.strips.empty
    review.pressed("y")
    assert "another order" in review.frame.warn
    review.static()


def test_the_next_question_is_in_sight_before_the_other_views_repaint(tmp_path):
    table, x = people()
    s = as_session(table, x, xy=x[:, :2], journal=tmp_path / "j.jsonl", **{**SMALL, "matcher": "none"})
    seen = []
    s.observe(lambda change: seen.append("others"), "version")
    view = ReviewView(s)
    view.strips.observe(lambda change: seen.append("question"), "rows")
    view.pressed("y")
    assert seen.index("question") < seen.index("others")


# ---- why joined -----------------------------------------------------------------------------------------------------

def sparse(n, **near):
    "Distances of letters: AB=.3 is the distance of rows 0 and 1, both ways."
    ends = np.array([["ABCDEFGH".index(c) for c in pair] for pair in near])
    return coo_array((np.tile([*near.values()], 2), np.concatenate([ends, ends[:, ::-1]]).T), shape=(n, n))


def test_a_near_b_near_c_and_a_far_from_c():
    near = sparse(5, AB=.3, BC=.35, AC=.9, CD=.7)
    assert chain(near, 0, 2) == [0, 1, 2]
    assert chain(near, 0, 3) == [0, 1, 2, 3]
    assert chain(near, 0, 4) == [] # nobody is near E
    assert chain(near, 0, 2, through=[True, False, True, True, True]) == [0, 2]
    assert chain(sparse(4, AB=.3, BC=.3, CD=.3, AC=.29), 0, 3) == [0, 2, 3] # of equal ones, the fewest steps
    assert chain(sparse(3, AB=0., BC=.2), 0, 2) == [0, 1, 2]                  # two copies are a step, too


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10 ** 6))
def test_no_chain_has_a_shorter_longest_step(seed):
    rng = np.random.default_rng(seed)
    full = np.triu(np.where(rng.random((7, 7)) < .5, rng.integers(1, 9, (7, 7)) / 10, 1), 1)
    full = full + full.T + np.eye(7)
    stored = coo_array(np.where(full < 1, full, 0))
    best = full.copy()                                                        # Floyd and Warshall, for the longest step
    for k in range(7): best = np.minimum(best, np.maximum(best[:, [k]], best[[k]]))
    found = chain(stored, 0, 6)
    assert bool(found) == (best[0, 6] < 1)
    if found: assert max(full[a, b] for a, b in zip(found, found[1:])) == pytest.approx(best[0, 6])


def test_a_crossing_is_that_of_brst(tmp_path):
    degrees = np.repeat([0, 70, 30, 10, 60], 4) # three visible clusters, two infrared ones
    x = np.c_[np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]
    table = pd.DataFrame({"path": [f"{i}.jpg" for i in range(20)], "camid": np.repeat([1, 3], [12, 8]),
                          "modality": np.repeat(MODALITIES, [12, 8]), "label": np.repeat([0, 1, 2, 0, 1], 4)})
    s = as_session(table, x, xy=x, journal=tmp_path / "j.jsonl", **{**SMALL, "threshold": .96, "n_sub": 0})
    way = s.transfer("visible_to_infrared")
    cos = {d: np.cos(np.radians(d)) for d in (10, 20, 30)}
    found = crossing(way, int(way.codes[2]), .96)
    assert (s.name(found.target), s.name(found.second)) == ("I0", "I1")
    assert found.cosine == pytest.approx(cos[20]) and found.second_cosine == pytest.approx(cos[30])
    assert found.ratio == pytest.approx(cos[20] / cos[10]) and found.ratio < .96 # the lesson's stranger is refused
    assert crossing(way, int(way.codes[0]), .96).ratio == pytest.approx(1)


def test_why_is_asked_from_identity_and_from_matches(tmp_path):
    app = opened(tmp_path, *people(), level="cluster")
    s, view = app.session, app.view("Identity")
    view.ask.click()
    assert "open an identity" in view.why.sheet_.empty
    s.open(int(np.bincount(s.labels.identity[s.labels.identity >= 0]).argmax()))
    view.ask.click()
    assert view.why.why is not None and view.why.sheet_.rows and view.why.sheet_.title.startswith("Why? ")
    inside = np.flatnonzero((s.labels.apart == s.labels.apart[0]) & (s.labels.identity == s.labels.identity[0]))
    s.select(inside[[0, -1]])
    view.ask.click()
    assert (view.why.why.first, view.why.why.second) == (inside[0], inside[-1])
    steps = view.why.why.chains[0]
    assert steps[0].first == inside[0] and steps[-1].second == inside[-1]
    assert all(a.second == b.first for a, b in zip(steps, steps[1:]))
    assert all(step.margin == pytest.approx(s.settings["eps"] - step.distance) for step in steps)
    view.why.static()
    matches = app.view("Matches")
    edge = matches.graph.edges[0]
    matches.edge(edge["left"], edge["right"])
    matches.ask.click()
    assert matches.why.why.crossings and len(matches.why.sheet_.rows) >= 2
    s.act(dict(do="outlier", images=[0]))
    assert matches.why.why is None # the answer no longer holds


def test_why_says_what_it_cannot_answer(tmp_path):
    s = opened(tmp_path, *people()).session
    for images, words in (((0, 0), "compared with itself"), ((0, 96), "0..95"), ((-1, 3), "0..95")):
        with pytest.raises(ValueError, match=words): why_joined(s, *images)
    stranger = why_joined(s, 0, 8)                                            # two people
    assert not stranger.joined and ("Two clusters" in stranger.words or "No chain" in stranger.words)
    s.act(dict(do="merge", into=int(s.labels.identity[0]), others=[int(s.labels.identity[8])]))
    assert "somebody, joined them" in why_joined(s, 0, 8).words
