"""The explorer: `from hil import explore; explore("runs/...")` shows a run in one cell of JupyterLab.

Its parts are the modules of this folder.
"""
import sys
from types import ModuleType


class _Explore(ModuleType):
    "The folder and its function share the name `hil.explore`, so the folder can be called."
    def __call__(self,
        source, # run folder, Run, Session, or DataFrame (path, camid, modality, optional pid, label, train)
        features=None, # [N, D] features of the DataFrame's rows
        **options, # as for `hil.explore.app.explore`
    ):
        "All views of one session in tabs."
        try: from .app import explore
        except ModuleNotFoundError as error:
            if error.name.startswith("hil"): raise
            raise ImportError(f"explore needs {error.name}, which is not installed; install hil with its extra: "
                              "pip install 'hil[notebook]'") from error
        return explore(source, features, **options)


sys.modules[__name__].__class__ = _Explore
