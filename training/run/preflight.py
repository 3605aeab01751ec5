"""Measure the memory and time that a run needs, before its first step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from ...shared.batching import unless_out_of_memory
from ...shared.errors import UserError
from ...shared.peak_memory import watch_peak
from ..comfyui.weights_dtype import weights_dtype
from ..config import UNQUANTIZED, Config, TrainingConfig
from ..denoiser.frozen_layers import TRAINING_DTYPES, frozen_bytes
from ..learner import Learner
from ..optim.weight_averaging import trainable
from ..optim.zero_optimizer import shards_state

PASSES = 2
GIGABYTE = 1e9

STATE_BYTES = {"adamw": 8, "adamw8bit": 2, "prodigy": 16, "adafactor": 0, "schedulefree": 8}
"""Optimizer state per trainable parameter, allocated in the first step."""
EMA_BYTES = 4
GRADIENT_BYTES = 4

ALL_BLOCKS = 1000
"""As many as TrainingOptions takes for offload_blocks."""

CHECKPOINTED_ACTIVATIONS = 0.5
"""Upper bound of the fraction of activation memory that gradient checkpointing needs; it is less
in Stable Diffusion's UNet."""


@dataclass(frozen=True)
class Estimate:
    """Memory that training needs and that is available, in bytes, and seconds per step.

    `activations` is the part of `needed` that activations take between the forward and backward
    pass, `trainable` the number of trainable parameters. `preview` is the memory that previews
    need; None when it is not available. `blocks` has the bytes of each block's frozen weights on
    the device, of which int8 would save `saved_by_int8`; `largest_layer` is that of one layer.
    """

    needed: int
    available: int
    seconds: float
    activations: int = 0
    trainable: int = 0
    preview: int | None = 0
    blocks: tuple[int, ...] = ()
    saved_by_int8: int = 0
    largest_layer: int = 0

    def __str__(self) -> str:
        gigabytes = f"{self.needed / GIGABYTE:.1f} of {self.available / GIGABYTE:.1f} GB"
        return f"about {gigabytes} and {self.seconds:.2g} s a step"


class Preflight(Callback):
    """Measures forward and backward passes of the first step, and reports the estimate.

    Their gradients are discarded, so that the run is the same as without.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report

    def on_train_start(self, trainer: Trainer, module: Learner) -> None:
        """Measure. Raises UserError when there is not enough memory."""
        estimate = measure(trainer, module)
        steps = module.config.steps - module.first_step
        left = timedelta(seconds=round(estimate.seconds * steps))
        previews = ""
        if estimate.preview is None or estimate.preview > estimate.available:
            previews = "; previews need more memory and are skipped"
        self._report(f"{estimate}, {left} in total{previews}")
        if estimate.needed > estimate.available:
            advice = suggest_change(module.config, module.device, estimate)
            raise UserError(f"Not enough memory for the training ({estimate}): {advice}.")


def measure(trainer: Trainer, module: Learner) -> Estimate:
    """Run PASSES forward and backward passes, and add the memory of the optimizer's state.

    Previews are made between the steps, without activations and gradients of the training.
    """
    config, device = module.config, module.device
    parameters = sum(parameter.numel() for parameter in trainable(module).values())
    used, free, peak_increase = _used_memory(device), _free_memory(device), watch_peak(device)
    seconds = 0.0
    for _ in range(PASSES):
        start = time.perf_counter()
        with trainer.precision_plugin.forward_context():
            loss = module.training_step(module.first_step * config.accumulation, 0)
        loss.backward()
        increase = peak_increase() if peak_increase else _used_memory(device) - used
        seconds = time.perf_counter() - start
        module.zero_grad(set_to_none=True)
    module.losses.clear()
    state_bytes = STATE_BYTES[config.optimizer] / (config.processes if shards_state(config) else 1)
    state = round((state_bytes + (EMA_BYTES if config.ema else 0)) * parameters)
    preview: int | None = 0
    if config.preview_every:
        peak_increase = watch_peak(device)
        image = unless_out_of_memory(partial(module.preview, brief=True))
        increase_of_preview = peak_increase() if peak_increase else 0
        averaged = config.ema or config.optimizer == "schedulefree"
        copies = EMA_BYTES * parameters if averaged else 0
        preview = None if image is None else used + state + copies + increase_of_preview
    frozen = [frozen_bytes(block) for block in module.frozen_blocks()]
    return Estimate(
        needed=used + increase + state,
        available=used + free,
        seconds=seconds * config.accumulation,
        activations=max(0, increase - GRADIENT_BYTES * parameters),
        trainable=parameters,
        preview=preview,
        blocks=tuple(block.total for block in frozen),
        saved_by_int8=sum(block.saved_by_int8 for block in frozen),
        largest_layer=max((block.largest_layer for block in frozen), default=0),
    )


def _used_memory(device: torch.device) -> int:
    """Bytes in use: on a GPU by torch, on a CPU by this process."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def suggest_change(
    config: Config,
    device: torch.device,
    estimate: Estimate | None = None,
    *,
    while_loading: bool = False,
) -> str:
    """Name the changes that make a run fit into memory at the least cost in quality and time.

    The first single change that saves enough, or else as few of them together as it takes; without
    an estimate the first one. While the model is loaded only less memory for its weights helps.
    """
    missing = estimate.needed - estimate.available if estimate else 0
    combined: list[_Change] = []
    for change in _changes(config, device, estimate, missing):
        if while_loading and not change.of_weights:
            continue
        if change.saved >= missing:
            return change.advice
        combined.append(change)
        excess = sum(one.saved_in_addition for one in combined) - missing
        if excess >= 0:
            for one in sorted(combined, key=lambda one: one.saved_in_addition):
                if one.saved_in_addition <= excess:
                    combined.remove(one)
                    excess -= one.saved_in_addition
            return ", and ".join(one.advice for one in combined)
    advice = [one.advice for one in combined]
    return ", and ".join([*advice, "use a smaller model, or a computer with more memory"])


class _Change(NamedTuple):
    """A change of settings: the bytes it saves alone, and on top of all cheaper changes.

    `of_weights`: it saves memory when the model is loaded.
    """

    advice: str
    saved: float
    saved_in_addition: float
    of_weights: bool = False


def _changes(
    config: Config, device: torch.device, estimate: Estimate | None, missing: int
) -> Iterator[_Change]:
    """The changes that are possible, from the cheapest in quality and time to the dearest."""
    on_gpu = device.type != "cpu"
    all_activations = activations = float(estimate.activations if estimate else 0)
    found = 0.0
    if not config.gradient_checkpointing:
        found = (1 - CHECKPOINTED_ACTIVATIONS) * activations
        advice = "switch gradient_checkpointing on in TrainingOptions; the result is the same"
        yield _Change(advice, found, found)
        activations -= found
    size, accumulation = config.batch_size, config.accumulation
    while size > 1:
        size, accumulation = size // 2, accumulation * 2
        fraction = 1 - size / config.batch_size
        if size == 1 or fraction * all_activations >= missing:
            advice = f"set batch_size to {size} and accumulation to {accumulation}"
            advice = f"{advice}, which is the same for an even batch"
            yield _Change(advice, fraction * all_activations, fraction * activations)
            found += fraction * activations
            break
    if not isinstance(config, TrainingConfig):
        return
    parameters = estimate.trainable if estimate else 0
    state = STATE_BYTES[config.optimizer]
    small_state = STATE_BYTES["adamw8bit"]
    if state > small_state and (parameters or config.method == "full"):
        saved = float((state - small_state) * parameters)
        yield _Change("set the optimizer to adafactor or adamw8bit", saved, saved)
        found += saved
        state = small_state
    if config.method == "full":
        saved = GRADIENT_BYTES * parameters
        yield _Change(
            "set method to lora",
            saved + STATE_BYTES[config.optimizer] * parameters,
            saved + state * parameters,
            of_weights=True,
        )
    if config.trains_adapters_only:
        yield from _changes_of_frozen_weights(config, estimate, missing, found, on_gpu=on_gpu)
    if config.train_text_encoder and config.method != "embedding":
        yield _Change("switch train_text_encoder off", 0.0, 0.0, of_weights=True)


def _changes_of_frozen_weights(
    config: TrainingConfig,
    estimate: Estimate | None,
    missing: int,
    found: float,
    *,
    on_gpu: bool,
) -> Iterator[_Change]:
    """int8 for the base model, and its first blocks in main memory; `found` was saved before."""
    shrunk = 1.0
    if config.quantize_base == UNQUANTIZED:
        advice = "set quantize_base to int8 in TrainingOptions"
        if estimate is None:
            if on_gpu and not _is_quantized_file(config):
                yield _Change(advice, 0.0, 0.0, of_weights=True)
        elif estimate.saved_by_int8 > 0:
            # The layer that is computed is dequantized.
            saved = float(max(0, estimate.saved_by_int8 - estimate.largest_layer))
            yield _Change(advice, saved, saved, of_weights=True)
            found += saved
            shrunk -= estimate.saved_by_int8 / sum(estimate.blocks)
    if not on_gpu:
        return
    if estimate is None:
        if config.offload_blocks < ALL_BLOCKS:
            advice = f"raise offload_blocks above {config.offload_blocks} in TrainingOptions"
            yield _Change(advice, 0.0, 0.0, of_weights=True)
        return

    def saved_by(count: int) -> float:
        return max(0, sum(estimate.blocks[:count]) - estimate.largest_layer)

    counts = range(config.offload_blocks + 1, len(estimate.blocks) + 1)
    if counts and saved_by(counts[-1]):
        enough = [count for count in counts if saved_by(count) >= missing]
        enough += [count for count in counts if saved_by(count) * shrunk >= missing - found]
        count = enough[0] if enough else counts[-1]
        advice = f"set offload_blocks to {count} in TrainingOptions"
        yield _Change(advice, saved_by(count), saved_by(count) * shrunk, of_weights=True)


def _is_quantized_file(config: TrainingConfig) -> bool:
    return config.uses_comfyui and weights_dtype(Path(config.base)) not in TRAINING_DTYPES
