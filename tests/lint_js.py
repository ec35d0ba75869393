"""Lint and format check of the JavaScript, CSS and JSON files with biome, in the version that package.json pins.

python tests/lint_js.py            # what `make lint` runs; npx biome check --write repairs what can be repaired
Skipped, with the reason, where npm or its registry cannot be had.
"""
import json
import shutil
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
BIOME = TOP / "node_modules" / ".bin" / "biome"


def is_there(): # -> whether the pinned biome is installed
    pinned = json.loads((TOP / "package.json").read_text())["devDependencies"]["@biomejs/biome"]
    installed = TOP / "node_modules" / "@biomejs" / "biome" / "package.json"
    return BIOME.exists() and installed.exists() and json.loads(installed.read_text())["version"] == pinned


def reason_to_skip(): # -> "" when biome is there, or could be installed
    if is_there(): return ""
    if shutil.which("npm") is None: return "npm is not installed"
    command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--fetch-retries=1",
               "--loglevel=error"]
    try: done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=180)
    except subprocess.TimeoutExpired: return "npm did not answer within 180 s"
    if done.returncode == 0 and is_there(): return ""
    return f"npm install failed: {(done.stderr or done.stdout).strip()[-200:]}"


if __name__ == "__main__":
    if reason := reason_to_skip():
        print(f"JavaScript and CSS are NOT linted: {reason}")
        sys.exit(0)
    sys.exit(subprocess.run([BIOME, "check", "--error-on-warnings"], cwd=TOP).returncode)
