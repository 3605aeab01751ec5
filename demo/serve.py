"""Started by `make serve`."""

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from as_package import load

# Asked to end in either way, Python leaves its `with` blocks, and so stops what it started.
signal.signal(signal.SIGTERM, signal.default_int_handler)
load("demo.playground").serve()
