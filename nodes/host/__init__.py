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
    core_model,
    core_vae,
    read_embedding,
    register_reload,
    set_noise_schedule,
    wrap_unet,
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

__all__ = [
    "CLIP",
    "DTYPES",
    "VAE",
    "CoreTextEncoder",
    "Guider",
    "ModelPatcher",
    "Progress",
    "block_output",
    "check_interrupted",
    "clip_tokenizer_folder",
    "core_clip",
    "core_model",
    "core_vae",
    "device_type",
    "escape_unencodable",
    "folder_fingerprint",
    "free_memory",
    "free_path",
    "input_path",
    "list_models",
    "load_to_device",
    "model_folders",
    "model_path",
    "model_save_path",
    "node_schema",
    "output_path",
    "read_embedding",
    "register_model",
    "register_reload",
    "send_event",
    "set_noise_schedule",
    "show_text",
    "temp_folder",
    "torch_dtype",
    "unload_all_models",
    "view_address",
    "wrap_unet",
]
