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
    adopt,
    bring_in,
    device_type,
    free_memory,
    make_room,
    torch_dtype,
)
from .folders import (
    address,
    clip_vocabulary,
    input_folder,
    list_models,
    model_file,
    models_folder,
    output_folder,
    resolve,
    temp_folder,
)
from .guider import Guider
from .running_node import Progress, blocked, check_interrupted, say, tell

__all__ = [
    "DTYPES",
    "CoreReader",
    "Guider",
    "Progress",
    "address",
    "adopt",
    "blocked",
    "bring_in",
    "check_interrupted",
    "clip_vocabulary",
    "core_clip",
    "core_model",
    "core_model_around",
    "core_vae",
    "device_type",
    "free_memory",
    "input_folder",
    "list_models",
    "make_room",
    "model_file",
    "models_folder",
    "output_folder",
    "resolve",
    "say",
    "set_noise_schedule",
    "tell",
    "temp_folder",
    "torch_dtype",
]
