"""Send mutated prompts to a real server, and count how they end: raw errors and hangs are defects.

A prompt is a small workflow of one node of the pack in which one or two widgets or links have a
value that no browser would send. The generator is seeded: a number names its prompt.
"""

from __future__ import annotations

import asyncio
import logging
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from ..command_line import parse_arguments
from ..demo.comfyui_server import ComfyUI
from ..demo.server_client import Client, Outcome, node

log = logging.getLogger(__name__)

HANG_SECONDS = 120
Prompt = dict[str, dict[str, Any]]

IMAGE, KOSMOS, DIFFUSION = ["image", 0], ["kosmos", 0], ["diffusion", 0]
GROUNDING, EMBEDDING = ["caption", 1], ["embedding", 0]
SOURCES = {
    "image": node("EmptyImage", width=64, height=64, batch_size=1, color=0),
    "kosmos": node("LoadKosmos"),
    "diffusion": node("LoadDiffusion"),
    "caption": node("GroundedCaption", kosmos=KOSMOS, image=IMAGE, max_new_tokens=4),
    "embedding": node("EmbedImageText", kosmos=KOSMOS, image=IMAGE, text="a dog"),
}
"""Nodes whose outputs the mutated node gets."""

TARGETS: dict[str, dict[str, Any]] = {
    "LoadKosmos": {},
    "GroundedCaption": {"kosmos": KOSMOS, "image": IMAGE, "max_new_tokens": 4},
    "AskImage": {"kosmos": KOSMOS, "image": IMAGE, "max_new_tokens": 4},
    "GroundPhrase": {"kosmos": KOSMOS, "image": IMAGE},
    "DescribeRegion": {"kosmos": KOSMOS, "image": IMAGE, "bbox": GROUNDING},
    "GroundingToMask": {"image": IMAGE, "grounding": GROUNDING},
    "GroundingCrop": {"image": IMAGE, "grounding": GROUNDING},
    "TranslateCaption": {"grounding": GROUNDING},
    "SaveCaptions": {"image": IMAGE, "grounding": GROUNDING, "folder": "fuzz"},
    "CaptionFolder": {"kosmos": KOSMOS, "folder": "fuzz", "max_new_tokens": 4},
    "EmbedImageText": {"kosmos": KOSMOS, "image": IMAGE},
    "CompareEmbeddings": {"query": EMBEDDING, "candidates": EMBEDDING},
    "AttentionMap": {"kosmos": KOSMOS, "image": IMAGE, "grounding": GROUNDING},
    "PatchTokens": {"kosmos": KOSMOS, "image": IMAGE},
    "SubjectDataset": {"image": IMAGE},
    "LoadDiffusion": {},
    "TrainingOptions": {},
    "LoadTrainingRun": {},
    "MergeEmbeddings": {},
    "CFGSampler": {"diffusion": DIFFUSION, "steps": 1},
    "GuidanceOptions": {},
    "ToComfyModel": {"diffusion": DIFFUSION},
    "PriorGenerator": {"diffusion": DIFFUSION, "steps": 1, "count": 1},
}
"""Nodes that end in seconds whatever their inputs are, with links and cheap settings."""

VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**31,
    2**64,
    -(2**70),
    0.5,
    1e308,
    "",
    " ",
    "none",
    "0",
    "\ud800",
    "\x00",
    "\x1b[2J\u202e",
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\Windows\\evil",
    "\\\\server\\share",
    "D:evil",
    "CON",
    "a/nul.txt",
    "x" * 300,
    "\u732b" * 5000,
    "{subject}\n" * 50,
    "<grounding><phrase>" * 30,
    "\U0001f436" * 3,
    [],
    [1, 2],
    ["x", "y", "z"],
    {},
    {"a": {"b": [None]}},
    [[[[]]]],
    IMAGE,
    KOSMOS,
    ["missing", 0],
    ["image", 7],
    ["image", -1],
)
"""What a widget or a link is replaced with."""


def make_prompt(seed: int, schemas: dict[str, Any]) -> Prompt:
    """Return the mutated prompt of a number."""
    rng = random.Random(seed)  # noqa: S311  (no secret)
    target = rng.choice(sorted(TARGETS))
    prompt = {name: with_defaults(source, schemas) for name, source in SOURCES.items()}
    mutated = with_defaults(node(target, **TARGETS[target]), schemas)
    order = schemas[target]["input_order"]
    names = [*order.get("required", ()), *order.get("optional", ())]
    for name in rng.sample(names, min(len(names), rng.choice((1, 1, 2)))):
        mutated["inputs"][name] = rng.choice(VALUES)
    prompt["target"] = mutated
    prompt["show"] = node("PreviewAny", source=["target", 0])
    needed = {"target", "show"}
    for _ in SOURCES:
        needed |= {
            value[0]
            for name in needed
            for value in prompt[name]["inputs"].values()
            if isinstance(value, list) and value and value[0] in tuple(SOURCES)
        }
    return {name: prompt[name] for name in prompt if name in needed}


def with_defaults(source: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """Return a node with a value for each required widget."""
    schema, inputs = schemas[source["class_type"]], {}
    for name, (kind, *rest) in schema["input"].get("required", {}).items():
        options = rest[0] if rest else {}
        choices = kind if isinstance(kind, list) else options.get("options") or [None]
        default = options.get("default", choices[0])
        if default is not None:
            inputs[name] = default
    return node(source["class_type"], **{**inputs, **source["inputs"]})


def outcome_class(outcome: Outcome) -> str:
    """Return how a prompt ended: "succeeded", "rejected" by ComfyUI, "named" or "raw"."""
    failure = outcome.failure
    if failure is None:
        return "succeeded"
    if "Error" not in failure.kind and "Exec" not in failure.kind:
        return "rejected"
    is_one_line = "\n" not in failure.sentence
    named = failure.kind.endswith(("UserError", "ExecutionBlocked")) and is_one_line
    return "named" if named else "raw"


def run_prompts(
    client: Client, numbers: range, schemas: dict[str, Any]
) -> tuple[Counter[str], dict[int, str]]:
    """Run the prompts of these numbers; return counts by class, and each defect by number."""
    counts: Counter[str] = Counter()
    defects: dict[int, str] = {}
    for number in numbers:
        prompt = make_prompt(number, schemas)
        try:
            outcome = client.run(prompt, timeout=HANG_SECONDS)
            kind, text = outcome_class(outcome), str(outcome.failure)
        except (asyncio.TimeoutError, TimeoutError):
            kind, text = "hang", f"no end after {HANG_SECONDS} s"
        except (ConnectionError, OSError) as error:
            kind, text = "server ended", str(error)
        counts[kind] += 1
        if kind not in ("succeeded", "rejected", "named"):
            defects[number] = f"{prompt['target']}: {text}"
            log.info("%d %s %s", number, kind, defects[number])
    return counts, defects


def add_input(server: ComfyUI) -> None:
    """Put a folder with an image into the server's input."""
    folder = server.input / "fuzz"
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (32, 32)).save(folder / "one.png")


def main() -> None:
    """Start a server, run the prompts, and print the counts by class."""
    options = parse_arguments(
        "Send mutated prompts to a real server, and count how they end.",
        count=(2000, "number of prompts"),
        start=(0, "number of the first prompt"),
    )
    with tempfile.TemporaryDirectory() as base, ComfyUI(Path(base)) as server:
        add_input(server)
        client = Client(server.address)
        numbers = range(options.start, options.start + options.count)
        counts, defects = run_prompts(client, numbers, client.nodes())
    for kind, count in counts.most_common():
        log.info("%6d %s", count, kind)
    if defects:
        raise SystemExit(1)
