"""`python demo/tell_stories.py`: run all saved workflows, as saved, through comfy-cli."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from as_package import load

load("demo.stories").main()
