"""One epoch's clustering phase at SYSU-MM01's size, against the hardware's floor and the slow reference, measured in one run.

python tests/bench_cluster.py [--quick]     # --quick: an eighth of the size
"""
import argparse
import os
import platform
import threading
import time
from pathlib import Path

import faiss
import numba
import numpy as np
import sklearn
import torch

import reference
from hil.cluster import centroids, pseudo_labels, secondary_cluster
from hil.match import brst
from hil.rerank import jaccard_distance, unit

SIZES, D, PER_PERSON, SHARE = {"visible": 22258, "infrared": 11909}, 1536, 56, 6
STEPS = ("jaccard", "dbscan", "centres", "sub-centres", "transfer")


def world(sizes, seed=0):
    "Raw features [N, D] per modality: people shared by both, images of a person around its centre, a few far away."
    rng = np.random.default_rng(seed)
    people = rng.normal(size=(max(sizes["visible"] // PER_PERSON, 2), D)).astype(np.float32)
    features = {}
    for name, n in sizes.items():
        x = people[rng.integers(len(people), size=n)]
        for rows in np.array_split(np.arange(n), max(n // 2048, 1)):
            blur = rng.choice([1.3, 2.2], p=[.9, .1], size=(len(rows), 1)).astype(np.float32)
            x[rows] += blur * rng.standard_normal((len(rows), D), dtype=np.float32)
        features[name] = x
    return features


class Peak:
    "Highest resident memory within a `with` block above its start, in GB (Linux)."
    def _now(self): return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9

    def _watch(self):
        while not self.stop.wait(.01): self.top = max(self.top, self._now())

    def __enter__(self):
        self.start = self.top = self._now()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.stop.set()
        self.thread.join()
        self.above = self.top - self.start


def timed(times, step, work):
    started = time.perf_counter()
    result = work()
    times[step] = times.get(step, 0) + time.perf_counter() - started
    return result


def phase(features, distance, labels_of, centres_of, subs_of, transfer):
    "Clustering of both modalities, six sets of sub-centres (own and shared, deep and shallow), transfer both ways -> seconds per step, labels."
    times, labels, centres = {}, {}, {}
    for name, x in features.items():
        near = timed(times, "jaccard", lambda: distance(x))
        labels[name] = timed(times, "dbscan", lambda: labels_of(near))
        centres[name] = timed(times, "centres", lambda: centres_of(x, labels[name]))
    together, shared = np.concatenate(list(features.values())), np.concatenate([labels["visible"], labels["infrared"]])
    for x, y in [*((features[m], labels[m]) for m in features), (together, shared)]:
        for half in (x[:, :D // 2], x[:, D // 2:]): timed(times, "sub-centres", lambda: subs_of(half, y))
    for here, there in (("visible", "infrared"), ("infrared", "visible")):
        timed(times, "transfer", lambda: transfer(features[here], labels[here], centres[there]))
    return times, labels


def ours(features):
    return phase(features, jaccard_distance, pseudo_labels, lambda x, y: centroids(x, y).numpy(), secondary_cluster, brst)


def plain(features):
    return phase(features, reference.dense_jaccard, lambda d: reference.dbscan(d, .6),
                 lambda x, y: np.stack([x[y == c].mean(0) for c in range(y.max() + 1)]), reference.secondary_centers, reference.label_transfer)


def floor(features, k=30):
    "Seconds of bare exact kNN: faiss' flat search, and a blocked torch product + topk."
    def blocked(x):
        x = torch.from_numpy(x)
        for rows in x.split(2048): (rows @ x.T).topk(k)

    rows, times = {name: unit(x) for name, x in features.items()}, {}
    for x in rows.values():
        timed(times, "faiss", lambda: faiss.knn(x, x, k, metric=faiss.METRIC_INNER_PRODUCT))
        timed(times, "torch", lambda: blocked(x))
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="an eighth of the size, the reference measured in full")
    quick = parser.parse_args().quick
    sizes = {name: n // 8 if quick else n for name, n in SIZES.items()}
    share = 1 if quick else SHARE
    print(f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; Python {platform.python_version()}, torch {torch.__version__}, "
          f"faiss {faiss.__version__}, numba {numba.__version__}, scikit-learn {sklearn.__version__}")
    print(f"{sizes['visible']:,} visible + {sizes['infrared']:,} infrared x {D}; load {os.getloadavg()[0]:.1f} at the start\n", flush=True)
    ours(world({"visible": 400, "infrared": 300}))                                       # compile

    features = world(sizes)
    bare = floor(features)
    with Peak() as peak: fast, labels = ours(features)
    small = features if quick else world({name: n // share for name, n in sizes.items()})
    slow, slow_labels = plain(small)
    agree = np.mean(np.concatenate([slow_labels[m] == (labels if quick else ours(small)[1])[m] for m in small]))
    if not quick:                                                                        # along the line through two sizes, log-log
        less = plain(world({name: n // (2 * share) for name, n in sizes.items()}))[0]
        slow = {step: seconds * share ** np.clip(np.log2(seconds / less[step]), 1, 2) for step, seconds in slow.items()}

    print("| step | seconds | reference | reference / ours | ours / floor |\n|---|---|---|---|---|")
    best = min(bare.values())
    for step in (*STEPS, "all"):
        mine, theirs = (sum(t.values()) if step == "all" else t[step] for t in (fast, slow))
        print(f"| {step} | {mine:.2f} | {theirs:.1f} | {theirs / mine:.0f}x | {mine / best:.2f} |")
    print(f"\nfloor (bare exact kNN, both modalities): faiss {bare['faiss']:.2f} s, torch {bare['torch']:.2f} s"
          f"\npeak memory above the features: {peak.above:.2f} GB"
          f"\nlabels equal to the reference's: {agree:.2%} of the images; clusters {[int(y.max()) + 1 for y in labels.values()]}, "
          f"outliers {[int((y < 0).sum()) for y in labels.values()]}"
          + ("" if quick else f"\nreference extrapolated from 1/{2 * share} and 1/{share} of the size, at most as N^2"))


if __name__ == "__main__":
    main()
