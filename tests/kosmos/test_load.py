"""Kosmos-2 is loaded from a folder, or refused in one sentence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.kosmos.generate.caption import caption
from kosmos_dreambooth.kosmos.kosmos_model import Kosmos
from kosmos_dreambooth.kosmos.load import dtype_on_cpu, load_kosmos
from kosmos_dreambooth.shared.errors import UserError
from kosmos_dreambooth.shared.model_folders import download_model
from safetensors.torch import load_file, save_file
from transformers import XLMRobertaTokenizer


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "my-kosmos"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("attention", ["auto", "eager"])
def test_every_dtype_and_attention_captions(
    folder: Path, four_images: torch.Tensor, dtype: torch.dtype, attention: str
) -> None:
    kosmos = load_kosmos(folder, dtype, attention)
    assert kosmos.model.dtype == dtype
    assert caption(kosmos, four_images)[0].caption == "An image of a red dog in the meadow."


@pytest.mark.parametrize("as_published", [True, False])
def test_no_repeat_ngram_size_is_read_from_old_and_new_files(
    folder: Path, as_published: bool
) -> None:
    (folder / "generation_config.json").unlink(missing_ok=True)
    if as_published:  # in text_config, as transformers 4.35 wrote it
        config = json.loads((folder / "config.json").read_text())
        config["text_config"]["no_repeat_ngram_size"] = 3
        (folder / "config.json").write_text(json.dumps(config))
    else:
        (folder / "generation_config.json").write_text('{"no_repeat_ngram_size": 3}')
    decoder = load_kosmos(folder, torch.float32).model.text_model
    assert decoder.generation_config.no_repeat_ngram_size == 3


@pytest.mark.parametrize("variant", [None, "bf16"])
def test_sharded_weights_and_variants_are_loaded(
    folder: Path, tiny: Kosmos, variant: str | None
) -> None:
    for file in folder.glob("*.safetensors"):
        file.unlink()
    tiny.model.save_pretrained(folder, max_shard_size="50KB", variant=variant)
    assert len(list(folder.glob("*.safetensors"))) > 1
    loaded = load_kosmos(folder, torch.float32).model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in tiny.model.state_dict().items())


def test_weights_loaded_in_inference_mode_can_be_trained(
    folder: Path, four_images: torch.Tensor
) -> None:
    with torch.inference_mode():
        kosmos = load_kosmos(folder, torch.float32)
        caption(kosmos, four_images[:1])
    kosmos.model.text_model.model.embed_tokens.weight.square().sum().backward()


def test_the_layout_of_the_hub_is_loaded(
    folder: Path, tiny: Kosmos, four_images: torch.Tensor
) -> None:
    (folder / "processor_config.json").unlink()
    published = {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "Kosmos2Processor",
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 224, "width": 224},
        "use_square_size": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(published))
    kosmos = load_kosmos(folder, torch.float32)
    assert caption(kosmos, four_images) == caption(tiny, four_images)


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def foreign_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama"}')


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def html_instead_of_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_text("<html>404</html>")


def foreign_weights(folder: Path) -> None:
    save_file({"lora.down": torch.zeros(4, 4)}, folder / "model.safetensors")


def weights_of_another_size(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    wider = {name: torch.cat([tensor, tensor]) for name, tensor in weights.items()}
    save_file(wider, folder / "model.safetensors", metadata={"format": "pt"})


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')


def foreign_tokenizer(folder: Path) -> None:
    plain = XLMRobertaTokenizer(
        vocab=[(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>")]
        + [(f"▁word{k}", -1.0) for k in range(2000)]
    )
    plain.save_pretrained(folder)


def no_processor(folder: Path) -> None:
    (folder / "processor_config.json").unlink()


@pytest.mark.parametrize(
    "damage",
    [
        no_config,
        broken_config,
        foreign_config,
        no_weights,
        cut_weights,
        html_instead_of_weights,
        foreign_weights,
        weights_of_another_size,
        no_tokenizer,
        broken_tokenizer,
        foreign_tokenizer,
        no_processor,
    ],
)
def test_an_invalid_folder_is_a_user_error_of_one_sentence(
    folder: Path, damage: Callable[[Path], None]
) -> None:
    damage(folder)
    with pytest.raises(UserError, match=r"my-kosmos.*: \w.*[^.]\.$") as refused:
        load_kosmos(folder, torch.float32)
    assert str(refused.value).count(". ") == 0
    assert "\n" not in str(refused.value)


def test_a_hub_model_without_internet_is_a_user_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"microsoft/kosmos-2-patch14-224.*internet"):
        download_model("microsoft/kosmos-2-patch14-224", "kosmos")


@pytest.mark.parametrize("native", [True, False])
def test_large_models_use_bfloat16_on_a_cpu_that_supports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    weights = tmp_path / "model.safetensors"
    weights.touch()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    assert dtype_on_cpu(tmp_path) == torch.float32
    os.truncate(weights, 2**30 + 1)
    assert dtype_on_cpu(tmp_path) == (torch.bfloat16 if native else torch.float32)
