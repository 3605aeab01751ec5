"""The node that teaches Kosmos-2 to write captions as somebody's own are written."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from ..kosmos.generate.language import LANGUAGES, prompt_in
from ..kosmos.kosmos_model import Kosmos
from ..shared.errors import UserError
from ..training.captions.caption_config import CaptionConfig
from ..training.config import CommonOptions, Options
from ..training.run.events import loss_curve
from ..training.run.run_folder import find_or_make
from ..training.run.saved_runs import ChosenRun
from . import host
from .sockets import GROUNDING, KOSMOS, LOSS_MAP, TRAINING_OPTIONS, TRAINING_RUN
from .training import publish, run_monitor, run_outputs, run_setup

if TYPE_CHECKING:
    from ..kosmos.grounding import GroundedText, Grounding
    from ..training.captions.caption_dataset import Example

PREVIEWS = 8


class FineTuneCaptions(io.ComfyNode):
    """A KOSMOS that writes another language."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="FineTuneCaptions",
            display_name="Fine-tune Captions",
            category="Kosmos DreamBooth/training",
            description="Teaches Kosmos-2 a language, or a manner of writing, from pictures with "
            "captions: a LoRA, trained in a process of its own. Cancel saves a checkpoint, and "
            "queueing again goes on from there; a run that is finished is not trained again.",
            is_output_node=True,
            is_input_list=True,
            inputs=[
                KOSMOS.Input("kosmos", tooltip="The model to start from, from Load Kosmos-2."),
                io.Combo.Input(
                    "language",
                    options=LANGUAGES,
                    default="German",
                    tooltip="The captions' language. Afterwards Grounded Caption's language of the "
                    "same name asks for it.",
                ),
                io.Int.Input(
                    "steps",
                    default=400,
                    min=1,
                    max=1_000_000,
                    tooltip="Training steps. A finished run goes on when you raise this.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=1e-7,
                    round=False,
                    tooltip="Size of a step; 0 chooses one for the model's width: 2e-4 for the "
                    "published Kosmos-2.",
                ),
                io.Int.Input(
                    "rank",
                    default=16,
                    min=1,
                    max=1024,
                    tooltip="How much the LoRA can hold: its file grows with it.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=8,
                    min=1,
                    max=256,
                    tooltip="Captions in a step. Lower it when memory runs out.",
                ),
                io.Float.Input(
                    "keep_english",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of each step in which a picture comes with what the model "
                    "itself writes under it in English, so that it does not forget that. Not used "
                    "when the language is English.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=False,
                    tooltip="The same seed, settings and captions make the same model.",
                ),
                io.String.Input(
                    "run_name",
                    default="captions",
                    tooltip="The run is kept in output/dreambooth, its LoRA in "
                    "models/loras/kosmos, under this name; other settings or captions get a number "
                    "behind it.",
                ),
                io.Boolean.Input(
                    "resume",
                    default=True,
                    tooltip="Go on with a run of this name that has the same settings and "
                    "captions, or use its result. Off: always begin anew, beside it.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="Pictures to learn from: a batch, or a list of any sizes.",
                ),
                io.String.Input(
                    "captions",
                    optional=True,
                    force_input=True,
                    tooltip="A caption for each picture of image.",
                ),
                GROUNDING.Input(
                    "grounding",
                    optional=True,
                    tooltip="In place of captions: captions with boxes, such as TranslateCaption "
                    "gives. Without boxes the model learns to write without any.",
                ),
                io.String.Input(
                    "folder",
                    default="",
                    optional=True,
                    tooltip="More to learn from: a folder in ComfyUI's input or output folder with "
                    "a .txt or .json beside each picture, as SaveCaptions writes them.",
                ),
                io.Combo.Input(
                    "style",
                    options=["brief", "detailed"],
                    default="brief",
                    optional=True,
                    tooltip="Which of Grounded Caption's styles is to write like this.",
                ),
                io.Boolean.Input(
                    "train_connector",
                    default=False,
                    optional=True,
                    tooltip="Also adapt what hands the picture on to the words. For pictures of "
                    "another kind than the model knows; takes more memory.",
                ),
                TRAINING_OPTIONS.Input(
                    "options",
                    optional=True,
                    tooltip="From TrainingOptions: optimizer, schedule, precision, previews, "
                    "checkpoints and machines. What is about painting does not matter here.",
                ),
            ],
            outputs=[
                KOSMOS.Output(
                    display_name="trained", tooltip="The model that writes the language."
                ),
                LOSS_MAP.Output(
                    display_name="loss_map", tooltip="The loss of each step, for core's graph."
                ),
                io.String.Output(
                    display_name="lora",
                    tooltip="The LoRA's name in models/loras, for Load Kosmos-2's loras.",
                ),
                io.String.Output(
                    display_name="run_folder",
                    tooltip="Where settings, captions, checkpoints and result lie.",
                ),
                TRAINING_RUN.Output(
                    display_name="run", tooltip="For LoadTrainingRun and ResumeTraining."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: list[str] | None = None, **_: object) -> str:
        """Learn again when a picture or a caption came into the folder, or changed."""
        place = _folder(folder[0]) if folder and folder[0].strip() else None
        files = sorted(path for path in place.rglob("*") if path.is_file()) if place else []
        told = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files]
        return hashlib.sha256(repr(told).encode()).hexdigest()

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
        """Learn, or fetch what was learned before."""
        from ..kosmos.generate.caption import BRIEF, DETAILED
        from ..quantize.quantize_weights import require_unquantized
        from ..training.captions.caption_dataset import (
            check_captions,
            examples_in,
            fingerprint,
            write_examples,
        )
        from ..training.captions.caption_examples import rows
        from ..training.captions.caption_results import fingerprint as model_fingerprint

        (model,) = kosmos
        if not model.source:
            raise UserError(
                f"{model.name} is an export and cannot be trained: connect Load Kosmos-2."
            )
        require_unquantized(model.model, model.name, run_setup.BEFORE)
        examples = _examples(image or [], captions or [], grounding or [])
        if folder and folder[0].strip():
            examples += examples_in(_folder(folder[0]))
        if not examples:
            raise UserError(
                "There is nothing to learn from: connect image with captions or grounding, or name "
                "a folder."
            )
        check_captions(examples, language[0])
        detailed = bool(style and style[0] == "detailed")
        prompt = prompt_in(language[0], DETAILED if detailed else BRIEF, detailed=detailed)
        rows(model, [example.text for example in examples], prompt)
        config = CaptionConfig(
            **_course(options[0] if options else None, steps[0]),
            base=model.source,
            base_hash=model_fingerprint(model),
            base_loras=model.loras,
            language=language[0],
            prompt=prompt,
            data=fingerprint(examples),
            train_connector=bool(train_connector and train_connector[0]),
            rank=rank[0],
            keep_english=keep_english[0],
            steps=steps[0],
            learning_rate=learning_rate[0],
            batch_size=batch_size[0],
            seed=seed[0],
            device="cpu" if host.device_type() == "cpu" else "auto",
        )
        run = run_setup.start(
            run_name[0],
            lambda root, name: find_or_make(
                root,
                name,
                config,
                lambda draft: write_examples(draft.pictures, examples),
                resume=resume[0],
            ),
        )
        published = publish.publish(run)
        return io.NodeOutput(
            run_outputs.captioner(run, model.model.dtype),
            {"loss": loss_curve(run.events)},
            published.relative_to(host.models_folder("loras")[0]).as_posix(),
            str(run.path),
            ChosenRun(run, steps[0]),
            ui={"training": [run_monitor.charted(run)]},
        )


def _course(options: Options | None, steps: int) -> dict[str, Any]:
    """Return what TrainingOptions says that is not about painting."""
    if options is None:
        return {"preview_every": max(1, steps // PREVIEWS)}
    chosen = asdict(options)
    return {field.name: chosen[field.name] for field in fields(CommonOptions)}


def _folder(name: str) -> Path:
    """Return a folder of captioned pictures: one in the input folder, or else in the output."""
    place = host.input_folder(name.strip())
    return place if place.is_dir() else host.output_folder(name.strip())


def _examples(
    image: list[torch.Tensor], captions: list[str], grounding: list[Grounding]
) -> list[Example]:
    """Return pictures with the captions that were connected for them."""
    from ..kosmos.grounding import GroundedText
    from ..shared.images import to_rgb
    from ..training.captions.caption_dataset import Example

    if captions and grounding:
        raise UserError("captions and grounding are both connected: take one of them away.")
    pictures = [to_rgb(one[None])[0].cpu().numpy() for batch in image for one in batch]
    texts: list[GroundedText] = [GroundedText(text.strip()) for text in captions]
    texts += [text for part in grounding for text in part.pictures]
    if len(texts) != len(pictures):
        raise UserError(
            f"The number of pictures is {len(pictures)} and that of captions {len(texts)}: connect "
            "a caption for each picture."
        )
    return [Example(*pair) for pair in zip(pictures, texts, strict=True)]
