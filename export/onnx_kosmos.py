"""Kosmos-2 as onnxruntime runs it, in the place of transformers' model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, Kosmos2Config, Kosmos2Processor
from transformers.cache_utils import Cache

from ..kosmos.kosmos_model import Kosmos
from ..shared.errors import UserError
from .export_folder import Manifest
from .export_formats import onnx_session_module

if TYPE_CHECKING:
    from .onnx_session import Graph


def load_onnx_kosmos(folder: Path) -> Kosmos:
    """Load a Kosmos-2 that was exported as ONNX into `folder`; it computes on the CPU.

    Raises UserError when the folder holds no such export, or a damaged one, and when
    onnxruntime is not installed.
    """
    manifest = Manifest.read(folder)
    if (manifest.kind, manifest.format) != ("kosmos-2", "onnx"):
        raise UserError(
            f'"{folder.name}" is a {manifest.format} export of {manifest.kind}, and only ONNX '
            "exports of Kosmos-2 run here: choose another one."
        )
    runner = onnx_session_module()
    try:
        graphs = [runner.Graph(folder / f"{name}.onnx") for name in ("vision", "decoder")]
        model = OnnxKosmos(folder, manifest.parameters, *graphs)
        processor = Kosmos2Processor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # onnxruntime has an exception of its own for each kind of damage
        raise UserError(
            f'The export in "{folder.name}" is damaged or was made by a newer onnxruntime: export '
            "the model again."
        ) from error
    return Kosmos(model, processor, folder.name)


class OnnxKosmos(nn.Module):
    """Answers as transformers' Kosmos2ForConditionalGeneration, as far as text is written.

    What looks inside the model (attention, patches, hidden states, likelihood, beams, training)
    ends in a UserError.
    """

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, folder: Path, parameters: int, vision: Graph, decoder: Graph) -> None:
        super().__init__()
        self.config = Kosmos2Config.from_pretrained(folder, local_files_only=True)
        self._parameters_counted = parameters
        self._vision = vision
        self.text_model = OnnxDecoder(
            decoder,
            self.config.text_config,
            GenerationConfig.from_pretrained(folder, local_files_only=True),
        )

    def num_parameters(self) -> int:
        """Return how many weights the model had that was exported."""
        return self._parameters_counted

    def look(self, pixels: Tensor) -> Tensor:
        """Return the slots [B,Q,D] of pixel values [B,3,S,S], both float32."""
        return self._vision({"pixel_values": pixels})[0]

    @property
    def vision_model(self) -> NoReturn:
        """Not in an export."""
        _refuse()

    @property
    def image_to_text_projection(self) -> NoReturn:
        """Not in an export."""
        _refuse()


class DecoderOutput(NamedTuple):
    """What the decoder says: logits of the next token, float32 [B,1,V]."""

    logits: Tensor


class OnnxDecoder(nn.Module):
    """Answers as transformers' Kosmos2TextForCausalLM while text is written, token by token."""

    def __init__(self, graph: Graph, config: Any, generation_config: GenerationConfig) -> None:
        super().__init__()
        self._graph = graph
        self.config = config
        self.generation_config = generation_config

    @property
    def model(self) -> OnnxDecoder:
        """The decoder without its last layer; in an export that cannot be taken off."""
        return self

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_embeds: Tensor | None = None,
        image_embeds_position_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = True,
        logits_to_keep: int = 1,
        output_attentions: bool = False,
    ) -> DecoderOutput:
        """Read tokens behind what `past_key_values` holds, and remember them there."""
        if position_ids is None or past_key_values is None or not use_cache:
            _refuse()
        if logits_to_keep != 1 or output_attentions:
            _refuse()
        rows, length = input_ids.shape
        past = past_key_values.get_seq_length()
        if attention_mask is None:
            attention_mask = torch.ones(rows, past + length, dtype=torch.long)
        if image_embeds is None or image_embeds_position_mask is None:
            image_embeds = torch.zeros(rows, 1, self.config.embed_dim)
            image_embeds_position_mask = torch.zeros_like(input_ids)
        given = [input_ids, position_ids, attention_mask, image_embeds]
        given += [image_embeds_position_mask.long(), *self._remembered(past_key_values, rows)]
        logits, *new = self._graph(dict(zip(self._graph.inputs, given, strict=True)))
        for layer in range(self.config.layers):
            past_key_values.update(new[2 * layer], new[2 * layer + 1], layer)
        return DecoderOutput(logits)

    def generate(self, *_: object, **__: object) -> NoReturn:
        """Beam search of transformers', which needs its own model."""
        _refuse()

    def _remembered(self, past: Cache, rows: int) -> list[Tensor]:
        if past.get_seq_length():
            return [state for layer in past.layers for state in (layer.keys, layer.values)]
        heads = self.config.attention_heads
        return [torch.zeros(rows, heads, 0, self.config.embed_dim // heads)] * (
            2 * self.config.layers
        )


def _refuse() -> NoReturn:
    raise UserError(
        "This Kosmos-2 is an ONNX export, which describes, answers and grounds by greedy decoding "
        "or sampling and can do nothing else: load the model that it was made from."
    )
