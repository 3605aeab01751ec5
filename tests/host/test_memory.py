"""Models on a pretend GPU inside ComfyUI: what moves when, and what a node says out of memory."""

from __future__ import annotations

import pytest

from .conftest import run_in_comfyui

PROBE = """
    import asyncio, torch
    import comfy.model_management as management
    from dataclasses import replace

    pretend = as_package.load("dev.pretend_gpu")
    DEVICE, pretend_gpu = pretend.DEVICE, pretend.pretend_gpu

    host = as_package.load("nodes.host")
    errors = as_package.load("shared.errors")
    sandbox = as_package.load("sandbox")
    load_diffusion = as_package.load("diffusion.load.model_source").load_diffusion
    load_kosmos = as_package.load("kosmos.load").load_kosmos
    caption = as_package.load("kosmos.generate.caption").caption
    sample = as_package.load("diffusion.sample.sample_images").sample
    prompts = as_package.load("diffusion.sample.prompt_encoding")

    as_package.load("shared.stream_weights").SMALL_BYTES = 2**14
    management.get_torch_device = lambda: DEVICE
    management.get_all_torch_devices = lambda *_: [DEVICE]
    management.cpu_state = management.CPUState.GPU
    management.minimum_inference_memory = lambda: ROOM
    management.extra_reserved_memory = lambda: 0
    management.soft_empty_cache = lambda force=False: None
    management.should_use_fp16 = lambda *_, **__: True

    diffusion = load_diffusion(sandbox.DIFFUSION)
    kosmos = load_kosmos(sandbox.KOSMOS, torch.float32)
    image = torch.rand(1, 112, 112, 3, generator=torch.Generator().manual_seed(0))
    expected = sample(diffusion, ["a red cat"], steps=2), caption(kosmos, image)

    def generate(budget, state, vae_device=DEVICE):
        prompts._caches.clear()
        management.vae_device = lambda: vae_device
        management.vram_state = management.VRAMState[state]
        with pretend_gpu(budget) as gpu:
            management.get_free_memory = lambda device=None, torch_free_too=False: (
                (budget - gpu.used(),) * 2 if torch_free_too else budget - gpu.used()
            )
            model = replace(diffusion, patcher=host.register_model(diffusion.modules))
            moved, load = [], model.patcher.load_parts
            model.patcher.load_parts = lambda *names: (moved.append(names), load(*names))
            images = sample(model, ["a red cat"], steps=2)
            facts = {
                "moved": moved,
                "equal": bool(torch.allclose(images, expected[0], atol=1e-4)),
                "peak": gpu.peak,
                "on the device": [
                    name for name, part in model.modules.items()
                    if all(weight.device == DEVICE for weight in part.parameters())
                ],
            }
            management.unload_all_models()
            facts["left"] = gpu.used()
            looking = replace(kosmos, patcher=host.register_model(kosmos.model))
            host.load_to_device(looking.patcher)
            facts["same caption"] = caption(looking, image) == expected[1]
            management.unload_all_models()
            return facts

    facts = {name: generate(*run) for name, run in RUNS.items()}
    facts["cpu vae"] = generate(BUDGET, "NORMAL_VRAM", torch.device("cpu"))

    extension = as_package.load("nodes").KosmosDreamBooth()
    nodes = {node.__name__: node for node in asyncio.run(extension.get_node_list())}

    # The precision of the VAE is that of ComfyUI's arguments.
    arguments = management.args
    for flag in ("", "fp16_vae", "bf16_vae", "fp32_vae", "cpu_vae"):
        if flag:
            setattr(arguments, flag, True)
        management.vae_device = lambda: DEVICE if flag != "cpu_vae" else torch.device("cpu")
        management.should_use_fp16 = lambda device=None, *_, **__: str(device) != "cpu"
        model = nodes["LoadDiffusion"].execute(model="sandbox", dtype="auto").args[0]
        facts["dtypes " + flag] = [str(model.unet.dtype), str(model.vae.dtype)]
        if flag:
            setattr(arguments, flag, False)
        if flag == "bf16_vae":
            with pretend_gpu():
                management.get_free_memory = lambda device=None, torch_free_too=False: (
                    (BUDGET,) * 2 if torch_free_too else BUDGET
                )
                facts["finite"] = bool(sample(model, ["a cat"], steps=2).isfinite().all())
                management.unload_all_models()
    management.vae_device = lambda: DEVICE

    # A node that runs out of memory says so in a sentence.
    small = pretend_gpu(200_000)
    with small as gpu:
        management.vram_state = management.VRAMState.NORMAL_VRAM
        management.get_free_memory = lambda device=None, torch_free_too=False: (
            (BUDGET,) * 2 if torch_free_too else BUDGET
        )
        for name, inputs in {
            "PatchTokens": {"kosmos": kosmos, "image": image},
            "GroundedCaption": {"kosmos": kosmos, "image": image},
            "CFGSampler": {"diffusion": diffusion, "prompt": "a cat"},
        }.items():
            schema = nodes[name].define_schema()
            widgets = [one for one in schema.inputs if getattr(one, "default", None) is not None]
            values = {widget.id: widget.default for widget in widgets}
            for key, model in inputs.items():
                if key in ("kosmos", "diffusion"):
                    module = model.model if key == "kosmos" else model.modules
                    inputs[key] = replace(model, patcher=host.register_model(module))
            try:
                nodes[name].execute(**{**values, **inputs})
            except errors.UserError as error:
                facts[name] = str(error)
    print(json.dumps(facts))
"""
ROOM = 6_000_000
BUDGET = 100_000_000
RUNS = {
    "enough": (BUDGET, "NORMAL_VRAM"),
    "scarce": (28_000_000, "NORMAL_VRAM"),
    "very scarce": (16_000_000, "NORMAL_VRAM"),
    "lowvram": (BUDGET, "LOW_VRAM"),
    "novram": (BUDGET, "NO_VRAM"),
}


@pytest.fixture(scope="module")
def facts() -> dict:
    return run_in_comfyui(PROBE, ROOM=ROOM, RUNS=RUNS, BUDGET=BUDGET)


@pytest.mark.parametrize("name", [*RUNS, "cpu vae"])
def test_models_compute_in_any_memory(name: str, facts: dict) -> None:
    budget, _ = RUNS.get(name, (BUDGET, ""))
    assert facts[name]["equal"]
    assert facts[name]["same caption"]
    assert facts[name]["left"] == 0
    assert facts[name]["peak"] <= budget
    assert facts[name]["moved"] == [["text_encoder"], ["unet"], ["vae"]]


def test_what_does_not_fit_is_streamed(facts: dict) -> None:
    assert facts["enough"]["on the device"] == ["unet", "vae", "text_encoder"]
    assert facts["scarce"]["on the device"] == ["vae"]
    assert facts["novram"]["on the device"] == []
    assert facts["novram"]["peak"] < 8_000_000  # the UNet alone has 11 MB
    assert "vae" not in facts["cpu vae"]["on the device"]


@pytest.mark.parametrize(
    ("flag", "dtype"),
    [
        ("", "float16"),
        ("fp16_vae", "float16"),
        ("bf16_vae", "bfloat16"),
        ("fp32_vae", "float32"),
        ("cpu_vae", "float32"),
    ],
)
def test_the_vae_has_the_precision_of_comfyuis_arguments(
    flag: str, dtype: str, facts: dict
) -> None:
    assert facts[f"dtypes {flag}"] == ["torch.float16", f"torch.{dtype}"]
    assert facts["finite"]


@pytest.mark.parametrize("node", ["PatchTokens", "GroundedCaption", "CFGSampler"])
def test_a_node_without_memory_says_so_in_a_sentence(node: str, facts: dict) -> None:
    assert "not enough memory" in facts[node]
    assert ". " not in facts[node]
