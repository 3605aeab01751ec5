"""The browser's words in each language are those of the schemas, and none is missing."""

from __future__ import annotations

import json

import pytest
from kosmos_dreambooth.dev.demo.server_client import Client
from kosmos_dreambooth.dev.demo.write_locales import FOLDER, files, read_terms

LANGUAGES = ("en", "de", "es", "fr", "ja", "ko", "ru", "zh")


def test_the_files_are_what_make_locales_writes(client: Client) -> None:
    written = files(client.nodes(), read_terms())
    assert {path.parent.name for path in written} == set(LANGUAGES)
    for path, content in written.items():
        assert path.read_text(encoding="utf-8") == content, f"{path}: run `make locales`"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_term_is_translated_once(language: str) -> None:
    table = (FOLDER / "terms.csv").read_text(encoding="utf-8").splitlines()
    english = [line.split(",")[0] for line in table]
    assert len(set(english)) == len(english)
    assert all(term.strip() == term != "" for term in read_terms()[language].values())


def test_the_server_hands_them_to_the_browser(client: Client) -> None:
    told = client.get("/i18n")
    for language in LANGUAGES:
        nodes = json.loads((FOLDER / language / "nodeDefs.json").read_text(encoding="utf-8"))
        assert told[language]["nodeDefs"].items() >= nodes.items()
    assert told["de"]["nodeDefs"]["GroundedCaption"]["inputs"]["image"]["name"] == "Bild"
    assert told["ja"]["nodeCategories"]["generate"] == "生成"
