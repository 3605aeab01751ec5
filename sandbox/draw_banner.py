"""`python sandbox/draw_banner.py`: write the banner for the registry."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from as_package import load

    load("sandbox.banner").main()
