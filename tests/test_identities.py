"""hil.method.identities and hil.evaluation.sightings: who is who, from features to a list."""
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hil.cli import main
from hil.core.errors import DataError, RunError
from hil.core.names import MODALITIES
from hil.core.vectors import unit
from hil.evaluation.sightings import assign, candidates, identities_told, identity_table
from hil.explore.app import explore
from hil.explore.identity_view import identities_of
from hil.explore.journal import read_labels
from hil.explore.source import open_source
from hil.method.cluster import centroids
from hil.method.identities import find_identities, join_clusters
from hil.runs.config import Config
from hil.synth.render import load_truth, render
from hil.training.trainer import Trainer


def clustered(seed, people=8, dim=6):
    "Features of a few people in both modalities, and clusters with outliers."
    rng = np.random.default_rng(seed)
    who = rng.standard_normal((people, dim))
    clusters = {m: np.concatenate([np.repeat(np.arange(n), 3), [-1]])
                for m, n in zip(MODALITIES, rng.integers(1, people + 1, 2))}
    features = {m: (who[y] + .3 * rng.standard_normal((len(y), dim))).astype(np.float32) for m, y in clusters.items()}
    return features, clusters


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_joined_is_the_plain_rule(seed):
    "A slow reference: two clusters share a number exactly where each is the one that the other likes best."
    x, y = clustered(seed)
    found = join_clusters(x, y)
    centres = {m: unit(centroids(x[m], y[m])).numpy() for m in MODALITIES}
    cosine = centres["visible"] @ centres["infrared"].T
    near = max(min(cosine.shape) // 4, 1)
    usual = [[np.mean(sorted(row)[-near:]) for row in side] for side in (cosine, cosine.T)]
    liking = np.array([[2 * c - usual[0][i] - usual[1][j] for j, c in enumerate(row)] for i, row in enumerate(cosine)])
    number = {m: [found[m][y[m] == c][0] for c in range(y[m].max() + 1)] for m in MODALITIES}
    for m in MODALITIES:
        assert (found[m][y[m] < 0] == -1).all() and len(set(number[m])) == len(number[m])
    for i, j in np.ndindex(cosine.shape):
        mutual = liking[i].argmax() == j and liking[:, j].argmax() == i
        assert (number["visible"][i] == number["infrared"][j]) == mutual
    every = {*number["visible"], *number["infrared"]}
    assert every == set(range(len(every)))


def test_a_cluster_that_is_near_everybody_takes_no_partner_from_others():
    "Forty people; one night cluster lies in the middle of all: by the cosine alone many would name it."
    rng = np.random.default_rng(0)
    day = unit(torch.from_numpy(rng.standard_normal((40, 32)) + 1.)).numpy()
    night = day + .25 * rng.standard_normal(day.shape)
    night[0] = day.mean(0)
    x = {"visible": day.repeat(2, 0).astype(np.float32), "infrared": night.repeat(2, 0).astype(np.float32)}
    y = {m: np.arange(40).repeat(2) for m in MODALITIES}
    cosine = day @ unit(torch.from_numpy(night)).numpy().T
    named = (cosine.argmax(1) == np.arange(40)) & (cosine.argmax(0) == np.arange(40))
    joined = join_clusters(x, y)["infrared"] == y["infrared"]
    assert (cosine.argmax(1) == 0).sum() > 5 and joined[2:].mean() > named[1:].mean() + .1


def test_one_modality_without_a_cluster():
    x, y = clustered(0)
    y["infrared"][:] = -1
    who = find_identities(x, y)
    assert (who.labels["visible"] == y["visible"]).all() and not who.there["infrared"].any()
    assert who.confidence(x["infrared"], "infrared").max() == 0          # no pair was ever seen: nothing can be said


def test_no_image_speaks_for_itself():
    "An image far from its two companions gains nothing from being part of their centre."
    x = np.float32([[1, 0], [1, .1], [0, 1], [-1, 0], [-1, .1], [-1, .05]])
    y = {"visible": np.array([0, 0, 0, 1, 1, 1]), "infrared": np.full(1, -1)}
    who = find_identities({"visible": x, "infrared": x[:1]}, y)
    alone, counted = who.confidence(x, "visible", y["visible"])[2, 0], who.confidence(x, "visible")[2, 0]
    assert alone < counted


def test_candidates_by_hand():
    confidence = np.float32([[.9, .2, .1], [.3, .4, .1], [.1, .8, .7]])
    new = candidates(confidence)
    assert new.identity.tolist() == [0, -1, 1] and new.second.tolist() == [1, 1, 2]
    assert np.isnan(new.confidence[1]) and new.second_confidence[2] == pytest.approx(.7)
    standing = candidates(confidence, np.array([1, -1, 1]))
    assert standing.identity.tolist() == [1, -1, 1] and standing.second.tolist() == [0, 1, 2]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    "A run on an unlabelled folder, and a picture of each person that it has not seen."
    folder = tmp_path_factory.mktemp("archive")
    root = render("tiny", root=folder / "tiny", progress=False)
    truth = load_truth(root).query("split == 'train'").reset_index(drop=True)
    for row, new in zip(truth.itertuples(), ~truth.duplicated(["pid", "modality"])):
        to = folder / ("later" if new else "crops") / row.modality / f"{row.pid:03d}-{row.path.replace('/', '_')}"
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / row.path, to)
    settings = dict(stage1_epochs=1, stage2_epochs=1, iterations=10, batch_ids=8)
    Trainer(Config(dataset="folder", data_root=str(folder / "crops"), run_dir=str(folder / "run"), **settings),
            progress=False).fit()
    return folder


def pid(path): return int(path.split("/")[1].split("-")[0])


@pytest.mark.parametrize("name", ["who.csv", "who.parquet"])
def test_identities_from_the_command_line(archive, name, capsys):
    with pytest.raises(SystemExit) as left: main(["identities", str(archive / "run"), str(archive / name)])
    assert not left.value.code
    table = (pd.read_csv if name.endswith("csv") else pd.read_parquet)(archive / name)
    images = [p.relative_to(archive / "crops").as_posix() for p in (archive / "crops").rglob("*.jpg")]
    assert sorted(table.path) == sorted(images)
    assert {"identity", "confidence", "second", "second_confidence", "modality", "camid"} < set(table)
    assert f"{len(table)} images: {table.identity[table.identity >= 0].nunique()} identities" in capsys.readouterr().out
    assert (read_labels(archive / name, table.path) == table.identity).all()       # the explorer reads it back
    people = table[table.identity >= 0].assign(pid=table.path.map(pid)).groupby("identity").pid
    assert people.agg(lambda pids: (pids == pids.mode()[0]).mean()).mean() > .6


def test_new_pictures_find_their_person(archive):
    known = identity_table(archive / "run")
    whose = known.assign(pid=known.path.map(pid)).groupby("identity").pid.agg(lambda pids: pids.mode()[0])
    new = assign(archive / "run", archive / "later", progress=False)
    assert len(new) == 48
    put = new[new.identity >= 0]
    assert (put.path.map(pid).to_numpy() == whose.reindex(put.identity).to_numpy()).mean() > .5


def test_new_pictures_of_one_modality(archive, tmp_path):
    shutil.copytree(archive / "later" / "infrared", tmp_path / "infrared")
    new = assign(archive / "run", tmp_path, progress=False)
    both = assign(archive / "run", archive / "later", progress=False)
    both = both[both.modality == "infrared"].reset_index(drop=True)
    pd.testing.assert_frame_equal(new, both, check_exact=False, atol=1e-3)


def test_a_corrected_list_and_new_crops_open_in_the_explorer(archive, tmp_path):
    table = identity_table(archive / "run")
    table.assign(identity=table.identity.where(table.identity != 0, 1)).to_csv(tmp_path / "who.csv", index=False)
    source = open_source(archive / "run", labels=str(tmp_path / "who.csv"))
    y = source.labels(source.labelled[-1])
    wanted = table.set_index("path").identity.replace(0, 1).reindex(source.paths[:source.n]).to_numpy()
    assert (np.equal.outer(y.identity, y.identity) == np.equal.outer(wanted, wanted)).all()
    assert all((source.root / p).is_file() for p in source.paths)
    new = assign(archive / "run", archive / "later", progress=False).set_index("path")
    source = open_source(archive / "run", crops=str(archive / "later"))
    y, root = source.labels(source.labelled[-1]), str(archive / "later")
    later = [i for i, p in enumerate(source.paths) if p.startswith(root)]
    assert len(later) == len(new) == source.n - len(table) and all((source.root / p).is_file() for p in source.paths)
    for i in later:
        identity = new.identity[source.paths[i][len(root) + 1:]]
        assert (y.names[y.identity[i]] if y.identity[i] >= 0 else "P-1") == f"P{identity}"
    with pytest.raises(ValueError, match="open it with the run that it is of"): open_source(str(tmp_path / "who.csv"))


def test_a_report_leads_to_the_identities(archive):
    table, told = identity_table(archive / "run"), identities_told(archive / "run", 2)
    assert f"{len(table)} images show {table.identity[table.identity >= 0].nunique()} identities" in told
    assert told.count("\n| ") == 3 and f"hil identities {archive / 'run'} who.csv" in told


def test_a_run_that_looked_at_cameras(tmp_path):
    "Its identities come from the same distance as its clusters."
    Trainer(Config(preset="tiny", stage1_epochs=0, stage2_epochs=1, iterations=1, batch_ids=8, jaccard="camera_aware",
                   run_dir=str(tmp_path / "run")), progress=False).fit()
    assert identity_table(tmp_path / "run").identity.max() > 1


@pytest.mark.parametrize("m", MODALITIES)
def test_new_crops_are_found_by_a_picture(archive, tmp_path, m):
    "A search compares with the new crops as with the run's own images, and may start from either."
    source = open_source(archive / "run", crops=str(archive / "later"))
    app = explore(source, xy=np.random.default_rng(0).standard_normal((source.n, 2)), journal=tmp_path / "j")
    new = [int(i) for i in source.rows(m) if source.paths[i].startswith(str(archive / "later"))]
    old = [int(i) for i in source.rows(m) if int(i) not in new]
    for i in (new[0], new[-1], old[0]):
        found = app.search(source.root / source.paths[i], m)
        assert found.index[0] == i and found.similarity.iloc[0] > .999 and len(found) == source.n
    find = app.view("Find")
    find.like.path.value, find.like.modality.value = source.paths[new[1]], m
    find.like.go.click()
    assert app.session.told == ("", False) and find.found()[0] == new[1]
    code, near = app.session.labels.identity[new[1]], [b.description for b in find.like.near.children]
    if code >= 0: assert any(name.startswith(f"{app.session.name(code)} (") for name in near)
    find.like.near.children[0].click()
    assert app.session.identity >= 0 and len(app.session.selection)


def test_a_run_without_the_numbers_that_it_chose(archive, tmp_path):
    shutil.copytree(archive / "run", tmp_path / "run", ignore=shutil.ignore_patterns("*.pt"))
    for name in ("chosen.json", "manifest.jsonl"): (tmp_path / "run" / name).unlink()
    for ask in (identity_table, lambda run: explore(str(run), journal=tmp_path / "j")):
        with pytest.raises(RunError, match=r'k1.* = "auto".*\(chosen.json\) is not there; put back a copy$'):
            ask(tmp_path / "run")


def test_a_table_that_comes_back_keeps_its_numbers(archive, tmp_path):
    table = identity_table(archive / "run")
    table["identity"] = table.identity.where(table.identity < 0, 7 * table.identity).astype(object)
    table.loc[table.identity == 7, "identity"] = "Ada"
    table.to_csv(tmp_path / "who.csv", index=False)
    source = open_source(archive / "run", labels=str(tmp_path / "who.csv"))
    y, told = source.labels(source.result), table.set_index("path").identity.astype(str)
    wanted = [told[p] if told[p] == "Ada" else f"P{told[p]}" for p in source.paths[:source.n]]
    assert [y.names[c] if c >= 0 else "P-1" for c in y.identity] == wanted and "Ada" in wanted


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_names_given_in_the_explorer_come_back_with_its_export(archive, tmp_path, kind):
    app = explore(archive / "run", xy=np.zeros((len(identity_table(archive / "run")), 2)), journal=tmp_path / "j")
    curation, largest = app.view("Curation"), identities_of(app.session).code.tolist()[:2]
    for code, name in zip(largest, ("Zoe", "=Ada")):
        app.session.open(code)
        curation.name.value = name
        curation.do("rename")
    curation.file.value = str(tmp_path / f"who.{kind}")
    curation.do("export")
    assert not app.session.told[1], app.session.told
    again = explore(archive / "run", xy=app.session.maps.xy(app.session.epoch), labels=str(tmp_path / f"who.{kind}"),
                    journal=tmp_path / "k")
    view = again.view("Identity")
    assert set(identities_of(again.session).name) == set(identities_of(app.session).name)
    view.find.value = "ada"                                                        # find
    assert [row["head"] for row in view.sheet_.rows] == ["=Ada"]
    view.find.value, view.sort.value = "", "by name"                               # sort
    heads = [row["head"] for row in view.sheet_.rows if row["head"] != "outlier"]
    assert heads == sorted(heads) and heads[0] == "=Ada" and heads[-1] == "Zoe"
    view.entered(0)                                                                # heading
    assert view.sheet_.title.startswith("=Ada: ")
    assert any(words.startswith("Zoe (") for words, _ in again.view("Curation").one.options)


def test_the_tutorial_on_exploring_says_at_once_that_it_needs_names(archive):
    cells = nbformat.read(Path(__file__).parents[1] / "nbs/tutorials/explore_a_run.ipynb", 4).cells
    code = [c.source for c in cells if c.cell_type == "code"]
    opens = next(k for k, source in enumerate(code) if "as_session(run_dir" in source)
    place = {}
    exec(code[0], place)
    with pytest.raises(ValueError, match="nobody in this run is named; see your_own_crops.ipynb"):
        exec(code[opens], {**place, "run_dir": str(archive / "run")})
    assert not any("pid" in source or "person" in source for source in code[:opens])


def test_refusals(archive, tmp_path):
    with pytest.raises(SystemExit, match="expected a name that ends in .csv or .parquet"):
        main(["identities", str(archive / "run"), str(tmp_path / "who.xlsx")])
    with pytest.raises(DataError, match="One modality is needed"): assign(archive / "run", tmp_path, progress=False)
    with pytest.raises(RunError): identity_table(tmp_path)
    small = tmp_path / "run"
    Trainer(Config(preset="tiny", stage1_epochs=0, stage2_epochs=1, iterations=1, batch_ids=8, keep_features=False,
                   run_dir=str(small)), progress=False).fit()
    with pytest.raises(RunError, match="keep_features = True"): identity_table(small)
