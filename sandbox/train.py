"""Trains one of the sandbox's models, or goes on training it from the weights that are there.

python sandbox/train.py autoencoder --minutes 20
python sandbox/train.py painter     --minutes 90
python sandbox/train.py captioner   --minutes 75
python sandbox/train.py judge       --minutes 10
"""

import sys
from pathlib import Path

MODELS = ("autoencoder", "painter", "captioner", "judge")

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in MODELS:
        sys.exit(__doc__)
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from as_package import load

    load(f"sandbox.{sys.argv.pop(1)}").main()
