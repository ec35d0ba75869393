"The parameters of the notebooks that papermill calls: wrong ones stop at once, --help-notebook lists every one."
import re
from dataclasses import fields

import pytest
from conftest import papermill

from hil.core.settings import allowed
from hil.evaluation.scoring import Evaluation
from hil.runs.config import Config

KINDS = {"train": Config, "evaluate": Evaluation}


@pytest.mark.slow
@pytest.mark.parametrize("notebook,parameters,says", [
    ("train", dict(stage2_epoch=3), "'stage2_epoch' is not a parameter; did you mean 'stage2_epochs'?"),
    ("train", dict(stage2_epochs="three"), "stage2_epochs = 'three' is a str: expected a int"),
    ("train", dict(stage1_epochs=0, stage2_epochs=0),
     "stage1_epochs and stage2_epochs are both 0: nothing would be trained"),
    ("evaluate", dict(chekpoint="x.pth"), "'chekpoint' is not a parameter; did you mean 'checkpoint'?"),
    ("evaluate", dict(checkpoint="nowhere/hil.pth"), "checkpoint = 'nowhere/hil.pth': no such file or folder")])
def test_wrong_parameters_stop_it_at_once(hil_home, tmp_path, notebook, parameters, says):
    done = papermill(notebook, tmp_path, **parameters)
    assert done.returncode == 1 and f"RunError: {says}" in done.stderr
    if "is not a parameter" in says:
        assert all(f.name in done.stderr.split("Parameters: ")[-1] for f in fields(KINDS[notebook]))
    assert {p.name for p in tmp_path.iterdir()} == {"out.ipynb"}, "nothing is rendered or begun"


@pytest.mark.parametrize("notebook,comments", [
    ("train", ("DBSCAN on the Jaccard distance (0.6 SYSU, 0.3 RegDB)", "of everything random",
               "neighbour consistency; 0 switches it off")),
    ("evaluate", ("rows of the list of errors", "regdb: which of its ten given splits; 0: all ten"))])
def test_help_lists_every_parameter_with_its_comment(tmp_path, notebook, comments):
    done = papermill(notebook, tmp_path, "--help-notebook")
    text, known = " ".join(done.stdout.split()), fields(KINDS[notebook])
    assert done.returncode == 0 and len(known) == len(re.findall(r"\(default ", text))
    for name, asked in allowed(KINDS[notebook]).items(): assert f"{name}: {asked.kind.__name__} (default" in text
    for comment in comments: assert comment in text
