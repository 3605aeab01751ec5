"""Existing runs: list them, choose a checkpoint, start a new run from it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ...shared.atomic_files import atomic_folder, is_draft, write_text
from ...shared.errors import UserError
from ..config import Config
from ..config_yaml import read_config, to_yaml
from . import checkpoints
from .events import Event, append_events, loss_curve, read_events
from .run_folder import RunFolder, can_resume
from .saved_scores import read_scores

FIXED_OPTIONS = (
    "method",
    "layers",
    "rank",
    "token_vectors",
    "train_text_encoder",
    "train_connector",
)
"""Options that the parameters of a checkpoint depend on, so that a branch cannot change them."""


@dataclass(frozen=True)
class RunCheckpoint:
    """A run and the step of one of its checkpoints; TRAINING_RUN."""

    folder: RunFolder
    step: int


def list_runs(root: Path) -> list[str]:
    """Return the names of the runs in a folder and its subfolders, the newest first."""
    folders: list[Path] = []
    for pattern in ("*/", "*/*/", "*/*/*/"):
        paths = (path.parent for path in root.glob(f"{pattern}config.yaml"))
        folders += [
            path
            for path in paths
            if not set(folders) & set(path.parents)
            and not any(is_draft(part) for part in path.relative_to(root).parts)
        ]
    newest_first = sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.relative_to(root).as_posix() for path in newest_first]


def choose_checkpoint(folder: RunFolder, which: str, step: int) -> RunCheckpoint:
    """Choose the "newest" checkpoint, the "best" by its scores, or that of a "step".

    Raises UserError when there is none.
    """
    newest = folder.steps_saved()
    if not newest:
        raise UserError(
            f"The run {folder.path.name} has no checkpoint yet: queue the node that started it."
        )
    if which == "newest":
        return RunCheckpoint(folder, newest)
    if which == "best":
        step = best_step(folder)
    checkpoints.at_step(folder.checkpoints, step)
    return RunCheckpoint(folder, step)


def best_step(folder: RunFolder) -> int:
    """Return the step that EvaluateSubject scored best. Raises UserError without scores."""
    scores = read_scores(folder)
    if scores is None:
        raise UserError(
            f"The run {folder.path.name} has no scores: run EvaluateSubject on it, or choose the "
            "newest checkpoint."
        )
    return scores.best


def branch_run(chosen: RunCheckpoint, path: Path, config: Config) -> RunFolder:
    """Return the run that resumes a checkpoint of another run with other settings, in its folder.

    It is created, or found with its later checkpoints if it was created before. The optimizer's
    state is copied if the optimizer is the same. Raises UserError when the folder is another run's
    or one of FIXED_OPTIONS changes.
    """
    if path.exists():
        branch = RunFolder(path)
        losses = loss_curve(chosen.folder.events)[: chosen.step]
        if not can_resume(branch, config) or loss_curve(branch.events)[: chosen.step] != losses:
            raise UserError(
                f"The run {path.name} exists and is no branch of {chosen.folder.path.name} with "
                "these settings: choose another branch_name."
            )
        with branch.locked():
            write_text(branch.config, to_yaml(config))
        return branch
    before = read_config(chosen.folder.config)
    changed = [n for n in FIXED_OPTIONS if getattr(config, n, None) != getattr(before, n, None)]
    if changed:
        raise UserError(
            f"A branch cannot change {changed[0]} ({getattr(before, changed[0])}): set it to that, "
            "or start a new run."
        )
    old = chosen.folder
    with atomic_folder(path) as draft_folder:
        draft = RunFolder(draft_folder)
        for folder in (old.images, old.masks, old.class_images):
            if folder.exists():
                shutil.copytree(folder, draft.path / folder.name)
        for file in (old.own_captions, old.conditioning, old.latents):
            if file.exists():
                shutil.copyfile(file, draft.path / file.name)
        _copy_checkpoint(old, draft, chosen.step, state=config.optimizer == before.optimizer)
        events = [e for e in read_events(old.events) if e.kind in ("step", "resumed")]
        append_events(draft.events, [*events, Event("resumed", chosen.step)])
        write_text(draft.config, to_yaml(config))
    return RunFolder(path)


def _copy_checkpoint(old: RunFolder, new: RunFolder, step: int, *, state: bool) -> None:
    """Copy a checkpoint with or without the optimizer's state."""
    source = checkpoints.at_step(old.checkpoints, step)
    target = new.checkpoints / source.name
    if state:
        target.parent.mkdir(parents=True)
        shutil.copyfile(source, target)
        return
    tensors = {
        k: v for k, v in checkpoints.read_tensors(source).items() if not k.startswith("optimizer.")
    }
    checkpoints.write_tensors(target, tensors)


def describe_run(chosen: RunCheckpoint) -> str:
    """Return a few lines about a run: subject, steps, checkpoints, scores and damaged files."""
    config = read_config(chosen.folder.config)
    saved = checkpoints.by_step(chosen.folder.checkpoints)
    lines = [
        f"{chosen.folder.path.name}: {config.subject}, {max(saved)} of {config.steps} steps",
        f"checkpoints: {', '.join(map(str, saved))}; chosen: {chosen.step}",
    ]
    try:
        scores = read_scores(chosen.folder)
    except UserError as error:
        lines.append(str(error))
    else:
        if scores:
            lines += [_score_line(step, values) for step, values in scores.by_step.items()]
            lines.append(f"best: step {scores.best}")
    lines += filter(None, [chosen.folder.damage()])
    return "\n".join(lines)


def _score_line(step: int, scores: dict[str, float]) -> str:
    return f"step {step}: {', '.join(f'{name} {value:.3f}' for name, value in scores.items())}"
