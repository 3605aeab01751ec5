"""`python demo/take_portraits.py`: the README's pictures of panels, taken anew; see `--help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from as_package import load

load("demo.portraits").main()
