"""Run a saved workflow (UI format) through comfy-cli, without a browser."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .comfyui_server import ROOT, ComfyUI

COMFY = ROOT / ".cache" / "comfy-cli" / "bin" / "comfy"
TIMEOUT_SECONDS = 300
QUIET = {"DO_NOT_TRACK": "1", "COMFY_NO_TELEMETRY": "1"}

Event = dict[str, Any]


class WorkflowFailedError(RuntimeError):
    """The workflow failed; the message has the reason."""


def run_workflow(server: ComfyUI, workflow: Path, on_event: Callable[[Event], None]) -> str:
    """Run a workflow to its end and return its prompt id, the key of its entry in `/history`.

    `on_event` is called with each of comfy-cli's events: `executing`, `progress`, `executed` ...
    Raises WorkflowFailedError.
    """
    command = _command(server, workflow)
    command += ["--json", "--wait", "--no-notify", "--timeout", str(TIMEOUT_SECONDS)]
    prompt_id = ""
    last: Event = {}
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | QUIET,
    ) as process:
        for line in process.stdout or ():
            last = json.loads(line)
            prompt_id = last.get("prompt_id") or prompt_id
            on_event(last)
    if process.returncode or not last.get("ok"):
        error = last.get("error") or {}
        raise WorkflowFailedError(str(error.get("message", f"comfy-cli ended with {last}")))
    return prompt_id


def as_sent(server: ComfyUI, workflow: Path) -> dict[str, Any]:
    """Return a workflow in the API format, as comfy-cli makes it of the UI format.

    Raises WorkflowFailedError when it cannot.
    """
    result = subprocess.run(
        [*_command(server, workflow), "--print-prompt"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=os.environ | QUIET,
        check=False,
    )
    if result.returncode:
        raise WorkflowFailedError(f"comfy-cli cannot read {workflow.name}: {result.stdout.strip()}")
    return dict(json.loads(result.stdout)["data"]["prompt"])


def _command(server: ComfyUI, workflow: Path) -> list[str]:
    command = [str(COMFY), "--skip-prompt", "run", "--workflow", str(workflow)]
    return [*command, "--host", "127.0.0.1", "--port", str(server.port)]
