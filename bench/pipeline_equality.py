"""`python bench/pipeline_equality.py`: every scheduler against diffusers' pipeline; `--help`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from as_package import load

    load("bench.same_in_diffusers").main()
