"""hil.runs.actions, hil.runs.corrections and a run that learns from them."""
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from hil.core.errors import RunError
from hil.core.names import MODALITIES
from hil.evaluation.encode import load_encoder
from hil.evaluation.sightings import identity_table
from hil.explore.journal import Journal, export_labels
from hil.explore.source import open_source
from hil.method.constraints import Known
from hil.runs.actions import facts_of, images_key
from hil.runs.config import Config
from hil.runs.corrections import given_labels, given_links, given_people
from hil.runs.folder import Run
from hil.training.trainer import Trainer

PATHS = {"visible": [f"visible/{i}.jpg" for i in range(4)], "infrared": [f"infrared/{i}.jpg" for i in range(3)]}
SETTINGS = dict(preset="tiny", threads=1, stage1_epochs=0, stage2_epochs=1, iterations=2, batch_ids=8)


# ---- files --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text,wanted", [
    ("path,identity\nvisible/0.jpg,3\ninfrared/2.jpg,3.0\nvisible/1.jpg,-1\n", ([0, -1, -1, -1], [-1, -1, 0])),
    ("path,label,name\ninfrared\\1.jpg,0,Ada\n./visible/3.jpg,1,Bob\n", ([-1, -1, -1, 1], [-1, 0, -1])),
    ("path,at,identity\nvisible/2.jpg,5,Ada\nvisible/0.jpg,,\nvisible/3.jpg,1, Ada \n", ([-1, -1, 0, 0], [-1] * 3))])
def test_names_in_a_table(tmp_path, text, wanted):
    (tmp_path / "who.csv").write_text(text)
    found = given_labels(tmp_path / "who.csv", PATHS)
    y, want = (np.concatenate(part) for part in ([found[m] for m in MODALITIES], wanted))
    assert ((y < 0) == (want < 0)).all()
    assert (np.equal.outer(y, y) == np.equal.outer(want, want)).all()


def test_parquet_with_gaps(tmp_path):
    file = tmp_path / "w.parquet"
    pd.DataFrame(dict(path=["visible/0.jpg", "visible/1.jpg"], identity=[2., np.nan])).to_parquet(file)
    assert given_labels(file, PATHS)["visible"].tolist() == [0, -1, -1, -1]


@pytest.mark.parametrize("text,says", [
    ("path,identity\nx.jpg,3\n", "names none of the 7 training images"),
    ("path,identity\nvisible/0.jpg,\n", "gives an identity to none of the 7 training images"),
    ("path,identity\nvisible/0.jpg,1\nvisible/0.jpg,2\n", "visible/0.jpg is there twice"),
    ("path,who\nvisible/0.jpg,1\n", "no column identity; found path, who"),
    ("file,identity\nvisible/0.jpg,1\n", "no column path; found file, identity")])
def test_tables_that_say_nothing(tmp_path, text, says):
    (tmp_path / "who.csv").write_text(text)
    with pytest.raises(ValueError, match=says): given_labels(tmp_path / "who.csv", PATHS)


HEAD = "path,label,name\nvisible/0.jpg,7,Ada\ninfrared/1.jpg,7,\nvisible/1.jpg,9,\nvisible/2.jpg,-1,\n"


def test_people_are_called_by_the_column_name(tmp_path):
    (tmp_path / "who.csv").write_text(HEAD)
    labels, called = given_people(tmp_path / "who.csv", PATHS)
    assert called == ["Ada", "9"] and labels["visible"].tolist() == [0, 1, -1, -1]
    assert labels["infrared"].tolist() == [-1, 0, -1]


@pytest.mark.parametrize("line,says", [
    ("visible/3.jpg,7,Bob\n", "identity 7 has Ada, Bob as its name; expected one name"),
    ("visible/3.jpg,8,Ada\n", "name Ada has 7, 8 as its identity; expected one name")])
def test_one_name_for_each_identity(tmp_path, line, says):
    (tmp_path / "who.csv").write_text(HEAD + line)
    with pytest.raises(ValueError, match=says): given_people(tmp_path / "who.csv", PATHS)
    assert given_labels(tmp_path / "who.csv", PATHS)["visible"][3] >= 0     # a run learns from the numbers alone


def test_a_row_without_a_training_image_is_told(tmp_path, caplog):
    (tmp_path / "who.csv").write_text("path,identity\nvisible/0.jpg,3\ntest/9.jpg,3\n")
    given_labels(tmp_path / "who.csv", PATHS)
    assert "1 of 2 rows name no training image here: test/9.jpg" in caplog.text


def journal(path, *actions, labels=(0, 0, 0, 1, 2, 2, 3)):
    head = dict(journal=1, images=images_key(PATHS["visible"] + PATHS["infrared"]), note="", labels=list(labels),
                names=[f"N{c}" for c in range(max(labels) + 1)])
    path.write_text("".join(json.dumps(line) + "\n" for line in (head, *actions)))
    return path


def test_links_of_a_journal(tmp_path):
    answer = dict(do="link", same=True, a=["visible", 3], b=["infrared", 2], images=[3, 6])
    file = journal(tmp_path / "j.jsonl", dict(do="split", images=[2], name="X"), dict(do="outlier", images=[4]),
                   dict(do="undo"), answer)
    assert given_links(file, PATHS) == [(True, ("visible", 3), ("infrared", 2)),
                                        (False, ("visible", 0), ("visible", 2)),
                                        (False, ("visible", 1), ("visible", 2))]
    empty = journal(tmp_path / "e.jsonl")
    with pytest.raises(ValueError, match="nobody was joined or parted"): given_links(empty, PATHS)
    with pytest.raises(ValueError, match="7 images that are not the 4 training images of this run; export"):
        given_links(file, {"visible": PATHS["visible"][:2], "infrared": PATHS["infrared"][:2]})
    with pytest.raises(ValueError, match="no such file"): given_links(tmp_path / "none.jsonl", PATHS)


def test_what_was_done_later_counts():
    labels, names = np.array([0, 0, 1, 1]), ["A", "B"]
    merge, split = dict(do="merge", into=0, others=[1]), dict(do="split", images=[2, 3], name="C")
    assert facts_of(labels, names, [merge])[0] == [(0, 1), (1, 2), (2, 3)]
    assert facts_of(labels, names, [merge, split]) == ([(0, 1), (2, 3)], [(0, 2), (1, 2)])
    again = dict(do="merge", into=0, others=[2])
    assert facts_of(labels, names, [merge, split, again]) == ([(0, 1), (1, 2), (2, 3)], [])
    assert facts_of(labels, names, [dict(do="rename", identity=0, name="Z")]) == ([], [])
    adopt = dict(do="adopt", labels=[0, 1, 1, 0], apart=[0, 1, 1, 0], names=["A", "B"], settings={})
    assert facts_of(labels, names, [merge, adopt]) == ([], [])


# ---- runs ---------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def first(tmp_path_factory):
    "A run, and true names for every image of half of its people."
    folder = tmp_path_factory.mktemp("first")
    run = Trainer(Config(run_dir=str(folder / "run"), **SETTINGS), progress=False).fit()
    images = run.images
    named = images[images.train & (images.pid % 2 == 0)]
    named[["path", "pid"]].rename(columns={"pid": "identity"}).to_csv(folder / "who.csv", index=False)
    return folder, run, named


def together(run, named, columns):
    "Is every named person one label in the epoch, and nobody else's?"
    arrays, images = run.epoch(-1), run.images
    parts = [images[images.train & (images.modality == m)].assign(y=arrays[f"{columns}_{m}"]) for m in MODALITIES]
    for table in [pd.concat(parts)] if columns == "final" else parts:
        y = table[table.path.isin(named.path)]
        assert (y.y >= 0).all() and (y.groupby("pid").y.nunique() == 1).all()
        assert (y.groupby("y").pid.nunique() == 1).all()


def test_a_run_keeps_to_the_labels(first, tmp_path):
    folder, before, named = first
    who = tmp_path / "who.csv"
    shutil.copyfile(folder / "who.csv", who)
    config = Config(run_dir=str(tmp_path / "run"), labels=str(who), **SETTINGS)
    run = Trainer(config, progress=False).fit()
    together(run, named, "labels")
    together(run, named, "final")
    table = identity_table(run).merge(named[["path", "pid"]].rename(columns={"pid": "who"}), on="path")
    assert (table.groupby("who").identity.nunique() == 1).all() and (table.identity >= 0).all()
    for m in MODALITIES: np.testing.assert_array_equal(run.epoch(0)[f"features_{m}"], before.epoch(0)[f"features_{m}"])
    assert any("not an unsupervised result" in note for note in load_encoder(str(run.path)).notes)
    who.unlink()                                                        # a run that goes on keeps to what it has read
    again = dict(SETTINGS, stage2_epochs=2)
    longer = Trainer(Config(run_dir=str(tmp_path / "run"), labels=str(who), resume=True, **again), progress=False).fit()
    together(longer, named, "final")
    assert len(longer.history) == 3
    (tmp_path / "run" / "known.npz").unlink()
    with pytest.raises(RunError, match="nobody knows which corrections the run learned from"):
        print(Run(tmp_path / "run").known)


def test_nothing_of_the_test_part_is_told(first, tmp_path, caplog):
    "Names of held-out images change nothing: the epochs are those of a run that never saw them."
    folder, _, named = first
    images = first[1].images
    every = pd.concat([named, images[~images.train]]).rename(columns={"pid": "identity"})
    every[["path", "identity"]].to_csv(tmp_path / "all.csv", index=False)
    one, two = (Trainer(Config(run_dir=str(tmp_path / name), labels=str(file), **SETTINGS), progress=False).fit()
                for name, file in (("one", folder / "who.csv"), ("two", tmp_path / "all.csv")))
    assert "rows name no training image here" in caplog.text
    for name, x in one.epoch(-1).items(): np.testing.assert_array_equal(x, two.epoch(-1)[name])


def test_labels_alone(first, tmp_path):
    folder, _, named = first
    run = Trainer(Config(run_dir=str(tmp_path / "run"), labels=str(folder / "who.csv"), supervision="labels",
                         **SETTINGS), progress=False).fit()
    together(run, named, "final")
    images = run.images
    labelled = sum((run.epoch(-1)[f"final_{m}"] >= 0).sum() for m in MODALITIES)
    assert labelled == len(named) < images.train.sum() and run.history.transfer_direction.iloc[-1] == "labels"
    assert open_source(run.path).labels(1).shared


def test_complete_people_are_joined_by_nobody(first, tmp_path):
    folder, _, named = first
    run = Trainer(Config(run_dir=str(tmp_path / "run"), labels=str(folder / "who.csv"), labels_complete=True,
                         **SETTINGS), progress=False).fit()
    table = identity_table(run)
    theirs = table.identity[table.path.isin(named.path)]
    assert not set(theirs) & set(table.identity[~table.path.isin(named.path)])
    assert Known.of(run.known).complete


def test_from_the_explorer_into_the_next_run(first, tmp_path):
    "Corrections by hand, once as the journal and once as the exported table."
    _, run, _ = first
    source = open_source(run.path)
    shown, paths = source.labels(1), source.table.path[:source.n]
    journal = Journal(tmp_path / "curation.jsonl", paths, shown.identity, shown.names)
    codes, sizes = np.unique(shown.identity[shown.identity >= 0], return_counts=True)
    one, two = codes[np.argsort(-sizes)[:2]].tolist()
    taken = np.flatnonzero(shown.identity == one)[:2]
    journal.do(dict(do="split", images=taken, name="somebody"))
    journal.do(dict(do="merge", into=one, others=[two]))
    export_labels(journal, tmp_path / "who.csv", source.table)
    linked = Trainer(Config(run_dir=str(tmp_path / "linked"), links=str(tmp_path / "curation.jsonl"), **SETTINGS),
                     progress=False).fit()
    y = identity_table(linked).set_index("path").identity
    joined = y[paths[journal.labels == one]]
    assert joined.nunique() == 1 and (joined >= 0).all()
    assert y[paths[taken[0]]] == y[paths[taken[1]]] != joined.iloc[0]
    named = Trainer(Config(run_dir=str(tmp_path / "named"), labels=str(tmp_path / "who.csv"), **SETTINGS),
                    progress=False).fit()
    y = identity_table(named).set_index("path").identity.reindex(paths).to_numpy()
    for code in np.unique(journal.labels[journal.labels >= 0]): assert len(set(y[journal.labels == code])) == 1


@pytest.mark.parametrize("file,says", [("labels", "no such file"), ("links", "no such file")])
def test_a_file_that_is_not_there_is_told_at_once(tmp_path, file, says):
    with pytest.raises(RunError, match=says):
        Trainer(Config(run_dir=str(tmp_path / "run"), **{file: str(tmp_path / "x")}, **SETTINGS), progress=False)


def test_labels_against_links(first, tmp_path):
    "The run is not begun, and the sentence names the two pictures."
    folder, run, named = first
    paths = open_source(run.path).table.path[:run.images.train.sum()].tolist()
    mine = [paths.index(p) for p in named[named.modality == "visible"].groupby("pid").path.first()[:2]]
    head = dict(journal=1, images=images_key(paths), note="", labels=[0] * len(paths), names=["A"])
    answer = dict(do="link", same=True, a=["visible", mine[0]], b=["visible", mine[1]], images=mine)
    (tmp_path / "j.jsonl").write_text(json.dumps(head) + "\n" + json.dumps(answer) + "\n")
    with pytest.raises(RunError, match=f"{paths[mine[0]]} and {paths[mine[1]]} have different identities"):
        Trainer(Config(run_dir=str(tmp_path / "run"), labels=str(folder / "who.csv"), links=str(tmp_path / "j.jsonl"),
                       **SETTINGS), progress=False).fit()
    assert not (tmp_path / "run" / "config.json").exists()
