"""`python sandbox/score_languages.py`: teach the captioner other languages, and measure it."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from as_package import load

    load("sandbox.scores.languages").main()
