"""Write the nodes' translations for ComfyUI's frontend: `locales/<language>/`.

English texts are the schemas'. The other languages have names of nodes, inputs, outputs and
categories from `locales/terms.csv`; untranslated texts are shown in English.
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
ENGLISH = "en"
Schemas = dict[str, dict[str, Any]]
Terms = dict[str, dict[str, str]]


def main() -> None:
    """Write all files, from the schemas of a temporary server."""
    with tempfile.TemporaryDirectory() as base, ComfyUI(Path(base)) as server:
        schemas = Client(server.address).nodes()
    for file, content in files(schemas, read_terms()).items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")


def read_terms() -> Terms:
    """Return language -> English name -> its translation."""
    with (FOLDER / "terms.csv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    return {language: {row[ENGLISH]: row[language] for row in rows} for language in rows[0] if rows}


def files(schemas: Schemas, terms: Terms) -> dict[Path, str]:
    """Return the text of each file, from `/object_info` and the terms.

    Raises KeyError for names without a term.
    """
    ours = {
        name: node for name, node in schemas.items() if node["python_module"].endswith(PACK_NAME)
    }
    missing = {name for node in ours.values() for name in _names(node)} - set(terms[ENGLISH])
    if missing:
        raise KeyError(f"locales/terms.csv lacks {', '.join(sorted(missing))}")
    texts = {}
    for language, names in terms.items():
        nodes = {name: _node(node, names, language == ENGLISH) for name, node in ours.items()}
        parts = dict.fromkeys(part for node in ours.values() for part in _categories(node))
        categories = {"nodeCategories": {part: names[part] for part in parts}}
        texts[FOLDER / language / "nodeDefs.json"] = _json(nodes)
        texts[FOLDER / language / "main.json"] = _json(categories)
    return texts


def _node(node: dict[str, Any], terms: dict[str, str], is_english: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"display_name": terms[node["display_name"]]}
    if is_english:
        entry["description"] = _literal(node["description"])
    entry["inputs"] = {
        name: _named(terms[name], options.get("tooltip"), is_english)
        for name, options in _inputs(node)
    }
    outputs = zip(node["output_name"], node["output_tooltips"], strict=True)
    entry["outputs"] = {
        str(k): _named(terms[name], tooltip, is_english)
        for k, (name, tooltip) in enumerate(outputs)
    }
    return entry


def _inputs(node: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for section in ("required", "optional"):
        for name in node["input_order"].get(section, []):
            yield name, node["input"][section][name][1]


def _names(node: dict[str, Any]) -> list[str]:
    inputs = [name for name, _ in _inputs(node)]
    return [node["display_name"], *_categories(node), *inputs, *node["output_name"]]


def _named(name: str, tooltip: str | None, is_english: bool) -> dict[str, str]:
    return {"name": name, "tooltip": _literal(tooltip or "")} if is_english else {"name": name}


def _categories(node: dict[str, Any]) -> list[str]:
    return str(node["category"]).split("/")


def _literal(text: str) -> str:
    """Escape placeholders, links and plurals of vue-i18n."""
    return re.sub(r"[{}@|%]", lambda match: f"{{'{match[0]}'}}", text)


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
