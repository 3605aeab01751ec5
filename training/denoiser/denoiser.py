"""The interface between a DreamBooth run and the diffusion model that it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from ..run.run_folder import RunFolder

NO_MIN_SNR = (
    "min_snr_gamma is for models that predict epsilon or v, and this one predicts a flow: set it "
    "to 0."
)


class ForwardProcess(Protocol):
    """Adds noise to latents [B,C,h,w]; `indices` are uniform in 0..num_timesteps - 1, int64 [B]."""

    num_timesteps: int

    def add_noise(
        self, latents: torch.Tensor, noise: torch.Tensor, indices: torch.Tensor
    ) -> torch.Tensor:
        """Return the noisy latents, [B,C,h,w]."""

    def target(
        self, latents: torch.Tensor, noise: torch.Tensor, indices: torch.Tensor
    ) -> torch.Tensor:
        """Return what the model should predict, [B,C,h,w]."""

    def min_snr_weights(self, indices: torch.Tensor, gamma: float) -> torch.Tensor:
        """Return each sample's loss weight [B]. Raises UserError for a flow."""


PREVIEW_GUIDANCE = 4.0


class Denoiser(ABC):
    """A diffusion model in training, with its text conditioning.

    `modules` are the parts that are trained or moved to the device; their names begin the keys of
    checkpoints. `parameter_count` is the diffusion model's size without adapters. Latents are
    [B,C,h,w], scaled as the model reads them.
    """

    forward_process: ForwardProcess
    modules: dict[str, torch.nn.Module]
    parameter_count: int

    @abstractmethod
    def vocabulary_prompts(self) -> list[str]:
        """Return prompts of random words for prior preservation; [] for a tiny vocabulary."""

    @abstractmethod
    def encode_prompts(self, prompts: list[str]) -> None:
        """Make the conditioning of all prompts that `predict` will be given."""

    @abstractmethod
    def keep_untrained(self) -> None:
        """Prepare `predict_untrained`; called before the first step, after `encode_prompts`."""

    def place_untrained(self, device: torch.device, trained_on: torch.device) -> bool:
        """Prepare `predict_untrained` for another thread, to compute on `device`.

        Return False where it uses the trained model, so that the two cannot compute at a time.
        """
        return False

    @abstractmethod
    def predict(
        self, noisy: torch.Tensor, indices: torch.Tensor, prompts: list[str], time_ids: torch.Tensor
    ) -> torch.Tensor:
        """Return the prediction [B,C,h,w] for noisy latents at timestep indices [B].

        `time_ids` [B,6] are the sizes and crops of the images as `add_time_ids` has them.
        """

    @abstractmethod
    def predict_untrained(
        self, noisy: torch.Tensor, indices: torch.Tensor, prompts: list[str], time_ids: torch.Tensor
    ) -> torch.Tensor:
        """Return the prediction of the model before training, without gradients."""

    @abstractmethod
    def preview(
        self, prompts: list[str], seed: int, side: int, *, steps: int
    ) -> list[torch.Tensor]:
        """Return a generated image [H,W,3], float 0..1, for each prompt, all with one seed."""

    @abstractmethod
    def write_result(self, run: RunFolder) -> None:
        """Write the trained parameters into the run folder, and mark the run as finished."""
