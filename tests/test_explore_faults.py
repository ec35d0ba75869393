"Faults that users of the explorer met, each with a test by which it would be seen again."
import json

import numpy as np
import pandas as pd
import pytest

from hil.core.names import MODALITIES
from hil.explore.app import TABS, cluster_map, explore
from hil.explore.colorings import coloring
from hil.explore.curation_view import LAST
from hil.explore.find_view import SHOWN, image_table
from hil.explore.identity_view import PAGE, IdentityView
from hil.explore.journal import Journal, export_labels, read_labels
from hil.explore.map_view import MapView
from hil.explore.session import as_session

SMALL = dict(k1=8, k1_infrared=8, k2=2, min_samples=3, n_sub=2, threshold=.5)


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    "Maps, graphs and answers are kept here, and by no other test."
    monkeypatch.setenv("HIL_HOME", str(tmp_path))


def people(n=8, k=6, seed=0, truth=True, **columns):
    "Embeddings of k people, n images of each in each modality, labelled with who they are."
    rng, who = np.random.default_rng(seed), np.tile(np.repeat(np.arange(k), n), 2)
    table = pd.DataFrame({"path": [f"crop{i}.jpg" for i in range(len(who))],
                          "camid": np.where(np.arange(len(who)) < n * k, 1 + np.arange(len(who)) % 2, 3),
                          "modality": np.repeat(MODALITIES, n * k), "label": who})
    if truth: table["pid"] = who
    x = (rng.standard_normal((k, 16))[who] + .2 * rng.standard_normal((len(who), 16))).astype(np.float32)
    return table.assign(**columns), x


def open_app(tmp_path, table, x, **options):
    return explore(table, x, xy=x[:, :2], journal=tmp_path / "j.jsonl", **{**SMALL, **options})


@pytest.fixture
def app(tmp_path): return open_app(tmp_path, *people())


@pytest.fixture
def two_epochs(tmp_path):
    "The same images in epochs 1 and 2."
    table, x = people()
    source = as_session(table, x, **SMALL).source
    source.epochs, source.history = [1, 2], pd.DataFrame({"epoch": [1, 2]})
    return explore(source, xy={e: x[:, :2] for e in (1, 2)}, journal=tmp_path / "j.jsonl")


def inside(s): return np.flatnonzero(s.labels.identity == s.identity).tolist()


# ---- selecting ------------------------------------------------------------------------------------------------------

def test_the_first_pick_in_an_open_identity_is_all_that_is_selected(app):
    s, view = app.session, app.view("Identity")
    s.open(0)
    assert s.selection.tolist() == inside(s) and view.sheet_.picked == []      # shown on the map, but nothing chosen
    view.picked([inside(s)[2]], "toggle")
    assert s.selection.tolist() == view.sheet_.picked == [inside(s)[2]] and s.identity == 0
    view.picked([inside(s)[3]], "toggle")
    assert len(s.selection) == 2


def test_splitting_off_all_that_was_opened_is_refused(app):
    s, view = app.session, app.view("Curation")
    s.open(0)
    view.do("split selection")
    assert "all of 0 is selected" in view.frame.warn and not s.curated


def test_undo_selects_what_the_identity_holds_again(app):
    s, view = app.session, app.view("Curation")
    s.open(0)
    view.other.value = 1
    view.do("merge")
    assert s.selection.tolist() == inside(s) and len(inside(s)) == 32
    view.do("undo")
    assert s.identity == 0 and s.selection.tolist() == inside(s) and len(inside(s)) == 16


def test_a_subclusters_head_selects_it_and_lets_it_go(app):
    s, view = app.session, app.view("Identity")
    s.open(0)
    assert all(row["go"] for row in view.sheet_.rows)
    view.sheet_._heard(None, dict(type="row", row=0, state=view.sheet_.state), [])
    assert s.selection.tolist() == view._parts[0].tolist() and s.identity == 0
    view.entered(0)
    assert not len(s.selection)


def test_the_menu_of_the_other_identity_stays_while_images_are_picked(app):
    s, view = app.session, app.view("Curation")
    s.open(0)
    view.other.value = 4
    s.pick([0])
    s.pick([1])
    assert view.other.value == 4
    view.do("move selection")
    assert (s.labels.identity[:2] == 4).all() and s.identity == 4 and s.journal.actions[-1]["do"] == "move"
    view.do("move selection")
    assert len(s.journal.actions) == 1 and "which is a merge" in view.frame.warn # pressed twice


def test_a_click_on_what_has_changed_since_does_nothing(app):
    s, view = app.session, app.view("Identity")
    old = view.sheet_.state
    s.act(dict(do="merge", into=0, others=[1]))
    view.sheet_._heard(None, dict(type="row", row=2, state=old), [])
    assert s.identity == -1 and "did nothing" in app.answer.warn
    app.frame._heard(None, dict(type="key", key="u", state=old), [])
    assert len(s.journal.actions) == 1
    view.sheet_._heard(None, dict(type="row", row=2, state=view.sheet_.state), [])
    assert s.identity >= 0


def test_no_click_is_taken_while_an_epoch_is_on_its_way(two_epochs):
    app, heard = two_epochs, []
    app.frame.observe(lambda change: heard.append(change.new), "busy")
    app.session.observe(lambda change: heard.append("epoch"), "epoch")
    app.time.go(1)
    assert heard == ["epoch 1 ...", "epoch", ""]


def test_another_epoch_asks_no_questions_and_makes_none(two_epochs, monkeypatch):
    app, s = two_epochs, two_epochs.session
    app.tabs.selected_index = app.tabs.titles.index("Review")
    review = app.view("Review")
    question = review.question.speakers
    with monkeypatch.context() as patch:
        patch.setattr("hil.explore.session.Review", lambda *_: 1 / 0)            # it takes seconds of a large run
        s.epoch = 1
        assert review.question is None and "made on epoch 2" in review.strips.empty and not review.strips.rows
        app.pressed("y")
        assert "go there" in review.frame.warn and not s.curated
        review.static()
        s.epoch = 2
        assert review.question.speakers == question and review.strips.rows and "worth asking" in review.frame.note


# ---- saying ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("key", "svmo")
def test_what_a_key_cannot_do_is_said_above_any_tab(app, key):
    app.pressed(key)
    assert app.tabs.titles[app.tabs.selected_index] == "Identity" and app.answer.warn and not app.answer.note


def test_what_a_key_did_is_said_above_any_tab(app):
    app.session.select([3, 4])
    app.pressed("o")
    assert app.answer.note.startswith("2 images set aside") and not app.answer.warn
    app.pressed(".")
    assert "last one" in app.answer.warn
    app.pressed("?")
    assert "m merge" in app.answer.note and not app.answer.warn
    app.tabs.selected_index = app.tabs.titles.index("Curation")
    app.pressed("s")
    assert app.view("Curation").frame.warn and not app.answer.warn          # said there already


def test_an_error_does_not_stand_beside_an_old_success(app, tmp_path):
    view = app.view("Curation")
    for name, good in (("people.csv", True), ("nowhere/people.csv", False), ("people.parquet", True)):
        view.file.value = str(tmp_path / name)
        view.do("export")
        assert bool(view.frame.note) == good and bool(view.frame.warn) != good
    assert not (tmp_path / "nowhere").exists()


def test_no_view_speaks_of_an_epoch_that_is_not_shown(two_epochs):
    app, s = two_epochs, two_epochs.session
    views = {name: app.view(name) for name in ("Matches", "Review", "Knobs", "Curation")}
    s.epoch = 1
    views["Matches"].use(), views["Knobs"].use(), views["Review"].pressed("y"), views["Curation"].do("undo")
    said = [views[name].said for name in ("Matches", "Knobs")] + [views[name].frame for name in ("Review", "Curation")]
    assert all("this is epoch 1" in frame.warn for frame in said)
    s.epoch = 2
    assert not any(frame.warn for frame in said)


def test_corrections_say_which_epoch_is_shown(two_epochs):
    s, view = two_epochs.session, two_epochs.view("Curation")
    s.epoch = 1
    view.do("undo")
    assert "made on epoch 2, the result of the run; this is epoch 1: go there" in view.frame.warn
    s.epoch = 2
    assert not view.frame.warn                                                   # nobody is there any more
    s.replace({m: s.source.labels(2).apart[s.source.rows(m)] for m in MODALITIES})
    view.do("undo")
    assert "only shown" in view.frame.warn and "go there" not in view.frame.warn


def test_colours_without_truth_are_refused_in_a_sentence(tmp_path):
    table, x = people(truth=False)
    for call in (lambda: cluster_map(table, x, xy=x[:, :2], color="person", journal=tmp_path / "j", **SMALL),):
        with pytest.raises(ValueError, match="nobody in embeddings is named"): call()


# ---- names and files ------------------------------------------------------------------------------------------------

def test_two_identities_never_share_a_name(app):
    s, view = app.session, app.view("Curation")
    s.open(0)
    view.name.value = " 3 "
    view.do("rename")
    assert "there is an identity 3 already" in view.frame.warn and s.name(0) == "0"
    s.pick([0, 1])
    view.name.value = "0"
    view.do("split selection")
    assert "already" in view.frame.warn
    s.open(1)
    view.name.value = "N0"
    view.do("rename")
    s.open(0)
    view.do("split in two")
    assert s.name(s.identity) == "N1"                                         # N0 is taken
    names = [s.labels.names[c] for c in np.unique(s.labels.identity)]
    assert len(set(names)) == len(names)


def test_an_export_keeps_every_column_and_claims_nothing_unknown(tmp_path):
    table, x = people(truth=False, pid=-1, name="A", seen=np.arange(96))
    table.loc[:47, "camid"] = -1
    app = open_app(tmp_path, table, x)
    view = app.view("Curation")
    view.file.value = str(tmp_path / "out.csv")
    view.do("export")
    out = pd.read_csv(view.file.value).set_index("path").loc[table.path]
    assert out.pid.isna().all() and out.camid.isna().sum() == 48 and (out.camid[48:] == 3).all()
    assert out.seen.tolist() == list(range(96)) and (out.label_before == table.label.to_numpy()).all()
    assert (read_labels(view.file.value, table.path) == table.label).all()


def test_an_export_makes_no_folder(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        export_labels(Journal(None, ["a.jpg"], [0], ["V0"]), tmp_path / "new" / "labels.csv")
    assert not (tmp_path / "new").exists()


def test_a_run_on_crops_without_cameras_speaks_of_none(tmp_path):
    table, x = people(truth=False, camid=0)
    s = as_session(table, x, xy=x[:, :2], journal=tmp_path / "j", **SMALL)
    s.source.camera_name[:] = ""                                              # as for a run folder, see Source
    view = IdentityView(s)
    s.open(0)
    words = view.sheet_.title + json.dumps(view.sheet_.rows)
    assert "cam" not in words and "person" not in words and "crop0.jpg" in words
    assert [label for label, _ in coloring(s, "camera")[1]] == ["camera unknown"]


# ---- what ends, says so ---------------------------------------------------------------------------------------------

def test_a_long_list_of_identities_has_pages(tmp_path):
    s = as_session(*people(2, 130), journal=tmp_path / "j", xy=np.zeros((520, 2)), **SMALL)
    view = IdentityView(s)
    assert len(view.sheet_.rows) == PAGE and "1 to 60 of 130 are listed" in view.sheet_.title and view.less.disabled
    seen = {row["head"] for row in view.sheet_.rows}
    for _ in range(2):
        view.more.click()
        seen |= {row["head"] for row in view.sheet_.rows}
    assert len(seen) == 130 and view.more.disabled and "121 to 130 of 130" in view.sheet_.title
    view.find.value = "12"
    assert {row["head"] for row in view.sheet_.rows} == {"12", "112", *(f"12{i}" for i in range(10))}
    view.find.value = "Ada"
    assert not view.sheet_.rows and "no identity is called Ada" in view.sheet_.empty


def test_shortened_lists_say_so(tmp_path):
    table, x = people(40, 3)
    table["label"] = 0
    table["camid"] = np.arange(len(table)) % 20
    app = open_app(tmp_path, table, x)
    row, = app.view("Identity").sheet_.rows
    assert "240 images, 12 of them shown" in row["note"]
    assert "person 0 (80), person 1 (80), person 2 (80)" in row["note"]
    app.session.color = "camera"
    assert app.map.frame.key[-1][0] == "and 8 more"
    assert "the first 24 of 120 ranked" in app.view("Retrieval").results.rows[1]["note"]
    assert "1 to 200 of 240" in app.view("Find").sheet_.rows[0]["note"] and SHOWN == 200
    for _ in range(LAST + 2): app.session.act(dict(do="outlier", images=[0]))
    assert f"8 corrections in j.jsonl, the last {LAST} of them" in app.view("Curation").table.value


def test_orders_of_identities(tmp_path):
    table, x = people(8, 4)
    table.loc[(table.label == 2) & (table.modality == "infrared"), "label"] = 1
    table.loc[table.label == 3, "label"] = 0
    view = IdentityView(as_session(table, x, journal=tmp_path / "j", xy=x[:, :2], **SMALL))
    heads = {}
    for sort in view.sort.options:
        view.sort.value = sort
        heads[sort] = [row["head"] for row in view.sheet_.rows]
    assert heads["largest first"] == ["0", "1", "2"] and heads["smallest first"] == ["2", "1", "0"]
    assert heads["in one modality first"][0] == "2" and heads["most mixed first"][0] == "0"
    assert heads["least certain first"][-1] == "2"


# ---- the map --------------------------------------------------------------------------------------------------------

def test_no_modality_lies_over_the_other(tmp_path):
    table, x = people(40, 3)
    view = MapView(as_session(table, x, journal=tmp_path / "j", xy=x[:, :2], **SMALL))
    last = view.session.source.modality[view.order[-60:]]
    assert 15 < (last == "visible").sum() < 45                                # drawn last, on top
    np.testing.assert_array_equal(view.order[view.place], np.arange(240))
    view.scatter.widget.selection = view.place[[5, 200]].astype(np.uint32)
    assert view.session.selection.tolist() == [5, 200]
    at = view.scatter.widget.points[view.place[7], :2]
    np.testing.assert_allclose(at, view.session.maps.xy(0)[7] / 1.12, atol=1e-4)


def test_the_card_under_the_pointer_names_the_file(app):
    heard = []
    app.map.scatter.widget.send = heard.append
    app.map.hovered({"index": int(app.map.place[30])})
    assert "crop30.jpg" in heard[0]["properties"]["about"] and heard[0]["index"] == app.map.place[30]


# ---- finding --------------------------------------------------------------------------------------------------------

def test_selection_is_a_table(app):
    assert len(app.selection()) == 0
    app.session.select([3, 60])
    out = app.selection()
    assert out.index.tolist() == [3, 60] and out.path.tolist() == ["crop3.jpg", "crop60.jpg"]
    assert out.identity.tolist() == ["0", "1"] and out.camera.tolist() == ["2", "3"] and (out.certainty > 0).all()


def test_find_narrows_sorts_and_selects(app):
    view = app.view("Find")
    view.column.value, view.sign.value, view.value.value = "camera", "=", "3"
    view.add.click()
    view.column.value, view.value.value = "identity", "2"
    view.add.click()
    assert view.found().tolist() == list(range(64, 72)) and "where camera = 3 and identity = 2" in view.sheet_.title
    view.by.value = "certainty"
    sure = image_table(app.session).certainty[view.found()]
    assert (np.diff(sure) >= 0).all()
    view.falling.value = True
    assert (np.diff(image_table(app.session).certainty[view.found()]) <= 0).all()
    view.take.click()
    assert app.session.selection.tolist() == sorted(view.found())
    view.column.value, view.value.value = "certainty", "much"
    view.add.click()
    assert "expected a number" in app.answer.warn and len(view.conditions) == 2
    view.over.click()
    assert len(view.found()) == 96


def test_every_tab_without_truth_or_cameras(tmp_path):
    table, x = people(truth=False, camid=-1)
    app = open_app(tmp_path, table, x)
    for tab in TABS:
        app.view(tab).static()
        app.tabs.selected_index = app.tabs.titles.index(tab)


def test_large_pictures_are_named(app):
    sent = []
    app.frame.send = lambda message, buffers: sent.append((message, buffers))
    app.pressed("f")
    assert "click an image first" in app.answer.warn or sent
    app.session.select(np.arange(40))
    app.pressed("f")
    message, buffers = sent[-1]
    assert len(message["captions"]) == len(buffers) == 12 and "crop0.jpg" in message["captions"][0]
    assert all(b[:2] == b"\xff\xd8" for b in buffers) and "12 of 40" in app.answer.note


# ---- the same person? -----------------------------------------------------------------------------------------------

def test_the_question_of_a_match_can_be_answered(app):
    s, view = app.session, app.view("Matches")
    edge = view.graph.edges[0]
    view.edge(edge["left"], edge["right"])
    both = np.flatnonzero(np.isin(s.labels.apart, (edge["left"], edge["right"])))
    assert view.question.layout.display == "" and view.both.title.endswith("the same person?")
    view.answer(True)
    assert "are one already" in app.answer.note and not s.curated
    view.no.click()
    assert len(set(s.labels.identity[both])) == 2 and len(s.journal.actions) == 1 and "are N0 now" in app.answer.note
    parted = int(s.labels.apart[both[-1]])  # the infrared images are a cluster with a number of its own now
    view.edge(edge["left"], parted)
    view.no.click()
    assert "are two already" in app.answer.note and len(s.journal.actions) == 1
    view.yes.click()
    assert len(set(s.labels.identity[both])) == 1 and s.identity == s.labels.identity[both[0]]
    s.undo()
    assert len(set(s.labels.identity[both])) == 2
    s.epoch, s._replaced[s.epoch] = s.epoch, s.labels
    view.edge(edge["left"], parted)
    view.yes.click()
    assert "only shown" in app.answer.warn
