"""Do settings that are chosen without labels come near the best that a search with the truth finds?

python tests/bench_choose.py [--real ../shared/real/dev] [--seeds 202 203]

Each case is a data set and a modality: images of renderings that nobody had looked at, with 4 to 50 images a person,
and with uneven numbers. Writes nbs/bench/choose.json. A case takes about half a minute. Cases that the file holds
already are not repeated; --again starts anew.
"""
import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from hil.core.files import write_atomic
from hil.core.names import MODALITIES
from hil.core.vectors import unit_rows
from hil.data.images import intensities, read_images
from hil.data.training_views import PixelViews
from hil.method.choose import choose_settings
from hil.method.cluster import cluster_quality, pseudo_labels
from hil.method.labels import Rules, modality_labels
from hil.method.neighbors import nearest
from hil.method.rerank import jaccard_distance
from hil.models.build import build_model
from hil.runs.config import Config
from hil.synth.render import PRESETS, Preset, render
from hil.training.run_images import RunImages, joined_depths, load_images

FILE = Path(__file__).resolve().parents[1] / "nbs" / "bench" / "choose.json"
SETTINGS = ("eps", "min_samples", "k1", "k1_infrared", "k2", "k2_infrared", "n_sub")
NEIGHBORS = ((4, 2), (4, 4), (6, 2), (6, 4), (8, 3), (10, 4), (12, 6), (16, 8), (20, 6), (20, 10), (30, 6), (30, 15),
             (40, 20), (60, 6), (60, 30))  # k1, k2 of the search with the truth
EPS, MIN_SAMPLES = (.3, .4, .5, .55, .6, .65, .7), (2, 3, 4, 6)


@torch.no_grad()
def untrained(root):
    "Features of lite0 before training, as a run begins with, and the identities of a set in SYSU-MM01's layout."
    images = RunImages(load_images(Config(dataset="sysu", data_root=str(root), expect="any")))
    model, rows = build_model("lite0"), {}
    for m, table in images.tables.items():
        table = table[table.train]
        pixels = read_images(table.path, model.height, model.width, root=images.root, ranges=intensities(table))
        views = PixelViews({m: pixels}, model.height, model.width)
        rows[m] = torch.cat([model.trunk({m: views.clean(m, part)})[m] for part in torch.arange(len(table)).split(128)])
    return rows, images.pids


def features(rows):
    "Deep and shallow features of trunk outputs, calibrated on them as the trainer does."
    model, rng = build_model("lite0"), torch.Generator().manual_seed(0)
    model.calibrate({m: x[torch.randperm(len(x), generator=rng)[:2048].sort().values] for m, x in rows.items()})
    return joined_depths({m: model({m: x})[m] for m, x in rows.items()})


def some_of_each(pids, count, rng):
    "Numbers of `count` images of each person, drawn at random; `count` may be a range, then each has another number."
    rows = []
    for pid in np.unique(pids):
        own = np.flatnonzero(pids == pid)
        n = count if isinstance(count, int) else int(rng.integers(*count))
        rows.append(rng.choice(own, min(n, len(own)), replace=False))
    return np.sort(np.concatenate(rows))


def searched(x, pids):
    "The best ARI of the search with the truth, and its settings."
    x = unit_rows(x)
    near = nearest(x, 60)
    best = (-1., {})
    for k1, k2 in NEIGHBORS:
        if k1 > len(x): continue
        distance = jaccard_distance(x, k1, k2, max(EPS) + 1e-6, near)
        for eps, min_samples in itertools.product(EPS, MIN_SAMPLES):
            ari = cluster_quality(pseudo_labels(distance, eps, min_samples), pids)["ari"]
            best = max(best, (ari, dict(k1=k1, k2=k2, eps=eps, min_samples=min_samples)), key=lambda found: found[0])
    return best


def compare(name, rows, pids):
    "A row a modality: ARI of the chosen settings and of the best ones."
    x = features(rows)
    choice = choose_settings(x, Rules(**dict.fromkeys(SETTINGS, "auto")))
    found = []
    for m in MODALITIES:
        chosen = cluster_quality(modality_labels(unit_rows(x[m]), m, choice.rules), pids[m])["ari"]
        best, settings = searched(x[m], pids[m])
        found.append({"set": name, "modality": m, "images": len(x[m]), "people": len(np.unique(pids[m])),
                      "chosen": round(chosen, 4), "best": round(best, 4), "lost": round(best - chosen, 4),
                      "settings": choice.settings, "best_settings": settings})
        print(name, m, f"chosen {chosen:.3f}, best {best:.3f}", file=sys.stderr, flush=True)
    return found


def rendered(seed, people, images, folder):
    "Trunk outputs and identities of a rendering with so many people and images a camera."
    PRESETS["bench"] = Preset(people, 4, 4, images)
    return untrained(render("bench", seed, root=Path(folder) / f"{seed}-{people}"))


def cases(asked, there, folder):
    "(name, rows, pids) of every data set that is asked for and not there yet."
    for seed in asked.seeds:
        names = {count: f"rendering {seed}, {count} images a person" for count in (4, 6, 12, 20, 50)}
        names[3, 21] = f"rendering {seed}, 3 to 20 images a person"
        for people, images, counts in ((160, 10, (4, 6, 12, 20, (3, 21))), (40, 25, (50,))):
            wanted = [count for count in counts if names[count] not in there]
            if not wanted: continue
            rows, pids = rendered(seed, people, images, folder)
            for count in wanted:
                rng = np.random.default_rng([seed, len(names[count])])
                kept = {m: some_of_each(y, count, rng) for m, y in pids.items()}
                yield names[count], {m: rows[m][kept[m]] for m in rows}, {m: pids[m][kept[m]] for m in rows}
    if asked.real and "real sensors" not in there: yield "real sensors", *untrained(asked.real)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[202, 203])
    parser.add_argument("--real", default="")
    parser.add_argument("--again", action="store_true")
    asked = parser.parse_args()
    found = [] if asked.again or not FILE.exists() else json.loads(FILE.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        for name, rows, pids in cases(asked, {row["set"] for row in found}, folder):
            found += compare(name, rows, pids)
            text = json.dumps(found, indent=1)
            write_atomic(FILE, lambda part, text=text: part.write_text(text, encoding="utf-8"))
    near = sum(row["lost"] <= .02 for row in found)
    print(f"{near} of {len(found)} cases lose at most 2 points of ARI against the search with the truth")


if __name__ == "__main__": main()
