"""Measures everything and writes the model card's table."""

from __future__ import annotations

import argparse
import logging
import time

import torch

from ...diffusion.load.model_source import load_diffusion
from ...kosmos.load import load_kosmos
from ...sandbox import DIFFUSION, KOSMOS
from ...sandbox.judge import load_judge
from .caption_scores import captions, judged
from .personalisation_scores import personalised
from .prompt_scores import paintings
from .question_scores import answers
from .score_table import Figure, write_card

log = logging.getLogger(__name__)


def main() -> None:
    """Read the command line, measure, print, and rewrite the model card if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=300, help="scenes for the captioner")
    parser.add_argument("--prompts", type=int, default=100, help="prompts for the painter")
    parser.add_argument(
        "--pictures", type=int, default=32, help="pictures for each personal figure"
    )
    parser.add_argument("--runs", type=int, default=2, help="personalisation runs, a seed each")
    parser.add_argument("--write", action="store_true", help="write the figures into the card")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    began = time.monotonic()
    kosmos = load_kosmos(KOSMOS, torch.float32)
    diffusion = load_diffusion(DIFFUSION)
    judge = load_judge()
    figures: list[Figure] = []
    for part in (
        judged(judge, options.scenes),
        captions(kosmos, options.scenes),
        answers(kosmos, options.scenes // 3),
        paintings(diffusion, kosmos, judge, options.prompts),
        personalised(diffusion, kosmos, judge, options.pictures, range(options.runs)),
    ):
        for figure in part:
            log.info(figure.row())
            figures.append(figure)
    if options.write:
        write_card(figures, time.monotonic() - began)
