"The project's own rules (CONTRIBUTING.md): arrows between modules, settings, notebooks as committed, hil/ in step with nbs/."
import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hil

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ConfigParser(delimiters=["="], interpolation=None)
SETTINGS.read(ROOT / "settings.ini", encoding="utf-8")
SETTINGS = SETTINGS["DEFAULT"]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def committed(folder, suffix):
    "Files git tracks, so that a colleague's half-done notebook breaks nothing; all files where there is no git."
    git = subprocess.run(["git", "ls-files", "-z", folder], cwd=ROOT, capture_output=True, text=True)
    names = git.stdout.split("\0") if git.returncode == 0 and git.stdout else [str(p.relative_to(ROOT))
        for p in (ROOT / folder).rglob("*")]
    return sorted(ROOT / n for n in names if n.endswith(suffix) and ".ipynb_checkpoints" not in n
                  and (ROOT / n).is_file())


def dotted(path): return ".".join(path.relative_to(ROOT / "hil").with_suffix("").parts)


MODULES = {dotted(p): p for p in committed("hil", ".py") if not p.stem.startswith("_")}
WINGS = sorted({name.partition(".")[0] for name in MODULES if "." in name})
PLOTTING = {"plots", "explore"}  # wings whose business pictures are
NOTEBOOKS = {str(p.relative_to(ROOT / "nbs")): p for p in committed("nbs", ".ipynb")}


def load(path): return json.loads(path.read_text(encoding="utf-8"))
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
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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
    assert read_arrows("```arrows\ncore ->\na -> core\nb -> core, a\n```") == {"core": set(), "a": {"core"},
        "b": {"core", "a"}}


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
    wing = name.rpartition(".")[0]  # "" for the front door, which may load everything
    wrong = sorted(i for i in imports(MODULES[name], wing) if (to := i.partition(".")[0]) != wing
                   and to not in ARROWS.get(wing, set(WINGS)))
    assert not wrong, f"hil.{name} imports {wrong}; CONTRIBUTING.md allows the wings {sorted(ARROWS[wing]) or 'none'}"


def test_no_two_modules_import_each_other():
    "Arrows between modules run one way too: taking away modules that import nothing more, again and again, leaves none."
    left = {name: imports(path, name.rpartition(".")[0]) - {name} for name, path in MODULES.items()}
    while free := [name for name, needs in left.items() if not needs & set(left)]:
        for name in free: del left[name]
    assert not left, f"these import each other, directly or around a corner: {sorted(left)}"


def test_a_name_is_made_in_one_place():
    "No two modules define the same public function or class: a reader who looks for it finds it."
    where = {}
    for name, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                where.setdefault(node.name, []).append(name)
    twice = {name: places for name, places in where.items() if len(places) > 1}
    assert not twice, f"defined more than once: {twice}"


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.partition(".")[0] not in PLOTTING))
def test_only_pictures_and_widgets_plot(name):
    roots = {n.split(".")[0] for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8")))
             for n in ([a.name for a in node.names] if isinstance(node, ast.Import)
                       else [node.module or ""] if isinstance(node, ast.ImportFrom) else [])}
    assert not roots & {"matplotlib", "ipywidgets",
                        "IPython"}, f"hil.{name} plots or shows widgets: this belongs in {sorted(PLOTTING)}"


@pytest.mark.parametrize("name", MODULES)
def test_public_functions_have_a_docstring(name):
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    bare = [n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith("_")
            and not ast.get_docstring(n)]
    assert not bare, f"no docstring in hil.{name}: {bare}"


@pytest.mark.parametrize("name", MODULES)
def test_nothing_catches_everything(name):
    handlers = [n for n in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8")))
                if isinstance(n, ast.ExceptHandler)]
    names = {getattr(t, "id", getattr(t, "attr", "")) for h in handlers
             for t in (h.type.elts if isinstance(h.type, ast.Tuple) else [h.type])}
    assert all(h.type for h in handlers) and not names & {"Exception",
                                                          "BaseException"}, f"hil.{name} catches every exception"


# ---- settings -----------------------------------------------------------------------------------------------------

def test_settings_agree():
    nbdev, project = PYPROJECT["tool"]["nbdev"], PYPROJECT["project"]
    assert {k: nbdev[k] for k in ("lib_path", "nbs_path", "tst_flags")} == {k: SETTINGS[k]
        for k in ("lib_path", "nbs_path", "tst_flags")}
    assert hil.__version__ == SETTINGS["version"]
    assert project["name"] == SETTINGS["lib_name"] and project["requires-python"] == f">={SETTINGS['min_python']}"
    assert "tags" in nbdev["allowed_cell_metadata_keys"], "without it nbdev-clean strips the parameters tag and papermill runs on defaults"


def test_requirements_are_pinned():
    pins = dict((canonicalize_name(name), version)
                for name, version in re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.M))
    needed = [Requirement(r) for key in ("requirements", "cpu_requirements", "dev_requirements")
              for r in SETTINGS[key].split()]
    unpinned = [r.name for r in needed if canonicalize_name(r.name) not in pins]
    assert not unpinned, f"in settings.ini, but not in constraints.txt: {unpinned}"
    outside = [f"{r} ({pins[canonicalize_name(r.name)]})"
               for r in needed if not r.specifier.contains(pins[canonicalize_name(r.name)])]
    assert not outside, f"pinned outside of what settings.ini asks for: {outside}"


def test_both_faiss_builds_are_never_asked_for_together():
    assert "faiss" not in SETTINGS["requirements"] and "faiss-gpu" not in SETTINGS["cpu_requirements"] and "faiss-cpu" not in SETTINGS["gpu_requirements"]


def test_readme_starts_with_the_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    if not text.strip(): pytest.skip("README.md is still empty")
    top = "\n".join(text.splitlines()[:40])
    assert "make train" in top and "make test" in top


# ---- notebooks ----------------------------------------------------------------------------------------------------

MACHINE = re.compile(r"/(?:home|root|work|tmp|Users)/")
RESIDUE = re.compile(r"\d+%\||\bit/s\b|\bs/it\b|\dit/s|\ds/it")


def texts(path):
    "Every text in the outputs of a notebook, embedded images left out."
    for cell in code_cells(path):
        for out in cell["outputs"]:
            data = out.get("data", {})
            for piece in [out.get("text", "")] + [v for kind, v in data.items() if kind.startswith("text/")
                                                  or kind == "application/javascript"]:
                yield re.sub(r"base64,[A-Za-z0-9+/=\s]+", "", "".join(piece))


def must_show(cell):
    "Does this cell leave an output whenever it is run? True if its last line is a value or if it prints at top level."
    text = source(cell)
    if re.search(r"^#\|\s*(eval:\s*false|hide|gpu|slow|notest)", text, re.M) or re.search(r"^\s*[%!]", text,
        re.M) or not text.strip():
        return False
    body = ast.parse(text).body
    prints = any(isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)
                 and getattr(n.value.func, "id", "") == "print" for n in body)
    values = (ast.Name, ast.Attribute, ast.Subscript, ast.List, ast.Dict, ast.Tuple, ast.Compare, ast.BinOp,
              ast.ListComp, ast.DictComp, ast.JoinedStr)
    return prints or (bool(body) and isinstance(body[-1], ast.Expr) and isinstance(body[-1].value, values)
                      and not text.rstrip().endswith(";"))


def test_a_notebook_exports_to_a_module_of_its_own():
    names = [name for path in NOTEBOOKS.values() for name in exports_to(path)]
    assert sorted(names) == sorted(set(names)), "two notebooks with one default_exp: the first one's functions would be lost silently"
    homeless = set(MODULES) - set(names)
    assert not homeless, f"no committed notebook exports {sorted(homeless)}"


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
        assert not silent, f"{name}: these cells show a value, but hold no output; run python tests/execute.py nbs/{name}: {silent}"

    def test_names_no_machine_and_holds_no_progress_bar(self, name):
        for text in texts(NOTEBOOKS[name]):
            assert not (found := MACHINE.search(text)), f"{name}: path of a machine in an output: ...{text[found.start():][:60]}"
            assert not (found := RESIDUE.search(text)), f"{name}: progress bar in an output: {text[max(0, found.start() - 20):][:60]}"
        kinds = {kind for c in code_cells(NOTEBOOKS[name]) for out in c["outputs"] for kind in out.get("data", {})}
        assert "application/vnd.jupyter.widget-view+json" not in kinds or name.startswith("tutorials/")

    def test_is_small(self, name): assert NOTEBOOKS[name].stat().st_size <= 600_000

    def test_pictures_are_not_empty(self, name):
        sizes = [len(out["data"]["image/png"]) for c in code_cells(NOTEBOOKS[name])
                 for out in c["outputs"] if "image/png" in out.get("data", {})]
        assert all(size > 2_000 for size in sizes)


def test_train_has_one_parameters_cell():
    if "train.ipynb" not in NOTEBOOKS: pytest.skip("no nbs/train.ipynb yet")
    tagged = [c for c in load(NOTEBOOKS["train.ipynb"])["cells"] if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1, "papermill puts its settings behind the one cell tagged parameters; without it, it runs on defaults in silence"


# ---- hil/ is what the notebooks export ----------------------------------------------------------------------------

def generated(folder):
    "{path below hil/: text} of what nbdev wrote."
    texts = {str(p.relative_to(folder / "hil")): p.read_text(encoding="utf-8")
             for p in sorted((folder / "hil").rglob("*.py"))}
    return {name: text for name, text in texts.items() if re.search("AUTOGENERATED|Autogenerated by nbdev", text)}


def test_hil_and_notebooks_are_in_step(tmp_path):
    for path in [*NOTEBOOKS.values(), *committed("hil", ".py"), ROOT / "pyproject.toml", ROOT / "settings.ini",
                 ROOT / "README.md"]:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    before = generated(tmp_path)
    for name in before: (tmp_path / "hil" / name).unlink()
    for tool in ("nbdev-export", "nbdev-clean"):
        done = subprocess.run([Path(sys.executable).parent / tool], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    after = generated(tmp_path)
    if "_modidx.py" not in before: after.pop("_modidx.py", None)  # nbdev's index is checked once it is committed
    differ = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
    assert not differ, f"hil/ is not what the notebooks export: {differ}. Run make export and commit."
    unclean = [name for name, path in NOTEBOOKS.items() if path.read_bytes() != (tmp_path / "nbs" / name).read_bytes()]
    assert not unclean, f"nbdev-clean would change {unclean}. Run make export and commit."
