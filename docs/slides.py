"""Slides of notebooks, for a class without a network: python docs/slides.py NOTEBOOK ... (make slides NB="...")

`nbconvert --to slides` with reveal.js and MathJax copied beside the slides (build/slides). A heading begins a slide,
what follows it stands below on the same slide while there is room, then on slides below. Imports, long code of the
module and solutions are left out. The outputs are those of the notebook.
"""
import base64
import io
import re
import shutil
import sys
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import nbformat
from build import why_folded
from nbconvert import SlidesExporter
from PIL import Image

DOCS = Path(__file__).resolve().parent
OUT = DOCS.parent / "build" / "slides"
PACKAGES = {"sphinx_revealjs": ("_static/revealjs", "reveal"), "sphinx-mathjax-offline": ("static/mathjax", "mathjax")}
STYLE = """<style>
.reveal { font-size: 26px; text-align: left; } .reveal h1, .reveal h2, .reveal h3 { text-transform: none; }
.reveal h1 { font-size: 1.7em; } .reveal h2 { font-size: 1.35em; }
.reveal pre, .reveal code { font-size: 16px; line-height: 1.35; } .reveal p, .reveal li { line-height: 1.35; }
.reveal .jp-RenderedImage img { width: 100%; height: auto; max-height: 500px; object-fit: contain;
  object-position: left top; margin: 0; }
.reveal table { font-size: 18px; } .reveal section { height: 780px; overflow-y: auto; }
.jp-InputPrompt, .jp-OutputPrompt { display: none; }
</style></head>"""


ROOM = 740  # pixels of a slide that may be filled
WIDTH, PICTURE = 1200, 500  # of a slide; and how high a picture may be


def picture_height(data):
    "Pixels of a picture (base64) that is as wide as a slide, or as high as it may be."
    width, height = Image.open(io.BytesIO(base64.b64decode(data))).size
    return min(PICTURE, WIDTH * height // width)


def text_height(source):
    "Pixels of Markdown: paragraphs flow, lists and code keep their lines."
    high = 0
    for block in re.split(r"\n\s*\n", source.strip()):
        rows = block.splitlines() if re.match(r"\s*([-*>|`]|\d+\. )", block) else [" ".join(block.splitlines())]
        high += 20 + sum(36 * (1 + len(row) // 100) for row in rows)
    return high


def pixels(cell):
    "About how high a cell stands on a slide."
    if cell.cell_type == "markdown": return text_height(cell.source)
    high = 0 if cell.metadata.get("transient") else 25 + 22 * len(cell.source.splitlines())
    for output in cell.outputs:
        data = output.get("data", {})
        picture = data.get("image/png", data.get("image/jpeg"))
        if picture: high += picture_height(picture)
        elif "text/html" in data: high += 33 * data["text/html"].count("<tr")
        elif "text/markdown" in data: high += text_height(data["text/markdown"])
        else: high += 22 * len("".join(output.get("text", data.get("text/plain", ""))).splitlines())
    return high


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
    "Do the slides show this cell? Imports, long code of the module and solutions are for readers at a desk."
    if "solution" in cell.metadata.get("tags", []) or not cell.source.strip(): return False
    if cell.cell_type == "markdown": return True
    if cell.outputs: return True
    silent = why_folded(cell) or cell.source.startswith("#| default_exp") or cell.source.strip().endswith(".cleanup()")
    return not silent and not (cell.source.startswith("#| export") and pixels(cell) > ROOM)


def at_headings(cell):
    "A text cell in parts, each beginning with its heading; a code cell as it is."
    if cell.cell_type != "markdown": return [cell]
    texts = re.split(r"\n(?=##? )", cell.source)
    return [nbformat.v4.new_markdown_cell(text, metadata=deepcopy(cell.metadata)) for text in texts if text.strip()]


def placed(cells):
    "The cells, each told whether it begins a slide, a slide below, or stands on the slide so far."
    filled = 0
    for cell in cells:
        heading = re.match(r"(#+) ", cell.source) if cell.cell_type == "markdown" else None
        pictures = any({"image/png", "image/jpeg"} & set(o.get("data", {})) for o in cell.get("outputs", ()))
        if cell.cell_type == "code":
            cell.source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("#| "))
            if pictures or cell.metadata.get("jupyter", {}).get("source_hidden"):  # a slide has room for one of both
                cell.metadata["transient"] = {"remove_source": True}
        high = pixels(cell)
        kind = "slide" if heading and len(heading[1]) < 3 else "-" if filled + high <= ROOM else "subslide"
        filled = filled + high if kind == "-" else high
        cell.metadata["slideshow"] = {"slide_type": kind}
    return cells


def slides(notebook, out=OUT):
    "Write the slides of one notebook; returns the file."
    out.mkdir(parents=True, exist_ok=True)
    copied(out)
    book = nbformat.read(notebook, 4)
    book.cells = placed([part for cell in book.cells if is_shown(cell) for part in at_headings(cell)])
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
