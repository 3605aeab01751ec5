"""Runs that are there already: choose a checkpoint of one, and go on from it elsewhere."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ...shared.atomic_files import write_text
from ...shared.errors import UserError
from ..config import Config
from ..config_yaml import read_config, to_yaml
from . import checkpoints
from .events import Event, Follower, append
from .run_folder import RunFolder

BUILT_IN = ("method", "layers", "rank", "token_vectors", "train_text_encoder", "train_connector")
"""Settings that shape what is trained, which a checkpoint therefore holds for good."""


@dataclass(frozen=True)
class ChosenRun:
    """A run and the step of one of its kept checkpoints."""

    folder: RunFolder
    step: int


def runs_below(root: Path) -> list[str]:
    """Return the names of the runs in a folder and in folders of it, the newest first."""
    found: list[Path] = []
    for pattern in ("*/", "*/*/", "*/*/*/"):
        paths = (path.parent for path in root.glob(f"{pattern}config.yaml"))
        found += [path for path in paths if not set(found) & set(path.parents)]
    newest_first = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.relative_to(root).as_posix() for path in newest_first]


def choose(folder: RunFolder, which: str, step: int) -> ChosenRun:
    """Choose the "newest" checkpoint, the "best" by its scores, or that of a "step".

    Raises UserError when there is none.
    """
    kept = checkpoints.kept(folder.checkpoints)
    if not kept:
        raise UserError(
            f"The run {folder.path.name} has no checkpoint yet: queue the node that began it again."
        )
    if which == "newest":
        return ChosenRun(folder, max(kept))
    if which == "best":
        step = best_step(folder)
    if step not in kept:
        raise UserError(
            f"The run {folder.path.name} keeps no checkpoint of step {step}: choose one of "
            f"{', '.join(map(str, kept))}."
        )
    return ChosenRun(folder, step)


def best_step(folder: RunFolder) -> int:
    """Return the step that EvaluateSubject named best; UserError before it has."""
    if not folder.scores.exists():
        raise UserError(
            f"The run {folder.path.name} has no scores: run EvaluateSubject on it, or choose its "
            "newest checkpoint."
        )
    return int(json.loads(folder.scores.read_text(encoding="utf-8"))["best"])


def branch(chosen: ChosenRun, path: Path, config: Config) -> RunFolder:
    """Begin a run in a new folder where another one was at a checkpoint, with other settings.

    The optimizer's state goes along as long as the optimizer is the same. Raises UserError
    when the folder exists or a setting changes that the checkpoint has built in.
    """
    if path.exists():
        raise UserError(f"There is a run {path.name} already: give the branch another name.")
    before = read_config(chosen.folder.config)
    changed = [n for n in BUILT_IN if getattr(config, n, None) != getattr(before, n, None)]
    if changed:
        raise UserError(
            f"A branch keeps its run's {changed[0]} ({getattr(before, changed[0])}): set it to "
            "that, or begin a new run."
        )
    draft = RunFolder(path.with_name(f"{path.name}.{os.getpid()}.tmp"))
    old = chosen.folder
    try:
        for folder in (old.pictures, old.masks, old.class_pictures):
            if folder.exists():
                shutil.copytree(folder, draft.path / folder.name)
        if old.own_captions.exists():
            shutil.copyfile(old.own_captions, draft.own_captions)
        _copy_checkpoint(old, draft, chosen.step, fresh=config.optimizer != before.optimizer)
        events = [e for e in Follower(old.events).new() if e.kind in ("step", "resumed")]
        append(draft.events, [*events, Event("resumed", chosen.step)])
        write_text(draft.config, to_yaml(config))
        draft.path.replace(path)
    finally:
        shutil.rmtree(draft.path, ignore_errors=True)
    return RunFolder(path)


def _copy_checkpoint(old: RunFolder, new: RunFolder, step: int, *, fresh: bool) -> None:
    source = checkpoints.kept(old.checkpoints)[step]
    target = new.checkpoints / source.name
    if not fresh:
        target.parent.mkdir(parents=True)
        shutil.copyfile(source, target)
        return
    tensors = {
        k: v for k, v in checkpoints.read_tensors(source).items() if not k.startswith("optimizer.")
    }
    checkpoints.write_tensors(target, tensors)


def describe(chosen: ChosenRun) -> str:
    """Say in a few lines what a run is, which checkpoints it keeps and how they scored."""
    config = read_config(chosen.folder.config)
    kept = checkpoints.kept(chosen.folder.checkpoints)
    lines = [
        f"{chosen.folder.path.name}: {config.subject}, {max(kept)} of {config.steps} steps",
        f"checkpoints: {', '.join(map(str, kept))}; chosen: {chosen.step}",
    ]
    if chosen.folder.scores.exists():
        found = json.loads(chosen.folder.scores.read_text(encoding="utf-8"))
        lines += [_score_line(score) for score in found["checkpoints"]]
        lines.append(f"best: step {found['best']}")
    return "\n".join(lines)


def _score_line(score: dict[str, float]) -> str:
    figures = (f"{name} {value:.3f}" for name, value in score.items() if name != "step")
    return f"step {score['step']:.0f}: {', '.join(figures)}"
