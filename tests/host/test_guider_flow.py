"""The guider on a flow matching model of core's, inside a ComfyUI without a server."""

from __future__ import annotations

import pytest

from .conftest import run_in_comfyui

PROBE = """
    import comfy.samplers, torch

    host = as_package.load("nodes.host")
    models = as_package.load("training.comfyui.model_from_diffusion")
    Options = as_package.load("diffusion.sample.guidance").GuidanceOptions

    class Unet(torch.nn.Module):
        dtype = torch.float32

        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(4, 4, 1)
            self.batches = []

        def forward(self, x, timesteps, context, **_):
            self.batches.append(len(x))
            return self.layer(x) + context.mean()

    def run(**options):
        torch.manual_seed(0)
        unet = Unet()
        model = models.wrap_unet(unet, 4, 1.0, 4, xl=False, inpainting=False)
        models.set_noise_schedule(model, "FLOW", {"shift": 1.0})
        guider = host.Guider(model, 5.0, Options(**options))
        guider.set_conds([[torch.ones(1, 2, 8), {}]], [[torch.zeros(1, 2, 8), {}]])
        noise = torch.randn(1, 4, 8, 8)
        sigmas = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])
        euler = comfy.samplers.sampler_object("euler")
        latents = guider.sample(noise, torch.zeros(1, 4, 8, 8), euler, sigmas, disable_pbar=True)
        return unet.batches, float((latents - noise).abs().max())

    print(json.dumps({
        "plain": run(),
        "interval": run(start=0.3, end=0.6),
        "still": run(zero_init_steps=4),
        "rising": run(schedule="linear"),
    }))
"""


@pytest.fixture(scope="module")
def runs() -> dict:
    return run_in_comfyui(PROBE)


def test_cfg_is_one_batch_and_skips_the_uncond_pass_where_it_can(runs: dict) -> None:
    assert runs["plain"][0] == [2, 2, 2, 2]
    assert runs["interval"][0] == [1, 1, 2, 1]
    assert runs["rising"][0] == [1, 2, 2, 2]


def test_zero_init_does_not_change_the_noise(runs: dict) -> None:
    batches, change = runs["still"]
    assert batches == []
    assert change < 1e-5
    assert runs["plain"][1] > 0.1
