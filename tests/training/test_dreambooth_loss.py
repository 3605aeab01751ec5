"""The loss is the published one: Ruiz et al. 2022, eq. 2, computed here from the paper alone."""

from __future__ import annotations

import pytest
import torch
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.training.dreambooth.dreambooth_loss import dreambooth_loss, sample_losses
from kosmos_dreambooth.training.dreambooth.forward_process import forward_process_for

SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
EPSILON = SCHEDULE | {"prediction_type": "epsilon"}
VELOCITY = SCHEDULE | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}


def alphas_and_sigmas(config: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """The noise schedule by its definition; zero-terminal SNR as Lin et al. 2023, algorithm 1."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha = (1 - betas).cumprod(0).sqrt()
    if config.get("rescale_betas_zero_snr"):
        first, last = alpha[0].clone(), alpha[-1].clone()
        alpha = (alpha - last) * first / (first - last)
    return alpha, (1 - alpha**2).sqrt()


@pytest.mark.parametrize(("config", "weights"), [(EPSILON, "snr"), (VELOCITY, "snr + 1")])
def test_the_loss_is_the_paper_s_formula(config: dict, weights: str) -> None:
    source = torch.Generator().manual_seed(0)
    x = torch.randn(6, 2, 4, 4, generator=source)
    noise = torch.randn(6, 2, 4, 4, generator=source)
    prediction = torch.randn(6, 2, 4, 4, generator=source)
    timesteps = torch.tensor([0, 400, 900, 17, 999 if config is VELOCITY else 998, 600])
    prior_weight = 0.7

    target = forward_process_for(config).target(x, noise, timesteps)
    got = dreambooth_loss(sample_losses(prediction, target), 3, prior_weight)

    alphas, sigmas = alphas_and_sigmas(config)
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    sigma = sigmas[timesteps].view(-1, 1, 1, 1)
    x, noise, prediction = x.double(), noise.double(), prediction.double()
    noisy = alpha * x + sigma * noise
    if config is EPSILON:
        x_hat, weight = (noisy - sigma * prediction) / alpha, (alpha / sigma) ** 2
    else:
        x_hat, weight = alpha * noisy - sigma * prediction, (alpha / sigma) ** 2 + 1
    rows = (weight * (x_hat - x) ** 2).mean((1, 2, 3))
    expected = rows[:3].mean() + prior_weight * rows[3:].mean()
    assert got.item() == pytest.approx(expected.item(), rel=1e-4)


def test_without_class_images_the_loss_is_the_subject_s_alone() -> None:
    prediction, target = torch.ones(3, 1, 2, 2), torch.zeros(3, 1, 2, 2)
    assert dreambooth_loss(sample_losses(prediction, target), 3, 5.0).item() == 1.0


def test_a_mask_weights_the_cells_and_keeps_the_mean() -> None:
    prediction = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    mask = torch.tensor([[[[1.0, 1.0], [0.5, 0.0]]]])
    losses = sample_losses(prediction, torch.zeros_like(prediction), mask=mask)
    assert losses.tolist() == pytest.approx([(1 + 4 + 0.5 * 9) / 2.5])


@pytest.mark.parametrize("config", [EPSILON, VELOCITY])
def test_min_snr_weights_are_the_paper_s_formula(config: dict) -> None:
    timesteps = torch.tensor([0, 400, 900])
    alphas, sigmas = alphas_and_sigmas(config)
    snr = (alphas[timesteps] / sigmas[timesteps]) ** 2
    expected = snr.clamp(max=5.0) / (snr if config is EPSILON else snr + 1)
    weights = forward_process_for(config).min_snr_weights(timesteps, 5.0)
    torch.testing.assert_close(weights.double(), expected, rtol=1e-3, atol=1e-6)


def test_a_model_of_another_kind_is_refused() -> None:
    with pytest.raises(UserError, match="sample"):
        forward_process_for(SCHEDULE | {"prediction_type": "sample"})


def test_a_flow_is_linear_from_image_to_noise() -> None:
    process = forward_process_for({"prediction_type": "flow_prediction", "shift": 3.0})
    x, noise = torch.randn(2, 5, 4, 8, 8).unbind(0)
    draws = torch.tensor([0, 250, 500, 750, 999])
    sigmas = (process.timesteps(draws) / 1000).view(-1, 1, 1, 1)
    noisy = process.add_noise(x, noise, draws)
    torch.testing.assert_close(noisy, (1 - sigmas) * x + sigmas * noise)
    torch.testing.assert_close(process.target(x, noise, draws), noise - x)
    torch.testing.assert_close(noisy - sigmas * process.target(x, noise, draws), x)
    # Half of all draws lie before the middle of the path, which a shift of 3 moves to 3 / 4.
    assert process.timesteps(torch.tensor([500])).item() == pytest.approx(750, abs=2)
    spread = process.timesteps(torch.arange(1000)).sort().values
    assert (spread[250].item(), spread[750].item()) == pytest.approx((604, 855), abs=5)
    with pytest.raises(UserError, match="min_snr_gamma"):
        process.min_snr_weights(draws, 5.0)
