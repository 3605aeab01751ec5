"""`python sandbox/score_quantized.py`: what fewer bits cost the sandbox's models."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from as_package import load

    load("sandbox.scores.quantized").main()
