"""ComfyUI's folders, and the names in them that widgets list and give."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path, PurePath

import comfy.utils
import folder_paths

from ...shared.errors import UserError

# A model that is a folder is known by the file that such a folder always holds.
MODEL_FOLDER_MARKERS = {
    "kosmos": "config.json",
    "clip": "config.json",
    "translation": "config.json",
    "diffusers": "model_index.json",
}

OWN_KINDS = ("kosmos", "translation")
"""Model folders that ComfyUI does not have by itself."""


def address(file: Path) -> dict[str, str]:
    """Say in the browser's words where a file in the temp or the output folder is."""
    for kind in ("temp", "output"):
        folder = Path(folder_paths.get_directory_by_type(kind))
        if file.is_relative_to(folder):
            below = file.relative_to(folder)
            where = "" if below.parent == Path() else below.parent.as_posix()
            return {"filename": file.name, "subfolder": where, "type": kind}
    raise ValueError(f"No browser finds {file}.")


def models_folder(kind: str) -> list[Path]:
    """Return the folders in which ComfyUI keeps models of a kind, the pack's own kinds included."""
    if kind in OWN_KINDS:
        folder_paths.add_model_folder_path(kind, os.path.join(folder_paths.models_dir, kind))
    return [Path(folder) for folder in folder_paths.get_folder_paths(kind)]


def list_models(kind: str) -> list[str]:
    """Return the names of a kind's models, for a combo: read anew each time it is called.

    Those in MODEL_FOLDER_MARKERS are folders; all others are `.safetensors` files.
    """
    marker = MODEL_FOLDER_MARKERS.get(kind)
    names: set[str] = set()
    for root in models_folder(kind):
        for folder, below, files in os.walk(root, followlinks=True):
            below[:] = [name for name in below if not name.endswith(".tmp")]  # half-written
            here = Path(folder).relative_to(root)
            if marker is None:
                found = [here / name for name in files if name.endswith(".safetensors")]
            else:
                found = [here] if marker in files and here.parts else []
            names.update(path.as_posix() for path in found)
    return sorted(names)


def resolve(kind: str, name: str) -> Path:
    """Return the path of the model `name` of a kind.

    Raises UserError when it is not in ComfyUI's folders for that kind.
    """
    for root in models_folder(kind):
        path = _confined(root, name)
        if path.exists():
            return path
    raise UserError(
        f'There is no model "{name}" in ComfyUI\'s models/{kind} folder: put it there and press R, '
        "or choose another one."
    )


def model_file(kind: str, *parts: str) -> Path:
    """Return a path to write a model of a kind to, below the first of ComfyUI's folders for it."""
    return _confined(models_folder(kind)[0], *parts)


def clip_vocabulary() -> Path:
    """Return the folder with CLIP's vocab.json and merges.txt that ComfyUI itself reads."""
    return Path(comfy.utils.__file__).parent / "sd1_tokenizer"


def free_path(path: Path) -> Path:
    """Return the path, or the first of path_2, path_3 ... that does not exist if it does."""
    free, number = path, 1
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}_{number}{path.suffix}")
    return free


def output_folder(*parts: str) -> Path:
    """Return a path inside ComfyUI's output folder; it is the caller who makes it."""
    return _confined(Path(folder_paths.get_output_directory()), *parts)


def input_folder(*parts: str) -> Path:
    """Return ComfyUI's input folder, or a path inside it."""
    return _confined(Path(folder_paths.get_input_directory()), *parts)


def folder_fingerprint(folder: Path) -> str:
    """Return a hash of the path, time and size of each file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    stats = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files]
    return hashlib.sha256(repr(stats).encode()).hexdigest()


def temp_folder() -> Path:
    """Return the folder that ComfyUI empties when it starts."""
    return Path(folder_paths.get_temp_directory())


def _confined(root: Path, *parts: str) -> Path:
    """Join a path that a widget gave to a folder, and see that it stays below that folder."""
    for part in parts:
        pure = PurePath(part.replace("\\", "/"))
        if not pure.parts or pure.is_absolute() or ".." in pure.parts or "\0" in part:
            raise UserError(
                f'"{part}" is no name inside {root.name}: give one without "..", drive or '
                "leading slash."
            )
    return root.joinpath(*(part.replace("\\", "/") for part in parts))
