"""`python bench/guidance_quality.py`: right kinds over guidance and steps, as a plot; `--help`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from as_package import load

    load("bench.quality").main()
