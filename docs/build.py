"""Build the site: pages, notebooks as stored, and a page for each module from its docstrings.

python docs/build.py [OUT]        (make docs; OUT is build/site)
"""
import importlib
import inspect
import itertools
import json
import re
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
             "reading_a_run", "explore_a_run", "corrections", "from_laptop_to_sysu", "beyond_one_machine",
             "what_is_decided", "how_robust"]


def address():
    "owner/name of the repository on a code host, from settings.ini; empty where it is not published."
    settings = ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    return settings["DEFAULT"].get("address", "").strip()


def launch_links(name, repository):
    "Links that open a notebook of a published repository in Colab and Binder, and the cell that Colab needs first."
    if not repository: return ""
    colab = f"https://colab.research.google.com/github/{repository}/blob/main/nbs/{name}"
    binder = f"https://mybinder.org/v2/gh/{repository}/main?labpath=nbs/{name}"
    first = f"""!git clone -q --depth 1 https://github.com/{repository} /content/hil
%pip install -q "/content/hil[notebook,cpu]"
%cd /content/hil/nbs/{name.rpartition("/")[0]}"""
    return (f"[Open in Colab]({colab}) · [Open in Binder]({binder})\n\n"
            f":::{{dropdown}} In Colab, run this cell first\n```python\n{first}\n```\n:::")


def wing_of(folder): return folder.name.split("_", 1)[1]


def source_folder(build):
    "A fresh folder with everything that Sphinx reads."
    source = build / "site-source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for page in (DOCS / "pages").glob("*.md"):  # whose links hold on a code host, too
        text = page.read_text(encoding="utf-8").replace("../../nbs/", "nbs/")
        (source / page.name).write_text(text, encoding="utf-8")
    for notebook in (ROOT / "nbs").rglob("*.ipynb"):
        name = notebook.relative_to(ROOT / "nbs")
        if ".ipynb_checkpoints" in name.parts or name.parts[0] in ("runs", "bench"): continue
        (source / "nbs" / name).parent.mkdir(parents=True, exist_ok=True)
        shown = readable(notebook, launch_links(name.as_posix(), address()))
        (source / "nbs" / name).write_text(json.dumps(shown), encoding="utf-8")
    for folder in ("images", "bench"): shutil.copytree(ROOT / "nbs" / folder, source / "nbs" / folder)
    return source


LONG = 40  # lines of a module's own code that a page shows without being asked


def why_folded(cell):
    "What a folded cell shows instead of its code; None for a cell that is not folded."
    source = "".join(cell["source"])
    lines = [line for line in source.splitlines() if line.strip() and not line.startswith("#")]
    begins = r"import |from |[ )]|use_style\(\)|logging\."  # and what is set up beside imports
    if lines and all(re.match(begins, line) for line in lines) and not cell["outputs"]: return "Imports"
    names = re.findall(r"^(?:def|class) (\w+)", source, re.M)
    names = [name for name in names if name[0] != "_"] or names
    if source.startswith("#| export") and len(lines) > LONG: return f"{len(lines)} lines of code: {', '.join(names)}"
    return "Show code" if cell["metadata"].get("jupyter", {}).get("source_hidden") else None


def shown(cell):
    "A cell as a page shows it: without what only nbdev or a kernel reads; imports and long code are folded."
    prompt = why_folded(cell) if cell["cell_type"] == "code" else None
    if prompt:
        cell["metadata"]["tags"] = sorted({*cell["metadata"].get("tags", []), "hide-input"})
        cell["metadata"]["mystnb"] = {"code_prompt_show": prompt, "code_prompt_hide": prompt}
    lines = "".join(cell["source"]).splitlines(keepends=True)
    cell["source"] = [line for line in lines if not line.startswith("#| ")]
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        for kind in [k for k in data if k.startswith("application/vnd.jupyter.widget")]: del data[kind]
    return folded(cell) if "solution" in cell["metadata"].get("tags", ()) else cell


def together(cells):
    "Folded cells that follow each other become one, where nothing was put out between them."
    kept = []
    for cell in cells:
        before = kept[-1] if kept else {}
        both = [c.get("metadata", {}).get("mystnb", {}).get("code_prompt_show") for c in (before, cell)]
        if all(name in ("Imports", "Show code") for name in both) and not before["outputs"]:
            cell["source"] = [*before["source"], "\n\n", *cell["source"]]
            cell["metadata"]["mystnb"] = kept.pop()["metadata"]["mystnb"] if both[0] == both[1] else {
                "code_prompt_show": "Show code", "code_prompt_hide": "Show code"}
        kept.append(cell)
    return kept


def readable(notebook, links=""):
    "A notebook as a page shows it; links to open it elsewhere follow its title."
    found = json.loads(notebook.read_text(encoding="utf-8"))
    cells = [cell for cell in map(shown, found["cells"]) if "".join(cell["source"]).strip()]
    title = next((c for c in cells if c["cell_type"] == "markdown"), None)
    if links and title:
        first, _, rest = "".join(title["source"]).partition("\n")
        title["source"] = f"{first}\n\n{links}\n{rest}".splitlines(keepends=True)
    found["cells"] = together(cells)
    return found


def folded(cell):
    "A solution as a page shows it: folded under its first line, the answer of its comment as prose, then the code."
    title, *lines = "".join(cell["source"]).splitlines()
    answer = list(itertools.takewhile(lambda line: line.startswith("# "), lines))
    told = " ".join(line.removeprefix("# ").strip() for line in answer)
    code = "\n".join(lines[len(answer):]).strip("\n")
    text = f":::{{dropdown}} {title.strip('# ')}\n{told}\n\n```python\n{code}\n```\n:::"
    return {"cell_type": "markdown", "id": cell["id"], "metadata": {}, "source": text.splitlines(keepends=True)}


def toctree(names, depth=1):
    "The lines of a list of pages, in this order."
    return "\n".join(["```{toctree}", f":maxdepth: {depth}", "", *names, "```", ""])


def lesson_pages(source):
    "A page for each wing with its lessons in reading order."
    wings = []
    for folder in sorted((source / "nbs").glob("*_*"), key=lambda f: f.name):
        if not folder.is_dir(): continue
        wing = wing_of(folder)
        names = [f"nbs/{folder.name}/{f.stem}" for f in sorted(folder.glob("*.ipynb"))]
        text = f"# {WINGS.get(wing, wing)}: `hil.{wing}`\n\n{toctree(names)}"
        (source / f"wing-{wing}.md").write_text(text, encoding="utf-8")
        wings.append(wing)
    return wings


def report_page(source):
    "The page of the notebooks on top: runs, then tutorials."
    order = ["train", "evaluate", "ablation", "cli"]
    top = sorted(source.glob("nbs/*.ipynb"), key=lambda f: (order.index(f.stem) if f.stem in order else 9, f.stem))
    tutorials = sorted(source.glob("nbs/tutorials/*.ipynb"),
                       key=lambda f: (TUTORIALS.index(f.stem) if f.stem in TUTORIALS else 99, f.stem))
    text = ("# Runs and tutorials\n\n## Runs: reports, figures, the command line\n\n" +
            toctree([f"nbs/{f.stem}" for f in top]) + "\n## Tutorials, on a laptop\n\n" +
            toctree([f"nbs/tutorials/{f.stem}" for f in tutorials]))
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
        rows.append((f"| {'*returns*' if name == 'return' else f'`{name}`'} | {shown} | {comment} |", bool(comment)))
    if not any(told for row, told in rows): return signature_lines(thing)
    return ["", "| name | default | what it is |", "|---|---|---|", *(row for row, told in rows), ""]


def signature_lines(thing):
    "How a function is called; [] where Python does not know, or where it takes nothing."
    try: parameters = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError): return []
    given = [str(p.replace(annotation=p.empty)) for p in parameters if p.name not in ("self", "cls")]
    return ["", f"Called with: {', '.join(f'`{short(one)}`' for one in given)}", ""] if given else []


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


def lessons_of_modules():
    "{\"method.rerank\": its notebook below nbs/}, by what each notebook says that it exports."
    found = {}
    for notebook in sorted((ROOT / "nbs").rglob("*.ipynb")):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        said = re.search(r"^#\| default_exp (\S+)", "\n".join("".join(cell["source"]) for cell in cells), re.M)
        if said: found[said[1]] = notebook.relative_to(ROOT / "nbs").as_posix()
    return found


def api_pages(source, wings):
    "A page for each module: its public names, their docstrings and their parameters."
    (source / "api").mkdir()
    lessons, toctrees = lessons_of_modules(), []
    for wing in wings:
        entries = []
        for file in sorted((ROOT / "hil" / wing).glob("*.py")):
            if file.stem == "__init__": continue
            module = importlib.import_module(f"hil.{wing}.{file.stem}")
            lines = [f"# hil.{wing}.{file.stem}", "", inspect.getdoc(module) or "", ""]
            if lesson := lessons.get(f"{wing}.{file.stem}"):
                lines += [f"Explained, tried out and tested in its [lesson](../nbs/{lesson}).", ""]
            for name in getattr(module, "__all__", ()): lines += ["", *described(name, getattr(module, name), 2)]
            (source / "api" / f"{wing}-{file.stem}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
            entries.append(f"api/{wing}-{file.stem}")
        toctrees.append(f"## {WINGS.get(wing, wing)}\n\n" + toctree(entries))
    (source / "api.md").write_text("# Functions and classes\n\nEvery public name, from its docstring.\n\n" +
                                   "\n".join(toctrees), encoding="utf-8")


def main(out):
    source = source_folder(out.parent)
    wings = lesson_pages(source)
    report_page(source)
    api_pages(source, wings)
    (source / "lessons.md").write_text("# Lessons\n\nA notebook for each module, in reading order.\n\n" +
                                       toctree([f"wing-{wing}" for wing in wings], depth=2), encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-c", str(DOCS), "-q", "-W", "--keep-going", str(source),
               str(out)]  # -W: a link that leads nowhere is an error
    subprocess.run(command, check=True)
    print(f"The site is {out / 'index.html'}")


if __name__ == "__main__": main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "site").resolve())
