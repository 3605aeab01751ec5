"""Nodes that show what Kosmos-2 looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..shared.errors import UserError
from . import host, panel_data
from .sockets import GROUNDING, KOSMOS

if TYPE_CHECKING:
    from ..kosmos.grounding import GroundedText, Grounding
    from ..kosmos.insight.attention import WordMap
    from ..kosmos.kosmos_model import Kosmos
    from ..shared.batching import BatchOptions


class AttentionMap(io.ComfyNode):
    """For every word of a caption, where in the picture it rests."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="AttentionMap",
            display_name="Attention Map",
            category="Kosmos DreamBooth/vision",
            description="For every word of a caption, the patches of the picture that it rests on: "
            "through the decoder's attention to the image slots, and the slots' attention to the "
            "patches.",
            is_output_node=True,
            inputs=[
                KOSMOS.Input("kosmos", tooltip="The model, from Load Kosmos-2."),
                io.Image.Input("image", tooltip="One picture or a batch, of any size."),
                io.String.Input(
                    "caption",
                    default="",
                    multiline=True,
                    tooltip="A caption for each picture, one a line, or one for all. Empty: the "
                    "model's own brief caption. Not used when grounding is connected.",
                ),
                io.String.Input(
                    "words",
                    default="",
                    tooltip="Words to map, separated by commas; each must be in the captions. "
                    "Empty: every word.",
                ),
                io.Combo.Input(
                    "method",
                    options=["gradient", "attention", "rollout"],
                    default="gradient",
                    tooltip="gradient: attention that raised the word's score, the most exact. "
                    "attention: the weights themselves, a mean over layers. rollout: attention "
                    "followed from layer to layer.",
                ),
                io.String.Input(
                    "layers",
                    default="all",
                    tooltip="Layers of the decoder that count: all, last, or numbers from 0, as 0, "
                    "2-4.",
                ),
                io.String.Input(
                    "heads",
                    default="all",
                    tooltip="Attention heads of these layers that count, written in the same way.",
                ),
                GROUNDING.Input(
                    "grounding",
                    optional=True,
                    tooltip="From Grounded Caption, for the same pictures: maps the captions as "
                    "they were written, boxes included.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="overlays",
                    tooltip="The picture once for each word, from violet (not at all) to yellow "
                    "(most), with the word marked in the caption.",
                ),
                io.Mask.Output(
                    display_name="masks",
                    tooltip="The same maps as masks of the picture's size, 0 where lowest and 1 "
                    "where highest.",
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
        wanted = [word.strip() for word in words.split(",") if word.strip()]
        host.load_to_device(kosmos.patcher)
        batching = BatchOptions(
            free_memory=host.free_memory(),
            on_batch=lambda *_: host.check_interrupted(),
            on_token=host.check_interrupted,
        )
        told = _captions(kosmos, image, caption, grounding, batching)
        progress = host.Progress(len(image))
        pictures, maps, texts, by_picture = [], [], [], []
        places = panel_data.pictures(image)
        for k, (picture, text) in enumerate(zip(image, told, strict=True)):
            spelled = tokenize_caption(kosmos, text)
            found = word_maps(
                kosmos,
                preprocess(kosmos, picture[None]),
                spelled,
                spelled.find_words(wanted),
                method=method,
                layers=chosen_layers,
                heads=chosen_heads,
                batching=batching,
            )
            pictures += [picture] * len(found)
            texts += [highlight(text.caption, m.word.start, m.word.end) for m in found]
            maps += found
            by_picture.append(found)
            progress.step(k + 1)
        height, width = image.shape[1:3]
        small = (
            sum(m.by_layer.numel() for m in maps if m.by_layer is not None) <= panel_data.MOST_BYTES
        )
        raw = [
            {
                **place,
                "picture": k,
                "caption": text.caption,
                "layers": chosen_layers or list(range(decoder.layers)),
                "words": [{**m.to_dict(), "layers": _by_layer(m) if small else []} for m in own],
            }
            for k, (place, text, own) in enumerate(zip(places, told, by_picture, strict=True))
        ]
        return io.NodeOutput(
            draw_overlay(pictures, [m.grid for m in maps], texts),
            torch.stack([grid_mask(m.grid, height, width) for m in maps]),
            [m.word.text for m in maps],
            ui={"attention": raw},
        )


def _by_layer(found: WordMap) -> list[str]:
    """Return each layer's map for the panel."""
    grids = () if found.by_layer is None else found.by_layer
    return [panel_data.as_bytes(grid.view(1, -1)) for grid in grids]


def _captions(
    kosmos: Kosmos,
    image: torch.Tensor,
    caption: str,
    grounding: Grounding | None,
    batching: BatchOptions,
) -> list[GroundedText]:
    """The captions to map, one for each picture: given with boxes, given, or the model's own."""
    from ..kosmos.generate.caption import caption as describe
    from ..kosmos.grounding import parse

    count = len(image)
    if grounding is not None:
        if len(grounding.captions) != count:
            raise UserError(
                f"There are {count} pictures but the grounding of {len(grounding.captions)}: "
                "connect the same pictures to Grounded Caption and Attention Map."
            )
        return list(grounding.captions)
    lines = [line for line in caption.splitlines() if line.strip()]
    if not lines:
        return describe(kosmos, image, batching=batching)
    if len(lines) not in (1, count):
        raise UserError(
            f"There are {count} pictures but {len(lines)} captions: write a line for each "
            "picture, one for all, or none."
        )
    told = [parse(line.strip()) for line in lines]
    return told * count if len(told) == 1 else told
