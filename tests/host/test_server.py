"""The pack on a ComfyUI server: its nodes, help pages and templates; an error ends one prompt."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

import pytest
from kosmos_dreambooth.dev.demo.comfyui_server import PACK_NAME, ROOT, ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client

from .conftest import Graph, run_in_comfyui

NODES = tuple(json.loads(Path(__file__).with_name("promises.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def known(client: Client) -> dict:
    return client.nodes()


@pytest.mark.parametrize("node", NODES)
def test_the_node_comes_from_this_pack_and_not_from_core(known: dict, node: str) -> None:
    # ComfyUI keeps its own node when a pack brings one of the same id.
    assert known[node]["python_module"] == f"custom_nodes.{PACK_NAME}"
    assert known[node]["category"].startswith("Kosmos DreamBooth/")


def test_the_pack_registers_no_other_nodes(known: dict) -> None:
    ours = {name for name, info in known.items() if info["python_module"].endswith(PACK_NAME)}
    assert ours == set(NODES)


@pytest.mark.parametrize("node", NODES)
def test_the_node_has_a_description_and_tooltips(known: dict, node: str) -> None:
    assert len(known[node]["description"]) > 20
    for kind in ("required", "optional"):
        for name, (_, options) in known[node]["input"].get(kind, {}).items():
            assert options.get("tooltip"), f"{node}.{name}"
    assert all(known[node]["output_tooltips"]), known[node]["output_name"]
    assert not set(known[node]["output_name"]) & set(known[node]["output"])


@pytest.mark.parametrize("node", NODES)
def test_the_help_page_names_all_inputs_and_outputs_and_has_an_image(
    server: ComfyUI, known: dict, node: str
) -> None:
    docs = f"{server.address}/extensions/{PACK_NAME}/docs"
    with urllib.request.urlopen(f"{docs}/{node}.md", timeout=10) as answer:
        page = answer.read().decode("utf-8")
    assert page.startswith("# ")
    assert "\n## What it costs\n" in page
    order = known[node]["input_order"]
    inputs = {name for kind, names in order.items() if kind != "hidden" for name in names}
    assert inputs | set(known[node]["output_name"]) <= set(re.findall(r"\w+", page))
    [picture] = re.findall(r"!\[.+\]\((images/.+\.jpg)\)", page)
    with urllib.request.urlopen(f"{docs}/{picture}", timeout=10) as answer:
        assert answer.headers["Content-Type"] == "image/jpeg"


def test_a_new_comfyui_finds_nodes_by_aliases_and_hides_advanced_inputs(known: dict) -> None:
    if "search_aliases" not in known["KSampler"]:
        pytest.skip("this ComfyUI has neither")
    aliases = {name: set(known[name]["search_aliases"]) for name in NODES}
    assert all(len(words) >= 3 for words in aliases.values())
    for word in ("florence", "caption", "grounding", "segment", "lora training", "dreambooth"):
        assert any(word in words for words in aliases.values()), word
    for word in ("textual inversion", "cfg", "clip score", "onnx"):
        assert any(word in words for words in aliases.values()), word
    assert sum(bool(known[name].get("essentials_category")) for name in NODES) == 5
    shown = {
        name: sum(
            not options.get("advanced")
            for section in ("required", "optional")
            for _, options in known[name]["input"].get(section, {}).values()
        )
        for name in NODES
    }
    assert max(shown.values()) <= 13, shown


def test_the_workflows_are_in_the_template_browser(client: Client) -> None:
    templates = client.get("/workflow_templates")
    saved = {path.stem for path in (ROOT / "workflows").glob("*.json")}
    assert set(templates[PACK_NAME]) == saved
    assert {"personalize_and_caption", "vision_alignment"} <= saved


def test_a_failing_node_gives_one_sentence_and_the_server_goes_on(
    server: ComfyUI, client: Client
) -> None:
    (server.base / "models" / "kosmos" / "unfinished").mkdir(parents=True)
    (server.base / "models" / "kosmos" / "unfinished" / "config.json").write_text("{}")
    graph = (
        Graph()
        .add("load", "LoadKosmos", model="unfinished")
        .add("image", "EmptyImage", width=64, height=64)
        .add("caption", "GroundedCaption", kosmos=["load", 0], image=["image", 0])
        .add("show", "PreviewImage", images=["caption", 2])
    )
    assert graph.failure(client, "load")
    Graph(image=graph["image"]).add("show", "PreviewImage", images=["image", 0]).outputs(client)


@pytest.mark.parametrize("templates", ["\ud800", "\x1b[2J\u202e" + "x" * 5000])
def test_a_text_that_no_console_can_show_ends_one_prompt(client: Client, templates: str) -> None:
    graph = Graph().add("image", "EmptyImage", width=64, height=64)
    show = graph | Graph().add("show", "PreviewImage", images=["image", 0])
    graph.add("subject", "SubjectDataset", image=["image", 0], templates=templates)
    graph.add("report", "PreviewAny", source=["subject", 3])
    sentence = graph.failure(client, "subject")
    assert sentence.isprintable()
    assert len(sentence) < 300
    Graph(show).outputs(client)


CONSOLE = """
    import asyncio, io, logging, sys
    import app.logger
    real, out, console = sys.stdout, io.BytesIO(), io.BytesIO()
    sys.stdout = first = io.TextIOWrapper(out, encoding="cp1252")
    sys.stderr = second = io.TextIOWrapper(console, encoding="cp1252")
    app.logger.setup_logger()
    asyncio.run(as_package.load("nodes").KosmosDreamBooth().get_node_list())
    try:
        raise ValueError("\\u732b \\ud800")
    except ValueError as error:
        logging.exception(f"failed: {error}")
    sys.stderr.flush()
    print(json.dumps(console.getvalue().decode("cp1252")), file=real)
"""


def test_a_windows_console_shows_messages_in_any_language() -> None:
    log = run_in_comfyui(CONSOLE)
    assert "failed: \\u732b \\ud800" in log
    assert "Logging error" not in log
