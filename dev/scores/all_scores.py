"""Measure all scores of the sandbox's models, and write the model card's table."""

from __future__ import annotations

import logging
import time
from itertools import chain

import torch

from ...diffusion.load.model_source import load_diffusion
from ...kosmos.load import load_kosmos
from ...sandbox import DIFFUSION, KOSMOS
from ...sandbox.judge import load_judge
from ..command_line import parse_arguments
from .caption_scores import captions, judge_accuracy
from .personalisation_scores import personalisation
from .prompt_scores import prompt_adherence
from .question_scores import answers
from .score_table import Figure, write_card

log = logging.getLogger(__name__)


def main() -> None:
    """Measure, print, and write the model card on request."""
    options = parse_arguments(
        __doc__,
        scenes=(300, "scenes for the captioner"),
        prompts=(100, "prompts for the diffusion model"),
        images=(32, "images for each score of personalisation"),
        runs=(2, "personalisation runs, a seed each"),
        write=(False, "write the figures into the card"),
    )
    start = time.monotonic()
    kosmos, judge = load_kosmos(KOSMOS, torch.float32), load_judge()
    diffusion = load_diffusion(DIFFUSION)
    figures: list[Figure] = []
    for figure in chain(
        judge_accuracy(judge, options.scenes),
        captions(kosmos, options.scenes),
        answers(kosmos, options.scenes // 3),
        prompt_adherence(diffusion, kosmos, judge, options.prompts),
        personalisation(diffusion, kosmos, judge, options.images, range(options.runs)),
    ):
        log.info(figure.row())
        figures.append(figure)
    if options.write:
        write_card(figures, time.monotonic() - start)
