"""Exporters talk much, and mostly to their own developers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

NOISY_LOGGERS = ("coremltools", "onnxscript", "onnx_ir", "torch.onnx", "torch.export", "root")


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Keep what they say below an error out of the user's log."""
    loggers = [logging.getLogger(name) for name in NOISY_LOGGERS]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
