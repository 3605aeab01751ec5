"""A real ComfyUI server with the pack, for the duration of a `with` block."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from ...as_package import ROOT

FOLDERS = ("custom_nodes", "models", "input", "output", "user", "temp")
PACK_NAME = "ComfyUI-Kosmos-DreamBooth"
START_SECONDS = 180
STOP_SECONDS = 20


class ServerFailedError(RuntimeError):
    """ComfyUI did not start; the message has the reason or the end of its log."""


def home() -> Path:
    """Return the folder of the ComfyUI that is used: `COMFYUI_DIR`, or the one of `make setup`."""
    return ROOT / os.environ.get("COMFYUI_DIR", ".comfyui")


def python() -> Path:
    """Return the Python that runs it: `COMFYUI_PYTHON`, or that of `make setup`."""
    return ROOT / os.environ.get("COMFYUI_PYTHON", ".venv/bin/python")


class ComfyUI:
    """A ComfyUI server on a free loopback port, with the pack linked into its custom nodes.

    `COMFYUI_DIR` names the ComfyUI (default `.comfyui`), `COMFYUI_PYTHON` the Python that runs it
    (default `.venv/bin/python`). Models, inputs and outputs lie in `base`, never in that ComfyUI.
    `frontend` is the folder of another frontend than the one that this ComfyUI pins.
    Used with `with`; on leaving, the server and whatever it started are stopped.
    """

    def __init__(self, base: Path, frontend: Path | None = None) -> None:
        self.base = base.resolve()
        self.frontend = frontend
        self.input = self.base / "input"
        self.output = self.base / "output"
        self.log = self.base / "comfyui.log"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """The server's address, e.g. `http://127.0.0.1:8188`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The server's process, while it runs."""
        return self._process.pid if self._process else None

    def __enter__(self) -> ComfyUI:
        self._prepare()
        self.port = _free_port()
        host = home()
        if not (host / "main.py").exists():
            raise ServerFailedError(f"{host} contains no ComfyUI: set COMFYUI_DIR to its folder.")
        command = [str(python()), "main.py", "--cpu", "--disable-auto-launch"]
        command += ["--listen", "127.0.0.1", "--port", str(self.port)]
        command += ["--base-directory", str(self.base)]
        command += ["--database-url", f"sqlite:///{self.base / 'user' / 'comfyui.db'}"]
        if self.frontend is not None:
            command += ["--front-end-root", str(self.frontend.resolve())]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=host,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_up(self._process)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the server and its children: SIGINT, then SIGTERM, then SIGKILL."""
        process = self._process
        if process is None:
            return
        for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, signal_number)
            except ProcessLookupError:
                break  # the process group has ended
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
        self._process = None

    def is_up(self) -> bool:
        """Whether the server answers."""
        try:
            with urllib.request.urlopen(f"{self.address}/system_stats", timeout=5) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _prepare(self) -> None:
        for folder in FOLDERS:
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        link = self.base / "custom_nodes" / PACK_NAME
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(ROOT, target_is_directory=True)

    def _wait_until_up(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            if self.is_up():
                return
            time.sleep(0.2)
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
        raise ServerFailedError(f"ComfyUI did not start; its log {self.log} ends with\n{tail}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
