"""The run folder: everything about one run lies in it, and it alone is enough to go on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from ...shared.atomic_files import write_text
from ...shared.errors import UserError
from ..config import Config, TrainingConfig
from ..config_yaml import read_config, to_yaml
from ..data.subject import Subject, write_class_images, write_images, write_subject
from . import checkpoints as checkpoint


@dataclass(frozen=True)
class RunFolder:
    """Where the parts of a run lie below `path`."""

    path: Path

    @property
    def config(self) -> Path:
        """The settings, as YAML."""
        return self.path / "config.yaml"

    @property
    def pictures(self) -> Path:
        """What is learned from: pictures, each with its caption beside it."""
        return self.path / "pictures"

    @property
    def masks(self) -> Path:
        """Where the subject is in its pictures; empty when nobody said."""
        return self.path / "masks"

    @property
    def class_pictures(self) -> Path:
        """The class: pictures for prior preservation."""
        return self.path / "priors"

    @property
    def latents(self) -> Path:
        """What the VAE made of both."""
        return self.path / "latents.safetensors"

    @property
    def features(self) -> Path:
        """What a captioner's frozen eyes made of the pictures."""
        return self.path / "features.safetensors"

    @property
    def own_captions(self) -> Path:
        """What the captioner wrote in English before it was trained."""
        return self.path / "own_captions.json"

    @property
    def adapter(self) -> Path:
        """What a captioner's LoRA is made of, as peft writes it."""
        return self.path / "adapter_config.json"

    @property
    def events(self) -> Path:
        """The event stream."""
        return self.path / "events.jsonl"

    @property
    def log(self) -> Path:
        """What the worker had to say to a developer."""
        return self.path / "worker.log"

    @property
    def checkpoints(self) -> Path:
        """The newest checkpoints, as many as the settings keep."""
        return self.path / "checkpoint"

    @property
    def previews(self) -> Path:
        """Pictures painted on the way."""
        return self.path / "previews"

    @property
    def curves(self) -> Path:
        """What TensorBoard shows."""
        return self.path / "tensorboard"

    @property
    def lora(self) -> Path:
        """The result of the methods "lora" and "dora", and of a run of captions."""
        return self.path / "lora.safetensors"

    @property
    def embedding(self) -> Path:
        """The result of the method "embedding"."""
        return self.path / "embedding.safetensors"

    @property
    def model(self) -> Path:
        """The result of the method "full", a diffusers folder."""
        return self.path / "model"

    def made(self, method: str) -> Path:
        """The result of a method of DreamBooth."""
        return {"full": self.model, "embedding": self.embedding}.get(method, self.lora)

    @property
    def scores(self) -> Path:
        """What EvaluateSubject found at each checkpoint."""
        return self.path / "scores.json"

    @property
    def result(self) -> Path:
        """Says of how many steps the result is; written last."""
        return self.path / "result.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process from training this run; a process that dies lets go.

        Raises UserError when another one is at it.
        """
        lock = FileLock(self.path / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise UserError(
                f"The run {self.path} is being trained by another process: wait until that has "
                "ended, or choose another run_name."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def steps_saved(self) -> int:
        """Return the step at which the run would go on."""
        return checkpoint.step_of(checkpoint.latest(self.checkpoints))

    def is_finished(self) -> bool:
        """Tell whether the result of all the steps in `config.yaml` is there."""
        if not self.result.exists():
            return False
        made = json.loads(self.result.read_text(encoding="utf-8"))
        return bool(made["steps"] == read_config(self.config).steps)

    def mark_finished(self, steps: int) -> None:
        """Say that the result of so many steps is complete."""
        write_text(self.result, json.dumps({"steps": steps}))


def open_run(
    root: Path,
    name: str,
    config: TrainingConfig,
    subject: Subject,
    class_pictures: Sequence[Path],
    *,
    resume: bool,
) -> RunFolder:
    """Return the folder of a run of DreamBooth: see `find_or_make`."""

    def fill(draft: RunFolder) -> None:
        write_subject(draft.pictures, subject)
        write_images(draft.masks, subject.masks)
        write_class_images(draft.class_pictures, class_pictures)

    return find_or_make(root, name, config, fill, resume=resume)


def find_or_make(
    root: Path, name: str, config: Config, fill: Callable[[RunFolder], None], *, resume: bool
) -> RunFolder:
    """Return the folder of a run that these settings continue, or make one and `fill` it.

    Runs of one name are `name`, `name_2`, `name_3` and so on: other settings or other pictures
    never touch an earlier run. With `resume`, the first that fits goes on where it was;
    it may get more steps than it had. Raises OSError when the disk does not take the files, and
    UserError when another process is training that run.
    """
    for number in count(1):
        run = RunFolder(root / (name if number == 1 else f"{name}_{number}"))
        if not run.path.exists():
            _make(run, config, fill)
            return run
        if resume and _fits(run, config):
            with run.locked():
                write_text(run.config, to_yaml(config))
            return run
    raise AssertionError("count() never ends")


def _fits(run: RunFolder, config: Config) -> bool:
    if not run.config.exists():
        return False
    try:
        return config.continues(read_config(run.config)) and run.steps_saved() <= config.steps
    except UserError:
        return False


def _make(run: RunFolder, config: Config, fill: Callable[[RunFolder], None]) -> None:
    """Make the folder aside and move it into place, so that a folder that exists is complete."""
    draft = RunFolder(run.path.with_name(f"{run.path.name}.{os.getpid()}.tmp"))
    try:
        fill(draft)
        write_text(draft.config, to_yaml(config))
        draft.path.replace(run.path)
    finally:
        shutil.rmtree(draft.path, ignore_errors=True)
