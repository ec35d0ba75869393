"Parts of hil.explore.app on a few embeddings whose figures can be counted by hand; no run is trained here."
import asyncio
import base64
import io
import json
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import papermill
from PIL import Image
from sklearn.metrics import average_precision_score

from hil.core.names import MODALITIES
from hil.core.text import duration
from hil.explore.app import explore
from hil.explore.coordinates import Maps
from hil.explore.curation_view import CurationView
from hil.explore.journal import Journal
from hil.explore.knob_view import KnobView, in_turns
from hil.explore.map_view import MapView
from hil.explore.retrieval_view import RetrievalView
from hil.explore.session import as_session, identities, nearest_identities
from hil.explore.view import STILL
from hil.explore.what_if import Graph, transfer_between
from hil.method.advice import advise

SMALL = dict(k1=8, k1_infrared=8, k2=2, min_samples=3, n_sub=2, threshold=.5)


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    "Maps, graphs and answers are kept here, and by no other test."
    monkeypatch.setenv("HIL_HOME", str(tmp_path))


def people(n=8, k=6, seed=0, spread=.4, **columns):
    "Embeddings of k people, n images of each in each modality; and coordinates, so that no UMAP is drawn."
    rng, who = np.random.default_rng(seed), np.tile(np.repeat(np.arange(k), n), 2)
    table = pd.DataFrame({"path": [f"{i}.jpg" for i in range(len(who))],
                          "camid": np.where(np.arange(len(who)) < n * k, 1 + np.arange(len(who)) % 2, 3),
                          "modality": np.repeat(MODALITIES, n * k), "pid": who})
    x = (rng.standard_normal((k, 16))[who] + spread * rng.standard_normal((len(who), 16))).astype(np.float32)
    return table.assign(**columns), x


def session(tmp_path, table, x, **options):
    clustered = table.train.to_numpy() if "train" in table else slice(None)
    return as_session(table, x, xy=x[clustered, :2], journal=tmp_path / "j.jsonl", **{**SMALL, **options})


def test_a_graph_copies_no_features_that_stand_together():
    "A copy of many images takes a second, at each visit; in another order nothing changes but the order."
    table, x = people()
    modality, mixed = table.modality.to_numpy(), np.random.default_rng(0).permutation(len(x))
    graph, other = Graph(x, modality, SMALL), Graph(x[mixed], modality[mixed], SMALL)
    for m in MODALITIES:
        assert np.shares_memory(graph.x[m], x)
        np.testing.assert_array_equal(graph.x[m], x[modality == m])
        np.testing.assert_array_equal(other.x[m], x[mixed][modality[mixed] == m])
    assert not len(Graph(x, np.repeat("visible", len(x)), SMALL).x["infrared"])


# ---- figures --------------------------------------------------------------------------------------------------------

def test_figures_of_identities_are_those_counted_by_hand(tmp_path):
    table, x = people()
    # 0 and 1 are one identity, 5 is nobody
    label = table.pid.where(table.pid != 5, -1).where(table.pid != 1, 0)
    s = session(tmp_path, table.assign(label=label), x)
    rows, unit = identities(s), x / np.linalg.norm(x, axis=1, keepdims=True)
    assert rows.images.tolist() == [32, 16, 16, 16] and rows.name.tolist() == ["0", "2", "3", "4"]
    for row in rows.itertuples():
        inside = (label == int(row.name)).to_numpy()
        pid = table.pid[inside]
        assert row.visible == row.infrared == inside.sum() / 2 and row.cameras == table.camid[inside].nunique() == 3
        assert row.people == pid.nunique() and row.purity == pid.value_counts().max() / inside.sum()
        middle = unit[inside].mean(0)
        assert row.tightness == pytest.approx(np.mean([u @ middle / np.linalg.norm(middle) for u in unit[inside]]),
                                              abs=1e-5)
    centres = {int(row.code): x[(s.labels.identity == row.code)].mean(0) for row in rows.itertuples()}
    for code in centres:
        cosine = {c: a @ centres[code] / np.linalg.norm(a) for c, a in centres.items() if c != code}
        assert [c for c, _ in nearest_identities(s, code)] == sorted(cosine, key=cosine.get, reverse=True)[:3]
    q = s.source.quality(s.labels.identity)
    # 16 of the 80 labelled are with a stranger
    assert q["identities"] == 4 and q["outliers"] == 16 and q["purity"] == 64 / 80


def test_quality_of_some_rows_is_not_that_of_others(tmp_path):
    table, x = people(pid=np.repeat([0, 1, 2, 3], 24))
    s, y = session(tmp_path, table, x), np.repeat([0, 1], 24)
    assert s.source.quality(y, np.arange(48))["ari"] == 1
    # the same labels of other images
    assert s.source.quality(y, np.r_[0:12, 24:36, 0:12, 24:36])["ari"] < .1


def test_a_quality_that_does_not_reward_merging():
    "Two people as two clusters stand apart; as one cluster, as outliers, or torn into pairs they do not."
    x = np.float32([[0, 1], [.01, 1], [.02, 1], [1, 0], [1, .01], [1, .02]])
    graph = Graph(x, np.repeat("visible", 6), {**SMALL, "eps": .5})
    assert graph.apart("visible", np.array([0, 0, 0, 1, 1, 1])) > .9
    for y in ([0] * 6, [-1] * 6, [0, 0, 1, 1, 2, 2]): assert graph.apart("visible", np.array(y)) == 0


def test_knobs_suggest_what_stands_apart():
    table, x = people()
    view = KnobView(as_session(table, x, xy=x[:, :2], journal="none.jsonl", **SMALL))
    advice = advise(view.session.graph().curve(view.quality).assign(k1=SMALL["k1"]))
    for row in advice.itertuples():
        assert f"{row.modality} clusters stand furthest apart at k1 {row.k1}" in view.advice.note
    marks = [line for panel in view.curves.panels for line in panel["lines"] if line["name"] == "suggested"]
    assert {line["x"][0] for line in marks} == set(advice.eps) and all(len(line["y"]) == 1 for line in marks)
    before = view.settings()
    view.suggest.click()
    assert view.advice.note.startswith("Suggested: visible clusters") and view.settings() == before


def test_a_match_is_right_where_both_clusters_are_mostly_one_person():
    table, x = people()
    kind, apart = table.modality.to_numpy(), table.pid + 6 * (table.modality == "infrared")
    pid = table.pid.to_numpy().copy()
    pid[(kind == "visible") & (pid == 2)] = 99 # a stranger in cluster 2
    pid[(kind == "infrared") & (pid == 4)] = -1 # nobody knows cluster 4
    way = transfer_between(x, apart.to_numpy(), kind, pid=pid)
    rows = way.table("one_way", "cluster").set_index("source")
    assert (rows.target == rows.index).all()
    assert rows.correct.to_dict() == {0: True, 1: True, 2: False, 3: True, 4: None, 5: True}
    assert way.quality(way.send("one_way", "cluster")) == dict(precision=4 / 5, coverage=1.)  # nobody knows the sixth
    assert way.quality(np.where(way.labels < 3, way.labels, -1)) == dict(precision=2 / 3, coverage=.5)


# ---- retrieval ------------------------------------------------------------------------------------------------------

def test_retrieval_scores_and_the_hard_ones_first(tmp_path):
    table, x = people(spread=2.5, train=np.arange(96) % 8 < 4)
    view = RetrievalView(session(tmp_path, table, x))
    source, scores = view.session.source, {}
    for i in range(source.n, len(source.table)):
        ranked, cosine = view.rank(i)
        hit = source.pid[ranked] == source.pid[i]
        ap, first = scores[i] = view.score(i, ranked)
        assert ap == pytest.approx(average_precision_score(hit, cosine))
        assert hit[first - 1] and not hit[:first - 1].any()
    asked = []
    for _ in range(3):
        view.hard.click()
        asked.append(view.session.image)
    assert [scores[i][0] for i in asked] == sorted(ap for ap, _ in scores.values())[:3] and len(set(asked)) == 3
    source.pid[asked[0]] = 77 # nobody in the other modality is this person
    assert view.score(asked[0], view.rank(asked[0])[0]) is None


# ---- corrections ----------------------------------------------------------------------------------------------------

def test_splitting_in_two_takes_the_smaller_person_out(tmp_path):
    table, x = people(spread=.1)
    astray = (table.pid == 1) & (table.index % 2 == 0)
    s = session(tmp_path, table.assign(label=table.pid.where(~astray, 0)), x)
    view = CurationView(s)
    s.open(0)
    view.do("split in two")
    assert ((s.labels.identity == s.identity) == astray).all() and s.name(s.identity) == "N0"
    assert [k for k, _ in view.steps()] == [0, 1] and view.steps()[1][1] > view.steps()[0][1]
    for k in range(80): s.act(dict(do="split", images=[0, 1], name=f"N{k + 1}"))
    done = [k for k, _ in view.steps()]
    assert len(done) <= 60 and done[0] == 0 and done[-1] == 81 and s.labels.names[-1] == "N80"
    s.open(2)
    view.other.value = 2
    view.do("merge")
    assert "choose another one" in view.frame.warn


def test_a_journal_is_kept_from_strangers_and_from_two_writers(tmp_path):
    file, paths = tmp_path / "j.jsonl", list("abcd")
    first, second = (Journal(file, paths, [0, 0, 1, 1], ["A", "B"]) for _ in range(2))
    first.do(dict(do="outlier", images=[0]))
    with pytest.raises(ValueError, match="another program"): second.do(dict(do="outlier", images=[3]))
    assert second.labels.tolist() == [0, 0, 1, 1] and len(file.read_text().splitlines()) == 2
    with pytest.raises(ValueError, match="other images"): Journal(file, list("abce"), [0] * 4, ["A"])
    for text, words in (("no json\n", "is no journal"), (json.dumps({"journal": 2}) + "\n", "of this version"),
                        ("[]\n", "of this version")):
        file.write_text(text)
        with pytest.raises(ValueError, match=words): Journal(file, paths, [0] * 4, ["A"])


# ---- linked, asleep and awake ---------------------------------------------------------------------------------------

def test_a_tab_that_nobody_sees_sleeps_and_catches_up(tmp_path):
    table, x = people()
    app = explore(table, x, xy=x[:, :2], journal=tmp_path / "j", **SMALL)
    def tab(name): app.tabs.selected_index = app.tabs.titles.index(name)
    tab("Retrieval")
    tab("Identity")
    old, title = app.views["Retrieval"].results.rows, app.views["Identity"].sheet_.title
    app.session.image = 7
    assert app.views["Retrieval"].results.rows is old
    tab("Retrieval")
    assert app.views["Retrieval"].results.rows[0]["sides"][0][0][0] == 7
    app.session.select([1, 2, 3])
    assert app.views["Identity"].sheet_.title == title
    tab("Identity")
    assert app.views["Identity"].sheet_.title.startswith("Selection: 3 images")


def test_thumbnails_are_picked_by_ctrl_shift_and_frame(tmp_path):
    table, x = people()
    view = explore(table, x, journal=tmp_path / "j", xy=x[:, :2], **SMALL).view("Identity")
    s, title = view.session, view.sheet_.title
    for images, how, now in (([5], "toggle", [5]), ([9], "toggle", [5, 9]), ([5], "toggle", [9]),
                             ([9, 10, 11], "add", [9, 10, 11]), ([2, 3], "set", [2, 3])):
        view.picked(images, how)
        assert s.selection.tolist() == view.sheet_.picked == now
        assert view.sheet_.title == title and s.identity == -1   # what is looked at stays
    view.clicked(3)
    assert s.image == 3 and s.selection.tolist() == [2, 3]
    s.select([7, 8])
    assert view.sheet_.title.startswith("Selection: 2 images") and view.sheet_.picked == []


def test_turns_can_be_stopped():
    async def visit():
        seen = []
        stop = in_turns((seen.append(i) for i in range(10 ** 6)), 0)
        while len(seen) < 3: await asyncio.sleep(.005)
        stop()
        now = len(seen)
        await asyncio.sleep(.1)
        return now, len(seen)
    now, later = asyncio.run(visit())
    assert now == later
    seen = []
    in_turns(seen.append(i) for i in range(5)) # no event loop: all at once
    assert seen == [0, 1, 2, 3, 4]


# ---- waiting, and where nothing can be shown ------------------------------------------------------------------------

def test_a_large_map_is_announced_once(monkeypatch, tmp_path):
    monkeypatch.setattr("hil.explore.widgets.LARGE", 0)
    shown = []
    class Handle: update = staticmethod(shown.append)
    monkeypatch.setattr("hil.explore.widgets.display", lambda notice, display_id: shown.append(notice) or Handle)
    table, x = people()
    for _ in range(2): MapView(as_session(table, x, journal=tmp_path / "j", **SMALL)) # the second reads what is kept
    first, last = shown
    assert repr(first).startswith("drawing the map of 96 images, duration ")
    assert f"animation:hil-wait {first.seconds:.0f}s" in first._repr_html_()
    assert repr(last).startswith("The map of 96 images took ") and "animation" not in last._repr_html_()
    monkeypatch.setattr("hil.explore.widgets.LARGE", 10 ** 6)
    (tmp_path / "maps").rename(tmp_path / "gone")
    MapView(as_session(table, x, journal=tmp_path / "j", **SMALL))
    assert len(shown) == 2 # a small one is not announced


def test_a_keys_epoch_is_announced_with_all_the_maps_it_needs(tmp_path):
    table, x = people()
    source = as_session(table, x, **SMALL).source
    source.epochs, source.history = [0, 1, 2, 3], pd.DataFrame({"epoch": [0, 1, 2, 3]})
    maps = Maps(source)
    assert maps.missing(1) == [1, 2, 3] and maps.seconds(1) > maps.seconds(3) > 0
    maps._kept[3] = x[:, :2]
    assert maps.missing(1) == [1, 2] and maps.missing(3) == [] and maps.seconds(3) == 0
    source._result = 1                                     # what is opened waits for no later epoch
    assert maps.missing(1) == [1] and maps.missing(2) == [2, 1] and maps.missing(0) == [0, 1]
    source._result = None
    assert duration(.2) == "1 s" and duration(61.4) == "61 s" and duration(300) == "5 minutes"
    app = explore(source, xy={e: x[:, :2] for e in (2, 3)}, journal=tmp_path / "j")
    heard = []
    app.time.frame.observe(lambda change: heard.append(change.new), "note")
    app.pressed(",")
    assert len(heard) == 1 and heard[0].startswith("Epoch 2") # its map was there
    app.pressed(",")
    assert heard[1].startswith("drawing the map of epoch 1, duration ") and heard[2].startswith("Epoch 1")


def test_text_where_nothing_can_be_shown(tmp_path):
    table, x = people()
    app = explore(table, x, xy=x[:, :2], name="mine", journal=tmp_path / "j", **SMALL)
    assert repr(app) == "Explorer(mine: 96 clustered images, epoch 0)"
    assert repr(app.view("Knobs")).startswith("KnobView(mine")
    text = app._repr_mimebundle_()["text/plain"]
    assert text.startswith(repr(app)) and "JupyterLab" in text and ".static()" in text
    app.static().savefig(tmp_path / "look.png")
    assert (tmp_path / "look.png").read_bytes()[:4] == b"\x89PNG"


def test_papermill_leaves_a_picture_of_every_view(tmp_path):
    done = papermill("9_explore/00_app", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    cells = {c.source.splitlines()[-1]: c.outputs
             for c in nbformat.read(tmp_path / "out.ipynb", 4).cells if c.cell_type == "code" and c.source}
    for view in ("app", "matches", "knobs(app.session)"):
        data = cells[view][-2].data # the last one is its twin, for JupyterLab without a kernel
        assert "still-twin" in cells[view][-1].data["text/html"]
        assert len(data["image/png"]) > 4000 and "clustered images" in data["text/plain"]


def test_committed_notebooks_show_a_picture_where_no_widgets_are_known():
    "VS Code without its widgets, GitHub, a kernel that is gone: each view that is stored brings its still picture."
    views = 0
    for file in sorted((Path(__file__).parents[1] / "nbs").rglob("*.ipynb")):
        for cell in nbformat.read(file, 4).cells:
            for data in (out.get("data", {}) for out in cell.get("outputs", [])):
                if STILL not in data.get("text/plain", "") and not any("widget" in kind for kind in data): continue
                views += 1
                picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
                assert min(picture.size) > 100 and len(np.unique(np.asarray(picture.convert("L")))) > 20, file
    assert views > 10
