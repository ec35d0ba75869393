"nbs/ablation.ipynb through papermill, at a size of seconds; a second call reads what the first one ran."
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import SMALL

from hil.runs.folder import Run

NOTEBOOK = Path(__file__).parents[1] / "nbs" / "ablation.ipynb"


def papermill(folder, **parameters):
    given = [x for k, v in parameters.items() for x in ("-p", k, str(v))]
    return subprocess.run([sys.executable, "-m", "papermill", str(NOTEBOOK), "out.ipynb", "--no-progress-bar", *given],
                          cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_every_variant_is_run_once_and_shown(hil_home, tmp_path):
    settings = dict(SMALL, seeds=1, iterations=2, trials=1, run_dir="runs")
    assert (done := papermill(tmp_path, **settings)).returncode == 0, done.stderr[-3000:]
    runs = {p.name: Run(p) for p in (tmp_path / "runs").iterdir()}
    assert len(runs) == 6 and sum(r.config.supervision == "truth" for r in runs.values()) == 1
    cells = nbformat.read(tmp_path / "out.ipynb", 4).cells
    shown = "".join(str(o) for c in cells if c.cell_type == "code" for o in c.outputs)
    for run in runs.values(): assert f"{100 * run.history.mAP.iloc[-1]:.1f}" in shown, run.path
    assert sum("image/png" in o.get("data", {}) for c in cells if c.cell_type == "code" for o in c.outputs) == 1
    stamp = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/history.csv")}
    assert papermill(tmp_path, **settings).returncode == 0
    assert stamp == {p: p.stat().st_mtime_ns
                     for p in tmp_path.glob("runs/*/history.csv")}, "a finished run was repeated"
    for file in tmp_path.rglob("*.pt"): file.unlink()


@pytest.mark.slow
def test_a_mistyped_setting_stops_it(tmp_path):
    done = papermill(tmp_path, seeds=1, iteration=2)
    assert done.returncode == 1 and re.search("'iteration' is not a parameter; did you mean 'iterations'", done.stderr)
