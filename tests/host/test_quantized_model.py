"""A MODEL whose file is quantized, as the worker of DreamBoothTrain opens it again."""

from __future__ import annotations

from pathlib import Path

import pytest
from kosmos_dreambooth.dev.bench.quantized_files import KINDS

from tests.small_sd3 import write_sd3

from .conftest import run_in_comfyui

REOPENED = """
    import comfy.sd, comfy.ops, torch
    from pathlib import Path
    from types import SimpleNamespace
    from safetensors.torch import load_file

    source_of = as_package.load("nodes.host").model_source
    open_model = as_package.load("training.comfyui.open_model").open_model
    frozen_layers = as_package.load("training.denoiser.frozen_layers")
    write_quantized = as_package.load("dev.bench.quantized_files").write_quantized
    folder = Path(FOLDER)
    weights = load_file(PLAIN)
    name = "joint_blocks.0.x_block.attn.qkv"

    def stored(source, base):
        config = SimpleNamespace(**vars(source) | {"base": str(base)})
        layer = open_model(config, torch.float32, None).layers.get_submodule(name)
        return layer, frozen_layers.StoredLayer(layer, offloaded=False).weight(torch.float32)

    found = {}
    for kind in KINDS:
        if kind in CORE_FORMATS and kind not in comfy.ops.QUANT_ALGOS:
            continue  # this ComfyUI opens no such files
        file = folder / f"{kind}.safetensors"
        write_quantized(Path(PLAIN), file, kind, "joint_blocks.")
        # On a CPU ComfyUI would cast it.
        options = {"dtype": torch.float8_e4m3fn} if kind == "fp8" else {}
        model = comfy.sd.load_diffusion_model(str(file), model_options=options)
        model.cached_patcher_init = None  # as before 0.16, and as for a MODEL with LoRAs
        source = source_of(model, folder / "cache")
        layer, weight = stored(source, source.base)
        original = weights[name + ".weight"]
        found[kind] = {
            "bytes": layer.weight.element_size() if kind == "fp8" else WIDTHS[kind],
            "same": torch.equal(weight, stored(source, file)[1]),
            "change": float((weight - original).norm() / original.norm()),
            "cached": Path(source.base).parent.name,
        }
    print(json.dumps(found))
"""


def test_a_quantized_model_is_written_and_opened_as_it_is(tmp_path: Path) -> None:
    plain, kinds = write_sd3(tmp_path / "plain.safetensors"), [*KINDS, "int8_tensorwise"]
    found = run_in_comfyui(REOPENED, FOLDER=str(tmp_path), PLAIN=str(plain), KINDS=kinds)
    assert {*KINDS} <= found.keys()
    for kind, values in found.items():
        int8 = kind == "int8_tensorwise"
        assert values["dtype"] == ("torch.int8" if int8 else "torch.float8_e4m3fn")
        assert values["change"] == pytest.approx(0.02, abs=0.015)
        assert values["cached"] == "cache"
