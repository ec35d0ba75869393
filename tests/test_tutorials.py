"Tutorials have one frame: what you will know, need and spend; what we saw; two exercises with folded solutions."
import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "nbs" / "tutorials"
FRAMED = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def cells(name): return nbformat.read(FOLDER / f"{name}.ipynb", 4).cells


@pytest.mark.parametrize("name", FRAMED)
class TestFrame:
    def test_it_opens_with_what_a_reader_will_know(self, name):
        first, second = cells(name)[:2]
        assert first.source.startswith("# ") and first.cell_type == second.cell_type == "markdown"
        bullets = [line for line in second.source.splitlines() if line.startswith("- ")]
        assert [b[:b.index(":") + 1] for b in bullets] == ["- **You will know:", "- **You need:", "- **Time:"]
        assert re.search(r"about \d+ minutes", bullets[2])

    def test_it_closes_with_what_was_seen(self, name):
        end = next(c.source for c in cells(name) if c.cell_type == "markdown" and "## What we saw" in c.source)
        saw = end.split("## What we saw")[1].split("## Exercises")[0]
        assert len(re.findall(r"^- ", saw, re.M)) == 3

    def test_each_exercise_has_a_folded_solution_that_asserts(self, name):
        text = "\n".join(c.source for c in cells(name) if c.cell_type == "markdown")
        asked = re.findall(r"^(\d)\. ", text.split("## Exercises")[1], re.M)
        solved = [c for c in cells(name) if c.source.startswith("# Solution of exercise")]
        assert 1 <= len(asked) <= 2 and [c.source.splitlines()[0][-1] for c in solved] == asked
        for cell in solved:
            assert cell.metadata["jupyter"] == {"source_hidden": True}
            assert cell.metadata["tags"] == ["solution", "hide-input"]
            assert re.search(r"^\s*(assert |test_)", cell.source, re.M)
            assert any(line.startswith("# ") for line in cell.source.splitlines()[1:]), "say the answer in a comment"

    def test_it_stays_small(self, name): assert (FOLDER / f"{name}.ipynb").stat().st_size < 500_000
