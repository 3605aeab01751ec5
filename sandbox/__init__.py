"""Small models with the real architectures, trained on scenes that `sandbox.world` draws.

This module only has the folders of the weights and imports none of the models.
"""

from pathlib import Path

WEIGHTS = Path(__file__).resolve().parent / "weights"
KOSMOS = WEIGHTS / "kosmos"
DIFFUSION = WEIGHTS / "diffusion"
JUDGE = WEIGHTS / "judge"
