"""A run on core's MODEL, CLIP and VAE: its settings, and what its worker reads in their place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...shared.batching import in_batches
from ...shared.errors import UserError
from ...training.comfyui.find_comfyui import comfyui_version
from ...training.config import TrainingConfig
from ...training.data.buckets import Size
from ...training.run.run_folder import RunFolder
from .. import host

if TYPE_CHECKING:
    import numpy as np

    from ...diffusion.diffusion_model import Diffusion
    from ...diffusion.priors import Priors
    from ...diffusion.sample.sample_settings import SampleSettings
    from ...training.data.latents import Latents
    from ...training.evaluate.evaluate_run import (
        EvaluationPlan,
        OnStep,
        OpenModel,
        SampleImages,
    )

CACHE = "dreambooth_models"
"""The folder below ComfyUI's output folder for the weights of MODELs that are in no file."""

CLASS_IMAGES_REMEDY = "lower PriorGenerator's resolution, or close other programs"


@dataclass(frozen=True)
class CoreModels:
    """Core's MODEL with the CLIP and the VAE that belong to it."""

    model: Any
    clip: Any
    vae: Any

    @property
    def digest(self) -> str:
        """A hash of the CLIP and the VAE, by which a run knows its prompts and latents."""
        identity = f"{host.clip_digest(self.clip)} {host.vae_digest(self.vae)}"
        return hashlib.sha256(identity.encode()).hexdigest()


def connected_model(
    diffusion: Diffusion | None, model: Any, clip: Any, vae: Any
) -> Diffusion | CoreModels:
    """Return the connected DIFFUSION, or the MODEL with its CLIP and VAE.

    Raises UserError unless there is exactly one kind of model, and all of it.
    """
    if (diffusion is None) == (model is None):
        connected = "neither is" if model is None else "both are"
        raise UserError(
            f"Connect either a DIFFUSION or a MODEL with its CLIP and VAE: {connected} connected."
        )
    return complete_model(model, clip, vae) if diffusion is None else diffusion


def complete_model(model: Any, clip: Any, vae: Any) -> CoreModels:
    """Return a MODEL with its CLIP and VAE. Raises UserError when one is not connected."""
    missing = [name for name, value in (("CLIP", clip), ("VAE", vae)) if value is None]
    if missing:
        raise UserError(f"A MODEL needs its {' and '.join(missing)} too: connect it.")
    return CoreModels(model, clip, vae)


def generate_core_priors(
    models: CoreModels,
    prompt: str,
    count: int,
    settings: SampleSettings,
    seed: int,
    batch_size: int,
    resolution: int,
) -> Priors:
    """Provide class images of a MODEL with seeds from `seed` on, generating only missing ones.

    Raises UserError for a CLIP that does not belong to the MODEL, and as `plan_priors` does.
    """
    from ...diffusion.priors import complete_priors, plan_priors

    base = core_settings(models, resolution)
    side = base["resolution"]
    recipe = {
        "model": Path(base["base"]).name,
        "fingerprint": f"{base['base_hash']} {models.digest} {base['base_loras']} {base['shift']}",
        "prompt": prompt,
        **asdict(replace(settings, width=side, height=side)),
        "scheduler": "euler, simple",
    }
    if base["prediction"] != "auto":
        recipe["prediction"] = base["prediction"]
    priors = plan_priors(recipe, prompt, count, host.output_path("priors"), settings, seed)
    conditionings = [host.encode_prompt(models.clip, text) for text in (prompt, settings.negative)]
    host.check_conditioning(models.model, conditionings[0])

    def generate(seeds: Sequence[int]) -> Iterator[tuple[int, torch.Tensor]]:
        progress = host.Progress(len(seeds))

        def sample_batch(batch: slice) -> Iterator[tuple[int, torch.Tensor]]:
            images = host.sample_images(
                models.model,
                models.vae,
                conditionings,
                seeds[batch],
                (side, side),
                steps=settings.steps,
                guidance=settings.guidance,
            )
            return zip(seeds[batch], images, strict=True)

        def show(done: int, _: int) -> None:
            progress.step(done, image)

        batches = in_batches(len(seeds), batch_size, sample_batch, show, CLASS_IMAGES_REMEDY)
        for seed, image in batches:
            yield seed, image

    complete_priors(priors, recipe, (side, side), generate)
    return priors


def core_models_of_run(
    run: RunFolder, config: TrainingConfig, models: CoreModels, plan: EvaluationPlan
) -> OpenModel:
    """Return what opens a run's models, or puts its LoRAs on its MODEL, to sample from them.

    It samples as `generate_core_priors` does. Raises UserError when the MODEL is not the one
    that the run trained.
    """
    from ...training.run.checkpoints import read_tensors
    from ...training.run.run_results import result_at

    source = host.model_source(models.model, host.output_path(CACHE))
    if (source.base_hash, source.base_loras) != (config.base_hash, config.base_loras):
        raise UserError(
            f"The MODEL is not the one that the run {run.path.name} was trained on "
            f"({Path(config.base).name}): connect that one, without the trained LoRA."
        )
    side = config.resolution
    encoded: dict[str, Any] = {"": host.encode_prompt(models.clip, "")}

    def open_model(step: int | None) -> SampleImages:
        model = models.model
        if step is not None and config.method == "full":
            model = host.load_diffusion_model(result_at(run, step))
        elif step is not None:
            model = host.with_lora(model, read_tensors(result_at(run, step)))

        def sample_images(prompts: list[str], on_step: OnStep) -> torch.Tensor:
            images = []
            for number, prompt in enumerate(prompts):
                if prompt not in encoded:
                    encoded[prompt] = host.encode_prompt(models.clip, prompt)
                    host.check_conditioning(models.model, encoded[prompt])
                image = host.sample_images(
                    model,
                    models.vae,
                    [encoded[prompt], encoded[""]],
                    [plan.seed + number],
                    (side, side),
                    steps=plan.steps,
                    guidance=plan.guidance,
                )
                images.append(image)
                on_step((number + 1) * plan.steps, image[0])
            return torch.cat(images)

        return sample_images

    return open_model


def core_settings(models: CoreModels, resolution: int) -> dict[str, Any]:
    """Return the settings of a run that follow from its MODEL.

    Raises UserError for models that do not belong together or cannot be trained.
    """
    source = host.model_source(models.model, host.output_path(CACHE))
    resolution = resolution or host.model_resolution(models.model)
    side = host.latent_side(models.vae)
    if resolution % side:
        raise UserError(
            f"resolution is {resolution}, and this VAE needs a multiple of {side}: set it to "
            f"{resolution // side * side or side}."
        )
    folder = host.comfyui_folder()
    return {
        **asdict(source),
        "resolution": resolution,
        "comfyui": str(folder),
        "comfyui_version": comfyui_version(folder),
        "vocabulary": str(host.clip_tokenizer_folder()),
    }


def write_core_data(run: RunFolder, config: TrainingConfig, models: CoreModels) -> None:
    """Write the latents of all images and the conditioning of all prompts that a run lacks.

    Raises UserError for a CLIP or VAE that does not belong to the MODEL, and OSError when the disk
    is full.
    """
    from ...training.comfyui.conditioning import encode_missing
    from ...training.data.latents import Latents, center_crops
    from ...training.data.training_data import load_training_images
    from ...training.denoiser.core_denoiser import core_vocabulary_prompts
    from ...training.dreambooth.dreambooth_module import training_prompts

    def encode(images: Sequence[np.ndarray], size: Size) -> Latents:
        host.show_text(f"encoding {len(images)} images")
        mean = host.encode_images(models.model, models.vae, center_crops(images, size))
        return Latents(mean, torch.zeros_like(mean))

    def encode_prompt(prompt: str) -> list[list[Any]]:
        host.check_interrupted()
        conditioning = host.encode_prompt(models.clip, prompt)
        host.check_conditioning(models.model, conditioning)
        return conditioning

    if not run.latents.exists():
        encode_prompt(config.plain_caption)  # a CLIP of another model is found before the images
    parts = load_training_images(run, config, encode, host.latent_side(models.vae))
    captions = [text for kind in parts for part in kind for text in part.captions]
    words = core_vocabulary_prompts(config) if config.uses_other_words and parts[1] else []
    prompts = training_prompts(config, captions, words)
    host.show_text(f"encoding {len(set(prompts))} prompts")
    encode_missing(run.conditioning, [*prompts, *config.preview_prompts], encode_prompt)
