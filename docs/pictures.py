"""Draw README's pictures again: python docs/pictures.py RUN

RUN is the folder of a finished run (make train). The method is drawn by today's code with three rendered people, the
query and its answers come from RUN's features, the explorer is shown on RUN in JupyterLab, and the gallery shows
pictures as the committed notebooks hold them.
"""
import base64
import io
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hil.core.names import MODALITIES
from hil.data.images import read_images
from hil.evaluation import metrics, protocols
from hil.plots.method_picture import method_picture
from hil.plots.sheets import retrieval_sheet
from hil.runs.folder import Run
from hil.training.run_images import load_images

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # where the browser is found that the tests drive
IMAGES = ROOT / "nbs" / "images"
# file -> (notebook, which of its pictures: words of the code that drew it, which of that cell's)
GALLERY = {"gallery_map": ("train", "people_map(", 0),
           "gallery_explorer": ("tutorials/explore_a_run", "app = explore(session)", 0),
           "gallery_runs": ("tutorials/reading_a_run", "side_by_side(histories)", 0),
           "gallery_crossing": ("tutorials/crossing_modalities", "people_at(-1)", 0),
           "gallery_crops": ("tutorials/your_own_crops", "contact_sheet(sheet", 0),
           "gallery_centres": ("tutorials/one_centre_is_not_enough", "shown = [(pair, s)", 0)}


def people_of(run, n=3):
    "{modality: pictures} of n people that both kinds of cameras saw from the front."
    images = load_images(run.config, progress=False)
    table = images[(images.viewpoint == "front") & ~images.occluded.astype(bool)]
    first = table.groupby(["modality", "pid"]).path.first()
    both = sorted(set(first["visible"].index) & set(first["infrared"].index))[:n]
    return {m: [np.asarray(Image.open(Path(images.attrs["root"]) / first[m][p])) for p in both] for m in MODALITIES}


def answers(run, rows=2):
    "Queries of test people and what the run finds, as photographs."
    arrays = run.epoch(run.result_epoch)
    table = run.images.sort_values(["modality", "train"], ascending=False, kind="stable")  # as the features lie
    held = ~table.train.to_numpy()
    features = torch.from_numpy(np.concatenate([arrays[f"features_{m}"] for m in MODALITIES])[held]).float()
    query, gallery = protocols.draw(table[held].reset_index(drop=True), protocols.Protocol.of(run.config), 0, None)
    distance = metrics.cosine_distance(features[query.index], features[gallery.index]).numpy()
    root = load_images(run.config, progress=False).attrs["root"]
    pictures = [read_images(part.path, 128, 64, root=root) for part in (query, gallery)]
    return retrieval_sheet(*pictures, distance.argsort(1), query.pid.to_numpy(), gallery.pid.to_numpy(),
                           query.camid.to_numpy(), gallery.camid.to_numpy(), rows=rows, k=8)


def explorer(folder):
    "The explorer of a run, as somebody sees it who opens it in JupyterLab."
    from browser import ARGS, find, notebook, serve
    from playwright.sync_api import sync_playwright
    with tempfile.TemporaryDirectory() as lab_folder, tempfile.TemporaryDirectory() as config:
        name = Path(folder).resolve().name
        shutil.copytree(folder, Path(lab_folder) / name, ignore=shutil.ignore_patterns("*.pt", "supervised"))
        notebook(Path(lab_folder) / "explore.ipynb", f"from hil.explore.app import explore\nexplore({name!r})")
        with serve(Path(lab_folder), Path(config)) as lab, sync_playwright() as play:
            browser = play.chromium.launch(headless=True, args=ARGS, **find())
            page = browser.new_page(viewport={"width": 1480, "height": 1000})
            page.set_default_timeout(400_000)
            lab.open(page, "explore.ipynb")
            lab.run_all(page)
            page.wait_for_selector(".hil-app .hil-map canvas")
            page.wait_for_timeout(20_000)  # until its photographs are there
            shot = page.locator(".hil-app").screenshot()
            browser.close()
    return Image.open(io.BytesIO(shot)).convert("RGB").quantize(256)


def stored(notebook, words, number):
    "A picture that a committed notebook holds: of the cell whose source has these words."
    book = json.loads((ROOT / "nbs" / f"{notebook}.ipynb").read_text(encoding="utf-8"))
    for cell in book["cells"]:
        if cell["cell_type"] != "code" or words not in "".join(cell["source"]): continue
        shown = ["".join(o["data"][k]) for o in cell["outputs"] for k in ("image/png", "image/jpeg")
                 if k in o.get("data", {})]
        if len(shown) > number: return Image.open(io.BytesIO(base64.b64decode(shown[number]))).convert("RGB")
    raise ValueError(f"nbs/{notebook}.ipynb holds no picture number {number} of a cell with {words!r}: run it again")


def thumbnail(image, width=480, height=330):
    "The upper left part of a picture, of one size for all."
    scale = width / image.width
    small = image.resize((width, round(image.height * scale)), Image.Resampling.LANCZOS)
    page = Image.new("RGB", (width, height), "white")
    page.paste(small.crop((0, 0, width, min(height, small.height))))
    return page


def main(folder):
    run = Run(folder)
    method_picture(photographs=people_of(run)).savefig(IMAGES / "method.png")
    answers(run).savefig(IMAGES / "query.png")
    explorer(folder).save(IMAGES / "explore.png", optimize=True)
    for name, where in GALLERY.items(): thumbnail(stored(*where)).save(IMAGES / f"{name}.jpg", quality=80)
    print(f"{3 + len(GALLERY)} pictures are in {IMAGES.relative_to(ROOT)}")


if __name__ == "__main__":
    if len(sys.argv) != 2: sys.exit("which run? python docs/pictures.py runs/<date>")
    main(sys.argv[1])
