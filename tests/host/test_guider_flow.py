"""The guider on a flow model of core's, inside a ComfyUI without a server."""

from __future__ import annotations

import json
import subprocess
import textwrap

import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ROOT, home, python

PROBE = """
    import importlib.util, json, sys
    from pathlib import Path

    sys.path.insert(0, ".")
    import comfy.options
    comfy.options.enable_args_parsing()
    import utils.extra_config  # first, as in ComfyUI's main.py: comfy/ has a module of that name
    import comfy.samplers, torch

    spec = importlib.util.spec_from_file_location("as_package", Path(ROOT) / "as_package.py")
    as_package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(as_package)
    host = as_package.load("nodes.host")
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
        model = host.core_model_around(unet, 4, 1.0, xl=False)
        host.set_noise_schedule(model, "FLOW", {"shift": 1.0})
        guider = host.Guider(model, 5.0, Options(**options))
        guider.set_conds([[torch.ones(1, 2, 8), {}]], [[torch.zeros(1, 2, 8), {}]])
        noise = torch.randn(1, 4, 8, 8)
        sigmas = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])
        euler = comfy.samplers.sampler_object("euler")
        made = guider.sample(noise, torch.zeros(1, 4, 8, 8), euler, sigmas, disable_pbar=True)
        return unet.batches, float((made - noise).abs().max())

    print(json.dumps({
        "plain": run(),
        "interval": run(start=0.3, end=0.6),
        "still": run(zero_init_steps=4),
        "rising": run(schedule="linear"),
    }))
"""


@pytest.fixture(scope="module")
def runs() -> dict:
    program = f"ROOT = {str(ROOT)!r}\n{textwrap.dedent(PROBE)}"
    done = subprocess.run(
        [python(), "-", "--cpu"],
        cwd=home(),
        input=program,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_both_predictions_are_one_pass_and_the_second_only_where_it_counts(runs: dict) -> None:
    assert runs["plain"][0] == [2, 2, 2, 2]
    assert runs["interval"][0] == [1, 1, 2, 1]
    assert runs["rising"][0] == [1, 2, 2, 2]


def test_zero_init_leaves_the_noise_where_it_is(runs: dict) -> None:
    batches, change = runs["still"]
    assert batches == []
    assert change < 1e-5
    assert runs["plain"][1] > 0.1
