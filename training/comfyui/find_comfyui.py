"""Import the `comfy` of a ComfyUI folder into a process that ComfyUI did not start."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from ...shared.errors import UserError

VARIABLE = "KOSMOS_DREAMBOOTH_COMFYUI"
"""Environment variable with a ComfyUI folder to use in place of the one in config.yaml."""


def import_comfyui(folder: str, *, cpu: bool) -> str:
    """Make `comfy` importable from a ComfyUI folder, and return its version.

    In ComfyUI's own process its running `comfy` is used. `cpu` keeps ComfyUI off the GPU. Raises
    UserError when there is no ComfyUI in the folder.
    """
    if running := _running_comfyui():
        return comfyui_version(running)
    path = Path(os.environ.get(VARIABLE) or folder)
    if not (path / "comfy" / "sd.py").is_file():
        raise UserError(
            f'There is no ComfyUI in "{path}": set {VARIABLE} to the folder that ComfyUI is in.'
        )
    sys.path.insert(0, str(path))
    # ComfyUI reads no command line unless its own main.py asks for it.
    from comfy.cli_args import args

    args.cpu = cpu
    args.use_pytorch_cross_attention = True
    from comfy import model_management

    model_management.in_training = True  # since 0.16: only kernels that have gradients
    from .kernel_gradients import register_gradients

    register_gradients()
    return comfyui_version(path)


def worker_environment() -> dict[str, str]:
    """Return the environment of a worker process: it imports the ComfyUI that runs here.

    The folder in a stranger's config.yaml may hold any code.
    """
    running = _running_comfyui()
    return ({VARIABLE: str(running)} if running else {}) | os.environ


def _running_comfyui() -> Path | None:
    if "comfy.model_management" not in sys.modules:
        return None
    return Path(next(iter(sys.modules["comfy"].__path__))).parent


def comfyui_version(folder: Path) -> str:
    """Return the version of the ComfyUI in a folder, such as "0.3.75"; "" if it has none."""
    file = folder / "comfyui_version.py"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    match = re.search(r'__version__ = "([^"]+)"', text)
    return match.group(1) if match else ""
