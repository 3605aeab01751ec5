"""Write the nodes' translations for ComfyUI's frontend: `locales/<language>/`.

English texts are those of the schemas. The other languages have names of nodes, inputs, outputs and
categories from `locales/terms.csv`, descriptions and tooltips from `locales/tooltips.csv`. Help
pages are `web/docs/<Node>/<language>.md`, where the frontend looks first: the English page, or its
translated first paragraph and tables, and the rest in English.
"""

from __future__ import annotations

import csv
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .comfyui_server import PACK_NAME, ROOT, ComfyUI
from .server_client import Client

FOLDER = ROOT / "locales"
PAGES = ROOT / "web" / "docs"
ENGLISH = "en"
HEADINGS = (
    "Inputs",
    "Outputs",
    "What it does",
    "What it is",
    "The rest of this page is in English.",
)
"""Texts of the help pages that `locales/tooltips.csv` has too."""
Schemas = dict[str, dict[str, Any]]
Terms = dict[str, dict[str, str]]


def main() -> None:
    """Write all files, from the schemas of a temporary server."""
    with tempfile.TemporaryDirectory() as base, ComfyUI(Path(base)) as server:
        schemas = Client(server.address).nodes()
    for file, content in files(schemas, read_table("terms"), read_table("tooltips")).items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")


def read_table(name: str) -> Terms:
    """Return language -> English text -> its translation, of `locales/<name>.csv`."""
    with (FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    return {language: {row[ENGLISH]: row[language] for row in rows} for language in rows[0] if rows}


def files(schemas: Schemas, terms: Terms, tooltips: Terms) -> dict[Path, str]:
    """Return the text of each file, from `/object_info` and the two tables.

    Raises KeyError for names and texts that a table lacks.
    """
    ours = _ours(schemas)
    names = {name for node in ours.values() for name in _names(node)}
    for table, needed, rows in (
        ("terms", names, terms),
        ("tooltips", translatable(schemas), tooltips),
    ):
        if missing := needed - set(rows[ENGLISH]):
            raise KeyError(f"locales/{table}.csv lacks {'; '.join(sorted(missing))}")
    texts = {}
    for language, translated in tooltips.items():
        nodes = {name: _node(node, terms[language], translated) for name, node in ours.items()}
        parts = dict.fromkeys(part for node in ours.values() for part in _categories(node))
        categories = {"nodeCategories": {part: terms[language][part] for part in parts}}
        texts[FOLDER / language / "nodeDefs.json"] = _json(_escaped(nodes))
        texts[FOLDER / language / "main.json"] = _json(categories)
        for name, node in nodes.items():
            page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
            texts[PAGES / name / f"{language}.md"] = (
                page if language == ENGLISH else _translated(page, node, translated)
            )
    return texts


def translatable(schemas: Schemas) -> set[str]:
    """Return the texts that `locales/tooltips.csv` translates."""
    texts = set(HEADINGS)
    for node in _ours(schemas).values():
        tooltips = [options["tooltip"] for _, options in _inputs(node)]
        texts |= {node["description"], *tooltips, *node["output_tooltips"]}
    return texts


def _ours(schemas: Schemas) -> Schemas:
    return {
        name: node for name, node in schemas.items() if node["python_module"].endswith(PACK_NAME)
    }


def _node(node: dict[str, Any], terms: dict[str, str], tooltips: dict[str, str]) -> dict[str, Any]:
    def named(name: str, tooltip: str) -> dict[str, str]:
        return {"name": terms[name], "tooltip": tooltips[tooltip]}

    outputs = zip(node["output_name"], node["output_tooltips"], strict=True)
    return {
        "display_name": terms[node["display_name"]],
        "description": tooltips[node["description"]],
        "inputs": {name: named(name, options["tooltip"]) for name, options in _inputs(node)},
        "outputs": {str(k): named(*output) for k, output in enumerate(outputs)},
    }


def _translated(page: str, node: dict[str, Any], texts: dict[str, str]) -> str:
    """An English help page with its title, first paragraph and tables in another language."""
    _, _, *blocks = page.split("\n\n")
    sections = re.split(r"^(?=## )", "\n\n".join(blocks), flags=re.MULTILINE)
    rest = [part.strip() for part in sections if not part.startswith(("## Inputs", "## Outputs"))]
    parts = [f"# {node['display_name']}", node["description"]]
    for kind, question in (("Inputs", "What it does"), ("Outputs", "What it is")):
        heading, answer = texts[kind], texts[question]
        rows = [f"| **{row['name']}** | {row['tooltip']} |" for row in node[kind.lower()].values()]
        if rows:
            parts.append("\n".join([f"## {heading}", "", f"| | {answer} |", "|---|---|", *rows]))
    return "\n\n".join([*parts, f"*{texts[HEADINGS[-1]]}*", *rest]) + "\n"


def _inputs(node: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for section in ("required", "optional"):
        for name in node["input_order"].get(section, []):
            yield name, node["input"][section][name][1]


def _names(node: dict[str, Any]) -> list[str]:
    inputs = [name for name, _ in _inputs(node)]
    return [node["display_name"], *_categories(node), *inputs, *node["output_name"]]


def _categories(node: dict[str, Any]) -> list[str]:
    return str(node["category"]).split("/")


def _escaped(content: Any) -> Any:
    """Texts with the placeholders, links and plurals of vue-i18n escaped."""
    if isinstance(content, dict):
        return {key: _escaped(value) for key, value in content.items()}
    return re.sub(r"[{}@|%]", lambda match: f"{{'{match[0]}'}}", content)


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
