"""Start a training run by path: `python training/worker.py <run folder>/config.yaml`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # in place of this folder
    from as_package import load

    load("training.run.worker_main").main()
