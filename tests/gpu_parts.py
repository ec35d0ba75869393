"""The parts of `make gpu-check`, each in a process of its own: python tests/gpu_parts.py NAME ROWS [--smallest]

A part is a generator of rows; every row is written to the file ROWS as soon as it is known, so that what was measured
stays when the part is stopped. gpu_check.py starts the parts and reads the rows.
"""
import argparse
import dataclasses
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import torch

ROOT = Path(__file__).resolve().parents[1]
PAIRS = {"visible": 22258, "infrared": 11909}  # images of SYSU-MM01
SYNCED = "called a synchronizing CUDA operation"  # what torch warns of


class NotRun(Exception):
    "A part, or the rest of it, cannot be run here; the reason is told and nothing has failed."


def row(what, value=None, unit="", most=None, note=""):
    "One line of the table. `most` is the largest value that is accepted; a value above it is a failure."
    fine = most is None or bool(value <= most)  # NaN is not fine
    return {"what": what, "value": value, "unit": unit, "most": most, "ok": fine, "note": note}


@dataclasses.dataclass
class Asked:
    "Where a part runs, and whether in its smallest form."
    device: str
    smallest: bool
    folder: Path

    @property
    def cuda(self): return self.device.startswith("cuda")

    def wait(self):
        "Until the device has done what it was told."
        if self.cuda: torch.cuda.synchronize()

    def seconds(self, work, rounds=1):
        "Seconds of a call on the device: the mean of some rounds."
        self.wait()
        started = time.perf_counter()
        for _ in range(rounds): work()
        self.wait()
        return (time.perf_counter() - started) / rounds

    def peak(self):
        "Most memory that torch has held on the GPU since `forget_peak`, in GB; None on a processor."
        return torch.cuda.max_memory_allocated() / 1e9 if self.cuda else None

    def forget_peak(self):
        if self.cuda: torch.cuda.reset_peak_memory_stats()


@contextmanager
def counted_syncs(cuda):
    "Within the block every wait of the processor for the GPU is counted -> Counter of places, filled at the end."
    places = Counter()
    if cuda: torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            yield places
    finally:
        if cuda: torch.cuda.set_sync_debug_mode("default")
    places.update(f"{Path(w.filename).name}:{w.lineno}" for w in seen if SYNCED in str(w.message))


def called(command, **options):
    "What a command printed; RuntimeError with the last it said where it fails."
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, cwd=ROOT, **options)
    if done.returncode: raise RuntimeError(last_words(done.stderr or done.stdout) or f"exit status {done.returncode}")
    return done.stdout


def last_words(text):
    "The last line that says something: of a traceback, the error."
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


# --- the parts ------------------------------------------------------------------------------------------------------

def tests(asked):
    "The tests marked `gpu`; without a GPU, those of the same file that compare the processor with itself."
    files = sorted(p for p in (ROOT / "tests").glob("test_*.py") if "pytest.mark.gpu" in p.read_text(encoding="utf-8"))
    report = asked.folder / "tests.xml"
    chosen = [*files, "-m", "gpu"] if asked.cuda else [ROOT / "tests" / "test_gpu.py", "-k", "cpu and not training"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *chosen]
    said = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
    if not report.exists(): raise RuntimeError(last_words(said.stderr or said.stdout))
    cases = list(ElementTree.parse(report).iter("testcase"))
    bad = [(case, child) for case in cases for child in case if child.tag in ("failure", "error")]
    skipped = [child.get("message") for case in cases for child in case if child.tag == "skipped"]
    passed = len(cases) - len(bad) - len(skipped)
    note = f"skipped: {', '.join(sorted(set(skipped)))}" if skipped else ""
    yield row("tests that passed", passed, f"of {len(cases)}", note=note)
    if not cases or (not passed and not bad): raise NotRun(note or "no test was found")
    for case, child in bad: yield row(f"{case.get('name')}: {last_words(child.get('message') or '')}", 1, "failed", 0)


def report(asked):
    "papermill nbs/train.ipynb, from the rendering to the last picture."
    from conftest import SMALL

    from hil.runs.folder import Run
    given = SMALL if asked.smallest else dict(stage2_epochs=3)
    words = [x for k, v in given.items() for x in ("-p", k, str(v))]
    folder, started = asked.folder / "run", time.perf_counter()
    called(["-m", "papermill", "nbs/train.ipynb", asked.folder / "report.ipynb", "--kernel", "python3", "-p", "device",
            asked.device, "-p", "run_dir", folder, "--no-progress-bar", *words])
    yield row("papermill nbs/train.ipynb", time.perf_counter() - started, "s", note=", ".join(
        f"{k} {v}" for k, v in given.items()))
    history = Run(folder).history
    yield row("an epoch of it", float(history.seconds[1:].median()), "s")
    yield row("mAP", 100 * float(history.mAP.iloc[-1]), "%", note=f"untrained {100 * history.mAP.iloc[0]:.1f} %")


def recipe(asked, precision):
    "Config of the ViT recipe's steps on the rendered people of preset tiny."
    from hil.runs.config import Config
    from hil.runs.recipes import PAPER
    less = dict(model="vit_tiny_ics", batch_ids=3, instances=2, iterations=2) if asked.smallest else dict(iterations=8)
    given = {k: v for k, v in PAPER.items() if k != "warmup_lr"}  # for stage 1, which is left out
    return Config(**{**given, **dict(preset="tiny", weights="random", stage1_epochs=0, stage2_epochs=3, eps=.6, n_sub=9,
                                     threshold=.5, trials=1, precision=precision, device=asked.device,
                                     run_dir=str(asked.folder / precision)), **less})


def steps(asked, precision):
    "Epoch 1 warms up, epoch 2 is timed, in epoch 3 the waits are counted -> the trainer, {figure: value}."
    from hil.core.vectors import unit
    from hil.method.labels import true_labels
    from hil.training.trainer import Trainer
    found = {"images": 0, "shapes": {}}

    class Timed(Trainer):
        def label(self, stage): return true_labels(self.images.pids), {}  # random weights see no clusters

        def record(self, *args, **options): pass

        def remember(self, *args, **options):
            "Memories of one row an image, filled up with random rows to the size of SYSU-MM01."
            memories = super().remember(*args, **options)
            for m, both in memories.instance.items() if not asked.smallest else ():
                for memory in both.values():
                    x = memory.features
                    more = torch.randn(PAIRS[m] - len(x), x.shape[1], device=x.device)
                    memory.features = torch.cat([x, unit(more)])
            return memories

        def train(self, labels, memories, e):
            def go(): found["losses"] = super(Timed, self).train(labels, memories, e)
            if e == 0: return self.warm(go)
            if e == 1:
                asked.forget_peak()
                found["seconds"], found["peak"] = asked.seconds(go), asked.peak()
            else:
                with counted_syncs(asked.cuda) as found["places"]: go()
            return found["losses"]

        def warm(self, go):
            "The first epoch: what goes through the network is counted too."
            def count(module, args):
                found["shapes"] = {m: tuple(x.shape) for m, x in args[0].items()}
                found["images"] += sum(map(len, args[0].values()))
            hook = self.model.register_forward_pre_hook(count)
            go()
            hook.remove()
            return found["losses"]

    trainer = Timed(recipe(asked, precision), progress=False)
    trainer.fit()
    return trainer, found


def bare_pass(asked, model, shapes, precision):
    "Seconds of the network alone: forward and backward of random pixels, nothing else."
    dtype = {"bf16": torch.bfloat16, "float32": None}[precision]
    batch = {m: torch.randn(shape, device=asked.device) for m, shape in shapes.items()}
    model.train()

    def go():
        model.zero_grad()
        with torch.autocast(torch.device(asked.device).type, dtype, enabled=dtype is not None): out = model(batch)
        sum(f.float().square().mean() for both in out.values() for f in both.values()).backward()
    go()
    return asked.seconds(go, 2 if asked.smallest else 8)


def vit(asked):
    "Steps of the paper's recipe: ViT, 8 identities of 16 images a modality, all losses."
    from hil.core.errors import RunError
    for precision in ("bf16", "float32"):
        try: trainer, found = steps(asked, precision)
        except RunError as error:  # some processors are wrong in 16 bits; a GPU is not let off
            if asked.cuda or precision != "bf16": raise
            yield row(f"{precision}: not run", note=str(error)[:150])
            continue
        n = trainer.config.iterations
        seconds, batch = found["seconds"] / n, found["images"] / n
        bare = bare_pass(asked, trainer.model, found["shapes"], precision)
        kind = f"{trainer.config.model}, {batch:.0f} images a step, matmul {torch.get_float32_matmul_precision()}"
        yield row(f"{precision}: images a second", batch / seconds, "images/s", note=kind)
        yield row(f"{precision}: share of bare forward + backward", 100 * bare / seconds, "%",
                  note=f"a step {seconds:.3f} s, bare {bare:.3f} s")
        if asked.cuda:
            most = ", ".join(f"{place} {k / n:.1f}" for place, k in found["places"].most_common(6))
            yield row(f"{precision}: peak memory", found["peak"], "GB")
            yield row(f"{precision}: host syncs a step", found["places"].total() / n, note=most)
        del trainer
        gc.collect()  # the next one's peak is its own
    if not asked.cuda: raise NotRun("peak memory and host syncs are a GPU's")


def bare_neighbours(asked, x, k=30, block=1024, every=1):
    "Seconds of a blocked product and top-k of unit rows; `every` 8: of an eighth of the rows, times 8."
    x = torch.from_numpy(x).to(asked.device)
    def go():
        for rows in x.split(block)[::every]: (rows @ x.T).topk(k)
    (x[:block] @ x.T).topk(k)
    return every * asked.seconds(go)


def clustering(asked):
    "One epoch's clustering phase at SYSU-MM01's size."
    import bench_cluster
    from gpu_compare import on

    from hil.core.vectors import unit_rows
    from hil.method.cluster import centroids, pseudo_labels
    from hil.method.match import brst
    from hil.method.neighbors import knn
    from hil.method.rerank import jaccard_distance
    from hil.method.sub_clusters import secondary_cluster
    find, spent = partial(knn, k=30, **on(knn, asked.device)), {}

    def distance(x): return jaccard_distance(x, neighbors=bench_cluster.timed(spent, "neighbours", find, x))

    def phase(features):
        spent.clear()
        return bench_cluster.phase(features, distance, pseudo_labels, lambda x, y: centroids(x, y).numpy(),
                                   secondary_cluster, brst)[0]
    phase(bench_cluster.world({"visible": 400, "infrared": 300}))  # compile
    sizes = {m: n // 20 for m, n in PAIRS.items()} if asked.smallest else PAIRS
    features = bench_cluster.world(sizes)
    asked.forget_peak()
    times = phase(features)
    bare = sum(bare_neighbours(asked, unit_rows(x)) for x in features.values())
    kind = " + ".join(f"{len(x):,} x {x.shape[1]}" for x in features.values())
    yield row("bare product + top-k", bare, "s", note=kind)
    where = asked.device if on(knn, asked.device) else "the processor: knn has no argument `device` yet"
    yield row("neighbours", spent["neighbours"], "s", note=f"{spent['neighbours'] / bare:.1f}x the bare product, "
              f"on {where}")
    yield row("clustering phase", sum(times.values()), "s", note=", ".join(
        f"{k} {v:.2f}" for k, v in times.items()) + "; jaccard with the neighbours")
    if asked.cuda: yield row("peak memory", asked.peak(), "GB")


def neighbours(asked):
    "Exact neighbours of half a million rows."
    import bench_scale
    from gpu_compare import on

    from hil.core.vectors import unit_rows
    from hil.method.neighbors import knn, knn_recall
    if asked.cuda and not on(knn, asked.device): raise NotRun("hil.knn has no argument `device` yet")
    n = 2000 if asked.smallest else 500_000
    knn(bench_scale.world(1000)[0], 30, **on(knn, asked.device))  # compile
    x = bench_scale.world(n)[0]
    asked.forget_peak()
    started = time.perf_counter()
    found = knn(x, 30, **on(knn, asked.device))
    took, peak = time.perf_counter() - started, asked.peak()
    yield row(f"30 neighbours of {n:,} x 512", took, "s")
    if asked.cuda: yield row("peak memory", peak, "GB")
    every = 1 if asked.smallest else 8
    bare = bare_neighbours(asked, unit_rows(x), every=every)
    yield row("bare product + top-k", bare, "s", note=f"ours is {took / bare:.1f}x that" + (
        f"; measured on one block of rows in {every}" if every > 1 else ""))
    yield row("neighbours missed, of 256 rows on the processor", 1 - knn_recall(x, found), "share", 1e-4)


def agreement(asked):
    "Results beside the processor's, larger than in the tests."
    import gpu_compare
    from conftest import SMALL

    from hil.runs.config import Config
    more, d = (600, 64) if asked.smallest else (8000, 768)
    size = gpu_compare.LOSSES if asked.smallest else gpu_compare.bench_losses.SIZES["embedded"]
    config = Config(**SMALL)
    works = [gpu_compare.neighbours(asked.device, more, d), gpu_compare.labels(asked.device, more, d),
             gpu_compare.losses(asked.device, size), gpu_compare.memories(asked.device),
             gpu_compare.networks(asked.device), gpu_compare.training(asked.device, config, asked.folder)]
    for work in works:
        for what, deviation, tolerance in work: yield row(what, deviation, "", tolerance)


def killed(command, line):
    "Start a command and kill it as soon as it has printed a line that begins so."
    said = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT) as process:
        for text in process.stdout:
            said.append(text)
            if text.startswith(line): break
        process.kill()
    if not said or not said[-1].startswith(line):
        raise RuntimeError(f"it never said {line!r}, but: {last_words(''.join(said))}")


def changed_rows(before, after):
    "How many rows of a history are not as they were; later epochs bring further rows and columns."
    kept = after[before.columns].iloc[:len(before)]
    return int(((kept != before) & (kept.notna() | before.notna())).any(axis=1).sum())


def resume(asked):
    "A run is killed after its first epoch and goes on; beside it, the same run in one piece."
    from conftest import SMALL

    from hil.runs.config import Config
    from hil.runs.folder import Run
    from hil.training.cli import words_of
    more = {"deterministic": True} if "deterministic" in {f.name for f in dataclasses.fields(Config)} else {}
    config = Config(**SMALL, device=asked.device, **more)

    def command(name, **changes):
        changed = dataclasses.replace(config, run_dir=str(asked.folder / name), **changes)
        return ["-m", "hil", "train", *words_of(changed)]
    called(command("whole"))
    killed([sys.executable, *command("killed")], "epoch 1/")
    before = Run(asked.folder / "killed").history
    called(command("killed", resume=True))
    whole, resumed = (Run(asked.folder / name).history for name in ("whole", "killed"))
    changed = changed_rows(before, resumed)
    yield row("epochs after kill and resume", len(resumed) - 1, f"of {len(whole) - 1}",
              note=f"killed after {len(before) - 1}")
    yield row("rows of the history that changed", changed, "", 0)
    yield row("epochs that are missing", len(whole) - len(resumed), "", 0)
    far = (resumed.loss_total / whole.loss_total - 1).abs().max()
    yield row("difference of a loss from the run in one piece", float(far), "share", .02 if asked.cuda else 1e-6)


PARTS = {"tests": tests, "report": report, "vit": vit, "clustering": clustering, "neighbours": neighbours,
         "agreement": agreement, "resume": resume}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--smallest", action="store_true")
    given = parser.parse_args()
    scratch = os.environ.get("HIL_CHECK_FOLDER")  # the check's own, so that it can clear up after a part it killed
    with tempfile.TemporaryDirectory(dir=scratch) as folder, given.rows.open("w", encoding="utf-8") as out:
        def write(line):
            out.write(json.dumps(line) + "\n")
            out.flush()
        try:
            for line in PARTS[given.part](Asked(given.device, given.smallest, Path(folder))): write(line)
        except NotRun as reason: write({"not_run": str(reason)})


if __name__ == "__main__": main()
