"""Progress, previews, Cancel and messages of the running node."""

from __future__ import annotations

from typing import Any

import comfy.model_management as management
import comfy.utils
import torch
from comfy_execution.graph import ExecutionBlocker
from server import PromptServer

from ...shared.errors import printable
from ...shared.images import to_pil

PREVIEW_SIDE = 512
"""Largest side of a preview in pixels."""


def check_interrupted() -> None:
    """Raise ComfyUI's exception when the user has pressed Cancel."""
    management.throw_exception_if_processing_interrupted()


class Progress:
    """Progress bar and live preview of the running node."""

    def __init__(self, total: int) -> None:
        self._bar = comfy.utils.ProgressBar(total)

    def step(self, done: int, preview: torch.Tensor | None = None) -> None:
        """Show that `done` of the total is done, and a preview [H,W,3], float 0..1.

        Raises ComfyUI's exception when the user has pressed Cancel.
        """
        check_interrupted()
        picture = None if preview is None else ("JPEG", to_pil(preview), PREVIEW_SIDE)
        self._bar.update_absolute(done, preview=picture)


def block_output(message: str) -> ExecutionBlocker:
    """Return an output without a value; a node that uses it fails with the message."""
    return ExecutionBlocker(printable(message))


def show_text(text: str) -> None:
    """Show lines of text in the running node."""
    server = PromptServer.instance
    text = "\n".join(printable(line) for line in text.splitlines())
    server.send_progress_text(text, server.last_node_id, server.client_id)


def send_event(event: str, data: dict[str, Any]) -> None:
    """Send an event to the pack's JavaScript, with the id of the running node as `node`.

    Nothing is sent when the workflow was queued without a client id.
    """
    server = PromptServer.instance
    if server.client_id is not None:
        server.send_sync(event, {"node": server.last_node_id, **data}, server.client_id)
