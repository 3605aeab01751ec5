"""The pack's sockets connect to core's nodes, as docs/core_nodes.md lists them."""

from __future__ import annotations

import re

from kosmos_dreambooth.dev.demo.server_client import Client
from kosmos_dreambooth.dev.demo.write_core_nodes import FILE, connections, table

from .conftest import node_schemas


def test_every_type_of_core_connects_to_core_nodes(client: Client) -> None:
    schemas = node_schemas(client)
    inputs, outputs = connections(schemas)
    expected = {
        "IMAGE": "PreviewImage.images",
        "MASK": "SetLatentNoiseMask.mask",
        "LATENT": "VAEDecode.samples",
        "MODEL": "KSampler.model",
        "CLIP": "CLIPTextEncode.clip",
        "VAE": "VAEDecode.vae",
        "GUIDER": "SamplerCustomAdvanced.guider",
        "LORA_MODEL": "SaveLoRA.lora",
        "LOSS_MAP": "LossGraphNode.loss",
        "STRING": "CLIPTextEncode.text",
    }
    for kind, name in expected.items():
        assert name in inputs[kind]
    assert "LoadImage" in outputs["IMAGE"]
    if "DrawBBoxes" in schemas:
        assert {"DrawBBoxes.bboxes", "SAM3_Detect.bboxes", "CropByBBoxes.bboxes"} <= set(
            inputs["BOUNDING_BOX"]
        )
        assert {"RTDETR_detect", "SAM3_Detect", "PrimitiveBoundingBox"} <= set(
            outputs["BOUNDING_BOX"]
        )


def test_the_document_lists_this_comfyuis_connections(client: Client) -> None:
    """Whole for the ComfyUI that it was written with, and our types in each."""
    text = FILE.read_text(encoding="utf-8")
    written = re.search(r"of ComfyUI ([\w.]+);", text)
    assert written is not None
    schemas = node_schemas(client)
    if client.get("/system_stats")["system"]["comfyui_version"] == written[1]:
        assert text.endswith(table(schemas))
    for kind, names in connections(schemas)[0].items():
        assert not names or f"\n| {kind} |" in text
