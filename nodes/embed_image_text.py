"""The node that embeds images and texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..shared.errors import UserError
from . import host, hub_models
from .batch_inputs import SharedProgress, batch_size_input
from .sockets import EMBEDDING, KOSMOS
from .text_inputs import text_lines

if TYPE_CHECKING:
    from ..kosmos.kosmos_model import Kosmos

NONE = "none"

Vectors = tuple[torch.Tensor | None, torch.Tensor | None, str]
"""Embeddings of images [B,D] and of texts [N,D], None where there are none, and their space."""


class EmbedImageText(io.ComfyNode):
    """Embeddings of images and texts in one space."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node; the combo lists models/clip as it is now."""
        return host.node_schema(
            node_id="EmbedImageText",
            display_name="Embed Image and Text",
            category="Kosmos DreamBooth/vision",
            search_aliases="embedding, clip score, siglip, image search, similarity",
            advanced="batch_size",
            description="Embeds images and texts in one vector space, in which Compare Embeddings "
            "ranks them by similarity. Two of the three methods need only Kosmos-2.",
            is_input_list=True,
            inputs=[
                io.Combo.Input(
                    "method",
                    options=["decoder", "likelihood", "dual encoder"],
                    default="decoder",
                    tooltip="decoder: Kosmos-2's last hidden state after a prompt that asks for "
                    "one word. likelihood: how much each image raises the probability of each "
                    "text; the most accurate, at a cost of images times texts. dual encoder: CLIP "
                    "or SigLIP.",
                ),
                io.String.Input(
                    "text",
                    default="a red dog in the meadow\na blue boat by the sea",
                    multiline=True,
                    tooltip="Texts, one per line; may be empty except with likelihood. A list of "
                    "captions can be connected.",
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    tooltip='Prompt after the image or text, for decoder (empty: "This is a"); '
                    'beginning of the texts, for likelihood (empty: "An image of"). Not used by '
                    "dual encoder.",
                ),
                io.Combo.Input(
                    "dual_encoder",
                    options=hub_models.model_options("clip", hub_models.DUAL_ENCODERS, NONE),
                    default=NONE,
                    tooltip="For the method dual encoder only: a folder in models/clip in the "
                    "transformers layout, or a model of the Hugging Face hub (owner/name), which "
                    "is downloaded on first use.",
                ),
                batch_size_input("Images, texts or pairs"),
                KOSMOS.Input(
                    "kosmos",
                    optional=True,
                    tooltip="From Load Kosmos-2, for decoder and likelihood.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The images: a batch, or a list of images of any size.",
                ),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="For decoder only: some hundred images (at least 32) of the same kind, "
                    "which the model captions itself to fit an alignment between its image and its "
                    "text states. Without it each image is captioned first, and the caption is "
                    "embedded.",
                ),
            ],
            outputs=[
                EMBEDDING.Output(display_name="images", tooltip="An embedding for each image."),
                EMBEDDING.Output(display_name="texts", tooltip="An embedding for each text."),
            ],
        )

    @classmethod
    def execute(
        cls,
        method: list[str],
        text: list[str],
        prompt: list[str],
        dual_encoder: list[str],
        batch_size: list[int],
        kosmos: list[Kosmos] | None = None,
        image: list[torch.Tensor] | None = None,
        reference: list[torch.Tensor] | None = None,
    ) -> io.NodeOutput:
        """Embed the connected images and the texts."""
        from ..kosmos.insight.embedding import Embedding, thumbnails

        images = image or []
        texts = text_lines(*text)
        if not images and not texts:
            raise UserError("There is nothing to embed: connect an image, or write a text.")
        if method[0] == "dual encoder":
            vectors = _by_dual_encoder(dual_encoder[0], images, texts, batch_size[0])
        elif kosmos is None:
            raise UserError(
                f"The method {method[0]} needs Kosmos-2: connect Load Kosmos-2 to kosmos, or "
                "choose dual encoder."
            )
        else:
            host.load_to_device(kosmos[0].patcher)
            own_prompt, size = prompt[0].strip(), batch_size[0]
            if method[0] == "likelihood":
                vectors = _by_likelihood(kosmos[0], images, texts, own_prompt, size)
            else:
                vectors = _by_decoder(kosmos[0], images, texts, own_prompt, size, reference or [])
        image_vectors, text_vectors, space = vectors
        names = tuple(f"image {k + 1}" for k in range(sum(map(len, images))))
        return io.NodeOutput(
            host.block_output("No image was embedded: connect an image to Embed Image and Text.")
            if image_vectors is None
            else Embedding(
                image_vectors, names, space, torch.cat([thumbnails(batch) for batch in images])
            ),
            host.block_output("No text was embedded: write one into Embed Image and Text.")
            if text_vectors is None
            else Embedding(text_vectors, tuple(texts), space),
        )


def _by_decoder(
    kosmos: Kosmos,
    images: Sequence[torch.Tensor],
    texts: Sequence[str],
    prompt: str,
    batch_size: int,
    reference: Sequence[torch.Tensor],
) -> Vectors:
    from ..kosmos.insight.decoder_space import (
        PROMPT,
        caption_states,
        fit_alignment,
        image_states,
        text_states,
    )
    from ..kosmos.insight.embedding import l2_normalize

    prompt = prompt or PROMPT
    progress = SharedProgress(
        sum(map(len, [*images, *reference, *reference])) + len(texts), batch_size
    )
    space = f"decoder states of {kosmos.name} after '{prompt}'"
    image_vectors = text_vectors = None
    if texts:
        text_vectors = text_states(kosmos, texts, prompt, progress.batch_options())
    if not reference:
        if images:
            states = [
                caption_states(kosmos, batch, prompt, progress.batch_options()) for batch in images
            ]
            image_vectors = l2_normalize(torch.cat(states))
        return image_vectors, None if text_vectors is None else l2_normalize(text_vectors), space
    reference_images = [
        image_states(kosmos, batch, prompt, progress.batch_options()) for batch in reference
    ]
    reference_captions = [
        caption_states(kosmos, batch, prompt, progress.batch_options()) for batch in reference
    ]
    alignment = fit_alignment(torch.cat(reference_images), torch.cat(reference_captions))
    if images:
        states = [image_states(kosmos, batch, prompt, progress.batch_options()) for batch in images]
        image_vectors = alignment.map_images(torch.cat(states))
    if text_vectors is not None:
        text_vectors = alignment.map_texts(text_vectors)
    return image_vectors, text_vectors, f"{space}, aligned by reference {alignment.digest}"


def _by_likelihood(
    kosmos: Kosmos,
    images: Sequence[torch.Tensor],
    texts: Sequence[str],
    prompt: str,
    batch_size: int,
) -> Vectors:
    from ..kosmos.insight.likelihood import BRIEF, likelihood_scores, likelihood_space_name

    if not images or not texts:
        raise UserError(
            "The method likelihood scores each text given each image and needs both: connect an "
            "image and write a text, or choose decoder."
        )
    progress = SharedProgress(sum(map(len, images)) * len(texts), batch_size)
    prompt = prompt or BRIEF
    scores = [
        likelihood_scores(kosmos, batch, texts, prompt, progress.batch_options())
        for batch in images
    ]
    return torch.cat(scores), torch.eye(len(texts)), likelihood_space_name(kosmos, texts, prompt)


def _by_dual_encoder(
    model: str, images: Sequence[torch.Tensor], texts: Sequence[str], batch_size: int
) -> Vectors:
    from ..kosmos.insight.dual_encoder import embed_images, embed_texts, load_dual_encoder

    if model == NONE:
        raise UserError("No dual encoder is chosen: choose one in dual_encoder.")
    dual = load_dual_encoder(hub_models.model_folder("clip", model), host.torch_dtype("auto"))
    host.load_to_device(host.register_model(dual.model))
    progress = SharedProgress(sum(map(len, images)) + len(texts), batch_size)
    return (
        torch.cat([embed_images(dual, batch, progress.batch_options()) for batch in images])
        if images
        else None,
        embed_texts(dual, texts, progress.batch_options()) if texts else None,
        f"vectors of {model}",
    )
