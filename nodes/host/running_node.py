"""The node that is running: its progress and previews, its end, and what the browser hears."""

from __future__ import annotations

from typing import Any

import comfy.model_management as management
import comfy.utils
import torch
from comfy_execution.graph import ExecutionBlocker
from server import PromptServer

from ...shared.images import to_pil

PREVIEW_SIDE = 512


def check_interrupted() -> None:
    """Raise ComfyUI's own exception when the user has pressed Cancel."""
    management.throw_exception_if_processing_interrupted()


class Progress:
    """The progress bar, and the live preview, of the node that is running."""

    def __init__(self, total: int) -> None:
        self._bar = comfy.utils.ProgressBar(total)

    def step(self, done: int, preview: torch.Tensor | None = None) -> None:
        """Show that `done` of the total is done; `preview` is [H,W,3], float 0..1.

        Raises ComfyUI's interruption when the user has pressed Cancel.
        """
        check_interrupted()
        picture = None if preview is None else ("JPEG", to_pil(preview), PREVIEW_SIDE)
        self._bar.update_absolute(done, preview=picture)


def block_output(why: str) -> ExecutionBlocker:
    """Stand in for an output that there is none of; a node that wants it shows the sentence."""
    return ExecutionBlocker(why)


def show_text(text: str) -> None:
    """Show a line of text in the node that is running."""
    server = PromptServer.instance
    server.send_progress_text(text, server.last_node_id, server.client_id)


def send_event(message: str, data: dict[str, Any]) -> None:
    """Send a message to the browser's part of the pack, with the running node as its `node`.

    Nobody is told when a program queued the workflow that asked for no news.
    """
    server = PromptServer.instance
    if server.client_id is not None:
        server.send_sync(message, {"node": server.last_node_id, **data}, server.client_id)
