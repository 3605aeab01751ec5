"""The judge as EvaluateSubject's eye: who is in a picture, and which background it shows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .judge import Judge, load_judge
from .world.lexicon import BACKGROUNDS


class JudgeScorer:
    """Sees pictures of the sandbox's world."""

    def __init__(self) -> None:
        self._judge: Judge = load_judge()

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """Return unit vectors [N,64] of who is in pictures [N,H,W,3], float 0..1."""
        return self._judge.embed(images)

    def score_prompts(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Return 1 for a picture whose background is the one that its prompt names, else 0; [N].

        A prompt that names none is obeyed by every picture. The judge was not taught to say the
        kind of a thing as odd as the sandbox's subject, so kinds do not count.
        """
        obeyed = []
        for seen, prompt in zip(self._judge.look(images), prompts, strict=True):
            named = [name for name, words in BACKGROUNDS.items() if words in prompt]
            obeyed.append(seen.background in named or not named)
        return torch.tensor(obeyed).float()
