"""Does it help those whom nobody corrected, when half of the people are corrected and the run is repeated?

python tests/bench_corrections.py [--preset tiny] [--renderings 40 41 42] [--real ../shared/real/dev] [--seeds 0]

Each case is a rendering that nobody had looked at, or a real set in SYSU-MM01's layout, and a seed. A first run is made
without labels. Then every image of half of its training people gets its true identity, and the run is repeated with
these labels (labels_complete = True), everything else as before. Both are judged on the OTHER half alone, by the last
epoch's features. Between them stand the first run's own features, clustered with the labels: what correcting gives
before anything is learned. Writes nbs/bench/corrections.json; other cases that it holds stay. A case of preset tiny
takes about a minute, one of the default size or of a real set about ten.
"""
import argparse
import itertools
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score

from hil.core.files import write_atomic
from hil.core.names import MODALITIES
from hil.evaluation.sightings import identity_table
from hil.method.constraints import known_of
from hil.runs.config import Config
from hil.training.trainer import Trainer

FILE = Path(__file__).resolve().parents[1] / "nbs" / "bench" / "corrections.json"


def figures(table, pids, people):
    "ARI (an image in no identity is alone) and cross-modality recall and precision of the pairs, over some people."
    own = table.assign(pid=pids.reindex(table.path).to_numpy()).query("pid in @people")
    y = np.where(own.identity < 0, table.identity.max() + 1 + np.arange(len(own)), own.identity)
    day, night = (own[own.modality == m] for m in MODALITIES)
    same = np.equal.outer(day.pid.to_numpy(), night.pid.to_numpy())
    met = np.equal.outer(day.identity.to_numpy(), night.identity.to_numpy()) & (day.identity.to_numpy() >= 0)[:, None]
    return dict(ari=adjusted_rand_score(own.pid, y), recall=float(met[same].mean()),
                precision=float(same[met].mean()) if met.any() else float("nan"))


def case(folder, name, seed, data):
    "The three figures of one data set and seed."
    base = dict(seed=seed, **data)
    first = Trainer(Config(run_dir=f"{folder}/first", **base), progress=False).fit()
    images = first.images[first.images.train]
    pids = images.set_index("path").pid
    people = np.random.default_rng(seed).permutation(pids.unique())
    corrected, others = np.split(people, [len(people) // 2])
    named = images[images.pid.isin(corrected)]
    named[["path", "pid"]].rename(columns={"pid": "identity"}).to_csv(f"{folder}/who.csv", index=False)
    again = Trainer(Config(run_dir=f"{folder}/again", labels=f"{folder}/who.csv", labels_complete=True, **base),
                    progress=False).fit()
    labels = {m: t.pid.where(t.pid.isin(corrected), -1).to_numpy() for m, t in images.groupby("modality")}
    known = known_of({m: labels[m] for m in MODALITIES}, complete=True)
    last = int(first.history.epoch.max())
    tables = dict(first=identity_table(first, last), clustered=identity_table(first, last, known),
                  again=identity_table(again, last))
    return dict(set=name, seed=seed, people=len(people), images=len(images), corrected=len(corrected),
                mAP_first=float(first.history.mAP.iloc[-1]), mAP_again=float(again.history.mAP.iloc[-1]),
                **{f"{k}_{name}": v for name, t in tables.items() for k, v in figures(t, pids, others).items()})


def interval(differences, draws=10_000):
    "Mean and its 95 % interval over cases, by drawing cases again."
    x = np.asarray(differences)
    means = x[np.random.default_rng(0).integers(0, len(x), (draws, len(x)))].mean(1)
    return float(x.mean()), *(float(v) for v in np.quantile(means, (.025, .975)))


def told(rows):
    "What correcting changed, with intervals over the cases of each group: renderings of one preset, or a real set."
    gains = {}
    for group, table in pd.DataFrame(rows).groupby(lambda k: group_of(rows[k])):
        gains[group] = {f"{k}_{name}": interval(table[f"{k}_{name}"] - table[f"{k}_first"])
                        for k in ("ari", "recall", "precision") for name in ("clustered", "again")}
        for name, (mean, low, high) in gains[group].items():
            print(f"{group}: {name:22} {mean:+.3f} (95 % over {len(table)} cases: {low:+.3f} to {high:+.3f})")
    return gains


def group_of(row): return row["set"].partition(" rendering ")[0] if " rendering " in row["set"] else row["set"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--renderings", type=int, nargs="*", default=list(range(40, 48)))
    parser.add_argument("--real", default="", help="a real set in SYSU-MM01's layout")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    asked = parser.parse_args()
    rows = json.loads(FILE.read_text(encoding="utf-8"))["rows"] if FILE.exists() else []
    sets = {f"{asked.preset} rendering {number}": dict(preset=asked.preset, render_seed=number)
            for number in asked.renderings}
    if asked.real: sets["real sensors"] = dict(dataset="sysu", data_root=asked.real, expect="any", select="last",
                                                 hard_prototypes=False)
    for (name, data), seed in itertools.product(sets.items(), asked.seeds):
        with tempfile.TemporaryDirectory() as folder: row = case(folder, name, seed, data)
        rows = [other for other in rows if (other["set"], other["seed"]) != (name, seed)] + [row]
        print(f"{name}, seed {seed}: " + "; ".join(
            f"{k} {row[f'{k}_first']:.3f} -> {row[f'{k}_clustered']:.3f} -> {row[f'{k}_again']:.3f}"
            for k in ("ari", "recall", "precision")), flush=True)
        text = json.dumps(dict(rows=rows, gains=told(rows)), indent=1)
        write_atomic(FILE, lambda p, text=text: p.write_text(text + "\n", encoding="utf-8"))


if __name__ == "__main__": main()
