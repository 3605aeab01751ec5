"""Take the help pages' images: each node with the previews of its outputs, after a run.

Most are nodes of saved workflows, which run unchanged in a browser; nodes that show nothing more
after a run are drawn alone.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from PIL import Image

from ..command_line import parse_arguments
from .browser_tab import Tab
from .comfyui_server import ROOT
from .panel_screenshots import QUALITY, opened_tab, require_known, run_workflow

FOLDER = ROOT / "web" / "docs" / "images"
VIEWPORT = (1600, 1600)
BARS = 120
"""Pixels at each side of the page for the frontend's bars."""
LARGEST = (900, 900)
MARGIN = 12

IN_WORKFLOWS = {
    "find_and_mask_by_phrase": (
        "AskImage",
        "DescribeRegion",
        "GroundPhrase",
        "GroundingCrop",
        "GroundingToMask",
    ),
    "caption_a_folder": ("CaptionFolder", "GroundedCaption"),
    "vision_alignment": ("AttentionMap", "PatchTokens"),
    "image_search": ("CompareEmbeddings", "EmbedImageText"),
    "image_to_image": ("CFGSampler",),
    "quantize_and_compare": ("Quantize",),
    "translate_captions": ("FineTuneCaptions",),
    "textual_inversion": ("SubjectDataset", "TextualInversionTrain"),
    "choose_the_best_checkpoint": ("DreamBoothTrain", "EvaluateSubject"),
}
"""The nodes that are shown in each workflow."""

ALONE = (
    "ExportModel",
    "GroundingFromBoxes",
    "GuidanceGuider",
    "GuidanceOptions",
    "LoadDiffusion",
    "LoadKosmos",
    "LoadTrainingRun",
    "MergeEmbeddings",
    "PriorGenerator",
    "ResumeTraining",
    "SaveCaptions",
    "SaveDiffusion",
    "ToComfyModel",
    "TrainingOptions",
    "TranslateCaption",
)

PLACE_ALONE = """(kind) => {
    app.graph.clear();
    app.graph.add(LiteGraph.createNode(kind));
}"""

FRAME = """([kind, left, top, width, height]) => {
    const node = app.graph.nodes.find((node) => node.type === kind);
    const previews = ['PreviewImage', 'SaveImage', 'PreviewAny', 'MaskPreview'];
    const targets = node.outputs.flatMap((output) => output.links ?? [])
        .map((id) => app.graph.getNodeById(app.graph.links.get(id).target_id));
    const shown = [node, ...targets.filter((target) => previews.includes(target.type))];
    const boxes = shown.map(({ boundingRect: [x, y, w, h] }) => [x, y, x + w, y + h]);
    const low = [0, 1].map((k) => Math.min(...boxes.map((box) => box[k])));
    const high = [2, 3].map((k) => Math.max(...boxes.map((box) => box[k])));
    const { ds } = app.canvas;
    ds.scale = Math.min(1, width / (high[0] - low[0]), height / (high[1] - low[1]));
    ds.offset[0] = left / ds.scale - low[0];
    ds.offset[1] = top / ds.scale - low[1];
    app.canvas.setDirty(true, true);
    return shown.map(({ id }) => id);
}"""
"""Move the first node of a kind and the previews of its outputs into a rectangle of the page."""

UNION = """(ids) => {
    const boxes = ids.map((id) =>
        document.querySelector(`[data-node-id="${id}"]`).getBoundingClientRect());
    const [x, y] = [Math.min(...boxes.map((b) => b.left)), Math.min(...boxes.map((b) => b.top))];
    const width = Math.max(...boxes.map((b) => b.right)) - x;
    return { x, y, width, height: Math.max(...boxes.map((b) => b.bottom)) - y };
}"""
"""The smallest box of the page around nodes."""

LOADED = """() => {
    const images = [...document.querySelectorAll('[data-node-id] img')];
    return images.every((image) => image.complete);
}"""
"""Whether the images in all nodes, core's too, are loaded."""


def main() -> None:
    """Run the workflows, and write the images into web/docs/images/."""
    options = parse_arguments(
        __doc__,
        names={"nargs": "*", "help": "nodes; all by default"},
        frontend={"type": Path, "help": "folder of another frontend"},
    )
    known = {*ALONE, *chain.from_iterable(IN_WORKFLOWS.values())}
    require_known(options.names, known)
    names = set(options.names) or known
    with opened_tab(options.frontend, *VIEWPORT) as tab:
        for kind in names.intersection(ALONE):
            tab.page.evaluate(PLACE_ALONE, kind)
            _save(tab, kind)
        for workflow, kinds in IN_WORKFLOWS.items():
            if not names.intersection(kinds):
                continue
            run_workflow(tab, workflow)
            for kind in names.intersection(kinds):
                _save(tab, kind)


def _save(tab: Tab, kind: str) -> None:
    """Save the picture of the first node of a kind and of the previews of its outputs."""
    room = [VIEWPORT[0] - 2 * BARS, VIEWPORT[1] - 2 * BARS]
    shown = tab.page.evaluate(FRAME, [kind, BARS, BARS, *room])
    tab.page.wait_for_timeout(1000)  # nodes outside the viewport are drawn later
    tab.page.wait_for_function(LOADED)
    box = tab.page.evaluate(UNION, shown)
    image = tab.clipped_screenshot(box, MARGIN)
    image.thumbnail(LARGEST, Image.Resampling.LANCZOS)
    file = FOLDER / f"{kind}.jpg"
    image.save(file, quality=QUALITY, optimize=True)
    print(file.relative_to(ROOT), flush=True)
