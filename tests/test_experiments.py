"The engine of hil.experiments: cells and their keys, a grid that is interrupted, engines, failures, the table."
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest
from test_cli import call

from hil.core.errors import DataError, RunError
from hil.experiments import worker
from hil.experiments.ablation import NEWER, PUBLISHED, SEVERAL, VARIANTS, add_measured, chosen_variants, reference_of
from hil.experiments.backends import at_once, results_of
from hil.experiments.cells import CODE, Cell, data_name, grid, images_print, real_sets, renderings
from hil.experiments.grid import is_done, run_grid
from hil.experiments.listing import list_runs, rendered
from hil.experiments.results import COLUMNS, add_results, collect, people_file, read_people, read_results
from hil.experiments.statistics import blocks_of
from hil.runs.config import Config, variant
from hil.runs.folder import Run
from hil.synth.stand_ins import write_layout
from hil.training.trainer import Trainer

GOLDEN = Path(__file__).parent / "golden" / "results_code.json"
TINY = dict(preset="tiny", stage2_epochs=2, iterations=2, trials=2)
CHANGES = {"HIL": {}, "HIL, one-way": dict(matcher="one_way")}
NOT_COMPARED = ["seconds"]  # the only column that may differ between two runs of a cell


def tiny_grid(names=("HIL",), **more):
    return grid({name: CHANGES[name] for name in names}, renderings([9]), [0], TINY | more)


@pytest.fixture(scope="module")
def finished(hil_home, tmp_path_factory):
    "A grid of two cells, run by joblib: (cells, folder, state, lines that were told)."
    folder, said = tmp_path_factory.mktemp("joblib"), []
    cells = tiny_grid(CHANGES)
    return cells, folder, run_grid(cells, folder, results=folder / "results.csv", tell=said.append), said


# ---- keys ---------------------------------------------------------------------------------------------------------

def key(**settings): return Cell("", "", Config(**settings)).key


def test_a_key_counts_what_changes_a_result_and_nothing_else():
    plain = key()
    assert plain == key(run_dir="x", device="cpu", keep_features=False) == Cell("n", "d", Config()).key
    others = [key(seed=1), key(render_seed=1), key(lr=1e-3), key(matcher="one_way"), key(overlap=.5), key(trials=1),
              Cell("", "", Config(), threads=2).key]
    assert len({plain, *others}) == 1 + len(others)


def test_a_real_set_is_known_by_its_content(tmp_path):
    write_layout("llcm", tmp_path / "a", people=4, images=1)
    def now(name):
        images_print.cache_clear()
        return key(dataset="llcm", data_root=str(tmp_path / name), expect="any")
    before = now("a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert now("b") == before, "another place, another time of change: the same images"
    picture = next((tmp_path / "b").rglob("*.jpg"))
    content = picture.read_bytes()
    picture.write_bytes(content + b"0")
    assert now("b") != before
    picture.write_bytes(content)
    assert now("b") == before
    with pytest.raises(DataError, match="nowhere"): now("nowhere")


@pytest.mark.slow
def test_the_number_CODE_is_raised_with_the_results(finished):
    """The same settings and images must give the figures that belong to `CODE`: else old runs would be paired with
    new ones. To set the golden file anew: raise CODE in nbs/a_experiments/00_cells.ipynb, delete the file, run this."""
    cells, folder, *_ = finished
    first = Run(folder / cells[0].key).history.iloc[1]
    now = dict(code=CODE, defaults={f.name: getattr(Config, f.name) for f in fields(Config)},
               figures={c: round(float(first[c]), 3) for c in ("loss_total", "clusters_visible", "clusters_infrared")})
    if not GOLDEN.exists(): GOLDEN.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
    then = json.loads(GOLDEN.read_text(encoding="utf-8"))
    advice = "results changed: raise CODE in nbs/a_experiments/00_cells.ipynb, delete the golden file and run again"
    assert then["code"] == CODE, "the golden file belongs to another CODE; delete it and run this test again"
    changed = {k for k, v in then["defaults"].items() if now["defaults"].get(k, v) != v}
    assert not changed, f"other defaults ({changed}): {advice}"
    assert now["figures"] == pytest.approx(then["figures"], rel=.02), advice


def test_a_new_setting_does_not_change_keys(monkeypatch):
    "What stands at its default is left out, so a setting that is added later leaves old runs where they are."
    assert "threshold" not in json.dumps(worker.task_of(Cell("", "", Config()), "x")["name"])
    from hil.experiments.cells import telling
    assert telling(Config()) == {} and telling(Config(lr=1e-3, run_dir="x")) == {"lr": 1e-3}


def test_two_names_of_one_run_are_run_once():
    cells = grid(VARIANTS, renderings([9]), [0], PUBLISHED)
    names = {cell.variant: cell.key for cell in cells}
    assert names["HIL − MCCL"] == names["+ BRST + neighbours"] and names["HIL − neighbours"] == names["+ BRST + MCCL"]
    assert len(set(names.values())) == len(VARIANTS) - 2


def things(name):
    "The settings in which a variant differs from its reference; K counts only where both have the loss that uses it."
    made = [variant(Config(**PUBLISHED), **VARIANTS[n]) for n in (name, reference_of(name))]
    one, base = (vars(config) | dict(hard_prototypes=config.keeps_hard_prototypes) for config in made)
    both = one["mccl_weight"] and base["mccl_weight"]
    return [k for k, v in one.items() if v != base[k] and (k != "n_sub" or both)]


def test_every_variant_differs_from_its_reference_in_one_thing():
    "Written by hand: which thing. The two ends are the reference of nobody's; two say that they differ in more."
    ends = [name for name in VARIANTS if not reference_of(name)]
    assert ends == ["modalities apart", "HIL"]
    found = {name: things(name) for name in VARIANTS if reference_of(name)}
    assert {name for name, settings in found.items() if len(settings) != 1} == set(SEVERAL) == {"release", "supervised"}
    assert found["+ BRST + MCCL, one centre"] == ["mccl_weight"] and found["+ BRST + MCCL"] == ["n_sub"]
    assert found["HIL − MCCL"] == ["mccl_weight"] and found["HIL − sub-centres"] == ["n_sub"]
    newer = {s for name, settings in found.items() for s in settings if name.startswith(
        tuple(f"HIL, {idea}" for idea in NEWER))}
    assert newer == {"jaccard", "split_prototypes", "hard_prototypes", "neighbor_soft_labels"}


@pytest.mark.slow
def test_K_does_nothing_without_the_loss_that_uses_it(hil_home, tmp_path):
    "Why the variants without MCCL leave K alone: it changes no figure there."
    runs = [Trainer(Config(**TINY, mccl_weight=0.0, n_sub=k, run_dir=str(tmp_path / str(k)), threads=1),
                    progress=False).fit() for k in (0, 4)]
    one, two = (run.history.drop(columns="seconds") for run in runs)
    pd.testing.assert_frame_equal(one, two)


def test_every_variant_can_be_run_everywhere():
    for base in (PUBLISHED, {"preset": "tiny"}): assert grid(VARIANTS, renderings([1]), [0], base)
    places = ["/x/dev", "regdb:/x/dev", "llcm:/x/dev"]
    with pytest.raises(RunError, match="variant 'HIL, camera-aware Jaccard' cannot be run on regdb dev, split 1; name"):
        grid(VARIANTS, real_sets(places), [0], {"preset": "tiny"})
    several_cameras = {name: changes for name, changes in VARIANTS.items() if changes.get("jaccard") != "camera_aware"}
    assert len(several_cameras) == len(VARIANTS) - 1
    real = grid(several_cameras, real_sets(places), [0], {"preset": "tiny"})
    assert {cell.data for cell in real} == {"sysu dev", "regdb dev, split 1", "llcm dev"}
    assert {cell.config.select for cell in real} == {"healthiest"}
    assert data_name(Config(evaluate_on="val")) == "rendering 9, validation people"


# ---- what is done, and what is not --------------------------------------------------------------------------------

@pytest.mark.slow
def test_a_grid_is_run_once(finished):
    cells, folder, state, said = finished
    assert state.state.tolist() == ["done", "done"], state.message.tolist()
    assert any("about" in line and "a guess" in line for line in said), "an estimate before it starts"
    assert sum(line.startswith("[") and "mAP" in line for line in said) == 2, "progress while it runs"
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("history.csv")}
    again = []
    run_grid(cells, folder, tell=again.append)
    assert again == ["2 cells: 2 done, 0 runs to make, 0 that cannot be run"]
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("history.csv")}


@pytest.mark.slow
def test_what_is_known_of_people_is_the_runs_own_figure(finished):
    "The mean over draws of the mean over queries is the mAP of the history, in the folder and in the table."
    cells, folder, *_ = finished
    rows, people = collect(cells, folder)
    table = pd.DataFrame(rows)
    for cell, row in zip(cells, rows):
        scores = people[cell.key]
        by_draw = scores.assign(sum=scores.ap * scores.queries).groupby("draw")[["sum", "queries"]].sum()
        assert (by_draw["sum"] / by_draw.queries).mean() == pytest.approx(row["mAP"], abs=1e-6)
        of_file = read_people(folder / "results.csv")
        [block] = blocks_of(table[table.run == cell.key], of_file).values()
        assert block.values.shape[1] == 2 and block.mean == pytest.approx(row["mAP"], abs=6e-4)


@pytest.mark.slow
def test_weights_are_kept_only_where_asked_for(finished):
    assert not list(finished[1].rglob("*.pt"))


def wait_for(condition, seconds=400):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "it took too long"
        time.sleep(.05)


@pytest.mark.slow
def test_interrupted_and_continued(hil_home, tmp_path):
    "The driver is killed with SIGKILL in the middle: the cell's process ends too, and the next call goes on with it."
    longer = dict(iterations=10, stage2_epochs=4)
    words = ["ablation", "--variants", "HIL", "--folder", str(tmp_path / "grid"), "--settings",
             *(f"{name}={value}" for name, value in (TINY | longer).items())]
    [cell] = tiny_grid(**longer)
    folder = tmp_path / "grid" / cell.key
    driver = subprocess.Popen([sys.executable, "-m", "hil", *words], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    wait_for(lambda: (folder / "epochs" / "0002.npz").exists())  # epoch 1 is complete then, and 2 perhaps not
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    holder = folder / ".lock"
    pid = json.loads(holder.read_text())["pid"] if holder.exists() else None
    def gone():
        try: os.kill(pid, 0)
        except ProcessLookupError: return True
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    if pid: wait_for(gone)
    assert not is_done(cell, tmp_path / "grid")
    stamp = (folder / "epochs" / "0001.npz").stat().st_mtime_ns
    code, out, error = call(tmp_path, *words)
    assert code == 0 and "1 run to make" in out, out + error
    assert is_done(cell, tmp_path / "grid") and (folder / "epochs" / "0001.npz").stat().st_mtime_ns == stamp
    assert read_results(tmp_path / "grid" / "results.csv").run.tolist() == [cell.key]


@pytest.mark.slow
def test_a_cell_that_fails_is_named_and_the_rest_finishes(finished, tmp_path):
    "No weights, a data set that is not here, a process that is killed: three rows say why; what is done stays done."
    cells, folder, *_ = finished
    here = tmp_path / "grid"
    shutil.copytree(folder, here)
    real = grid({"HIL": {}}, real_sets([str(tmp_path / "nowhere")]), [0])
    bad = grid({"no weights": dict(weights="nowhere.pth")}, renderings([9]), [0], TINY)
    said = []
    state = run_grid([*real, *bad, *cells], here, tell=said.append)
    assert state.state.tolist() == ["failed", "failed", "done", "done"]
    assert "nowhere" in state.message[0] and "no such file" in state.message[1]
    assert sum(line.startswith("FAILED: HIL, sysu nowhere, seed 0") for line in said) == 1
    assert any("FAILED: no weights, tiny rendering 9, seed 0: RunError" in line for line in said)


def test_a_process_that_is_killed_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "CHILD", "import os; os.kill(os.getpid(), 9)")
    outcome = worker.run_cell(worker.task_of(Cell("", "", Config()), tmp_path))
    assert "killed by signal 9" in outcome["message"] and str(tmp_path) in outcome["message"]
    monkeypatch.setattr(worker, "CHILD", "import sys; sys.exit(5)")
    assert "code 5" in worker.run_cell(worker.task_of(Cell("", "", Config()), tmp_path))["message"]


@pytest.mark.slow
def test_other_settings_under_the_same_key_are_refused(finished, tmp_path):
    "A default that changed without CODE: the old run is not taken for the new one."
    cells, folder, *_ = finished
    shutil.copytree(folder / cells[0].key, tmp_path / cells[0].key)
    file = tmp_path / cells[0].key / "config.json"
    about = json.loads(file.read_text())
    about["config"]["lr"] = 1.0
    file.write_text(json.dumps(about))
    (tmp_path / cells[0].key / "manifest.jsonl").unlink()
    with pytest.raises(RunError, match="lr was 1.0"): is_done(cells[0], tmp_path)


# ---- engines ------------------------------------------------------------------------------------------------------

def same_table(folder, other, cells):
    one, two = (pd.DataFrame(collect(cells, f)[0])[COLUMNS].drop(columns=NOT_COMPARED) for f in (folder, other))
    pd.testing.assert_frame_equal(one, two)
    one, two = (collect(cells, f)[1][cells[0].key] for f in (folder, other))
    pd.testing.assert_frame_equal(one, two)


@pytest.mark.slow
def test_submitits_local_executor_gives_the_same_table(finished, tmp_path):
    pytest.importorskip("submitit")
    cells, folder, *_ = finished
    state = run_grid(cells[:1], tmp_path, backend="submitit", cluster="local", workers=1, pause=.2)
    assert state.state.tolist() == ["done"], state.message[0]
    same_table(folder, tmp_path, cells[:1])


@pytest.fixture
def local_ray():
    "A cluster of ray on this machine; it is stopped afterwards."
    ray = pytest.importorskip("ray")
    yield dict(num_cpus=1, include_dashboard=False, log_to_driver=False)
    ray.shutdown()


def test_ray_gives_the_same_results(local_ray):
    assert sorted(results_of(abs, [-1, 2], backend="ray", memory=1, **local_ray)) == [(0, 1), (1, 2)]


@pytest.mark.slow
def test_ray_gives_the_same_table(finished, tmp_path, local_ray):
    cells, folder, *_ = finished
    state = run_grid(cells[:1], tmp_path, backend="ray", memory=1e9, **local_ray)
    assert state.state.tolist() == ["done"], state.message[0]
    same_table(folder, tmp_path, cells[:1])


@pytest.mark.slow
def test_runs_that_share_their_stage_1_give_the_same_table(finished, tmp_path):
    "tests/bench_questions.py --here: one process, one stage 1 for both variants, no weights; in a process of its own."
    cells, folder, *_ = finished
    code = ("import sys; import bench_questions, test_experiments as t; "
            "bench_questions.here([t.tiny_grid(t.CHANGES)], sys.argv[1], sys.argv[1] + '/results.csv', 1e9)")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parent, capture_output=True,
                          text=True, encoding="utf-8")
    assert done.returncode == 0 and "FAILED" not in done.stdout, done.stdout + done.stderr
    same_table(folder, tmp_path, cells)
    assert sorted(read_results(tmp_path / "results.csv").run) == sorted(cell.key for cell in cells)


@pytest.mark.slow
def test_papermill_gives_the_same_table(finished, tmp_path):
    cells, folder, *_ = finished
    state = run_grid(cells[:1], tmp_path, way="papermill")
    assert state.state.tolist() == ["done"], state.message[0]
    assert (tmp_path / cells[0].key / "report.ipynb").exists()
    same_table(folder, tmp_path, cells[:1])


@pytest.mark.parametrize("given,says", [
    (dict(backend="slurm"), "expected one of joblib, submitit, ray"), (dict(way="notebook"), "trainer, papermill"),
    (dict(workers=10**6), "set workers to"), (dict(partition="gpu"), "takes no partition")])
def test_a_grid_that_cannot_be_run_is_refused(tmp_path, given, says):
    with pytest.raises(RunError, match=says): run_grid(tiny_grid(), tmp_path, tell=lambda line: None, **given)
    assert not list(tmp_path.glob("*/config.json"))


@pytest.mark.parametrize("package,extra", [("submitit", "slurm"), ("ray", "ray")])
def test_an_engine_that_is_missing_says_how_to_install_it(monkeypatch, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RunError, match=rf'pip install "hil\[{extra}\]"'): results_of(abs, [1], backend=package)


def test_cores_and_memory_are_respected(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    monkeypatch.setattr("hil.experiments.backends.free_memory", lambda: 10e9)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert at_once("joblib", 100, threads=1, memory=3e9) == 3 and at_once("joblib", 100, threads=4, memory=1e9) == 2
    assert at_once("joblib", 1, threads=1, memory=1) == 1 and at_once("joblib", 100, memory=100e9) == 1
    with pytest.raises(RunError, match="lower threads"): at_once("joblib", 1, threads=9)


# ---- the table and the listing ------------------------------------------------------------------------------------

@pytest.mark.slow
def test_the_command_lists_what_is_there(finished, tmp_path):
    cells, folder, *_ = finished
    shutil.copytree(folder, tmp_path / "grid")
    shutil.copytree(folder / cells[0].key, tmp_path / "grid" / "broken")
    (tmp_path / "grid" / "broken" / "history.csv").write_text("epoch\n0\n")
    code, out, error = call(tmp_path, "runs", "grid")
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert code == 0 and "broken: damaged" in lines["broken:"] and "history.csv" in lines["broken:"], out + error
    assert "matcher=one_way" in lines[cells[1].key] and "3 of 3" in lines[cells[1].key]
    mAP = Run(folder / cells[1].key).history.mAP.iloc[-1]
    assert f"{100 * mAP:.1f} %" in lines[cells[1].key] and "tiny rendering 9" in lines[cells[1].key]
    assert call(tmp_path, "runs", "nothing")[0] == 1


@pytest.mark.slow
def test_a_folder_of_whole_runs_is_listed(finished):
    found = list_runs(finished[1])
    assert found.state.tolist() == ["done", "done"] and set(found.differs) == {"defaults", "matcher=one_way"}
    assert "done" in rendered(found)


def row(run, **more):
    return dict(variant="HIL", data="rendering 9", seed=0, run=run, settings="{}", threads=1, **more)


def test_a_damaged_table_is_named(tmp_path):
    file = tmp_path / "results.csv"
    add_results(file, [row("a", mAP=.5)], {"a": pd.DataFrame(dict(draw=[0], pid=[1], queries=[2], ap=[.5]))})
    text = file.read_text()
    file.write_text(text + text.splitlines()[1] + "\n")
    with pytest.raises(DataError, match="line 3 repeats a run"): read_results(file)
    file.write_text(text.replace("variant,", "varint,"))
    with pytest.raises(DataError, match="no column variant"): read_results(file)
    people = people_file(file)
    people.write_text(people.read_text().replace("500", "5x"))
    with pytest.raises(DataError, match="whole numbers"): read_people(file)
    people.write_text("run,draw,queries,ap\na,0,2 3,500\n")
    with pytest.raises(DataError, match="line 2 has 2 people"): read_people(file)


def test_runs_of_the_health_script_join_the_table(tmp_path):
    epochs = [dict(epoch=0, mAP=.4, seconds=1), dict(epoch=1, mAP=.7, seconds=2), dict(epoch=2, mAP=.6, seconds=2)]
    (tmp_path / "health.json").write_text(json.dumps([
        dict(set="rendering 12", settings=name, seed=1, epochs=epochs) for name in ("HIL", "default", "truth")]))
    table = add_measured(tmp_path / "health.json", tmp_path / "t.csv", threads=2)
    assert sorted(zip(table.variant, table.settings)) == [
        ("HIL", '{"hard_prototypes": false}'), ("HIL, hard prototypes", '{"hard_prototypes": true}'),
        ("truth", "those that health.json calls truth")]
    assert (table.mAP == .6).all() and (table.best_mAP == .7).all() and (table.untrained == .4).all()
    assert (table.threads == 2).all() and (table.epoch == 2).all()


def test_variants_by_name():
    assert list(chosen_variants(["HIL - MCCL", "HIL"])) == ["HIL", "HIL − MCCL"]
    assert chosen_variants(["all"]) is VARIANTS
    with pytest.raises(RunError, match="did you mean 'supervised'"): chosen_variants(["supervized"])
