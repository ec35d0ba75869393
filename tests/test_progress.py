"""Progress where somebody looks: in the terminal of papermill, as lines in a log, and never in the notebook."""
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import nbformat
import pytest

from hil.core import progress
from hil.core.progress import Lines, Terminal, own_terminal, progress_bar

SOURCE = """
import time
from hil.core.progress import Lines, progress_bar
Lines.first = .05
with progress_bar(total=40, unit="steps", smoothing=0) as bar:
    for e in range(2):
        bar.set_description(f"epoch {e + 1}/2, training")
        bar.set_postfix_str(f"mAP {e + 1}2.3 %")
        for _ in range(20):
            time.sleep(.01)
            bar.update()
print("trained")
"""


def outputs(path): return [o for c in nbformat.read(path, 4).cells if c.cell_type == "code" for o in c.outputs]


@pytest.fixture
def notebook(tmp_path):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SOURCE)])
    nb.metadata["kernelspec"] = dict(name="python3", display_name="Python 3", language="python")
    nbformat.write(nb, tmp_path / "in.ipynb")
    return [sys.executable, "-m", "papermill", str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb")]


def in_a_terminal(command, **more):
    "What a command writes into a terminal of 100 columns that is its stderr."
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    said = b""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs, **more) as done:
        os.close(theirs)
        while part := _read(ours): said += part
    os.close(ours)
    return done.returncode, said.decode(errors="replace")


def _read(number):
    try: return os.read(number, 4096)
    except OSError: return b""          # the last one who had the terminal open has closed it


def test_papermill_in_a_terminal_shows_the_runs_own_progress(notebook, tmp_path):
    code, said = in_a_terminal(notebook)
    assert code == 0 and "epoch 1/2, training" in said and "epoch 2/2, training" in said, said
    assert "mAP 22.3 %" in said and "/40 [" in said and "Executing" in said, "step, score, and papermill's own bar"
    assert [o.text for o in outputs(tmp_path / "out.ipynb")] == ["trained\n"], "nothing of it is in the notebook"


def test_papermill_into_a_log_writes_plain_lines(notebook, tmp_path):
    done = subprocess.run([*notebook, "--no-progress-bar"], capture_output=True, text=True, timeout=300)
    lines = [line for line in done.stderr.splitlines() if "training" in line]
    assert done.returncode == 0 and 2 <= len(lines) < 40, done.stderr
    assert lines[-1].startswith("epoch 2/2, training: ") and "of 40 steps" in lines[-1] and "mAP 22.3 %" in lines[-1]
    assert "\r" not in "".join(lines) and [o.text for o in outputs(tmp_path / "out.ipynb")] == ["trained\n"]


def test_papermill_without_any_stderr_runs(notebook, tmp_path):
    assert subprocess.run(["sh", "-c", '"$@" 2>&-', "sh", *notebook, "--no-progress-bar"], timeout=300).returncode == 0
    assert [o.text for o in outputs(tmp_path / "out.ipynb")] == ["trained\n"]


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full", "2>&1 >/dev/null | true"])
def test_a_script_whose_reader_is_gone_runs(tmp_path, closed):
    done = tmp_path / "done"
    code = SOURCE + f"open({str(done)!r}, 'w').close()"
    subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", code], timeout=300, capture_output=True)
    assert done.exists()


def test_a_script_in_a_terminal_has_a_bar():
    code, said = in_a_terminal([sys.executable, "-c", SOURCE])
    assert code == 0 and "epoch 1/2, training" in said and "%|" in said and "mAP 22.3 %" in said


def test_a_front_end_that_answers_questions_keeps_its_bar(monkeypatch):
    "JupyterLab lets a cell ask (`input()`), papermill does not."
    class Kernel: _allow_stdin = True
    monkeypatch.setattr(progress, "running_kernel", lambda: Kernel)
    monkeypatch.setattr(progress, "notebook_bar", lambda *a, **k: "in the notebook")
    assert progress_bar(range(3)) == "in the notebook"
    Kernel._allow_stdin = False
    assert isinstance(progress_bar(range(3)), (Lines, progress.terminal_bar))


def test_without_a_stderr_nothing_is_shown(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "__stderr__", None)
    assert own_terminal() is None and list(progress_bar(range(3))) == [0, 1, 2]
    Terminal(987654).write("nobody has opened this")
