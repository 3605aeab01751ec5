"""Generate captions by the beam search of transformers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from ...shared.images import Images
from ..kosmos_model import Kosmos
from ..preprocess import preprocess
from ..prompt import Prompt
from .few_row_linear import few_rows
from .image_encoder import encode_images


def beam_search(
    kosmos: Kosmos,
    images: Images,
    prompt: Prompt,
    *,
    beams: int,
    max_new_tokens: int,
    on_token: Callable[[], None] | None,
) -> list[list[int]]:
    """Return the token ids of the most probable of `beams` texts for each image.

    All images have the same prompt, as transformers would assign wrong positions behind padding.
    Texts are scored by the mean log-probability of their tokens. `on_token` is called after each
    token, and may raise to end the work.
    """
    features = encode_images(kosmos, preprocess(kosmos, images))
    config = kosmos.model.config.text_config
    ids = torch.tensor(prompt.ids, device=features.device).expand(len(features), -1)
    slots = torch.zeros_like(ids)
    slots[:, prompt.slots[0] : prompt.slots[1]] = 1
    with few_rows(kosmos.model):
        sequences = kosmos.model.text_model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            image_embeds=features,
            image_embeds_position_mask=slots,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=beams,
            use_cache=True,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
            stopping_criteria=StoppingCriteriaList([_TokenCallback(on_token)] if on_token else []),
        )
    return sequences[:, ids.shape[1] :].tolist()


class _TokenCallback(StoppingCriteria):
    """Calls a function after each token, and never stops by itself."""

    def __init__(self, on_token: Callable[[], None]) -> None:
        self._on_token = on_token

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        self._on_token()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
