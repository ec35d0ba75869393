"""A browser for the explorer's tests, and JupyterLab to point it at.

python tests/browser.py        # what `make test` runs once
Finds Chromium, or installs it, or says why the browser tests will be skipped.
"""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGS = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync",
        "--use-gl=angle", "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader"]                 # WebGL without a graphics card


# ---- Chromium

def find(): # -> arguments of playwright's `launch`: {} for its own Chromium; None: there is none, or it does not start
    "How to launch Chromium."
    if path := next(filter(None, map(shutil.which, NAMES)), None): return {"executable_path": path}
    from playwright.sync_api import Error, sync_playwright
    with sync_playwright() as p:
        try: p.chromium.launch(args=ARGS).close()
        except Error: return None
    return {}


def ways(): # [(what is tried, command, seconds it may take)]
    "How a browser may be had on this machine, the gentlest first."
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", "sh", "-c",
           "apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium"]
    root = hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get")
    playwright = [sys.executable, "-m", "playwright"]
    found = [("playwright install chromium", [*playwright, "install", "chromium"], 240)]
    if not root: return found
    return found + [("apt-get install chromium", apt, 300),
                    ("playwright install-deps chromium", [*playwright, "install-deps", "chromium"], 300)]


def attempt(command, seconds): # -> "" where it worked, else the last line of what it said
    "Run a command quietly, and end it with all it started when its time is over."
    try:
        done = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True, start_new_session=True)
    except OSError as error: return str(error)
    try: said = done.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        os.killpg(done.pid, signal.SIGKILL)
        done.communicate()
        return f"no answer within {seconds} s"
    if done.returncode == 0: return ""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:160] if lines else f"exit {done.returncode}"


def install(): # -> whether there is a browser now
    "Find Chromium or install it; says what was done, or why there is none."
    if find() is not None: return True
    said = []
    for what, command, seconds in ways():
        print(f"browser for the explorer's tests: {what} (at most {seconds // 60} minutes)", flush=True)
        said.append(f"{what}: {attempt(command, seconds) or 'done, but no browser starts'}")
        if find() is not None: return True
    print("NO BROWSER: the explorer's browser tests will be skipped, all others run.", *(f"  {line}" for line in said),
          "  To run them: install chromium (Debian: apt-get install chromium), then rm -f .venv/.browser and make test",
          sep="\n")
    return False


# ---- JupyterLab

class Lab:
    "A running JupyterLab."
    def __init__(self, address, folder): self.address, self.folder = address, Path(folder)

    def ask(self, path, method="GET"): # of the REST interface -> what it answers
        question = urllib.request.Request(f"{self.address}/api/{path}?token=t", method=method)
        with urllib.request.urlopen(question) as answer: return json.loads(answer.read() or "null")

    def idle(self): return all(s["kernel"]["execution_state"] == "idle" for s in self.ask("sessions"))

    def open(self, page, name): # notebook in the folder
        "Show a notebook with a fresh kernel, ready to run."
        for s in self.ask("sessions"): self.ask(f"sessions/{s['id']}", "DELETE")
        page.goto(f"{self.address}/lab/tree/{name}?token=t&reset")
        page.wait_for_selector(".jp-NotebookPanel:not(.lm-mod-hidden)")
        # a click on Run before the kernel is there is lost
        for _ in range(200):
            if any(s["kernel"]["execution_state"] == "idle" and s["kernel"]["connections"]
                   for s in self.ask("sessions")):
                break
            page.wait_for_timeout(200)
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]")

    def run_all(self, page):
        "Menu Run, Run All Cells; again where the page was too busy to hear it."
        for _ in range(5):
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click()
            for _ in range(25):
                if page.locator(".jp-InputPrompt", has_text=re.compile(r"\[[*0-9]+\]")).count(): return
                page.wait_for_timeout(200)
        raise RuntimeError("JupyterLab does not run the notebook")


@contextmanager
def serve(folder, config): # folder to show; an empty folder for settings and the log
    "JupyterLab on a folder, as a Lab; ends with the block. Raises RuntimeError where it does not start."
    config = Path(config)
    (config / "labconfig").mkdir()
    page = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (config / "labconfig" / "page_config.json").write_text(json.dumps(page))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1]), "JUPYTER_CONFIG_DIR": str(config),
                        "JUPYTERLAB_SETTINGS_DIR": str(config), "JUPYTERLAB_WORKSPACES_DIR": str(config)}
    with open(config / "log", "w") as log:
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
                   "--ip=127.0.0.1", "--IdentityProvider.token=t", f"--ServerApp.root_dir={folder}"]
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        try:
            lab = Lab(f"http://127.0.0.1:{port}", folder)
            for _ in range(240):
                try:
                    lab.ask("sessions")
                    break
                except (urllib.error.URLError, ConnectionError): time.sleep(.5)
            else: raise RuntimeError(f"JupyterLab did not start: {(config / 'log').read_text()[-800:]}")
            yield lab
        finally:
            server.terminate()
            server.wait(20)


def notebook(path, *cells): # file to write; sources of its code cells
    "Write a notebook."
    cells = [{"cell_type": "code", "id": f"c{i}", "metadata": {}, "execution_count": None, "outputs": [],
              "source": source} for i, source in enumerate(cells)]
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    Path(path).write_text(json.dumps({"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4,
                                      "nbformat_minor": 5}))


if __name__ == "__main__": install()
