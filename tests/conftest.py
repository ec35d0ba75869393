"""What tests share: one rendering and one store of views for the whole session, and runs of seconds on them."""
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import hil  # noqa: F401, before torch: it tells torch's threads how to wait

# one thread: results then depend neither on the machine nor on what else it does
SMALL = dict(preset="tiny", stage1_epochs=1, stage2_epochs=2, iterations=4, batch_ids=6, k1=8, k1_infrared=6, k2=3,
             min_samples=3, n_sub=3, trials=2, threads=1)


def papermill(notebook, folder, *args, **parameters):
    "Call papermill in `folder` for one of nbs/; HIL_HOME comes from the fixture hil_home."
    given = [x for k, v in parameters.items() for x in ("-p", k, str(v))]
    return subprocess.run([sys.executable, "-m", "papermill", *args,
                           str(Path(__file__).parents[1] / "nbs" / f"{notebook}.ipynb"),
                           *([] if "--help-notebook" in args else ["out.ipynb", "--no-progress-bar"]), *given],
                          cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="session")
def hil_home(tmp_path_factory):
    "$HIL_HOME, where renderings and views are kept, in a folder of this session."
    folder = tmp_path_factory.mktemp("hil_home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HIL_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def small(hil_home):
    "small(lr=1) -> Config of a run of seconds."
    from hil.runs.config import Config
    return lambda **changes: replace(Config(**SMALL, device="cpu"), **changes)


@pytest.fixture
def train(small, tmp_path):
    "train(lr=1) -> a finished Run; its checkpoint goes when the test ends, for it weighs 80 MB."
    from hil.training.trainer import Trainer
    yield lambda run_dir="run", **changes: Trainer(small(run_dir=str(tmp_path / run_dir), **changes),
                                                   progress=False).fit()
    for file in tmp_path.rglob("*.pt"): os.unlink(file)


@pytest.fixture(scope="session")
def whole(small, tmp_path_factory):
    "One uninterrupted run, to compare with."
    from hil.training.trainer import Trainer
    run = Trainer(small(run_dir=str(tmp_path_factory.mktemp("whole") / "run")), progress=False).fit()
    yield run
    (run.path / "checkpoint.pt").unlink()
