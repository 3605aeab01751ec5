"""locales/ is up to date and complete, and the server sends it to the browser."""

from __future__ import annotations

import csv
import json
import re
import urllib.request

import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import PACK_NAME, ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client
from kosmos_dreambooth.dev.demo.write_locales import FOLDER, files, read_table, translatable

LANGUAGES = ("en", "de", "es", "fr", "ja", "ko", "ru", "zh")


def test_the_files_are_up_to_date(client: Client) -> None:
    written = files(client.nodes(), read_table("terms"), read_table("tooltips"))
    assert {path.parent.name for path in written if path.suffix == ".json"} == set(LANGUAGES)
    for path, content in written.items():
        assert path.read_text(encoding="utf-8") == content, f"{path}: run `make locales`"


@pytest.mark.parametrize("table", ["terms", "tooltips"])
def test_each_text_has_one_row_with_all_languages(table: str) -> None:
    with (FOLDER / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert set(header) == set(LANGUAGES)
    english = [row[0] for row in rows]
    assert len(set(english)) == len(english)
    for row in rows:
        assert len(row) == len(header), row
        assert all(text.strip() == text != "" for text in row), row


def test_a_translation_keeps_placeholders_and_names_of_files() -> None:
    for texts in read_table("tooltips").values():
        for english, translated in texts.items():
            for code in re.findall(r"\{\w+\}|<\w+>|\w+_\w+|(?:models|output)/[\w/]*\w", english):
                assert code in translated, (code, translated)


def test_the_server_sends_them_to_the_browser(client: Client) -> None:
    sent = client.get("/i18n")
    for language in LANGUAGES:
        nodes = json.loads((FOLDER / language / "nodeDefs.json").read_text(encoding="utf-8"))
        assert sent[language]["nodeDefs"].items() >= nodes.items()
    assert sent["de"]["nodeDefs"]["GroundedCaption"]["inputs"]["image"]["name"] == "Bild"
    assert sent["ja"]["nodeCategories"]["generate"] == "生成"


def test_each_tooltip_is_translated_and_each_translation_used(client: Client) -> None:
    assert set(read_table("tooltips")["en"]) == translatable(client.nodes())


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_help_page_is_where_the_frontend_looks_first(server: ComfyUI, language: str) -> None:
    names = json.loads((FOLDER / language / "nodeDefs.json").read_text(encoding="utf-8"))
    for node, texts in names.items():
        address = f"{server.address}/extensions/{PACK_NAME}/docs/{node}/{language}.md"
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.read().decode().startswith(f"# {texts['display_name']}\n")
