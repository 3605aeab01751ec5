"""Silence the log messages and warnings of the exporters."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

NOISY_LOGGERS = ("coremltools", "onnxscript", "onnx_ir", "torch.onnx", "torch.export", "root")


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Suppress warnings, and log messages below ERROR, within the block."""
    loggers = [logging.getLogger(name) for name in NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
