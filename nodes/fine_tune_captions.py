"""The node that fine-tunes Kosmos-2 on captions."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..kosmos.generate.language import LANGUAGES
from ..kosmos.kosmos_model import Kosmos
from ..shared.errors import UserError
from ..training.captions.caption_config import CaptionConfig
from ..training.config import CommonOptions, Options
from ..training.run.events import loss_curve
from ..training.run.run_folder import find_or_create
from ..training.run.saved_runs import RunCheckpoint
from . import host
from .caption_inputs import caption_prompt
from .image_inputs import split_images
from .seed_input import seed_input
from .sockets import GROUNDING, KOSMOS, TRAINING_OPTIONS, TRAINING_RUN
from .training import publish, run_monitor, run_outputs, run_schema, run_setup
from .training.deleted_results import count_deletions, remember_results

if TYPE_CHECKING:
    from ..kosmos.grounding import Grounding
    from ..training.captions.caption_dataset import Example


class FineTuneCaptions(io.ComfyNode):
    """LoRA fine-tuning of Kosmos-2 on captions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return host.node_schema(
            node_id="FineTuneCaptions",
            display_name="Fine-tune Captions",
            category="Kosmos DreamBooth/training",
            search_aliases="lora training, train captioner, fine-tune, caption, language",
            advanced="style train_connector keep_english learning_rate batch_size seed",
            has_intermediate_output=True,
            description="Trains a LoRA for Kosmos-2 on images with captions, so that it writes "
            "captions in another language or style; in a worker process. Cancel saves a "
            "checkpoint, and queueing again resumes there; a finished run is not trained again.",
            is_output_node=True,
            is_input_list=True,
            inputs=[
                KOSMOS.Input("kosmos", tooltip="The base model, from Load Kosmos-2."),
                io.Combo.Input(
                    "language",
                    options=LANGUAGES,
                    default="German",
                    tooltip="The captions' language. Afterwards choose the same language in "
                    "Grounded Caption.",
                ),
                run_schema.steps_input(500),
                run_schema.learning_rate_input(
                    "chosen by model size, 2e-4 for the published Kosmos-2"
                ),
                run_schema.rank_input(),
                run_schema.option_input(
                    CaptionConfig,
                    "batch_size",
                    tooltip="Batch size: captions per step. Lower it when memory runs out.",
                ),
                io.Float.Input(
                    "keep_english",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of each batch that is English, written by the base model about "
                    "the same images, so that English captions stay as they are. Not used when the "
                    "language is English.",
                ),
                seed_input(
                    "Seed of the example order. The same seed, settings and captions give the same "
                    "model."
                ),
                run_schema.run_name_input("captions", "models/loras/kosmos"),
                run_schema.resume_input(),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="Training images: a batch, or a list of images of any size.",
                ),
                io.String.Input(
                    "captions",
                    optional=True,
                    force_input=True,
                    tooltip="A caption for each image.",
                ),
                GROUNDING.Input(
                    "grounding",
                    optional=True,
                    tooltip="Captions with boxes, such as those of Translate Caption, in place of "
                    "captions. Trained without boxes, the model writes captions without boxes.",
                ),
                io.String.Input(
                    "folder",
                    default="",
                    optional=True,
                    tooltip="More training data: a folder in ComfyUI's input or output folder with "
                    "a .txt or .json caption file next to each image, as Save Captions writes "
                    "them.",
                ),
                io.Combo.Input(
                    "style",
                    options=["brief", "detailed"],
                    default="brief",
                    optional=True,
                    tooltip="The style of Grounded Caption that is trained.",
                ),
                io.Boolean.Input(
                    "train_connector",
                    default=False,
                    optional=True,
                    tooltip="Also train a LoRA in the projection from the vision encoder to the "
                    "decoder. For images of another kind than the model knows; takes more memory.",
                ),
                TRAINING_OPTIONS.Input(
                    "options",
                    optional=True,
                    tooltip="From Training Options: optimizer, schedule, precision, previews, "
                    "checkpoints and devices. Options of diffusion models have no effect here.",
                ),
            ],
            outputs=[
                KOSMOS.Output(display_name="trained", tooltip="The fine-tuned model."),
                run_schema.loss_map_output(),
                io.String.Output(
                    display_name="lora",
                    tooltip="The LoRA's name in models/loras, for Load Kosmos-2's loras.",
                ),
                run_schema.run_folder_output(),
                TRAINING_RUN.Output(
                    display_name="run", tooltip="For Load Training Run and Resume Training."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(
        cls, folder: list[str] | None = None, run_name: list[str] | None = None, **_: object
    ) -> str:
        """Run again when a file of the folder or of the run is new, deleted or changed."""
        name = folder[0].strip() if folder else ""
        deletions = count_deletions(run_name[0] if run_name else None)
        return deletions + (host.folder_fingerprint(_folder(name)) if name else "")

    @classmethod
    def execute(
        cls,
        kosmos: list[Kosmos],
        language: list[str],
        steps: list[int],
        learning_rate: list[float],
        rank: list[int],
        batch_size: list[int],
        keep_english: list[float],
        seed: list[int],
        run_name: list[str],
        resume: list[bool],
        image: list[torch.Tensor] | None = None,
        captions: list[str] | None = None,
        grounding: list[Grounding] | None = None,
        folder: list[str] | None = None,
        style: list[str] | None = None,
        train_connector: list[bool] | None = None,
        options: list[Options] | None = None,
    ) -> io.NodeOutput:
        """Train, or load the result of the same run."""
        from ..kosmos.fingerprint import fingerprint
        from ..quantize.quantize_weights import require_unquantized
        from ..training.captions.caption_dataset import (
            check_captions,
            examples_fingerprint,
            examples_in,
            write_examples,
        )
        from ..training.captions.caption_examples import trainable_examples

        (model,) = kosmos
        if not model.source:
            raise UserError(
                f"{model.name} is an export and cannot be trained: connect Load Kosmos-2."
            )
        require_unquantized(model.model, model.name, run_setup.QUANTIZED_REMEDY)
        notes: list[str] = []
        examples = _examples(image or [], captions or [], grounding or [])
        if folder and folder[0].strip():
            examples += examples_in(_folder(folder[0]), notes.append)
        if not examples:
            raise UserError(
                "There is nothing to train on: connect image with captions or grounding, or name a "
                "folder."
            )
        prompt = caption_prompt((style or ["brief"])[0], "", language[0])
        examples = trainable_examples(model, examples, prompt, notes.append)
        if notes:
            host.show_text("\n".join(notes))
        check_captions(examples, language[0])
        chosen = run_setup.options_or_default(options[0] if options else None, steps[0])
        config = CaptionConfig(
            **{field.name: getattr(chosen, field.name) for field in fields(CommonOptions)},
            base=model.source,
            base_hash=fingerprint(model),
            base_loras=model.loras,
            language=language[0],
            prompt=prompt,
            data=examples_fingerprint(examples),
            train_connector=bool(train_connector and train_connector[0]),
            rank=rank[0],
            keep_english=keep_english[0],
            steps=steps[0],
            learning_rate=learning_rate[0],
            batch_size=batch_size[0],
            seed=seed[0],
            device=run_setup.config_device(),
        )
        run = run_setup.start_run(
            run_name[0],
            lambda root, name: find_or_create(
                root,
                name,
                config,
                lambda draft: write_examples(draft.images, examples),
                resume=resume[0],
            ),
        )
        lora = publish.publish(run)
        remember_results(run_name[0], run.result, run.lora, lora)
        return io.NodeOutput(
            run_outputs.load_trained_kosmos(run, model.model.dtype),
            {"loss": loss_curve(run.events)},
            lora.relative_to(host.model_folders("loras")[0]).as_posix(),
            str(run.path),
            RunCheckpoint(run, steps[0]),
            ui={"training": [run_monitor.panel_data(run)]},
        )


def _folder(name: str) -> Path:
    """Return a folder inside ComfyUI's input folder, or its output folder if there is none."""
    path = host.input_path(name.strip())
    return path if path.is_dir() else host.output_path(name.strip())


def _examples(
    batches: list[torch.Tensor], captions: list[str], groundings: list[Grounding]
) -> list[Example]:
    """Return the images with their captions from the two inputs, of which one may be connected."""
    from ..kosmos.grounding import GroundedText
    from ..shared.images import to_rgb
    from ..training.captions.caption_dataset import Example

    if captions and groundings:
        raise UserError("captions and grounding are both connected: disconnect one of them.")
    images = [to_rgb(image[None])[0].cpu().numpy() for image in split_images(batches)]
    texts = [GroundedText(caption.strip()) for caption in captions]
    texts += [text for grounding in groundings for text in grounding.captions]
    if len(texts) != len(images):
        raise UserError(
            f"There are {len(images)} images but {len(texts)} captions: connect a caption for each "
            "image."
        )
    return [Example(*pair) for pair in zip(images, texts, strict=True)]
