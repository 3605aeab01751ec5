"""`python bench/cancel_speed.py`: from Cancel to a checkpoint that goes on; see `--help`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from as_package import load

    load("bench.cancel").main()
