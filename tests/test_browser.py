"The explorer in JupyterLab, driven in Chromium, as a visitor would. Skipped where no browser can be had."
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from browser import ARGS, find, notebook, serve

playwright = pytest.importorskip("playwright.sync_api", reason="no browser test: playwright is not installed "
                                 "(pip install -c constraints.txt playwright)")
CHROMIUM = find()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser test: no Chromium on this machine, and none could "
                                "be installed (python tests/browser.py says why)")
SHOTS = os.environ.get("HIL_SHOTS") # a folder for screenshots, to look at

THUMBNAILS = """() => {
  const images = [...document.querySelectorAll('.hil-identity img')];
  return images.filter(img => img.src.startsWith('blob:') && img.naturalHeight).length > 5;
}"""
# what the line under the map says, all of it: a slow kernel may show an epoch for an instant only
LISTEN = """() => {
  const time = document.querySelector('.hil-time');
  window.said = [];
  const hear = () => window.said.push(time.querySelector('.note')?.textContent ?? '');
  new MutationObserver(hear).observe(time, {subtree: true, childList: true, characterData: true});
}"""
DARK_MAP = """() => [...document.querySelectorAll('.hil-map canvas')].some(canvas =>
  getComputedStyle(canvas.parentElement.parentElement).backgroundColor === 'rgb(17, 17, 17)')"""


@pytest.fixture(scope="module")
def lab(whole, tmp_path_factory):
    "JupyterLab on a folder with a run and a notebook that explores it."
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(whole.path, folder / "run", ignore=shutil.ignore_patterns("*.pt"))
    notebook(folder / "explore.ipynb", "from hil.explore.app import explore\nexplore('run', journal='curation.jsonl')")
    with serve(folder, tmp_path_factory.mktemp("config")) as lab: yield lab


@pytest.fixture
def page(lab):
    "A page of Chromium; fails if anything was asked of another machine, or a script broke."
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(headless=True, args=ARGS, **CHROMIUM)
        page = browser.new_page(viewport={"width": 1480, "height": 1000})
        page.set_default_timeout(120_000)
        asked, broken = set(), []
        page.on("request", lambda r: asked.add(re.sub(r"^(https?://[^/]+).*", r"\1", r.url)))
        page.on("pageerror", lambda e: broken.append(str(e)))
        yield page
        browser.close()
    abroad = {a for a in asked if a.startswith("http") and not a.startswith(lab.address)}
    assert not abroad, f"the explorer must work without a network, but asked {abroad}"
    serious = [e for e in broken if "draw call" not in e]
    assert not serious, serious


def run_all(page, lab):
    "Open the notebook with a fresh kernel and run it."
    lab.open(page, "explore.ipynb")
    lab.run_all(page)
    page.wait_for_selector(".hil-app .hil-map canvas")
    page.wait_for_timeout(800)


def tab(page, name): page.locator(".hil-tabs .lm-TabBar-tab", has_text=name).click()


def says(page, where, words):
    try: page.locator(where, has_text=re.compile(words)).first.wait_for()
    except playwright.TimeoutError:
        shoot(page, "failed")
        raise


def shoot(page, name):
    if SHOTS: page.locator(".hil-app").screenshot(path=str(Path(SHOTS) / f"{name}.png"))


def test_a_visit(page, lab):
    folder = lab.folder
    run_all(page, lab)
    says(page, ".hil-identity h4", "identities, the largest first")

    # lasso: around all of the map
    page.get_by_title("Activate lasso selection").click()
    box = page.locator(".hil-map canvas").first.bounding_box()
    def at(x, y): return box["x"] + x * box["width"], box["y"] + y * box["height"]
    page.mouse.move(*at(.14, .03))
    page.mouse.down()
    for x, y in [(.5, .03), (.97, .04), (.97, .5), (.96, .96), (.5, .97), (.14, .96), (.13, .5), (.13, .2)]:
        page.mouse.move(*at(x, y), steps=8)
    page.mouse.up()
    says(page, ".hil-identity h4", "Selection: [0-9]+ images")
    page.wait_for_function(THUMBNAILS)
    shoot(page, "lasso")

    # a match: both clusters
    tab(page, "Matches")
    says(page, ".hil-graph h4", "clustered images get a label")
    page.locator(".hil-graph path").last.click()
    says(page, ".hil-matches h4", "the same person")
    page.locator(".hil-matches .hil-sheet figure").nth(1).wait_for()
    shoot(page, "match")
    before = page.locator(".hil-graph h4").inner_text()
    page.locator(".hil-threshold .noUi-handle").focus()
    for _ in range(19): page.keyboard.press("ArrowRight")
    page.wait_for_function("old => document.querySelector('.hil-graph h4').innerText !== old", arg=before)

    # until the kernel has answered them all
    for _ in range(100):
        page.wait_for_timeout(300)
        if lab.idle(): break
    # back to the first epoch by key, then play three
    page.locator(".hil-app").focus()
    page.keyboard.press(",")
    says(page, ".hil-time .note", "Epoch 2")
    page.keyboard.press(",")
    says(page, ".hil-time .note", "Epoch 1")
    page.evaluate(LISTEN)
    page.locator(".hil-play button").first.click()
    page.wait_for_function("window.said.some(words => words.startsWith('Epoch 3'))")
    assert any(words.startswith("Epoch 2") for words in page.evaluate("window.said"))

    # curate
    tab(page, "Identity")
    page.get_by_role("button", name="clear selection").click()
    page.locator(".hil-identity th.head button").first.click()
    says(page, ".hil-identity h4", "tightness")
    shoot(page, "identity")
    tab(page, "Curation")
    page.locator(".hil-split-in-two").click()
    says(page, ".hil-frame .note", "1 correction")
    # letters stay letters where one types
    page.locator(".hil-name input").fill("Ada m")
    page.locator(".hil-rename").click()
    says(page, ".hil-frame .note", "2 corrections")
    shoot(page, "curation")
    # export
    page.locator(".hil-file input").fill("people.csv")
    page.keyboard.press("Tab")
    page.locator(".hil-export").click()
    says(page, ".hil-curation .note", "written to people.csv")
    assert "Ada m" in set(pd.read_csv(folder / "people.csv").name)

    # another kernel: nothing is lost
    run_all(page, lab)
    says(page, ".hil-frame .note", "2 corrections")
    says(page, ".hil-identity th.head", "Ada m")


def test_questions_by_keys(page, lab):
    "Review, answered from the keyboard; adopt, why joined, undo."
    (lab.folder / "curation.jsonl").unlink(missing_ok=True)
    run_all(page, lab)
    tab(page, "Review")
    says(page, ".hil-review h4", "The same person")
    page.wait_for_function(THUMBNAILS.replace(".hil-identity", ".hil-review").replace("> 5", "> 1"))
    shoot(page, "review")
    page.locator(".hil-app").focus()
    for key, words in (("y", r"1 answer \(1 yes, 0 no\)"), ("n", r"2 answers \(1 yes, 1 no\)"), ("k", "1 skipped"),
                       ("u", r"1 answer \(1 yes, 0 no\)")):
        page.keyboard.press(key)
        says(page, ".hil-review .note", words)
    page.locator(".hil-review .hil-no").click()
    says(page, ".hil-review .note", "2 answers")
    tab(page, "Matches")
    page.locator(".hil-matches .hil-use").click()
    says(page, ".hil-matches .note", "identities adopted|identity adopted")
    page.locator(".hil-graph path").last.click()
    says(page, ".hil-matches h4", "the same person")
    page.locator(".hil-matches .hil-ask-why").click()
    says(page, ".hil-matches h4", "Why\\? .* chooses .* with cosine")
    shoot(page, "why")
    tab(page, "Curation")
    page.locator(".hil-undo").first.click()
    says(page, ".hil-curation .note", "taken back: adopt")


def test_dark_theme(page, lab):
    run_all(page, lab)
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    page.locator(".lm-Menu-itemLabel:visible", has_text=re.compile("^Theme$")).first.hover()
    page.locator(".lm-Menu-itemLabel:visible", has_text="JupyterLab Dark").first.click()
    page.wait_for_function("document.body.dataset.jpThemeLight === 'false'")
    page.wait_for_function(DARK_MAP)
    ink = page.locator(".hil-identity h4").evaluate("e => getComputedStyle(e).color")
    assert min(map(int, re.findall(r"\d+", ink)[:3])) > 180, f"dark ink on a dark ground: {ink}"
    page.locator(".hil-identity th.head button").first.click()
    tab(page, "Matches")
    says(page, ".hil-graph h4", "clustered images get a label")
    page.wait_for_timeout(500)
    shoot(page, "dark")
