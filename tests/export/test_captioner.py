"""A captioner outside PyTorch writes what it wrote inside, and what is off is refused."""

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


def replies(kosmos: Kosmos, images: torch.Tensor, batch_size: int) -> list[list[Completion]]:
    prompts = [tokenize(kosmos, text, 24) for text in PROMPTS]
    batching = BatchOptions(batch_size=batch_size)
    pictures = EncodedImages(kosmos, images)
    return generate(kosmos, pictures, [prompts] * len(images), max_new_tokens=24, batching=batching)


@pytest.mark.parametrize("batch_size", [1, 4, 15])
def test_prompts_of_any_length_in_any_batch_get_the_same_tokens(
    tiny: Kosmos, onnx_captioner: Kosmos, scenes: torch.Tensor, batch_size: int
) -> None:
    ours = replies(onnx_captioner, scenes, batch_size)
    theirs = replies(tiny, scenes, batch_size)
    assert [[one.ids for one in each] for each in ours] == [
        [one.ids for one in each] for each in theirs
    ]
    sure = [one.probabilities for replies in (ours, theirs) for each in replies for one in each]
    half = len(sure) // 2
    for here, there in zip(sure[:half], sure[half:], strict=True):
        assert here == pytest.approx(there, abs=1e-4)


@pytest.fixture
def readme_agrees(
    tiny: Kosmos,
    scenes: torch.Tensor,
    run_readme: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Callable[[Path], None]:
    """See that the program in the README of an export of the tiny captioner writes as it does."""

    def look(folder: Path) -> None:
        picture = tmp_path / "scene.png"
        square = torch.nn.functional.avg_pool2d(scenes[1].movedim(-1, 0), 2).movedim(0, -1)
        square = (square * 255).round() / 255  # of its own size, so that nobody scales it
        Image.fromarray((square * 255).round().byte().numpy()).save(picture)
        capsys.readouterr()
        run_readme(folder, str(picture))
        [reply] = brief_captions(tiny, square[None], 40)
        written = tiny.processor.tokenizer.decode([*reply.ids])
        told = capsys.readouterr().out.strip().splitlines()[-1]
        assert told.removeprefix("<grounding> An image of").startswith(written)

    return look


def test_the_program_in_the_readme_writes_the_caption(
    exported: Path, readme_agrees: Callable[[Path], None]
) -> None:
    readme_agrees(exported)


def beam(kosmos: Kosmos, scenes: torch.Tensor) -> object:
    return caption(kosmos, scenes, decoding=Decoding(beams=2), max_new_tokens=8)


def slots_and_states(kosmos: Kosmos, scenes: torch.Tensor) -> object:
    ids = torch.ones(1, 4, dtype=torch.long)
    return kosmos.model.text_model.model(input_ids=ids, use_cache=False).last_hidden_state


def patches(kosmos: Kosmos, scenes: torch.Tensor) -> object:
    return patch_features(kosmos, preprocess(kosmos, scenes))


@pytest.mark.parametrize("look_inside", [beam, slots_and_states, patches])
def test_what_looks_inside_an_export_is_told_what_to_load(
    onnx_captioner: Kosmos,
    scenes: torch.Tensor,
    look_inside: Callable[[Kosmos, torch.Tensor], object],
) -> None:
    with pytest.raises(UserError, match="load the model that it was made from"):
        look_inside(onnx_captioner, scenes[:1])


def test_without_onnxruntime_an_export_says_what_to_install(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "kosmos_dreambooth.export.onnx_session", raising=False)
    with pytest.raises(UserError, match="pip install onnxruntime"):
        load_onnx_kosmos(exported)


@pytest.mark.parametrize(("precision", "loaded_in"), [("fp16", "float32"), ("int8", "float16")])
def test_smaller_precisions_are_smaller_and_say_how_far_off(
    tiny: Kosmos,
    scenes: torch.Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: Precision,
    loaded_in: str,
) -> None:
    # As if the weights were too many for one file.
    monkeypatch.setattr(onnx_format, "MAX_EMBEDDED_BYTES", 0)
    loaded = copy.deepcopy(tiny.model).to(getattr(torch, loaded_in))
    kosmos = dataclasses.replace(tiny, model=loaded)
    manifest = export_kosmos(kosmos, tmp_path / "made", "onnx", precision, scenes[:1])
    assert loaded.dtype == getattr(torch, loaded_in)
    assert manifest == Manifest.read(tmp_path / "made")
    for part in manifest.parts:
        assert 1e-6 < part["difference"] <= TOLERANCES[precision]
        assert (tmp_path / "made" / f"{part['file']}.data").is_file()
        stored = onnx.load(tmp_path / "made" / part["file"]).graph.initializer
        kinds = {onnx.TensorProto.DataType.Name(each.data_type) for each in stored}
        assert {"fp16": "FLOAT16", "int8": "INT8"}[precision] in kinds


def test_without_a_picture_to_compare_on_nothing_is_exported(tiny: Kosmos, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is an empty batch"):
        export_kosmos(tiny, tmp_path / "made", "onnx", "fp32", torch.zeros(0, 8, 8, 3))
    assert not list(tmp_path.iterdir())


def test_an_export_that_is_off_never_becomes_a_folder(
    tiny: Kosmos, scenes: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TOLERANCES, "fp32", 1e-12)
    with pytest.raises(UserError, match=r"exported vision is \S+e-0\d off what PyTorch"):
        export_kosmos(tiny, tmp_path / "made", "onnx", "fp32", scenes[:1])
    assert not list(tmp_path.iterdir())


def test_an_interrupted_export_leaves_nothing_and_the_model_as_it_was(
    tiny: Kosmos, scenes: torch.Tensor, tmp_path: Path
) -> None:
    configs = [tiny.model.text_model.config, tiny.model.vision_model.config]
    attention = [config._attn_implementation for config in configs]
    slots = encode_images(tiny, preprocess(tiny, scenes))
    seen: list[str] = []

    def stop_after_a_graph(done: int, total: int) -> None:
        seen.extend(path.name for path in tmp_path.rglob("*.onnx"))
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_kosmos(tiny, tmp_path / "made", "onnx", "fp32", scenes[:1], stop_after_a_graph)
    assert seen == ["vision.onnx"]
    assert not list(tmp_path.iterdir())
    assert [config._attn_implementation for config in configs] == attention
    assert torch.equal(encode_images(tiny, preprocess(tiny, scenes)), slots)


@pytest.mark.parametrize("content", ["", "[]", '{"kind": 1}'])
def test_a_folder_that_is_no_export_is_one_sentence(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match=r"holds no export\.json\. Choose"):
        Manifest.read(tmp_path)
    (tmp_path / "export.json").write_text(content)
    with pytest.raises(UserError, match="is damaged: export the model again"):
        Manifest.read(tmp_path)


def test_core_ml_gets_a_program_of_three_graphs(
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
    memory = next(e for e in spec.description.input if e.name == "past_0_key")
    assert list(memory.type.multiArrayType.shape) == [1, 2, 64, 16]
    written = json.loads((tmp_path / "made" / "export.json").read_text())
    assert list(written["parts"][2]["inputs"])[-2:] == ["past_1_key", "past_1_value"]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_lite_rt_computes_the_whole_captioner(
    tiny: Kosmos,
    scenes: torch.Tensor,
    tmp_path: Path,
    precision: Precision,
    readme_agrees: Callable[[Path], None],
) -> None:
    pytest.importorskip(
        "litert_torch", reason="litert-torch wants older packages than this environment has"
    )
    manifest = export_kosmos(tiny, tmp_path / "made", "litert", precision, scenes[:2])
    assert len(manifest.parts) == 3
    assert max(part["difference"] for part in manifest.parts) <= TOLERANCES[precision]
    if precision == "fp32":
        readme_agrees(tmp_path / "made")
