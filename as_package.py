"""Import the pack outside ComfyUI, whatever name its folder has."""

from __future__ import annotations

import importlib
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent
PACKAGE = "kosmos_dreambooth"


def load(module: str) -> ModuleType:
    """Import `kosmos_dreambooth.<module>` from this folder, e.g. `load("training.run.train_loop")`.

    Programs that are started by path (the training worker, the demo) and the tests use this;
    ComfyUI imports the folder by itself.
    """
    if PACKAGE not in sys.modules:
        spec = spec_from_file_location(
            PACKAGE, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        if spec is None or spec.loader is None:
            raise ImportError(f"{ROOT} holds no __init__.py, so it is not the pack's folder.")
        package = module_from_spec(spec)
        sys.modules[PACKAGE] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"{PACKAGE}.{module}")
