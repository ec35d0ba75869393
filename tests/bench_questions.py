"""Grids that settle questions about HIL on small renderings, into nbs/bench/questions_*.csv.

python tests/bench_questions.py one_factor                      # which parts help: 5 renderings x 3 seeds
python tests/bench_questions.py real --real ../shared/real/dev  # the same variants on real sensors
python tests/bench_questions.py tuning tuned                    # the best settings of each method against each other
python tests/bench_questions.py full --real ../shared/real/dev  # the most telling at the default size: minutes a run
python tests/bench_questions.py worlds                          # which property of a rendering moves the order
python tests/bench_questions.py one_factor --here --seconds 600 # in this process, until the time is over

What is done already is not repeated, and every finished run is in the table at once. --here spares each run the
start of a process and the writing of weights; the figures are the same (test_experiments compares them).
"""
import argparse
import json
import os
import shutil
import sys
import time
import traceback
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from zlib import crc32

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"  # before torch is read

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

import hil  # noqa: E402, F401
from hil.core.errors import RunError  # noqa: E402
from hil.core.files import refuse_if_held  # noqa: E402
from hil.core.progress import progress_bar  # noqa: E402
from hil.evaluation import protocols  # noqa: E402
from hil.experiments.ablation import PUBLISHED, VARIANTS  # noqa: E402
from hil.experiments.cells import grid, real_sets, renderings  # noqa: E402
from hil.experiments.grid import is_done, run_grid  # noqa: E402
from hil.experiments.results import add_results, collect, read_results  # noqa: E402
from hil.experiments.statistics import chosen_settings  # noqa: E402
from hil.experiments.worker import measure  # noqa: E402
from hil.runs.config import Config  # noqa: E402
from hil.runs.folder import Run  # noqa: E402
from hil.runs.recipes import recipe_of  # noqa: E402
from hil.synth.render import render  # noqa: E402
from hil.synth.shots import Difficulty  # noqa: E402
from hil.training import trainer  # noqa: E402

BENCH = Path(__file__).resolve().parents[1] / "nbs" / "bench"
SMALL = dict(preset="small")
SMALL_RECIPE = recipe_of(SMALL) | dict(select="last")  # the same settings for pictures from a folder
SEEN = [301, 302, 303, 304, 305]  # renderings
UNSEEN = [311, 312, 313, 314, 315]  # for what was chosen elsewhere
CORE = ["HIL", "modalities apart", "HIL − MCCL", "HIL, one-way"]
MORE = ["+ BRST", "+ one-way", "HIL − sub-centres", "HIL − neighbours", "HIL − shared labels"]
LEFT_OUT = ["HIL − smoothing", "HIL − averaging", "release"]


def named(names): return {name: VARIANTS[name] for name in names}


def one_factor(asked):
    "Every part added and removed, every matcher, every newer idea; the most telling part first, as in every grid."
    rest = [name for name in VARIANTS if name not in (*CORE, *MORE, *LEFT_OUT)]
    return [grid(named(names), renderings(SEEN), range(3), SMALL) for names in (CORE + MORE, rest)]


def real(asked):
    "The same variants on real sensors, as many people and pictures as a small rendering has."
    place = few_people(asked.real, Path(asked.folder) / "real" / "sensors")
    data = real_sets([str(place)])
    return [grid(named(CORE + MORE), data, range(3), SMALL_RECIPE)]


def few_people(root, target, people=(("train", 48), ("val", 12), ("test", 30)), images=3, left_out=(), noise=0):
    """The first pictures of the first people of each split, in SYSU-MM01's layout: links, or noisy copies.

    `images` and `left_out` (cameras) are for the people to train on; noise: standard deviation in grey levels.
    """
    if (target / "exp" / "test_id.txt").exists(): return target
    (target / "exp").mkdir(parents=True, exist_ok=True)
    for split, number in people:
        ids = (Path(root) / "exp" / f"{split}_id.txt").read_text(encoding="utf-8").strip().split(",")[:number]
        for folder in (f for pid in ids for f in sorted(Path(root).glob(f"cam*/{int(pid):04d}"))):
            if split == "train" and folder.parent.name in left_out: continue
            place = target / folder.parent.name / folder.name
            place.mkdir(parents=True, exist_ok=True)
            for file in sorted(folder.iterdir())[:images if split == "train" else 3]:
                if noise: noisy(file, noise).save((place / file.name).with_suffix(".png"))
                else: (place / file.name).symlink_to(file.absolute())
        (target / "exp" / f"{split}_id.txt").write_text(",".join(ids) + "\n", encoding="utf-8")
    return target


def noisy(file, deviation):
    "A picture with noise of a sensor in it, the same noise every time."
    picture = np.asarray(Image.open(file), float)
    rng = np.random.default_rng(crc32("/".join(file.parts[-3:]).encode()))
    return Image.fromarray((picture + rng.normal(0, deviation, picture.shape)).round().clip(0, 255).astype(np.uint8))


def centres(asked):
    "How many centres, how far from the common one, when and how much: for people with one look, and with two."
    first = {"several centres, a = 0.9": {}, "one centre": dict(n_sub=0), "several centres, a = 0": dict(shrink=0.0),
             "no MCCL": dict(mccl_weight=0.0)}
    more = {"several centres, a = 0.5": dict(shrink=0.5), "two centres, a = 0": dict(shrink=0.0, n_sub=2),
            "several centres, a = 0, weight 3": dict(shrink=0.0, mccl_weight=3.0),
            "several centres, a = 0, no warm-up": dict(shrink=0.0, mccl_warmup=0)}
    data = [dict(render_seed=seed, looks=looks) for seed in SEEN[:3] for looks in (0.0, 1.0)]
    half = [dict(render_seed=seed, looks=0.5) for seed in SEEN[:3]]
    return [grid(variants, sets, range(2), SMALL) for variants, sets in
            ((first, data), (more, data), (first | more, half))]


def transfer(asked):
    "Matchers and thresholds where people are missing in one modality."
    first = {"one-way": dict(matcher="one_way"), "BRST, t = 0.8": {}}
    more = {"mutual": dict(matcher="mutual"), "Hungarian": dict(matcher="hungarian"),
            "BRST, t = 0.5": dict(threshold=0.5), "BRST, t = 0.95": dict(threshold=0.95),
            "BRST by samples": dict(level="sample")}
    data = [dict(render_seed=seed, overlap=overlap) for overlap in (1.0, 0.5, 0.0) for seed in SEEN[:3]]
    between = [dict(render_seed=seed, overlap=overlap) for overlap in (0.75, 0.25) for seed in SEEN[:3]]
    return [grid(variants, data, range(2), SMALL) for variants in (first, more)] + [
        grid(first | more, between, range(2), SMALL)]


def directions(asked):
    "From which modality to which labels go, by one-way matching and by BRST, where people are missing in one of them."
    ways = {"by turns": {}, "visible to infrared": dict(brst_direction="visible_to_infrared"),
            "infrared to visible": dict(brst_direction="infrared_to_visible")}
    variants = {f"{matcher}, {way}": {**one, **other} for matcher, one in
                (("BRST", {}), ("one-way", dict(matcher="one_way"))) for way, other in ways.items()}
    data = [dict(render_seed=seed, overlap=overlap) for overlap in (1.0, 0.75, 0.5, 0.25, 0.0) for seed in SEEN[:3]]
    return [grid(variants, data, range(2), SMALL)]


def full(asked):
    "The most telling variants at the default size: all of the real sensors, and renderings."
    data = real_sets([asked.real]) + [dict(render_seed=seed) for seed in (103, 101, 102)]
    variants = named(["HIL", "HIL, hard prototypes"]) | {"HIL, the rate stays": dict(lr_end=1.0)} | named(CORE)
    return [grid(variants, [one], range(2), dict(PUBLISHED, select="last")) for one in data]


WORLDS = {  # {what is changed of the rendered world: levers of `hil.synth.shots.Difficulty`}
    "as it is": {},
    "dyes alike by night": dict(luminance_tie=0.75, dye_tie=0.66),
    "dyes that say little": dict(luminance_tie=0.3, dye_tie=0.3),
    "one framing": dict(framing=0.0, infrared_zoom=1.0, infrared_shift=0.0),
    "one pose": dict(vigour=0.0, standing=1.0, track_spread=0.0, heading_spread=0.0),
    "noise": dict(visible_noise=6.0, infrared_noise=6.0),
}


def worlds(asked):
    "The variants in rendered worlds that differ in one property, to be held against the order on real sensors."
    places = [world(name, seed, Path(asked.folder) / "worlds") for seed in SEEN[:3] for name in WORLDS]
    return [grid(named(CORE + MORE), real_sets([str(place)]), range(2), SMALL_RECIPE) for place in places]


def world(name, seed, folder):
    "Small renderings of a world with other levers."
    return render("small", seed, root=folder / f"rendering {seed}, {name}", progress=False,
                  difficulty=Difficulty(**WORLDS[name]))


def settings(asked):
    "The numbers of the clusters against their automatic choice; the lengths of the stages; level and memory update."
    first = {"HIL": {}, "eps 0.4": dict(eps=0.4), "eps 0.5": dict(eps=0.5), "eps 0.6": dict(eps=0.6),
             "eps 0.7": dict(eps=0.7), "k1 6": dict(k1=6), "k1 12": dict(k1=12), "k1 20": dict(k1=20),
             "min_samples 2": dict(min_samples=2), "min_samples 6": dict(min_samples=6)}
    more = {"HIL": {}, "stage 1: 2 epochs": dict(stage1_epochs=2), "stage 1: none": dict(stage1_epochs=0),
            "stage 2: 4 epochs": dict(stage2_epochs=4), "level sample": dict(level="sample"),
            "memory_update sample": dict(memory_update="sample"), "memory_update hard": dict(memory_update="hard"),
            "brst_direction visible_to_infrared": dict(brst_direction="visible_to_infrared")}
    return [grid(variants, renderings(SEEN), range(2), SMALL) for variants in (first, more)]


WORSE = {"as it is": {}, "24 people": dict(train=24), "12 people": dict(train=12), "2 images a camera": dict(images=2),
         "1 image a camera": dict(images=1), "noise 20": dict(noise=20), "noise 40": dict(noise=40),
         "cameras 2 and 6 left out": dict(left_out=("cam2", "cam6")),
         "cameras 2, 4, 5 and 6 left out": dict(left_out=("cam2", "cam4", "cam5", "cam6"))}


def breaks(asked):
    "What breaks it: fewer people, fewer images of each, noise, cameras left out (of the people to train on)."
    places = [worse(name, seed, Path(asked.folder) / "worse") for name in WORSE for seed in SEEN[:3]]
    variants = {"HIL": {}, "HIL, one-way": dict(matcher="one_way"), "modalities apart": VARIANTS["modalities apart"]}
    return [grid(variants, real_sets([str(place)]), range(2), SMALL_RECIPE) for place in places]


def worse(name, seed, folder):
    "A rendering with one thing made harder."
    root = trainer.load_images(Config(render_seed=seed, **SMALL), False).attrs["root"]
    change = dict(WORSE[name])
    people = ("train", change.pop("train", 48)), ("val", 12), ("test", 30)
    return few_people(root, folder / f"rendering {seed}, {name}", people, **change)


TUNED = ["HIL", "HIL, one-way", "HIL − MCCL", "HIL, hard prototypes", "HIL, neighbour soft labels",
         "HIL, modality-balanced Jaccard"]


def trials_of(name):
    "Six settings to try: three learning rates, and two shares of a target that lie beside the own label."
    second, values = ("soft_own", (0.5, 0.7)) if "soft labels" in name else ("smoothing", (0.0, 0.2))
    return [{"lr": lr, second: value} for lr in (1.5e-4, 3e-4, 6e-4) for value in values]


def tuning(asked):
    "The same number of trials for every method, on validation people of renderings that no other question looks at."
    trials = {f"{name}; {json.dumps(trial)}": {**trial, **VARIANTS[name]}
              for name in TUNED for trial in trials_of(name)}
    return [grid(trials, renderings([401, 402]), range(2), SMALL | dict(evaluate_on="val"))]


def tuned(asked):
    "Every method with the settings that were best on validation people, on renderings that nothing else looks at."
    best = chosen_trials(read_results(BENCH / "questions_tuning.csv"))
    variants = {name: {**trial, **VARIANTS[name]} for name, trial in best.items()}
    return [grid(variants, renderings(UNSEEN), range(2), SMALL)]


def chosen_trials(table):
    "{method: its best trial}."
    told = table.variant.str.split("; ", n=1, expand=True)
    best = chosen_settings(table.assign(variant=told[0], settings=told[1]), budget=6)
    return {row.variant: json.loads(row.settings) for row in best.itertuples()}


GRIDS = {f.__name__: f for f in (one_factor, real, centres, transfer, directions, full, worlds, settings, breaks,
                                   tuning, tuned)}


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


def is_held(path):
    "Whether another process is at work on a run: several may share a grid."
    try: refuse_if_held(path)
    except RunError: return True
    return False


def keep(cells, folder, results):
    "All that is done, whichever process did it, into the table."
    add_results(results, *collect([cell for cell in cells if is_done(cell, folder)], folder))


# these act in stage 2 alone
TOGETHER = ("matcher", "threshold", "level", "brst_direction", "same_ids", "n_sub", "shrink", "update_sub_centers",
            "mccl_weight", "mccl_warmup", "mccl_variant", "split_prototypes", "hard_prototypes", "lr_end")


def stage_one(cell):
    "What cells have in common that share everything up to the end of stage 1."
    kept = {k: v for k, v in asdict(cell.config).items() if k not in TOGETHER}
    if kept["jaccard"] == "modality_balanced": kept["jaccard"] = "plain"
    return json.dumps(kept)


def begun(cell, folder): # -> Trainer
    "Stage 1 of a cell."
    place = Path(folder) / "stage1" / str(os.getpid())
    shutil.rmtree(place, ignore_errors=True)
    made = trainer.Trainer(Config.saved(asdict(cell.config) | dict(run_dir=str(place))), progress=False).prepare()
    made.bar, made.pace = progress_bar(disable=True), SimpleNamespace(update=lambda: None)
    made.start()
    for e in range(cell.config.stage1_epochs): made.epoch(e)
    made.close()
    return made


def written(run, name, content):
    run.manifest.keep(name, lambda part: part.write_text(json.dumps(content, indent=2), encoding="utf-8"))


def finished(made, cell, folder):
    "Stage 2 of a cell, after a stage 1 that it shares with others."
    path = Path(folder) / cell.key
    config = Config.saved(asdict(cell.config) | dict(run_dir=str(path)))
    with Run.claimed(path):
        shutil.copytree(made.run.path, path, dirs_exist_ok=True)
        run = Run(path)
        about, choice = run.about | dict(config=asdict(config)), run.chosen
        written(run, "config.json", about)
        if choice:
            kept = {k: v for k, v in choice["settings"].items() if getattr(config, k) == "auto"}
            written(run, "chosen.json", choice | dict(settings=kept))
        made.config, made.run = config, Run(path)
        made.settled = made.run.settled
        for e in range(config.stage1_epochs, config.epochs): made.epoch(e)
        measure(made)
        for file in path.glob("*.pt"): file.unlink()


def in_child(work):
    "Run something in a copy of this process, which keeps what this one has computed; True where it went well."
    child = os.fork()
    if child: return os.waitpid(child, 0)[1] == 0
    try: work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


def here(parts, folder, results, seconds):
    "Finish cells in this process until the time is over; those with the same stage 1 share it."
    end, groups = time.time() + seconds, {}
    light()
    for number, cells in enumerate(parts):
        for cell in cells: groups.setdefault((cell.seed, number, stage_one(cell)), []).append(cell)
    for _, group in sorted(groups.items(), key=lambda item: item[0][:2]):  # seed 0 of everything comes first
        keep(group, folder, results)
        left = list({cell.key: cell for cell in group if not is_done(cell, folder)}.values())
        made = None
        for cell in left:
            path = Path(folder) / cell.key
            if is_held(path) or is_done(cell, folder): continue
            if time.time() > end: return
            shutil.rmtree(path, ignore_errors=True)  # begun and left: without weights it cannot go on
            started, cpu = time.time(), sum(os.times()[:4])
            made = made or begun(cell, folder)
            if not in_child(partial(finished, made, cell, folder)): print(f"FAILED: {cell.name}", flush=True)
            else:
                told(cell, folder, time.time() - started, sum(os.times()[:4]) - cpu)
                keep([cell], folder, results)


def told(cell, folder, seconds, cpu):
    history = Run(Path(folder) / cell.key).history
    print(f"{cell.name}: {' '.join(f'{100 * x:.1f}' for x in history.mAP)}; {seconds:.0f} s, {cpu:.1f} CPU-s",
          flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", nargs="+", choices=GRIDS)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--real", default="../shared/real/dev", help="a real set in SYSU-MM01's layout")
    parser.add_argument("--folder", default="runs/questions")
    parser.add_argument("--here", action="store_true")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--workers", type=int, default=0)
    asked = parser.parse_args()
    end = time.time() + asked.seconds
    for question in asked.questions:
        parts = [[cell for cell in part if cell.seed in asked.seeds] for part in GRIDS[question](asked)]
        results = BENCH / f"questions_{question}.csv"
        if asked.here: here(parts, asked.folder, results, end - time.time())
        else: run_grid(sum(parts, []), asked.folder, workers=asked.workers, results=results)


if __name__ == "__main__": main()
