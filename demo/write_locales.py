"""Started by `make locales`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from as_package import load

load("demo.locales").write()
