"""The run folder: all files of a run; it alone is enough to resume the run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from ...shared.atomic_files import atomic_folder, disk_errors, write_text
from ...shared.errors import UserError
from ...shared.json_files import read_json
from ...shared.safetensors_files import is_complete_model
from ..config import Config, TrainingConfig
from ..config_yaml import read_config, to_yaml
from ..data.subject import Subject, write_class_images, write_images, write_subject
from . import checkpoints

log = logging.getLogger(__name__)


class RunLockedError(UserError):
    """Another process trains the run."""


@dataclass(frozen=True)
class RunFolder:
    """The paths of the files of a run below `path`."""

    path: Path

    @property
    def config(self) -> Path:
        """The settings, as YAML."""
        return self.path / "config.yaml"

    @property
    def images(self) -> Path:
        """The training images, each with a caption file."""
        return self.path / "pictures"

    @property
    def masks(self) -> Path:
        """The masks of the subject in its images, if there are any."""
        return self.path / "masks"

    @property
    def class_images(self) -> Path:
        """The class images for prior preservation."""
        return self.path / "priors"

    @property
    def latents(self) -> Path:
        """The VAE's latents of training and class images."""
        return self.path / "latents.safetensors"

    @property
    def conditioning(self) -> Path:
        """ComfyUI's conditioning of all prompts, for a run on a MODEL."""
        return self.path / "prompts.safetensors"

    @property
    def features(self) -> Path:
        """The image features of a captioner's frozen vision tower."""
        return self.path / "features.safetensors"

    @property
    def own_captions(self) -> Path:
        """The captioner's own English captions from before the training."""
        return self.path / "own_captions.json"

    @property
    def adapter(self) -> Path:
        """The peft configuration of a captioner's LoRA."""
        return self.path / "adapter_config.json"

    @property
    def events(self) -> Path:
        """The event stream."""
        return self.path / "events.jsonl"

    @property
    def log(self) -> Path:
        """The worker's log, for developers."""
        return self.path / "worker.log"

    @property
    def checkpoints(self) -> Path:
        """The newest `keep_checkpoints` checkpoints."""
        return self.path / "checkpoint"

    @property
    def previews(self) -> Path:
        """Preview images."""
        return self.path / "previews"

    @property
    def tensorboard(self) -> Path:
        """The TensorBoard logs."""
        return self.path / "tensorboard"

    @property
    def lora(self) -> Path:
        """The result of the methods "lora" and "dora", and of a captions run."""
        return self.path / "lora.safetensors"

    @property
    def embedding(self) -> Path:
        """The result of the method "embedding"."""
        return self.path / "embedding.safetensors"

    @property
    def model(self) -> Path:
        """The result of the method "full", a diffusers folder."""
        return self.path / "model"

    @property
    def core_model(self) -> Path:
        """The result of the method "full" on a MODEL, as core's loaders read it."""
        return self.path / "model.safetensors"

    def result_path(self, method: str, *, uses_comfyui: bool = False) -> Path:
        """The result of a method of DreamBooth, on a DIFFUSION or on a MODEL (`uses_comfyui`)."""
        model = self.core_model if uses_comfyui else self.model
        return {"full": model, "embedding": self.embedding}.get(method, self.lora)

    @property
    def scores(self) -> Path:
        """EvaluateSubject's scores of each checkpoint."""
        return self.path / "scores.json"

    @property
    def result(self) -> Path:
        """The number of steps of the result; written last."""
        return self.path / "result.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run against other processes; the lock of a killed process is released.

        Raises UserError when another process trains the run.
        """
        lock = FileLock(self.path / "lock", timeout=0)
        with disk_errors(self.path):
            try:
                lock.acquire()
            except Timeout as error:
                raise RunLockedError(
                    f"The run {self.path} is being trained by another process: wait until it ends, "
                    "or choose another run_name."
                ) from error
        try:
            yield
        finally:
            lock.release()

    def steps_saved(self) -> int:
        """Return the step of the newest checkpoint, at which the run resumes; 0 without one."""
        return checkpoints.step_of(checkpoints.latest(self.checkpoints))

    def is_finished(self) -> bool:
        """Whether the result of all the steps in `config.yaml` exists, undamaged."""
        return self.was_finished() and not self.damage()

    def was_finished(self) -> bool:
        """Whether the result of all the steps was written; it may be damaged or deleted since."""
        try:
            return self.result.exists() and self._is_current()
        except UserError:
            log.warning("%s is damaged.", self.result)
            return False

    def damage(self) -> str:
        """Return a sentence about what is damaged or missing of the result, or ""."""
        try:
            if not self.result.exists() or not self._is_current():
                return ""
        except UserError as error:
            return str(error)
        config = read_config(self.config)
        path = self.lora
        if isinstance(config, TrainingConfig):
            path = self.result_path(config.method, uses_comfyui=config.uses_comfyui)
        if is_complete_model(path):
            return ""
        return f"{path} is missing or damaged: queue ResumeTraining, which writes it again."

    def _is_current(self) -> bool:
        """Whether `result.json` is that of all steps. Raises UserError when it is damaged."""
        result = read_json(self.result, "queue ResumeTraining, which writes it again")
        return bool(result.get("steps") == read_config(self.config).steps)

    def mark_finished(self, steps: int) -> None:
        """Record that the result of so many steps is complete."""
        write_text(self.result, json.dumps({"steps": steps}))


def open_run(
    root: Path,
    name: str,
    config: TrainingConfig,
    subject: Subject,
    class_pictures: Sequence[Path],
    *,
    resume: bool,
    encode: Callable[[RunFolder], None] = lambda run: None,
) -> RunFolder:
    """Return the folder of a DreamBooth run, found or created by `find_or_create`.

    `encode` adds what it lacks to an unfinished run; of a new one nothing is left when it fails.
    """

    def write_data(draft: RunFolder) -> None:
        write_subject(draft.images, subject)
        write_images(draft.masks, subject.masks)
        write_class_images(draft.class_images, class_pictures)
        encode(draft)

    return find_or_create(root, name, config, write_data, encode, resume=resume)


def find_or_create(
    root: Path,
    name: str,
    config: Config,
    write_data: Callable[[RunFolder], None],
    add_data: Callable[[RunFolder], None] = lambda run: None,
    *,
    resume: bool,
) -> RunFolder:
    """Return the folder of the run that these settings resume, or create one with `write_data`.

    `add_data` is called with a run that is resumed before its end. Runs of one name are `name`,
    `name_2`, `name_3` and so on: other settings or images start a new run. With `resume`, the first
    run that can be resumed is; `config` may have more steps than it had. Raises UserError when the
    disk is full, and when another process trains that run.
    """
    for number in count(1):
        run = RunFolder(root / (name if number == 1 else f"{name}_{number}"))
        if not run.path.exists():
            try:
                _create(run, config, write_data)
                return run
            except UserError:
                if not run.path.exists():  # else another process has made it meanwhile
                    raise
        if resume and can_resume(run, config):
            with run.locked():
                write_text(run.config, to_yaml(config.resuming(read_config(run.config))))
                if not run.is_finished():
                    add_data(run)
            return run
    raise AssertionError("count() never ends")


def can_resume(run: RunFolder, config: Config) -> bool:
    """Whether a folder is that of a run which these settings resume or extend."""
    if not run.config.exists():
        return False
    try:
        return config.continues(read_config(run.config)) and run.steps_saved() <= config.steps
    except UserError:
        return False


def _create(run: RunFolder, config: Config, write_data: Callable[[RunFolder], None]) -> None:
    """Create the folder under a temporary name and rename it, so that it appears atomically."""
    with atomic_folder(run.path) as draft:
        write_data(RunFolder(draft))
        write_text(RunFolder(draft).config, to_yaml(config))
