"""Run notebooks top to bottom with a real kernel and keep their outputs: python tests/execute.py nbs/train.ipynb ..."""
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbdev.clean import clean_nb
from nbdev.export import nb_export

RESIDUE = re.compile(r"\d+%\||it/s|s/it")  # what a progress bar leaves behind


def tidy(cell):
    "Drop progress bars and log lines on stderr, so that a reader sees results only."
    def keep(out):
        if out.output_type == "stream": return out.name == "stdout" and not RESIDUE.search(out.text)
        # a view that brings a still picture
        if "application/vnd.jupyter.widget-view+json" in out.get("data", {}) and "image/png" in out.data:
            del out.data["application/vnd.jupyter.widget-view+json"]
        if "still-twin" in "".join(out.get("data", {}).get("text/html", "")): return False # the same picture once more
        return "application/vnd.jupyter.widget-view+json" not in out.get("data", {})
    if cell.cell_type == "code": cell.outputs = [o for o in cell.outputs if keep(o)]


def execute(path, timeout=1200):
    "Execute the notebook at `path` in its own folder and write it back, cleaned."
    nb = nbformat.read(path, as_version=4)
    NotebookClient(nb, timeout=timeout, kernel_name="python3",
                   resources={"metadata": {"path": str(path.parent)}}).execute()
    for cell in nb.cells: tidy(cell)
    nb.metadata.pop("widgets", None)
    nb.metadata["kernelspec"] = {"display_name": "python3", "language": "python", "name": "python3"}
    clean_nb(nb, allowed_cell_metadata_keys=["tags", "jupyter"])
    nbformat.write(nb, path)
    return path.stat().st_size // 1024


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name).resolve()
        nb_export(path, lib_path=Path(__file__).resolve().parents[1] / "hil")
        print(f"{path.name}: {execute(path)} kB")
