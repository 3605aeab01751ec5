"""The node that quantizes a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..kosmos.kosmos_model import Kosmos
from ..sandbox.scenes import scenes
from ..shared.images import to_batch
from . import host
from .sockets import DIFFUSION, KOSMOS
from .text_inputs import required_lines

if TYPE_CHECKING:
    from ..diffusion.diffusion_model import Diffusion
    from ..quantize.compare_models import Comparison
    from ..quantize.quantize_models import QuantizedModel

FORMATS = ["int8", "int8 dynamic", "int4", "fp8", "bf16", "fp16", "int4 awq"]
RESTS = {"bf16": torch.bfloat16, "fp16": torch.float16, "as it is": None}
COMPARED = 4
"""Images or prompts that both models are compared on; those after them are calibration data."""

PROMPTS = "a red dog in the meadow\na blue house in the snow\na cat and a tree\na yellow bird"


class Quantize(io.ComfyNode):
    """A quantized model, and a report on its cost and quality."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="Quantize",
            display_name="Quantize",
            category="Kosmos DreamBooth/deploy",
            search_aliases="int8, int4, fp8, quantization, compress, torchao",
            has_intermediate_output=True,
            description="Quantizes the linear layers of a model to 8 or 4 bits, and compares both "
            "models on the same inputs: memory, speed and the change of the outputs. The original "
            "model stays unchanged.",
            is_output_node=True,
            inputs=[
                io.MultiType.Input(
                    "model",
                    types=[KOSMOS, DIFFUSION],
                    tooltip="The model to quantize: a KOSMOS or a DIFFUSION that is not quantized "
                    "yet.",
                ),
                io.Combo.Input(
                    "format",
                    options=FORMATS,
                    default="int8",
                    tooltip="int8: 8-bit weights, the least loss. int8 dynamic: 8-bit activations "
                    "too, faster on a CPU. int4: half the size of int8, with a visible loss. int4 "
                    "awq: int4 with activation-aware scales (AWQ) from calibration data, less "
                    "loss. fp8: for NVIDIA GPUs since Ada. bf16 and fp16 only cast and need no "
                    "further package; the others need torchao.",
                ),
                io.String.Input(
                    "keep",
                    default="lm_head, time_emb",
                    tooltip="Linear layers whose name contains one of these words are not "
                    "quantized, such as the decoder's output layer and the time embedding. "
                    "Embeddings, norms and convolutions never are.",
                ),
                io.Combo.Input(
                    "rest",
                    options=list(RESTS),
                    default="bf16",
                    tooltip="Precision of the layers that are not quantized. as it is: the "
                    "precision the model was loaded with; larger, and faster on a CPU without "
                    "bf16.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="For a KOSMOS: up to 4 images to caption with both models; the "
                    "following ones, up to 16, are the calibration data of int4 awq. Without "
                    "images, drawn scenes are used.",
                ),
                io.String.Input(
                    "prompt",
                    default=PROMPTS,
                    multiline=True,
                    optional=True,
                    tooltip="For a DIFFUSION: up to 4 prompts to sample with both models, one per "
                    "line; the following ones, up to 16, are the calibration data of int4 awq.",
                ),
                io.String.Input(
                    "save_as",
                    default="",
                    optional=True,
                    tooltip="Name under which the model is saved in models/kosmos or "
                    "models/diffusers, where its loader lists it. Empty: not saved. Existing files "
                    "are kept: a number is added to the name.",
                ),
            ],
            outputs=[
                KOSMOS.Output(display_name="kosmos", tooltip="The quantized model, for a KOSMOS."),
                DIFFUSION.Output(
                    display_name="diffusion", tooltip="The quantized model, for a DIFFUSION."
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="Memory, disk size and time of both models, and the change of the "
                    "outputs.",
                ),
                io.Image.Output(
                    display_name="image",
                    tooltip="The report as an image, with outputs of both models.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Kosmos | Diffusion,
        format: str,
        keep: str,
        rest: str,
        image: torch.Tensor | None = None,
        prompt: str = PROMPTS,
        save_as: str = "",
    ) -> io.NodeOutput:
        """Quantize, compare and save.

        The ui entry `quantized` has one object for the panel: `name`, `format`, `unit` (what the
        seconds are per), `layers` and `left` (counts of linear layers), `before` and `after` (each
        `memory` and `disk` in bytes, `seconds`), and `moved` (shares in 0..1 by their names;
        `divergence` is in nats).
        """
        from ..drawing.before_after_sheet import draw_before_after
        from ..quantize.quantize_report import ModelCost, QuantizeReport
        from ..shared.model_size import bytes_in_memory, bytes_on_disk

        patterns = [word.strip() for word in keep.split(",") if word.strip()]
        host.load_to_device(model.patcher)
        quantized: QuantizedModel[Kosmos] | QuantizedModel[Diffusion]
        modules: tuple[torch.nn.Module, torch.nn.Module]
        if isinstance(model, Kosmos):
            kosmos, comparison = _quantize_kosmos(model, format, patterns, RESTS[rest], image)
            quantized, unit, modules = kosmos, "caption", (model.model, kosmos.model.model)
        else:
            diffusion, comparison = _quantize_diffusion(
                model, format, patterns, RESTS[rest], prompt
            )
            quantized, unit, modules = diffusion, "step", (model.modules, diffusion.model.modules)
        memory = bytes_in_memory(modules[0]), bytes_in_memory(modules[1])
        path = _save(quantized, save_as.strip()) if save_as.strip() else None
        disk = bytes_on_disk(path) if path else memory[1]
        report = QuantizeReport(
            model.name,
            format,
            unit,
            len(quantized.layers.quantized),
            len(quantized.layers.skipped),
            ModelCost(memory[0], memory[0], comparison.seconds_before),
            ModelCost(memory[1], disk, comparison.seconds_after),
            comparison.changes,
            path,
        )
        title = f"{report.name}: {report.format}"
        sheet = draw_before_after(
            title, report.bars(), report.changes_text(), comparison.image_rows
        )
        result = replace(quantized.model, patcher=host.register_model(modules[1]))
        is_kosmos = isinstance(model, Kosmos)
        return io.NodeOutput(
            result if is_kosmos else _block_other("diffusion", "DIFFUSION"),
            _block_other("kosmos", "KOSMOS") if is_kosmos else result,
            str(report),
            sheet,
            ui={"quantized": [report.to_dict()]},
        )


def _block_other(output: str, kind: str) -> object:
    return host.block_output(f'A {kind} was quantized: connect the output "{output}" instead.')


def _quantize_kosmos(
    kosmos: Kosmos,
    format_name: str,
    keep: list[str],
    rest: torch.dtype | None,
    image: torch.Tensor | None,
) -> tuple[QuantizedModel[Kosmos], Comparison]:
    from ..quantize.calibration_data import captioning_run
    from ..quantize.compare_models import MAX_NEW_TOKENS, compare_captioners
    from ..quantize.quantize_models import quantize_kosmos
    from ..shared.images import check_images

    if image is None:
        image = to_batch(scenes())
    check_images(image)
    calibration_images = image[COMPARED:] if len(image) > COMPARED else image
    calibration = captioning_run(kosmos, calibration_images, _counter(MAX_NEW_TOKENS))
    quantized = quantize_kosmos(
        kosmos, format_name, keep, rest, calibration, _counter(_layers(kosmos.model))
    )
    comparison = compare_captioners(
        kosmos, quantized.model, image[:COMPARED], _counter(2 * MAX_NEW_TOKENS)
    )
    return quantized, comparison


def _quantize_diffusion(
    diffusion: Diffusion,
    format_name: str,
    keep: list[str],
    rest: torch.dtype | None,
    prompt: str,
) -> tuple[QuantizedModel[Diffusion], Comparison]:
    from ..quantize.calibration_data import sampling_run
    from ..quantize.compare_models import STEPS, compare_diffusion
    from ..quantize.quantize_models import quantize_diffusion

    prompts = required_lines(prompt, "prompt to compare with")
    calibration = sampling_run(diffusion, prompts[COMPARED:] or prompts, _counter(STEPS))
    count_layer = _counter(_layers(diffusion.modules))
    quantized = quantize_diffusion(diffusion, format_name, keep, rest, calibration, count_layer)
    comparison = compare_diffusion(
        diffusion, quantized.model, prompts[:COMPARED], _counter(2 * STEPS)
    )
    return quantized, comparison


def _layers(module: torch.nn.Module) -> int:
    """Return the number of linear layers."""
    return sum(isinstance(part, torch.nn.Linear) for part in module.modules())


def _counter(total: int) -> Callable[[], None]:
    """Return a callback that adds one to a progress bar, up to `total`, and raises after Cancel."""
    progress, calls = host.Progress(total), count(1)
    return lambda: progress.step(min(next(calls), total))


def _save(quantized: QuantizedModel[Kosmos] | QuantizedModel[Diffusion], name: str) -> Path:
    from ..quantize.save_quantized import save_diffusion, save_kosmos

    if isinstance(quantized.model, Kosmos):
        path = host.free_path(host.model_save_path("kosmos", name))
        save_kosmos(quantized.model, path)
    else:
        path = host.free_path(host.model_save_path("diffusers", name))
        save_diffusion(quantized.model, path)
    return path
