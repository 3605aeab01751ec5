"""Choose what a model predicts, where its files do not say it or say it wrongly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...shared.errors import UserError
from ..diffusion_model import Diffusion
from ..sample.schedulers import is_flow

AUTO = "auto"
PREDICTIONS: dict[str, dict[str, Any]] = {
    AUTO: {},
    "epsilon": {"prediction_type": "epsilon", "rescale_betas_zero_snr": False},
    "v": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": False},
    "v_zero_snr": {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    },
}
"""Choice -> entries of the scheduler_config; for zero-terminal SNR see Lin et al. 2024."""


def with_prediction(diffusion: Diffusion, prediction: str) -> Diffusion:
    """Return the model with a key of PREDICTIONS. Raises UserError for a flow matching model."""
    if prediction == AUTO:
        return diffusion
    if is_flow(diffusion.scheduler_config):
        raise UserError(
            f"{diffusion.name} is a flow matching model, whose prediction is known: set prediction "
            "to auto."
        )
    config = diffusion.scheduler_config | PREDICTIONS[prediction]
    return replace(diffusion, scheduler_config=config, prediction=prediction)
