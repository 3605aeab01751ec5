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
NAMES = ("..", "../secret", "/etc/passwd", "mine/../../secret", "..\\secret", "", "a\0b")


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
