"""diffusers' schedulers by the names that users know from ComfyUI and A1111."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...shared.errors import UserError

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


@dataclass(frozen=True)
class SchedulerSpec:
    """A diffusers scheduler and its options.

    class_name: the scheduler's class in diffusers, imported only when one is created.
    options: arguments that differ from the class's defaults.
    stochastic: whether each step adds noise, drawn from the images' generators.
    zero_snr: whether it can start from pure noise (zero-terminal SNR, Lin et al. 2024,
        "Common Diffusion Noise Schedules and Sample Steps are Flawed").
    max_steps: largest number of steps.
    """

    class_name: str
    options: dict[str, Any] = field(default_factory=dict)
    stochastic: bool = False
    zero_snr: bool = True
    max_steps: int = 1000


SDE = {"algorithm_type": "sde-dpmsolver++"}

SCHEDULERS: dict[str, SchedulerSpec] = {
    "ddim": SchedulerSpec("DDIMScheduler"),
    "plms": SchedulerSpec("PNDMScheduler", {"skip_prk_steps": True}, zero_snr=False),
    "euler": SchedulerSpec("EulerDiscreteScheduler"),
    "euler_a": SchedulerSpec("EulerAncestralDiscreteScheduler", stochastic=True),
    "dpmpp_2m": SchedulerSpec("DPMSolverMultistepScheduler"),
    "dpmpp_2m_karras": SchedulerSpec("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "unipc": SchedulerSpec("UniPCMultistepScheduler"),
    "dpmpp_2m_sde": SchedulerSpec("DPMSolverMultistepScheduler", SDE, stochastic=True),
    "dpmpp_2m_sde_karras": SchedulerSpec(
        "DPMSolverMultistepScheduler", {**SDE, "use_karras_sigmas": True}, stochastic=True
    ),
    "lcm": SchedulerSpec("LCMScheduler", stochastic=True, max_steps=50),
}

FLOW_PREDICTION = "flow_prediction"
"""The prediction type of flow matching models (rectified flow: straight paths to noise)."""

# For flow matching models. First-order DPM-Solver++ takes Euler steps along the flow, and so does
# DDIM.
FLOW_SCHEDULERS: dict[str, SchedulerSpec] = {
    "ddim": SchedulerSpec("DPMSolverMultistepScheduler", {"solver_order": 1}),
    "euler": SchedulerSpec("DPMSolverMultistepScheduler", {"solver_order": 1}),
    "dpmpp_2m": SchedulerSpec("DPMSolverMultistepScheduler"),
    "dpmpp_2m_sde": SchedulerSpec("DPMSolverMultistepScheduler", SDE, stochastic=True),
    "unipc": SchedulerSpec("UniPCMultistepScheduler"),
}

# Overrides of old scheduler configurations, as in diffusers' StableDiffusionPipeline: latents are
# not clipped, and "leading" timesteps start at 1.
PIPELINE_OVERRIDES = {"clip_sample": False, "steps_offset": 1}


def make_scheduler(name: str, config: dict[str, Any]) -> SchedulerMixin:
    """Create a scheduler for a model's noise schedule.

    config: the model's scheduler_config.

    Raises UserError when the model needs zero-terminal SNR or flow matching and the scheduler does
    not support it.
    """
    if is_flow(config):
        return _flow_scheduler(name, config)
    spec = SCHEDULERS[name]
    if config.get("rescale_betas_zero_snr") and not spec.zero_snr:
        supported = ", ".join(key for key, value in SCHEDULERS.items() if value.zero_snr)
        raise UserError(
            f"The scheduler {name} cannot start from the pure noise that this model was trained "
            f"on (zero-terminal SNR): choose one of {supported}."
        )
    import diffusers

    scheduler_class = getattr(diffusers, spec.class_name)
    return scheduler_class.from_config({**config, **PIPELINE_OVERRIDES, **spec.options})


def is_flow(config: dict[str, Any]) -> bool:
    """Whether a model with this scheduler_config is a flow matching model."""
    return config.get("prediction_type") == FLOW_PREDICTION


def _flow_scheduler(name: str, config: dict[str, Any]) -> SchedulerMixin:
    if name not in FLOW_SCHEDULERS:
        raise UserError(
            f"The scheduler {name} does not support flow matching models such as this one: choose "
            f"one of {', '.join(FLOW_SCHEDULERS)}."
        )
    import diffusers

    spec = FLOW_SCHEDULERS[name]
    return getattr(diffusers, spec.class_name)(
        num_train_timesteps=config.get("num_train_timesteps", 1000),
        prediction_type=FLOW_PREDICTION,
        use_flow_sigmas=True,
        flow_shift=config.get("shift", 1.0),
        **spec.options,
    )
