"""`make gpu-check` without a GPU: a part that fails, hangs or cannot run is a line of the table, the rest goes on."""
import json
import re
import subprocess
import sys
import warnings

import gpu_check
import gpu_parts
import numpy as np
import pandas as pd
import pytest
import torch
from packages import ROOT, asked, brought
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

STAND_IN = """
import json, sys, time
name, rows = sys.argv[1:3]
def row(**more): return {"what": name, "value": 1.5, "unit": "s", "most": None, "ok": True, "note": "", **more}
with open(rows, "w") as out:
    def write(line): print(json.dumps(line), file=out, flush=True)
    write(row())
    if name == "tests": raise RuntimeError("this card is on fire")
    if name == "report":
        print("still waiting", flush=True)
        time.sleep(600)
    if name == "vit": write(row(value=.5, most=.1, ok=False))
    if name == "clustering": write({"not_run": "no argument for it"})
"""


@pytest.fixture
def stand_in(tmp_path):
    (tmp_path / "parts.py").write_text(STAND_IN)
    run_part = gpu_check.run_part  # before a test puts something in its place
    return lambda name, seconds=60: run_part(name, seconds, tmp_path, script=tmp_path / "parts.py")


def test_a_part_that_fails_is_a_line(stand_in):
    failed, over, told, fine = map(stand_in, ("tests", "vit", "clustering", "neighbours"))
    assert (failed["state"], failed["message"]) == ("failed", "RuntimeError: this card is on fire")
    assert (over["state"], over["message"]) == ("failed", "1 over their limit: vit: 5.0e-01 s (at most 0.1)")
    assert (told["state"], told["message"]) == ("ok", "not run: no argument for it")
    assert (fine["state"], fine["message"]) == ("ok", "") and len(fine["rows"]) == 1
    assert len(failed["rows"]) == 1, "what was measured before stays"


def test_a_part_that_hangs_is_stopped(stand_in):
    part = stand_in("report", 2)
    assert part["state"] == "failed" and part["message"] == "stopped after its 2 s; the last it said: still waiting"
    assert len(part["rows"]) == 1


def test_the_exit_status_and_the_table(monkeypatch, tmp_path, capsys, stand_in):
    monkeypatch.setattr(gpu_check, "run_part", lambda name, *rest: stand_in(name))
    words = ["--device", "cpu", "--smallest", "--out", str(tmp_path / "deep" / "out.json"), "--parts"]
    assert gpu_check.main([*words, "neighbours", "resume"]) == 0
    assert gpu_check.main([*words, "tests", "neighbours", "vit"]) == 1
    said = capsys.readouterr().out
    assert "| **tests** | **failed** |" in said and "RuntimeError: this card is on fire" in said
    assert "| vit | vit **FAILED** | 5.0e-01 s (at most 0.1) |" in said and "failed: 2 (tests, vit)" in said
    assert "| **resume** | **not run** | 0 s | not asked for |" in said
    kept = json.loads((tmp_path / "deep" / "out.json").read_text())
    assert [part["state"] for part in kept["parts"]].count("failed") == 2 and kept["machine"]["versions"]["torch"]
    assert gpu_check.main([*words, "neighbours", "--minutes", "0.001"]) == 1, "what had no time left was not checked"
    assert "no time was left" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_to_type(capsys):
    with pytest.raises(SystemExit) as stopped: gpu_check.main([])
    assert 'finds no CUDA device here' in str(stopped.value) and 'ARGS="--device cpu --smallest"' in str(stopped.value)


def test_a_real_part_in_its_smallest_form(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    words = ["--device", "cpu", "--smallest", "--parts", "neighbours", "--out", str(tmp_path / "x.json")]
    assert gpu_check.main(words) == 0
    parts = {part["part"]: part for part in json.loads((tmp_path / "x.json").read_text())["parts"]}
    values = {row["what"]: row["value"] for row in parts["neighbours"]["rows"]}
    assert values["30 neighbours of 2,000 x 512"] > 0 and values["bare product + top-k"] > 0
    assert values["neighbours missed, of 256 rows on the processor"] < 1e-4
    assert parts["vit"]["state"] == "not run"
    assert "parts that ran well: 1; failed: 0; not run: 0." in capsys.readouterr().out


def test_waits_for_the_gpu_are_counted():
    "torch tells them as warnings; others are none."
    with gpu_parts.counted_syncs(cuda=False) as places:
        for _ in range(3): warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert places.total() == 3 and [place.partition(":")[0] for place in places] == ["test_gpu_check.py"]


def test_a_run_is_killed_at_the_line_that_is_waited_for():
    slow = "import time; print('epoch 1/3: x', flush=True); time.sleep(600)"
    gpu_parts.killed([sys.executable, "-c", slow], "epoch 1/")
    with pytest.raises(RuntimeError, match="it never said 'epoch 1/', but: ValueError: no data"):
        gpu_parts.killed([sys.executable, "-c", "raise ValueError('no data')"], "epoch 1/")


def test_rows_of_a_history_that_changed():
    before = pd.DataFrame({"epoch": [0, 1], "loss": [np.nan, 2.5], "way": [None, "a_to_b"]})
    after = pd.concat([before, pd.DataFrame({"epoch": [2], "loss": [2.], "new": [1.]})], ignore_index=True)
    assert gpu_parts.changed_rows(before, after) == 0
    assert gpu_parts.changed_rows(before, after.assign(loss=[0., 2.5, 2.])) == 1
    assert gpu_parts.changed_rows(before, after.assign(way=[None, None, "x"])) == 1


def test_nan_is_over_every_limit():
    assert not gpu_parts.row("x", float("nan"), most=1)["ok"] and gpu_parts.row("x", float("nan"))["ok"]
    assert gpu_parts.row("x", 1, most=1)["ok"] and not gpu_parts.row("x", 1.1, most=1)["ok"]


def test_every_part_has_a_limit(): assert list(gpu_check.LIMITS) == list(gpu_parts.PARTS)


def test_the_pack_and_the_machine_have_what_hil_needs():
    "Names only; that the wheels work on a bare machine is tried by running them there."
    script = (ROOT / "tests" / "gpu_pack.sh").read_text(encoding="utf-8")
    has, needs, alone = (re.search(rf'^{name}="(.*?)"', script, re.M)[1].split()
                         for name in ("HAS", "WITH_NEEDS", "ALONE"))
    there = brought(Requirement(name) for name in [*has, *needs] if name not in ("torchvision", "aiohttp"))
    missing = {canonicalize_name(r.name) for r in asked("")} - set(there) - set(alone)
    assert not missing, f"tests/gpu_pack.sh leaves out {missing}"
    assert subprocess.run(["bash", "-n", ROOT / "tests" / "gpu_pack.sh"]).returncode == 0
