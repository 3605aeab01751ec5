"""`python bench/panel_speed.py`: what the panels cost the page, and how they scroll; `--help`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from as_package import load

    load("bench.panels").main()
