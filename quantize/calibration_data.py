"""Calibration runs of both models: captions of images, images of prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ..diffusion.diffusion_model import Diffusion
from ..diffusion.sample.prompt_encoding import encode_tokens, tokenize
from ..diffusion.sample.sample_images import sample
from ..kosmos.generate.caption import BRIEF, caption
from ..kosmos.kosmos_model import Kosmos
from ..shared.batching import CLOSE_PROGRAMS, BatchOptions, memory_remedy
from .calibration import CalibrationRun
from .compare_models import GUIDANCE, MAX_NEW_TOKENS, STEPS

MAX_SAMPLES = 16
"""Images or prompts of a calibration run; more hardly change the scales of AWQ."""


def captioning_run(
    kosmos: Kosmos, images: Tensor, on_token: Callable[[], None] | None = None
) -> CalibrationRun:
    """Return a function that captions up to MAX_SAMPLES of the images [B,H,W,3]."""
    batching = BatchOptions(on_token=on_token)
    return lambda: caption(
        kosmos, images[:MAX_SAMPLES], BRIEF, max_new_tokens=MAX_NEW_TOKENS, batching=batching
    )


def sampling_run(
    diffusion: Diffusion, prompts: Sequence[str], on_step: Callable[[], None] | None = None
) -> CalibrationRun:
    """Return a function that encodes and samples up to MAX_SAMPLES of the prompts."""

    @memory_remedy(CLOSE_PROGRAMS)
    def run() -> None:
        # `sample` may take the text states from its cache, so the encoders are run here as well.
        encode_tokens(diffusion, tokenize(diffusion, prompts[:MAX_SAMPLES]).to(diffusion.device))
        sample(
            diffusion,
            prompts[:MAX_SAMPLES],
            steps=STEPS,
            guidance=GUIDANCE,
            on_step=on_step and (lambda done, total, preview: on_step()),
        )

    return run
