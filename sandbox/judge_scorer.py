"""The judge as an image scorer of EvaluateSubject: individuals and backgrounds."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .judge import Judge, load_judge
from .world.lexicon import BACKGROUNDS


class JudgeScorer:
    """Scores images of the sandbox's world."""

    def __init__(self) -> None:
        self._judge: Judge = load_judge()

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """Return unit vectors [N,64] of the individuals in images [N,H,W,3], float 0..1."""
        return self._judge.embed(images)

    def score_prompts(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Return 1 for an image with the background that its prompt names, else 0; [N].

        Every image agrees with a prompt that names no background. Kinds are not compared, because
        the judge was not trained on things as unusual as the sandbox's subject.
        """
        scores = []
        for prediction, prompt in zip(self._judge.classify(images), prompts, strict=True):
            named = [name for name, words in BACKGROUNDS.items() if words in prompt]
            scores.append(prediction.background in named or not named)
        return torch.tensor(scores).float()
