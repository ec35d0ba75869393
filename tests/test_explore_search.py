"Searching by a picture from disk, and the times of pictures."
import logging
import shutil

import numpy as np
import pandas as pd
import pytest

import hil.explore.picture_search as picture_search
from hil.core.errors import DataError, RunError
from hil.core.names import MODALITIES
from hil.evaluation.sightings import identity_table
from hil.explore.app import explore
from hil.explore.find_view import image_table
from hil.explore.picture_search import search_picture
from hil.explore.session import as_session
from hil.explore.source import open_source
from hil.explore.when import WhenView, read_times, times, times_of
from hil.plots.timelines import KINDS, lanes, time_ticks, time_words

SMALL = dict(k1=8, k1_infrared=8, k2=2, min_samples=3, n_sub=2, threshold=.5)


@pytest.fixture
def app(whole, tmp_path):
    "The explorer on a run, without a map that takes time."
    n = int(whole.images.train.sum())
    return explore(str(whole.path), xy=np.random.default_rng(0).standard_normal((n, 2)), journal=tmp_path / "j.jsonl")


def file_of(app, i): return app.session.source.root / app.session.source.paths[i]


def asked(app, path, modality="visible"):
    "The view Find, after somebody typed a path and pressed search."
    find = app.view("Find")
    find.like.path.value, find.like.modality.value = str(path), modality
    find.like.go.click()
    return find


# ---- a picture from disk --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("m", MODALITIES)
def test_a_picture_of_the_run_comes_first(app, m):
    i = int(app.session.source.rows(m)[5])
    find = asked(app, file_of(app, i), m)
    assert app.session.told == ("", False) and find.found()[0] == i
    assert find.like.picture.value[:2] == b"\xff\xd8" and find.like.near.children
    caption = find.sheet_.rows[0]["sides"][0][0][2]
    assert float(caption) > .999 and find.by.value == "similarity"
    falling = image_table(app.session).similarity[find.found()]
    assert (falling.diff().dropna() <= 0).all() and falling.between(-1.001, 1.001).all()


def test_the_network_is_loaded_once(app, monkeypatch):
    loads, load = [], picture_search.load_encoder
    monkeypatch.setattr(picture_search, "load_encoder", lambda path: loads.append(path) or load(path))
    busy = []
    app.session.observe(lambda change: busy.append(change.new), "busy")
    for i in (0, 3): asked(app, file_of(app, i))
    assert len(loads) == 1
    assert busy[0].startswith("loading the network") and busy[2] == "searching ..." and app.session.busy == ""


def test_the_search_is_a_table_and_changes_nothing(app):
    before = image_table(app.session)
    table = app.search(file_of(app, 4), "visible")
    assert table.index[0] == 4 and table.similarity.is_monotonic_decreasing and len(table) == len(before)
    assert app.session.searched is None and image_table(app.session) is before


def test_a_home_folder_is_found(app, monkeypatch, tmp_path):
    shutil.copyfile(file_of(app, 2), tmp_path / "found.jpg")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert app.search(" ~/found.jpg ", "visible").index[0] == 2


def test_another_epoch_lets_the_search_go(app):
    find = asked(app, file_of(app, 0))
    find.column.value, find.sign.value, find.value.value = "similarity", ">", "0.5"
    find.add.click()
    assert find.conditions and len(find.found()) < app.session.source.n
    app.session.epoch = 1
    assert app.session.searched is None and find.conditions == [] and find.by.value == ""
    assert "similarity" not in find.column.options and "is let go" in find.like.note.value
    find.like.go.click()                                           # its weights were not kept
    words, wrong = app.session.told
    assert wrong and f"go to epoch {app.session.source.labelled[-1]} first" in words and app.session.searched is None


def test_start_over_clears_the_search(app):
    find = asked(app, file_of(app, 0))
    find.over.click()
    assert app.session.searched is None and find.like.beside.layout.display == "none"
    assert find.by.value == "" and find.falling.value is False and len(find.found()) == app.session.source.n


def test_a_sleeping_view_hears_of_a_new_epoch(app):
    find = asked(app, file_of(app, 0))
    app.turn("Identity")
    app.session.epoch = 1
    assert "similarity" not in image_table(app.session)
    find.wake()
    assert find.by.value == "" and app.session.searched is None


def test_corrections_name_the_nearest_identities_anew(app):
    find = asked(app, file_of(app, 0))
    s = app.session
    s.open(s.labels.identity[s.labels.identity >= 0][0])
    s.act(dict(do="rename", identity=s.identity, name="Ada"))
    names = [door.description.partition(" (")[0] for door in find.like.near.children]
    assert names == [s.name(code) for code, _ in picture_search.nearest_to(s, s.searched.direction)]


@pytest.mark.parametrize("what, words", [
    ("", "give the path"), ("nobody.jpg", "no such file"), (".", "is a folder"), ("text.jpg", "text.jpg")])
def test_what_is_no_picture_is_said_and_nothing_changes(app, tmp_path, monkeypatch, what, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.jpg").write_text("no picture")
    find = asked(app, file_of(app, 0))
    before = app.session.searched
    find.like.path.value = what
    find.like.go.click()
    assert app.session.told[1] and words in app.session.told[0] and app.session.searched is before


def test_modalities_are_checked(app):
    with pytest.raises(RunError, match="modality"): app.search(file_of(app, 0), "thermal")


def test_a_run_without_weights_and_a_table_say_so(whole, app, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run", ignore=shutil.ignore_patterns("*.pt"))
    xy = np.zeros((app.session.source.n, 2))
    bare = as_session(str(tmp_path / "run"), xy=xy, journal=tmp_path / "b.jsonl")
    with pytest.raises(RunError, match="holds no weights"): search_picture(bare, file_of(app, 0), "visible")
    s = app.session
    table = as_session(s.source.table[:s.source.n], s.features(), xy=xy, journal=tmp_path / "t.jsonl", **SMALL)
    with pytest.raises(RunError, match="without the network"): search_picture(table, file_of(app, 0), "visible")
    with pytest.raises(DataError):
        (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 40)
        search_picture(s, tmp_path / "broken.png", "visible")


# ---- when -----------------------------------------------------------------------------------------------------------

def moments(*cells): return [time_words(t, read_times(pd.Series(cells))[1]) for t in read_times(pd.Series(cells))[0]]


@pytest.mark.parametrize("cell, words", [
    ("2024-05-03", "2024-05-03 00:00:00"), ("2024-05-03T14:02:11.25Z", "2024-05-03 14:02:11.25"),
    ("2024-05-03 14:02:11+02:00", "2024-05-03 12:02:11"), ("2024:05:03 14:02:11", "2024-05-03 14:02:11"),
    (pd.Timestamp("2024-05-03 14:02"), "2024-05-03 14:02:00"), (20240503, "2024-05-03 00:00:00"),
    ("9:05", "09:05:00"), ("23:59:59.5", "23:59:59.5"), (0, "0:00"), ("-3", "-0:03"), (1e9, "2001-09-09 01:46:40")])
def test_a_time_is_read_as_it_is_written(cell, words): assert moments(cell) == [words]


@pytest.mark.parametrize("cell", ["03/05/2024", "noon", "24:00", "14:60", "2024-13-01", 1714744920000, True])
def test_what_is_no_time_is_said(cell):
    found = times_of(pd.DataFrame({"time": pd.Series(["2024-05-03 14:02", "2024-05-03 14:03", cell], dtype=object)}))
    assert np.isfinite(found.at).tolist() == [True, True, False] and repr(str(cell)) in found.note
    alone = times_of(pd.DataFrame({"time": [cell]}))
    assert alone.kind == "" and "could not be read" in alone.note


def test_the_first_column_that_tells_a_time_is_taken():
    table = pd.DataFrame({"date": ["2024-05-03"], "Time": ["noon"], "timestamp": [""], "times": ["14:02"]})
    assert (times_of(table).column, times_of(table).kind) == ("date", "calendar")
    assert times_of(table.drop(columns=["date", "Time"])).kind == ""
    both = times_of(pd.DataFrame({"date": ["2024-05-03 08:00"], "time": ["14:02"]}))
    assert time_words(both.at[0], both.kind) == "2024-05-03 14:02:00"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("span", [.04, 3, 100, 5000, 80_000])
def test_ticks_are_few_distinct_and_in_order(kind, span):
    low = 1714744920 if kind == "calendar" else 17
    ticks, name = time_ticks(low, low + span, kind)
    at, labels = zip(*ticks)
    assert 1 <= len(ticks) <= 7 and len(set(labels)) == len(labels) and max(map(len, labels)) <= 15
    assert list(at) == sorted(at) and low - 1e-3 <= at[0] and at[-1] <= low + span + 1e-3 and name


def test_ticks_of_weeks_and_years_name_days_and_months():
    for days in (3, 20, 100, 900, 9000):
        labels = [label for _, label in time_ticks(1714744920, 1714744920 + 86400 * days, "calendar")[0]]
        assert 1 <= len(labels) <= 7 and all(a != b for a, b in zip(labels, labels[1:]))


def test_near_dots_of_a_row_are_in_different_lanes():
    x, row = np.random.default_rng(0).random(30), np.arange(30) % 3
    found = lanes(x, row, .01)
    for i in range(30):
        for j in range(i):
            assert row[i] != row[j] or found[i] != found[j] or abs(x[i] - x[j]) >= .01


def people(n=6, **columns):
    "Three people, n images of each in each modality, in two epochs of nothing."
    who = np.tile(np.repeat(np.arange(3), n), 2)
    table = pd.DataFrame({"path": [f"{i}.jpg" for i in range(len(who))], "modality": np.repeat(MODALITIES, 3 * n),
                          "camid": np.where(np.arange(len(who)) % 4, 1 + np.arange(len(who)) % 4, -1), "label": who})
    rng = np.random.default_rng(0)
    return table.assign(**columns), np.eye(3)[who] + .1 * rng.standard_normal((len(who), 3))


@pytest.fixture
def open_people(tmp_path):
    def opened(**columns):
        table, x = people(**columns)
        return explore(table, x, xy=x[:, :2], journal=tmp_path / "j.jsonl", **SMALL)
    return opened


def test_dots_stand_where_their_times_are(open_people):
    app = open_people(time=[f"{10 * i}" for i in range(36)])
    app.session.open(1)
    chart = app.view("Identity").when.chart
    images = np.flatnonzero(app.session.labels.identity == 1)
    assert sorted(dot["image"] for dot in chart.dots) == images.tolist()
    x = {dot["image"]: dot["x"] for dot in chart.dots}
    assert sorted(x, key=x.get) == images.tolist() and 0 < min(x.values()) and max(x.values()) < 1
    assert chart.rows[-1] == "unknown"                             # the camera of every fourth image
    assert all(dot["kind"] == app.session.source.modality[dot["image"]] for dot in chart.dots)
    assert "12 images from 1:00 to 4:50, the longest pause 130 s" in chart.title.replace("2 minutes", "130 s")
    before = app.view("Identity").sheet_.tall
    app.session.select([])
    assert app.view("Identity").when.widget.layout.display == "none" and app.view("Identity").sheet_.tall > before


def test_a_click_on_a_dot_selects_its_image_alone(open_people):
    app = open_people(time=range(36))
    app.session.open(1)
    view = app.view("Identity")
    image = view.when.chart.dots[3]["image"]
    view.when.chart._heard(None, dict(type="pick", image=image, state=view.when.chart.state), [])
    assert app.session.selection.tolist() == [image] == view.sheet_.picked == view.when.chart.on
    assert app.session.identity == 1
    view.when.chart._heard(None, dict(type="pick", image=0, state="another"), [])   # a click that comes too late
    assert app.session.selection.tolist() == [image] and app.session.told[1]


def test_what_has_no_time_is_counted(open_people):
    app = open_people(time=["14:02", *[""] * 35])
    app.session.open(0)
    when = app.view("Identity").when
    assert when.chart.title == "0: 1 image at 14:02:00; 11 images have no time" and len(when.chart.dots) == 1
    app.session.open(1)
    assert when.chart.title == "1: none of 12 images has a time" and when.chart.dots == [] == when.chart.rows
    assert when.static() is None


def test_without_times_nothing_is_shown_and_find_says_how(open_people):
    app = open_people()
    app.session.open(0)
    assert app.view("Identity").when.widget.layout.display == "none"
    assert 'columns="times.csv"' in app.view("Find").untimed()
    odd = open_people(time=["noon"] * 36)
    odd.session.open(0)
    assert "'noon'" in odd.view("Identity").when.warn.value and "'noon'" in odd.view("Find").untimed()
    assert open_people(time=range(36)).view("Find").untimed() == ""


def test_the_still_picture_holds_the_timeline(open_people):
    tall = [open_people(**more).view("Identity").static().get_size_inches()[1] for more in ({}, {"time": range(36)})]
    assert tall[1] > tall[0] + 1


# ---- bringing times -------------------------------------------------------------------------------------------------

def test_a_file_of_times_reaches_a_run(whole, app, tmp_path):
    paths = app.session.source.paths
    pd.DataFrame({"path": paths[:9], "time": [f"14:0{i}" for i in range(9)], "camid": 9}).to_csv(tmp_path / "t.csv")
    timed = as_session(str(whole.path), xy=np.zeros((app.session.source.n, 2)), columns=tmp_path / "t.csv")
    assert np.isfinite(times(timed).at).sum() == 9 and times(timed).kind == "clock"
    assert (timed.source.table.camid == app.session.source.table.camid).all()
    table = identity_table(whole)
    table.assign(time=range(len(table))).to_csv(tmp_path / "who.csv", index=False)
    listed = as_session(str(whole.path), xy=np.zeros((app.session.source.n, 2)), labels=tmp_path / "who.csv")
    assert np.isfinite(times(listed).at).all() and "confidence" in image_table(listed)
    first = search_picture(listed, file_of(app, 0), "visible").cosine  # the network of its epoch is known, too
    assert listed.source.paths[first.argmax()] == paths[0]


def test_columns_that_cannot_be_joined_are_refused(caplog):
    table, x = people()
    with pytest.raises(ValueError, match="no column path"): open_source(table, x, columns=table[["label"]])
    twice = pd.DataFrame({"path": ["1.jpg", "./1.jpg"], "time": [1, 2]})
    with pytest.raises(ValueError, match="1.jpg is there twice"): open_source(table, x, columns=twice)
    with pytest.raises(ValueError, match="names none"): open_source(table, x, columns=pd.DataFrame({"path": ["a"]}))
    with pytest.raises(ValueError, match="no such file"): open_source(table, x, columns="nowhere.csv")
    with caplog.at_level(logging.WARNING, "hil"):
        more = pd.DataFrame({"path": ["3.jpg", "a"], "camid": 7, "time": 5.})
        source = open_source(table, x, columns=more)
    assert "camid is known already" in caplog.text and "name no image" in caplog.text
    assert source.table.time.notna().sum() == 1 and WhenView(as_session(source), 0).widget.layout.display == ""
