"""The node that trains a diffusion model on a subject."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..training.config import Options
from ..training.data.subject import Subject
from ..training.run.events import loss_curve
from ..training.run.saved_runs import RunCheckpoint
from . import host
from .seed_input import seed_input
from .sockets import DIFFUSION, LORA_MODEL, PRIORS, SUBJECT, TRAINING_OPTIONS, TRAINING_RUN
from .training import run_monitor, run_outputs, run_schema, run_setup
from .training.core_run import connected_model
from .training.deleted_results import count_deletions, remember_results
from .training.publish import publish as publish_result

if TYPE_CHECKING:
    from ..diffusion.diffusion_model import Diffusion
    from ..diffusion.priors import Priors


class DreamBoothTrain(io.ComfyNode):
    """DreamBooth with LoRA, DoRA or full fine-tuning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="DreamBoothTrain",
            display_name="DreamBooth Train",
            category="Kosmos DreamBooth/training",
            search_aliases="dreambooth, lora training, train lora, fine-tune, kohya, dora, "
            "personalize",
            advanced="train_text_encoder learning_rate batch_size prior_weight seed publish "
            "resolution",
            essentials_category="Image Generation",
            has_intermediate_output=True,
            description="Trains a LoRA, a DoRA or all weights of a Stable Diffusion model on a "
            "subject (DreamBooth), in a worker process. Cancel saves a checkpoint, and queueing "
            "again resumes there; a finished run is not trained again.",
            is_output_node=True,
            inputs=[
                DIFFUSION.Input(
                    "diffusion",
                    optional=True,
                    tooltip="The base model, from Load Diffusion; or connect model, clip and vae.",
                ),
                SUBJECT.Input("subject", tooltip="The training data, from Subject Dataset."),
                PRIORS.Input(
                    "priors",
                    optional=True,
                    tooltip="Class images (regularization images) from Prior Generator, for prior "
                    "preservation: without them every image of the class starts to look like the "
                    "subject.",
                ),
                io.Combo.Input(
                    "method",
                    options=["lora", "full", "dora", "lokr", "loha"],
                    default="lora",
                    tooltip="lora: a small file next to the model. dora: a LoRA that trains "
                    "magnitude and direction separately, better at a low rank and slower. full: "
                    "all weights, with several times the memory; no rank, no lora output. lokr and "
                    "loha: other low-rank forms, for a MODEL.",
                ),
                io.Boolean.Input(
                    "train_text_encoder",
                    default=True,
                    tooltip="Also train the text encoder. Higher subject similarity for more "
                    "memory.",
                ),
                run_schema.steps_input(400),
                run_schema.learning_rate_input(
                    "chosen by method and model size, 1e-4 (lora, dora) or 5e-6 (full) for Stable "
                    "Diffusion 1.5"
                ),
                run_schema.rank_input(),
                io.Float.Input(
                    "prior_weight",
                    default=4.0,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    tooltip="Weight of the prior preservation loss (loss of the class images). "
                    "Raise it when the class starts to look like the subject. Not used without "
                    "priors.",
                ),
                run_schema.batch_size_input(),
                seed_input(
                    "Seed of noise, timesteps and image order. The same seed, settings and "
                    "training data give the same model."
                ),
                run_schema.run_name_input(
                    "sks_dog", "models/loras/dreambooth or models/checkpoints/dreambooth"
                ),
                run_schema.resume_input(),
                run_schema.preview_prompt_input(),
                TRAINING_OPTIONS.Input(
                    "options",
                    optional=True,
                    tooltip="The other settings, from Training Options.",
                ),
                io.Boolean.Input(
                    "publish",
                    default=True,
                    optional=True,
                    tooltip="Also save the result where ComfyUI's loaders list it: in "
                    "models/loras/dreambooth, or for full in models/checkpoints/dreambooth as fp16 "
                    "(in models/diffusers/dreambooth for small models that fit no checkpoint "
                    "file). A fully trained MODEL goes to models/diffusion_models/dreambooth.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The base model from core's loaders, in place of a DIFFUSION: any "
                    "image model that ComfyUI runs. It is trained with lora, dora, lokr, loha or "
                    "full; switch train_text_encoder off.",
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="The MODEL's CLIP, which encodes all prompts."
                ),
                io.Vae.Input(
                    "vae", optional=True, tooltip="The MODEL's VAE, which encodes the images."
                ),
                run_schema.resolution_input(
                    "Side of the square training images in pixels; 0 = the model's own: 512 for "
                    "Stable Diffusion 1 and 2, 1024 for later models. A smaller one needs less "
                    "memory and time."
                ),
            ],
            outputs=[
                DIFFUSION.Output(display_name="trained", tooltip="The trained model."),
                LORA_MODEL.Output(
                    display_name="lora",
                    tooltip="The LoRA weights, for core's LoRA nodes; not with the method full.",
                ),
                run_schema.loss_map_output(),
                run_schema.run_folder_output(),
                TRAINING_RUN.Output(
                    display_name="run", tooltip="For Evaluate Subject and Load Training Run."
                ),
                io.Model.Output(
                    display_name="model", tooltip="The MODEL with the trained LoRA, for KSampler."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, run_name: str | None = None, **_: object) -> str:
        """Run again when the run's folder or its published result was deleted."""
        return count_deletions(run_name)

    @classmethod
    def execute(
        cls,
        subject: Subject,
        method: str,
        train_text_encoder: bool,
        steps: int,
        learning_rate: float,
        rank: int,
        prior_weight: float,
        batch_size: int,
        seed: int,
        run_name: str,
        resume: bool,
        preview_prompt: str,
        diffusion: Diffusion | None = None,
        priors: Priors | None = None,
        options: Options | None = None,
        publish: bool = True,
        model: Any = None,
        clip: Any = None,
        vae: Any = None,
        resolution: int = 0,
    ) -> io.NodeOutput:
        """Train, or load the result of the same run."""
        run = run_setup.train_subject(
            connected_model(diffusion, model, clip, vae),
            subject,
            priors,
            options,
            run_name,
            resume=resume,
            method=method,
            train_text_encoder=train_text_encoder,
            steps=steps,
            learning_rate=learning_rate,
            rank=rank,
            prior_weight=prior_weight,
            batch_size=batch_size,
            seed=seed,
            preview_prompt=preview_prompt.strip(),
            resolution=resolution,
        )
        published = [publish_result(run)] if publish else []
        result = run.result_path(method, uses_comfyui=model is not None)
        remember_results(run_name, run.result, result, *published)
        return io.NodeOutput(
            run_outputs.diffusion_output(run, dtype=diffusion.dtype if diffusion else None),
            run_outputs.lora_output(run),
            {"loss": loss_curve(run.events)},
            str(run.path),
            RunCheckpoint(run, steps),
            run_outputs.model_output(run, model),
            ui={"training": [run_monitor.panel_data(run)]},
        )
