"""Slides of notebooks, for a class without a network: python docs/slides.py NOTEBOOK ... (make slides NB="...")

`nbconvert --to slides` with reveal.js and MathJax copied beside the slides (build/slides). A heading begins a slide,
what follows it comes on slides below; imports and solutions are left out. The outputs are those of the notebook.
"""
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter

DOCS = Path(__file__).resolve().parent
OUT = DOCS.parent / "build" / "slides"
PACKAGES = {"sphinx_revealjs": ("_static/revealjs", "reveal"), "sphinx-mathjax-offline": ("static/mathjax", "mathjax")}
STYLE = """<style>
.reveal { font-size: 26px; text-align: left; } .reveal h1, .reveal h2, .reveal h3 { text-transform: none; }
.reveal h1 { font-size: 1.7em; } .reveal h2 { font-size: 1.35em; }
.reveal pre, .reveal code { font-size: 16px; line-height: 1.35; } .reveal img { max-height: 620px; margin: 0; }
.reveal table { font-size: 18px; } .reveal section { height: 780px; overflow-y: auto; }
.jp-InputPrompt, .jp-OutputPrompt { display: none; }
</style></head>"""


def copied(out):
    "reveal.js and MathJax beside the slides. Raises SystemExit where the packages that bring them are not installed."
    for package, (inside, name) in PACKAGES.items():
        found = folder_of(package)
        if found is None: sys.exit(f"slides need the package {package}: pip install '.[docs]', or make docs once")
        if not (out / name).exists(): shutil.copytree(found / inside, out / name)


def folder_of(package):
    "Where an installed package lies, or None; some are no modules, only files."
    spec = find_spec(package) if package.isidentifier() else None
    if spec: return Path(spec.submodule_search_locations[0])
    return next((Path(p) / package for p in sys.path if (Path(p) / package).is_dir()), None)


def is_shown(cell):
    "Do the slides show this cell? Imports alone, what nbdev exports and solutions are for readers at a desk."
    source = cell.source
    if "solution" in cell.metadata.get("tags", []) or not source.strip(): return False
    if cell.cell_type == "markdown": return True
    lines = [line for line in source.splitlines() if line.strip() and not line.startswith(("#|", "# "))]
    only_imports = all(re.match(r"(import|from|    |\))", line) for line in lines)
    return not source.startswith("#| default_exp") and not (only_imports and not cell.outputs)


def at_headings(cell):
    "A text cell in parts, each beginning with its heading; a code cell as it is."
    if cell.cell_type != "markdown": return [cell]
    texts = re.split(r"\n(?=##? )", cell.source)
    return [nbformat.v4.new_markdown_cell(text, metadata=cell.metadata) for text in texts if text.strip()]


def slides(notebook, out=OUT):
    "Write the slides of one notebook; returns the file."
    out.mkdir(parents=True, exist_ok=True)
    copied(out)
    book = nbformat.read(notebook, 4)
    book.cells = [part for cell in book.cells if is_shown(cell) for part in at_headings(cell)]
    for cell in book.cells:
        heading = re.match(r"(#+) ", cell.source) if cell.cell_type == "markdown" else None
        pictures = any({"image/png", "image/jpeg"} & set(o.get("data", {})) for o in cell.get("outputs", ()))
        below = "subslide" if cell.cell_type == "markdown" or pictures else "-"
        cell.metadata["slideshow"] = {"slide_type": "slide" if heading and len(heading[1]) < 3 else below}
        if cell.cell_type != "code": continue
        cell.source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("#| "))
        if pictures or cell.metadata.get("jupyter", {}).get("source_hidden"):  # a slide has room for one of both
            cell.metadata["transient"] = {"remove_source": True}
    exporter = SlidesExporter(template_name="slides", extra_template_basedirs=[str(DOCS)], reveal_url_prefix="reveal",
                              mathjax_url="mathjax/tex-mml-chtml.js", font_awesome_url="", reveal_theme="white")
    exporter.reveal_number, exporter.exclude_input_prompt, exporter.exclude_output_prompt = "c/t", True, True
    html, _ = exporter.from_notebook_node(book)
    html = re.sub(r'<link[^>]*href=""[^>]*>', "", html).replace("</head>", STYLE, 1)
    file = out / f"{Path(notebook).stem}.slides.html"
    file.write_text(html, encoding="utf-8")
    return file


if __name__ == "__main__":
    if len(sys.argv) < 2: sys.exit('which notebook? make slides NB="nbs/4_method/02_cluster.ipynb"')
    for name in sys.argv[1:]: print(f"The slides are {slides(name)}")
