"""The prediction type of a model whose files do not say it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kosmos_dreambooth.diffusion.load.prediction import PREDICTIONS, with_prediction
from kosmos_dreambooth.diffusion.priors import locate_priors
from kosmos_dreambooth.diffusion.sample.sample_images import sample
from kosmos_dreambooth.diffusion.sample.sample_settings import SampleSettings
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.training.config import TrainingConfig
from kosmos_dreambooth.training.option import options_of

from .conftest import VELOCITY


def test_a_model_without_its_marker_samples_as_the_one_with_it(velocity_diffusion, diffusion):
    marked = velocity_diffusion.scheduler_config
    chosen = with_prediction(diffusion, "v_zero_snr")
    assert {name: chosen.scheduler_config[name] for name in VELOCITY} == VELOCITY
    assert chosen.scheduler_config == {**marked, **VELOCITY}
    images = [sample(model, ["a dog"], steps=2) for model in (chosen, velocity_diffusion)]
    assert torch.equal(*images)


def test_the_choice_is_part_of_the_class_images_and_auto_is_none(diffusion, tmp_path):
    folders = {
        locate_priors(
            with_prediction(diffusion, choice),
            "a dog",
            1,
            tmp_path,
            settings=SampleSettings(),
            seed=0,
        ).folder
        for choice in PREDICTIONS
    }
    assert len(folders) == 4
    assert with_prediction(diffusion, "auto") is diffusion


def test_a_run_has_the_same_choices():
    assert options_of(TrainingConfig)["prediction"].choices == tuple(PREDICTIONS)


def test_flow_matching_models_are_named(diffusion):
    flow = replace(diffusion, scheduler_config={"prediction_type": "flow_prediction"})
    with pytest.raises(UserError, match=r"is a flow matching model.*set prediction to auto"):
        with_prediction(flow, "v")
