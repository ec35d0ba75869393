"hil.evaluation.protocols and tables: the release's draws, plain references, published figures; runs on every stand-in."
import io
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from hil.core.errors import DataError, RunError
from hil.data.layouts import load
from hil.data.sysu import load_sysu, read_permutation
from hil.evaluation.metrics import Metrics, cosine_distance, evaluate_llcm, mean_metrics, rank_gallery
from hil.evaluation.protocols import (
    DIRECTIONS,
    Protocol,
    camera_pairs,
    cannot_draw,
    draw,
    evaluate_draws,
    hardest_errors,
    left_out,
    score,
)
from hil.evaluation.scoring import playable
from hil.evaluation.tables import MARK, OWN, SECOND, published_figures, render_table, result_table
from hil.runs.config import Config
from hil.synth import stand_ins

GOLDEN = json.loads((Path(__file__).parent / "golden" / "sysu_protocol.json").read_text())


@pytest.fixture(scope="session")
def roots(tmp_path_factory):
    "Stand-ins large enough to cluster; not to be written to."
    home = tmp_path_factory.mktemp("protocols")
    return {name: stand_ins.write_layout(name, home / name, people=12, images=3) for name in stand_ins.PLANS}


# ---- draws --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mode", ["all", "indoor"])
@pytest.mark.parametrize("trial", [0, 1, 2, 9])
def test_sysu_draws_are_the_releases(tmp_path, mode, trial):
    for cell, n in GOLDEN["tree"].items():
        (tmp_path / cell).mkdir(parents=True)
        for k in range(1, n + 1): (tmp_path / cell / f"{k:04d}.jpg").touch()
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp/test_id.txt").write_text(GOLDEN["test_id_txt"])
    query, gallery = draw(load_sysu(tmp_path, strict=False), Protocol(mode=mode), trial)
    assert query.path.tolist() == GOLDEN[f"query_{mode}"] and gallery.path.tolist() == GOLDEN[f"gallery_{mode}_{trial}"]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("trial", [0, 5])
def test_llcm_draws_walk_the_folders_in_order(roots, direction, trial):
    "Against a walk over the disk with Python's own generator: people ascending, cameras in order, file names in order."
    names = {"visible": ("test_vis", range(1, 10)), "infrared": ("test_nir", (1, 2, 4, 5, 6, 7, 8, 9))}
    root = roots["llcm"]
    asks, answers = direction.split("_to_")
    ids = sorted(f"{int(i):04d}" for i in (root / "idx/test_id.txt").read_text().strip().split(","))
    def folders(m):
        part, cams = names[m]
        return [f"{part}/cam{c}/{i}" for i in ids for c in cams if (root / f"{part}/cam{c}/{i}").is_dir()]
    def files(folder): return sorted(f"{folder}/{f.name}" for f in (root / folder).iterdir())
    random.seed(trial)
    gallery = [random.choice(files(f)) for f in folders(answers)]
    query = [p for f in folders(asks) for p in files(f)]
    found = draw(load("llcm", root, expect="stand-in"), Protocol("llcm", direction=direction), trial)
    assert [t.path.tolist() for t in found] == [query, gallery]


def test_regdb_uses_every_test_image_of_its_split(roots):
    for split in (1, 4):
        table = load("regdb", roots["regdb"], split, "stand-in")
        for direction, (asks, answers) in zip(DIRECTIONS, (("thermal", "visible"), ("visible", "thermal"))):
            query, gallery = draw(table, Protocol("regdb", direction=direction), 3)
            for rows, name in ((query, asks), (gallery, answers)):
                lines = (roots["regdb"] / f"idx/test_{name}_{split}.txt").read_text().splitlines()
                assert set(rows.path) == {line.split()[0] for line in lines}


def test_official_draws(roots, tmp_path):
    table, cams = load("sysu", roots["sysu"], expect="stand-in"), np.empty((6, 1), object)
    rng = np.random.default_rng(0)
    for c in range(1, 7):
        cams[c - 1, 0] = np.empty((1, 60), object)
        for pid in range(1, 61):
            there = ((table.camid == c) & (table.pid == pid)).any()
            draws = [rng.permutation(3) + 1 for _ in range(10)] if there else np.empty((0, 0))
            cams[c - 1, 0][0, pid - 1] = np.array(draws)
    savemat(tmp_path / "rand_perm_cam.mat", {"rand_perm_cam": cams})
    perm = read_permutation(tmp_path / "rand_perm_cam.mat")
    for shots in (1, 2):
        p = Protocol(official=True, shots=shots)
        _, gallery = draw(table, p, 4, perm)
        want = [f"cam{c}/{pid:04d}/{k:04d}.jpg" for pid in sorted(table.pid[table.split == "test"].unique())
                for c in (1, 2, 4, 5) if (c, pid) in perm for k in perm[c, pid][4, :shots]]
        assert gallery.path.tolist() == want
    for p, permutation in ((Protocol(official=True), None), (Protocol(), perm)):
        with pytest.raises(ValueError, match="permutation was given"): draw(table, p, 0, permutation)


@pytest.mark.parametrize("kwargs,says", [
    (dict(dataset="folder"), "cannot be tested"),
    (dict(direction="both"), "expected one of infrared_to_visible"),
    (dict(direction="visible_to_infrared"), "direction is for RegDB and LLCM"),
    (dict(dataset="regdb", mode="indoor"), "RegDB has none of them"),
    (dict(dataset="llcm", official=True), "LLCM has none of them")])
def test_protocols_that_do_not_exist(kwargs, says):
    with pytest.raises(ValueError, match=says): Protocol(**kwargs)


def test_nothing_to_draw_from(roots):
    with pytest.raises(ValueError, match="split='val': expected query and gallery images, found 0 and 0"):
        draw(load("regdb", roots["regdb"], expect="stand-in"), Protocol("regdb", split="val"))


# ---- LLCM's rule --------------------------------------------------------------------------------------------------

def slow_llcm(distance, q_pids, g_pids, q_cams, g_cams, length):
    "One query at a time, with lists."
    cmc, aps, inps = np.zeros(length), [], []
    for d, pid, cam in zip(distance, q_pids, q_cams):
        ranked = [g_pids[j] for j in np.argsort(d, kind="stable") if not (g_pids[j] == pid and g_cams[j] == cam)]
        if pid not in ranked: continue
        people, places = list(dict.fromkeys(ranked)), [k for k, p in enumerate(ranked, 1) if p == pid]
        cmc[people.index(pid):] += 1
        aps.append(np.mean([(i + 1) / k for i, k in enumerate(places)]))
        inps.append(len(places) / places[-1])
    return cmc / len(aps), np.mean(aps), np.mean(inps)


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10 ** 6), q=st.integers(1, 8), g=st.integers(1, 20), people=st.integers(1, 5),
       cams=st.integers(1, 4))
def test_llcm_against_a_slow_reference(seed, q, g, people, cams):
    rng = np.random.default_rng(seed)
    ids = [rng.integers(0, n, size) for n, size in ((people, q), (people, g), (cams, q), (cams, g))]
    distance = rng.permutation(q * g).reshape(q, g) / (q * g)
    own = (ids[0][:, None] == ids[1]) & (ids[2][:, None] != ids[3])
    if not own.any():
        with pytest.raises(ValueError, match="no query has a right image"): evaluate_llcm(distance, *ids)
        return
    found, length = evaluate_llcm(distance, *ids), min(20, len(np.unique(ids[1])))
    for a, b in zip(found, slow_llcm(distance, *ids, length)): np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("name", ["sysu", "llcm", "regdb"])
def test_scores_pairs_and_errors_agree(roots, name):
    "What the protocol leaves out is left out everywhere; the list of errors is sorted, its first answers are wrong."
    table, p = load(name, roots[name], expect="stand-in"), Protocol(name)
    x = np.random.default_rng(0).normal(size=(len(table), 16)) + np.eye(64, 16)[table.pid % 16] * 2
    query, gallery = draw(table, p)
    distance = cosine_distance(x[query.index], x[gallery.index])
    metrics, matrix = score(distance, query, gallery, p), camera_pairs(distance, query, gallery, p)
    worst = hardest_errors(distance, query, gallery, p, 5)
    kept = rank_gallery(distance, query.pid.to_numpy(), gallery.pid.to_numpy(), left_out(query, gallery, p)).ap
    assert np.nanmean(kept) == pytest.approx(metrics.mAP), "what is left out here is what the protocol leaves out"
    assert matrix.shape == (query.camid.nunique(), gallery.camid.nunique())
    if name == "sysu":
        assert np.isnan(matrix.loc[3, 2]) and matrix.drop(index=3).notna().to_numpy().all()
        assert left_out(query, gallery, p).any()
    if name == "llcm": assert all(np.isnan(matrix.loc[c, c]) for c in matrix.index if c in matrix.columns)
    if name == "regdb": assert matrix.loc[2, 1] == pytest.approx(metrics.mAP)
    assert worst.ap.is_monotonic_increasing and (worst.pid != worst.wrong_pid).all()
    assert (worst.first_right > 1).all() and (worst.wrong_distance <= worst.right_distance).all()
    pid_of = table.set_index("path").pid
    for column in ("right", "query"): assert (pid_of[worst[column]].to_numpy() == worst.pid).all()


def test_evaluate_draws_takes_tensors_and_counts_trials(roots):
    for name, n in (("sysu", 4), ("llcm", 4), ("regdb", 1)):
        table = load(name, roots[name], expect="stand-in")
        found = evaluate_draws(torch.eye(len(table)) + .1, table, Protocol(name, trials=4))
        assert len(found) == n and all(isinstance(m, Metrics) for m in found)


# ---- tables -------------------------------------------------------------------------------------------------------

def some(seed, length=20):
    return [Metrics(np.sort(np.random.default_rng(seed + i).random(length)), .3 + .01 * i, .2) for i in range(3)]


def test_the_table_holds_what_was_measured_and_what_was_published():
    names = [Protocol().name, Protocol(mode="indoor").name, *(Protocol("regdb", direction=d).name for d in DIRECTIONS),
             Protocol("llcm").name, Protocol(shots=10).name]
    results = {n: {"a": some(i), "b": some(9 + i)[:1]} for i, n in enumerate(names)}
    table = result_table(results)
    rows = table.groupby("setting", sort=False).size()
    assert rows.to_dict() == {**dict.fromkeys(names[:4], 8), **dict.fromkeys(names[4:], 2)}
    own = table[table.source == OWN].set_index(["setting", "method"])
    for n, methods in results.items():
        mean, spread = mean_metrics(methods["a"])
        found = own.loc[(n, "a"), ["rank1", "rank20", "mAP", "mINP"]].tolist()
        assert found == pytest.approx([100 * v for v in (mean.rank(1), mean.rank(20), mean.mAP, mean.mINP)])
        assert own.loc[(n, "a"), "mAP spread"] == pytest.approx(100 * spread.mAP)
        assert own.loc[(n, "b"), "mAP spread"] == 0
    assert table[table.source == SECOND].method.tolist() == ["HIL (2025, ViT)"] * 4
    assert len(result_table(results, published=False)) == 12


PUBLISHED = """
ADCA (MM 2022) | 45.51/42.73 | 50.60/59.11 | 67.20/64.05 | 68.48/63.81
PGM (CVPR 2023) | 57.27/51.78 | 56.23/62.74 | 69.48/65.41 | 69.85/65.17
SDCL (CVPR 2024, ViT) | 64.49/63.24 | 71.37/76.90 | 86.91/78.92 | 85.76/77.25
HIL (2025, ViT) | 66.30/64.95 | 71.81/77.52 | 92.82/86.61 | 92.24/85.43
BMIL (AAAI 2026) | 67.1/63.1 | 75.0/78.6 | 94.3/89.1 | 93.6/88.5
SMC (preprint 2026) | 67.86/66.02 | 73.15/78.02 | 91.41/85.88 | 90.96/85.62"""


def test_published_figures_are_those_of_method_md():
    "Section 8's table, Rank-1/mAP; the settings are those that a protocol gives its name to."
    settings_ = [Protocol().name, Protocol(mode="indoor").name,
                 *(Protocol("regdb", direction=d).name for d in DIRECTIONS[::-1])]
    wanted = {(method, setting): tuple(map(float, pair.split("/")))
              for method, *pairs in (line.split(" | ") for line in PUBLISHED.strip().splitlines())
              for setting, pair in zip(settings_, pairs)}
    table = published_figures()
    assert {(r.method, r.setting): (r.rank1, r.mAP) for r in table.itertuples()} == wanted and len(table) == 24
    assert [SECOND if m.startswith("HIL") else MARK for m in table.method] == table.source.tolist()


@pytest.mark.parametrize("style", ["markdown", "latex", "csv"])
def test_every_style_says_what_was_not_reproduced(style):
    text = render_table(result_table({"SYSU-MM01 all-search": {"ours_1 & 100 %|x": some(0)}}), style,
                        notes=["Epoch chosen on the test set."])
    assert "not reproduced here" in text and "Epoch chosen on the test set." in text
    if style == "csv":
        table = pd.read_csv(io.StringIO(text), comment="#")
        assert table.method.iloc[-1] == "ours_1 & 100 %|x" and table.source.iloc[-1] == OWN
        assert table.source[:-1].str.contains("not reproduced").all()
        return
    rows = [line for line in text.splitlines() if "ADCA" in line or "ours" in line or "BMIL" in line or "HIL (" in line]
    adca, hil, bmil, ours = rows
    assert ("†" in adca or "dagger" in adca) and ("‡" in hil or "ddagger" in hil)
    assert "67.1" in bmil and "67.10" not in bmil
    assert ("±" in ours or r"$\pm$" in ours) and "†" not in ours and "dagger" not in ours
    assert (r"ours\_1 \& 100 \%|x" if style == "latex" else r"ours_1 &amp; 100 %\|x") in ours
    if style == "latex":
        assert all(line.count(" & ") == 6 for line in rows[:3])
        assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    else: assert all(line.replace(r"\|", "").count("|") == 8 for line in rows)


def test_short_galleries_and_unknown_styles():
    text = render_table(result_table({"LLCM infrared to visible": {"x": some(0, 7)}}))
    assert "| – |" in text
    with pytest.raises(ValueError, match="expected markdown, latex or csv"): render_table(pd.DataFrame(), "html")


# ---- runs ---------------------------------------------------------------------------------------------------------

QUICK = dict(stage1_epochs=1, stage2_epochs=1, iterations=2, batch_ids=3, instances=2, k1=5, k1_infrared=5, k2=2,
             min_samples=2, eps=.7, n_sub=2, trials=2, device="cpu", level="sample")


@pytest.mark.parametrize("name,more", [
    ("sysu", dict(search_mode="indoor", shots=2)), ("regdb", dict(split=3, direction="visible_to_infrared")),
    ("llcm", {}), ("folder", {})])
def test_a_run_on_every_stand_in(hil_home, roots, tmp_path, name, more):
    from hil.training.trainer import Trainer
    if name != "folder": more = dict(more, expect="stand-in")
    config = Config(dataset=name, data_root=str(roots[name]), run_dir=str(tmp_path / "run"), **QUICK, **more)
    run = Trainer(config, progress=False).fit()
    (tmp_path / "run/checkpoint.pt").unlink()
    h, images = run.history, run.images
    assert h.epoch.tolist() == [0, 1, 2] and np.isfinite(h.loss_total[1:]).all()
    assert (h.clusters_visible[1:] > 1).all() and h.transfer_coverage.notna().iloc[-1]
    truth = {"mAP", "rank1", "mINP", "ari_visible", "purity_infrared", "transfer_precision"}
    if name == "folder":
        assert not truth & set(h.columns) and "cmc" not in run.epoch(-1) and "mAP" not in repr(run)
        assert images.train.all() and (images.pid == -1).all()
    else:
        assert truth <= set(h.columns) and h.mAP.between(0, 1).all() and not images.train.all()
        x = torch.from_numpy(np.concatenate([run.epoch(-1)[f"features_{m}"] for m in ("visible", "infrared")])).float()
        again = mean_metrics(evaluate_draws(x, images[~images.train], Protocol.of(config)))[0]
        assert again.mAP == pytest.approx(h.mAP.iloc[-1], abs=2e-3), "the history is what the stored features give"


def test_a_whole_network_reads_the_cache(hil_home, roots, tmp_path):
    from hil.training.trainer import Trainer
    config = Config(dataset="regdb", data_root=str(roots["regdb"]), expect="stand-in", trainable="all",
                    run_dir=str(tmp_path / "run"), **QUICK)
    trainer = Trainer(config, progress=False).prepare()
    cached = trainer.views.images["visible"]
    assert cached.dtype == torch.uint8 and len(cached) == len(trainer.images.tables["visible"])
    assert list((hil_home / "pixels").glob("*/stamps.npy"))
    trainer.features = trainer.extract()


def test_broken_data_stops_before_a_run_begins(hil_home, roots, tmp_path):
    from hil.training.trainer import Trainer
    root = shutil.copytree(roots["llcm"], tmp_path / "llcm")
    shutil.rmtree(root / "test_vis/cam2")
    config = Config(dataset="llcm", data_root=str(root), expect="stand-in", run_dir=str(tmp_path / "run"), **QUICK)
    with pytest.raises(DataError, match="test_vis without cam2"): Trainer(config, progress=False).fit()
    with pytest.raises(DataError, match="rendered stand-in"):
        Trainer(replace(config, data_root=str(roots["llcm"]), expect="published"), progress=False).fit()
    with pytest.raises(DataError, match="rand_perm_cam.mat: no such file"):
        Trainer(replace(config, dataset="sysu", data_root=str(roots["sysu"]), draws="official"), progress=False).fit()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes,says", [
    (dict(dataset="regdb"), "needs data_root, the folder that holds Visible"),
    (dict(split=2), 'is for dataset = "regdb"'),
    (dict(direction="visible_to_infrared"), 'is for dataset = "regdb" and "llcm"'),
    (dict(draws="official"), 'is for dataset = "sysu"'),
    (dict(dataset="llcm", data_root="x", shots=10), 'shots = 10 is for dataset = "sysu" and "synth"'),
    (dict(dataset="regdb", data_root="x", evaluate_on="val"), "no validation people"),
    (dict(dataset="folder", data_root="x", supervision="truth", stage1_epochs=0), "has no truth"),
    (dict(dataset="regbd", data_root="x"), "did you mean 'regdb'"),
    (dict(dataset="regdb", data_root="x", split=11), "from 1 to 10"),
    (dict(expect="standin"), "did you mean 'stand-in'")])
def test_settings_that_contradict_the_data_set(changes, says):
    with pytest.raises(RunError, match=says): Config(**changes)


# ---- searches that cannot be played, and permutation files that are none ---------------------------------------------

def seen_by(**people):
    "A table in which split `val` was seen by these cameras only, and `test` by all; {split: cameras}."
    pids = {"val": (1, 2), "test": (3, 4)}
    rows = [(f"cam{c}/{pid:04d}/{k:04d}.jpg", pid, c, "infrared" if c in (3, 6) else "visible", split)
            for split, cams in people.items() for pid in pids[split] for c in cams for k in (1, 2)]
    table = pd.DataFrame(rows, columns=["path", "pid", "camid", "modality", "split"])
    table.attrs["root"] = "nowhere"
    return table


def test_people_of_val_who_were_never_indoors():
    "SYSU-MM01's validation people were seen by cameras 3, 4 and 5; the table has all six."
    table = seen_by(val=(3, 4, 5), test=range(1, 7))
    for p in (Protocol(split="val"), Protocol(mode="indoor")):
        assert cannot_draw(table, p) == "" and all(len(t) for t in draw(table, p))
    indoor = Protocol(split="val", mode="indoor")
    says = ("found 4 and 0. The people of 'val' were seen by the cameras 3, 4, 5; queries come from 3, 6, the gallery "
            'of indoor-search from 1, 2. Set search_mode = "all".')
    assert cannot_draw(table, indoor).endswith(says)
    with pytest.raises(ValueError, match="seen by the cameras 3, 4, 5"): draw(table, indoor)
    protocols, notes = playable([Protocol(split="val"), indoor], table)
    assert protocols == [Protocol(split="val")]
    assert notes == (f"{indoor.name} was not scored: {cannot_draw(table, indoor)}",)
    with pytest.raises(RunError, match='Set search_mode = "all"'): playable([indoor], table)


def test_a_run_says_so_before_it_computes(small, tmp_path, monkeypatch):
    from hil.training import trainer
    real = trainer.load_images
    def never_indoors(config, progress):
        images = real(config, progress)
        images.loc[~images.train & images.camid.isin([1, 2]), "camid"] = 4
        return images
    monkeypatch.setattr(trainer, "load_images", never_indoors)
    monkeypatch.setattr(trainer.Trainer, "make_views", lambda self: pytest.fail("views were computed first"))
    with pytest.raises(RunError, match='Set search_mode = "all"'):
        trainer.Trainer(small(search_mode="indoor", run_dir=str(tmp_path / "run")), progress=False).prepare()


BROKEN = {"cut": lambda raw: raw[:len(raw) // 2], "empty": lambda raw: b"", "a page": lambda raw: b"<html>" * 50,
          "zeros": lambda raw: bytes(len(raw)),
          "7.3": lambda raw: b"MATLAB 7.3 MAT-file" + bytes(105) + b"\x00\x02IM" + raw,
          "flipped": lambda raw: raw[:140] + bytes(255 - b for b in raw[140:200]) + raw[200:]}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_permutation_file(tmp_path, kind):
    cells = np.empty((6, 1), object)
    for c in range(6):
        cells[c, 0] = np.empty((1, 3), object)
        for i in range(3): cells[c, 0][0, i] = np.arange(1, 21).reshape(4, 5)
    file = tmp_path / "rand_perm_cam.mat"
    savemat(file, {"rand_perm_cam": cells}, do_compression=True)
    assert read_permutation(file)[3, 2].shape == (4, 5)
    file.write_bytes(BROKEN[kind](file.read_bytes()))
    with pytest.raises(DataError, match="rand_perm_cam.mat: (not a MATLAB file, or damaged|saved in MATLAB's format)"):
        read_permutation(file)


@pytest.mark.parametrize("content,says", [
    ({"other": np.ones(3)}, "without the variable rand_perm_cam, it holds other"),
    ({"rand_perm_cam": np.ones((6, 1))}, "no cell of cameras"), ({"rand_perm_cam": "text"}, "no cell of cameras"),
    ({"rand_perm_cam": [[np.ones((1, 3))]]}, "no cell of cameras"), ("half", "a row of image numbers from 1"),
    ("zero", "a row of image numbers from 1"), ("words", "a row of image numbers from 1")])
def test_a_permutation_file_of_another_kind(tmp_path, content, says):
    if isinstance(content, str):
        inner = np.empty((1, 1), object)
        inner[0, 0] = {"half": np.array([[1, 2.5]]), "zero": np.array([[0, 1]]), "words": np.array(["a"])}[content]
        outer = np.empty((1, 1), object)
        outer[0, 0], content = inner, {}
        content["rand_perm_cam"] = outer
    savemat(tmp_path / "rand_perm_cam.mat", content)
    with pytest.raises(DataError, match=says): read_permutation(tmp_path / "rand_perm_cam.mat")


def test_official_draws_of_renamed_images():
    table = seen_by(test=range(1, 7))
    table.loc[table.camid == 2, "path"] = "cam2/0003/front.jpg"
    permutation = {(c, pid): np.array([[1, 2]]) for c in range(1, 7) for pid in (3, 4)}
    with pytest.raises(DataError, match="front.jpg: official draws name images by number"):
        draw(table, Protocol(official=True), 0, permutation)


def test_fewer_features_than_images():
    table = seen_by(test=range(1, 7))
    with pytest.raises(ValueError, match="features: 5 rows, but the table numbers its images up to 23"):
        evaluate_draws(torch.ones(5, 2), table, Protocol(trials=1))


def test_one_infrared_image(small, monkeypatch):
    "Used to end in `linalg.svd failed`."
    from hil.models.lite0 import Head
    from hil.training import run_images
    with pytest.raises(ValueError, match="infrared: 1 image to measure mean and deviation on; two are needed"):
        Head(8, 4, 4).calibrate({"visible": torch.randn(5, 8), "infrared": torch.randn(1, 8)})
    real = run_images.train_table
    def one_infrared(*args):
        table = real(*args)
        return pd.concat([table[table.modality == "visible"], table[table.modality == "infrared"][:1]])
    monkeypatch.setattr(run_images, "train_table", one_infrared)
    with pytest.raises(DataError, match="one infrared training image; both modalities are needed"):
        run_images.load_images(small(), progress=False)
