"The explorer in JupyterLab, driven in Chromium, as a visitor would. Skipped where no browser can be had."
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from browser import ARGS, find, notebook, serve

from hil.explore.app import explore

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


def run_all(page, lab, name="explore.ipynb"):
    "Open the notebook with a fresh kernel and run it."
    lab.open(page, name)
    lab.run_all(page)
    page.wait_for_selector(".hil-app .hil-map canvas")
    page.wait_for_timeout(800)


def tab(page, name): page.locator(".hil-tabs .lm-TabBar-tab", has_text=name).click()


def says(page, where, words):
    try: page.locator(where, has_text=re.compile(words)).first.wait_for()
    except playwright.TimeoutError:
        shoot(page, "failed")
        raise


def settled(page, lab):
    "Wait for the kernel: what is pressed while it changes what is asked is about something else, and refused."
    while not lab.idle(): page.wait_for_timeout(100)
    page.wait_for_timeout(300)


def shoot(page, name):
    if SHOTS: page.locator(".hil-app").screenshot(path=str(Path(SHOTS) / f"{name}.png"))


def test_a_visit(page, lab):
    folder = lab.folder
    run_all(page, lab)
    says(page, ".hil-identity h4", "identities, largest first")

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
    page.locator(".hil-identity .head button").first.click()
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
    page.locator(".hil-find input").fill("Ada")
    page.keyboard.press("Enter")
    says(page, ".hil-identity .head", "Ada m")


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
        settled(page, lab)
        page.keyboard.press(key)
        says(page, ".hil-review .note", words)
    settled(page, lab)
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
    arrow = page.locator(".hil-color select").evaluate("e => getComputedStyle(e).backgroundImage")
    assert "%23ddd" in arrow, f"a dark arrow on a dark ground: {arrow[:120]}"
    ink = page.locator(".hil-identity h4").last.evaluate("e => getComputedStyle(e).color")
    assert min(map(int, re.findall(r"\d+", ink)[:3])) > 180, f"dark ink on a dark ground: {ink}"
    page.locator(".hil-identity .head button").first.click()
    tab(page, "Matches")
    says(page, ".hil-graph h4", "clustered images get a label")
    page.wait_for_timeout(500)
    shoot(page, "dark")


IN_SIGHT = """() => {
  const [box, cell] = ['.scroll', 'button.cell.on'].map(name =>
    document.querySelector(`.hil-identity .hil-sheet ${name}`).getBoundingClientRect());
  return cell.bottom > box.top && cell.top < box.bottom;
}"""
DEVELOPED = "[...document.querySelectorAll('.photo')].filter(e => e.style.backgroundImage).length > 10"
PICKED = "() => [...document.querySelectorAll('.hil-identity button.picked')].map(cell => Number(cell.dataset.id))"
CELLS = "() => [...document.querySelectorAll('.hil-identity button.cell')].map(cell => Number(cell.dataset.id))"


def test_picking_thumbnails(page, lab):
    run_all(page, lab)
    page.locator(".hil-identity .head button").first.click()
    says(page, ".hil-identity h4", "tightness")
    page.wait_for_function("document.querySelectorAll('.hil-identity button.cell').length > 5")
    cells, ids = page.locator(".hil-identity button.cell"), page.evaluate(CELLS)
    def picked(*places): # of the cells that are to be marked, once the kernel has answered
        marked = f"now => JSON.stringify(({PICKED})()) === JSON.stringify(now)"
        page.wait_for_function(marked, arg=[ids[k] for k in places])
    picked()                                                   # the identity is open, nothing in it is chosen
    cells.nth(0).click(modifiers=["Control"])
    picked(0)
    cells.nth(2).click(modifiers=["Shift"])
    picked(0, 1, 2)
    cells.nth(1).click(modifiers=["Control"])
    picked(0, 2)
    says(page, ".hil-map .note", "^2 of ")
    shoot(page, "picked")
    # a frame from above the first cell to the middle of the second
    first, second = cells.nth(0).bounding_box(), cells.nth(1).bounding_box()
    page.mouse.move(first["x"] - 3, first["y"] - 1)
    page.mouse.down()
    page.mouse.move(second["x"] + 20, second["y"] + 40, steps=5)
    shoot(page, "frame")
    drawn = page.locator(".band").bounding_box()
    assert abs(drawn["x"] - first["x"] + 3) < 2 and abs(drawn["y"] - first["y"] + 1) < 2     # where the pointer is
    page.mouse.up()
    picked(0, 1)
    # what a key did stands above, whatever tab is open; Ctrl+S is JupyterLab's, d d deletes no cell
    page.keyboard.press("s")
    says(page, ".hil-app > :nth-child(2) .note", "are now N")
    page.keyboard.press("s")
    says(page, ".hil-app > :nth-child(2) .warn", "all of N")
    page.keyboard.press("u")
    says(page, ".hil-app > :nth-child(2) .note", "taken back")
    saved = (lab.folder / "explore.ipynb").stat().st_mtime_ns
    for key in ("d", "d", "Control+s"): page.keyboard.press(key)
    for _ in range(100):
        page.wait_for_timeout(100)
        if (lab.folder / "explore.ipynb").stat().st_mtime_ns != saved: break
    else: raise AssertionError("Ctrl+S saved nothing")
    assert page.locator(".jp-CodeCell").count() == 1
    # full size, side by side
    page.locator(".hil-identity button.cell").nth(0).click(modifiers=["Control"])
    page.wait_for_function(f"({PICKED})().length === 1")
    page.keyboard.press("f")
    page.wait_for_function("document.querySelector('dialog.hil-large img')?.naturalHeight > 0")
    page.keyboard.press("Escape")
    page.wait_for_function("!document.querySelector('dialog.hil-large')")


def test_a_picture_from_disk_and_a_timeline(page, lab, whole):
    paths = whole.images.path[whole.images.train]
    pd.DataFrame({"path": paths, "time": [f"2024-05-03 14:{i // 60 % 60:02d}:{i % 60:02d}" for i in range(len(paths))]}
                 ).to_csv(lab.folder / "times.csv", index=False)
    notebook(lab.folder / "timed.ipynb", "from hil.explore.app import explore\n"
             f"explore({str(whole.path)!r}, journal='timed.jsonl', columns='times.csv')")
    run_all(page, lab, "timed.ipynb")
    tab(page, "Find")
    page.locator(".hil-picture input").fill("nobody.jpg")
    page.locator(".hil-search").click()
    says(page, ".hil-app > :nth-child(2) .warn", "no such file")
    page.locator(".hil-picture input").fill(str(Path(whole.data_root) / paths.iloc[3]))
    page.locator(".hil-search").click()
    says(page, ".hil-found h4", "those most similar to .* first")
    page.wait_for_function("document.querySelector('.hil-searched img').naturalHeight > 50")
    assert page.locator(".hil-searched img").bounding_box()["height"] < 110
    assert paths.iloc[3] in page.locator(".hil-found button.cell").first.get_attribute("title")
    shoot(page, "searched")
    page.locator(".hil-searched button").first.click()             # the nearest identity
    tab(page, "Identity")
    says(page, ".hil-timeline h4", "images from 2024-05-03 14:")
    dots = page.locator(".hil-timeline circle")
    image = int(dots.nth(1).get_attribute("data-id"))
    dots.nth(1).focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"image => JSON.stringify(({PICKED})()) === JSON.stringify([image])", arg=image)
    page.wait_for_function("document.querySelectorAll('.hil-timeline circle.on').length === 1")
    last = dots.last
    last.click()
    page.wait_for_function(f"image => JSON.stringify(({PICKED})()) === JSON.stringify([image])",
                           arg=int(last.get_attribute("data-id")))
    page.wait_for_function(IN_SIGHT)                               # its thumbnail, too
    shoot(page, "timeline")
    tab(page, "Find")
    page.get_by_role("button", name="start over").click()
    page.wait_for_function("!document.querySelector('.hil-searched img')?.offsetParent")


def test_tabs_fit_beside_the_map_and_are_equally_high(page, lab):
    page.set_viewport_size({"width": 1000, "height": 1000})
    run_all(page, lab)
    heights, names = {}, page.locator(".hil-tabs .lm-TabBar-tab").all_inner_texts()
    for name in names:
        tab(page, name.strip())
        page.wait_for_timeout(400)
        shoot(page, f"narrow-{name.strip()}")
        heights[name.strip()] = round(page.locator(".hil-tabs").bounding_box()["height"])
    assert len(heights) > 5 and len(set(heights.values())) == 1, heights
    plane, tabs = (page.locator(f".hil-{part}").bounding_box() for part in ("map", "tabs"))
    assert plane["x"] + plane["width"] <= tabs["x"] + 1 and abs(plane["y"] - tabs["y"]) < 40
    assert tabs["x"] + tabs["width"] <= 1000
    names = "[...document.querySelectorAll('.hil-tabs .lm-TabBar-tabLabel')].map(e => e.scrollWidth - e.clientWidth)"
    assert page.evaluate(names) == [0] * 7  # no tab's name is cut
    # thumbnails have the width of the sheet, and a click on a match leaves the list where it was
    tab(page, "Identity")
    sheet, cells = (page.locator(f".hil-identity .{part}").first.bounding_box() for part in ("scroll", "sides"))
    assert cells["width"] > .9 * sheet["width"]
    tab(page, "Matches")
    page.locator(".hil-graph path").last.wait_for()
    place = "() => document.querySelector('.hil-graph .scroll').scrollTop"
    page.locator(".hil-graph path").last.scroll_into_view_if_needed()
    before = page.evaluate(place)
    page.locator(".hil-graph path").last.click()
    says(page, ".hil-matches h4", "the same person")
    assert page.evaluate(place) == before
    size = page.locator(".hil-graph text").last.evaluate("e => e.getBoundingClientRect().height")
    assert 9 < size < 18


def test_without_a_kernel_a_picture_stands_for_the_view(page, lab):
    run_all(page, lab)
    assert not page.locator(".still-twin").is_visible()        # the view itself is there
    page.keyboard.press("Control+s")
    twin = lab.folder / "explore.ipynb"
    for _ in range(100):
        page.wait_for_timeout(100)
        if "still-twin" in twin.read_text(): break
    for s in lab.ask("sessions"): lab.ask(f"sessions/{s['id']}", "DELETE")
    page.goto(f"{lab.address}/lab/tree/explore.ipynb?token=t&reset")
    page.locator(".still-twin img").wait_for()
    failed = page.get_by_text("Error displaying widget")       # what JupyterLab would show
    failed.wait_for(state="attached")
    assert page.locator(".still-twin img").evaluate("e => e.naturalWidth") > 300
    assert not failed.is_visible()
    if SHOTS: page.screenshot(path=str(Path(SHOTS) / "no-kernel.png"))


def test_a_saved_page_needs_nothing_but_itself(whole, tmp_path):
    file = explore(str(whole.path), journal=tmp_path / "j.jsonl").save(tmp_path / "review.html")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(headless=True, args=ARGS, **CHROMIUM)
        page = browser.new_page(viewport={"width": 1280, "height": 900}, offline=True)
        asked, broken = [], []
        page.on("request", lambda r: asked.append(r.url))
        page.on("pageerror", lambda e: broken.append(str(e)))
        page.on("console", lambda m: broken.append(m.text) if m.type == "error" else None)
        page.goto(file.as_uri())
        page.locator(".photo").nth(10).wait_for()
        for _ in range(300):                                   # the page's own rules forbid wait_for_function's eval
            if page.evaluate(DEVELOPED): break
            page.wait_for_timeout(100)
        assert page.evaluate(DEVELOPED)
        n = page.locator("section").count()
        page.locator("section h2 button").first.click()
        assert page.locator("section.open").count() == 1
        if SHOTS: page.screenshot(path=str(Path(SHOTS) / "saved.png"))
        page.get_by_placeholder("find an identity").fill("1")
        assert 0 < page.locator("section").count() < n
        page.get_by_role("button", name="Matches").click()
        page.locator("section h2", has_text="accepted").first.wait_for()
        box = page.locator("canvas").bounding_box()
        for x in range(10, int(box["width"]), 12):             # somewhere on this line lies a point
            page.mouse.move(box["x"] + x, box["y"] + box["height"] / 2)
            if page.locator(".card").is_visible(): break
        else: raise AssertionError("no point shows its card")
        if SHOTS: page.screenshot(path=str(Path(SHOTS) / "saved-matches.png"))
        browser.close()
    assert not broken and all(url.startswith(("file:", "data:", "blob:")) for url in asked), (broken, asked)
