"What settings.ini asks for, and all that this brings."
import importlib.metadata
import re
from configparser import ConfigParser
from functools import lru_cache
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PARSER = ConfigParser(delimiters=["="], interpolation=None)
PARSER.read(ROOT / "settings.ini", encoding="utf-8")
SETTINGS = PARSER["DEFAULT"]
EXTRAS = ("notebook", "cpu", "gpu", "dev")


def asked(*extras):
    "Requirements of the extras named; \"\" is the base install."
    keys = [f"{extra}_requirements".removeprefix("_") for extra in extras]
    return [Requirement(text) for key in keys for text in SETTINGS[key].split()]


def pins():
    "{name: version}, read from constraints.txt."
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.M)}


def lowest(requirement):
    "`numba>=0.61` -> `0.61`. A requirement without a lower bound is refused."
    bounds = [part.version for part in requirement.specifier if part.operator == ">="]
    if len(bounds) == 1: return bounds[0]
    raise ValueError(f"settings.ini, {requirement}: expected one lower bound, e.g. {requirement.name}>=1.0")


def further(distribution, extras):
    "What a distribution requires on this machine, with the extras named."
    for requirement in map(Requirement, distribution.requires or []):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras): yield requirement


def brought(requirements):
    "{name: installed distribution} of the requirements and of all that they require in turn."
    found, seen, left = {}, set(), list(requirements)
    while left:
        requirement = left.pop()
        name, extras = canonicalize_name(requirement.name), ("", *sorted(requirement.extras))
        if (name, extras) in seen: continue
        seen.add((name, extras))
        found[name] = importlib.metadata.distribution(name)
        left += further(found[name], extras)
    return found


@lru_cache
def owners():
    "{name that is imported: names of the distributions that bring it}, as installed."
    return {name: {canonicalize_name(owner) for owner in distributions}
            for name, distributions in importlib.metadata.packages_distributions().items()}
