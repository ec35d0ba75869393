"""How time and memory of clustering grow with the number of images -> nbs/bench/scale.json.

python tests/bench_scale.py [sizes ...]      # default 5000 15000 50000 150000 500000, each in a process of its own;
                                             # sizes measured before stay in the file
"""
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

RESULT = Path(__file__).resolve().parents[1] / "nbs" / "bench" / "scale.json"
SIZES, D, PER_PERSON = (5000, 15000, 50000, 150000, 500000), 512, 50


def world(n, seed=0):
    "Raw features [n, 512] of people in six cameras, one image in twenty far off, and who is who [n]."
    import numpy as np
    rng = np.random.default_rng(seed)
    people, cameras = (rng.standard_normal((rows, D), dtype=np.float32) for rows in (n // PER_PERSON, 6))
    who, where = rng.integers(len(people), size=n), rng.integers(6, size=n)
    x = np.empty((n, D), np.float32)
    for start in range(0, n, 8192):
        rows = slice(start, start + 8192)
        blur = rng.choice([.7, 1.5], p=[.95, .05], size=(len(x[rows]), 1)).astype(np.float32)
        noise = rng.standard_normal((len(x[rows]), D), dtype=np.float32)
        x[rows] = people[who[rows]] + .3 * cameras[where[rows]] + blur * noise
    return x, who


def measure(n):
    "One size: seconds and highest resident memory after each step."
    import logging

    import numpy as np
    import torch
    from sklearn.metrics import adjusted_rand_score

    from hil.method.cluster import centroids, pseudo_labels
    from hil.method.neighbors import knn
    from hil.method.rerank import jaccard_distance
    from hil.method.sub_clusters import secondary_assign, sub_centers
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("hil.method.fast_neighbors").addHandler(handler)
    logging.getLogger("hil.method.fast_neighbors").setLevel(logging.INFO)
    little = world(500)[0]
    secondary_assign(little, pseudo_labels(jaccard_distance(little)))                                         # compile
    knn(little, 30, "ivf")
    said.clear()
    x, who = world(n)
    row = dict(images=n, gb_before=peak(), seconds={}, gb={}, load=os.getloadavg()[0], threads=torch.get_num_threads())

    def step(name, work, *args, **options):
        started, used = time.perf_counter(), time.process_time()
        result = work(*args, **options)
        row["seconds"][name], row["gb"][name] = round(time.perf_counter() - started, 2), peak()
        row.setdefault("cpu_seconds", {})[name] = round(time.process_time() - used, 2)
        return result

    distance = step("Jaccard", jaccard_distance, x, keep=.61, neighbors="ivf")
    labels = step("DBSCAN", pseudo_labels, distance)
    row["stored_per_image"] = round(distance.nnz / n, 1)
    del distance
    step("centres", centroids, x, labels)
    merged = np.where(np.arange(n) < 3000, 0, labels + (labels >= 0))                           # one cluster of 3,000
    merged = np.unique(merged, return_inverse=True)[1] - (labels[3000:] < 0).any()
    sub = step("sub-clusters", secondary_assign, x, merged)
    step("sub-centres", sub_centers, x, merged, sub)
    alone = np.where(labels < 0, labels.max() + 1 + np.arange(n), labels)                       # outliers: each its own
    return {**row, "clusters": int(labels.max()) + 1, "outliers": int((labels < 0).sum()),
            "ari": round(adjusted_rand_score(who, alone), 4), "said": said,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"}


def peak(): return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)                # Linux: in kB


def main(sizes):
    rows = {row["images"]: row for row in json.loads(RESULT.read_text())} if RESULT.exists() else {}
    for n in sizes or SIZES:
        command = [sys.executable, __file__, "--one", str(n)]
        out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        row = rows[n] = json.loads(out.splitlines()[-1])
        print(f"{n:>9,} images: {sum(row['seconds'].values()):8.1f} s, peak {max(row['gb'].values()):.2f} GB; "
              f"{row['said'][-1]}", flush=True)
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps([rows[k] for k in sorted(rows)], indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]: print(json.dumps(measure(int(sys.argv[2]))))
    else: main([int(size) for size in sys.argv[1:]])
