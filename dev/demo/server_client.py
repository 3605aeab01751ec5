"""Run a workflow on a ComfyUI server and collect its outputs, progress, previews and texts."""

from __future__ import annotations

import asyncio
import io
import json
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import aiohttp
from PIL import Image

# The kinds of binary message, from ComfyUI's protocol.py.
TEXT = 3
PREVIEW_WITH_METADATA = 4
ENDINGS = ("execution_success", "execution_error", "execution_interrupted")


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """A node of a workflow in the API format; a link is `[node id, output index]`."""
    return {"class_type": class_type, "inputs": inputs}


class Failure(NamedTuple):
    """Why a workflow failed: the node's id and type, the error's type and message."""

    node: str
    node_type: str
    kind: str
    sentence: str


class Step(NamedTuple):
    """A node's progress bar."""

    node: str
    done: int
    total: int


class Preview(NamedTuple):
    """A preview image of a running node."""

    node: str
    image: Image.Image


@dataclass
class Outcome:
    """Result of a workflow. `outputs` maps a node's id to its UI output."""

    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    failure: Failure | None = None
    interrupted: bool = False
    steps: list[Step] = field(default_factory=list)
    previews: list[Preview] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)


class Client:
    """Uses the HTTP and WebSocket interfaces of the server at `address`, as a browser does."""

    def __init__(self, address: str) -> None:
        self.address = address

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Return every node's schema by node id, as in `/object_info`."""
        return dict(asyncio.run(self._get("/object_info")))

    def get(self, path: str) -> Any:
        """Return the JSON at a path of the server."""
        return asyncio.run(self._get(path))

    def run(
        self,
        workflow: dict[str, Any],
        timeout: float = 300,
        cancel_when: Callable[[Outcome], bool] | None = None,
    ) -> Outcome:
        """Run a workflow in the API format to its end and return the outcome.

        A node's error is not raised but is in the outcome. Cancel is pressed as soon as
        `cancel_when(outcome so far)` is true. Raises TimeoutError after `timeout` seconds.
        """
        return asyncio.run(asyncio.wait_for(self._run(workflow, cancel_when), timeout))

    async def _get(self, path: str) -> Any:
        async with aiohttp.ClientSession() as session, session.get(self.address + path) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def _interrupt(self) -> None:
        url = f"{self.address}/interrupt"
        async with aiohttp.ClientSession() as session, session.post(url, json={}) as answer:
            answer.raise_for_status()

    async def _run(
        self, workflow: dict[str, Any], cancel_when: Callable[[Outcome], bool] | None
    ) -> Outcome:
        client_id = uuid.uuid4().hex
        outcome = Outcome()
        async with aiohttp.ClientSession() as session:
            url = f"{self.address}/ws?clientId={client_id}"
            async with session.ws_connect(url, max_msg_size=0) as socket:
                flags = {"supports_preview_metadata": True}
                await socket.send_json({"type": "feature_flags", "data": flags})
                body = {"prompt": workflow, "client_id": client_id}
                async with session.post(f"{self.address}/prompt", json=body) as answer:
                    reply = await answer.json()
                if "prompt_id" not in reply:
                    outcome.failure = _rejection(reply)
                    return outcome
                async for message in socket:
                    if message.type == aiohttp.WSMsgType.BINARY:
                        _add_binary(outcome, message.data)
                    elif message.type == aiohttp.WSMsgType.TEXT:
                        event = json.loads(message.data)
                        _add_event(outcome, event["type"], event["data"])
                        ended = event["type"] in ENDINGS
                        if ended and event["data"]["prompt_id"] == reply["prompt_id"]:
                            return outcome
                    if cancel_when is not None and cancel_when(outcome):
                        cancel_when = None
                        await self._interrupt()
        raise ConnectionError(f"{self.address} closed the connection before the workflow's end.")


def _rejection(reply: dict[str, Any]) -> Failure:
    for node, report in reply.get("node_errors", {}).items():
        for error in report["errors"]:
            sentence = f"{error['message']}: {error['details']}"
            return Failure(node, report["class_type"], error["type"], sentence)
    return Failure("", "", reply["error"]["type"], reply["error"]["message"])


def _add_event(outcome: Outcome, kind: str, data: dict[str, Any]) -> None:
    if kind == "progress":
        outcome.steps.append(Step(data["node"], data["value"], data["max"]))
    elif kind == "executed" and data["output"] is not None:
        outcome.outputs[data["node"]] = data["output"]
    elif kind == "execution_interrupted":
        outcome.interrupted = True
    elif kind == "execution_error":
        outcome.failure = Failure(
            data["node_id"],
            data["node_type"],
            data["exception_type"],
            data["exception_message"].strip(),
        )


def _add_binary(outcome: Outcome, data: bytes) -> None:
    """Parse a binary message: its kind, the header's length, the header, and the body."""
    kind, length = struct.unpack(">II", data[:8])
    header, body = data[8 : 8 + length], data[8 + length :]
    if kind == TEXT:
        outcome.texts.append((header.decode(), body.decode()))
    elif kind == PREVIEW_WITH_METADATA:
        image = Image.open(io.BytesIO(body)).convert("RGB")
        outcome.previews.append(Preview(json.loads(header)["display_node_id"], image))
