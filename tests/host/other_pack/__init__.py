"""Another pack: nodes that give boxes in any form, and stand-ins for models that are not here.

`server` of tests/conftest.py links this folder into the server's `custom_nodes`. It imports neither
our pack nor pytest.
"""

from __future__ import annotations

import ast
from copy import copy
from functools import partial
from typing import Any

import comfy.model_management
import comfy.model_patcher
import numpy as np
import torch
from comfy_api.latest import ComfyExtension, io

BOUNDING_BOX = io.Custom("BOUNDING_BOX")
SUBJECT = io.Custom("SUBJECT_DATASET")
LABELS = {15: "cat", 16: "dog"}
"""The labels of COCO that a StandInDetector finds."""
CONVERSIONS = {"as written": lambda value: value, "numpy": np.array, "tensor": torch.tensor}


class OtherBoxes(io.ComfyNode):
    """A Python literal as BBOX and as BOUNDING_BOX, or each of its items as one value of a list."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OtherBoxes",
            category="tests",
            inputs=[
                io.String.Input("literal"),
                io.Combo.Input("form", options=list(CONVERSIONS)),
                io.Boolean.Input("each", default=False),
            ],
            outputs=[io.BBOX.Output(is_output_list=True), BOUNDING_BOX.Output(is_output_list=True)],
        )

    @classmethod
    def execute(cls, literal: str, form: str, each: bool) -> io.NodeOutput:
        """Read the literal."""
        value = ast.literal_eval(literal)
        values = [CONVERSIONS[form](one) for one in (value if each else [value])]
        return io.NodeOutput(values, values)


def ellipse(box: list[float], height: int, width: int) -> torch.Tensor:
    """A mask [H,W] of the ellipse in a box [x0, y0, x1, y1], in pixels."""
    x0, y0, x1, y1 = box
    x = (torch.arange(width) + 0.5 - (x0 + x1) / 2) / ((x1 - x0) / 2)
    y = (torch.arange(height) + 0.5 - (y0 + y1) / 2) / ((y1 - y0) / 2)
    return (x[None] ** 2 + y[:, None] ** 2 <= 1).float()


class StandInDetector(torch.nn.Module):
    """What core's SAM3_Detect and RTDETR_detect call, with the methods that they call.

    As SAM3 it finds the ellipse in each box; as RT-DETR a dog in the left half of every image, and
    a cat in the right half.
    """

    def forward_segment(
        self,
        frame: torch.Tensor,
        box_inputs: torch.Tensor | None = None,
        mask_inputs: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return logits [1,1,H,W] for a frame [1,3,H,W] and a box [1,2,2], or improve logits."""
        if mask_inputs is not None:
            return mask_inputs
        assert box_inputs is not None
        return ellipse(box_inputs.flatten().tolist(), *frame.shape[-2:])[None, None] - 0.5

    def forward(self, images: torch.Tensor, size: tuple[int, int]) -> list[dict[str, torch.Tensor]]:
        """Return boxes in pixels of images of `size`, with COCO's labels and scores."""
        width, height = size
        halves = [[0.25, 0.5, width / 2, height - 0.5], [width / 2, 0, width, height]]
        found = {"boxes": torch.tensor(halves), "scores": torch.tensor([0.75, 0.875])}
        return [found | {"labels": torch.tensor([16, 15])} for _ in images]


class StandInModel(torch.nn.Module):
    """Core's wrapper of a diffusion model, as far as those nodes use it."""

    def __init__(self) -> None:
        super().__init__()
        self.diffusion_model = StandInDetector()
        self.device = torch.device("cpu")

    def get_dtype(self) -> torch.dtype:
        """Return the dtype of the images that the model takes."""
        return torch.float32


class StandInCheckpoint(io.ComfyNode):
    """The signature of CheckpointLoaderSimple; the MODEL is a StandInModel."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="StandInCheckpoint",
            category="tests",
            inputs=[io.String.Input("ckpt_name")],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls, ckpt_name: str) -> io.NodeOutput:
        """Make the model."""
        device = comfy.model_management.get_torch_device()
        patcher = comfy.model_patcher.ModelPatcher(StandInModel(), device, torch.device("cpu"))
        return io.NodeOutput(patcher, None, None)


class StandInSAM3(io.ComfyNode):
    """The signature of core's SAM3_Detect; the mask of an image is the ellipses in its boxes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="StandInSAM3",
            category="tests",
            inputs=[
                io.Model.Input("model"),
                io.Image.Input("image"),
                io.Conditioning.Input("conditioning", optional=True),
                BOUNDING_BOX.Input("bboxes", optional=True),
                io.String.Input("positive_coords", force_input=True, optional=True),
                io.String.Input("negative_coords", force_input=True, optional=True),
                io.Float.Input("threshold", default=0.5, min=0.0, max=1.0, step=0.01),
                io.Int.Input("refine_iterations", default=2, min=0, max=5),
                io.Boolean.Input("individual_masks", default=False),
            ],
            outputs=[
                io.Mask.Output(display_name="masks"),
                BOUNDING_BOX.Output(display_name="bboxes"),  # an id would be taken, in 0.3.75
            ],
        )

    @classmethod
    def execute(
        cls,
        model: object,
        image: torch.Tensor,
        bboxes: list[list[dict[str, Any]]],
        individual_masks: bool,
        **_: object,
    ) -> io.NodeOutput:
        """Draw the ellipses."""
        masks = []
        for boxes in bboxes:
            edges = [[b["x"], b["y"], b["x"] + b["width"], b["y"] + b["height"]] for b in boxes]
            of_image = [ellipse(box, *image.shape[1:3]) for box in edges]
            merged = torch.stack([torch.zeros(image.shape[1:3]), *of_image]).amax(0)
            masks += of_image if individual_masks else [merged]
        return io.NodeOutput(torch.stack(masks), [[] for _ in image])


class StandInVisionLanguageModel:
    """What core's TextGenerate calls on a CLIP; the caption has the brightness of the image."""

    def tokenize(self, text: str, image: torch.Tensor, **_: object) -> list[int]:
        """Return the mean of an image [1,H,W,3], from 0 to 255."""
        assert len(image) == 1, "an image at a time"
        return [round(float(image.mean()) * 255)]

    def generate(self, tokens: list[int], **_: object) -> list[int]:
        """Return the tokens."""
        return tokens

    def decode(self, tokens: list[int]) -> str:
        """Return the caption."""
        return f"A happy dog, brightness {tokens[0]}."


class StandInCaptioner(io.ComfyNode):
    """Gives a StandInVisionLanguageModel as a CLIP."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="StandInCaptioner", category="tests", inputs=[], outputs=[io.Clip.Output()]
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """Make the model."""
        return io.NodeOutput(StandInVisionLanguageModel())


class RandomCaptioner(io.ComfyNode):
    """Core's Qwen3-VL as a CLIP, two layers with random weights; needs ComfyUI 0.33 or so."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="RandomCaptioner", category="tests", inputs=[], outputs=[io.Clip.Output()]
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """Make the model: core chooses one by a name, here of a new entry of its tables."""
        import comfy.sd
        import comfy.supported_models_base
        import comfy.text_encoders.qwen3vl as qwen3vl

        sizes = {"hidden_size": 64, "intermediate_size": 64}
        layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
        qwen3vl.QWEN3VL_CONFIGS["tiny"] = partial(qwen3vl.Qwen3VL_4BConfig, **sizes, **layers)
        qwen3vl.QWEN3VL_VISION["tiny"] = {**sizes, "depth": 1, "deepstack_visual_indexes": [0]}
        parts = qwen3vl.tokenizer("tiny"), qwen3vl.te(model_type="tiny")
        clip = comfy.sd.CLIP(comfy.supported_models_base.ClipTarget(*parts))
        torch.manual_seed(0)
        for weight in clip.cond_stage_model.parameters():
            torch.nn.init.normal_(weight, std=0.1)
        return io.NodeOutput(clip)


class StandInTextGenerate(io.ComfyNode):
    """The signature of core's TextGenerate, without the settings of its sampling mode `on`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="StandInTextGenerate",
            category="tests",
            inputs=[
                io.Clip.Input("clip"),
                io.String.Input("prompt", multiline=True, dynamic_prompts=True, default=""),
                io.Image.Input("image", optional=True),
                io.Image.Input("video", optional=True),
                io.Audio.Input("audio", optional=True),
                io.Int.Input("max_length", default=512, min=1, max=32768),
                io.Combo.Input("sampling_mode", options=["on", "off"]),
                io.Boolean.Input("thinking", optional=True, default=False),
                io.Boolean.Input("use_default_template", optional=True, default=True),
            ],
            outputs=[io.String.Output(display_name="generated_text")],
        )

    @classmethod
    def execute(cls, clip: Any, prompt: str, image: torch.Tensor, **_: object) -> io.NodeOutput:
        """Caption the image."""
        return io.NodeOutput(clip.decode(clip.generate(clip.tokenize(prompt, image=image))))


class StandInRTDETR(io.ComfyNode):
    """The signature of core's RTDETR_detect, which finds what a StandInDetector finds."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="StandInRTDETR",
            category="tests",
            inputs=[
                io.Model.Input("model"),
                io.Image.Input("image"),
                io.Float.Input("threshold", default=0.5),
                io.Combo.Input("class_name", options=["all", *LABELS.values()], default="all"),
                io.Int.Input("max_detections", default=100),
            ],
            outputs=[BOUNDING_BOX.Output(display_name="bboxes")],
        )

    @classmethod
    def execute(
        cls, model: Any, image: torch.Tensor, class_name: str, **_: object
    ) -> io.NodeOutput:
        """Detect one class, or all."""
        _, height, width, _ = image.shape
        found = model.model.diffusion_model(image, (width, height))
        boxes = [
            [
                {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "label": LABELS[label]}
                for (x0, y0, x1, y1), label in zip(
                    of_image["boxes"].tolist(), of_image["labels"].tolist(), strict=True
                )
                if class_name in ("all", LABELS[label])
            ]
            for of_image in found
        ]
        return io.NodeOutput(boxes)


class MasksOfSubject(io.ComfyNode):
    """The masks of a SUBJECT_DATASET, as a list of MASKs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="MasksOfSubject",
            category="tests",
            inputs=[SUBJECT.Input("subject")],
            outputs=[io.Mask.Output(is_output_list=True)],
        )

    @classmethod
    def execute(cls, subject: Any) -> io.NodeOutput:
        """Convert the masks from uint8."""
        return io.NodeOutput([torch.from_numpy(mask)[None] / 255 for mask in subject.masks])


class VAEOfLittleMemory(io.ComfyNode):
    """A VAE that runs out of memory when it decodes more than some images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="VAEOfLittleMemory",
            category="tests",
            inputs=[io.Vae.Input("vae"), io.Int.Input("images")],
            outputs=[io.Vae.Output()],
        )

    @classmethod
    def execute(cls, vae: Any, images: int) -> io.NodeOutput:
        """Replace the method of a copy."""

        def decode(latents: torch.Tensor) -> torch.Tensor:
            if len(latents) > images:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return vae.decode(latents)

        limited = copy(vae)
        limited.decode = decode
        return io.NodeOutput(limited)


class OtherPack(ComfyExtension):
    """The pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """List the nodes."""
        return [
            OtherBoxes,
            StandInCheckpoint,
            StandInSAM3,
            StandInCaptioner,
            RandomCaptioner,
            StandInTextGenerate,
            StandInRTDETR,
            MasksOfSubject,
            VAEOfLittleMemory,
        ]


async def comfy_entrypoint() -> OtherPack:
    """ComfyUI calls this to load the pack."""
    return OtherPack()
