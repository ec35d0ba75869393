"The site and the slides: built from what is stored, read without a network, in a browser at three widths."
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import browser
import pytest

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "docs"))
NEEDS = pytest.mark.skipif(find_spec("myst_nb") is None or find_spec("pydata_sphinx_theme") is None,
                           reason="the site needs the extra docs: make docs installs it")
SLIDES = pytest.mark.skipif(find_spec("sphinx_revealjs") is None, reason="slides need the extra docs: make docs")


class Loads(HTMLParser):
    "What a page loads, where it links to, and the places in it that a link may name."
    def __init__(self, text):
        super().__init__()
        self.loads, self.links, self.ids = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if "id" in given: self.ids.add(given["id"])
        if tag in ("script", "img", "iframe", "source") and given.get("src"): self.loads.append(given["src"])
        if tag == "link" and "stylesheet" in (given.get("rel") or ""): self.loads.append(given.get("href") or "")
        if tag == "a" and given.get("href"): self.links.append(given["href"])


def test_what_a_page_loads_is_found():
    page = Loads('<script src="https://x/y.js"></script><link rel="stylesheet" href="a.css"><a href="b.html#c">b</a>')
    assert page.loads == ["https://x/y.js", "a.css"] and page.links == ["b.html#c"]


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run([sys.executable, TOP / "docs" / "build.py", out], cwd=TOP, capture_output=True, text=True,
                          timeout=900)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return out


@pytest.fixture(scope="session")
def pages(site):
    return {p.relative_to(site).as_posix(): Loads(p.read_text(encoding="utf-8")) for p in site.rglob("*.html")
            if "_static" not in p.parts}


@NEEDS
@pytest.mark.slow
def test_every_notebook_has_a_page(site):
    names = [p.relative_to(TOP / "nbs") for p in (TOP / "nbs").rglob("*.ipynb")
             if not {".ipynb_checkpoints", "runs", "bench"} & set(p.parts) and not p.name.startswith("_")]
    missing = [str(n) for n in names if not (site / "nbs" / n.with_suffix(".html")).exists()]
    assert len(names) > 80 and not missing, missing


@NEEDS
@pytest.mark.slow
def test_nothing_is_loaded_from_a_network(pages, site):
    outside = {name: found for name, page in pages.items()
               if (found := [x for x in page.loads if re.match(r"(https?:)?//", x)])}
    assert not outside, dict(list(outside.items())[:3])
    for style in site.rglob("*.css"):
        found = re.findall(r"(?:@import|url\()\s*[\"']?https?:[^)\"']+", style.read_text(encoding="utf-8"))
        assert not found, f"{style.name} loads {found[:2]}"


@NEEDS
@pytest.mark.slow
def test_links_inside_lead_somewhere(pages, site):
    broken = []
    for name, page in pages.items():
        for link in page.links:
            if re.match(r"\w+:|//", link): continue
            path, _, place = unquote(link).partition("#")
            target = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
            if not (site / target).exists(): broken.append((name, link))
            elif place and target in pages and place not in pages[target].ids: broken.append((name, link))
    assert not broken, f"{len(broken)} links lead nowhere: {broken[:5]}"


@NEEDS
@pytest.mark.slow
def test_tables_are_tables(site):
    raw = [p.name for p in site.rglob("*.html") if re.search(r"<p>\|[^<]*\|", p.read_text(encoding="utf-8"))]
    assert not raw, f"tables shown as they are typed: {raw[:5]}"


# titles and text that do not fit and are hidden, not scrolled: their first words
CUT = """[...document.querySelectorAll(".bd-article :is(h1, h2, h3, p, li)")].filter(
    e => e.clientWidth && e.scrollWidth > e.clientWidth + 3 && !e.querySelector("mjx-container, .math"))
    .map(e => e.innerText.slice(0, 40))"""


@NEEDS
@pytest.mark.slow
@pytest.mark.skipif(browser.find() is None, reason="no Chromium: python tests/browser.py")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 800, 1600])
def test_no_page_scrolls_sideways(site, width, scheme):
    from playwright.sync_api import sync_playwright
    some = ["index", "lecturer", "ninety_minutes", "house", "nbs/train", "nbs/tutorials/reading_a_run", "your_data",
            "nbs/4_method/01_rerank", "api/method-match", "api/runs-folder", "command_line", "glossary"]
    with sync_playwright() as p:
        chromium = p.chromium.launch(args=browser.ARGS, **browser.find())
        context = chromium.new_context(viewport=dict(width=width, height=900), color_scheme=scheme, offline=True)
        page, errors = context.new_page(), []
        page.on("pageerror", lambda error: errors.append(str(error)))
        wide, cut = {}, {}
        for name in some:
            page.goto((site / f"{name}.html").as_uri())
            needed, there = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
            if needed > there + 1: wide[name] = needed
            if found := page.evaluate(CUT): cut[name] = found
        chromium.close()
    assert not wide, f"wider than {width} pixels: {wide}"
    assert not cut, f"cut off at {width} pixels: {cut}"
    assert not errors, errors[:3]


def test_links_to_other_places_need_an_address():
    launch_links = import_module("build").launch_links
    assert launch_links("train.ipynb", "") == ""
    text = launch_links("tutorials/reading_a_run.ipynb", "someone/hil")
    assert "github/someone/hil/blob/main/nbs/tutorials/reading_a_run.ipynb" in text and "mybinder.org" in text
    assert "git clone -q --depth 1 https://github.com/someone/hil" in text  # the cell that Colab needs first
    assert '%pip install -q "/content/hil[notebook,cpu]"\n%cd /content/hil/nbs/tutorials\n' in text


def test_an_address_puts_links_on_every_notebook(tmp_path, monkeypatch):
    build = import_module("build")
    monkeypatch.setattr(build, "address", lambda: "someone/hil")
    source = build.source_folder(tmp_path)
    for name in ("train", "4_method/02_cluster", "tutorials/your_own_crops"):
        text = (source / "nbs" / f"{name}.ipynb").read_text(encoding="utf-8")
        assert f"someone/hil/blob/main/nbs/{name}.ipynb" in text and "%pip install" in text


def test_folded_cells_stay_folded_on_the_site(tmp_path):
    readable = import_module("build").readable
    cells = [dict(cell_type="markdown", metadata={}, source="# Title\nText"),
             dict(cell_type="code", metadata={"jupyter": {"source_hidden": True}}, source="#| export\nx = 1",
                  outputs=[])]
    (tmp_path / "a.ipynb").write_text(json.dumps(dict(cells=cells)))
    title, code = readable(tmp_path / "a.ipynb", "[open](https://x)")["cells"]
    assert code["metadata"]["tags"] == ["hide-input"] and "".join(code["source"]) == "x = 1"
    assert "".join(title["source"]) == "# Title\n\n[open](https://x)\nText"


def test_imports_and_long_code_are_folded_and_neighbours_become_one(tmp_path):
    readable = import_module("build").readable
    body = [f"    x += {n}" for n in range(40)]
    long = "\n".join(["#| export", "def _a(): pass", "def f(x):", *body, "    return x"])
    sources = ["#| default_exp core.a", "#| export\nimport a", "from b import (\n    c)", long, "x = 1", "import d\nd"]
    cells = [dict(cell_type="code", metadata={}, source=source, outputs=[]) for source in sources]
    cells[-1]["outputs"] = [dict(output_type="display_data", data={}, metadata={})]
    (tmp_path / "a.ipynb").write_text(json.dumps(dict(cells=cells)))
    found = readable(tmp_path / "a.ipynb")["cells"]
    assert [c["metadata"].get("mystnb", {}).get("code_prompt_show") for c in found] == [
        "Imports", "43 lines of code: f", None, None]
    assert "".join(found[0]["source"]) == "import a\n\nfrom b import (\n    c)"


@SLIDES
@pytest.mark.slow
def test_slides_need_no_network(tmp_path):
    slides = import_module("slides").slides
    file = slides(TOP / "nbs" / "tutorials" / "what_is_a_good_cluster.ipynb", tmp_path)
    page = Loads(file.read_text(encoding="utf-8"))
    assert page.loads and not [x for x in page.loads if re.match(r"(https?:)?//", x)]
    assert not [x for x in page.loads if not x.startswith("data:") and not (tmp_path / x).exists()]
    assert "Solution of exercise" not in file.read_text(encoding="utf-8")


@SLIDES
def test_every_cell_stands_on_a_slide(tmp_path):
    nbformat = import_module("nbformat")
    text, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    book = nbformat.v4.new_notebook(cells=[text("# Title"), text("- the goal"), code("import os"), text("word " * 400),
                                           code("folder.cleanup()"), text("## A\n\n## B"), code("x = 1")])
    nbformat.write(book, tmp_path / "a.ipynb")
    html = import_module("slides").slides(tmp_path / "a.ipynb", tmp_path / "out").read_text(encoding="utf-8")
    shown = html[html.index('<div class="slides">'):]
    assert "jp-Cell" not in shown[shown.rindex("</section>"):]  # else it lies over all slides
    assert "cleanup" not in shown and ">os<" not in shown
    sections = re.split(r"<section[^>]*>", shown)
    assert [n for n, s in enumerate(sections) if "Title" in s] == [n for n, s in enumerate(sections) if "the goal" in s]
    assert not any("word word" in s and "the goal" in s for s in sections)  # what has no room begins a slide
