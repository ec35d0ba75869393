"""README's figures, computed from the table of results: python tests/headline.py writes them between their marks."""
import json
import re
import sys
import textwrap
from pathlib import Path

import pandas as pd

from hil.core.text import counted
from hil.experiments.ablation import PUBLISHED, REFERENCE, VARIANTS
from hil.experiments.cells import CODE
from hil.experiments.results import read_people, read_results, settings_text
from hil.experiments.statistics import differences, means, points
from hil.runs.config import Config, variant
from hil.runs.records import chosen_epoch

TOP = Path(__file__).resolve().parents[1]
RESULTS = TOP / "nbs" / "bench" / "ablation.csv"
HEALTH = TOP / "nbs" / "bench" / "health.json"
TRUNKS = TOP / "nbs" / "bench" / "trunks.json"
ONE_FACTOR = TOP / "nbs" / "bench" / "questions_one_factor.csv"
README = TOP / "README.md"
DEFAULT = "HIL, hard prototypes"
BEGIN, END = "<!-- figures: python tests/headline.py -->", "<!-- end of figures -->"
SHOWN = {"untrained heads": (DEFAULT, "untrained"),
         "**default: HIL with hard prototypes, last epoch, without a label**": (DEFAULT, "mAP"),
         "HIL as published (`hard_prototypes = False`), last epoch, without a label": (REFERENCE, "mAP"),
         "supervised": ("supervised", "mAP")}


def default_runs(table):
    "Runs of today's code on default renderings at the default size, at the number of threads that most of them have."
    table = table[table.code == CODE]
    base = Config(**PUBLISHED)
    expected = {name: settings_text(variant(base, **VARIANTS[name])) for name in (REFERENCE, DEFAULT, "supervised")}
    runs = table[(table.settings == table.variant.map(expected)) & table.data.str.fullmatch(r"rendering \d+")]
    own = runs[runs.variant == DEFAULT]
    return runs[runs.threads == own.threads.mode().iloc[0]] if len(own) else runs.iloc[:0]


def block(table, people):
    "The lines between the marks."
    runs = default_runs(table)
    if not len(runs):
        return "No run of the default settings on a default rendering is in nbs/bench/ablation.csv yet."
    own = runs[runs.variant == DEFAULT]
    seeds = ", ".join(map(str, sorted(own.seed.unique())))
    lines = [f"mAP on the test people: {len(own)} runs of the default, {own.data.nunique()} renderings, "
             f"training seeds {seeds}, {own.threads.iloc[0]:g} thread(s) a run, mean and interval of 95 %:", "",
             "| | mAP % | interval | runs |", "|---|---|---|---|"]
    for name, (which, figure) in SHOWN.items():
        part = runs[(runs.variant == which) & runs[figure].notna()]
        if not len(part): continue
        row = means(part, people, figure).iloc[0]
        interval = "one run" if row.low != row.low else f"{100 * row.low:.1f} to {100 * row.high:.1f}"
        lines.append(f"| {name} | {100 * row['mean']:.1f} | {interval} | {row.runs} |")
    worst, best = own.loc[own.mAP.idxmin()], own.loc[own.mAP.idxmax()]
    lines += ["", f"Single runs of the default lie between {100 * worst.mAP:.1f} % ({worst.data}, seed "
              f"{worst.seed}) and {100 * best.mAP:.1f} % ({best.data}, seed {best.seed}): other rendered people give "
              "other figures."]
    return "\n".join(lines + against_others(runs, people))


def against_others(runs, people): # -> lines
    "What the default gains over HIL as published and over 0.1.0, on the same renderings with the same seeds."
    both, lines = runs[runs.variant.isin([REFERENCE, DEFAULT])], []
    if both.variant.nunique() == 2:
        row = differences(both, REFERENCE, people).iloc[0]
        lines += [f"Where both were run with the same seed ({counted(int(row.runs), 'pair')}), `hard_prototypes`, "
                  f"the idea of another paper (PCLHD), adds {points(row['mean'])} points [{points(row.low)}, "
                  f"{points(row.high)}]."]
    old = {(run["set"], run["seed"]): run["epochs"][-1]["mAP"] for run in measured() if run["settings"] == "0.1.0"}
    own = runs[runs.variant == DEFAULT].set_index(["data", "seed"]).mAP
    if shared := [key for key in old if key in own.index]:
        before, now = ([100 * of[key] for key in shared] for of in (old, own))
        lines += [f"Version 0.1.0 on the same renderings ({counted(len(shared), 'run')}): "
                  f"{sum(before) / len(before):.1f} %, worst {min(before):.1f}; "
                  f"now {sum(now) / len(now):.1f} %, worst {min(now):.1f}."]
    return lines


def measured(): return json.loads(HEALTH.read_text(encoding="utf-8"))


def sensors():
    "A sentence on the real sensors: what crossing the spectra brought, beside what the truth would have brought."
    runs = [run for run in measured() if run["set"] == "real sensors"]
    def told(settings, pick):
        code = max((run["code"] for run in runs if run["settings"] == settings), default=0)
        found = [100 * pick(run["epochs"])["mAP"] for run in runs if (run["settings"], run["code"]) == (settings, code)]
        if not found: return "not measured"
        by = "" if code == CODE else ", measured by an earlier version"
        return f"{sum(found) / len(found):.1f} % ({min(found):.1f} to {max(found):.1f}{by})"
    def chosen(epochs): return epochs[chosen_epoch(pd.DataFrame(epochs), "healthiest")]
    seeds = len({run["seed"] for run in runs if run["settings"] == "default" and run["code"] == CODE})
    untrained, first, last = (told("default", lambda e, at=at: e[at]) for at in (0, 1, -1))
    told_all = (f"{counted(seeds, 'training seed')} on one set of real sensors, test mAP, mean and range: "
                f"untrained {untrained}, after stage 1 {first}, **the last healthy epoch {told('default', chosen)}**, "
                f"the last {last}; "
                f"HIL as published, last healthy epoch {told('HIL', chosen)}; "
                f"trained on the true identities, last epoch, {told('truth', lambda e: e[-1])}. {end_to_end()}")
    return textwrap.fill(told_all, 198)


def end_to_end():
    "A sentence on what a trunk that learns, too, reaches on the real sensors, and how much longer it takes."
    runs = {run["settings"]: run["epochs"] for run in json.loads(TRUNKS.read_text(encoding="utf-8"))}
    seconds = {name: sum(epoch["seconds"] for epoch in epochs) for name, epochs in runs.items()}
    longer, last = seconds["end to end"] / seconds["default"], 100 * runs["end to end"][-1]["mAP"]
    return (f"With a trunk that learns, too (`trainable = \"all\"`, one seed, {longer:.0f} times as long): "
            f"{last:.1f} %.")


# {what was taken away or put in its place: what the difference tells the worth of}
PARTS = {"HIL − shared labels": "labels that cross the modalities",
         "HIL, BRST by samples": "BRST by clusters, not by samples",
         "HIL, one-way": "BRST, not one-way labels", "HIL − MCCL": "MCCL",
         "HIL − sub-centres": "several centres, not one", "HIL − neighbours": "neighbour consistency"}


def parts():
    "What the parts of the method are worth, as the ablation's notebook decides it."
    table = read_results(ONE_FACTOR)
    found = differences(table, REFERENCE, read_people(ONE_FACTOR)).set_index("variant")
    told = {True: [], False: []}
    for name, part in PARTS.items():
        row = found.loc[name]
        told[bool(row.decided)].append(f"{part} {points(-row['mean'])} [{points(-row.high)}, {points(-row.low)}]")
    return textwrap.fill(f"What each part adds on small renderings, points of mAP and interval of 95 % "
                         f"({found.runs.iloc[0]} pairs of runs each: {table.data.nunique()} renderings, "
                         f"{table.seed.nunique()} training seeds). **Decided, after Holm's correction for all "
                         f"{len(found)} comparisons of the ablation: {'; '.join(told[True]) or 'nothing'}.** "
                         f"Not decided: {'; '.join(told[False]) or 'nothing'}.", 198)


def written(readme, text):
    "README with this text between its marks. Raises ValueError where the marks are not there."
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.S)
    if len(pattern.findall(readme)) != 1:
        raise ValueError(f"README.md: expected the marks {BEGIN} and {END} once, around its figures")
    return pattern.sub(lambda _: f"{BEGIN}\n{text}\n{END}", readme)


def figures(): return "\n\n".join([block(read_results(RESULTS), read_people(RESULTS)), sensors(), parts()])


if __name__ == "__main__":
    now = README.read_text(encoding="utf-8")
    README.write_text(written(now, figures()), encoding="utf-8")
    print(json.dumps({"runs": len(default_runs(read_results(RESULTS)))}), file=sys.stderr)
