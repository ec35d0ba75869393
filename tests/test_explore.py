"hil.explore.app and its parts: every control played from Python, on a real run and on anybody's embeddings."
import asyncio
import io
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgba
from PIL import Image

from hil.core.errors import RunError
from hil.core.names import MODALITIES
from hil.evaluation.sightings import identity_table
from hil.explore.app import (
    TABS,
    cluster_map,
    curation,
    explore,
    identity_sheet,
    knobs,
    match_graph,
    retrieval,
    review,
    timeline,
)
from hil.explore.colorings import COLORINGS, changed_since, coloring
from hil.explore.coordinates import Maps, layout, procrustes
from hil.explore.journal import Journal, export_labels, read_labels
from hil.explore.knob_view import KnobView
from hil.explore.session import as_session, identities, nearest_identities
from hil.explore.source import _result, join_labels, joined_labels, open_source
from hil.explore.what_if import Graph, transfer_between
from hil.method import match
from hil.method.cluster import centroids, pseudo_labels
from hil.method.identities import join_clusters
from hil.method.labels import compact
from hil.method.neighbors import knn, knn_blocks
from hil.method.rerank import jaccard_distance
from hil.runs.config import Config
from hil.runs.folder import Run


@pytest.fixture(scope="module")
def run(whole, tmp_path_factory):
    "The session's run, copied without its checkpoint, so that journals stay here."
    folder = tmp_path_factory.mktemp("explored") / "run"
    shutil.copytree(whole.path, folder, ignore=shutil.ignore_patterns("*.pt"))
    return folder


@pytest.fixture(scope="module")
def shared(run): return open_source(run)


@pytest.fixture
def app(shared, tmp_path): return explore(shared, journal=tmp_path / "curation.jsonl")


def people(n=8, k=6, truth=True, seed=0, spread=.4):
    "Embeddings of k people, n images of each in each modality."
    rng, who = np.random.default_rng(seed), np.tile(np.repeat(np.arange(k), n), 2)
    table = pd.DataFrame({"path": [f"{i}.jpg" for i in range(len(who))],
                          "camid": np.where(np.arange(len(who)) < n * k, 1, 3),
                          "modality": np.repeat(MODALITIES, n * k)})
    if truth: table["pid"] = who
    return table, (rng.standard_normal((k, 16))[who] + spread * rng.standard_normal((len(who), 16))).astype(np.float32)


SMALL = dict(k1=8, k1_infrared=8, k2=2, min_samples=3, n_sub=2, threshold=.5)


# ---- source ---------------------------------------------------------------------------------------------------------

def test_a_run_is_read_as_it_was_written(shared, whole):
    assert shared.epochs == [0, 1, 2, 3] and shared.labelled == [1, 2, 3]
    arrays, images = whole.epoch(2), whole.images
    y, n = shared.labels(2), shared.n
    assert (shared.table.train[:n]).all() and not shared.table.train[n:].any() and shared.modality[0] == "visible"
    for m in MODALITIES:
        own = compact(y.apart[shared.rows(m)])[0]
        np.testing.assert_array_equal(own, compact(arrays[f"labels_{m}"])[0])
        rows = images[(images.modality == m)].path.tolist()
        place = [rows.index(p) for p in shared.table.path[shared.modality == m]]
        np.testing.assert_array_equal(shared.features(2)[shared.modality == m],
                                      arrays[f"features_{m}"][place].astype(np.float32))
    told = whole.history.set_index("epoch").loc[2]
    v = shared.rows("visible")
    quality = shared.quality(y.apart[v], v)
    assert quality["identities"] == told.clusters_visible and quality["ari"] == pytest.approx(told.ari_visible)


def test_features_find_their_images_whatever_the_order_of_the_table(tmp_path):
    rng = np.random.default_rng(0)
    images = pd.DataFrame({"path": [f"{i}.jpg" for i in range(40)], "pid": -1, "camid": 1,
                           "modality": rng.choice(MODALITIES, 40), "train": rng.random(40) < .7})
    run = Run.create(Config(run_dir=str(tmp_path / "run"), eps=.5, k1=5, k1_infrared=5), images)
    x = np.arange(120).reshape(40, 3).astype(np.float16) + 1
    y = {f"{kind}_{m}": np.zeros(((images.modality == m) & images.train).sum(), np.int32)
         for kind in ("labels", "final", "sub") for m in MODALITIES}
    features = {f"features_{m}": x[images.modality == m] for m in MODALITIES}
    run.record(dict(epoch=1, stage=2, mAP=.5, transfer_direction="visible_to_infrared"), y | features, {})
    source = open_source(run.path)
    assert source.n == images.train.sum() and source.features(1).dtype == np.float32
    for path, row in zip(source.paths, source.features(1)):
        np.testing.assert_array_equal(row, x[int(path.removesuffix(".jpg"))])


def test_the_first_picture_of_a_run_needs_no_features(run, tmp_path):
    "Map and identities are kept from the visit before; features of many images take seconds to read."
    explore(run, journal=tmp_path / "j")
    source, asked = open_source(run), []
    read = source._read["features"]
    source._read["features"] = lambda epoch: asked.append(epoch) or read(epoch)
    async def opened(): return explore(source, journal=tmp_path / "j")      # as in a notebook: what can wait does
    app = asyncio.run(opened())
    assert app.view("Identity").sheet_.rows and not asked
    app.session.open(int(identities(app.session).code[0]))
    assert asked


def test_the_result_of_a_run_is_labelled_as_hil_identities_has_it(shared, run, tmp_path):
    "One truth: what is opened, counted, corrected and exported, and what the command writes."
    table = identity_table(run).set_index("path").identity
    app = explore(shared, journal=tmp_path / "j")
    assert app.session.epoch == shared.result == Run(run).result_epoch
    told = table.reindex(shared.paths[:shared.n]).to_numpy()
    shows = app.session.labels.identity
    assert ((told < 0) == (shows < 0)).all() and (told >= 0).any()
    np.testing.assert_array_equal(shows, told)
    names = app.session.labels.names[:max(told) + 1]
    assert all(name in (f"V{code}", f"I{code}") for code, name in enumerate(names))
    again = open_source(run).labels(shared.result)                   # from the disk
    for a, b in zip(again, shared.labels(shared.result)): np.testing.assert_array_equal(a, b)
    # clusters of other settings are joined across the modalities by the same rule
    app.session.adopt(app.session.met(app.session.graph().cluster()))
    now = app.session.labels.identity
    assert (np.equal.outer(now, now) == np.equal.outer(shows, shows)).all()


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_an_identity_has_one_number_and_each_cluster_bears_it(seed):
    "The code, the digits of its name and the number of `hil identities` are one; so are those of its clusters' names."
    rng, seen = np.random.default_rng(seed), {}
    apart = {m: np.append(np.repeat(np.arange(rng.integers(0, 9)), 3), -1) for m in MODALITIES}
    x = {m: rng.standard_normal((len(y), 4)).astype(np.float32) for m, y in apart.items()}
    number = np.concatenate([*join_clusters(x, apart).values()])
    y = joined_labels(x, apart)
    np.testing.assert_array_equal(y.identity, number)
    for code, own, m in zip(y.identity, y.apart, np.repeat(MODALITIES, [len(apart[m]) for m in MODALITIES])):
        assert (code < 0) == (own < 0)
        if code < 0: continue
        assert int(y.names[code][1:]) == code and y.names[own] == f"{m[0].upper()}{code}"
        assert seen.setdefault(own, code) == code
    assert len({y.names[c] for c in seen}) == len(seen) == sum(int(a.max(initial=-1)) + 1 for a in apart.values())


def test_clusters_that_were_joined_by_hand_keep_names_of_their_own(monkeypatch):
    apart = {"visible": np.array([0, 0, 1, 1]), "infrared": np.array([0, 0, 1, 1, 2, 2])}
    known = {"visible": apart["visible"], "infrared": np.array([0, 0, 0, 0, 2, 2])}
    monkeypatch.setattr("hil.explore.source.join_clusters", lambda *args: known)
    y = joined_labels({m: np.eye(len(a), 4) for m, a in apart.items()}, apart)
    assert [y.names[c] for c in y.apart[4::2]] == ["I0", "I0.2", "I2"]
    assert y.identity.tolist() == [0, 0, 1, 1, 0, 0, 0, 0, 2, 2]


def test_identities_of_many_images_are_found_again_at_the_next_visit(monkeypatch, tmp_path):
    "What was kept is taken, however well it could be packed."
    monkeypatch.setenv("HIL_HOME", str(tmp_path))
    n, numbers = 200_000, dict(eps=.5, min_samples=4, k1=8, k1_infrared=8, k2=2, k2_infrared=2, n_sub=0)
    x = {m: np.ones((n, 2), np.float32) for m in MODALITIES}
    run, asked = SimpleNamespace(settled=Config(**numbers), known={}), []
    def clusters(*_):
        asked.append(1)
        return {m: np.zeros(n, int) for m in MODALITIES}, None, x, None
    monkeypatch.setattr("hil.explore.source.run_clusters", clusters)
    monkeypatch.setattr("hil.explore.widgets.display", lambda notice, display_id: asked.append(str(notice)))
    first, again = (_result(run, 1, lambda: np.concatenate([*x.values()]), "key") for _ in range(2))
    assert asked[0].startswith("finding the identities of 400,000 images, duration ") and asked[1:] == [1]
    for a, b in zip(first, again): np.testing.assert_array_equal(a, b)


def test_a_run_whose_result_is_an_earlier_epoch_opens_there(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    config = json.loads((folder / "config.json").read_text())
    history = pd.read_csv(folder / "history.csv").assign(health=[.1, .9, .2, .1])
    for place in (config, config.get("config", {})): place.update({"select": "healthiest"} if "select" in place else {})
    (folder / "config.json").write_text(json.dumps(config))
    history.to_csv(folder / "history.csv", index=False)
    (folder / "manifest.jsonl").unlink()
    app = explore(str(folder), journal=tmp_path / "j")
    assert app.session.epoch == 1 == app.session.source.result and "the result of the run" in app.time.frame.note
    app.session.check_real()
    app.session.epoch = 3
    with pytest.raises(ValueError, match="corrections are made on epoch 1"): app.session.check_real()


def test_clusters_and_transfer_are_the_runs_own_when_computed_again(shared, whole):
    session, last = as_session(shared), whole.history.set_index("epoch").loc[2]
    session.epoch = 2
    for m, y in session.graph().cluster().items(): np.testing.assert_array_equal(y, whole.epoch(2)[f"labels_{m}"])
    view = match_graph(session)
    assert view.direction.value == last.transfer_direction
    assert view.quality()["precision"] == pytest.approx(last.transfer_precision)
    assert view.quality()["coverage"] == pytest.approx(last.transfer_coverage)


def test_embeddings_without_truth_or_labels():
    app = explore(*people(truth=False), **SMALL)
    for tab in TABS: app.view(tab)
    assert not app.session.source.truth and "ARI" not in app.view("Knobs").curves.title
    assert "unknown" in app.view("Retrieval").results.title and "no truth known" in app.view("Matches").graph.title
    assert "person" not in dict(app.map.color.options).values()
    assert app.view("Retrieval").hard.disabled
    for view in (app, *app.views.values()): view.static()


def test_labels_that_come_along_are_used():
    table, x = people()
    table["label"], table["name"] = table.pid.where(table.pid != 2, -1) * 10, table.pid.map(lambda p: f"person {p}")
    table.loc[table.label < 0, "label"] = -1
    s = as_session(table, x, **SMALL)
    assert s.labels.names[:5] == ["person 0", "person 1", "person 3", "person 4", "person 5"]
    assert (s.labels.identity[table.pid == 2] == -1).all()
    assert match_graph(s).quality()["precision"] == 1


@pytest.mark.parametrize("n", [0, 1])
def test_one_modality_or_nothing_to_match(n):
    table, x = people(4, 3)
    keep = (table.modality == "visible") | (np.arange(len(table)) < len(table) // 2 + n)
    app = explore(table[keep].reset_index(drop=True), x[keep], **SMALL)
    for tab in TABS: app.view(tab)
    view = app.view("Matches")
    assert view.graph.edges == [] and "nothing to match" in view.graph.empty
    view.static()


def test_all_outliers_is_an_empty_state_not_an_error():
    table, x = people()
    app = explore(table, np.random.default_rng(1).standard_normal((len(x), 64)), eps=.01, **SMALL)
    for tab in TABS: app.view(tab).static()
    sheet = app.view("Identity").sheet_
    assert (app.session.labels.identity == -1).all() and sheet.rows == [] and "outlier" in sheet.empty
    app.map.static()


def test_bad_sources_are_named(tmp_path, run):
    table, x = people()
    for call, words in [(lambda: explore(table), "needs its features"), (lambda: explore(table, x[:3]), "expected"),
                        (lambda: explore(table.drop(columns="modality"), x), "modality"),
                        (lambda: explore(table.assign(modality="depth"), x), "depth"),
                        (lambda: explore(table, x, xy=x[:5, :2]), "xy"), (lambda: explore(7), "run folder"),
                        (lambda: cluster_map(table, x, color="hue"), "expected one of"),
                        (lambda: explore(table, x, epsilon=2), "no setting"),
                        (lambda: cluster_map(run, epoch=9), "epoch 9")]:
        with pytest.raises(ValueError, match=words): call()
    with pytest.raises(RunError, match="no run here"): explore(tmp_path)
    bare = tmp_path / "bare"
    shutil.copytree(run, bare, ignore=shutil.ignore_patterns("manifest.jsonl"))
    for file in bare.glob("epochs/*.npz"):
        with np.load(file) as z: arrays = {k: v for k, v in z.items() if not k.startswith("features")}
        np.savez(file, **arrays)
    with pytest.raises(RunError, match="keep_features"): explore(bare)


def test_a_lost_image_is_a_grey_card(shared, tmp_path):
    moved = open_source(shared.folder, root=tmp_path)
    assert "pass root=" in explore(moved, journal=tmp_path / "j").frame.warn
    good, lost = shared.thumbs([0])[0], moved.thumbs([0])[0]
    assert good != lost and Image.open(io.BytesIO(lost)).height == 96
    (tmp_path / shared.table.path[1]).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / shared.table.path[1]).write_bytes(b"no picture")
    assert Image.open(io.BytesIO(moved.thumbs([1])[0])).height == 96


# ---- maps that move -------------------------------------------------------------------------------------------------

@given(st.integers(0, 10 ** 6), st.floats(.1, 5), st.floats(0, 6.3), st.booleans())
@settings(max_examples=40, deadline=None)
def test_procrustes_undoes_any_turn(seed, size, angle, mirror):
    xy = np.random.default_rng(seed).standard_normal((20, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * ([[-1, 1]] if mirror else 1)
    np.testing.assert_allclose(procrustes(xy @ turn * size + [3, -1], xy), xy, atol=1e-8)


def test_a_map_that_is_laid_on_another_is_as_large():
    "Points that moved must not shrink it: a run has many epochs, one after the other."
    rng = np.random.default_rng(0)
    onto = rng.standard_normal((50, 2))
    moved = onto + rng.standard_normal((50, 2))
    assert np.linalg.norm(procrustes(moved, onto) - onto.mean(0)) == pytest.approx(np.linalg.norm(onto - onto.mean(0)))


def test_maps_are_kept_aligned_and_reproducible(shared, monkeypatch, tmp_path):
    monkeypatch.setenv("HIL_HOME", str(tmp_path))
    a = Maps(shared)
    first, last = a.xy(2), a.xy(3)
    assert np.abs(last).max() <= 1.0001 and len(list((tmp_path / "maps").glob("*.npy"))) == 2
    np.testing.assert_array_equal(Maps(shared).xy(2), first)
    alone = layout(shared.features(2)[:shared.n], random_state=1)
    assert np.linalg.norm(first - last, axis=1).mean() < .6 * np.linalg.norm(alone - last, axis=1).mean()
    assert Maps(shared, {3: last, 2: first}).ready(2)


def test_few_images_have_a_map(): assert layout(np.eye(4, dtype=np.float32)).shape == (4, 2)


# ---- what if --------------------------------------------------------------------------------------------------------

def test_neighbours_found_before_give_the_same_distance():
    x = people()[1]
    near = knn(x, 30)
    for k1 in (4, 8, 20): assert abs(jaccard_distance(x, k1, 2, neighbors=near) - jaccard_distance(x, k1, 2)).max() == 0
    with pytest.raises(ValueError, match="neighbors: shape"): jaccard_distance(x, 40, 2, neighbors=near)


@pytest.mark.parametrize("direction", ["visible_to_infrared", "infrared_to_visible"])
def test_transfer_agrees_with_match(direction):
    table, x = people(10, 7, spread=.9)
    kind, source = table.modality.to_numpy(), direction.split("_")[0]
    apart = join_labels(Graph(x, kind, {**SMALL, "eps": .7}).cluster()).apart
    way = transfer_between(x, apart, kind, direction, table.pid.to_numpy())
    labels, protos = compact(apart[kind == source])[0], centroids(x[kind != source], compact(apart[kind != source])[0])
    for matcher in match.MATCHERS:
        for level in ("sample", "cluster"):
            for t in (0, .3, .8, .95, 1):
                new = match.transfer(x[kind == source], labels, protos, matcher, level, t)
                np.testing.assert_array_equal(way.send(matcher, level, t), new)
                rows = way.table(matcher, level, t)
                assert rows.n_samples.sum() == (labels >= 0).sum() and rows.n_accepted.sum() == (new >= 0).sum()
    columns = ["source", "target", "n_samples", "n_accepted", "similarity"]
    best = match.match_table(x[kind == source], labels, protos, .8).sort_values(["source", "target"], ignore_index=True)
    pd.testing.assert_frame_equal(way.table("brst", "sample", .8)[columns], best[columns], check_dtype=False)


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=30), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_renaming_clusters_changes_nobody(labels, shift):
    y = np.array(labels)
    state = changed_since(y, np.where(y < 0, -1, (y + shift) * 3))
    assert set(state[y >= 0]) <= {0} and set(state[y < 0]) <= {-1}


def test_a_graph_is_built_in_pieces_and_its_answers_are_kept(tmp_path, monkeypatch):
    table, x = people(20, 8)
    kind, told = table.modality.to_numpy(), {**SMALL, "eps": .5}
    monkeypatch.setattr("hil.explore.what_if.knn_blocks", lambda features, k: knn_blocks(features, k, 50))
    graph = Graph(x, kind, told, store=tmp_path / "maps" / "a")
    assert not graph.knows(.5, 3)
    steps = graph.build()
    shares = [next(steps)[0] for _ in range(2)] # broken off ...
    shares += [share for share, _ in graph.build()] # ... goes on where it stood
    # 4 pieces, the graph of a modality and its end, twice
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1) and len(shares) == 12
    for m in MODALITIES: np.testing.assert_array_equal(graph._near[m], knn(x[kind == m], 60))
    assert graph.knows(.31, 7) and not graph.knows(.5, 3, 5)
    found = graph.cluster(.5, 3)
    apart = {m: graph.apart(m, y) for m, y in found.items()}
    graph.keep()
    again = Graph(x, kind, told, store=tmp_path / "maps" / "a")
    other = Graph(x, kind, {**told, "k2": 3}, store=tmp_path / "maps" / "a")
    assert again.knows(.5, 3) and not again.knows(.4, 3) and not other.knows(.5, 3)
    for m in MODALITIES: np.testing.assert_array_equal(again.cluster(.5, 3)[m], found[m])
    monkeypatch.setattr("hil.explore.what_if.separation", lambda *_: 1 / 0)
    assert {m: again.apart(m, y) for m, y in found.items()} == apart and len(set(apart.values())) == 2
    assert not again._distance # nothing was computed for it


# ---- the journal ----------------------------------------------------------------------------------------------------

CODE, IMAGES = st.integers(0, 3), st.lists(st.integers(0, 11), min_size=1, max_size=4)
ACTION = st.one_of(st.builds(lambda a, b: dict(do="merge", into=a, others=[b]), CODE, CODE),
                   st.builds(lambda i: dict(do="split", images=i, name="new"), IMAGES),
                   st.builds(lambda a, n: dict(do="rename", identity=a, name=n), CODE, st.text(min_size=1, max_size=5)),
                   st.builds(lambda i: dict(do="outlier", images=i), IMAGES), st.just("undo"))


@given(st.lists(ACTION, max_size=12), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_a_journal_survives_a_crash_anywhere(tmp_path_factory, actions, torn):
    file, paths = tmp_path_factory.mktemp("j") / "j.jsonl", [f"{i}.jpg" for i in range(12)]
    journal, before = Journal(file, paths, np.repeat([0, 1, 2, -1], 3), list("ABC")), []
    for action in actions:
        if action == "undo":
            journal.undo()
            expected = before.pop() if before else (journal.labels, journal.names)
            np.testing.assert_array_equal(journal.labels, expected[0])
            continue
        old = journal.labels, journal.names
        try: journal.do(action)
        except ValueError: np.testing.assert_array_equal(journal.labels, old[0]) # refused: nothing happened
        else: before.append(old)
    with open(file, "ab") as f: f.write(json.dumps(dict(do="outlier", images=list(range(12)))).encode()[:torn])
    again = Journal(file, paths, np.zeros(12), [])
    np.testing.assert_array_equal(again.labels, journal.labels)
    assert again.names == journal.names


def test_export_comes_back_in_any_order(tmp_path):
    journal = Journal(None, list("abcd"), [5, 5, -1, 2], ["?"] * 6)
    for name in ("x.csv", "x.parquet"):
        export_labels(journal, tmp_path / name)
        np.testing.assert_array_equal(read_labels(tmp_path / name, list("dcbaz")), [0, -1, 1, 1, -1])
    table = pd.read_csv(tmp_path / "x.csv").assign(camid=1, modality="visible")
    assert (as_session(table, np.eye(4)).labels.identity >= 0).tolist() == [True, True, False, True]


# ---- every control, through the linked application ------------------------------------------------------------------

def test_lasso_links_all_views(app):
    s = app.session
    drawn = np.arange(0, s.source.n, 7)
    app.map.scatter.widget.selection = app.map.place[drawn].astype(np.uint32)
    np.testing.assert_array_equal(s.selection, drawn)
    sheet = app.view("Identity").sheet_
    assert sum(len(side) for row in sheet.rows for side in row["sides"]) == len(s.selection)
    assert sheet.title.startswith("Selection")
    app.map.nothing.click()
    assert not len(s.selection) and len(app.map.scatter.widget.selection) == 0


def test_click_a_point_then_an_identity_then_a_neighbour(app):
    s = app.session
    inside = int(np.flatnonzero(s.labels.identity >= 0)[5])
    app.map.scatter.widget.selection = app.map.place[[inside]].astype(np.uint32)
    assert s.image == inside and s.identity == s.labels.identity[inside]
    view = app.view("Identity")
    assert view.sheet_.title.startswith(s.name(s.identity) + ":") and view.sheet_.on == [inside]
    old = s.identity
    view.near.children[1].click()
    assert s.identity == nearest_identities(s, old)[0][0]
    assert set(app.map.order[app.map.scatter.widget.selection]) == set(np.flatnonzero(s.labels.identity == s.identity))
    s.select([])
    view.entered(0)
    assert s.identity == identities(s).code[0]
    s.select([int(np.flatnonzero(s.labels.identity < 0)[0])])
    assert s.identity == -1 # an outlier belongs to nobody


def test_sub_clusters_follow_their_knob(app):
    view, s = app.view("Identity"), app.session
    s.open(int(identities(s).code[0]))
    recorded = len(view.sheet_.rows)
    view.n_sub.value = 2
    assert len(view.sheet_.rows) == 2
    app.view("Knobs")
    assert app.view("Knobs").n_sub.value == 2
    app.view("Knobs").n_sub.value = s.source.settings["n_sub"]
    assert len(view.sheet_.rows) == recorded


@pytest.mark.parametrize("by", COLORINGS)
def test_colours(app, by):
    app.map.color.value = by
    colors, legend = coloring(app.session, by)
    drawn = app.map.scatter.widget
    assert legend and [k[0] for k in app.map.frame.key] == [label for label, _ in legend]
    assert len(drawn.color) == len(set(colors)) and drawn.points.shape[0] == app.session.source.n
    found = [tuple(np.round(drawn.color[int(i)], 3)) for i in drawn.points[:20, 2]]
    assert found == [tuple(np.round(to_rgba(c), 3)) for c in colors[app.map.order[:20]]]
    app.map.static()


def test_theme(app):
    app.map.color.value = "identity"
    drawn = app.map.scatter.widget
    light, points = [tuple(c) for c in drawn.color], drawn.points.copy()
    app.map.frame.dark = True
    assert drawn.background_color[0] < .2 and [tuple(c) for c in drawn.color] != light
    np.testing.assert_array_equal(drawn.points, points)
    app.map.frame.dark = False
    assert [tuple(c) for c in drawn.color] == light


def test_hover_asks_for_one_image(app):
    heard, asked = [], {"type": "tooltip", "index": 3, "properties": ["about"], "preview": "image"}
    app.map.scatter.widget.send = heard.append
    app.map.scatter.widget._handle_custom_msg(asked, [])
    assert heard[0]["preview"].startswith("data:image/jpeg;base64,") and "camera" in heard[0]["properties"]["about"]


def test_matches_answer_to_every_control(app):
    view, s = app.view("Matches"), app.session
    for matcher in match.MATCHERS:
        view.matcher.value = matcher
        assert view.threshold.disabled == (matcher != "brst")
    view.matcher.value, coverage = "brst", []
    for t in (0., .5, .9, 1.):
        view.threshold.value = t
        coverage.append(view.quality()["coverage"])
    assert coverage[0] == 1 and coverage == sorted(coverage, reverse=True)
    for level in ("sample", "cluster"):
        view.level.value = level
        assert view.level.value in ("sample", "cluster") and view.graph.edges
    view.direction.value = "infrared_to_visible" if view.direction.value.startswith("v") else "visible_to_infrared"
    assert {s.labels.names[node["id"]][0] for node in view.graph.left} == {"V"}
    assert {s.labels.names[node["id"]][0] for node in view.graph.right} == {"I"}
    edge = view.graph.edges[0]
    view.graph._heard(None, dict(type="edge", left=edge["left"], right=edge["right"]), [])
    assert view.graph.chosen == [edge["left"], edge["right"]] and len(view.both.rows) == 2
    assert set(s.labels.apart[s.selection]) == {edge["left"], edge["right"]}
    view.graph._heard(None, dict(type="node", id=edge["left"]), [])
    assert set(s.labels.apart[s.selection]) == {edge["left"]}
    view.most.value = 10 ** 6
    view.static()


def test_knobs(app):
    view, s = app.view("Knobs"), app.session
    view.eps.value, view.min_samples.value, view.k1.value = .4, 5, 6
    x, kind = s.source.before(s.epoch), s.source.modality[:s.source.n]
    for m, y in view.labels().items():
        np.testing.assert_array_equal(y, pseudo_labels(jaccard_distance(x[kind == m], 6, 3), .4, 5))
    assert view.curves.title.startswith("eps 0.40") and all(p["now"] == .4 for p in view.curves.panels)
    assert len(view.curves.panels[0]["lines"][0]["x"]) == 13
    view.pick(.5)
    view.apply.click()
    np.testing.assert_array_equal(compact(s.labels.apart[kind == "visible"])[0], view.labels()["visible"])
    corrected = app.view("Curation")
    assert corrected.frame.warn == ""
    corrected.do("undo")
    assert "only shown" in corrected.frame.warn # what-if clusters are not corrected by hand
    view.reset.click()
    np.testing.assert_array_equal(s.labels.apart, s.source.labels(s.epoch).apart)


def test_a_large_graph_is_built_behind_a_bar(monkeypatch, tmp_path):
    monkeypatch.setattr("hil.explore.knob_view.AT_ONCE", 0)
    monkeypatch.setenv("HIL_HOME", str(tmp_path)) # no answers kept by another test
    table, x = people()
    async def visit():
        view = KnobView(as_session(table, x, journal="none.jsonl", **SMALL))
        seen = []
        view.left.observe(lambda change: seen.append((view.building.layout.display, change.new)), "value")
        assert "eps" not in view.curves.title # nothing has been asked of the kernel yet
        for _ in range(400):
            await asyncio.sleep(.01)
            if view.curves.panels and len(view.curves.panels[0]["lines"][0]["x"]) == 13: break
        return view, seen
    view, seen = asyncio.run(visit())
    assert seen and all(display == "" and text.startswith("neighbour graph:") for display, text in seen)
    assert "100 %" in seen[-1][1]
    assert view.building.layout.display == "none" and view.curves.title.startswith("eps")


def test_time(app):
    view, s = app.time, app.session
    points = app.map.scatter.widget.points.copy()
    view.play.value = 0
    assert s.epoch == 1 and view.slider.value == 1 and view.frame.note.startswith("Epoch 1")
    assert not np.array_equal(points[:, :2], app.map.scatter.widget.points[:, :2])
    view.slider.value = 2
    assert s.epoch == 2 and view.play.value == 1
    view.pick(3.)
    assert s.epoch == 3
    for key in ",,,.": app.pressed(key)
    assert s.epoch == 2 and app.view("Matches").direction.value == s.direction()
    assert all(p["now"] == 2 for p in view.curves.panels) and view.curves.panels
    view.static()


def test_an_open_identity_is_followed_through_the_epochs(app, shared):
    s = app.session
    for tab in TABS: app.view(tab)
    codes = identities(s).code
    for code in [*codes[:4], *codes[-2:]]:
        s.open(int(code))
        for epoch in (1, 2, 3):
            s.epoch = epoch
            # closed where all of its images are outliers
            assert s.identity == -1 or s.identity in s.labels.identity[s.selection]


def test_retrieval(app, shared):
    view, s = app.view("Retrieval"), app.session
    assert s.image >= shared.n and view.results.rows # a held-out infrared image to begin with
    for m in MODALITIES:
        view.some[m].click()
        assert shared.modality[s.image] == m and s.image >= shared.n
        ranked, cosine = view.rank(s.image)
        assert set(shared.modality[ranked]) == {*MODALITIES} - {m} and (np.diff(cosine) <= 1e-6).all()
    x = shared.features(s.epoch)
    q = int(np.flatnonzero((shared.camid == 3) & (np.arange(len(x)) >= shared.n))[0])
    assert set(shared.camid[view.rank(q)[0]]) == {1, 4, 5} # not 2, which stands in the same room
    view.hard.click()
    assert "average precision" in view.results.title
    view.among.value = False
    view.some["infrared"].click()
    assert s.image < shared.n
    view.results._heard(None, dict(type="click", image=int(view.rank(s.image)[0][0])), [])
    assert shared.modality[s.image] == "visible"
    view.static()


def test_curation_from_split_to_reload(app, shared, tmp_path):
    view, s = app.view("Curation"), app.session
    view.do("split selection")
    assert "select some images" in view.frame.warn
    rows = identities(s)
    mixed = int(rows[rows.people > 1].code.iloc[0])
    s.open(mixed)
    pid, inside = shared.pid[:s.source.n], s.labels.identity == mixed
    away = np.flatnonzero(inside & (pid != pd.Series(pid[inside]).mode()[0]))
    s.select(away)
    view.name.value = "Grace"
    view.buttons["split selection"].click()
    before, after = view.figures().values()
    assert view.steps() == [(0, before["ari"]), (1, after["ari"])]
    now = identities(s)
    assert f"{(now.people > 1).sum()} of {len(now)} identities mix people, 1 correction" in app.frame.note
    assert s.name(s.identity) == "Grace" and view.frame.warn == ""
    assert after["ari"] != before["ari"] and after["identities"] == before["identities"] + 1
    view.one.value = mixed
    assert s.identity == mixed
    view.name.value = "Ada"
    view.buttons["rename"].click()
    view.other.value = int(rows.code.iloc[-1])
    view.buttons["merge"].click()
    assert not (s.labels.identity == rows.code.iloc[-1]).any()
    app.pressed("2")
    assert s.journal.actions[-1]["do"] == "split"
    s.select([0, 1])
    app.pressed("o")
    assert (s.labels.identity[:2] == -1).all() and s.journal.actions[-1]["do"] == "outlier"
    app.pressed("u")
    assert s.journal.actions[-1]["do"] == "split" and "correction" in app.frame.note
    for name in ("people.csv", "people.parquet"):
        view.file.value = str(tmp_path / name)
        view.buttons["export"].click()
        np.testing.assert_array_equal(read_labels(tmp_path / name, shared.table.path[:shared.n]),
                                      compact(s.labels.identity)[0])
    view.file.value = str(tmp_path / "people.xlsx")
    view.buttons["export"].click()
    assert ".csv or .parquet" in view.frame.warn
    # another kernel, the day after
    again = explore(shared, journal=s.journal_file)
    np.testing.assert_array_equal(again.session.labels.identity, s.labels.identity)
    assert again.session.labels.names == s.labels.names
    assert (again.session.labels.sub[s.labels.identity >= 0] >= 0).all()
    for _ in range(20): view.buttons["undo"].click()
    np.testing.assert_array_equal(s.labels.identity, shared.labels(3).identity)
    assert "nothing to take back" in view.frame.note
    view.static()


def test_labels_of_other_settings_do_not_lose_a_journal(tmp_path):
    table, x = people()
    first = as_session(table, x, journal=tmp_path / "j", **SMALL)
    first.act(dict(do="split", images=[0, 1, 2], name="mine"))
    second = explore(table, x, journal=tmp_path / "j", **{**SMALL, "eps": .3})
    np.testing.assert_array_equal(second.session.labels.identity, first.labels.identity)
    for tab in TABS: second.view(tab)


# ---- alone, and as a picture ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("view", [cluster_map, identity_sheet, match_graph, knobs, timeline, retrieval, review,
                                  curation, explore])
def test_every_view_alone_shows_a_widget_and_a_still(view, shared, tmp_path):
    shown = view(shared, journal=tmp_path / "j")._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"} <= set(shown)
    assert len(shown["image/png"]) > 4000 and "JupyterLab" in shown["text/plain"]


def test_thumbnails_are_sent_for_what_is_in_sight(app):
    heard, sheet = [], app.view("Identity").sheet_
    sheet.send = lambda message, buffers: heard.append((message, buffers))
    sheet._heard(None, {"type": "need", "ids": [0, 5]}, [])
    assert heard[0][0] == {"type": "thumbs", "ids": [0, 5]} and all(b[:2] == b"\xff\xd8" for b in heard[0][1])
    sheet._heard(None, {"type": "click", "image": 5}, [])
    assert app.session.image == 5 and not len(app.session.selection)
    sheet._heard(None, {"type": "pick", "images": [5], "how": "toggle", "state": sheet.state}, [])
    assert list(app.session.selection) == sheet.picked == [5]
