"""DreamBoothTrain on core's MODEL, CLIP and VAE, on a real server."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client
from kosmos_dreambooth.shared.atomic_files import is_draft
from kosmos_dreambooth.training.config_yaml import read_config
from kosmos_dreambooth.training.run.events import loss_curve
from kosmos_dreambooth.training.run.run_folder import RunFolder
from kosmos_dreambooth.training.run.stop_request import StopRequest
from kosmos_dreambooth.training.run.train_loop import train
from PIL import Image
from safetensors.torch import load_file

from tests.small_sd3 import CHANNELS, write_sd3, write_tiny_vae

from .conftest import (
    TINY_MODEL,
    Graph,
    latents,
    noise_image,
    run_folder,
    run_in_comfyui,
    texts,
    train_graph,
)
from .test_full_disk import full_disk

CACHE, RUNS_FOLDER = "dreambooth_models", "dreambooth"

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
    graph.add("little", "VAEOfLittleMemory", vae=["convert", 2], images=2)
    graph.set("priors", vae=["little", 0], count=9, batch_size=5).run(client)
    assert len(list(folder.glob("*.png"))) == 9
    sentence = graph.set("little", images=0).set("priors", count=10).failure(client, "priors")
    assert "for a single item: lower PriorGenerator's resolution" in sentence
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
    graph.add("little", "VAEOfLittleMemory", vae=["convert", 2], images=0)
    graph.set("score", model=["convert", 0], clip=["convert", 1], vae=["little", 0])
    sentence = graph.failure(client, "score")
    assert "for generating images: close other programs, or start ComfyUI with --low" in sentence
    outcome = graph.set("score", vae=["convert", 2]).run(client)
    run = run_folder(outcome)
    assert run.path == first.path
    assert len(loss_curve(run.events)) == 4
    assert texts(outcome, "best") == ["4"]
    [scores] = json.loads(run.scores.read_text(encoding="utf-8"))["checkpoints"]
    assert scores["step"] == 4


@pytest.fixture
def small_sd3(server: ComfyUI) -> str:
    """Put a small SD3, for the tiny model's CLIP, and a VAE of its latents into models."""
    name = "small_sd3.safetensors"
    for kind, write in (
        ("diffusion_models", partial(write_sd3, context=32)),
        ("vae", write_tiny_vae),
    ):
        folder = server.base / "models" / kind
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / name)
    return name


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"model": ["wide", 0]}, "is 32 wide and the MODEL reads 48: connect the CLIP"),
        ({"vae": ["convert", 2]}, "have 4 channels and 2 axes and the MODEL reads 16 and 2"),
    ],
)
def test_a_clip_or_vae_of_another_model_leaves_no_run(
    server: ComfyUI, client: Client, small_sd3: str, inputs: dict[str, object], sentence: str
) -> None:
    write_sd3(server.base / "models" / "diffusion_models" / "wide_sd3.safetensors")
    graph = core_graph("misfit", small_sd3, steps=1)
    graph.add("wide", "UNETLoader", unet_name="wide_sd3.safetensors").set("train", **inputs)
    assert sentence in graph.failure(client, "train")
    assert list((server.output / "dreambooth").glob("*misfit*")) == []
    assert not [f for f in (server.output / "dreambooth").iterdir() if is_draft(f.name)]


@pytest.mark.parametrize("folder", [CACHE, RUNS_FOLDER])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    server: ComfyUI, client: Client, small_sd3: str, folder: str
) -> None:
    with full_disk(server.output / folder):
        sentence = core_graph("no_space", small_sd3, steps=1).failure(client, "train")
        assert [file.name for file in (server.output / folder).iterdir()] == ["filler"]
    assert "free disk space" in sentence or "free some disk space" in sentence
    assert str(server.output / folder) in sentence


def core_graph(name: str, file: str, **settings: object) -> Graph:
    """Train what core's loaders open ("model", "vae"), with the CLIP of the tiny model."""
    graph = model_graph(name, **{"resolution": 64} | settings)
    graph.add("model", "UNETLoader", unet_name=file).add("vae", "VAELoader", vae_name=file)
    return graph.set("train", model=["model", 0], vae=["vae", 0])


def test_all_weights_are_trained_stopped_resumed_scored_and_opened_by_core(
    server: ComfyUI, client: Client, small_sd3: str
) -> None:
    settings = {"method": "full", "learning_rate": 1e-3, "options": ["options", 0]}
    graph = core_graph("core_whole", small_sd3, steps=100_000, **settings)
    graph.add("options", "TrainingOptions", preview_every=1)
    for number, size in enumerate([(40, 90), (80, 64)]):
        file = server.input / "mixed_sizes" / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        noise_image(*size).save(file)
    graph.add("image", "LoadImageDataSetFromFolder", folder="mixed_sizes")
    assert graph.run(client, lambda outcome: bool(outcome.previews)).interrupted
    run = RunFolder(server.output / "dreambooth" / "core_whole")
    assert load_file(run.latents)["subject.mean"].shape == (2, CHANNELS, 8, 8)
    steps = run.steps_saved() + 2
    assert steps > 2
    with Image.open(run.previews / "00000001.png") as preview:
        assert preview.size == (64, 64)  # decoded: an approximation has the size of the latents

    loaders = {key: graph[key] for key in ("load", "convert", "model", "vae")}
    models = {"model": ["model", 0], "clip": ["convert", 1], "vae": ["vae", 0]}
    resumed = Graph(loaders).add("open", "LoadTrainingRun", run="core_whole")
    resumed.add("resume", "ResumeTraining", run=["open", 0], steps=steps)
    scores = {"run": ["resume", 4], "prompts": "a {subject}", "count": 1, "steps": 1}
    resumed.add("score", "EvaluateSubject", **models, **scores)
    resumed.add("best", "PreviewAny", source=["score", 3])
    assert int(texts(resumed.outputs(client), "best")[0]) in (steps - 2, steps)
    assert len(loss_curve(run.events)) == steps

    file = server.base / "models" / "diffusion_models" / "dreambooth" / "core_whole.safetensors"
    base = load_file(server.base / "models" / "diffusion_models" / small_sd3)
    trained = load_file(file)
    assert {k: (v.shape, v.dtype) for k, v in trained.items()} == {
        k: (v.shape, v.dtype) for k, v in base.items()
    }
    graph.set("train", steps=steps)
    graph.add("published", "UNETLoader", unet_name=f"dreambooth/{file.name}")
    graph.add("text", "CLIPTextEncode", clip=["convert", 1], text="a sks dog")
    graph.add("empty", "EmptySD3LatentImage", width=64, height=64)
    inputs = {"positive": ["text", 0], "negative": ["text", 0], "latent_image": ["empty", 0]}
    for name, link in (("base", "model"), ("output", "train"), ("file", "published")):
        model = [link, 5 if link == "train" else 0]
        graph.add(f"sample {name}", "KSampler", model=model, steps=2, cfg=1.0, **inputs)
        graph.add(name, "SaveLatent", samples=[f"sample {name}", 0])
    outcome = graph.outputs(client)
    assert run_folder(outcome).path == run.path
    of_base, of_output, of_file = (
        latents(server, outcome, name) for name in ("base", "output", "file")
    )
    assert torch.equal(of_output, of_file)
    assert (of_output - of_base).abs().mean() > 1e-3


SOURCES = """
    import comfy.model_sampling, comfy.sd, comfy.ops, resource, shutil, torch
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

    def with_full_disk(model):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        model.add_patches({f"{key}.weight": (torch.full((192, 64), 3.0),)}, 1.0)

    cached = set((folder / "cache").iterdir())
    full_disk = refusal(with_full_disk)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    left = [file.name for file in set((folder / "cache").iterdir()) - cached]

    def with_low_disk(model):
        shutil.disk_usage = lambda path: SimpleNamespace(free=0)
        model.add_patches({f"{key}.weight": (torch.full((192, 64), 2.0),)}, 1.0)

    def hooked(*conditionings, hooks=None):
        return SimpleNamespace(
            tokenize=str,
            encode_from_tokens_scheduled=lambda tokens: conditionings,
            patcher=SimpleNamespace(forced_hooks=hooks),
        )

    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

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
        "left": left,
        "refusals": {
            "could not be written (File too large): free disk space there": full_disk,
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
            "for encoding the prompts: set the CLIP loader's device to cpu": sentence(
                host.encode_prompt,
                SimpleNamespace(tokenize=str, encode_from_tokens_scheduled=out_of_memory),
                "a dog",
            ),
            "for encoding the images: lower the resolution": sentence(
                host.encode_images,
                load(),
                SimpleNamespace(encode=out_of_memory),
                torch.zeros(1, 8, 8, 3),
            ),
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
    assert found["left"] == []
    assert found["prediction"] == ["auto", "v_zero_snr"]
    assert found["velocity"] == [True, pytest.approx(4518.7, rel=1e-3)]
    for part, sentence in found["refusals"].items():
        assert sentence is not None, part
        assert part in sentence
        assert ". " not in sentence.replace("0.0", "")
