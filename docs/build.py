"""Build the site: pages, notebooks as stored, and a page for each module from its docstrings.

python docs/build.py [OUT]        (make docs; OUT is build/site)
"""
import importlib
import inspect
import itertools
import json
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

from fastcore.docments import docments

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
WINGS = {"core": "Words and tools", "data": "Pictures and tables", "synth": "The rendered benchmark",
         "models": "Networks", "method": "The method", "evaluation": "Figures", "runs": "Settings and run folders",
         "training": "Training", "plots": "Pictures for readers", "explore": "The explorer",
         "experiments": "Experiments"}


# the tutorials in reading order, then whatever else is there
TUTORIALS = ["your_own_crops", "one_centre_is_not_enough", "crossing_modalities", "what_is_a_good_cluster",
             "reading_a_run", "explore_a_run", "corrections", "from_laptop_to_sysu", "beyond_one_machine"]


def address():
    "owner/name of the repository on a code host, from settings.ini; empty where it is not published."
    settings = ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    return settings["DEFAULT"].get("address", "").strip()


def launch_links(name, repository):
    "A line that opens a notebook of a published repository in Colab and Binder."
    if not repository: return ""
    colab = f"https://colab.research.google.com/github/{repository}/blob/main/nbs/{name}"
    binder = f"https://mybinder.org/v2/gh/{repository}/main?labpath=nbs/{name}"
    return f"[Open in Colab]({colab}) · [Open in Binder]({binder})"


def wing_of(folder): return folder.name.split("_", 1)[1]


def source_folder(build):
    "A fresh folder with everything that Sphinx reads."
    source = build / "site-source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for page in (DOCS / "pages").glob("*.md"):  # whose links hold on a code host, too
        text = page.read_text(encoding="utf-8").replace("](../../nbs/", "](nbs/")
        (source / page.name).write_text(text, encoding="utf-8")
    for notebook in (ROOT / "nbs").rglob("*.ipynb"):
        name = notebook.relative_to(ROOT / "nbs")
        if ".ipynb_checkpoints" in name.parts or name.parts[0] in ("runs", "bench"): continue
        (source / "nbs" / name).parent.mkdir(parents=True, exist_ok=True)
        shown = readable(notebook, launch_links(name.as_posix(), address()))
        (source / "nbs" / name).write_text(json.dumps(shown), encoding="utf-8")
    for folder in ("images", "bench"): shutil.copytree(ROOT / "nbs" / folder, source / "nbs" / folder)
    return source


def readable(notebook, links=""):
    """A notebook without the lines that only nbdev reads, and without widgets that need a kernel; cells that are folded
    in JupyterLab are folded here, and links to open it elsewhere follow its title."""
    found = json.loads(notebook.read_text(encoding="utf-8"))
    for cell in found["cells"]:
        if not cell["metadata"].get("jupyter", {}).get("source_hidden"): continue
        cell["metadata"]["tags"] = sorted({*cell["metadata"].get("tags", []), "hide-input"})
    title = next((c for c in found["cells"] if c["cell_type"] == "markdown"), None)
    if links and title:
        first, _, rest = "".join(title["source"]).partition("\n")
        title["source"] = f"{first}\n\n{links}\n{rest}"
    for cell in found["cells"]:
        lines = cell["source"] if isinstance(cell["source"], list) else cell["source"].splitlines(keepends=True)
        cell["source"] = [line for line in lines if not line.startswith("#| ")]
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            for kind in [k for k in data if k.startswith("application/vnd.jupyter.widget")]: del data[kind]
    found["cells"] = [folded(cell) if "solution" in cell["metadata"].get("tags", ()) else cell
                      for cell in found["cells"] if "".join(cell["source"]).strip()]
    return found


def folded(cell):
    "A solution as a page shows it: folded under its first line, the answer of its comment as prose, then the code."
    title, *lines = "".join(cell["source"]).splitlines()
    answer = list(itertools.takewhile(lambda line: line.startswith("# "), lines))
    told = " ".join(line.removeprefix("# ").strip() for line in answer)
    code = "\n".join(lines[len(answer):]).strip("\n")
    text = f":::{{dropdown}} {title.strip('# ')}\n{told}\n\n```python\n{code}\n```\n:::"
    return {"cell_type": "markdown", "id": cell["id"], "metadata": {}, "source": text.splitlines(keepends=True)}


def lesson_pages(source):
    "A page for each wing with its lessons in reading order."
    wings = []
    for folder in sorted((source / "nbs").glob("*_*"), key=lambda f: f.name):
        if not folder.is_dir(): continue
        wing = wing_of(folder)
        names = "\n".join(f"nbs/{folder.name}/{f.stem}" for f in sorted(folder.glob("*.ipynb")))
        text = f"# {WINGS.get(wing, wing)}: `hil.{wing}`\n\n```{{toctree}}\n:maxdepth: 1\n\n{names}\n```\n"
        (source / f"wing-{wing}.md").write_text(text, encoding="utf-8")
        wings.append(wing)
    return wings


def report_page(source):
    "The page of the notebooks on top: runs, then tutorials."
    order = ["train", "evaluate", "ablation", "cli"]
    top = sorted(source.glob("nbs/*.ipynb"), key=lambda f: (order.index(f.stem) if f.stem in order else 9, f.stem))
    tutorials = sorted(source.glob("nbs/tutorials/*.ipynb"),
                       key=lambda f: (TUTORIALS.index(f.stem) if f.stem in TUTORIALS else 99, f.stem))
    lines = "\n".join([f"nbs/{f.stem}" for f in top] + [f"nbs/tutorials/{f.stem}" for f in tutorials])
    text = f"# Runs and tutorials\n\n```{{toctree}}\n:maxdepth: 1\n\n{lines}\n```\n"
    (source / "reports.md").write_text(text, encoding="utf-8")


def parameter_lines(thing):
    "A table of the parameters of a function, or of the fields of a class, with their comments; [] without any."
    try: found = docments(thing, full=True)
    except (TypeError, ValueError, OSError, SyntaxError): return []
    rows = []
    for name, about in found.items():
        comment = " ".join(str(about.get("docment") or "").split()).replace("|", "\\|")
        if name in ("self", "cls", "args", "kwargs") or (name == "return" and not comment): continue
        default = about.get("default", inspect.Parameter.empty)
        shown = "" if default is inspect.Parameter.empty else f"`{short(repr(default))}`"
        rows.append(f"| {'*returns*' if name == 'return' else f'`{name}`'} | {shown} | {comment} |")
    return ["", "| name | default | what it is |", "|---|---|---|", *rows, ""] if rows else []


def short(text, most=40): return text if len(text) <= most else text[:most - 1] + "…"


def described(name, thing, level):
    "The lines of one public name."
    kind = "class" if inspect.isclass(thing) else "function" if callable(thing) else "value"
    lines = [f"{'#' * level} `{name}`", ""]
    if kind == "value": return [*lines, f"`{short(repr(thing), 200)}`".replace("\n", " "), ""]
    lines += [inspect.getdoc(thing) or "", *parameter_lines(thing)]
    if kind != "class": return lines
    for method, member in vars(thing).items():
        function = getattr(member, "__func__", member)  # of a class method or a static one
        if method.startswith("_") or not inspect.isfunction(function): continue
        lines += ["", f"**`{name}.{method}`** {inspect.getdoc(function) or ''}", *parameter_lines(function)]
    return lines


def api_pages(source, wings):
    "A page for each module: its public names, their docstrings and their parameters."
    (source / "api").mkdir()
    entries = []
    for wing in wings:
        for file in sorted((ROOT / "hil" / wing).glob("*.py")):
            if file.stem == "__init__": continue
            module = importlib.import_module(f"hil.{wing}.{file.stem}")
            lines = [f"# `hil.{wing}.{file.stem}`", "", inspect.getdoc(module) or "", ""]
            for name in getattr(module, "__all__", ()): lines += ["", *described(name, getattr(module, name), 2)]
            (source / "api" / f"{wing}-{file.stem}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
            entries.append(f"api/{wing}-{file.stem}")
    (source / "api.md").write_text("# Functions and classes\n\nEvery public name, from its docstring.\n\n```{toctree}\n"
                                   ":maxdepth: 1\n\n" + "\n".join(entries) + "\n```\n", encoding="utf-8")


def method_drawing(source):
    "The picture of the method, drawn by today's code."
    from hil.plots.method_picture import method_picture
    (source / "images").mkdir()
    method_picture().savefig(source / "images" / "method.png")


def main(out):
    source = source_folder(out.parent)
    wings = lesson_pages(source)
    report_page(source)
    api_pages(source, wings)
    method_drawing(source)
    lessons = "```{toctree}\n:maxdepth: 2\n\n" + "\n".join(f"wing-{wing}" for wing in wings) + "\n```\n"
    (source / "lessons.md").write_text(f"# Lessons\n\nA notebook for each module, in reading order.\n\n{lessons}",
                                       encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-c", str(DOCS), "-q", "-W", "--keep-going", str(source),
               str(out)]  # -W: a link that leads nowhere is an error
    subprocess.run(command, check=True)
    print(f"The site is {out / 'index.html'}")


if __name__ == "__main__": main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "site").resolve())
