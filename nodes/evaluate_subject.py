"""Score every checkpoint of a run, and name the best."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..shared.errors import UserError
from ..training.run.saved_runs import ChosenRun, describe
from . import host, hub_models
from .sockets import KOSMOS, TRAINING_RUN
from .training import publish, run_monitor

if TYPE_CHECKING:
    from ..diffusion.diffusion_model import Diffusion
    from ..kosmos.kosmos_model import Kosmos
    from ..training.evaluate.evaluate_run import ImageScorer

SANDBOX, DECODER, LIKELIHOOD = "sandbox", "kosmos", "kosmos likelihood"
PROMPTS = "a {subject}\na {subject} in the snow\na {subject} in the meadow\na {subject} at night"


class EvaluateSubject(io.ComfyNode):
    """Figures and pictures of each checkpoint."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        reading = hub_models.choices("clip", hub_models.DUAL_ENCODERS, SANDBOX)
        seeing = hub_models.choices("clip", (*hub_models.DINO, *hub_models.DUAL_ENCODERS), SANDBOX)
        return io.Schema(
            node_id="EvaluateSubject",
            display_name="Evaluate Subject",
            category="Kosmos DreamBooth/training",
            description="Paints with every checkpoint that a run keeps, and measures whether it "
            "looks like the subject, obeys the prompt and leaves the class as it was. Names the "
            "best, which LoadTrainingRun can then load.",
            is_output_node=True,
            inputs=[
                TRAINING_RUN.Input(
                    "run", tooltip="From DreamBoothTrain, ResumeTraining or LoadTrainingRun."
                ),
                io.Combo.Input(
                    "subject_judge",
                    options=[*seeing, DECODER],
                    default=SANDBOX,
                    tooltip="What compares pictures: a DINOv2 (as in the paper, DINO) or a CLIP "
                    "(CLIP-I), in a folder of models/clip or from the Hugging Face hub "
                    "(owner/name), downloaded on first use; or the Kosmos-2 below. sandbox knows "
                    "the sandbox's world only.",
                ),
                io.Combo.Input(
                    "prompt_judge",
                    options=[*reading, DECODER, LIKELIHOOD],
                    default=SANDBOX,
                    tooltip="What compares pictures with prompts: a CLIP (CLIP-T) or SigLIP, or "
                    "the Kosmos-2 below, by what it writes under a picture itself (kosmos) or by "
                    "which of the prompts the picture makes likely (kosmos likelihood).",
                ),
                io.String.Input(
                    "prompts",
                    default=PROMPTS,
                    multiline=True,
                    tooltip="One a line; {subject} stands for the token and the class. Take scenes "
                    "that the subject's pictures do not show.",
                ),
                io.Int.Input(
                    "count",
                    default=4,
                    min=1,
                    max=1000,
                    tooltip="Pictures of each prompt; as many of the class come on top. More make "
                    "the figures steadier.",
                ),
                io.Int.Input(
                    "steps", default=20, min=1, max=1000, tooltip="Denoising steps per picture."
                ),
                io.Float.Input(
                    "guidance",
                    default=3.0,
                    min=1.0,
                    max=50.0,
                    step=0.1,
                    tooltip="How strictly to follow the prompt; 1 is without guidance.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=False,
                    tooltip="Seed of the first picture; all checkpoints paint with the same seeds.",
                ),
                KOSMOS.Input(
                    "kosmos",
                    optional=True,
                    tooltip="From Load Kosmos-2, for a judge whose name begins with kosmos.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="plot", tooltip="The scores over the steps."),
                io.Image.Output(
                    display_name="pictures",
                    is_output_list=True,
                    tooltip="A batch for each checkpoint, in order.",
                ),
                io.String.Output(
                    display_name="report", tooltip="The figures of each checkpoint, and the best."
                ),
                io.Int.Output(display_name="best_step", tooltip="The best checkpoint's step."),
            ],
        )

    @classmethod
    def execute(
        cls,
        run: ChosenRun,
        subject_judge: str,
        prompt_judge: str,
        prompts: str,
        count: int,
        steps: int,
        guidance: float,
        seed: int,
        kosmos: Kosmos | None = None,
    ) -> io.NodeOutput:
        """Paint and measure."""
        from ..drawing.score_plot import draw_score_plot
        from ..training.evaluate.evaluate_run import EvaluationPlan, best, evaluate, work

        lines = tuple(line.strip() for line in prompts.splitlines() if line.strip())
        plan = EvaluationPlan(lines, count, seed, steps, guidance)
        eye = _eye(subject_judge, kosmos)
        reader = eye if prompt_judge == subject_judge else _eye(prompt_judge, kosmos)
        progress = host.Progress(work(run.folder, plan))
        judged = []
        for one in evaluate(run.folder, plan, eye, reader, _seat, progress.step):
            judged.append(one)
            host.show_text(f"step {one.scores.step}: overall {one.scores.overall:.3f}")
        publish.publish_scores(run.folder)
        scores = [one.scores for one in judged]
        chosen = best(scores).step
        plot = draw_score_plot({one.step: one.measures for one in scores}, chosen)
        pictures = [one.pictures for one in judged]
        told = run_monitor.charted(run.folder)
        host.send_event(run_monitor.PANEL, told)
        return io.NodeOutput(plot, pictures, describe(run), chosen, ui={"training": [told]})


def _seat(diffusion: Diffusion) -> Diffusion:
    """Hand a model to ComfyUI's memory management and move it to the device."""
    patcher = host.register_model(diffusion.modules)
    host.load_to_device(patcher)
    return replace(diffusion, patcher=patcher)


def _eye(choice: str, kosmos: Kosmos | None) -> ImageScorer:
    if choice == SANDBOX:
        from ..sandbox.judge_scorer import JudgeScorer

        return JudgeScorer()
    from ..training.evaluate.image_scorers import KosmosScorer, LikelihoodScorer, load_image_scorer

    if choice in (DECODER, LIKELIHOOD):
        if kosmos is None:
            raise UserError(
                f"The judge {choice} needs a Kosmos-2: connect Load Kosmos-2, or choose another "
                "judge."
            )
        kind = KosmosScorer if choice == DECODER else LikelihoodScorer
        return kind(kosmos, lambda: host.load_to_device(kosmos.patcher))
    folder = hub_models.folder("clip", choice)
    try:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'The config.json of "{choice}" is missing or unreadable: copy the model again.'
        ) from error
    return load_image_scorer(folder, str(told))
