"""`python sandbox/score_ablation.py`: what each option of the training is worth; see `--help`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from as_package import load

    load("sandbox.scores.ablation").main()
