"""Captions by beam search: transformers' own, over the same view of the pictures."""

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
    """Return the likeliest text that `beams` candidates lead to, as token ids, for each picture.

    All prompts are the same, so that no row needs padding
    in front, with which transformers' positions would go wrong. Scores are mean log-probabilities
    of the tokens. `on_token` is called after each token, and may raise to end the work.
    """
    features = encode_images(kosmos, preprocess(kosmos, images))
    config = kosmos.model.config.text_config
    ids = torch.tensor(prompt.ids, device=features.device).expand(len(features), -1)
    slots = torch.zeros_like(ids)
    slots[:, prompt.slots[0] : prompt.slots[1]] = 1
    with few_rows(kosmos.model):
        written = kosmos.model.text_model.generate(
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
            stopping_criteria=StoppingCriteriaList([_EachToken(on_token)] if on_token else []),
        )
    return written[:, ids.shape[1] :].tolist()


class _EachToken(StoppingCriteria):
    """Calls back after each token, and never stops by itself."""

    def __init__(self, on_token: Callable[[], None]) -> None:
        self._on_token = on_token

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        self._on_token()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
