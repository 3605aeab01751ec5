"""The whole walk: a server, the saved workflow, a table of what came out, and a contact sheet."""

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
from .progress import Ticker
from .server_client import Client

WORKFLOW = ROOT / "workflows" / "personalize_and_caption.json"
KIND = "dog"


class Story:
    """What the workflow's nodes gave, found by the titles that they have in the workflow."""

    def __init__(self, server: ComfyUI, prompt_id: str) -> None:
        entry = Client(server.address).get(f"/history/{prompt_id}")[prompt_id]
        self._outputs: dict[str, dict[str, Any]] = entry["outputs"]
        graph = entry["prompt"][2]
        self._ids = {node["_meta"]["title"]: name for name, node in graph.items()}
        self._folder = server.base

    def pictures(self, title: str) -> list[Path]:
        """Return the files that a node saved or previewed."""
        return [
            self._folder / picture["type"] / picture["subfolder"] / picture["filename"]
            for picture in self._outputs[self._ids[title]]["images"]
        ]

    def texts(self, title: str) -> list[str]:
        """Return the lines that a text preview shows."""
        return list(self._outputs[self._ids[title]]["text"])


def main() -> None:
    """Run the demo; ends the process with status 1 and a sentence when something fails."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    try:
        _walk(console)
    except (ServerFailedError, WorkflowFailedError) as error:
        console.print(f"The demo stopped: {error}", style="red", highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("\nStopped.")
        sys.exit(130)


def _walk(console: Console) -> None:
    began = time.monotonic()
    console.print("Starting ComfyUI with the pack", highlight=False)
    with playground() as server:
        console.print(f"Running {WORKFLOW.relative_to(ROOT)} on {server.address}", highlight=False)
        with Ticker(console) as ticker:
            prompt_id = run_workflow(server, WORKFLOW, ticker.show)
        story = Story(server, prompt_id)
        rows = [
            SheetRow(
                "Kosmos-2 looks at the subject",
                "It describes four pictures and boxes what it names. With the rare word in place "
                "of the looks, its captions are what training learns from.",
                _shots(story.pictures("Subject, boxed"), story.texts("Captions to learn from")),
            ),
            SheetRow(
                "“sks” now means this one dog",
                "Painted after DreamBooth training, in scenes that no training picture shows. "
                "Below each prompt: what Kosmos-2 sees in the picture.",
                _measured(story, "subject"),
            ),
            SheetRow(
                "… and “a dog”, without it",
                "The same model and seeds without the rare word: prior preservation works against "
                "every dog becoming this one.",
                _measured(story, "class"),
            ),
        ]
    seconds = time.monotonic() - began
    _print_table(console, [shot for row in rows[1:] for shot in row.images])
    sheet = server.output / "contact_sheet.png"
    foot = f"{seconds / 60:.1f} minutes on {os.cpu_count()} CPU cores, without a network"
    draw_sheet(
        "Four pictures, one new word, new scenes",
        "ComfyUI-Kosmos-DreamBooth: one workflow captions, personalises, paints and looks again.",
        rows,
        foot,
    ).save(sheet, optimize=True)
    console.print(f"Contact sheet: {sheet.relative_to(ROOT)}", highlight=False)
    console.print(f"The whole walk took {seconds:.0f} s.", highlight=False)


def _shots(pictures: Sequence[Path], captions: Sequence[str]) -> list[SheetImage]:
    return [SheetImage(path, text, "") for path, text in zip(pictures, captions, strict=True)]


def _measured(story: Story, who: str) -> list[SheetImage]:
    from .judge_scores import (
        measure,  # torch takes seconds to import, and the server needs them first
    )

    pictures = story.pictures(f"Pictures of the {who}")
    scores = measure(pictures, sorted(SUBJECT.glob("*.png")), KIND)
    texts = zip(
        story.texts(f"Prompts of the {who}"), story.texts(f"Seen in the {who}"), strict=True
    )
    return [
        SheetImage(path, prompt, saw, score.subject, score.kind)
        for path, (prompt, saw), score in zip(pictures, texts, scores, strict=True)
    ]


def _print_table(console: Console, shots: Sequence[SheetImage]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("prompt", "picture", "what Kosmos-2 saw"):
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
