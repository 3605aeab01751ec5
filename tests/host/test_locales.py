"""locales/ is up to date and complete, and the server sends it to the browser."""

from __future__ import annotations

import json

import pytest
from kosmos_dreambooth.dev.demo.server_client import Client
from kosmos_dreambooth.dev.demo.write_locales import FOLDER, files, read_terms

LANGUAGES = ("en", "de", "es", "fr", "ja", "ko", "ru", "zh")


def test_the_files_are_up_to_date(client: Client) -> None:
    written = files(client.nodes(), read_terms())
    assert {path.parent.name for path in written} == set(LANGUAGES)
    for path, content in written.items():
        assert path.read_text(encoding="utf-8") == content, f"{path}: run `make locales`"


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_term_is_translated_once(language: str) -> None:
    table = (FOLDER / "terms.csv").read_text(encoding="utf-8").splitlines()
    english = [line.split(",")[0] for line in table]
    assert len(set(english)) == len(english)
    assert all(term.strip() == term != "" for term in read_terms()[language].values())


def test_the_server_sends_them_to_the_browser(client: Client) -> None:
    sent = client.get("/i18n")
    for language in LANGUAGES:
        nodes = json.loads((FOLDER / language / "nodeDefs.json").read_text(encoding="utf-8"))
        assert sent[language]["nodeDefs"].items() >= nodes.items()
    assert sent["de"]["nodeDefs"]["GroundedCaption"]["inputs"]["image"]["name"] == "Bild"
    assert sent["ja"]["nodeCategories"]["generate"] == "生成"
