"""Checkpoints are scored by the images they generate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.dev.pretend_gpu import DEVICE, pretend_gpu
from kosmos_dreambooth.dev.sandbox.draw_subject import TRAINING_BACKGROUNDS, portraits
from kosmos_dreambooth.dev.sandbox.scene_pool import as_images
from kosmos_dreambooth.dev.scores.retrieval_scores import distinct_scenes, true_caption
from kosmos_dreambooth.drawing.score_plot import SIZE, draw_score_plot
from kosmos_dreambooth.kosmos.kosmos_model import Kosmos
from kosmos_dreambooth.sandbox.judge_scorer import JudgeScorer
from kosmos_dreambooth.sandbox.world.lexicon import BACKGROUNDS
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.training.evaluate.evaluate_run import (
    EvaluationPlan,
    Scores,
    best,
    count_steps,
    diffusion_models,
    evaluate,
)
from kosmos_dreambooth.training.evaluate.image_scorers import LikelihoodScorer, load_image_scorer
from kosmos_dreambooth.training.run.saved_runs import choose_checkpoint
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train
from torchvision.transforms.functional import to_tensor
from transformers import Dinov2Config, Dinov2Model, ViTImageProcessor


def test_every_checkpoint_is_scored_and_the_best_is_kept(make_run, tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=4, checkpoint_every=2, keep_checkpoints=2)
    train(run, StopRequest())
    plan = EvaluationPlan(("a {subject}", "a {subject} in the snow"), count=2, steps=2)
    done = []
    scorer = JudgeScorer()
    models = diffusion_models(run, plan, lambda model: model)
    judged = list(evaluate(run, plan, scorer, scorer, models, lambda step, _: done.append(step)))
    assert [one.scores.step for one in judged] == [2, 4]
    assert all(one.images.shape == (4, 16, 16, 3) for one in judged)
    assert done[-1] == count_steps(run, plan) == 4 * 2 * 5
    assert choose_checkpoint(run, "best", 0).step == best([one.scores for one in judged]).step


def test_a_prompt_is_judged_without_the_token(make_run, tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=2)
    train(run, StopRequest())
    told = []

    class RecordingScorer(JudgeScorer):
        def score_prompts(self, images, prompts):
            told.extend(prompts)
            return super().score_prompts(images, prompts)

    scorer, plan = RecordingScorer(), EvaluationPlan(("a {subject}",), 1, steps=1)
    models = diffusion_models(run, plan, lambda model: model)
    assert list(evaluate(run, plan, scorer, scorer, models, lambda *_: None))
    assert set(told) == {"a dog"}


@pytest.mark.parametrize("method", ["embed_images", "score_prompts"])
def test_a_lack_of_memory_for_scoring_names_the_judges(
    make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def out_of_memory(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(JudgeScorer, method, out_of_memory)
    run, plan = make_run(tmp_path, steps=1), EvaluationPlan(("a {subject}",), 1, steps=1)
    train(run, StopRequest())
    models = diffusion_models(run, plan, lambda model: model)
    with pytest.raises(UserError, match="for scoring images: choose smaller judges"):
        next(evaluate(run, plan, JudgeScorer(), JudgeScorer(), models, lambda *_: None))


def test_no_measure_s_scale_decides_which_is_best() -> None:
    likelier = Scores(1, subject=0.8, prompt=0.30, drift=0.1, diversity=0.9)
    meeker = Scores(2, subject=0.6, prompt=0.32, drift=0.1, diversity=0.9)
    collapsed = Scores(3, subject=0.9, prompt=0.30, drift=0.1, diversity=0.0)
    assert best([meeker, likelier, collapsed]) == likelier
    measures = {one.step: one.measures for one in (likelier, meeker, collapsed)}
    assert draw_score_plot(measures, likelier.step).shape == (1, SIZE[1], SIZE[0], 3)


def test_prompts_must_name_the_subject() -> None:
    with pytest.raises(UserError, match=r"\{subject\}"):
        EvaluationPlan(("a dog in the snow",))


def test_the_sandbox_judge_scores_subject_and_prompts() -> None:
    pictures = torch.stack([to_tensor(picture).movedim(0, -1) for picture in portraits()])
    scorer = JudgeScorer()
    vectors = scorer.embed_images(pictures)
    assert (vectors @ vectors.T).min() > 0.5
    scenes = [f"a sks dog {BACKGROUNDS[name]}" for name in TRAINING_BACKGROUNDS]
    assert scorer.score_prompts(pictures, scenes).tolist() == [1, 1, 1, 1]
    assert scorer.score_prompts(pictures, scenes[1:] + scenes[:1]).tolist() == [0, 0, 0, 0]
    assert scorer.score_prompts(pictures[:1], ["a sks dog"]).tolist() == [1]


def test_the_likelihood_is_highest_for_the_prompt_of_an_image(sandbox_model: Kosmos) -> None:
    samples = distinct_scenes(6)
    pictures, prompts = as_images(samples), [true_caption(one) for one in samples]
    scorer = LikelihoodScorer(sandbox_model, lambda: None)
    right = scorer.score_prompts(pictures, prompts)
    wrong = scorer.score_prompts(pictures, prompts[1:] + prompts[:1])
    assert right.mean() > 0.5 > wrong.mean()
    with pytest.raises(UserError, match="write a second line"):
        scorer.score_prompts(pictures, ["a dog"] * 6)
    with pytest.raises(UserError, match="choose another subject_judge"):
        scorer.embed_images(pictures)


def test_a_dino_on_disk_scores_subjects_but_no_prompts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 28, "width": 28}).save_pretrained(tmp_path)
    scorer = load_image_scorer(tmp_path)
    images = torch.rand(3, 40, 30, 3)
    vectors = scorer.embed_images(images)
    assert vectors.shape == (3, 32)
    with pretend_gpu():
        scorer.model.to(DEVICE)
        torch.testing.assert_close(scorer.embed_images(images), vectors)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    with pytest.raises(UserError, match="no text encoder"):
        scorer.score_prompts(torch.rand(1, 8, 8, 3), ["a dog"])
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="cannot score images"):
        load_image_scorer(tmp_path)
