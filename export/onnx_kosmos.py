"""A Kosmos-2 that onnxruntime runs, in place of the model of transformers."""

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
    """Load the ONNX export of a Kosmos-2 in `folder`; it runs on the CPU.

    Raises UserError for another or a damaged export, and when onnxruntime is not installed.
    """
    manifest = Manifest.read(folder)
    if (manifest.kind, manifest.format) != ("kosmos-2", "onnx"):
        raise UserError(
            f'"{folder.name}" is a {manifest.format} export of {manifest.kind}, and only ONNX '
            "exports of Kosmos-2 can be loaded: choose another one."
        )
    runner = onnx_session_module()
    try:
        graphs = [runner.Graph(folder / f"{name}.onnx") for name in ("vision", "decoder")]
        model = OnnxKosmos(folder, manifest.parameters, *graphs)
        processor = Kosmos2Processor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # onnxruntime raises many exception types
        raise UserError(
            f'The export in "{folder.name}" is damaged or was written by a newer onnxruntime: '
            "export the model again."
        ) from error
    return Kosmos(model, processor, folder.name)


class OnnxKosmos(nn.Module):
    """The part of transformers' Kosmos2ForConditionalGeneration that text generation uses.

    Everything else (attention, patches, hidden states, likelihood, beam search, training) raises
    UserError.
    """

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, folder: Path, parameters: int, vision: Graph, decoder: Graph) -> None:
        super().__init__()
        self.config = Kosmos2Config.from_pretrained(folder, local_files_only=True)
        self._parameter_count = parameters
        self._vision = vision
        self.text_model = OnnxDecoder(
            decoder,
            self.config.text_config,
            GenerationConfig.from_pretrained(folder, local_files_only=True),
        )

    def num_parameters(self) -> int:
        """Return the number of weights of the exported model."""
        return self._parameter_count

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Return the image embeddings [B,Q,D] of pixel values [B,3,S,S], both float32."""
        return self._vision({"pixel_values": pixels})[0]

    @property
    def vision_model(self) -> NoReturn:
        """Not in an export: raises UserError."""
        _unsupported()

    @property
    def image_to_text_projection(self) -> NoReturn:
        """Not in an export: raises UserError."""
        _unsupported()


class DecoderOutput(NamedTuple):
    """Logits of the next token, float32 [B,1,V]."""

    logits: Tensor


class OnnxDecoder(nn.Module):
    """The part of transformers' Kosmos2TextForCausalLM that prefill and decoding use."""

    def __init__(self, graph: Graph, config: Any, generation_config: GenerationConfig) -> None:
        super().__init__()
        self._graph = graph
        self.config = config
        self.generation_config = generation_config

    @property
    def model(self) -> OnnxDecoder:
        """The decoder; an export always includes the output layer."""
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
        """Run the decoder on new tokens, and append their keys and values to `past_key_values`.

        Raises UserError for anything but the next-token logits with a cache.
        """
        if position_ids is None or past_key_values is None or not use_cache:
            _unsupported()
        if logits_to_keep != 1 or output_attentions:
            _unsupported()
        rows, length = input_ids.shape
        past = past_key_values.get_seq_length()
        if attention_mask is None:
            attention_mask = torch.ones(rows, past + length, dtype=torch.long)
        if image_embeds is None or image_embeds_position_mask is None:
            image_embeds = torch.zeros(rows, 1, self.config.embed_dim)
            image_embeds_position_mask = torch.zeros_like(input_ids)
        inputs = [input_ids, position_ids, attention_mask, image_embeds]
        inputs += [image_embeds_position_mask.long(), *self._cached(past_key_values, rows)]
        logits, *new = self._graph(dict(zip(self._graph.inputs, inputs, strict=True)))
        for layer in range(self.config.layers):
            past_key_values.update(new[2 * layer], new[2 * layer + 1], layer)
        return DecoderOutput(logits)

    def generate(self, *_: object, **__: object) -> NoReturn:
        """The beam search of transformers, which an export does not support: raises UserError."""
        _unsupported()

    def _cached(self, past: Cache, rows: int) -> list[Tensor]:
        if past.get_seq_length():
            return [state for layer in past.layers for state in (layer.keys, layer.values)]
        heads = self.config.attention_heads
        return [torch.zeros(rows, heads, 0, self.config.embed_dim // heads)] * (
            2 * self.config.layers
        )


def _unsupported() -> NoReturn:
    raise UserError(
        "This Kosmos-2 is an ONNX export, which only captions, answers and grounds, by greedy "
        "decoding or sampling: load the model that it was exported from."
    )
