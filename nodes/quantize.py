"""Make a model smaller, and say what that cost."""

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
from ..shared.errors import UserError
from ..shared.images import to_batch
from . import host
from .sockets import DIFFUSION, KOSMOS

if TYPE_CHECKING:
    from ..diffusion.diffusion_model import Diffusion
    from ..quantize.compare_models import Comparison
    from ..quantize.quantize_models import QuantizedModel

FORMATS = ["int8", "int8 dynamic", "int4", "fp8", "bf16", "fp16", "int4 awq"]
RESTS = {"bf16": torch.bfloat16, "fp16": torch.float16, "as it is": None}
LOOKED_AT = 4
PROMPTS = "a red dog in the meadow\na blue house in the snow\na cat and a tree\na yellow bird"


class Quantize(io.ComfyNode):
    """A smaller model of the same kind, and a report."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="Quantize",
            display_name="Quantize",
            category="Kosmos DreamBooth/deploy",
            description="Holds a model's weights in fewer bits, lets both do the same work, and "
            "says what it saved and how far the outputs moved. The model that came in stays as it "
            "is.",
            is_output_node=True,
            inputs=[
                io.MultiType.Input(
                    "model",
                    types=[KOSMOS, DIFFUSION],
                    tooltip="What to make smaller: a KOSMOS or a DIFFUSION, not quantized yet.",
                ),
                io.Combo.Input(
                    "format",
                    options=FORMATS,
                    default="int8",
                    tooltip="int8: 8-bit weights, the safest. int8 dynamic: inputs too, faster on "
                    "a CPU. int4: half of int8, and it shows. int4 awq: watches the model at work "
                    "first, and stays nearer to it. fp8: for NVIDIA GPUs since Ada. bf16 and fp16 "
                    "only cast, and need no further package; the others need torchao.",
                ),
                io.String.Input(
                    "keep",
                    default="lm_head, time_emb",
                    tooltip="Layers whose name holds one of these words are left alone, such as "
                    "the last layer of the decoder and those that read the time. Embeddings, norms "
                    "and convolutions always are.",
                ),
                io.Combo.Input(
                    "rest",
                    options=list(RESTS),
                    default="bf16",
                    tooltip="Precision of all that is left alone. as it is: in the precision the "
                    "model was loaded with; larger, and faster on a CPU that has no bf16.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="For a KOSMOS: pictures to caption before and after, up to 4; int4 awq "
                    "watches it on those behind them, up to 16. Without any, drawn scenes.",
                ),
                io.String.Input(
                    "prompt",
                    default=PROMPTS,
                    multiline=True,
                    optional=True,
                    tooltip="For a DIFFUSION: prompts to paint before and after, one a line, up to "
                    "4; int4 awq watches it on those behind them, up to 16.",
                ),
                io.String.Input(
                    "save_as",
                    default="",
                    optional=True,
                    tooltip="A name saves the model in models/kosmos or models/diffusers, where "
                    "its loader lists it. What is there already is kept: the new one gets a "
                    "number.",
                ),
            ],
            outputs=[
                KOSMOS.Output(display_name="kosmos", tooltip="The smaller model, of a KOSMOS."),
                DIFFUSION.Output(
                    display_name="diffusion", tooltip="The smaller model, of a DIFFUSION."
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="Bytes in memory and on disk, time, and how far the outputs moved.",
                ),
                io.Image.Output(
                    display_name="picture", tooltip="The report drawn, with outputs to compare."
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
        """Quantize, compare, save.

        The ui entry `quantized` holds one object for the panel: `name`, `format`, `unit` (what the
        seconds are for), `layers` and `left` (counts of linear layers), `before` and `after` (each
        `memory` and `disk` in bytes, `seconds`), and `moved` (shares in 0..1 by their names;
        `divergence` is in nats).
        """
        from ..drawing.before_after_sheet import draw_before_after
        from ..quantize.quantize_report import ModelCost, QuantizeReport
        from ..shared.model_size import bytes_in_memory, bytes_on_disk

        words = [word.strip() for word in keep.split(",") if word.strip()]
        host.load_to_device(model.patcher)
        made: QuantizedModel[Kosmos] | QuantizedModel[Diffusion]
        weights: tuple[torch.nn.Module, torch.nn.Module]
        if isinstance(model, Kosmos):
            captioner, compared = _captioner(model, format, words, RESTS[rest], image)
            made, unit, weights = captioner, "caption", (model.model, captioner.model.model)
        else:
            painter, compared = _painter(model, format, words, RESTS[rest], prompt)
            made, unit, weights = painter, "step", (model.modules, painter.model.modules)
        memory = bytes_in_memory(weights[0]), bytes_in_memory(weights[1])
        saved = _save(made, save_as.strip()) if save_as.strip() else None
        disk = bytes_on_disk(saved) if saved else memory[1]
        told = QuantizeReport(
            model.name,
            format,
            unit,
            len(made.layers.quantized),
            len(made.layers.skipped),
            ModelCost(memory[0], memory[0], compared.seconds_before),
            ModelCost(memory[1], disk, compared.seconds_after),
            compared.changes,
            saved,
        )
        title = f"{told.name}: {told.format}"
        page = draw_before_after(title, told.bars(), told.changes_text(), compared.image_rows)
        smaller = replace(made.model, patcher=host.register_model(weights[1]))
        of_kosmos = isinstance(model, Kosmos)
        return io.NodeOutput(
            smaller if of_kosmos else _other("diffusion", "KOSMOS"),
            _other("kosmos", "DIFFUSION") if of_kosmos else smaller,
            str(told),
            page,
            ui={"quantized": [told.to_dict()]},
        )


def _other(wanted: str, given: str) -> object:
    return host.block_output(f'A {given} was quantized: connect the output "{wanted}" instead.')


def _captioner(
    kosmos: Kosmos,
    name: str,
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
    watched = image[LOOKED_AT:] if len(image) > LOOKED_AT else image
    work = captioning_run(kosmos, watched, _counted(MAX_NEW_TOKENS))
    made = quantize_kosmos(kosmos, name, keep, rest, work, _counted(_layers(kosmos.model)))
    compared = compare_captioners(
        kosmos, made.model, image[:LOOKED_AT], _counted(2 * MAX_NEW_TOKENS)
    )
    return made, compared


def _painter(
    diffusion: Diffusion, name: str, keep: list[str], rest: torch.dtype | None, prompt: str
) -> tuple[QuantizedModel[Diffusion], Comparison]:
    from ..quantize.calibration_data import sampling_run
    from ..quantize.compare_models import STEPS, compare_diffusion
    from ..quantize.quantize_models import quantize_diffusion

    prompts = [line.strip() for line in prompt.splitlines() if line.strip()]
    if not prompts:
        raise UserError("There is no prompt to compare with: write at least one line of text.")
    work = sampling_run(diffusion, prompts[LOOKED_AT:] or prompts, _counted(STEPS))
    done = _counted(_layers(diffusion.modules))
    made = quantize_diffusion(diffusion, name, keep, rest, work, done)
    compared = compare_diffusion(diffusion, made.model, prompts[:LOOKED_AT], _counted(2 * STEPS))
    return made, compared


def _layers(module: torch.nn.Module) -> int:
    return sum(isinstance(part, torch.nn.Linear) for part in module.modules())


def _counted(total: int) -> Callable[[], None]:
    """A callback that moves the progress bar by one of at most `total`, and heeds Cancel."""
    progress, calls = host.Progress(total), count(1)
    return lambda: progress.step(min(next(calls), total))


def _save(made: QuantizedModel[Kosmos] | QuantizedModel[Diffusion], name: str) -> Path:
    from ..quantize.save_quantized import save_diffusion, save_kosmos

    if isinstance(made.model, Kosmos):
        path = host.free_path(host.model_file("kosmos", name))
        save_kosmos(made.model, path)
    else:
        path = host.free_path(host.model_file("diffusers", name))
        save_diffusion(made.model, path)
    return path
