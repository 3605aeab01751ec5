"""`python bench/resume_equality.py`: a run that is killed again and again; see `--help`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from as_package import load

    load("bench.resume").main()
