"""`python bench/quantized_speed.py`: how fast captions are written in fewer bits; `--help`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from as_package import load

    load("bench.quantized").main()
