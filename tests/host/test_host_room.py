"""The seam to ComfyUI, tried inside a ComfyUI without a server: folders, names, moving models."""

from __future__ import annotations

import json
import subprocess
import textwrap
from pathlib import Path

import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import ROOT, home, python

PROBE = """
    import importlib.util, json, sys
    from pathlib import Path

    sys.path.insert(0, ".")
    import comfy.options
    comfy.options.enable_args_parsing()
    import utils.extra_config  # first, as in ComfyUI's main.py: comfy/ has a module of that name
    import torch, transformers

    root = Path(ROOT)
    spec = importlib.util.spec_from_file_location("as_package", root / "as_package.py")
    as_package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(as_package)
    host = as_package.load("nodes.host")

    def answer(function, *arguments):
        try:
            return str(function(*arguments))
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    config = transformers.CLIPTextConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    patcher = host.register_model(transformers.CLIPTextModel(config))
    facts = {
        "kosmos": host.list_models("kosmos"),
        "diffusers": host.list_models("diffusers"),
        "checkpoints": host.list_models("checkpoints"),
        "found": answer(host.resolve, "kosmos", "mine/small"),
        "names": {name: answer(host.resolve, "kosmos", name) for name in NAMES},
        "outputs": {name: answer(host.output_folder, "dreambooth", name) for name in NAMES},
        "device": [answer(host.load_to_device, patcher) for _ in range(2)],
        "dtypes": [answer(host.torch_dtype, choice) for choice in ("auto", "fp16", "bf16")],
    }
    print(json.dumps(facts))
"""
NAMES = ("..", "../secret", "/etc/passwd", "mine/../../secret", "..\\secret", "", "a\0b")


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict:
    base = tmp_path_factory.mktemp("seam")
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
    program = f"ROOT, NAMES = {str(ROOT)!r}, {NAMES!r}\n{textwrap.dedent(PROBE)}"
    done = subprocess.run(
        [python(), "-", "--cpu", "--base-directory", str(base)],
        cwd=home(),
        input=program,
        capture_output=True,
        text=True,
        check=True,
    )
    return {**json.loads(done.stdout.splitlines()[-1]), "base": base}


def test_a_model_folder_is_found_by_the_file_that_makes_it_one(facts: dict) -> None:
    assert facts["kosmos"] == ["mine/small"]
    assert facts["diffusers"] == ["one"]
    assert facts["checkpoints"] == ["v1/a.safetensors"]
    assert Path(facts["found"]) == facts["base"] / "models" / "kosmos" / "mine" / "small"


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_out_of_comfyuis_folders(facts: dict, name: str) -> None:
    assert facts["names"][name].startswith("UserError: ")
    assert facts["outputs"][name].startswith("UserError: ")


def test_a_hugging_face_model_comes_in_as_often_as_asked(facts: dict) -> None:
    assert facts["device"] == ["cpu", "cpu"]


def test_precision_is_chosen_for_the_device(facts: dict) -> None:
    assert facts["dtypes"] == ["torch.float32", "torch.float16", "torch.bfloat16"]
