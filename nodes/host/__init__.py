"""The only package that imports ComfyUI: folders, devices, memory, progress, Cancel, core models.

It uses ComfyUI's public modules (`folder_paths`, `comfy.model_management`, `comfy.model_patcher`,
`comfy.utils`), its documented `PromptServer` and `ExecutionBlocker`, and, for To Comfy Model and
Guidance Guider, the classes of core's models and guiders. Only nodes import it.
"""

from .console import escape_unencodable
from .core_models import (
    CLIP,
    VAE,
    CoreTextEncoder,
    ModelPatcher,
    core_clip,
    core_vae,
    read_embedding,
    register_reload,
)
from .device_memory import (
    DTYPES,
    device_type,
    free_memory,
    load_to_device,
    register_model,
    torch_dtype,
    unload_all_models,
)
from .folders import (
    clip_tokenizer_folder,
    folder_fingerprint,
    free_path,
    input_path,
    list_models,
    model_folders,
    model_path,
    model_save_path,
    output_path,
    temp_folder,
    view_address,
)
from .guider import Guider
from .running_node import Progress, block_output, check_interrupted, send_event, show_text
from .schema import node_schema
from .training_model import (
    check_conditioning,
    clip_digest,
    comfyui_folder,
    encode_images,
    encode_prompt,
    latent_side,
    model_resolution,
    model_source,
    parameter_count,
    sample_images,
    vae_digest,
    with_lora,
    write_vae,
)

__all__ = [
    "CLIP",
    "DTYPES",
    "VAE",
    "CoreTextEncoder",
    "Guider",
    "ModelPatcher",
    "Progress",
    "block_output",
    "check_conditioning",
    "check_interrupted",
    "clip_digest",
    "clip_tokenizer_folder",
    "comfyui_folder",
    "core_clip",
    "core_vae",
    "device_type",
    "encode_images",
    "encode_prompt",
    "escape_unencodable",
    "folder_fingerprint",
    "free_memory",
    "free_path",
    "input_path",
    "latent_side",
    "list_models",
    "load_to_device",
    "model_folders",
    "model_path",
    "model_resolution",
    "model_save_path",
    "model_source",
    "node_schema",
    "output_path",
    "parameter_count",
    "read_embedding",
    "register_model",
    "register_reload",
    "sample_images",
    "send_event",
    "show_text",
    "temp_folder",
    "torch_dtype",
    "unload_all_models",
    "vae_digest",
    "view_address",
    "with_lora",
    "write_vae",
]
