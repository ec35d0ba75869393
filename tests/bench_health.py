"""Does health, which needs no label, go with mAP? Runs of good and of bad settings, into nbs/bench/health.json.

python tests/bench_health.py [--renderings 9 12 13] [--real ../shared/real/dev] [--seeds 0 1 2]
python tests/bench_health.py --collect FOLDER ...    # health and mAP of grids' runs, into nbs/bench/epochs.csv

Rows that are named "0.1.0" are defaults of that version, run by its own code (commit 37ac7b0, one thread):
Trainer(Config(render_seed=..., seed=0, run_dir=...)).fit().history in a worktree of that commit.

Rows with "run_by_code" were run by that CODE and count as today's: CODE 5 changed how settings are chosen, and chooses
the same numbers for them (or they use no chosen number that differs); the figures of health were not computed again.

A run takes two minutes on two quiet cores. Runs that the file holds already, made by today's code (CODE of
hil.experiments.cells), are not repeated; --again starts anew.
"""
import argparse
import json
import sys
import tempfile
from pathlib import Path

import pandas as pd

from hil.core.files import write_atomic
from hil.experiments.cells import CODE
from hil.runs.config import Config
from hil.training.trainer import Trainer

FILE = Path(__file__).resolve().parents[1] / "nbs" / "bench" / "health.json"
EPOCHS = FILE.with_name("epochs.csv")
BEFORE = dict(iterations=36, lr=7e-4, lr_end=1.0, lr_drop=0.7, averaging=0.0, smoothing=0.0, eps=0.6, min_samples=4,
              k1=30, k1_infrared=12, k2=6, k2_infrared=0, n_sub=9)  # the defaults of 0.2.0; its heads were not damped
HIL = dict(hard_prototypes=False)  # as published
SETTINGS = {"default": {}, "HIL": HIL, "defaults of 0.2.0": {**HIL, **BEFORE},
            "truth": dict(supervision="truth", stage1_epochs=0),
            "the rate stays": dict(HIL, lr_end=1.0),
            # what a laptop can do where the frozen trunk is the limit (lesson lite0)
            "lite1": dict(model="lite1"), "lite2": dict(model="lite2"), "three views": dict(n_views=3),
            "end to end": dict(trainable="all")}


def sets(renderings, real):
    "The data sets by name: settings of each."
    found = {f"rendering {seed}": dict(render_seed=seed) for seed in renderings}
    if real: found["real sensors"] = dict(dataset="sysu", data_root=real, expect="any", select="last")
    return found


def figures(settings, seed):
    "Health and mAP of every epoch of one run."
    with tempfile.TemporaryDirectory() as folder:
        run = Trainer(Config(**settings, seed=seed, run_dir=f"{folder}/run", keep_features=False)).fit()
        wanted = [c for c in ("epoch", "stage", "health", "agreement", "mAP", "transfer_precision", "seconds")
                  if c in run.history]
        return json.loads(run.history[wanted].to_json(orient="records", double_precision=5))


def histories(folders):
    "Health and mAP of every epoch of the runs that grids left in folders."
    for run in sorted(path for folder in folders for path in Path(folder).iterdir() if (path / "history.csv").exists()):
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))["config"]
        kind = f"{config['preset']} renderings" if config["dataset"] == "synth" else "pictures from a folder"
        history = pd.read_csv(run / "history.csv")
        if not {"health", "mAP"} <= set(history) or history[["health", "mAP"]].isna().any(axis=None): continue
        yield history[["epoch", "health", "mAP"]].assign(run=run.name, kind=kind)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--renderings", type=int, nargs="*", default=[9, 12, 13])
    parser.add_argument("--real", default="")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS)[:4])
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--collect", nargs="+", metavar="FOLDER")
    asked = parser.parse_args()
    if asked.collect:
        pd.concat(histories(asked.collect))[["kind", "run", "epoch", "health", "mAP"]].to_csv(
            EPOCHS, index=False, float_format="%.4f")
        return
    rows = [] if asked.again or not asked.file.exists() else json.loads(asked.file.read_text(encoding="utf-8"))
    there = {(row["set"], row["settings"], row["seed"]) for row in rows if row["code"] == CODE}
    for seed in asked.seeds:
        for settings in asked.settings:
            for name, data in sets(asked.renderings, asked.real).items():
                if (name, settings, seed) in there: continue
                epochs = figures({**data, **SETTINGS[settings]}, seed)
                own = {"set": name, "settings": settings, "seed": seed}
                rows = [row for row in rows if any(row[k] != v for k, v in own.items())]
                rows.append(own | {"code": CODE, "epochs": epochs})
                text = json.dumps(rows, indent=1)
                write_atomic(asked.file, lambda part, text=text: part.write_text(text, encoding="utf-8"))
                print(name, settings, seed, [round(100 * e["mAP"], 1) for e in epochs], file=sys.stderr, flush=True)


if __name__ == "__main__": main()
