"""The node that shows the attention of a caption's words to the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..shared.errors import UserError
from ..shared.images import one_per_image
from . import host, panel_data
from .image_inputs import grounded_texts
from .sockets import GROUNDING, KOSMOS
from .text_inputs import text_lines

if TYPE_CHECKING:
    from ..kosmos.grounding import GroundedText, Grounding
    from ..kosmos.insight.attention import WordMap
    from ..kosmos.kosmos_model import Kosmos
    from ..shared.batching import BatchOptions


class AttentionMap(io.ComfyNode):
    """Attention maps of the words of a caption."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="AttentionMap",
            display_name="Attention Map",
            category="Kosmos DreamBooth/vision",
            search_aliases="attention, heatmap, explain, saliency, relevance, segment",
            advanced="layers heads",
            has_intermediate_output=True,
            description="Shows for every word of a caption which image patches it attends to: the "
            "decoder's attention to the image tokens, combined with their attention to the "
            "patches.",
            is_output_node=True,
            inputs=[
                KOSMOS.Input("kosmos", tooltip="The model, from Load Kosmos-2."),
                io.Image.Input("image", tooltip="One image or a batch, of any size."),
                io.String.Input(
                    "caption",
                    default="",
                    multiline=True,
                    tooltip="A caption for each image, one per line, or one for all. Empty: the "
                    "model's own brief caption. Not used when grounding is connected.",
                ),
                io.String.Input(
                    "words",
                    default="",
                    tooltip="Words to map, separated by commas; each must occur in a caption. "
                    "Empty: every word.",
                ),
                io.Combo.Input(
                    "method",
                    options=["gradient", "attention", "rollout"],
                    default="gradient",
                    tooltip="gradient: attention weighted by its gradient with respect to the "
                    "word's score, the most accurate. attention: the mean of the attention weights "
                    "over layers and heads. rollout: attention rollout through the layers.",
                ),
                io.String.Input(
                    "layers",
                    default="all",
                    tooltip="Decoder layers to use: all, last, or numbers from 0, such as 0, 2-4.",
                ),
                io.String.Input(
                    "heads",
                    default="all",
                    tooltip="Attention heads of these layers to use: all, last, or numbers from 0, "
                    "such as 0, 2-4.",
                ),
                GROUNDING.Input(
                    "grounding",
                    optional=True,
                    tooltip="From Grounded Caption, for the same images: maps its captions, in "
                    "which the model reads the boxes too.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="overlays",
                    tooltip="The image with a heatmap for each word, from violet (lowest) to "
                    "yellow (highest), and the word marked in the caption.",
                ),
                io.Mask.Output(
                    display_name="masks",
                    tooltip="The same maps as masks of the image's size, 0 = lowest, 1 = highest.",
                ),
                io.String.Output(
                    display_name="words",
                    is_output_list=True,
                    tooltip="The word of each overlay and mask.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        kosmos: Kosmos,
        image: torch.Tensor,
        caption: str,
        words: str,
        method: str,
        layers: str,
        heads: str,
        grounding: Grounding | None = None,
    ) -> io.NodeOutput:
        """Map the words."""
        from ..drawing.patch_overlay import draw_overlay, grid_mask, highlight
        from ..kosmos.insight.attention import parse_indices, word_maps
        from ..kosmos.preprocess import preprocess
        from ..kosmos.tokenized_caption import tokenize_caption
        from ..shared.batching import BatchOptions
        from ..shared.images import check_images

        check_images(image)
        decoder = kosmos.model.config.text_config
        chosen_layers = parse_indices(layers, decoder.layers, "layers")
        chosen_heads = parse_indices(heads, decoder.attention_heads, "heads")
        selected_words = [word.strip() for word in words.split(",") if word.strip()]
        host.load_to_device(kosmos.patcher)
        batching = BatchOptions(
            free_memory=host.free_memory(),
            on_batch=lambda *_: host.check_interrupted(),
            on_token=host.check_interrupted,
        )
        texts = _captions(kosmos, image, caption, grounding, batching)
        progress = host.Progress(len(image))
        maps_per_image: list[list[WordMap]] = [[] for _ in texts]
        errors = {}
        for k, (one, text) in enumerate(zip(image, texts, strict=True)):
            try:
                tokenized = tokenize_caption(kosmos, text)
                found = tokenized.find_words(_words_of(selected_words, text, texts))
            except UserError as error:
                errors[k + 1] = error
                continue
            maps_per_image[k] = word_maps(
                kosmos,
                preprocess(kosmos, one[None]),
                tokenized,
                found,
                method=method,
                layers=chosen_layers,
                heads=chosen_heads,
                batching=batching,
            )
            progress.step(k + 1)
        if len(errors) == len(texts):
            raise next(iter(errors.values()))
        if errors:
            lines = (f"Image {number} has no map. {error}" for number, error in errors.items())
            host.show_text("\n".join(lines))
        height, width = image.shape[1:3]
        flat = [
            (one, text.caption, word_map)
            for one, text, maps in zip(image, texts, maps_per_image, strict=True)
            for word_map in maps
        ]
        maps = [word_map for _, _, word_map in flat]
        values = sum(m.by_layer.numel() for m in maps if m.by_layer is not None)
        with_layers = values <= panel_data.OPTIONAL_BYTES
        return io.NodeOutput(
            draw_overlay(
                [one for one, _, _ in flat],
                [m.grid for m in maps],
                [highlight(text, m.word.start, m.word.end) for _, text, m in flat],
            ),
            torch.stack([grid_mask(m.grid, height, width) for m in maps]),
            [m.word.text for m in maps],
            ui={
                "attention": [
                    {
                        **address,
                        "picture": k,
                        "caption": text.caption,
                        "layers": chosen_layers or list(range(decoder.layers)),
                        "words": [
                            {**m.to_dict(), "layers": _layers(m) if with_layers else []}
                            for m in of_image
                        ],
                    }
                    for k, (address, text, of_image) in enumerate(
                        zip(panel_data.image_addresses(image), texts, maps_per_image, strict=True)
                    )
                    if of_image
                ]
            },
        )


def _words_of(words: Sequence[str], text: GroundedText, texts: Sequence[GroundedText]) -> list[str]:
    """Return the words to map in one of the captions: those that are not only in others."""
    here, others = text.caption.lower(), [other.caption.lower() for other in texts]
    chosen = [
        word
        for word in words
        if word.lower() in here or not any(word.lower() in other for other in others)
    ]
    return chosen or list(words)


def _layers(word_map: WordMap) -> list[str]:
    """Return each layer's map for the panel."""
    grids = () if word_map.by_layer is None else word_map.by_layer
    return [panel_data.as_bytes(grid.view(1, -1)) for grid in grids]


def _captions(
    kosmos: Kosmos,
    image: torch.Tensor,
    caption: str,
    grounding: Grounding | None,
    batching: BatchOptions,
) -> list[GroundedText]:
    """Return a caption for each image: of the grounding, of the input, or the model's own."""
    from ..kosmos.generate.caption import caption as describe
    from ..kosmos.grounding import parse

    if grounding is not None:
        return grounded_texts([grounding], len(image))
    lines = text_lines(caption)
    if not lines:
        return describe(kosmos, image, batching=batching)
    return [parse(line) for line in one_per_image(lines, len(image), "caption")]
