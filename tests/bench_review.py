"""How fast do answers put identities right? A simulated annotator, now and then wrong, before the review queue.

python tests/bench_review.py [--renderings 201 202] [--keep FOLDER] [--again]

For each rendering (120 people who train, three images of each by a camera) a run of six epochs is trained, three
minutes on two quiet cores; --keep names a folder in which its features are kept for the next time. Then the annotator
answers 100 questions from the labels as the run left them, under two orders, several shares of wrong answers and
several seeds. Writes nbs/bench/review.json; what it holds already is not repeated, --again starts anew.
"""
import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from hil.core.files import write_atomic
from hil.core.vectors import unit_rows
from hil.explore.journal import Journal
from hil.explore.review import Review, link_action
from hil.explore.session import in_step
from hil.explore.source import ShownLabels, open_source
from hil.method.cluster import cluster_quality
from hil.runs.config import Config
from hil.synth.render import PRESETS, Preset, render
from hil.training.trainer import Trainer

FILE = Path(__file__).resolve().parents[1] / "nbs" / "bench" / "review.json"
PRESETS["review"] = Preset(120, 8, 8, 3)
ORDERS, ERRORS, SEEDS = ("uncertain", "random"), (0., .1), (0, 1, 2)
ANSWERS, EVERY = 100, 10


def embeddings(rendering, kept): # seed of the rendering; file -> dict of arrays
    "What a run on this rendering leaves behind: features, people, and the labels of its last epoch."
    if not kept.exists():
        with tempfile.TemporaryDirectory() as folder:
            root = render("review", rendering, root=f"{folder}/pictures", progress=False)
            settings = Config(dataset="sysu", data_root=str(root), expect="any", select="last", stage1_epochs=2,
                              stage2_epochs=4, hard_prototypes=False, run_dir=f"{folder}/run")
            source = open_source(Trainer(settings, progress=False).fit().path)
            epoch, n = source.labelled[-1], source.n
            labels = source.labels(epoch)
            np.savez(kept, x=source.features(epoch)[:n], pid=source.pid[:n], modality=source.modality[:n].astype(str),
                     apart=labels.apart, identity=labels.identity)
    with np.load(kept) as found: return {name: found[name] for name in found.files}


def ari(pid, identity):
    "Agreement with the truth, an image in no identity being alone; as the explorer counts it."
    return cluster_quality(identity, pid)["ari"]


def simulate(data, order, error, seed):
    "Answers of one annotator -> [(answers so far, ARI)], and the longest wait for a question in seconds."
    rng, pid, modality = np.random.default_rng(seed), data["pid"], data["modality"]
    names = [str(code) for code in range(max(data["apart"].max(), data["identity"].max()) + 1)]
    y = in_step(ShownLabels(data["apart"], data["identity"], None, names, True))
    journal = Journal(None, np.arange(len(pid)), y.identity, names)
    review = Review(unit_rows(data["x"]), modality, y.identity, y.apart, seed=seed)
    curve, slowest, skipped = [(0, ari(pid, y.identity))], 0., []
    def person(images): return np.bincount(pid[images]).argmax() # whom most of a strip's photographs show
    for k in range(1, ANSWERS + 1):
        start = time.perf_counter()
        question = next(review.questions(order, skipped), None)
        slowest = max(slowest, time.perf_counter() - start)
        if question is None: break
        same = bool(person(question.first) == person(question.second)) != bool(rng.random() < error)
        journal.do(link_action(question, same, modality, f"N{k}"))
        now = in_step(y._replace(identity=journal.labels,
                                 apart=np.where(journal.labels >= len(names), journal.labels, y.apart)))
        start = time.perf_counter()
        review.update(now.identity, now.apart, journal.links)
        slowest = max(slowest, time.perf_counter() - start)
        if k % EVERY == 0: curve.append((k, round(ari(pid, journal.labels), 4)))
    return curve, slowest


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--renderings", type=int, nargs="+", default=[201, 202, 203])
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--again", action="store_true")
    asked = parser.parse_args()
    rows = [] if asked.again or not FILE.exists() else json.loads(FILE.read_text(encoding="utf-8"))
    there = {(row["rendering"], row["order"], row["error"], row["seed"]) for row in rows}
    todo = [(n, order, error, seed) for seed in SEEDS for error in ERRORS for order in ORDERS for n in asked.renderings
            if error or order == "random" or not seed] # without errors, nothing is by chance in the first order
    with tempfile.TemporaryDirectory() as folder:
        for rendering, order, error, seed in todo:
            if (rendering, order, error, seed) in there: continue
            data = embeddings(rendering, (asked.keep or Path(folder)) / f"r{rendering}.npz")
            curve, slowest = simulate(data, order, error, seed)
            rows.append(dict(rendering=rendering, images=len(data["pid"]), people=len(np.unique(data["pid"])),
                             order=order, error=error, seed=seed, curve=curve))
            print(*rows[-1].values(), f"slowest {slowest:.2f} s", flush=True)
            text = json.dumps(rows).replace("}, {", "},\n{") + "\n"
            write_atomic(FILE, lambda path, text=text: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__": main()
