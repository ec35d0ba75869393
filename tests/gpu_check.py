"""`make gpu-check`: is the kit right and fast on this GPU? At most 7 minutes, one table here, one JSON.

python tests/gpu_check.py                              # on a machine with a GPU -> nbs/bench/gpu.json
python tests/gpu_check.py --device cpu --smallest      # every part in its smallest form, where there is none
python tests/gpu_check.py --parts vit clustering       # some parts only

Every part runs in a process of its own and with a limit of its own (gpu_parts.py). A part that fails or takes too long
is a line of the table, and the next one begins. The exit status is 0 if all that was asked for ran and nothing failed.
"""
import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ROOT / "tests" / "gpu_parts.py"
LIMITS = {"tests": 150, "report": 150, "vit": 120, "clustering": 90, "neighbours": 90, "agreement": 90,
          "resume": 90}  # seconds; together they may not take longer than --minutes
CALM = 10  # on a processor limits are this many times as long: nothing is measured there but that it works


def machine(device):
    "Where and with what the figures are taken."
    import torch
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())
    versions = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "numpy", "numba", "scikit-learn", "pandas", "faiss-gpu", "faiss-cpu"):
        try: versions[name] = version(name)
        except PackageNotFoundError: continue
    found = {"cpu": cpu, "cores": os.cpu_count(), "load": os.getloadavg()[0], "versions": versions}
    if device == "cpu": return found
    card = torch.cuda.get_device_properties(device)
    return {**found, "gpu": card.name, "gpu_memory_gb": round(card.total_memory / 1e9, 1), "cuda": torch.version.cuda,
            "capability": f"{card.major}.{card.minor}", "bf16": torch.cuda.is_bf16_supported()}


def stop(process):
    "End a part and all that it started."
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_part(name, seconds, scratch, words=(), script=PARTS):
    "One part in its own process -> {\"part\", \"state\": \"ok\", \"failed\" or \"not run\", \"message\", \"rows\"}."
    rows, log, started = scratch / f"{name}.jsonl", scratch / f"{name}.log", time.perf_counter()
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": paths, "HIL_CHECK_FOLDER": str(scratch),
           "HIL_HOME": os.environ.get("HIL_HOME", str(scratch / "home"))}
    state, message = "ok", ""
    with log.open("w") as said:
        process = subprocess.Popen([sys.executable, str(script), name, str(rows), *words], stdout=said, stderr=said,
                                   cwd=ROOT, env=env, start_new_session=True)
        try:
            status = process.wait(timeout=seconds)
            if status: state, message = "failed", last_line(log) or f"exit status {status}"
        except subprocess.TimeoutExpired:
            stop(process)
            said_last = last_line(log) or "nothing"
            state, message = "failed", f"stopped after its {seconds:.0f} s; the last it said: {said_last}"
        except KeyboardInterrupt:
            stop(process)
            raise
    found = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    reasons = [line["not_run"] for line in found if "not_run" in line]
    found = [line for line in found if "not_run" not in line]
    over = [f"{line['what']}: {shown(line)}" for line in found if not line["ok"]]
    if over and state == "ok": state, message = "failed", f"{len(over)} over their limit: {'; '.join(over)}"
    if reasons and state == "ok": state, message = "ok" if found else "not run", f"not run: {reasons[0]}"
    return {"part": name, "state": state, "message": message[:600], "seconds": round(time.perf_counter() - started, 1),
            "rows": found}


def last_line(log):
    "What a part said last: of a traceback, the error."
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def shown(line):
    "A row's value as people read it, with its limit."
    value, most = line["value"], line["most"]
    if value is None: return ""
    number = f"{value:,}" if isinstance(value, int) else f"{value:.1e}" if most else f"{value:,.3g}"
    return f"{number} {line['unit']}".strip() + (f" (at most {most:g})" if most is not None else "")


def table(result):
    "The result as Markdown."
    lines = ["| part | figure | value | remark |", "|---|---|---|---|"]
    for part in result["parts"]:
        lines.append(f"| **{part['part']}** | **{part['state']}** | {part['seconds']} s | {part['message']} |")
        for row in part["rows"]:
            failed = "" if row["ok"] else " **FAILED**"
            lines.append(f"| {part['part']} | {row['what']}{failed} | {shown(row)} | {row['note']} |")
    return "\n".join([*lines, "", *(f"- {key}: {value}" for key, value in result["machine"].items())])


def no_gpu():
    "What is said where there is no GPU; None where there is one."
    import torch
    if torch.cuda.is_available(): return None
    return (f"gpu-check: torch {torch.__version__} finds no CUDA device here, so nothing was run. "
            'Every part in its smallest form on the processor: make gpu-check ARGS="--device cpu --smallest"')


def read_words(words=None):
    "The command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help='"cuda", or "cpu" to try the check itself')
    parser.add_argument("--smallest", action="store_true", help="every part in its smallest form")
    parser.add_argument("--parts", nargs="+", choices=LIMITS, default=list(LIMITS), metavar="PART",
                        help=f"of {', '.join(LIMITS)}; all if left out")
    parser.add_argument("--minutes", type=float, help="for all parts together; 7 if left out, 70 on a processor")
    parser.add_argument("--out", type=Path, help="the JSON; nbs/bench/gpu.json for a whole check on a GPU, "
                                                 "else build/gpu_check.json")
    return parser.parse_args(words)


def main(words=None):
    asked = read_words(words)
    on_cpu = asked.device == "cpu"
    if not on_cpu and (said := no_gpu()): sys.exit(said)
    slow = CALM if on_cpu else 1
    deadline = time.monotonic() + 60 * (asked.minutes or 7 * slow)
    whole = not on_cpu and not asked.smallest and asked.parts == list(LIMITS)
    out = asked.out or ROOT / ("nbs/bench/gpu.json" if whole else "build/gpu_check.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="gpu-check-"))
    options = ["--device", asked.device, *(["--smallest"] if asked.smallest else [])]
    result = {"date": time.strftime("%Y-%m-%d"), "device": asked.device, "smallest": asked.smallest,
              "machine": machine(asked.device), "parts": []}
    try:
        for name in LIMITS:
            left = deadline - time.monotonic()
            if name not in asked.parts: part = left_out(name, "not asked for")
            elif left < 5: part = left_out(name, "no time was left")
            else: part = run_part(name, min(LIMITS[name] * slow, left), scratch, options)
            result["parts"].append(part)
            print(f"{name}: {part['state']}, {part['seconds']} s {part['message']}", file=sys.stderr, flush=True)
            out.write_text(json.dumps(result, indent=1) + "\n")
    finally: shutil.rmtree(scratch, ignore_errors=True)
    print(table(result))
    bad = [part["part"] for part in result["parts"] if part["part"] in asked.parts and part["state"] == "failed"]
    idle = [part["part"] for part in result["parts"] if part["part"] in asked.parts and part["state"] == "not run"]
    print(f"- parts that ran well: {len(asked.parts) - len(bad) - len(idle)}; failed: {len(bad)}{of(bad)}; "
          f"not run: {len(idle)}{of(idle)}. {out}")
    return 1 if bad or "no time was left" in [part["message"] for part in result["parts"]] else 0


def of(names): return f" ({', '.join(names)})" if names else ""


def left_out(name, why): return {"part": name, "state": "not run", "message": why, "seconds": 0, "rows": []}


if __name__ == "__main__": sys.exit(main())
