"""A run beside busy processes: epochs with `threads = "auto"` against one thread and all threads under the same load,
and against all threads that wait as torch lets them (what hil did before). Processes take turns while 0, 1 and 2 others
do nothing but count -> a table here and in nbs/bench/busy.json.

python tests/bench_busy.py [--quick]      # --quick: a tenth of the images
"""
import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import hil  # noqa: F401, before torch

RESULTS = Path(__file__).resolve().parents[1] / "nbs" / "bench" / "busy.json"
SPINS = {"GOMP_SPINCOUNT": "300000", "OPENBLAS_THREAD_TIMEOUT": "26"}  # what libgomp and OpenBLAS do unless told
CORES = len(os.sched_getaffinity(0))
BURNER = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"  # never outlives this
MODES = {"auto": ("auto", {}), "1 thread": ("1", {}), "all threads": (str(CORES), {}),
         "all threads, as before": (str(CORES), SPINS)}
SMALL = dict(preset="tiny", iterations=12, batch_ids=12, k1=8, k1_infrared=6, k2=3, min_samples=3, n_sub=3, eps=.6,
             trials=2)


def child(threads, quick):
    "A run that goes on by an epoch, or a few, whenever a line comes; it answers with seconds and processor seconds."
    from hil.core.progress import progress_bar
    from hil.core.room import Forecast
    from hil.runs.config import Config
    from hil.training.trainer import Trainer
    logging.disable(logging.WARNING)  # a run of thousands of epochs wears out, which is no matter here
    with tempfile.TemporaryDirectory() as folder:
        asked = threads if threads == "auto" else int(threads)
        trainer = Trainer(Config(run_dir=f"{folder}/run", stage1_epochs=0, stage2_epochs=10_000, keep_features=False,
                                 threads=asked, **(SMALL if quick else {})), progress=False).prepare()
        trainer.pace, trainer.bar, number = Forecast("", 0), progress_bar(disable=True), trainer.start()
        def epochs(least): # seconds
            nonlocal number
            begun, worked, first = time.perf_counter(), time.process_time(), number
            while number == first or time.perf_counter() - begun < least:
                trainer.epoch(number)
                number += 1
            done = number - first
            return [(time.perf_counter() - begun) / done, (time.process_time() - worked) / done]
        print("ready", flush=True)
        for _ in sys.stdin:
            trainer.threads.begin()
            epochs(2.5)                                       # until it has seen what others do
            print(json.dumps([*epochs(1.), trainer.threads.now]), flush=True)
        trainer.close()


class Turns:
    "A child process, and what it answered."
    def __init__(self, mode, quick):
        threads, env = MODES[mode]
        bare = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
        self.process = subprocess.Popen([sys.executable, __file__, "--child", threads, *["--quick"] * quick],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=bare | env)
        while (line := self.process.stdout.readline()) != "ready\n":
            if not line: raise SystemExit(f"{mode}: the run stopped before its first epoch")

    def turn(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def beside(children, burners, rounds):
    "Every child's turns beside so many busy processes -> a row of the table."
    from hil.core.threads import own_cores, worked_by_all
    burning = [subprocess.Popen([sys.executable, "-c", BURNER]) for _ in range(burners)]
    begun, all_before, answers = time.perf_counter(), worked_by_all(own_cores()), {mode: [] for mode in children}
    for i in range(rounds):
        for mode in list(children)[::1 - 2 * (i % 2)]: answers[mode].append(children[mode].turn())
    passed, busy = time.perf_counter() - begun, worked_by_all(own_cores()) - all_before
    for process in burning: process.kill()
    seconds = {mode: median(a[0] for a in given) for mode, given in answers.items()}
    best = min(seconds["1 thread"], seconds["all threads"])
    return dict(burners=burners, seconds=seconds, threads=[a[2] for a in answers["auto"]],
                auto_to_best=seconds["auto"] / best, auto_to_before=seconds["auto"] / seconds["all threads, as before"],
                cores_busy=busy / passed, load=os.getloadavg()[0])


def table(rows):
    names = list(MODES)
    lines = [f"| busy processes beside | {' | '.join(names)} | auto / best of 1, all | auto / before | auto used |",
             "|---" * (len(names) + 4) + "|"]
    for row in rows:
        own = " | ".join(f"{row['seconds'][name]:.2f} s" for name in names)
        lines.append(f"| {row['burners']} | {own} | {row['auto_to_best']:.2f} | {row['auto_to_before']:.2f} | "
                     f"{' '.join(map(str, row['threads']))} threads |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the images")
    parser.add_argument("--rounds", type=int, help="turns of each at each load; 2 with --quick, else 3")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child: return child(asked.child, asked.quick)
    children = {mode: Turns(mode, asked.quick) for mode in MODES}
    rounds = asked.rounds or (2 if asked.quick else 3)
    rows = [beside(children, burners, rounds) for burners in (0, 1, 2)]
    for each in children.values():
        each.process.stdin.close()
        each.process.wait()
    print(table(rows))
    RESULTS.write_text(json.dumps(dict(cores=CORES, quick=asked.quick, rows=rows), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
