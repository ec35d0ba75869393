"""Grids that settle questions about HIL on small renderings, into nbs/bench/questions_*.csv.

python tests/bench_questions.py one_factor                      # which parts help: 5 renderings x 3 seeds
python tests/bench_questions.py real --real ../shared/real/dev  # the same variants on real sensors
python tests/bench_questions.py one_factor --here --seconds 600 # in this process, until the time is over

What is done already is not repeated, and every finished run is in the table at once. --here spares each run the
start of a process and the writing of weights; the figures are the same (test_experiments compares them).
"""
import argparse
import os
import time
from functools import lru_cache
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"  # before torch is read

import hil  # noqa: E402, F401
from hil.evaluation import protocols  # noqa: E402
from hil.experiments.ablation import VARIANTS  # noqa: E402
from hil.experiments.cells import grid, renderings  # noqa: E402
from hil.experiments.grid import is_done, run_grid  # noqa: E402
from hil.experiments.results import add_results, collect  # noqa: E402
from hil.experiments.worker import task_of, train_cell  # noqa: E402
from hil.runs.config import Config  # noqa: E402
from hil.runs.folder import Run  # noqa: E402
from hil.training import trainer  # noqa: E402

BENCH = Path(__file__).resolve().parents[1] / "nbs" / "bench"
SMALL = dict(preset="small")
SEEN = [301, 302, 303, 304, 305]  # renderings


def one_factor(real):
    "Every part added and removed, every matcher, every newer idea; the first ones are the most telling."
    first = ("HIL", "modalities apart", "+ one-way", "+ BRST", "HIL − MCCL", "HIL, one-way", "HIL − sub-centres",
             "HIL − neighbours", "HIL − shared labels", "supervised")
    left_out = ("HIL − smoothing", "HIL − averaging", "release", *first)
    parts = first, [name for name in VARIANTS if name not in left_out]
    return [cell for names in parts
            for cell in grid({name: VARIANTS[name] for name in names}, renderings(SEEN), range(3), SMALL)]


GRIDS = {f.__name__: f for f in (one_factor,)}


def light():
    "Write no weights, for nobody goes on with these runs; read a data set once, and draw its galleries once."
    def record(run, row, arrays, checkpoint, best=False): keep(run, row, arrays, {}, False)
    def images(config, progress=True): return read(config.data_root, config.dataset, config.preset, config.render_seed,
                                                   config.overlap, config.looks, config.expect, config.evaluate_on)
    def draw(table, protocol, number, permutation=None):
        key = table.attrs["root"], len(table), protocol, number
        if key not in drawn: drawn[key] = draw_anew(table, protocol, number, permutation)
        return drawn[key]
    @lru_cache
    def read(root, dataset, preset, seed, overlap, looks, expect, part):
        kind = dict(preset=preset, render_seed=seed, overlap=overlap, looks=looks) if dataset == "synth" else dict(
            expect=expect)
        return load(Config(data_root=root, dataset=dataset, evaluate_on=part, **kind), False)
    keep, load, draw_anew, drawn = Run.record, trainer.load_images, protocols.draw, {}
    Run.record, trainer.load_images, protocols.draw = record, images, draw


def here(cells, folder, results, seconds):
    "Finish cells in this process until the time is over."
    end = time.time() + seconds
    light()
    for cell in sorted(cells, key=lambda cell: cell.seed):  # seed 0 of everything comes first
        if is_done(cell, folder): continue
        if time.time() > end: return
        begun, cpu = time.time(), time.process_time()
        train_cell(task_of(cell, folder))
        add_results(results, *collect([cell], folder))
        run = Run(Path(folder) / cell.key)
        print(f"{cell.name}: {' '.join(f'{100 * x:.1f}' for x in run.history.mAP)}; {time.time() - begun:.0f} s, "
              f"{time.process_time() - cpu:.1f} CPU-s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=GRIDS)
    parser.add_argument("--real", default="")
    parser.add_argument("--folder", default="runs/questions")
    parser.add_argument("--here", action="store_true")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--workers", type=int, default=0)
    asked = parser.parse_args()
    cells, results = GRIDS[asked.question](asked.real), BENCH / f"questions_{asked.question}.csv"
    if asked.here: here(cells, asked.folder, results, asked.seconds)
    else: run_grid(cells, asked.folder, workers=asked.workers, results=results)


if __name__ == "__main__": main()
