"""`python sandbox/score.py`: measure the sandbox's models; `--write` writes the model card."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from as_package import load

    load("sandbox.scores.measure").main()
