"The front door `hil`: what it names, that it is quick, and that names, signatures and figures are those of 0.1.0."
import ast
import importlib
import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

import hil

GOLDEN = Path(__file__).parent / "golden"
HEAVY = {"torch", "numpy", "scipy", "pandas", "numba", "IPython", "ipywidgets", "matplotlib", "hil.explore", "hil.core"}

# signatures of 0.1.0, frozen as text: a change here is a change for everyone who uses the kit as a library
SIGNATURES = """
knn(features, k, neighbors='exact', recall=0.95, seed=0, device='cpu')
jaccard_distance(features, k1=30, k2=6, keep=1.0, neighbors='exact', recall=0.95, seed=0, device='cpu')
pseudo_labels(distance, eps=0.6, min_samples=4)
centroids(features, labels)
secondary_cluster(features, labels, n_sub=9, shrink=0.9, random_state=0)
brst(features, labels, prototypes, threshold=0.5, level='sample', permitted=None)
ClusterMemory(centers, temp=0.05, momentum=0.1, smoothing=0.0)
ClusterMemory.forward(self, features, labels, weights=None, checked=False)
ClusterMemory.update(self, features, labels, how='sample', rounds=None, checked=False)
InstanceMemory(features, momentum=0.9, mix='unit')
InstanceMemory.update(self, features, indices, rounds=None, checked=False)
mccl_loss(features, banks, labels=None, variant='published', temp=0.1, checked=False)
neighbor_loss(features, queries, memories, temp=0.05, ratio=0.9, checked=False)
evaluate_sysu(distance, q_pids, g_pids, q_camids, g_camids, max_rank=20)
evaluate_regdb(distance, q_pids, g_pids, max_rank=20)
build_model(name='lite0', weights=None, **options)
Run(path)
Run.epoch(self, number)
Trainer(config, on_epoch=None, progress=True)
Trainer.fit(self)
explore(source, features=None, **options)
"""

# settings and their defaults (0.3.0 changed iterations, lr, lr_end, lr_drop and what is "auto": see CHANGELOG)
SETTINGS = """
dataset='synth' data_root='' preset='default' release=False render_seed=9 overlap=1.0 split=1 expect='published'
train_splits='train' evaluate_on='test' search_mode='all' shots=1 direction='infrared_to_visible' draws='seeded'
trials=10 model='lite0' weights='' trainable='heads' gradient_checkpointing=False compile=False dropout=0.3 n_views=1
flip=False stage1_epochs=1 stage2_epochs=6 iterations=72 batch_ids=24 instances=4 same_ids=True sampler='random'
optimizer='adam' lr=0.00015 warmup_lr=0.2 lr_end=0.1 lr_drop=1.0 weight_decay=0.0005 accumulate=1 precision='float32'
eps='auto' min_samples='auto' k1='auto' k1_infrared='auto' k2='auto' neighbors='exact' n_sub='auto' shrink=0.9
update_sub_centers=False matcher='brst' threshold=0.8 level='cluster' brst_direction='alternate' temp=0.05
momentum=0.1 memory_update='mean'
cluster_weight=1.0 mccl_weight=1.0 mccl_warmup=4 mccl_variant='published' neighbor_weight=1.0 instance_mix='unit'
supervision='none' select='last' reload_epoch=0 seed=0 device='auto' run_dir='' resume=False keep_features=True
"""


def python(code):
    "Run lines in a process of their own, where nothing of hil is loaded yet; what they print."
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def load(name):
    with np.load(GOLDEN / f"{name}.npz") as z: return {k: z[k] for k in z.files}


# ---- what the door says -------------------------------------------------------------------------------------------

def test_import_is_quick_and_loads_nothing():
    seconds, *loaded = python("import sys, time; start = time.perf_counter(); import hil\n"
                              "print(time.perf_counter() - start, *sys.modules)").split()
    assert not HEAVY & set(loaded) and float(seconds) < .2


def test_import_time_is_that_of_one_file():
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", "import hil"], capture_output=True, text=True)
    after = done.stderr.rpartition(" site\n")[2]  # python's own start comes first
    assert [line.split("|")[-1].strip() for line in after.splitlines()] == ["hil"]


def test_each_name_comes_from_its_module():
    for name, module in hil._HOMES.items():
        home = getattr(importlib.import_module(f"hil.{module}"), name)
        assert home.__module__ == f"hil.{module}", f"{name} is made in {home.__module__}: say so in hil/__init__.py"
        if name != "explore": assert getattr(hil, name) is home
    assert set(hil._HOMES) < set(dir(hil)) and set(hil.__all__) == {"__version__", *hil._HOMES}


def test_type_checkers_read_the_same_table():
    tree = ast.parse(Path(hil.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    assert {alias.name: node.module for node in block.body for alias in node.names} == hil._HOMES
    assert (Path(hil.__file__).parent / "py.typed").exists()


def test_a_wrong_name_gets_the_closest():
    with pytest.raises(AttributeError, match="hil has no 'jacard_distance'; did you mean 'jaccard_distance'?"):
        _ = hil.jacard_distance
    assert not hasattr(hil, "__wrapped__")


def test_help_lists_the_names():
    text = python("import pydoc, hil; print(pydoc.plain(pydoc.render_doc(hil)))")
    assert "jaccard_distance(features, k1=30" in text and "class Trainer" in text and "TYPE_CHECKING" not in text


# ---- explore is a function and a folder ---------------------------------------------------------------------------

@pytest.mark.parametrize("first", ["import hil; hil.explore", "from hil.explore.app import explore as function"])
def test_explore_is_called_whatever_was_imported_before(first):
    assert python(f"""{first}
from hil import explore
import hil, hil.explore.app as app
app.as_session, app.Explorer = lambda *given, **options: (given, options), lambda session: session
for function in (explore, hil.explore, app.explore):
    assert function("runs/x", xy=1) == (("runs/x", None), {{"xy": 1}})
print(hil.explore.app is app)""") == "True"


def test_explore_without_the_notebook_extra_says_what_to_install():
    "An empty entry in sys.modules is a module that cannot be imported."
    message = python("""import sys
sys.modules["ipywidgets"] = None
from hil import explore
try: explore("runs/x")
except ImportError as error: print(error)""")
    assert message.startswith("explore needs ipywidgets") and message.endswith("pip install 'hil[notebook]'")


# ---- as in 0.1.0 --------------------------------------------------------------------------------------------------

def signature(words):
    "`knn(features, k=1)`, read from the object that the front door hands out: names, order and defaults."
    thing = hil
    for word in words.split("."): thing = getattr(thing, word)
    parameters = [p.replace(annotation=p.empty) for p in inspect.signature(thing).parameters.values()]
    return f"{words}({', '.join(map(str, parameters))})"


@pytest.mark.parametrize("line", SIGNATURES.split("\n")[1:-1])
def test_signatures(line): assert signature(line.partition("(")[0]) == line


def test_settings():
    old = SETTINGS.split()
    now = [f"{f.name}={f.default!r}" for f in fields(hil.Config)]
    assert [word for word in now if word in old] == old, f"changed or gone: {[word for word in old if word not in now]}"


@pytest.mark.parametrize("k1", [30, 20])
def test_golden_clusters(k1):
    g = load("jaccard_n600_d64")
    distance = hil.jaccard_distance(g["features"], k1)
    assert (hil.knn(g["features"], k1) == g[f"k{k1}_rank"]).all()
    assert np.abs(missing_is_one(distance).sum(1) - g[f"k{k1}_rowsum"]).max() < 1e-3
    for eps in (.6, .5, .3):
        assert (hil.pseudo_labels(distance, eps) == g[f"k{k1}_dbscan_eps{str(eps).replace('.', '')}"]).all()


def missing_is_one(distance):
    "The sparse distances as a full matrix."
    full = np.ones(distance.shape)
    rows = distance.tocoo()
    full[rows.row, rows.col] = rows.data
    return full


def test_golden_centres():
    g = load("centers")
    assert np.abs(hil.centroids(g["features"], g["labels"]).numpy() - g["centers"]).max() < 1e-5
    banks = hil.secondary_cluster(g["features"], g["labels"], n_sub=9).numpy()
    distance = np.linalg.norm(banks[:, :, None] - g["kmeans10"][:, None], axis=3)  # sub-centres come in any order
    assert distance.min(2).max() < 1e-4 and distance.min(1).max() < 1e-4


@pytest.mark.parametrize("case", [0, 1])
@pytest.mark.parametrize("data, t", [("sysu", .5), ("regdb", .8)])
@pytest.mark.parametrize("source, target", [("rgb", "ir"), ("ir", "rgb")])
def test_golden_transfer(case, data, t, source, target):
    g = load("label_transfer")
    given = g[f"s{case}_{source}_features"], g[f"s{case}_{source}_labels"], g[f"s{case}_{target}_prototypes"]
    wanted = g[f"{data}{case}_{source}_from_{target}"]
    assert (hil.brst(*given, threshold=t) == wanted).all() and (hil.transfer(*given, threshold=t) == wanted).all()


@pytest.mark.parametrize("how, name", [("sample", "mean"), ("hard", "hard")])
def test_golden_memory(how, name):
    g = {k: torch.from_numpy(np.atleast_1d(v)) for k, v in load("cluster_memory").items()}
    memory = hil.ClusterMemory(g["memory"].double())
    loss = memory(g["inputs"].double(), g["targets"])
    assert abs(loss.item() - g[f"{name}_f64_loss"].item()) < 1e-6
    memory.update(g["inputs"].double(), g["targets"], how=how)
    torch.testing.assert_close(memory.centers, g[f"{name}_f64_memory_after"].double(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("momentum, key", [(.9, "after_m09"), (.1, "after_m01")])
def test_golden_instance_memory(momentum, key):
    g = {k: torch.from_numpy(v) for k, v in load("update_em").items()}
    memory = hil.InstanceMemory(g["memory"].double(), momentum=momentum, mix="raw")
    memory.update(g["inputs"].double(), g["indexes"])
    torch.testing.assert_close(memory.features, g[key].double(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("a, b", [("rgb", "rgb"), ("ir", "ir"), ("rgb", "ir")])
def test_golden_losses(a, b):
    "Epoch 0 of the release's trainer, whose losses hold factors: 0.5 if shallow, 0.1 from visible to infrared."
    g = {k: torch.from_numpy(np.atleast_1d(v)) for k, v in load("trainer_regdb").items()}
    levels = {"deep": ("", 1), "shallow": ("_s", .5)}
    f, query, memory = ({level: g[f"{key}{end}"].double() for level, (end, _) in levels.items()}
                        for key in (f"in_f_{a}", f"in_wise_{a}", f"in_wise_{b}"))
    query = {level: rows[g[f"in_index_{a}"]] for level, rows in query.items()}
    mccl = hil.mccl_loss(f, {"deep": g["in_shared_d"].double(), "shallow": g["in_shared_d_s"].double()})
    neighbor = hil.neighbor_loss(f, query, memory)
    for level, (end, half) in levels.items():
        assert abs(mccl[level].item() * half / g[f"e0_id_{a}_{b}_loss{end}"].item() - 1) < 1e-6
        factor = half * (.1 if (a, b) == ("rgb", "ir") else 1)
        assert abs(neighbor[level].item() * factor / g[f"e0_{a}_{b}_loss{end}"].item() - 1) < 1e-6


def test_figures_by_hand():
    "One query of person 1, its two images at ranks 1 and 3: precision 1 and 2/3, the last of two hits at rank 3."
    distance, people = np.array([[.1, .2, .3]]), np.array([1, 2, 1])
    for got in (hil.evaluate_regdb(distance, [1], people), hil.evaluate_sysu(distance, [1], people, [3], [1, 4, 5])):
        assert got.cmc[0] == 1 and abs(got.mAP - 5 / 6) < 1e-12 and abs(got.mINP - 2 / 3) < 1e-12
