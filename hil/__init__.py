"""Hierarchical Identity Learning (HIL) for unsupervised visible-infrared person re-identification.

The front door: `from hil import jaccard_distance, brst, Config, Trainer, explore`. A name is loaded when it is first
asked for, so `import hil` takes milliseconds. Everything else lives in the wings, `hil.core` to `hil.explore`.
"""
import os as _os

__version__ = "0.2.0"

# How long a thread waits awake for the others before it sleeps: some ten microseconds, in place of milliseconds that it
# would take from whoever computes. Read when torch and NumPy are loaded, so `import hil` comes before them (lesson
# `threads`). What somebody has set stays.
_WAITS = {"GOMP_SPINCOUNT": "10000",  # turns of a loop (GNU: torch on Linux)
          "KMP_BLOCKTIME": "1",  # milliseconds (LLVM, Intel: torch on macOS, from conda)
          "OPENBLAS_THREAD_TIMEOUT": "20"}  # a power of two: processor cycles (NumPy)
for _name in _WAITS.keys() - ({"GOMP_SPINCOUNT", "KMP_BLOCKTIME"} if "OMP_WAIT_POLICY" in _os.environ else set()):
    _os.environ.setdefault(_name, _WAITS[_name])

_HOMES = {name: module for module, names in {  # {name: the module below hil that defines it}
    "core.errors": "DataError RunError",
    "method.neighbors": "knn",
    "method.rerank": "jaccard_distance",
    "method.cluster": "pseudo_labels centroids cluster_quality",
    "method.sub_clusters": "secondary_cluster",
    "method.match": "brst transfer",
    "method.memory": "ClusterMemory InstanceMemory",
    "method.losses": "mccl_loss neighbor_loss",
    "models.build": "build_model",
    "evaluation.metrics": "evaluate_sysu evaluate_regdb evaluate_llcm",
    "evaluation.protocols": "Protocol",
    "runs.config": "Config",
    "runs.folder": "Run",
    "training.trainer": "Trainer",
    "explore.app": "explore"}.items() for name in names.split()}

__all__ = ["__version__", *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]

TYPE_CHECKING = False  # a type checker takes it for true; tests/test_front_door.py holds this block to the table
if TYPE_CHECKING:
    from .core.errors import DataError as DataError, RunError as RunError
    from .evaluation.metrics import evaluate_llcm as evaluate_llcm, evaluate_regdb as evaluate_regdb
    from .evaluation.metrics import evaluate_sysu as evaluate_sysu
    from .evaluation.protocols import Protocol as Protocol
    from .explore.app import explore as explore
    from .method.cluster import centroids as centroids, cluster_quality as cluster_quality
    from .method.cluster import pseudo_labels as pseudo_labels
    from .method.losses import mccl_loss as mccl_loss, neighbor_loss as neighbor_loss
    from .method.match import brst as brst, transfer as transfer
    from .method.memory import ClusterMemory as ClusterMemory, InstanceMemory as InstanceMemory
    from .method.neighbors import knn as knn
    from .method.rerank import jaccard_distance as jaccard_distance
    from .method.sub_clusters import secondary_cluster as secondary_cluster
    from .models.build import build_model as build_model
    from .runs.config import Config as Config
    from .runs.folder import Run as Run
    from .training.trainer import Trainer as Trainer


def __getattr__(name):
    "Load a name of the front door when it is first asked for (PEP 562)."
    from importlib import import_module
    if name == "explore": return import_module("hil.explore")  # the folder of that name, which can be called
    if name in _HOMES: return globals().setdefault(name, getattr(import_module(f"hil.{_HOMES[name]}"), name))
    from .core.errors import closest
    raise AttributeError(f"hil has no {name!r}{closest(name, _HOMES)}", name=name)


def __dir__(): return sorted({*globals(), *_HOMES})
