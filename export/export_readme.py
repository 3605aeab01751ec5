"""The README of an export: its graphs, their errors, and a program that runs them."""

from __future__ import annotations

from pathlib import Path
from string import Template

from ..shared.atomic_files import write_text
from .export_folder import Manifest
from .export_formats import EXPORT_FORMATS

HOW_TO = Path(__file__).parent / "how_to"


def write_readme(manifest: Manifest, folder: Path) -> None:
    """Write README.md into the folder of an export."""
    how_to = HOW_TO / f"{manifest.kind}_{manifest.format}.md"
    rows = [
        f"| {part['file']} | {part['bytes'] / 1e6:.1f} MB | {_shapes(part['inputs'])} | "
        f"{_error(part['difference'])} |"
        for part in manifest.parts
    ]
    program = (HOW_TO / "caption_image.txt").read_text(encoding="utf-8")
    text = Template(how_to.read_text(encoding="utf-8")).substitute(
        name=manifest.made_from,
        precision=manifest.precision,
        packages=" ".join(
            f"{package}=={version}" for package, version in manifest.made_with.items()
        ),
        program=program.rstrip(),
        parts="\n".join(["| graph | size | inputs | relative error |", "|---|---|---|---|", *rows]),
    )
    write_text(folder / "README.md", text)


def export_summary(manifest: Manifest) -> str:
    """Return a summary of an export for the user: sizes, seconds and errors."""
    lines = [
        f"{manifest.made_from} as {EXPORT_FORMATS[manifest.format].title}, {manifest.precision}: "
        f"{sum(part['bytes'] for part in manifest.parts) / 1e6:.1f} MB for "
        f"{manifest.parameters / 1e6:.1f} million weights "
        f"({4 * manifest.parameters / 1e6:.1f} MB in fp32)",
        *(
            f"{part['file']}: {part['bytes'] / 1e6:.1f} MB, {part['seconds']:.0f} s, "
            f"relative error: {_error(part['difference'])}"
            for part in manifest.parts
        ),
    ]
    if "same_captions" in manifest.compared:
        lines.append(
            f"{manifest.compared['same_captions']} of {manifest.compared['pictures']} captions "
            "have exactly the tokens of PyTorch"
        )
    return "\n".join(lines)


def _error(difference: float | None) -> str:
    return "not run on this machine" if difference is None else f"{difference:.1e}"


def _shapes(inputs: dict[str, list[object]]) -> str:
    """Return the inputs with their shapes; of the many cache inputs only the first."""
    shapes = {name: shape for name, shape in inputs.items() if not name.startswith("past_")}
    first = next((name for name in inputs if name.startswith("past_")), None)
    if first is not None:
        shapes[f"{first} ..."] = inputs[first]
    return ", ".join(f"{name} [{','.join(map(str, shape))}]" for name, shape in shapes.items())
