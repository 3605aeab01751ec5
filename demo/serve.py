"""Started by `make serve`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from as_package import load

load("demo.playground").serve()
