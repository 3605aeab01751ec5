"""An exported Kosmos-2 generates the same captions, and inaccurate exports are refused."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from kosmos_dreambooth.export import onnx_format
from kosmos_dreambooth.export.export_folder import Manifest, is_export
from kosmos_dreambooth.export.export_kosmos import brief_captions, export_kosmos
from kosmos_dreambooth.export.onnx_kosmos import load_onnx_kosmos
from kosmos_dreambooth.export.tolerance import TOLERANCES, Precision
from kosmos_dreambooth.kosmos.generate.caption import BRIEF, caption
from kosmos_dreambooth.kosmos.generate.completion import Completion, generate
from kosmos_dreambooth.kosmos.generate.decoding import Decoding
from kosmos_dreambooth.kosmos.generate.encoded_images import EncodedImages
from kosmos_dreambooth.kosmos.generate.image_encoder import encode_images
from kosmos_dreambooth.kosmos.insight.patches import patch_features
from kosmos_dreambooth.kosmos.kosmos_model import Kosmos
from kosmos_dreambooth.kosmos.preprocess import preprocess
from kosmos_dreambooth.kosmos.prompt import tokenize
from kosmos_dreambooth.shared.batching import BatchOptions
from kosmos_dreambooth.shared.errors import UserError
from PIL import Image

PROMPTS = [BRIEF, "A", "Question: what colour is the dog in the picture of the house? Answer:"]


def completions(kosmos: Kosmos, images: torch.Tensor, batch_size: int) -> list[list[Completion]]:
    prompts = [tokenize(kosmos, text, 24) for text in PROMPTS]
    batching = BatchOptions(batch_size=batch_size)
    encoded = EncodedImages(kosmos, images)
    return generate(kosmos, encoded, [prompts] * len(images), max_new_tokens=24, batching=batching)


@pytest.mark.parametrize("batch_size", [1, 4, 15])
def test_all_prompt_lengths_and_batch_sizes_give_the_same_tokens(
    tiny: Kosmos, onnx_captioner: Kosmos, scenes: torch.Tensor, batch_size: int
) -> None:
    exported = completions(onnx_captioner, scenes, batch_size)
    expected = completions(tiny, scenes, batch_size)
    assert [[one.ids for one in each] for each in exported] == [
        [one.ids for one in each] for each in expected
    ]
    for row, expected_row in zip(exported, expected, strict=True):
        for one, other in zip(row, expected_row, strict=True):
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)


@pytest.fixture
def readme_agrees(
    tiny: Kosmos,
    scenes: torch.Tensor,
    run_readme: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Callable[[Path], None]:
    """A check that the program in an export's README prints the caption of the tiny captioner."""

    def check(folder: Path) -> None:
        file = tmp_path / "scene.png"
        square = torch.nn.functional.avg_pool2d(scenes[1].movedim(-1, 0), 2).movedim(0, -1)
        square = (square * 255).round() / 255  # of the model's size, so that it is not resized
        Image.fromarray((square * 255).round().byte().numpy()).save(file)
        capsys.readouterr()
        run_readme(folder, str(file))
        [completion] = brief_captions(tiny, square[None], 40)
        expected = tiny.processor.tokenizer.decode([*completion.ids])
        printed = capsys.readouterr().out.strip().splitlines()[-1]
        assert printed.removeprefix("<grounding> An image of").startswith(expected)

    return check


def test_the_readme_program_prints_the_caption(
    exported: Path, readme_agrees: Callable[[Path], None]
) -> None:
    readme_agrees(exported)


def beam(kosmos: Kosmos, scenes: torch.Tensor) -> object:
    return caption(kosmos, scenes, decoding=Decoding(beams=2), max_new_tokens=8)


def hidden_states(kosmos: Kosmos, scenes: torch.Tensor) -> object:
    ids = torch.ones(1, 4, dtype=torch.long)
    return kosmos.model.text_model.model(input_ids=ids, use_cache=False).last_hidden_state


def patches(kosmos: Kosmos, scenes: torch.Tensor) -> object:
    return patch_features(kosmos, preprocess(kosmos, scenes))


@pytest.mark.parametrize("unsupported", [beam, hidden_states, patches])
def test_unsupported_uses_of_an_export_raise_a_user_error(
    onnx_captioner: Kosmos,
    scenes: torch.Tensor,
    unsupported: Callable[[Kosmos, torch.Tensor], object],
) -> None:
    with pytest.raises(UserError, match="load the model that it was exported from"):
        unsupported(onnx_captioner, scenes[:1])


def test_without_onnxruntime_the_error_names_the_install_command(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "kosmos_dreambooth.export.onnx_session", raising=False)
    with pytest.raises(UserError, match="pip install onnxruntime"):
        load_onnx_kosmos(exported)


@pytest.mark.parametrize(("precision", "loaded_dtype"), [("fp16", "float32"), ("int8", "float16")])
def test_lower_precisions_report_their_error(
    tiny: Kosmos,
    scenes: torch.Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: Precision,
    loaded_dtype: str,
) -> None:
    # Weights are external, as for a large model.
    monkeypatch.setattr(onnx_format, "MAX_EMBEDDED_BYTES", 0)
    loaded = copy.deepcopy(tiny.model).to(getattr(torch, loaded_dtype))
    kosmos = dataclasses.replace(tiny, model=loaded)
    manifest = export_kosmos(kosmos, tmp_path / "made", "onnx", precision, scenes[:1])
    assert loaded.dtype == getattr(torch, loaded_dtype)
    assert manifest == Manifest.read(tmp_path / "made")
    for part in manifest.parts:
        assert 1e-6 < part["difference"] <= TOLERANCES[precision]
        assert (tmp_path / "made" / f"{part['file']}.data").is_file()
        stored = onnx.load(tmp_path / "made" / part["file"]).graph.initializer
        kinds = {onnx.TensorProto.DataType.Name(each.data_type) for each in stored}
        assert {"fp16": "FLOAT16", "int8": "INT8"}[precision] in kinds


def test_an_empty_batch_is_refused(tiny: Kosmos, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is an empty batch"):
        export_kosmos(tiny, tmp_path / "made", "onnx", "fp32", torch.zeros(0, 8, 8, 3))
    assert not list(tmp_path.iterdir())


def test_an_inaccurate_export_leaves_no_folder(
    tiny: Kosmos, scenes: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TOLERANCES, "fp32", 1e-12)
    with pytest.raises(UserError, match=r"exported vision differs from PyTorch by \S+e-0\d"):
        export_kosmos(tiny, tmp_path / "made", "onnx", "fp32", scenes[:1])
    assert not list(tmp_path.iterdir())


def test_an_interrupted_export_leaves_no_files_and_an_unchanged_model(
    tiny: Kosmos, scenes: torch.Tensor, tmp_path: Path
) -> None:
    configs = [tiny.model.text_model.config, tiny.model.vision_model.config]
    attention = [config._attn_implementation for config in configs]
    image_embeds = encode_images(tiny, preprocess(tiny, scenes))
    files: list[str] = []

    def stop_after_first_graph(done: int, total: int) -> None:
        files.extend(path.name for path in tmp_path.rglob("*.onnx"))
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_kosmos(tiny, tmp_path / "made", "onnx", "fp32", scenes[:1], stop_after_first_graph)
    assert files == ["vision.onnx"]
    assert not list(tmp_path.iterdir())
    assert [config._attn_implementation for config in configs] == attention
    assert torch.equal(encode_images(tiny, preprocess(tiny, scenes)), image_embeds)


@pytest.mark.parametrize("content", ["", "[]", '{"kind": 1}', "[" * 10**5])
def test_a_folder_that_is_not_an_export_raises_a_user_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match=r"holds no export\.json\. Choose"):
        Manifest.read(tmp_path)
    (tmp_path / "export.json").write_text(content)
    with pytest.raises(UserError, match="is damaged: export the model again"):
        Manifest.read(tmp_path)


def test_core_ml_export_has_three_graphs(
    tiny: Kosmos, scenes: torch.Tensor, tmp_path: Path
) -> None:
    ct = pytest.importorskip("coremltools")
    manifest = export_kosmos(tiny, tmp_path / "made", "coreml", "fp32", scenes[:1])
    assert is_export(tmp_path / "made")
    names = ["vision", "decoder_read", "decoder_write"]
    assert [part["file"] for part in manifest.parts] == [f"{name}.mlpackage" for name in names]
    spec = ct.models.MLModel(
        str(tmp_path / "made" / "decoder_write.mlpackage"), skip_model_load=True
    ).get_spec()
    [block] = spec.mlProgram.functions["main"].block_specializations.values()
    kinds = [operation.type for operation in block.operations]
    assert {"softmax", "linear", "layer_norm"} <= set(kinds)
    cache = next(e for e in spec.description.input if e.name == "past_0_key")
    assert list(cache.type.multiArrayType.shape) == [1, 2, 64, 16]
    manifest_json = json.loads((tmp_path / "made" / "export.json").read_text())
    assert list(manifest_json["parts"][2]["inputs"])[-2:] == ["past_1_key", "past_1_value"]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_litert_export_computes_the_captions(
    tiny: Kosmos,
    scenes: torch.Tensor,
    tmp_path: Path,
    precision: Precision,
    readme_agrees: Callable[[Path], None],
) -> None:
    pytest.importorskip(
        "litert_torch", reason="litert-torch needs older packages than this environment has"
    )
    manifest = export_kosmos(tiny, tmp_path / "made", "litert", precision, scenes[:2])
    assert len(manifest.parts) == 3
    assert max(part["difference"] for part in manifest.parts) <= TOLERANCES[precision]
    if precision == "fp32":
        readme_agrees(tmp_path / "made")
