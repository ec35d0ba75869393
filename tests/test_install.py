"""The wheel: what it holds, and that it works in an empty environment with nothing but the base requirements.

The environment is made in seconds: the packages of the base install, and those alone, are linked into it from the one
that runs the tests. HIL_WHEEL=pip installs them with pip instead (`make test-wheel`: minutes, needs the network).
"""
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import SMALL
from packages import ROOT, asked, brought, owners, pins

pytestmark = pytest.mark.slow
BASE_WINGS = ("core", "data", "synth", "models", "method", "evaluation", "runs", "training")
OUTSIDE = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}  # what would let the environment see more than it holds


def run(*command, cwd=None, **more):
    "A command in the environment of this process, without what leads to other packages -> what it printed."
    env = {k: v for k, v in os.environ.items() if k not in OUTSIDE} | more
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))[:200]}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The wheel, built from a copy, so that nothing is left in the working tree."
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "hil", source / "hil", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "settings.ini", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, source)
    return next(out.glob("hil-*.whl"))


def link(distribution, folder):
    "Make an installed distribution importable from a folder of packages, as it lies."
    for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
        if not (folder / top).exists(): (folder / top).symlink_to(distribution.locate_file(top))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    "The interpreter of an environment with the wheel and the base requirements."
    home = tmp_path_factory.mktemp("empty") / "venv"
    venv.create(home, symlinks=True)
    interpreter = home / "bin" / "python"
    pip = sys.executable, "-m", "pip", "--python", interpreter, "install", "-q", "-c", ROOT / "constraints.txt"
    if os.environ.get("HIL_WHEEL") == "pip":
        run(*pip, f"torch=={pins()['torch']}", wheel)  # torch by its pin: the build that this machine is meant to take
    else:
        packages = Path(run(interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        for distribution in brought(asked("")).values(): link(distribution, packages)
        run(*pip, "--no-deps", "--no-index", wheel)
    return interpreter


def test_the_wheel_holds_the_package_and_its_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tree = {str(p.relative_to(ROOT)) for p in (ROOT / "hil").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert {name for name in names if name.startswith("hil/")} == tree
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"hil"}, "tests or notebooks slipped in"


def test_a_source_archive_holds_what_the_build_reads():
    kept = (ROOT / "MANIFEST.in").read_text(encoding="utf-8").split()
    assert "settings.ini" in kept and all((ROOT / name).exists() for name in kept[1:])


def test_nothing_else_can_be_imported(python):
    ours = {"hil", *brought(asked(""))}
    others = sorted(name for name, by in owners().items() if name.isidentifier() and not by & ours)
    assert {"IPython", "ipywidgets", "matplotlib", "umap", "faiss", "pytest", "pyarrow"} <= set(others)
    found = run(python, "-I", "-c", "import sys; from importlib.util import find_spec\n"
                                    "print(*[name for name in sys.argv[1:] if find_spec(name)])", *others)
    assert not found.split(), f"the environment is not empty: {found}"


def test_every_module_of_a_base_wing_is_imported(python):
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for wing in BASE_WINGS
             for p in sorted((ROOT / "hil" / wing).glob("*.py")) if p.stem != "__init__"]
    run(python, "-I", "-c", "import sys, importlib\nfor name in sys.argv[1:]: importlib.import_module(name)", *names)


def test_the_readme_example_runs(python, tmp_path):
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)[1]
    said = run(python, "-I", "-c", example, cwd=tmp_path)
    assert re.match(r"40 infrared clusters; (0\.9|1\.0)", said), said


def test_a_run_of_seconds_is_trained(python, hil_home, tmp_path):
    "What a GPU node needs is the base install: rendering, training, evaluation, the run folder."
    settings = dict(SMALL, device="cpu", run_dir="run")
    code = f"from hil import Config, Trainer\nrun = Trainer(Config(**{settings}), progress=False).fit()\n"
    said = run(python, "-I", "-c", code + "print(len(run.history), run.history.mAP.iloc[-1])", cwd=tmp_path)
    rows, score = said.split()[-2:]
    assert int(rows) == 1 + SMALL["stage1_epochs"] + SMALL["stage2_epochs"]  # row 0: before training
    assert 0 < float(score) <= 100
    shutil.rmtree(tmp_path / "run")  # 80 MB


def test_explore_says_which_extra_it_needs(python):
    code = "from hil import explore\ntry: explore('runs/x')\nexcept ImportError as error: print(error)"
    assert "pip install 'hil[notebook]'" in run(python, "-I", "-c", code)


@pytest.mark.skipif(not (ROOT / "hil/cli.py").exists(), reason="hil/cli.py is not written yet")
def test_the_command_helps(python):
    said = run(python.with_name("hil"), "--help")
    for command in ("train", "evaluate", "check", "explore"):
        assert command in said and run(python.with_name("hil"), command, "--help")
