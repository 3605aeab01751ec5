"""What ComfyUI's browser shows of the nodes in each language: `locales/<language>/`.

English is the schemas themselves. The other languages have names of nodes, inputs, outputs and
categories, each looked up in `locales/terms.csv`; what has no translation is shown in English.
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
    """Write all files anew, from the schemas that a server of its own shows."""
    with tempfile.TemporaryDirectory() as base, ComfyUI(Path(base)) as server:
        known = Client(server.address).nodes()
    for file, content in files(known, read_terms()).items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")


def read_terms() -> Terms:
    """Return language -> English name -> its translation."""
    with (FOLDER / "terms.csv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    return {language: {row[ENGLISH]: row[language] for row in rows} for language in rows[0] if rows}


def files(known: Schemas, terms: Terms) -> dict[Path, str]:
    """Return the text of each file, made of `/object_info` and the terms.

    Raises KeyError with the names that there are no terms for.
    """
    ours = {name: node for name, node in known.items() if node["python_module"].endswith(PACK_NAME)}
    missing = {name for node in ours.values() for name in _names(node)} - set(terms[ENGLISH])
    if missing:
        raise KeyError(f"locales/terms.csv lacks {', '.join(sorted(missing))}")
    written = {}
    for language, words in terms.items():
        nodes = {name: _node(node, words, language == ENGLISH) for name, node in ours.items()}
        parts = dict.fromkeys(part for node in ours.values() for part in _categories(node))
        categories = {"nodeCategories": {part: words[part] for part in parts}}
        written[FOLDER / language / "nodeDefs.json"] = _json(nodes)
        written[FOLDER / language / "main.json"] = _json(categories)
    return written


def _node(node: dict[str, Any], words: dict[str, str], is_english: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"display_name": words[node["display_name"]]}
    if is_english:
        told["description"] = _literal(node["description"])
    told["inputs"] = {
        name: _named(words[name], options.get("tooltip"), is_english)
        for name, options in _inputs(node)
    }
    outputs = zip(node["output_name"], node["output_tooltips"], strict=True)
    told["outputs"] = {
        str(k): _named(words[name], tooltip, is_english)
        for k, (name, tooltip) in enumerate(outputs)
    }
    return told


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
    """Keep a message's signs from being read as placeholders, links and plurals (vue-i18n)."""
    return re.sub(r"[{}@|%]", lambda sign: f"{{'{sign[0]}'}}", text)


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
