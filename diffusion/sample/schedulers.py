"""The samplers by the names that users know, each one of diffusers' schedulers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...shared.errors import UserError

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


@dataclass(frozen=True)
class Sampler:
    """One entry of the table.

    scheduler: the class's name in diffusers, which is imported when one is made, so that the
        names are at hand without it.
    options: what sets it apart from the scheduler's defaults.
    noisy: whether each step draws fresh noise from the pictures' generators.
    zero_snr: whether it can start from pure noise (zero-terminal SNR, Lin et al. 2024,
        "Common Diffusion Noise Schedules and Sample Steps are Flawed").
    most_steps: how many steps it can be divided into.
    """

    scheduler: str
    options: dict[str, Any] = field(default_factory=dict)
    noisy: bool = False
    zero_snr: bool = True
    most_steps: int = 1000


SDE = {"algorithm_type": "sde-dpmsolver++"}

SCHEDULERS: dict[str, Sampler] = {
    "ddim": Sampler("DDIMScheduler"),
    "plms": Sampler("PNDMScheduler", {"skip_prk_steps": True}, zero_snr=False),
    "euler": Sampler("EulerDiscreteScheduler"),
    "euler_a": Sampler("EulerAncestralDiscreteScheduler", noisy=True),
    "dpmpp_2m": Sampler("DPMSolverMultistepScheduler"),
    "dpmpp_2m_karras": Sampler("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "unipc": Sampler("UniPCMultistepScheduler"),
    "dpmpp_2m_sde": Sampler("DPMSolverMultistepScheduler", SDE, noisy=True),
    "dpmpp_2m_sde_karras": Sampler(
        "DPMSolverMultistepScheduler", {**SDE, "use_karras_sigmas": True}, noisy=True
    ),
    "lcm": Sampler("LCMScheduler", noisy=True, most_steps=50),
}

FLOW = "flow_prediction"
"""The prediction type of models that were trained on straight paths to noise (flow matching)."""

# What paints with such a model. A DPM-Solver++ of first order makes Euler's steps along the flow,
# which are DDIM's too.
FLOWS: dict[str, Sampler] = {
    "ddim": Sampler("DPMSolverMultistepScheduler", {"solver_order": 1}),
    "euler": Sampler("DPMSolverMultistepScheduler", {"solver_order": 1}),
    "dpmpp_2m": Sampler("DPMSolverMultistepScheduler"),
    "dpmpp_2m_sde": Sampler("DPMSolverMultistepScheduler", SDE, noisy=True),
    "unipc": Sampler("UniPCMultistepScheduler"),
}

# As diffusers' StableDiffusionPipeline has it, whatever an old configuration says: latents have
# no range to be clipped to, and "leading" steps begin at 1.
LATENT_DIFFUSION = {"clip_sample": False, "steps_offset": 1}


def make_scheduler(name: str, config: dict[str, Any]) -> SchedulerMixin:
    """A fresh scheduler for a model's noise schedule.

    config: the model's scheduler_config. Raises UserError when the sampler divides by the
    signal that a zero-terminal-SNR model's first step does not have, and when it cannot follow a
    flow.
    """
    if is_flow(config):
        return _flow_scheduler(name, config)
    sampler = SCHEDULERS[name]
    if config.get("rescale_betas_zero_snr") and not sampler.zero_snr:
        fitting = ", ".join(key for key, value in SCHEDULERS.items() if value.zero_snr)
        raise UserError(
            f"The scheduler {name} cannot start from the pure noise that this model was trained "
            f"on (zero-terminal SNR): choose one of {fitting}."
        )
    import diffusers

    kind = getattr(diffusers, sampler.scheduler)
    return kind.from_config({**config, **LATENT_DIFFUSION, **sampler.options})


def is_flow(config: dict[str, Any]) -> bool:
    """Whether a model with this scheduler_config predicts a flow."""
    return config.get("prediction_type") == FLOW


def _flow_scheduler(name: str, config: dict[str, Any]) -> SchedulerMixin:
    if name not in FLOWS:
        raise UserError(
            f"The scheduler {name} cannot follow the flow that this model predicts: choose one of "
            f"{', '.join(FLOWS)}."
        )
    import diffusers

    sampler = FLOWS[name]
    return getattr(diffusers, sampler.scheduler)(
        num_train_timesteps=config.get("num_train_timesteps", 1000),
        prediction_type=FLOW,
        use_flow_sigmas=True,
        flow_shift=config.get("shift", 1.0),
        **sampler.options,
    )
