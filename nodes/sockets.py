"""The pack's own socket types, and core's by the names used here.

Each of ours carries one frozen dataclass, which is described where it is defined.
"""

from __future__ import annotations

from comfy_api.latest import io

KOSMOS = io.Custom("KOSMOS")
"""A loaded Kosmos-2: `kosmos.model.Kosmos`."""

GROUNDING = io.Custom("GROUNDING")
"""Captions whose phrases carry boxes, one per picture: `kosmos.grounding.Grounding`."""

EMBEDDING = io.Custom("EMBEDDING")
"""Vectors of pictures, texts or patches: `kosmos.embedding.Embedding`."""

BBOX = io.BBOX
"""Core's boxes: of ours each is a list of one picture's [x0, y0, x1, y1] in pixels."""

DIFFUSION = io.Custom("DIFFUSION")
"""A loaded Stable Diffusion: `diffusion.model.Diffusion`."""

GUIDANCE = io.Custom("GUIDANCE")
"""How guidance changes while a picture is painted: `diffusion.guidance.GuidanceOptions`."""

PRIORS = io.Custom("PRIORS")
"""Class pictures on disk, made by the base model: `diffusion.priors.Priors`."""

SUBJECT = io.Custom("SUBJECT_DATASET")
"""Pictures of one subject with their captions: `training.dataset.Subject`."""

TRAINING_OPTIONS = io.Custom("TRAINING_OPTIONS")
"""How to train, beside what DreamBoothTrain asks for: `training.config.Options`."""

TRAINING_RUN = io.Custom("TRAINING_RUN")
"""A run on disk and one of its checkpoints: `training.runs.RunCheckpoint`."""

TOKEN_EMBEDDING = io.Custom("TOKEN_EMBEDDING")
"""The vectors that a word stands for: `training.dreambooth.textual_inversion.TokenEmbedding`."""

LORA_MODEL = io.LoraModel
"""Core's LoRA weights: a dictionary of tensors by key."""

LOSS_MAP = io.LossMap
"""Core's loss curve: `{"loss": [float, ...]}`, one figure a step."""
