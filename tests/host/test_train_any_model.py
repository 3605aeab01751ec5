"""DreamBoothTrain on core's MODEL, CLIP and VAE, on a real server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client
from kosmos_dreambooth.training.config_yaml import read_config
from kosmos_dreambooth.training.run.events import loss_curve
from kosmos_dreambooth.training.run.run_folder import RunFolder
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train
from safetensors.torch import load_file

from tests.small_sd3 import write_sd3

from .conftest import TINY_MODEL, Graph, run_folder, run_in_comfyui, texts, train_graph

pytestmark = pytest.mark.usefixtures("tiny_model")


def model_graph(name: str, **settings: object) -> Graph:
    """Train the MODEL of the tiny DIFFUSION, with a LoRA as its result."""
    graph = train_graph(name, train_text_encoder=False, **settings)
    del graph["train"]["inputs"]["diffusion"]
    graph.add("convert", "ToComfyModel", diffusion=["load", 0])
    return graph.set("train", model=["convert", 0], clip=["convert", 1], vae=["convert", 2])


def test_a_model_trains_as_the_diffusion_that_it_was_made_of(
    server: ComfyUI, client: Client, tmp_path: Path
) -> None:
    # A small rate: Adam would amplify rounding errors of gradients near 0.
    settings = {"steps": 4, "learning_rate": 1e-3, "priors": ["priors", 0]}
    priors = {"diffusion": ["load", 0], "count": 2, "steps": 2}
    own = run_folder(
        train_graph("of_diffusion", train_text_encoder=False, **settings)
        .add("priors", "PriorGenerator", **priors)
        .run(client)
    )
    graph = model_graph("of_model", **settings).add("priors", "PriorGenerator", **priors)
    graph.add("encode", "CLIPTextEncode", clip=["convert", 1], text="a sks dog")
    graph.add("empty", "EmptyLatentImage", width=64, height=64)
    sampled = {"positive": ["encode", 0], "negative": ["encode", 0], "latent_image": ["empty", 0]}
    graph.add("sample", "KSampler", model=["train", 5], steps=2, **sampled)
    graph.add("decode", "VAEDecode", samples=["sample", 0], vae=["convert", 2])
    outcome = graph.add("show", "PreviewImage", images=["decode", 0]).outputs(client)
    run = run_folder(outcome)
    assert outcome.outputs["show"]["images"]
    config = read_config(run.config)
    assert config.loader == "ToComfyModel"
    assert len(loss_curve(run.events)) == 4
    # Core encodes to the mean of the VAE's posterior, so the DIFFUSION is trained on that too.
    again = RunFolder(tmp_path / "again")
    for folder in ("pictures", "masks", "priors"):
        shutil.copytree(own.path / folder, again.path / folder)
    shutil.copyfile(own.config, again.config)
    shutil.copyfile(run.latents, again.latents)
    assert train(again, StopRequest())
    assert loss_curve(again.events) == pytest.approx(loss_curve(run.events), rel=1e-4)
    sampled_latents, means = load_file(own.latents), load_file(run.latents)
    torch.testing.assert_close(sampled_latents["subject.mean"], means["subject.mean"])
    [published] = (server.base / "models" / "loras" / "dreambooth").glob("of_model.safetensors")
    assert all(key.startswith("diffusion_model.") for key in load_file(published))


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"diffusion": ["load", 0]}, "both are connected"),
        ({"model": None}, "neither is connected"),
        ({"clip": None}, "A MODEL needs its CLIP too"),
        ({"clip": None, "vae": None}, "A MODEL needs its CLIP and VAE too"),
        ({"train_text_encoder": True}, "train_text_encoder is for a DIFFUSION"),
        ({"method": "full"}, "connect diffusion in place of model"),
        ({"resolution": 33}, "this VAE needs a multiple of"),
    ],
)
def test_inputs_that_do_not_go_together_are_reported(
    client: Client, inputs: dict[str, object], sentence: str
) -> None:
    graph = model_graph("refused", steps=4).set("train", **inputs)
    graph["train"]["inputs"] = {k: v for k, v in graph["train"]["inputs"].items() if v is not None}
    assert sentence in graph.failure(client, "train")


def test_the_model_generates_its_class_images_once(server: ComfyUI, client: Client) -> None:
    models = {"model": ["convert", 0], "clip": ["convert", 1], "vae": ["convert", 2]}
    graph = model_graph("core_class", steps=2, priors=["priors", 0], method="dora")
    graph.add("priors", "PriorGenerator", **models, prompt="a core dog", count=3, steps=2)
    run = run_folder(graph.run(client))
    [folder] = (server.output / "priors").glob("a_core_dog-*")
    written = {file: file.stat().st_mtime_ns for file in folder.glob("*.png")}
    assert len(written) == 3
    assert len(list(run.class_images.glob("*.png"))) == 3
    assert "class.mean" in load_file(run.latents)
    assert any(key.endswith(".dora_scale") for key in load_file(run.lora))
    del graph["train"], graph["folder"]
    graph.set("priors", count=4).add("show", "PreviewImage", images=["priors", 1]).run(client)
    assert len(list(folder.glob("*.png"))) == 4
    assert {file: file.stat().st_mtime_ns for file in written} == written
    graph.set("priors", when="during")
    assert "set when to before" in graph.failure(client, "priors")


def test_a_run_on_a_model_is_resumed_and_scored(client: Client) -> None:
    first = run_folder(model_graph("scored", steps=2).run(client))
    graph = Graph().add("load", "LoadDiffusion", model=TINY_MODEL)
    graph.add("convert", "ToComfyModel", diffusion=["load", 0])
    graph.add("open", "LoadTrainingRun", run="scored")
    graph.add("resume", "ResumeTraining", run=["open", 0], steps=4)
    graph.add("folder", "PreviewAny", source=["resume", 3])
    settings = {"run": ["resume", 4], "prompts": "a {subject}", "count": 2, "steps": 1}
    graph.add("score", "EvaluateSubject", **settings)
    graph.add("best", "PreviewAny", source=["score", 3])
    assert "connect that MODEL, its CLIP and its VAE" in graph.failure(client, "score")
    graph.set("score", model=["convert", 0], clip=["convert", 1], vae=["convert", 2])
    outcome = graph.run(client)
    run = run_folder(outcome)
    assert run.path == first.path
    assert len(loss_curve(run.events)) == 4
    assert texts(outcome, "best") == ["4"]
    [scores] = json.loads(run.scores.read_text(encoding="utf-8"))["checkpoints"]
    assert scores["step"] == 4


SOURCES = """
    import comfy.model_sampling, comfy.sd, comfy.ops, shutil, torch
    from pathlib import Path
    from types import SimpleNamespace
    from safetensors.torch import load_file

    host = as_package.load("nodes.host")
    source_of = host.model_source
    open_model = as_package.load("training.comfyui.open_model").open_model
    UserError = as_package.load("shared.errors").UserError
    folder = Path(FOLDER)
    weights = load_file(SD3)
    options = {"dtype": torch.float32}

    def load():
        return comfy.sd.load_diffusion_model(SD3, model_options=options)

    def source_and_reopened(model):
        source = source_of(model, folder / "cache")
        config = SimpleNamespace(**vars(source))
        return source, open_model(config, torch.float32, None)

    def weight(layers):
        return layers.state_dict()["joint_blocks.0.x_block.attn.qkv.weight"]

    def sentence(function, *inputs):
        try:
            function(*inputs)
        except UserError as error:
            return str(error)

    def refusal(change):
        model = load()
        change(model)
        return sentence(source_of, model, folder / "cache")

    plain, opened = source_and_reopened(load())
    again, _ = source_and_reopened(load())
    PREFIX = "diffusion_model."
    key = PREFIX + "joint_blocks.0.x_block.attn.qkv"
    lora = {f"{key}.lora_A.weight": torch.randn(2, 64), f"{key}.lora_B.weight": torch.randn(192, 2)}
    patched = comfy.sd.load_lora_for_models(load(), None, lora, 1.0, 0.0)[0]
    merged, with_lora = source_and_reopened(patched)
    update = lora[f"{key}.lora_B.weight"] @ lora[f"{key}.lora_A.weight"]
    shifted = load()
    sampling = type(shifted.model.model_sampling)(shifted.model.model_config)
    sampling.set_parameters(shift=5.0, multiplier=1000)
    shifted.add_object_patch("model_sampling", sampling)
    moved, with_shift = source_and_reopened(shifted)

    def with_schedule(model, kind, zsnr):
        bases = (comfy.model_sampling.ModelSamplingDiscrete, kind)
        schedule = type("Advanced", bases, {})(model.model.model_config, zsnr=zsnr)
        model.add_object_patch("model_sampling", schedule)
        return model

    velocity = with_schedule(load(), comfy.model_sampling.V_PREDICTION, True)
    velocity.model_options["transformer_options"]["optimized_attention_override"] = print
    discrete, with_velocity = source_and_reopened(velocity)

    def as_video(model):
        model.model.latent_format.latent_dimensions = 3

    def as_sound(model):
        config = model.model.model_config
        config.__class__ = type("ACEStep", (type(config),), {})

    def as_editor(model):
        model.model.concat_cond = lambda **inputs: inputs["noise"]

    def with_low_disk(model):
        shutil.disk_usage = lambda path: SimpleNamespace(free=0)
        model.add_patches({f"{key}.weight": (torch.full((192, 64), 2.0),)}, 1.0)

    def hooked(*conditionings, hooks=None):
        return SimpleNamespace(
            tokenize=str,
            encode_from_tokens_scheduled=lambda tokens: conditionings,
            patcher=SimpleNamespace(forced_hooks=hooks),
        )

    def encode(*latents):
        vae = SimpleNamespace(encode=lambda image: torch.zeros(1, *latents))
        return sentence(host.encode_images, load(), vae, torch.zeros(1, 8, 8, 3))

    print(json.dumps({
        "loaders": [plain.loader, merged.loader, moved.loader],
        "same": plain == again,
        "file": Path(plain.base).name,
        "kept": torch.equal(weight(opened.layers), weights[key.removeprefix(PREFIX) + ".weight"]),
        "merged": float((weight(with_lora.layers) - weight(opened.layers) - update).abs().max()),
        "other": merged.base_hash != plain.base_hash,
        "shift": [plain.shift, moved.shift],
        "sigma": [float(opened.sigmas[499]), float(with_shift.sigmas[499])],
        "prediction": [plain.prediction, discrete.prediction],
        "velocity": [with_velocity.is_velocity, float(with_velocity.sigmas[-1])],
        "refusals": {
            "makes videos": refusal(as_video),
            "does not make images from text alone": refusal(as_sound),
            "is an inpainting or editing model": refusal(as_editor),
            "to a prediction type": refusal(
                lambda model: with_schedule(model, comfy.model_sampling.X0, False)
            ),
            "patches (diffusion_model.x)": refusal(
                lambda model: model.add_object_patch("diffusion_model.x", 1)
            ),
            "patches (model_function_wrapper)": refusal(
                lambda model: model.set_model_unet_function_wrapper(print)
            ),
            "patches (patches)": refusal(lambda model: model.set_model_attn1_patch(print)),
            "patches (wrappers)": refusal(
                lambda model: model.add_wrapper("diffusion_model", print)
            ),
            "patches (injections)": refusal(lambda model: model.injections.update(x=[print])),
            "patches (hook_patches)": refusal(lambda model: model.hook_patches.update(x=[1])),
            "0.0 GB are free: free some disk space": refusal(with_low_disk),
            "is 99 wide and the MODEL reads 48": sentence(
                host.check_conditioning, load(), [[torch.zeros(1, 7, 99), {}]]
            ),
            "The CLIP has hooks": sentence(host.encode_prompt, hooked(1, 2), "a dog"),
            "which change it while": sentence(host.encode_prompt, hooked(1, hooks=print), "a dog"),
            "4 channels and 2 axes and the MODEL reads 16 and 2": encode(4, 8, 8),
            "16 channels and 3 axes and the MODEL reads 16 and 2": encode(16, 1, 8, 8),
        },
    }))
"""


def test_a_worker_opens_the_model_that_the_node_had(tmp_path: Path) -> None:
    sd3 = write_sd3(tmp_path / "sd3.safetensors")
    found = run_in_comfyui(SOURCES, FOLDER=str(tmp_path), SD3=str(sd3))
    assert found["loaders"] == ["UNETLoader"] * 3
    assert found["same"]
    assert found["kept"]
    assert found["merged"] < 1e-5
    assert found["other"]
    assert found["shift"] == [0.0, 5.0]
    assert found["sigma"] == pytest.approx([3 * 0.5 / (1 + 2 * 0.5), 5 * 0.5 / (1 + 4 * 0.5)])
    assert found["prediction"] == ["auto", "v_zero_snr"]
    assert found["velocity"] == [True, pytest.approx(4518.7, rel=1e-3)]
    for part, sentence in found["refusals"].items():
        assert sentence is not None, part
        assert part in sentence
        assert ". " not in sentence.replace("0.0", "")
