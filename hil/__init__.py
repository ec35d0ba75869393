"""Hierarchical Identity Learning (HIL) for unsupervised visible-infrared person re-identification.

The front door: `from hil import jaccard_distance, brst, Config, Trainer, explore`. A name is loaded when it is first asked for,
so `import hil` takes milliseconds. Everything else lives in the wings `hil.core`, `hil.data`, ... `hil.explore`.
"""
__version__ = "0.2.0"

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

__all__ = ["__version__", *_HOMES]

TYPE_CHECKING = False  # type checkers take it for true; tests/test_front_door.py holds this block to the table
if TYPE_CHECKING:
    from .core.errors import DataError, RunError
    from .evaluation.metrics import evaluate_llcm, evaluate_regdb, evaluate_sysu
    from .evaluation.protocols import Protocol
    from .explore.app import explore
    from .method.cluster import centroids, cluster_quality, pseudo_labels
    from .method.losses import mccl_loss, neighbor_loss
    from .method.match import brst, transfer
    from .method.memory import ClusterMemory, InstanceMemory
    from .method.neighbors import knn
    from .method.rerank import jaccard_distance
    from .method.sub_clusters import secondary_cluster
    from .models.build import build_model
    from .runs.config import Config
    from .runs.folder import Run
    from .training.trainer import Trainer


def __getattr__(name):
    "Load a name of the front door when it is first asked for (PEP 562)."
    from importlib import import_module
    if name == "explore": return import_module("hil.explore")  # the folder of that name, which can be called
    if name in _HOMES: return globals().setdefault(name, getattr(import_module(f"hil.{_HOMES[name]}"), name))
    from .core.errors import closest
    raise AttributeError(f"hil has no {name!r}{closest(name, _HOMES)}", name=name)


def __dir__(): return sorted({*globals(), *_HOMES})
