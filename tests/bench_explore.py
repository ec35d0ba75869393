"""The explorer at the size of SYSU-MM01: seconds until the first picture, a lasso's thumbnails, a knob's answer.

python tests/bench_explore.py            # 35,000 images x 1,536; --quick: 5,000 x 256; --images 100000: as many
Measures the kernel alone, then Chromium through JupyterLab (not with --kernel), and prints a table of seconds against
the aim. Beside the kernel's seconds stand those that its processor computed: on a machine that others keep busy they
say more. It writes nothing but temporary files. The map and the identities are read from their caches, as in every
visit but the first.
Above 50,000 images the tab Knobs is left out: its neighbour graph is exact, and takes minutes there.
"""
import asyncio
import os
import platform
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from browser import ARGS, find, notebook, serve

QUICK = "--quick" in sys.argv
N, D = (5_000, 256) if QUICK else (35_000, 1536)
if "--images" in sys.argv: N = int(sys.argv[sys.argv.index("--images") + 1])
KNOBS = N <= 50_000
SHARE = .65                                                            # visible images, as in SYSU-MM01
AIMS = {"import hil.explore.app": None, "first paint: open, map, overview": 5,
        "read while nobody waits: features, directions, centres": None,
        "first paint: what the cell sends (with the still picture)": None, "lasso of 2,000 images: rows": None,
        "lasso of 2,000 images: 64 thumbnails in sight": None,
        "lasso of 2,000 images, both": 1, "open an identity": None,
        "tab Matches, first time (reads the epoch before)": None, "threshold t": 1, "matcher hungarian": 1,
        "tab Knobs, first time (builds the graph, all of the curves)": None,
        "tab Knobs, second visit": 1, "eps, a value not seen before": 1, "min_samples, a value not seen before": 1,
        "k1, a value not seen before": None, "retrieval": 1, "one correction": 1,
        "tab Review, first time (cuts every cluster in two)": None, "review: the next pair after a yes": .3,
        "review: the next pair after a no": .3, "review: the next pair after a no that cuts a cluster": .3,
        "review: its photographs": None, "another epoch, map cached": None}
SEEN = {"Chromium: import hil.explore.app": None,
        "Chromium: first paint, from running the cell to points on the canvas": 5,
        "Chromium: lasso of about 2,000 images, from letting go to thumbnails": 1,
        "Chromium: tab Matches, until the graph is drawn": None,
        "Chromium: tab Knobs, second visit, until it answers": 1}
# whether a canvas of the map shows over 500 coloured pixels, looking at every 16th
POINTS = """() => {
  const coloured = (d, i) => {
    const rgb = [d[i], d[i + 1], d[i + 2]];
    return Math.max(...rgb) - Math.min(...rgb) > 60;
  };
  return [...document.querySelectorAll('.hil-map canvas')].some(canvas => {
    const drawn = canvas.getContext('2d');
    if (!drawn || !canvas.width) return false;
    const d = drawn.getImageData(0, 0, canvas.width, canvas.height).data;
    let n = 0;
    for (let i = 0; i < d.length; i += 64) n += coloured(d, i);
    return n > 500;
  });
}"""
# whether the sheet shows a selection, and 20 of its thumbnails
THUMBS = """() => {
  const heads = [...document.querySelectorAll('.hil-identity h4')];
  const images = [...document.querySelectorAll('.hil-identity img')];
  return heads.some(head => head.innerText.startsWith('Selection:')) &&
    images.filter(img => img.src.startsWith('blob:') && img.naturalHeight).length >= 20;
}"""


def write_run(folder):
    "A run folder of that size: people as blobs, two epochs, 400 small JPEGs that the images share."
    import numpy as np
    import pandas as pd
    from PIL import Image

    from hil.runs.config import Config
    from hil.runs.folder import Run
    rng = np.random.default_rng(0)
    people = N // 70
    who, kind = rng.integers(people, size=N), np.where(np.arange(N) < SHARE * N, "visible", "infrared")
    files = [f"{i}.jpg" for i in range(400)]
    for f in files:
        Image.fromarray(rng.integers(0, 255, (36, 18, 3), dtype=np.uint8)).resize((144, 288)).save(folder / f)
    images = pd.DataFrame({"path": [files[i % 400] for i in range(N)], "pid": who,
                           "camid": np.where(kind == "visible", rng.choice([1, 2, 4, 5], N), rng.choice([3, 6], N)),
                           "modality": kind, "train": True})
    images.attrs["root"] = str(folder)
    numbers = dict(eps=.5, min_samples=4, k1=30, k1_infrared=30, k2=6, k2_infrared=6, n_sub=9, threshold=.8)
    run = Run.create(Config(run_dir=str(folder / "run"), **numbers), images)
    centres = rng.standard_normal((people, D), dtype=np.float32)
    for e in (1, 2):
        x = (centres[who] + 1.6 * rng.standard_normal((N, D), dtype=np.float32)).astype(np.float16)
        labels = {m: np.where(rng.random((kind == m).sum()) < .05, -1,
                              np.unique(who[kind == m], return_inverse=True)[1]).astype(np.int32)
                              for m in ("visible", "infrared")}
        sub = {m: np.where(y < 0, -1, rng.integers(0, 9, len(y))).astype(np.int32) for m, y in labels.items()}
        arrays = {f"{k}_{m}": v[m] for k, v in dict(labels=labels, final=labels, sub=sub).items()
                  for m in labels} | {f"features_{m}": x[kind == m] for m in labels}
        run.record(dict(epoch=e, stage=2, mAP=.5, transfer_direction="visible_to_infrared"), arrays, {})
    return run.path


def in_browser(path, folder): # run folder; an empty folder -> {what: seconds}, {} where there is no browser
    "What a user waits for, in Chromium."
    if (chromium := find()) is None:
        print("no browser on this machine (python tests/browser.py says why): what follows is the kernel's side only\n")
        return {}
    from playwright.sync_api import sync_playwright
    (folder / "lab").mkdir()
    (folder / "config").mkdir()
    notebook(folder / "lab" / "a.ipynb", "from hil.explore.app import explore",
             f"explore({str(path)!r}, journal={str(folder / 'corrections.jsonl')!r})")
    times = {}
    with serve(folder / "lab", folder / "config") as lab, sync_playwright() as p:
        page = p.chromium.launch(headless=True, args=ARGS,
                                 **chromium).new_page(viewport={"width": 1480, "height": 1000})
        page.set_default_timeout(600_000)                              # a busy machine is slow, not broken
        def timed(name, act, until):
            start = time.perf_counter()
            act()
            until()
            times[f"Chromium: {name}"] = time.perf_counter() - start
        def words(where, text): return page.locator(where, has_text=text).first.wait_for()
        def tab(name): return page.locator(".hil-tabs .lm-TabBar-tab", has_text=name).click()
        lab.open(page, "a.ipynb")
        page.locator(".jp-Notebook .jp-Cell .cm-content").first.click()
        timed("import hil.explore.app", lambda: page.keyboard.press("Shift+Enter"),
              lambda: words(".jp-InputPrompt", "[1]:"))
        timed("first paint, from running the cell to points on the canvas", lambda: page.keyboard.press("Shift+Enter"),
              lambda: page.wait_for_function(POINTS))
        while not lab.idle(): page.wait_for_timeout(200)
        page.get_by_title("Activate lasso selection").click()
        box, half = page.locator(".hil-map canvas").first.bounding_box(), .5 / 1.12 * (2000 / N) ** .5
        side = half * min(box["width"], box["height"])
        def corner(x, y):
            page.mouse.move(box["x"] + box["width"] / 2 + x * side, box["y"] + box["height"] / 2 + y * side, steps=10)
        corner(-1, -1)
        page.mouse.down()
        for x, y in ((1, -1), (1, 1), (-1, 1), (-1, -.8)): corner(x, y)
        timed("lasso of about 2,000 images, from letting go to thumbnails", page.mouse.up,
              lambda: page.wait_for_function(THUMBS))
        print("lasso in Chromium:", page.locator(".hil-identity h4", has_text="Selection:").inner_text())
        timed("tab Matches, until the graph is drawn", lambda: tab("Matches"),
              lambda: words(".hil-graph h4", "get a label"))
        if KNOBS:
            timed("tab Knobs, second visit, until it answers", lambda: tab("Knobs"),
                  lambda: words(".hil-knobs h4", "eps 0.50:"))
        if shots := os.environ.get("HIL_SHOTS"): page.screenshot(path=f"{shots}/bench.png")
    return times


def main():
    times, computed, started = {}, {}, (time.perf_counter(), time.process_time())
    from hil.explore.app import TABS, explore
    times["import hil.explore.app"], computed["import hil.explore.app"] = (
        now() - then for now, then in zip((time.perf_counter, time.process_time), started))
    import numpy as np
    import torch

    from hil.core.files import save_array
    from hil.explore.coordinates import Maps
    from hil.explore.session import as_session, identities
    from hil.explore.source import open_source

    def timed(name, work):
        start, cpu = time.perf_counter(), time.process_time()
        result = work()
        times[name], computed[name] = time.perf_counter() - start, time.process_time() - cpu
        return result

    with tempfile.TemporaryDirectory() as folder:
        os.environ["HIL_HOME"] = folder
        path = write_run(Path(folder))
        source, rng = open_source(path), np.random.default_rng(1)
        keep_identities(source)
        maps = Maps(source)
        # any coordinates will do: they are read, not drawn by UMAP, here
        for e in source.epochs:
            xy = rng.uniform(-1, 1, (source.n, 2)).astype(np.float32)
            maps.manifest.keep(maps.file(e).name, partial(save_array, array=xy))
        # compile what numba compiles, once
        warm = as_session(source.table[:40].assign(label=0), rng.standard_normal((40, 8)))
        warm.graph().cluster(.5), identities(warm)
        async def opened(): return explore(path)                         # as in a notebook: what can wait does
        app = timed("first paint: open, map, overview", lambda: asyncio.run(opened()))
        timed("read while nobody waits: features, directions, centres", lambda: list(app.ahead()))
        timed("first paint: what the cell sends (with the still picture)", app._repr_mimebundle_)
        def tab(name): # as a click does
            app.tabs.selected_index = list(TABS).index(name)
            return app.views[name]
        s, sheet = app.session, app.view("Identity").sheet_
        sheet.send = lambda message, buffers: buffers
        lasso = rng.choice(s.source.n, 2000, replace=False)
        timed("lasso of 2,000 images: rows", lambda: setattr(app.map.scatter.widget, "selection",
                                                             lasso.astype(np.uint32)))
        sight = [cell[0] for row in sheet.rows for side in row["sides"] for cell in side][:64]
        timed("lasso of 2,000 images: 64 thumbnails in sight",
              lambda: sheet._heard(None, {"type": "need", "ids": sight}, []))
        parts = ("lasso of 2,000 images: rows", "lasso of 2,000 images: 64 thumbnails in sight")
        for found in (times, computed): found["lasso of 2,000 images, both"] = sum(found[part] for part in parts)
        timed("open an identity", lambda: s.open(int(identities(s).code[0])))
        matches = timed("tab Matches, first time (reads the epoch before)", lambda: tab("Matches"))
        timed("threshold t", lambda: setattr(matches.threshold, "value", .9))
        timed("matcher hungarian", lambda: setattr(matches.matcher, "value", "hungarian"))
        if KNOBS: knob_times(app, source, timed, tab)
        view = tab("Retrieval")
        timed("retrieval", lambda: view.ask(int(s.source.rows("infrared")[3])))
        tab("Curation")
        timed("one correction", lambda: app.pressed("2"))
        review = timed("tab Review, first time (cuts every cluster in two)", lambda: tab("Review"))
        for key, words in (("y", "yes"), ("n", "no")):
            name = f"review: the next pair after a {words}"
            times[name], computed[name] = wait(review, key)
        review.order.value, name = "mixed", "review: the next pair after a no that cuts a cluster"
        times[name], computed[name] = wait(review, "n")
        sight = [cell[0] for side in review.strips.rows[0]["sides"] for cell in side]
        timed("review: its photographs", lambda: source.thumbs(sight, 96))
        timed("another epoch, map cached", lambda: setattr(s, "epoch", 1))
        app = s = matches = view = None
        print(f"{N:,} images x {D}, {os.cpu_count()} cores ({torch.get_num_threads()} threads), "
              f"load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}\n")
        print(f"{'explorer, seconds':<72}{'took':>8}{'computed':>10}{'aim':>8}")
        for name, aim in AIMS.items():
            if name in times: print(line(name, times[name], aim, computed.get(name)), flush=True)
        seen = {} if "--kernel" in sys.argv else in_browser(path, Path(folder))
        for name in seen: print(line(name, seen[name], SEEN[name]))


def keep_identities(source): # Source of the run
    "What a first visit leaves behind: the identities of the result, from the clusters that the run recorded."
    import hil.explore.source
    def recorded(run, epoch):
        features, found = run.epoch(epoch), run.images[run.images.train]
        kinds = ("visible", "infrared")
        return ({m: features[f"labels_{m}"] for m in kinds}, {m: found[found.modality == m] for m in kinds},
                {m: features[f"features_{m}"].astype("float32") for m in kinds}, None)
    clusters, hil.explore.source.run_clusters = hil.explore.source.run_clusters, recorded
    source.labels(source.result)
    hil.explore.source.run_clusters = clusters
    source._kept["labels"].clear()


def knob_times(app, source, timed, tab): # Explorer, its Source, and how `main` measures
    "The tab Knobs: with all of the curves, then the answer alone."
    import hil.explore.knob_view
    knobs = timed("tab Knobs, first time (builds the graph, all of the curves)", lambda: tab("Knobs"))
    # from here on the answer and one point of the curves: the others follow it, between other events
    hil.explore.knob_view.GRID = (.5,)
    app.session.graph().keep()
    # as in another kernel: the graph is gone, the answers are on disk
    app.session._graphs.clear()
    source.features(2)
    # beside the open tab, so asleep afterwards: it would build the graph of the next epoch
    timed("tab Knobs, second visit", lambda: hil.explore.knob_view.KnobView(app.session)).wake(False)
    list(app.session.graph().build())
    timed("eps, a value not seen before", lambda: setattr(knobs.eps, "value", .43))
    timed("min_samples, a value not seen before", lambda: setattr(knobs.min_samples, "value", 7))
    timed("k1, a value not seen before", lambda: setattr(knobs.k1, "value", 20))


def wait(review, key): # ReviewView, key of an answer -> seconds until the next question is on its way, those computed
    "What somebody waits for; the other views repaint after it."
    sent, start, cpu = [], time.perf_counter(), time.process_time()
    review.strips.observe(lambda change: sent.append((time.perf_counter() - start, time.process_time() - cpu)), "rows")
    review.pressed(key)
    review.strips.unobserve_all("rows")
    return sent[0]


def line(name, seconds, aim, computed=None): # aim: seconds, or None; seconds of the processor, where they are known
    missed = "" if aim is None or seconds < aim else "   MISSED"
    busy = "" if computed is None else f"{computed:.2f}"
    return f"{name:<72}{seconds:>8.2f}{busy:>10}{'' if aim is None else f'< {aim}':>8}{missed}"


if __name__ == "__main__": main()
