"""Find the base model of a run among the models that ComfyUI lists."""

from __future__ import annotations

from ...shared.atomic_files import write_text
from ...training.captions.caption_config import CaptionConfig
from ...training.config_yaml import read_config, to_yaml
from ...training.run.run_folder import RunFolder
from .. import host


def relocate_base(run: RunFolder) -> None:
    """Write into a run's config.yaml where its base model and LoRAs are, if they were moved.

    Raises UserError when the base model is nowhere.
    """
    from ...training.run.base_model import find_base

    config = read_config(run.config)
    kinds = (
        ("kosmos",)
        if isinstance(config, CaptionConfig)
        else ("diffusers", "checkpoints", "diffusion_models")
    )
    models = [
        host.model_path(kind, name) for kind in (*kinds, "loras") for name in host.list_models(kind)
    ]
    found = find_base(run, config, models)
    if found != config:
        with run.locked():
            write_text(run.config, to_yaml(found))
