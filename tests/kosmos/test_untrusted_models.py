"""Model folders of unknown origin: only safetensors are read, and bad values are named."""

from __future__ import annotations

import json
import pickle
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from kosmos_dreambooth.kosmos.kosmos_lora import merge_lora
from kosmos_dreambooth.kosmos.load import load_kosmos
from kosmos_dreambooth.quantize.save_quantized import unquantized_dtype
from kosmos_dreambooth.sandbox import KOSMOS
from kosmos_dreambooth.shared.check_model import check_model_folder
from kosmos_dreambooth.shared.errors import UserError
from safetensors.torch import load_file, save_file


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "strange"))


def change(file: Path, path: str, value: Any) -> None:
    """Set a value in a JSON file; `path` has a dot between objects."""
    content = json.loads(file.read_text())
    *parents, name = path.split(".")
    target = content
    for parent in parents:
        target = target[parent]
    target[name] = value
    file.write_text(json.dumps(content))


CHANGES = (
    ("config.json", "vision_config.patch_size", 0),
    ("config.json", "vision_config.patch_size", "14"),
    ("config.json", "vision_config.image_size", 10**9),
    ("config.json", "vision_config.num_attention_heads", 0),
    ("config.json", "text_config.attention_heads", 3),
    ("config.json", "text_config.layers", 10**7),
    ("config.json", "text_config.layers", -1),
    ("config.json", "text_config.embed_dim", 2**21),
    ("config.json", "text_config.vocab_size", None),
    ("config.json", "text_config.max_position_embeddings", 10**9),
    ("config.json", "text_config.activation_function", "evil"),
    ("config.json", "text_config", "text"),
    ("config.json", "vision_config", []),
    ("config.json", "model_type", ["kosmos-2"]),
    ("config.json", "quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    ("config.json", "quantization_config", 7),
    ("processor_config.json", "image_processor.size", {"shortest_edge": 10**9}),
)


@pytest.mark.parametrize(("file", "path", "value"), CHANGES)
def test_a_configuration_that_cannot_be_built_is_named_at_once(
    folder: Path, file: str, path: str, value: object
) -> None:
    change(folder / file, path, value)
    started = time.perf_counter()
    with pytest.raises(UserError, match="strange"):
        load_kosmos(folder, torch.float32)
    assert time.perf_counter() - started < 10


def test_headers_without_meaning_are_left_to_the_loader(folder: Path) -> None:
    (folder / "a.safetensors").mkdir()
    (folder / "b.safetensors").touch()
    for number, header in enumerate((b"[" * 10**5, b'{"a": {"shape": [Infinity]}}', b"\xff")):
        (folder / f"{number}.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (folder / "huge.safetensors").write_bytes(b"\xff" * 8)
    check_model_folder(folder)
    assert unquantized_dtype(folder) is None
    (folder / "config.json").write_text("[" * 10**5)
    assert unquantized_dtype(folder) is None


@pytest.mark.parametrize("content", ["null", "[" * 10**5, "", "{", '{"a": 1e999}', "\ud800"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "preprocessor_config.json"])
def test_damaged_json_is_named(folder: Path, name: str, content: str) -> None:
    (folder / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match="strange"):
        load_kosmos(folder, torch.float32)


class Payload:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (self.file,)  # type: ignore[return-value]


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "../x.safetensors", "/x.safetensors", "a/b.safetensors", 7, None]
)
def test_no_list_of_weights_leads_to_a_pickle(folder: Path, name: object) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file({"dummy": torch.zeros(1)}, folder / "dummy.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "evil.bin").write_bytes(pickle.dumps(Payload(folder / "ran")))
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="only safetensors files next to it"):
        load_kosmos(folder, torch.float32)
    assert not (folder / "ran").exists()


def test_no_adapter_is_loaded_with_a_model(folder: Path) -> None:
    config = {"peft_type": "LORA", "base_model_name_or_path": "evil/repo"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="adapter_config"):
        load_kosmos(folder, torch.float32)


@pytest.mark.parametrize(
    "part", ["kosmos", "diffusion/unet", "diffusion/vae", "diffusion/text_encoder"]
)
def test_the_models_of_the_pack_are_valid(part: str) -> None:
    check_model_folder(KOSMOS.parent / part)


def test_sharded_safetensors_are_valid(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = dict.fromkeys(weights, "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )
    assert load_kosmos(folder, torch.float32)


LAYER = "text_model.model.layers.0.ffn.fc1"
PEFT = {"r": 2, "lora_alpha": 2}


def lora_file(folder: Path, peft: object, *, layer: str = LAYER, value: float = 1.0) -> Path:
    """Write a LoRA for the tiny model, with peft's settings as metadata."""
    tensors = {
        f"base_model.model.{layer}.lora_A.weight": torch.full((2, 32), value),
        f"base_model.model.{layer}.lora_B.weight": torch.ones(48, 2),
    }
    file = folder / "lora.safetensors"
    save_file(tensors, file, {"peft": json.dumps(peft)})
    return file


def test_a_valid_lora_is_merged(tiny_folder: Path, tmp_path: Path) -> None:
    kosmos = load_kosmos(tiny_folder, torch.float32)
    weight = kosmos.model.get_submodule(LAYER).weight
    expected = weight.detach() + 2
    merge_lora(kosmos, lora_file(tmp_path, PEFT))
    torch.testing.assert_close(weight.detach(), expected)


STRANGE_PEFT = (
    {**PEFT, "r": 0},
    {**PEFT, "r": "2"},
    {**PEFT, "r": None},
    {"r": 2},
    {**PEFT, "lora_alpha": "2"},
    {**PEFT, "lora_alpha": [2]},
    {**PEFT, "lora_alpha": 10**400},
    {**PEFT, "lora_alpha": 1e300, "r": 1e-300},
    {**PEFT, "trainable_token_indices": {"embed_tokens": [10**200]}},
    {**PEFT, "trainable_token_indices": [1]},
    {**PEFT, "trainable_token_indices": {"embed_tokens": ["a"]}},
    [PEFT],
    None,
)


@pytest.mark.parametrize("peft", STRANGE_PEFT)
def test_a_lora_with_invalid_settings_is_named(
    tiny_folder: Path, tmp_path: Path, peft: object
) -> None:
    kosmos = load_kosmos(tiny_folder, torch.float32)
    with pytest.raises(UserError, match="no LoRA for Kosmos-2"):
        merge_lora(kosmos, lora_file(tmp_path, peft))


def test_a_lora_that_changes_nothing_or_is_nan_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    kosmos = load_kosmos(tiny_folder, torch.float32)
    with pytest.raises(UserError, match="NaN or infinite"):
        merge_lora(kosmos, lora_file(tmp_path, PEFT, value=float("nan")))
    with pytest.raises(UserError, match="another Kosmos-2"):
        merge_lora(kosmos, lora_file(tmp_path, PEFT, layer="text_model.other"))
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors", {"peft": json.dumps(PEFT)})
    with pytest.raises(UserError, match="would change nothing"):
        merge_lora(kosmos, tmp_path / "x.safetensors")
