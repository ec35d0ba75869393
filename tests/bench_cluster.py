"""The entry of `make bench`: one epoch's clustering phase and one step's losses at SYSU-MM01's size, against the
hardware's floor and the slow reference, measured in one run -> a table here and in nbs/bench/full.json (quick.json).

python tests/bench_cluster.py [--quick]             # --quick: an eighth of the size
python tests/bench_cluster.py --scale [sizes ...]   # instead: how clustering grows (bench_scale.py)
"""
import argparse
import json
import os
import platform
import threading
import time
from pathlib import Path

import bench_losses
import bench_scale
import numba
import numpy as np
import reference
import sklearn
import torch
from threadpoolctl import threadpool_info

from hil.core.products import faster
from hil.core.vectors import unit_rows
from hil.method.cluster import centroids, pseudo_labels
from hil.method.match import brst
from hil.method.rerank import jaccard_distance
from hil.method.sub_clusters import secondary_cluster

SIZES, D, PER_PERSON, SHARE = {"visible": 22258, "infrared": 11909}, 1536, 56, 3
RESULTS = Path(__file__).resolve().parents[1] / "nbs" / "bench"
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


def timed(times, step, work, *args, **options):
    "What `work(*args)` returns; its seconds are added to times[step]."
    started = time.perf_counter()
    result = work(*args, **options)
    times[step] = times.get(step, 0) + time.perf_counter() - started
    return result


def phase(features, distance, labels_of, centres_of, subs_of, transfer):
    "Clustering of both modalities, six sets of sub-centres, transfer both ways -> seconds per step, labels."
    times, labels, centres = {}, {}, {}
    for name, x in features.items():
        near = timed(times, "jaccard", distance, x)
        labels[name] = timed(times, "dbscan", labels_of, near)
        centres[name] = timed(times, "centres", centres_of, x, labels[name])
    together, shared = np.concatenate(list(features.values())), np.concatenate([labels["visible"], labels["infrared"]])
    for x, y in [*((features[m], labels[m]) for m in features), (together, shared)]:
        for half in (x[:, :D // 2], x[:, D // 2:]): timed(times, "sub-centres", subs_of, half, y)    # deep and shallow
    for here, there in (("visible", "infrared"), ("infrared", "visible")):
        timed(times, "transfer", transfer, features[here], labels[here], centres[there])
    return times, labels


def ours(features):
    return phase(features, jaccard_distance, pseudo_labels, lambda x, y: centroids(x, y).numpy(), secondary_cluster,
                 brst)


def plain(features):
    return phase(features, reference.dense_jaccard, lambda d: reference.dbscan(d, .6),
                 lambda x, y: np.stack([x[y == c].mean(0) for c in range(y.max() + 1)]), reference.secondary_centers,
                 reference.label_transfer)


def floor(features, k=30):
    "Seconds of bare exact kNN: faiss' flat search, and a blocked torch product + topk."
    import faiss
    def blocked(x):
        x = torch.from_numpy(x)
        for rows in x.split(2048): (rows @ x.T).topk(k)
    rows, times = {name: unit_rows(x) for name, x in features.items()}, {}
    for x in rows.values():
        timed(times, "faiss", faiss.knn, x, x, k, metric=faiss.METRIC_INNER_PRODUCT)
        timed(times, "torch", blocked, x)
    return times


def machine():
    "Where and with what the figures were measured."
    import faiss
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())
    versions = {m.__name__: m.__version__ for m in (torch, faiss, numba)} | {"scikit-learn": sklearn.__version__}
    return (f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f} at the "
            f"start; Python {platform.python_version()}, " + ", ".join(map(" ".join, versions.items())))


def kernels():
    "The loops that each library multiplies matrices with here, and whose products the neighbours are made of."
    found = {f"{Path(lib['filepath']).parent.name.partition('.')[0]}: {lib['internal_api']} {lib['version']} "
             f"for {lib.get('architecture', 'any processor')}"
             for lib in threadpool_info() if lib["user_api"] == "blas"}
    own = "MKL" if torch.backends.mkl.is_available() else "OpenBLAS"
    found.add(f"torch: {own} for {torch.backends.cpu.get_cpu_capability()}")
    return f"kernels: {', '.join(sorted(found))}; products by {faster()}"


def least(before, now):
    "The shorter time of each step."
    return {step: min(seconds, before.get(step, seconds)) for step, seconds in now.items()}


def clustering(sizes, quick):
    "Rows (step, ours, reference, floor) in seconds, and what else is worth knowing."
    ours(world({"visible": 400, "infrared": 300}))                                       # compile
    features = world(sizes)
    with Peak() as peak: fast, labels = ours(features)          # first: what others let go of would hide what it needs
    bare = floor(features)
    for _ in range(4 if quick else 0):                          # in turns: a busy moment meets both
        fast, bare = least(fast, ours(features)[0]), least(bare, floor(features))
    small = features if quick else world({name: n // SHARE for name, n in sizes.items()})
    slow, slow_labels = plain(small)
    if not quick: labels = ours(small)[1]
    agree = np.mean(np.concatenate([slow_labels[m] == labels[m] for m in small]))
    if not quick:                                               # along the line through two sizes, log-log
        less = plain(world({name: n // (2 * SHARE) for name, n in sizes.items()}))[0]
        slow = {step: seconds * SHARE ** np.clip(np.log2(seconds / less[step]), 1, 2) for step, seconds in slow.items()}
    rows = [(step, fast[step], slow[step], min(bare.values())) for step in STEPS]
    rows.append(("clustering phase", sum(fast.values()), sum(slow.values()), min(bare.values())))
    notes = [f"{sizes['visible']:,} visible + {sizes['infrared']:,} infrared images x {D}; floor of the clustering "
             f"steps: bare exact kNN, both modalities: faiss {bare['faiss']:.2f} s, torch {bare['torch']:.2f} s",
             kernels(), f"peak memory above the features: {peak.above:.2f} GB",
             f"labels equal to the reference's: {agree:.2%} of the images"]
    if not quick:
        notes.append(f"the clustering reference was measured at 1/{2 * SHARE} and 1/{SHARE} of the size and "
                     "extrapolated, at most as N^2")
    return rows, notes


def table(result):
    "The result as Markdown."
    lines = ["| step | seconds | reference | reference / ours | ours / floor | reference / floor |",
             "|---|---|---|---|---|---|"]
    for step, ours, slow, floor in map(dict.values, result["rows"]):
        above = f"{ours / floor:.2f}" if floor else ""
        most = f"{slow / floor:.1f}x" if floor and step not in STEPS else ""    # with nothing but the floor
        lines.append(f"| {step} | {ours:.3g} | {slow:.3g} | {slow / ours:.1f}x | {above} | {most} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in result["notes"]), f"- {result['machine']}"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="an eighth of the size, the reference measured in full")
    parser.add_argument("--scale", nargs="*", type=int, metavar="IMAGES", help="measure growth instead, at these sizes")
    asked = parser.parse_args()
    if asked.scale is not None: return bench_scale.main(asked.scale)
    result = dict(machine=machine(), rows=[], notes=[])
    rows, result["notes"] = clustering({name: n // 8 if asked.quick else n for name, n in SIZES.items()}, asked.quick)
    result["notes"].append("losses: processor seconds of one step, forward and backward, on one thread; "
                           "floor: the products of features and memories, forward and backward")
    for size in ("embedded",) if asked.quick else ("SYSU-MM01", "embedded"): rows += bench_losses.bench(size)
    result["rows"] = [dict(zip(("step", "ours", "reference", "floor"), row)) for row in rows]
    print(table(result))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / ("quick.json" if asked.quick else "full.json")).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
