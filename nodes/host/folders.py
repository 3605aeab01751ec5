"""Paths in ComfyUI's folders, and the models in them that combos list."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import comfy.utils
import folder_paths

from ...shared.atomic_files import is_draft
from ...shared.errors import UserError
from ...shared.image_files import walk_files
from ...shared.path_names import confined

MODEL_FOLDER_MARKERS = {
    "kosmos": "config.json",
    "clip": "config.json",
    "translation": "config.json",
    "diffusers": "model_index.json",
}

"""For kinds of models that are folders: a file that each of them contains."""

LEGACY_FOLDERS = {"diffusion_models": "unet"}
"""For kinds of models with a folder of an earlier name, which ComfyUI lists first: that name."""

OWN_KINDS = ("kosmos", "translation")
"""Model folders that are the pack's, not ComfyUI's."""


def view_address(file: Path) -> dict[str, str]:
    """Return the parameters of ComfyUI's /view for a file in the temp or output folder."""
    for kind in ("temp", "output"):
        folder = Path(folder_paths.get_directory_by_type(kind))
        if file.is_relative_to(folder):
            parent = file.relative_to(folder).parent
            subfolder = "" if parent == Path() else parent.as_posix()
            return {"filename": file.name, "subfolder": subfolder, "type": kind}
    raise ValueError(f"{file} is not in ComfyUI's temp or output folder.")


def model_folders(kind: str) -> list[Path]:
    """Return ComfyUI's folders for models of a kind, the first for new ones.

    Registers the pack's own kinds.
    """
    if kind in OWN_KINDS:
        folder_paths.add_model_folder_path(kind, os.path.join(folder_paths.models_dir, kind))
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(kind)]
    legacy = Path(folder_paths.models_dir) / LEGACY_FOLDERS.get(kind, "")
    return sorted(folders, key=lambda folder: folder == legacy)


def list_models(kind: str) -> list[str]:
    """Return the names of the models of a kind, for a combo; reads the disk on each call.

    Models of the kinds in MODEL_FOLDER_MARKERS are folders, others `.safetensors` files.
    """
    marker = MODEL_FOLDER_MARKERS.get(kind)
    names: set[str] = set()
    for root in model_folders(kind):
        for folder, subfolders, files in os.walk(root, followlinks=True):
            subfolders[:] = [name for name in subfolders if not is_draft(name)]
            relative = Path(folder).relative_to(root)
            if marker is None:
                models = [relative / name for name in files if name.endswith(".safetensors")]
            else:
                models = [relative] if marker in files and relative.parts else []
            names.update(path.as_posix() for path in models)
    return sorted(names)


def model_path(kind: str, name: str) -> Path:
    """Return the path of a model. Raises UserError when ComfyUI's folders do not contain it."""
    is_listed = name in list_models(kind)  # also with characters that other systems forbid
    for root in model_folders(kind):
        path = root / name if is_listed else confined(root, name)
        if path.exists():
            return path
    raise UserError(
        f'There is no model "{name}" in ComfyUI\'s models/{kind} folder: put it there and press R, '
        "or choose another one."
    )


def model_save_path(kind: str, *parts: str) -> Path:
    """Return a path to save a model at, in the first of ComfyUI's folders for its kind."""
    return confined(model_folders(kind)[0], *parts)


def clip_tokenizer_folder() -> Path:
    """Return ComfyUI's folder with the vocab.json and merges.txt of CLIP's tokenizer."""
    return Path(comfy.utils.__file__).parent / "sd1_tokenizer"


def free_path(path: Path) -> Path:
    """Return the path, or the first of path_2, path_3 ... that does not exist if it does."""
    free, number = path, 1
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}_{number}{path.suffix}")
    return free


def output_path(*parts: str) -> Path:
    """Return a path inside ComfyUI's output folder, which may not exist yet."""
    return confined(Path(folder_paths.get_output_directory()), *parts)


def input_path(*parts: str) -> Path:
    """Return ComfyUI's input folder, or a path inside it."""
    return confined(Path(folder_paths.get_input_directory()), *parts)


def folder_fingerprint(folder: Path) -> str:
    """Return a hash of the path, time and size of each file below a folder, also a linked one."""
    files = sorted(path for path in walk_files(folder) if path.is_file())
    stats = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files]
    return hashlib.sha256(repr(stats).encode()).hexdigest()


def temp_folder() -> Path:
    """Return ComfyUI's temp folder, which it empties at its start."""
    return Path(folder_paths.get_temp_directory())
