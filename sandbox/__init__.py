"""Small models with the real architectures, trained here on a world that our own code draws.

Importing this module imports nothing: it only says where the weights lie.
"""

from pathlib import Path

WEIGHTS = Path(__file__).resolve().parent / "weights"
KOSMOS = WEIGHTS / "kosmos"
DIFFUSION = WEIGHTS / "diffusion"
JUDGE = WEIGHTS / "judge"
