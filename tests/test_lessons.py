"Every lesson has one frame: what you will know, what you need, how long; what we saw, exercises, folded solutions."
import ast
import importlib
import json
import re

import pytest
from packages import ROOT

LESSONS = [str(p.relative_to(ROOT / "nbs")) for p in sorted((ROOT / "nbs").glob("*_*/*.ipynb"))] + ["cli.ipynb"]
ASSERTS = ("test_eq", "test_ne", "test_close", "test_fail", "test_is")  # fastcore.test


def lesson(name): return json.loads((ROOT / "nbs" / name).read_text(encoding="utf-8"))["cells"]
def source(cell): return "".join(cell["source"])
def prose(cells): return "\n\n".join(source(c) for c in cells if c["cell_type"] == "markdown")
def bullets(text): return re.findall(r"^- .*(?:\n  .*)*", text, re.M)


def opening(cells):
    "{\"You will know\": text, ...} of the second markdown cell, which follows the title."
    first = [c["cell_type"] for c in cells].index("markdown")
    text = source(cells[first + 1]) if cells[first + 1]["cell_type"] == "markdown" else ""
    found = dict(re.findall(r"^- \*\*(.+?):\*\* (.*(?:\n  .*)*)", text, re.M))
    assert len(text.splitlines()) == len("\n".join(bullets(text)).splitlines()), f"more than bullets: {text}"
    return found


def section(cells, title):
    "Text of the section `title`, up to the next heading; fails where there is not exactly one."
    found = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", prose(cells), re.M | re.S)
    assert len(found) == 1, f"{len(found)} sections are called {title}"
    return found[0]


def solutions(cells): return [c for c in cells if c["cell_type"] == "code" and source(c).startswith("# Solution of")]
def exercises(cells): return re.findall(r"^(\d+)\. ", section(cells, "Exercises"), re.M)


def checks(code):
    "Does this code assert anything that could fail?"
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Assert) and not isinstance(node.test, ast.Constant): return True
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ASSERTS: return True
    return False


def place(name): return LESSONS.index(name)


@pytest.mark.parametrize("name", LESSONS)
class TestFrame:
    def test_opens_with_three_bullets(self, name):
        assert list(opening(lesson(name))) == ["You will know", "You need", "Time"]

    def test_time_is_a_number(self, name):
        assert re.fullmatch(r"about [1-9]\d* minutes\.", opening(lesson(name))["Time"])

    def test_needs_lessons_that_stand_earlier(self, name):
        text = opening(lesson(name))["You need"]
        links = re.findall(r"\]\(([^)]+)\)", text)
        assert links or "nothing but Python" in text
        for link in links:
            target = ((ROOT / "nbs" / name).parent / link).resolve()
            assert target.is_file(), f"{link} is not there"
            assert place(str(target.relative_to(ROOT / "nbs"))) < place(name), f"{link} is read later"

    def test_closes_with_what_we_saw_and_exercises(self, name):
        cells = lesson(name)
        assert len(bullets(section(cells, "What we saw"))) == 3
        assert re.findall(r"^## (.+)", prose(cells), re.M)[-2:] == ["What we saw", "Exercises"]

    def test_has_one_or_two_exercises_each_with_its_solution(self, name):
        cells = lesson(name)
        numbers = exercises(cells)
        assert numbers in (["1"], ["1", "2"])
        assert [source(c).splitlines()[0] for c in solutions(cells)] == [f"# Solution of exercise {n}" for n in numbers]

    def test_solutions_follow_the_exercises(self, name):
        cells = lesson(name)
        asked = max(i for i, c in enumerate(cells) if c["cell_type"] == "markdown" and "## Exercises" in source(c))
        first = cells.index(solutions(cells)[0])
        assert first == asked + 1 and cells[first:first + len(solutions(cells))] == solutions(cells)

    def test_solutions_are_folded_answer_and_assert(self, name):
        for cell in solutions(lesson(name)):
            assert cell["metadata"] == {"jupyter": {"source_hidden": True}, "tags": ["solution", "hide-input"]}
            first, *rest = source(cell).splitlines()
            assert any(line.startswith("# ") for line in rest), f"{first}: say the answer in a comment"
            assert checks(source(cell)), f"{first}: asserts nothing"

    def test_names_no_file_outside_the_repository(self, name):
        assert "method.md" not in prose(lesson(name))


def test_the_site_folds_solutions_under_their_title(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    folded = importlib.import_module("build").folded
    code = ["# Solution of exercise 2\n", "# Because it is so.\n", "# Always.\n", "x = 1\n", "# really\n", "assert x"]
    text = "".join(folded(dict(id="a", source=code))["source"])
    assert text == (":::{dropdown} Solution of exercise 2\nBecause it is so. Always.\n\n"
                    "```python\nx = 1\n# really\nassert x\n```\n:::")


def test_code_that_checks_nothing_is_found():
    assert checks("assert a == b") and checks("test_eq(1, 2)") and checks("def f():\n    assert x\nf()")
    assert not checks("x = 1") and not checks("assert True") and not checks("# assert a\nprint(a)")


def test_an_opening_is_read():
    cell = dict(cell_type="markdown", source="- **You will know:** this\n  and that\n- **Time:** about 5 minutes.")
    assert opening([dict(cell_type="markdown", source="# T"), cell]) == {"You will know": "this\n  and that",
                                                                         "Time": "about 5 minutes."}
    with pytest.raises(AssertionError, match="more than bullets"):
        opening([dict(cell_type="markdown", source="# T"), dict(cell, source=cell["source"] + "\nmore")])
