"""`python sandbox/draw_subject.py`: write the four pictures of the demo's subject."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from as_package import load

    load("sandbox.subject").main()
