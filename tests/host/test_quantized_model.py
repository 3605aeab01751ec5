"""A MODEL whose file is quantized, as the worker of DreamBoothTrain opens it again."""

from __future__ import annotations

from pathlib import Path

from kosmos_dreambooth.dev.bench.quantized_files import CORE_FORMATS, KINDS

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

    def relative(difference, value):
        return float(difference.norm() / value.norm())

    torch.manual_seed(0)
    original = weights[name + ".weight"]
    lora = torch.randn_like(original) * original.std()
    found = {}
    for kind in (*KINDS, *CORE_FORMATS):
        if kind in CORE_FORMATS and kind not in comfy.ops.QUANT_ALGOS:
            continue  # this ComfyUI opens no such files
        file = folder / f"{kind}.safetensors"
        write_quantized(Path(PLAIN), file, kind, "joint_blocks.")
        # On a CPU ComfyUI would cast it.
        options = {"dtype": torch.float8_e4m3fn} if kind == "fp8" else {}
        with torch.inference_mode():  # as nodes run
            model, patched = (
                comfy.sd.load_diffusion_model(str(file), model_options=options) for _ in range(2)
            )
            model.cached_patcher_init = None  # as before 0.16
            patched.add_patches({f"diffusion_model.{name}.weight": (lora,)}, 1.0)
            sources = [source_of(one, folder / "cache") for one in (model, patched)]
        layer, weight = stored(sources[0], sources[0].base)
        found[kind] = {
            "dtype": str(getattr(layer.weight, "_qdata", layer.weight).dtype),
            "same": torch.equal(weight, stored(sources[0], file)[1]),
            "change": relative(weight - original, original),
            "merged": relative(stored(sources[1], sources[1].base)[1] - weight - lora, lora),
            "cached": [Path(source.base).parent.name for source in sources],
        }
    print(json.dumps(found))
"""


def test_a_quantized_model_is_written_and_opened_as_it_is(tmp_path: Path) -> None:
    plain = write_sd3(tmp_path / "plain.safetensors")
    found = run_in_comfyui(
        REOPENED, FOLDER=str(tmp_path), PLAIN=str(plain), KINDS=KINDS, CORE_FORMATS=CORE_FORMATS
    )
    assert {*KINDS} <= found.keys()
    dtypes = {"float8_e5m2": "float8_e5m2", "nvfp4": "uint8", "mxfp8": "float8_e4m3fn"}
    for kind, values in found.items():
        default = "int8" if kind in CORE_FORMATS else "float8_e4m3fn"
        assert values["dtype"] == f"torch.{dtypes.get(kind, default)}"
        assert values["same"]
        assert 0 < values["change"] < 0.2
        assert values["merged"] < 3 * values["change"]
        assert values["cached"] == ["cache"] * 2
