"""The node that scores the checkpoints of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..shared.errors import UserError
from ..training.config import TrainingConfig
from ..training.config_yaml import read_as
from ..training.run.saved_runs import RunCheckpoint, describe_run
from . import host, hub_models
from .sampling_inputs import cfg_scale_input, sampling_steps_input
from .seed_input import seed_input
from .sockets import KOSMOS, TRAINING_RUN
from .text_inputs import text_lines
from .training import publish, run_monitor
from .training.core_run import complete_model, core_models_of_run

if TYPE_CHECKING:
    from ..kosmos.kosmos_model import Kosmos
    from ..training.evaluate.evaluate_run import EvaluationPlan, ImageScorer, OpenModel

SANDBOX, DECODER, LIKELIHOOD = "sandbox", "kosmos", "kosmos likelihood"
PROMPTS = "a {subject}\na {subject} in the snow\na {subject} in the meadow\na {subject} at night"


class EvaluateSubject(io.ComfyNode):
    """Scores and sample images of each checkpoint, and the best checkpoint."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        dual_encoders = hub_models.model_options("clip", hub_models.DUAL_ENCODERS, SANDBOX)
        image_encoders = hub_models.model_options(
            "clip", (*hub_models.DINO, *hub_models.DUAL_ENCODERS), SANDBOX
        )
        return host.node_schema(
            node_id="EvaluateSubject",
            display_name="Evaluate Subject",
            category="Kosmos DreamBooth/training",
            search_aliases="clip score, dino score, evaluate, checkpoint, dreambooth, "
            "subject similarity",
            advanced="subject_judge prompt_judge",
            has_intermediate_output=True,
            description="Generates images with every checkpoint of a run and scores them: subject "
            "similarity, prompt adherence and class drift. Selects the best checkpoint, which Load "
            "Training Run can load.",
            is_output_node=True,
            inputs=[
                TRAINING_RUN.Input(
                    "run", tooltip="From DreamBooth Train, Resume Training or Load Training Run."
                ),
                io.Combo.Input(
                    "subject_judge",
                    options=[*image_encoders, DECODER],
                    default=SANDBOX,
                    tooltip="Image encoder that scores the subject similarity: DINOv2 (as DINO in "
                    "the DreamBooth paper) or CLIP (CLIP-I), a folder in models/clip or a model of "
                    "the Hugging Face hub (owner/name), downloaded on first use; kosmos is the "
                    "connected Kosmos-2. sandbox is for the sandbox's models only.",
                ),
                io.Combo.Input(
                    "prompt_judge",
                    options=[*dual_encoders, DECODER, LIKELIHOOD],
                    default=SANDBOX,
                    tooltip="Model that scores the prompt adherence: CLIP (CLIP-T) or SigLIP, or "
                    "the connected Kosmos-2, by its own caption of the image (kosmos) or by the "
                    "probability of each prompt given the image (kosmos likelihood).",
                ),
                io.String.Input(
                    "prompts",
                    default=PROMPTS,
                    multiline=True,
                    tooltip="Prompts, one per line; {subject} is replaced by the token and the "
                    "class. Use scenes that are not in the training images.",
                ),
                io.Int.Input(
                    "count",
                    default=4,
                    min=1,
                    max=1000,
                    tooltip="Images per prompt; as many images of the class are added. More images "
                    "give less noisy scores.",
                ),
                sampling_steps_input(20),
                cfg_scale_input(3.0),
                seed_input(
                    "Seed of the first image, which increases by 1 for each image. All checkpoints "
                    "use the same seeds."
                ),
                KOSMOS.Input(
                    "kosmos",
                    optional=True,
                    tooltip="From Load Kosmos-2, for the judges kosmos and kosmos likelihood.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="For a run that trained a MODEL: the base model that it was trained "
                    "on, without the trained LoRA. Core's Euler sampler generates the images.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="The MODEL's CLIP."),
                io.Vae.Input("vae", optional=True, tooltip="The MODEL's VAE."),
            ],
            outputs=[
                io.Image.Output(
                    display_name="plot", tooltip="Plot of the scores over the training steps."
                ),
                io.Image.Output(
                    display_name="images",
                    is_output_list=True,
                    tooltip="The generated images, a batch for each checkpoint.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="The scores of each checkpoint, and the best checkpoint.",
                ),
                io.Int.Output(display_name="best_step", tooltip="Step of the best checkpoint."),
            ],
        )

    @classmethod
    def execute(
        cls,
        run: RunCheckpoint,
        subject_judge: str,
        prompt_judge: str,
        prompts: str,
        count: int,
        steps: int,
        guidance: float,
        seed: int,
        kosmos: Kosmos | None = None,
        model: Any = None,
        clip: Any = None,
        vae: Any = None,
    ) -> io.NodeOutput:
        """Generate the images and score them."""
        from ..drawing.score_plot import draw_score_plot
        from ..training.evaluate.evaluate_run import EvaluationPlan, best, count_steps, evaluate

        plan = EvaluationPlan(tuple(text_lines(prompts)), count, seed, steps, guidance)
        image_scorer = _scorer(subject_judge, kosmos)
        prompt_scorer = (
            image_scorer if prompt_judge == subject_judge else _scorer(prompt_judge, kosmos)
        )
        models = _models(run, plan, model, clip, vae)
        progress = host.Progress(count_steps(run.folder, plan))
        evaluated = []
        for checkpoint in evaluate(
            run.folder, plan, image_scorer, prompt_scorer, models, progress.step
        ):
            evaluated.append(checkpoint)
            scores = checkpoint.scores
            host.show_text(f"step {scores.step}: overall {scores.overall:.3f}")
        publish.publish_scores(run.folder)
        all_scores = [checkpoint.scores for checkpoint in evaluated]
        best_step = best(all_scores).step
        panel = run_monitor.panel_data(run.folder)
        host.send_event(run_monitor.PANEL_EVENT, panel)
        return io.NodeOutput(
            draw_score_plot({scores.step: scores.measures for scores in all_scores}, best_step),
            [checkpoint.images for checkpoint in evaluated],
            describe_run(run),
            best_step,
            ui={"training": [panel]},
        )


def _models(run: RunCheckpoint, plan: EvaluationPlan, model: Any, clip: Any, vae: Any) -> OpenModel:
    """Return what opens the models of the run, which are DIFFUSIONs or the connected MODEL."""
    from ..training.evaluate.evaluate_run import diffusion_models

    config = read_as(TrainingConfig, run.folder.config)
    if config.uses_comfyui:
        if model is None:
            raise UserError(
                f"The run {run.folder.path.name} trained a MODEL: connect that MODEL, its CLIP and "
                "its VAE."
            )
        return core_models_of_run(run.folder, config, complete_model(model, clip, vae), plan)
    if model is not None:
        raise UserError(
            f"The run {run.folder.path.name} trained a DIFFUSION: disconnect model, clip and vae."
        )
    return diffusion_models(
        run.folder,
        plan,
        lambda loaded: replace(loaded, patcher=host.register_model(loaded.modules)),
        host.torch_dtype("auto"),
    )


def _scorer(choice: str, kosmos: Kosmos | None) -> ImageScorer:
    """Load the scorer of a combo's choice."""
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
        scorer = KosmosScorer if choice == DECODER else LikelihoodScorer
        return scorer(kosmos, lambda: host.load_to_device(kosmos.patcher))
    return load_image_scorer(hub_models.model_folder("clip", choice))
