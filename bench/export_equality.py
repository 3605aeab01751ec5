"""`python bench/export_equality.py`: exports against PyTorch, size, difference, speed; `--help`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from as_package import load

    load("bench.exports").main()
