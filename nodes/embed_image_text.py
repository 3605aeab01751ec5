"""EMBEDDING of pictures and EMBEDDING of texts, in one space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..shared.errors import UserError
from . import host, hub_models
from .batch_inputs import batch_size_input
from .sockets import EMBEDDING, KOSMOS

if TYPE_CHECKING:
    from ..kosmos.kosmos_model import Kosmos
    from ..shared.batching import BatchOptions

NONE = "none"

Vectors = tuple[torch.Tensor | None, torch.Tensor | None, str]
"""Of pictures [B,D] and of texts [N,D], where there are any, and the name of their space."""


class EmbedImageText(io.ComfyNode):
    """EMBEDDING of pictures and EMBEDDING of texts, in one space."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node; the combo lists models/clip as it is now."""
        return io.Schema(
            node_id="EmbedImageText",
            display_name="Embed Image and Text",
            category="Kosmos DreamBooth/vision",
            description="Puts pictures and texts into one space, where Compare Embeddings finds "
            "which belong together. Three methods, of which two need nothing but Kosmos-2.",
            is_input_list=True,
            inputs=[
                io.Combo.Input(
                    "method",
                    options=["decoder", "likelihood", "dual encoder"],
                    default="decoder",
                    tooltip="decoder: Kosmos-2's last hidden state behind a prompt that wants one "
                    "word. likelihood: how much likelier each picture makes each text; the most "
                    "exact, and its cost is pictures times texts. dual encoder: a CLIP or SigLIP.",
                ),
                io.String.Input(
                    "text",
                    default="a red dog in the meadow\na blue boat by the sea",
                    multiline=True,
                    tooltip="Texts, one a line; may be empty with the other methods than "
                    "likelihood. A list of captions can be connected.",
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    tooltip='What the decoder reads behind a picture or a text; empty is "This is '
                    'a" for decoder. For likelihood, what the texts continue; empty is "An image '
                    'of". Not used by dual encoder.',
                ),
                io.Combo.Input(
                    "dual_encoder",
                    options=hub_models.choices("clip", hub_models.DUAL_ENCODERS, NONE),
                    default=NONE,
                    tooltip="For the method dual encoder only: a folder in models/clip in "
                    "transformers' layout, or a model of the Hugging Face hub (owner/name), which "
                    "is downloaded on first use.",
                ),
                batch_size_input("Pictures, texts or pairs"),
                KOSMOS.Input(
                    "kosmos",
                    optional=True,
                    tooltip="From Load Kosmos-2, for decoder and likelihood.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="Pictures: a batch, or a list of any sizes.",
                ),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="For decoder only: some hundred pictures (32 at least) of the kind you "
                    "compare. The model describes them itself, and learns from that how its states "
                    "behind pictures and behind texts correspond. Without it the model describes "
                    "each picture first, and its own description is read.",
                ),
            ],
            outputs=[
                EMBEDDING.Output(display_name="pictures", tooltip="A vector for each picture."),
                EMBEDDING.Output(display_name="texts", tooltip="A vector for each text."),
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
        """Embed what is connected."""
        from ..kosmos.insight.embedding import Embedding, thumbnails

        images = image or []
        texts = [line.strip() for part in text for line in part.splitlines() if line.strip()]
        if not images and not texts:
            raise UserError("There is nothing to embed: connect an image, or write a text.")
        if method[0] == "dual encoder":
            found = _by_dual_encoder(dual_encoder[0], images, texts, batch_size[0])
        elif kosmos is None:
            raise UserError(
                f"The method {method[0]} needs Kosmos-2: connect Load Kosmos-2 to kosmos, or "
                "choose dual encoder."
            )
        else:
            host.load_to_device(kosmos[0].patcher)
            asked, size = prompt[0].strip(), batch_size[0]
            if method[0] == "likelihood":
                found = _by_likelihood(kosmos[0], images, texts, asked, size)
            else:
                found = _by_decoder(kosmos[0], images, texts, asked, size, reference or [])
        pictures, told, space = found
        count = sum(map(len, images))
        names = tuple(f"picture {k + 1}" for k in range(count))
        return io.NodeOutput(
            host.block_output("No picture was embedded: connect an image to Embed Image and Text.")
            if pictures is None
            else Embedding(pictures, names, space, torch.cat([thumbnails(i) for i in images])),
            host.block_output("No text was embedded: write one into Embed Image and Text.")
            if told is None
            else Embedding(told, tuple(texts), space),
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
    watched = _Watched(sum(map(len, [*images, *reference, *reference])) + len(texts), batch_size)
    space = f"decoder states of {kosmos.name} behind '{prompt}'"
    pictures = told = None
    if texts:
        told = text_states(kosmos, texts, prompt, watched.batching())
    if not reference:
        if images:
            states = [caption_states(kosmos, i, prompt, watched.batching()) for i in images]
            pictures = l2_normalize(torch.cat(states))
        return pictures, None if told is None else l2_normalize(told), space
    seen = [image_states(kosmos, part, prompt, watched.batching()) for part in reference]
    said = [caption_states(kosmos, part, prompt, watched.batching()) for part in reference]
    alignment = fit_alignment(torch.cat(seen), torch.cat(said))
    if images:
        states = [image_states(kosmos, part, prompt, watched.batching()) for part in images]
        pictures = alignment.map_images(torch.cat(states))
    if told is not None:
        told = alignment.map_texts(told)
    return pictures, told, f"{space}, aligned by reference {alignment.digest}"


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
            "The method likelihood asks how well a text fits a picture, so it needs both: connect "
            "an image and write a text, or choose decoder."
        )
    watched = _Watched(sum(map(len, images)) * len(texts), batch_size)
    prompt = prompt or BRIEF
    scores = [likelihood_scores(kosmos, part, texts, prompt, watched.batching()) for part in images]
    return torch.cat(scores), torch.eye(len(texts)), likelihood_space_name(kosmos, texts, prompt)


def _by_dual_encoder(
    model: str, images: Sequence[torch.Tensor], texts: Sequence[str], batch_size: int
) -> Vectors:
    from ..kosmos.insight.dual_encoder import embed_images, embed_texts, load_dual_encoder

    if model == NONE:
        raise UserError("No dual encoder is chosen: choose one in dual_encoder.")
    dual = load_dual_encoder(hub_models.folder("clip", model), host.torch_dtype("auto"))
    host.load_to_device(host.register_model(dual.model))
    watched = _Watched(sum(map(len, images)) + len(texts), batch_size)
    return (
        torch.cat([embed_images(dual, part, watched.batching()) for part in images])
        if images
        else None,
        embed_texts(dual, texts, watched.batching()) if texts else None,
        f"vectors of {model}",
    )


class _Watched:
    """One progress bar for several pieces of work, one after the other."""

    def __init__(self, total: int, batch_size: int) -> None:
        self._progress = host.Progress(total)
        self._batch_size = batch_size
        self._done = 0

    def batching(self) -> BatchOptions:
        """Return the batch options of the next piece."""
        from ..shared.batching import BatchOptions

        start = self._done

        def on_batch(done: int, _: int) -> None:
            self._done = start + done
            self._progress.step(self._done)

        return BatchOptions(self._batch_size, host.free_memory(), on_batch, host.check_interrupted)
