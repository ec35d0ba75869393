"""Every command of README.md and of the site's pages, as it stands there. What takes minutes or needs what a test
cannot have is only read by the program that it calls, and the reason stands beside it."""
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache, wraps
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import tyro
from conftest import papermill
from packages import EXTRAS, asked
from papermill.cli import _resolve_type
from PIL import Image
from test_cli import LAB, call

from hil.cli import training_settings
from hil.core.names import MODALITIES
from hil.core.settings import settings_from
from hil.evaluation.scoring import Evaluation
from hil.experiments.ablation import ablation, chosen_variants
from hil.runs.config import Config
from hil.runs.folder import Run

TOP = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
PROGRAMS = ("make ", "hil ", "papermill ", "torchrun ", "pip ", "python ", "jupyter ", "-p ")
CALLS = ("Trainer(Config", "explore(", "from hil import", "import hil")


def readme(): return (TOP / "README.md").read_text(encoding="utf-8")


def everything():
    "README and the pages that go on where it ends."
    pages = sorted((TOP / "docs" / "pages").glob("*.md"))
    text = "\n".join([readme(), *(page.read_text(encoding="utf-8") for page in pages)])
    return re.sub(r"^```\{.*?^```$", "", text, flags=re.M | re.S)  # lists of pages are no commands


def commands():
    "Lines of shell blocks, and words in the running text that begin as a command; its bare name is none."
    text = everything()
    blocks = [line.split("  #")[0].strip() for kind, block in FENCE.findall(text) if not kind
              for line in block.splitlines()]
    spans = re.findall(r"`([^`\n]+)`", FENCE.sub("", text).replace("\n", " "))
    return [*blocks, *(s for s in spans if s.startswith((*PROGRAMS, *CALLS)) and not is_name(s))]


def is_name(span): return re.fullmatch(r"hil \w+", span) is not None


def test_bare_names_are_commands():
    from hil.cli import COMMANDS
    names = set(re.findall(r"`hil (\w+)`", everything()))
    assert names <= set(COMMANDS), f"README or a page names commands that are not there: {names - set(COMMANDS)}"


def test_readme_fits_its_limits():
    lines = readme().splitlines()
    assert len(lines) <= 120, f"README has {len(lines)} lines: what it needs not say belongs on a page of the site"
    for file in (TOP / "README.md", *(TOP / "docs" / "pages").glob("*.md")):
        long = [n for n, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
                if len(line) > 200 and not line.startswith("|")]
        assert not long, f"{file.name}: lines over 200 signs: {long}"


def test_every_link_of_readme_leads_somewhere():
    text = FENCE.sub("", readme())
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^\]]+\]: (\S+)", text, re.M)
    local = [t for t in targets if not t.startswith("http")]
    assert len(local) > 20 and not (gone := [t for t in local if not (TOP / t).exists()]), f"README links to {gone}"
    named = set(re.findall(r"\]\[([\w]+)\]", text))
    assert named == set(re.findall(r"^\[([^\]]+)\]: ", text, re.M)), "reference links and their targets differ"


def test_the_first_screen_has_the_three_paths():
    first = "\n".join(readme().splitlines()[:30])
    assert all(f"docs/pages/{name}.md" in first for name in ("ninety_minutes", "researcher", "engineer"))
    assert "nbs/images/method.png" in first and "nbs/images/query.png" in first


# ---- how each one is tried ----------------------------------------------------------------------------------------

@cache
def targets():
    "{target: its recipe} of the Makefile, as make reads it; nothing is run."
    done = subprocess.run(["make", "-npq", "help"], cwd=TOP, capture_output=True, text=True)
    return dict(re.findall(r"^([a-z-]+):(.*?)(?=^\S|\Z)", done.stdout, re.M | re.S))


def make_knows(command, **_):
    "A target of the Makefile, and settings that the Makefile names: it installs, or runs for minutes."
    _, target, *given = shlex.split(command)
    assert targets()[target].strip(), target
    for word in given: assert re.search(rf"^{word.split('=')[0]} \?=", (TOP / "Makefile").read_text(), re.M)


def settings_of(words, kind, **more):
    "The settings that the notebook would get: papermill's own reading of -p, then the notebook's."
    at = [i for i, word in enumerate(words) if word == "-p"]
    given = {words[i + 1]: _resolve_type(words[i + 2]) for i in at} | more
    return settings_from({**given, "In": []}, {"In"}, kind)


def papermill_reads(command, **_):
    "The notebook is there and its settings are right: a report takes minutes, and data that a test does not have."
    words = [word for word in shlex.split(command.replace("runs/...", "runs/x")) if word != "..."]
    notebook = next((w for w in words if w.endswith(".ipynb")), "nbs/train.ipynb")
    assert (TOP / notebook).is_file()
    kind = Evaluation if "evaluate" in notebook or {"resize", "checkpoint"} & set(words) else Config
    needs_root = {"sysu", "regdb", "llcm", "folder"} & set(words)
    if words[-1] == "data_root": words.append("/path/to/data")
    root = {"data_root": "/path/to/data"} if needs_root and "data_root" not in words else {}
    return settings_of(words, kind, **root)


def papermill_helps(command, folder, **_):
    assert command == "papermill --help-notebook nbs/train.ipynb"
    done = papermill("train", folder, "--help-notebook")
    assert done.returncode == 0 and "n_sub: int" in done.stdout


def torchrun_reads(command, **_):
    "torchrun and hil take these words: the paper's training needs GPUs, weights and SYSU-MM01."
    from torch.distributed.run import parse_args
    told = parse_args(shlex.split(command)[1:])
    assert told.training_script == "hil" and told.training_script_args[0] == "train"
    assert training_settings(told.training_script_args[1:]).dataset == "sysu"


def hil_reads(command, **_):
    "hil takes these words: the paper's training needs GPUs, weights and SYSU-MM01."
    assert training_settings(shlex.split(command)[2:]).preset == "sysu"


def ablation_reads(command, **_):
    "hil takes these words: runs on default renderings take minutes each. test_experiments runs a smaller grid."
    def words_only(**given): return given
    given = tyro.cli(wraps(ablation)(words_only), args=shlex.split(command)[2:])
    assert chosen_variants(given["variants"]) and given["renderings"] and len(given["seeds"]) == 3


def python_knows(command, **_):
    "The script is there: test_statistics calls what it does."
    assert (TOP / shlex.split(command)[1]).is_file()


def pip_knows(command, **_):
    "The extras are there: test_install installs the wheel."
    assert all(asked(extra) for extra in re.findall(r"\w+", command.partition("[")[2]))
    assert set(re.findall(r"\w+", command.partition("[")[2])) <= set(EXTRAS)


def hil_runs(command, folder, run, **_):
    "For real; runs/... and runs/<date> are the run that the first command made, /path/to/SYSU-MM01 is a stand-in."
    words = shlex.split(command.replace("runs/...", str(run)).replace("runs/<date>", str(run)))[1:]
    if "/path/to/SYSU-MM01" in words:
        from hil.synth.stand_ins import write_layout
        words[-1] = str(write_layout("sysu", folder / "SYSU-MM01", people=4, images=1))
        code, out, error = call(folder, *words)
        assert code == 1 and "1 PROBLEM" in out and "rendered stand-in" in out, out + error
        return
    if "new_crops/" in words: some_crops(folder / "new_crops")
    if "times.csv" in words: times_of(run, folder)
    if "/path/to/crops" in words:
        some_crops(folder / "crops")
        words[-1] = "crops"
    (folder / "lab").mkdir(exist_ok=True)
    (folder / "lab" / "jupyterlab.py").write_text(LAB)
    path = os.pathsep.join([str(folder / "lab"), os.environ.get("PYTHONPATH", "")])
    code, out, error = call(folder, *words, PYTHONPATH=path)
    assert code == 0, out + error


def some_crops(folder):
    "A picture of each modality."
    rng = np.random.default_rng(0)
    for m in MODALITIES:
        (folder / m).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (128, 64, 3), np.uint8)).save(folder / m / "a.png")


def python_runs(command, folder, run, **_):
    "For real, in an empty folder."
    names = {}
    for line in ("from hil import Trainer, Config, explore", command.replace("runs/<date>", str(run))):
        exec(compile(line, "README.md", "exec"), names)


def times_of(run, folder):
    "A time for each picture of the run."
    table = pd.read_csv(Path(run) / "images.csv")[["path"]]
    table.assign(time=np.arange(len(table))).to_csv(Path(folder) / "times.csv", index=False)


def opens_with_times(folder, run, **_):
    "With a time for each picture of the run."
    from hil import explore
    times_of(run, folder)
    assert "time" in explore(str(run), columns=str(Path(folder) / "times.csv")).session.source.table


def learns_from_labels(folder, **_):
    "It is read, and stops where the list is not there; `tests/test_corrections.py` trains with one."
    code, _, error = call(folder, "train", "--preset", "tiny", "--labels", "nobody.csv")
    assert code == 1 and 'labels = "nobody.csv": no such file' in error


def learns_from_links(command, **_):
    "hil takes these words; `tests/test_corrections.py` trains with a journal."
    told = training_settings(shlex.split(command)[2:])
    assert told.dataset == "folder" and told.links == "runs/first/curation.jsonl"


def journals_meet(folder, **_):
    "Two journals that agree, then two that do not."
    head = dict(journal=1, images="x", note="", labels=[0, 0, 1], names=["A", "B"])
    acts = dict(ada=dict(do="outlier", images=[2]), bob=dict(do="rename", identity=0, name="Eva"),
                eve=dict(do="rename", identity=0, name="Ada"))
    for name, act in acts.items():
        (folder / f"{name}.jsonl").write_text(json.dumps(head) + "\n" + json.dumps(act) + "\n")
    assert call(folder, "journal", "merge", "ada.jsonl", "bob.jsonl", "both.jsonl")[0] == 0
    assert len((folder / "both.jsonl").read_text().splitlines()) == 3
    code, out, _ = call(folder, "journal", "merge", "bob.jsonl", "eve.jsonl", "none.jsonl")
    told = "not agreed, left out of both: bob.jsonl: calls A Eva; eve.jsonl: calls A Ada; images 0, 1"
    assert code == 1 and told in out


EVERY = {
    "make train": make_knows, "make test": make_knows, "make lab": make_knows, "make bench": make_knows,
    "make bench ARGS=--scale": make_knows, "make setup": make_knows, "make setup FAISS=gpu": make_knows,
    "hil train --preset tiny": hil_runs, "hil evaluate --checkpoint runs/...": hil_runs,
    "hil check /path/to/SYSU-MM01": hil_runs, "hil explore runs/...": hil_runs, "hil explore runs/<date>": hil_runs,
    "hil explore runs/... --columns times.csv": hil_runs,
    "hil runs runs": hil_runs, "hil identities runs/... who.csv": hil_runs,
    "hil train --preset tiny --labels who.csv": learns_from_labels,
    "hil journal merge ada.jsonl bob.jsonl both.jsonl": journals_meet,
    "hil assign runs/... new_crops/ new.csv": hil_runs, "make docs": make_knows, "make export": make_knows,
    "make slides NB=nbs/4_method/02_cluster.ipynb": make_knows, "make gpu-check": make_knows,
    'hil ablation --variants HIL "HIL, one-way" --renderings 9 12 --seeds 0 1 2': ablation_reads,
    'explore("runs/<date>").save("review.html")': python_runs,
    'explore("runs/...", columns="times.csv")': opens_with_times,
    'explore("runs/<date>")': python_runs, "from hil import Trainer, Config": python_runs, "import hil": python_runs,
    'Trainer(Config(preset="tiny")).fit()': python_runs,
    "papermill --help-notebook nbs/train.ipynb": papermill_helps,
    "papermill nbs/train.ipynb out.ipynb -p n_sub 4 -p matcher one_way": papermill_reads,
    "papermill nbs/train.ipynb out.ipynb -p dataset sysu -p data_root /path/to/SYSU-MM01 -p train_splits train+val":
        papermill_reads,
    "papermill nbs/evaluate.ipynb out.ipynb -p checkpoint runs/...": papermill_reads,
    "-p checkpoint hil.pth -p dataset sysu -p data_root ...": papermill_reads, "-p resize lanczos": papermill_reads,
    "-p neighbors ivf": papermill_reads, "-p level sample -p memory_update sample -p flip True": papermill_reads,
    "-p dataset regdb -p split 1": papermill_reads, "-p dataset llcm": papermill_reads,
    "papermill nbs/train.ipynb out.ipynb -p dataset folder -p data_root /path/to/crops": papermill_reads,
    "hil check /path/to/crops": hil_runs, "hil identities runs/<date> who.csv": hil_runs,
    "hil assign runs/<date> new_crops/ new.csv": hil_runs,
    "hil train --dataset folder --data_root /path/to/crops --links runs/first/curation.jsonl": learns_from_links,
    "python tests/headline.py": python_knows,
    "python tests/bench_questions.py one_factor": python_knows,
    "pip install .": pip_knows, 'pip install ".[notebook,cpu]"': pip_knows,
    "torchrun --nproc_per_node 2 -m hil train --preset sysu --data_root /path/to/SYSU-MM01 "
    "--weights vit_base_ics_cfs_lup.pth --run_dir runs/sysu": torchrun_reads,
    "hil train --preset sysu --data_root /path/to/SYSU-MM01 --weights vit_base_ics_cfs_lup.pth --run_dir runs/sysu "
    "--accumulate 4 --precision bf16": hil_reads}
SLOW = (hil_runs, python_runs, opens_with_times)


def test_no_command_is_left_out():
    assert set(commands()) - set(EVERY) == set(), "new in README.md or a page: say in EVERY how it is tried"
    assert set(EVERY) - set(commands()) == set(), "no longer in README.md or a page"


@pytest.fixture(scope="module")
def folder(hil_home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    yield folder
    for file in folder.rglob("*.pt"): file.unlink()


@pytest.fixture(scope="module")
def run(folder):
    "The run that `hil train --preset tiny` makes: no setting beside the preset, no folder named."
    code, out, error = call(folder, "train", "--preset", "tiny")
    assert code == 0, error
    return folder / out.splitlines()[-1]


@pytest.mark.slow
def test_the_first_run_learns(run):
    found = Run(run)
    assert len(found.history) == found.config.epochs + 1 and found.history.clusters_visible.iloc[-1] >= 2


@pytest.mark.parametrize("command", [c for c, how in EVERY.items() if how not in SLOW])
def test_a_command_is_read(command, folder): EVERY[command](command=command, folder=folder)


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c, how in EVERY.items() if how in SLOW and c != "hil train --preset tiny"])
def test_a_command_is_run(command, folder, run, monkeypatch):
    monkeypatch.chdir(folder)
    EVERY[command](command=command, folder=folder, run=run)


@pytest.mark.parametrize("block", [text for kind, text in FENCE.findall(readme()) if kind == "python"])
def test_a_python_block_runs(block, tmp_path):
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_make_is_here(): assert shutil.which("make"), "the Makefile's targets are read by make: apt-get install make"


# ---- the notebooks' own commands, and the smallest run everywhere ------------------------------------------------

def lines_of_notebooks():
    "Every papermill command in the text of the three notebooks on top."
    for name in ("train", "evaluate", "ablation"):
        for cell in nbformat.read(TOP / "nbs" / f"{name}.ipynb", 4).cells:
            for _, text in FENCE.findall(cell.source + "\n") if cell.cell_type == "markdown" else ():
                yield from (line.split("  #")[0].strip() for line in text.splitlines() if line.startswith("papermill"))


@pytest.mark.parametrize("command", list(lines_of_notebooks()))
def test_a_notebooks_command_is_read(command):
    "As `papermill_reads`; the ablation has parameters of its own beside the settings of `train`."
    own = "seeds|variants|renderings|real|threads|workers|backend|results"
    assert papermill_reads(re.sub(rf""" -p ({own}) ("[^"]*"|\S+)""", "", command))


def test_preset_tiny_is_one_word_everywhere():
    "In Python, for papermill and on the command line."
    tiny = Config(preset="tiny")
    assert papermill_reads("papermill nbs/train.ipynb out.ipynb -p preset tiny") == tiny
    assert training_settings(["--preset", "tiny"]) == tiny and tiny.k1 < 12
