"""nodes/host inside a ComfyUI without a server: model folders, path names, patchers, dtypes."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import run_in_comfyui

PROBE = """
    import torch, transformers

    host = as_package.load("nodes.host")

    def result(function, *arguments):
        try:
            return str(function(*arguments))
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    config = transformers.CLIPTextConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    patcher = host.register_model(transformers.CLIPTextModel(config))
    print(json.dumps({
        "kosmos": host.list_models("kosmos"),
        "diffusers": host.list_models("diffusers"),
        "checkpoints": host.list_models("checkpoints"),
        "found": result(host.model_path, "kosmos", "mine/small"),
        "names": {name: result(host.model_path, "kosmos", name) for name in NAMES},
        "outputs": {name: result(host.output_path, "dreambooth", name) for name in NAMES},
        "device": [result(host.load_to_device, patcher) for _ in range(2)],
        "dtypes": [result(host.torch_dtype, choice) for choice in ("auto", "fp16", "bf16")],
    }))
"""
NAMES = (
    "/Windows/evil",
    "D:evil",
    "a/NUL.txt",
    "a:b",
    "..",
    "../secret",
    "/etc/passwd",
    "mine/../../secret",
    "..\\secret",
    "",
    "a\0b",
)


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict:
    base = tmp_path_factory.mktemp("host")
    for file in (
        "kosmos/mine/small/config.json",
        "kosmos/not_a_model/notes.txt",
        "diffusers/one/model_index.json",
        "diffusers/one/unet/config.json",
        "checkpoints/v1/a.safetensors",
        "checkpoints/v1/old.ckpt",
    ):
        path = base / "models" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (base / "secret").mkdir()
    facts = run_in_comfyui(PROBE, "--base-directory", str(base), NAMES=NAMES)
    return {**facts, "base": base}


def test_a_model_folder_is_recognized_by_its_config(facts: dict) -> None:
    assert facts["kosmos"] == ["mine/small"]
    assert facts["diffusers"] == ["one"]
    assert facts["checkpoints"] == ["v1/a.safetensors"]
    assert Path(facts["found"]) == facts["base"] / "models" / "kosmos" / "mine" / "small"


@pytest.mark.parametrize("name", NAMES)
def test_no_name_escapes_from_comfyuis_folders(facts: dict, name: str) -> None:
    assert facts["names"][name].startswith("UserError: ")
    assert facts["outputs"][name].startswith("UserError: ")


def test_a_model_is_loaded_to_the_device_again(facts: dict) -> None:
    assert facts["device"] == ["cpu", "cpu"]


def test_dtypes_of_the_cpu(facts: dict) -> None:
    assert facts["dtypes"] == ["torch.float32", "torch.float16", "torch.bfloat16"]


CORE_MODELS = """
    import dataclasses, torch
    import comfy.model_management, comfy.model_patcher
    from comfy.model_patcher import ModelPatcher

    node = as_package.load("nodes.to_comfy_model")
    host = as_package.load("nodes.host")
    sandbox = as_package.load("sandbox")
    load_diffusion = as_package.load("diffusion.load.model_source").load_diffusion
    kosmos = as_package.load("kosmos.kosmos_model")
    knows_reload = hasattr(comfy.model_patcher, "CoreModelPatcher")
    if knows_reload:
        class Dynamic(ModelPatcher):  # core's modules keep the tensors that they are given
            def is_dynamic(self):
                return True
        comfy.model_patcher.CoreModelPatcher = Dynamic

    def pointers(module):
        return {weight.data_ptr() for weight in module.parameters()}

    diffusion = load_diffusion(sandbox.DIFFUSION)
    with torch.inference_mode():
        model, clip, vae = node.ToComfyModel.execute(diffusion).result
    parts = {}
    for name, patcher in {"MODEL": model, "CLIP": clip.patcher, "VAE": vae.patcher}.items():
        facts = {"shared": bool(pointers(patcher.model) & pointers(diffusion.modules))}
        parts[name] = facts
        if knows_reload:
            create, arguments = patcher.cached_patcher_init
            again = create(*arguments, disable_dynamic=True)
            facts["shared again"] = bool(pointers(patcher.model) & pointers(again.model))
            facts["dynamic"] = again.is_dynamic()
            facts["equal"] = all(
                torch.equal(one, other) and not other.is_inference()
                for one, other in zip(
                    patcher.model.parameters(), again.model.parameters(), strict=True
                )
            )
    registered = host.register_model(diffusion.modules)
    is_model = getattr(
        comfy.model_patcher,
        "is_model_patcher_output",
        lambda output: isinstance(output.patcher, ModelPatcher),
    )
    comfy.model_management.get_free_memory = lambda device: 1000
    free = [host.free_memory()]
    if knows_reload:
        import comfy.memory_management, comfy_aimdo.model_vbar
        comfy.memory_management.aimdo_enabled = True
        comfy_aimdo.model_vbar.vbars_analyze = lambda device: 200
        free.append(host.free_memory())
    print(json.dumps({
        "parts": parts,
        "sockets": [
            is_model(dataclasses.replace(diffusion, patcher=registered)),
            is_model(kosmos.Kosmos(None, None, "", registered)),
            is_model(vae),
        ],
        "free": free,
    }))
"""


@pytest.fixture(scope="module")
def core_models() -> dict:
    return run_in_comfyui(CORE_MODELS)


def test_core_gets_weights_of_its_own_and_can_make_them_anew(core_models: dict) -> None:
    again = {"shared again": False, "dynamic": False, "equal": True}
    for part in core_models["parts"].values():
        assert part in ({"shared": False}, {"shared": False, **again})


def test_comfyui_recognizes_models_in_sockets(core_models: dict) -> None:
    assert core_models["sockets"] == [True] * 3


def test_free_memory_counts_what_comfyui_can_evict(core_models: dict) -> None:
    assert core_models["free"] in ([1000], [1000, 1200])
