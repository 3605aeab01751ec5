"""`python sandbox/draw_scenes.py`: write the scenes that the saved workflows look at."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from as_package import load

    load("sandbox.scene_files").main()
