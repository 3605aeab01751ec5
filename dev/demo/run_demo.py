"""Run the demo workflow in a real ComfyUI, print its results, and draw a contact sheet."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ...drawing.contact_sheet import SheetImage, SheetRow, draw_sheet
from .comfy_cli import WorkflowFailedError, run_workflow
from .comfyui_server import ROOT, ComfyUI, ServerFailedError
from .playground import SUBJECT, playground
from .progress import WorkflowProgress
from .server_client import Client

WORKFLOW = ROOT / "workflows" / "personalize_and_caption.json"
KIND = "dog"
RUNS_FOLDER = "dreambooth"
"""Where DreamBooth Train keeps its runs, below ComfyUI's output folder."""


class WorkflowOutputs:
    """Outputs of a workflow's nodes, by the nodes' titles."""

    def __init__(self, server: ComfyUI, prompt_id: str) -> None:
        entry = Client(server.address).get(f"/history/{prompt_id}")[prompt_id]
        self._outputs: dict[str, dict[str, Any]] = entry["outputs"]
        graph = entry["prompt"][2]
        self._ids = {node["_meta"]["title"]: name for name, node in graph.items()}
        self._folder = server.base

    def files(self, title: str) -> list[Path]:
        """Return the image files that a node saved or previewed."""
        return [
            self._folder / image["type"] / image["subfolder"] / image["filename"]
            for image in self._outputs[self._ids[title]]["images"]
        ]

    def texts(self, title: str) -> list[str]:
        """Return the lines of a text preview."""
        return list(self._outputs[self._ids[title]]["text"])

    def run_before(self, title: str, start: float) -> str | None:
        """Return the name of a training node's run if it ended before a time (since the epoch)."""
        (panel,) = self._outputs[self._ids[title]]["training"]
        return str(panel["name"]) if panel["time"] < start else None


def main() -> None:
    """Run the demo; on a failure, exit with status 1 and an error message."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    try:
        _run(console)
    except (ServerFailedError, WorkflowFailedError) as error:
        console.print(f"The demo stopped: {error}", style="red", highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("\nStopped.")
        sys.exit(130)


def _run(console: Console) -> None:
    start, start_time = time.monotonic(), time.time()
    console.print("Starting ComfyUI with the pack", highlight=False)
    with playground() as server:
        console.print(f"Running {WORKFLOW.relative_to(ROOT)} on {server.address}", highlight=False)
        with WorkflowProgress(console) as progress:
            prompt_id = run_workflow(server, WORKFLOW, progress.show)
        outputs = WorkflowOutputs(server, prompt_id)
        rows = [
            SheetRow(
                "Kosmos-2 captions the subject",
                "It captions four images with boxes. With the rare token in place of the "
                "description, its captions are the training captions.",
                _shots(outputs.files("Subject with boxes"), outputs.texts("Training captions")),
            ),
            SheetRow(
                "“sks” now means this one dog",
                "Generated after DreamBooth training, in scenes that no training image shows. "
                "Below each prompt: Kosmos-2's caption of the image.",
                _scored(outputs, "subject"),
            ),
            SheetRow(
                "… and “a dog”, without it",
                "The same model and seeds without the rare token: prior preservation keeps the "
                "class from becoming this one dog.",
                _scored(outputs, "class"),
            ),
        ]
    seconds = time.monotonic() - start
    took, caption = f"{seconds / 60:.1f} minutes", None
    if run := outputs.run_before("Train on the subject", start_time):
        folder = (server.output / RUNS_FOLDER / run).relative_to(ROOT)
        took = f"Trained in an earlier demo; everything else took {seconds:.0f} s"
        caption = f"Trained in an earlier demo: {folder} is reused; delete it to train again."
    _print_table(console, [shot for row in rows[1:] for shot in row.images], caption)
    sheet = server.output / "contact_sheet.png"
    footer = f"{took} on {os.cpu_count()} CPU cores, without a network"
    draw_sheet(
        "Four images, one rare token, new scenes",
        "ComfyUI-Kosmos-DreamBooth: one workflow captions, trains, generates and captions again.",
        rows,
        footer,
    ).save(sheet, optimize=True)
    console.print(f"Contact sheet: {sheet.relative_to(ROOT)}", highlight=False)
    without = ", without training" if caption else ""
    console.print(f"The demo took {seconds:.0f} s{without}.", highlight=False)


def _shots(files: Sequence[Path], captions: Sequence[str]) -> list[SheetImage]:
    return [SheetImage(path, text, "") for path, text in zip(files, captions, strict=True)]


def _scored(outputs: WorkflowOutputs, name: str) -> list[SheetImage]:
    # Importing torch takes seconds, and the server is needed first.
    from ..scores.subject_similarity import measure_similarity

    files = outputs.files(f"Images of the {name}")
    similarities = measure_similarity(files, sorted(SUBJECT.glob("*.png")), KIND)
    texts = zip(
        outputs.texts(f"Prompts of the {name}"),
        outputs.texts(f"Captions of the generated {name}"),
        strict=True,
    )
    return [
        SheetImage(path, prompt, text, similarity.subject, similarity.class_)
        for path, (prompt, text), similarity in zip(files, texts, similarities, strict=True)
    ]


def _print_table(console: Console, shots: Sequence[SheetImage], caption: str | None) -> None:
    table = Table(box=None, pad_edge=False, caption=caption, caption_justify="left")
    for column in ("prompt", "image", "caption by Kosmos-2"):
        table.add_column(column, overflow="fold")
    for column in ("subject", "class"):
        table.add_column(column, justify="right", no_wrap=True)
    for shot in shots:
        scores = [
            f"{score:.2f}" for score in (shot.subject_score, shot.class_score) if score is not None
        ]
        table.add_row(shot.prompt, str(shot.path.relative_to(ROOT)), shot.caption, *scores)
    console.print()
    console.print(table)
    console.print()
