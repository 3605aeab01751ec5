"""Follow a run in its worker process, and hand out what it made."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ..errors import MendableError
from ..training import checkpoint
from ..training.captions.config import CaptionConfig
from ..training.chart import Chart
from ..training.config import Options, TrainingConfig, suggested_batch_size
from ..training.config_yaml import read_as, read_config
from ..training.dataset import Subject, fingerprint, link_or_copy
from ..training.events import Event, Follower
from ..training.folder import RunFolder, open_run
from ..training.run import Worker
from . import host

if TYPE_CHECKING:
    from ..diffusion.model import Diffusion
    from ..diffusion.priors import Priors
    from ..kosmos.model import Kosmos

RUNS = "dreambooth"
"""The folder below output/ that runs are kept in."""

PANEL = "kosmos_dreambooth.training"
"""The message that web/kosmos_dreambooth.js waits for."""

BEFORE = "train the model as it was before, and quantize what comes of it"
"""What to do in place of training a quantized model."""

PUBLISHED = "dreambooth"
"""The folder below models/loras, embeddings, checkpoints and diffusers for what runs made."""

CAPTIONERS = "kosmos"
"""The folder below models/loras for what runs of captions made."""


def learned_from(subject: Subject, options: Options) -> Subject:
    """Return the subject without its masks where the loss looks at everything alike."""
    return subject if options.background_weight < 1 else replace(subject, masks=())


def batch_size_for(diffusion: Diffusion, options: Options) -> int:
    """Return the batch size of a run whose user has chosen none."""
    return suggested_batch_size(diffusion.unet.num_parameters(), options.processes)


def settings_of(
    diffusion: Diffusion, subject: Subject, priors: Priors | None, options: Options
) -> dict[str, Any]:
    """Return the settings of a run that its model, subject and class pictures decide."""
    from ..diffusion.fingerprint import fingerprint as model_fingerprint
    from ..quantize.weights import require_plain

    require_plain(diffusion.modules, diffusion.name, BEFORE)
    painted: dict[str, Any] = {}
    if priors and priors.later:
        painted = {
            "class_count": len(priors.files),
            "class_steps": priors.settings.steps,
            "class_guidance": priors.settings.guidance,
            "class_seed": priors.seed,
            "class_cache": str(priors.folder.parent),
        }
    return {
        "base": diffusion.source,
        "base_hash": model_fingerprint(diffusion),
        "base_loras": diffusion.loras,
        "vocabulary": diffusion.tokenizer.name_or_path,
        "token": subject.token,
        "class_name": subject.class_name,
        "class_prompt": priors.prompt if priors else "",
        "data": fingerprint(learned_from(subject, options), _painted(priors)),
        "resolution": diffusion.resolution,
        "device": "cpu" if host.device_type() == "cpu" else "auto",
        **painted,
    }


def _painted(priors: Priors | None) -> tuple[Path, ...]:
    """The class pictures that are there to be learned from; others are the worker's to paint."""
    return () if priors is None or priors.later else priors.files


def train(
    name: str, config: TrainingConfig, subject: Subject, priors: Priors | None, *, resume: bool
) -> RunFolder:
    """Train a run of a name in output/dreambooth, or find it trained; return its folder."""
    subject = learned_from(subject, config)
    class_pictures = _painted(priors)
    return start(
        name,
        lambda root, own: open_run(root, own, config, subject, class_pictures, resume=resume),
    )


def start(name: str, opened: Callable[[Path, str], RunFolder]) -> RunFolder:
    """Train the run that is `opened` by folder and name in output/dreambooth, if it is not yet."""
    place = host.output_folder(RUNS, name.strip())
    try:
        run = opened(place.parent, place.name)
    except OSError as error:
        raise _unwritable(place, error) from error
    finish(run)
    return run


def finish(run: RunFolder) -> None:
    """Train a run to its end, unless it is there. Raises MendableError when the disk is full."""
    if run.is_finished():
        return
    host.make_room()
    try:
        _train(run, read_config(run.config).steps)
    except OSError as error:
        raise _unwritable(run.path, error) from error


def _unwritable(place: Path, error: OSError) -> MendableError:
    """What to say when the disk does not take a run."""
    return MendableError(
        f"The run in {place} could not be written ({error}): free some disk space, and queue again "
        "to go on."
    )


def _train(run: RunFolder, steps: int) -> None:
    """Show a run until it is finished; when this is left early, the worker saves and stops."""
    progress = host.Progress(steps)
    chart, news = Chart(steps), Follower(run.events)
    last: Event | None = None
    preview: torch.Tensor | None = None
    try:
        with Worker(run) as worker:
            for event in worker.events():
                if event is None:
                    if last is not None:
                        chart.take(news.new())
                        host.tell(PANEL, shown(run, chart))
                        host.say(_status(chart))
                        progress.step(last.step, preview)
                        preview, last = None, None
                    host.check_interrupted()
                    continue
                last = event
                if event.kind == "preview":
                    preview = read_image(run.path / str(event.file))
    finally:
        chart.take(news.new())
        host.tell(PANEL, shown(run, chart))
    progress.step(steps, preview)


def _status(chart: Chart) -> str:
    """Say where a run is, in a line."""
    now = chart.as_numbers()
    where = f"step {now['step']} of {now['steps']}"
    if not now["seconds_left"]:
        return f"{where}, {now['state']}"
    left = timedelta(seconds=round(now["seconds_left"]))
    return f"{where}, loss {now['loss'][-1][1]:.4f}, {now['speed']:.1f} steps/s, {left} left"


def charted(run: RunFolder) -> dict[str, Any]:
    """Return what the panel shows of a run, from its folder alone."""
    chart = Chart(read_config(run.config).steps)
    chart.take(Follower(run.events).new())
    return shown(run, chart)


def shown(run: RunFolder, chart: Chart) -> dict[str, Any]:
    """Return a chart as the panel reads it.

    On top come the run's `name`, where its picture is found, each checkpoint's `step`, whether it
    is `kept` and, once EvaluateSubject has measured them, its scores; and the `best` one's step.
    """
    numbers = chart.as_numbers()
    sample = numbers["sample"] and host.address(run.path / numbers["sample"])
    kept = checkpoint.kept(run.checkpoints)
    judged = json.loads(run.scores.read_text(encoding="utf-8")) if run.scores.exists() else {}
    scores = {one["step"]: one for one in judged.get("checkpoints", ())}
    checkpoints = [
        {"step": step, "kept": step in kept, **scores.get(step, {})}
        for step in sorted({*kept, *scores})
    ]
    return {
        **numbers,
        "name": run.path.name,
        "sample": sample,
        "checkpoints": checkpoints,
        "best": judged.get("best"),
    }


def read_image(file: Path) -> torch.Tensor:
    """Return a picture as [H,W,3], float 0..1."""
    with Image.open(file) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).float() / 255


@torch.inference_mode(False)
def trained(run: RunFolder, dtype: torch.dtype, step: int | None = None) -> Diffusion:
    """Load what a run made, at a kept checkpoint if one is given, and let ComfyUI move it."""
    from ..training.results import load_result

    model = load_result(run, dtype, step)
    return replace(model, home=host.adopt(model.modules))


def painter(run: RunFolder, step: int | None = None) -> object:
    """Load what a run made; one of captions stands for the sentence that it is no DIFFUSION."""
    if isinstance(read_config(run.config), CaptionConfig):
        return host.blocked(f"The run {run.path.name} taught a Kosmos-2: take the output kosmos.")
    return trained(run, host.torch_dtype("auto"), step)


@torch.inference_mode(False)
def captioner(run: RunFolder, dtype: torch.dtype, step: int | None = None) -> Kosmos:
    """Load the Kosmos-2 that a run of captions made, and let ComfyUI move it."""
    from ..training.captions.results import load_result

    model = load_result(run, dtype, step)
    return replace(model, home=host.adopt(model.model))


def captioner_of(run: RunFolder, step: int | None = None) -> object:
    """Load the Kosmos-2 that a run made; one of DreamBooth stands for a sentence instead."""
    if not isinstance(read_config(run.config), CaptionConfig):
        return host.blocked(f"The run {run.path.name} taught no Kosmos-2: take the output trained.")
    return captioner(run, host.torch_dtype("auto"), step)


def lora_of(run: RunFolder, step: int | None = None) -> object:
    """Load the LoRA that a run made; another method's stands for the sentence that it has none."""
    from safetensors.torch import load_file

    from ..training.results import result_at

    if isinstance(read_config(run.config), CaptionConfig):
        return host.blocked("This LoRA is for a Kosmos-2: choose it in Load Kosmos-2's loras.")
    config = read_as(TrainingConfig, run.config)
    if config.method not in ("lora", "dora"):
        return host.blocked(
            f"The method {config.method} makes no LoRA: set DreamBoothTrain's method to lora to "
            "get one."
        )
    return load_file(run.lora if step is None else result_at(run, step))


def name_of(run: RunFolder) -> str:
    """Return a run's name, with the folders below output/dreambooth that it is in."""
    return run.path.relative_to(host.output_folder(RUNS)).as_posix()


def publish(run: RunFolder) -> Path:
    """Put a finished run's result where ComfyUI's own nodes list it, and return its place.

    A whole model becomes a checkpoint file, or a diffusers folder when no checkpoint can hold it;
    all else takes no further disk space where the file system can link files, until it is scored.
    """
    from ..training.results import write_origin, write_scored

    config = read_config(run.config)
    if isinstance(config, CaptionConfig):
        target = host.model_file("loras", CAPTIONERS, f"{name_of(run)}.safetensors")
        link_or_copy(run.lora, target)
        return target
    method = read_as(TrainingConfig, run.config).method
    if method == "full" and (whole := _published_checkpoint(run)):
        return whole
    made, target = run.made(method), _published(run, method)
    if made.is_file() and run.scores.exists():
        if not _is_newer(target, made, run.scores):
            write_scored(run, target)
        return target
    if made.is_file():
        link_or_copy(made, target)
        return target
    for file in sorted(made.rglob("*.*")):
        if file.is_file():
            link_or_copy(file, target / file.relative_to(made))
    write_origin(run, target)
    return target


def publish_scores(run: RunFolder) -> None:
    """Write the scores that EvaluateSubject has found into what was published, if it was."""
    method = read_as(TrainingConfig, run.config).method
    places = [_published(run, method), *([_whole(run)] if method == "full" else [])]
    if run.is_finished() and any(place.exists() for place in places):
        publish(run)


def _published(run: RunFolder, method: str) -> Path:
    """Where a run's result lies for ComfyUI's own nodes, unless it is a checkpoint."""
    kind = {"full": "diffusers", "embedding": "embeddings"}.get(method, "loras")
    return host.models_folder(kind)[0] / PUBLISHED / f"{name_of(run)}{run.made(method).suffix}"


def _is_newer(target: Path, *sources: Path) -> bool:
    """Tell whether a file was written after all of those that it is made from and that exist."""
    written = [source.stat().st_mtime_ns for source in sources if source.exists()]
    return target.exists() and target.stat().st_mtime_ns >= max(written)


def _whole(run: RunFolder) -> Path:
    """Where the checkpoint of a model that was trained whole lies."""
    return host.model_file("checkpoints", PUBLISHED, f"{name_of(run)}.safetensors")


@torch.inference_mode(False)
def _published_checkpoint(run: RunFolder) -> Path | None:
    """The checkpoint file of a run that trained a whole model, written unless it is there.

    None stands for a model that a checkpoint cannot hold.
    """
    from ..training.results import write_checkpoint

    target = _whole(run)
    if _is_newer(target, run.result, run.scores):
        return target
    return target if write_checkpoint(run, target) else None
