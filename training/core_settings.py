"""Which settings a run on one of ComfyUI's MODELs may have."""

from __future__ import annotations

from ..shared.errors import UserError
from .config import NO_QAT, TrainingConfig


def check_settings(config: TrainingConfig) -> None:
    """Raise UserError for settings that a MODEL does not support."""
    refused = {
        "train_text_encoder": config.train_text_encoder,
        "text_learning_rate": config.text_learning_rate > 0,
        "quantization_aware": config.quantization_aware != NO_QAT,
    }
    for name, is_set in refused.items():
        if is_set:
            raise UserError(
                f"{name} is for a DIFFUSION, whose text encoder and layers are diffusers': switch "
                "it off to train a MODEL."
            )
    if config.class_count:
        raise UserError(
            "Class images for a MODEL are generated before its training: set PriorGenerator's when "
            "to before."
        )
    if config.method == "embedding":
        raise UserError(
            "The method embedding is for a DIFFUSION: set method to lora, dora, lokr, loha or full "
            "to train a MODEL."
        )
    if config.method == "full" and config.loader == "ToComfyModel":
        raise UserError(
            "All weights of a MODEL of ToComfyModel are trained as those of its DIFFUSION: connect "
            "diffusion in place of model, or set method to lora."
        )
