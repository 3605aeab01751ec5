"""The one room that knows ComfyUI: folders, devices, memory, progress, interruption.

Everything here rests on ComfyUI's public surface (`folder_paths`, `comfy.model_management`,
`comfy.model_patcher`, `comfy.utils`) and on what its documentation gives to nodes besides: the
`PromptServer` for messages to the browser, and the `ExecutionBlocker`. The engines never import it.
"""

from .core_models import (
    CoreReader,
    core_clip,
    core_model,
    core_model_around,
    core_vae,
    set_noise_schedule,
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
    address,
    clip_vocabulary,
    folder_fingerprint,
    free_path,
    input_folder,
    list_models,
    model_file,
    models_folder,
    output_folder,
    resolve,
    temp_folder,
)
from .guider import Guider
from .running_node import Progress, block_output, check_interrupted, send_event, show_text

__all__ = [
    "DTYPES",
    "CoreReader",
    "Guider",
    "Progress",
    "address",
    "block_output",
    "check_interrupted",
    "clip_vocabulary",
    "core_clip",
    "core_model",
    "core_model_around",
    "core_vae",
    "device_type",
    "folder_fingerprint",
    "free_memory",
    "free_path",
    "input_folder",
    "list_models",
    "load_to_device",
    "model_file",
    "models_folder",
    "output_folder",
    "register_model",
    "resolve",
    "send_event",
    "set_noise_schedule",
    "show_text",
    "temp_folder",
    "torch_dtype",
    "unload_all_models",
]
