"nbs/ablation.ipynb through papermill, at a size of seconds; a second call reads what the first one ran."
import re

import nbformat
import pytest
from conftest import SMALL, papermill

from hil.experiments.results import read_results
from hil.runs.folder import Run


@pytest.mark.slow
def test_every_variant_is_run_once_and_shown(hil_home, tmp_path):
    settings = dict(SMALL, seeds=1, iterations=2, trials=1, stage2_epochs=1, run_dir="runs", renderings="9",
                    variants="HIL; + BRST + neighbours; HIL - MCCL; supervised")
    assert (done := papermill("ablation", tmp_path, **settings)).returncode == 0, done.stderr[-3000:]
    runs = {p.parent.name: Run(p.parent) for p in tmp_path.glob("runs/*/config.json")}
    assert len(runs) == 3, "two of the four variants are the same settings"
    assert sum(r.config.supervision == "truth" for r in runs.values()) == 1
    assert {r.config.iterations for r in runs.values()} == {2} and {r.config.preset for r in runs.values()} == {"tiny"}
    table = read_results(tmp_path / "runs" / "results.csv")
    assert sorted(table.variant) == ["+ BRST + neighbours", "HIL", "HIL − MCCL", "supervised"]
    cells = nbformat.read(tmp_path / "out.ipynb", 4).cells
    shown = "".join(str(o) for c in cells if c.cell_type == "code" for o in c.outputs)
    for run in runs.values(): assert f"{100 * run.history.mAP.iloc[-1]:.1f}" in shown, run.path
    assert "4 of 4 cells are finished" in shown and "not decided" in shown
    assert sum("image/png" in o.get("data", {}) for c in cells if c.cell_type == "code" for o in c.outputs) == 1
    stamp = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/history.csv")}
    assert papermill("ablation", tmp_path, **settings).returncode == 0
    assert stamp == {p: p.stat().st_mtime_ns
                     for p in tmp_path.glob("runs/*/history.csv")}, "a finished run was repeated"


@pytest.mark.slow
@pytest.mark.parametrize("given,says", [
    (dict(seeds=1, iteration=2), "'iteration' is not a parameter; did you mean 'iterations'"),
    (dict(variants="HIL; one way"), "variant = 'one way': expected one of"), (dict(seeds=0), "seeds = 0")])
def test_a_mistyped_setting_stops_it(tmp_path, given, says):
    done = papermill("ablation", tmp_path, **given)
    assert done.returncode == 1 and re.search(re.escape(says), done.stderr)
