"""Values that no browser sends: each prompt ends in an output or in one sentence."""

from __future__ import annotations

import pytest
from kosmos_dreambooth.dev.bench.fuzz_prompts import (
    SOURCES,
    add_input,
    make_prompt,
    run_prompts,
    with_defaults,
)
from kosmos_dreambooth.dev.demo.comfyui_server import ComfyUI
from kosmos_dreambooth.dev.demo.server_client import Client, node

from .conftest import Graph, node_schemas, run_in_comfyui

COUNT = 200


def test_mutated_prompts_end_in_one_sentence(server: ComfyUI, client: Client) -> None:
    add_input(server)
    counts, defects = run_prompts(client, range(COUNT), node_schemas(client))
    assert defects == {}
    assert counts["named"] > COUNT / 5
    assert counts["succeeded"] > COUNT / 20


def test_an_input_that_a_node_does_not_have_is_named(client: Client) -> None:
    options = with_defaults(node("TrainingOptions", old=["image", 0]), node_schemas(client))
    prompt = {"image": SOURCES["image"], "target": options}
    prompt["show"] = node("PreviewAny", source=["target", 0])
    failure = client.run(prompt).failure
    assert failure is not None
    assert failure.kind.endswith("UserError")
    assert "TrainingOptions has no input old: remove it" in failure.sentence


def test_an_optional_link_without_a_value_counts_as_absent(client: Client) -> None:
    graph = Graph().add("load", "LoadKosmos").add("image", "EmptyImage", width=64, height=64)
    inputs = {"kosmos": ["load", 0], "image": ["image", 0], "text": "a dog", "method": "likelihood"}
    graph.add("embed", "EmbedImageText", **inputs, reference=None)
    graph.add("compare", "CompareEmbeddings", rows=["embed", 1], columns=["embed", 0])
    graph.add("show", "PreviewAny", source=["compare", 2]).outputs(client)


def test_a_number_names_its_prompt(client: Client) -> None:
    schemas = node_schemas(client)
    first = [make_prompt(number, schemas) for number in range(30)]
    assert first == [make_prompt(number, schemas) for number in range(30)]
    assert len({str(prompt["target"]) for prompt in first}) > 25


MATRIX = r"""
    import asyncio, math, torch

    UserError = as_package.load("shared.errors").UserError
    check_inputs = as_package.load("nodes.checked_inputs").check_inputs
    nodes = asyncio.run(as_package.load("nodes").KosmosDreamBooth().get_node_list())
    VALUES = [
        None, "", "none", "\ud800", 1, -1, 0.5, math.nan, math.inf, 2**70, True, b"x", object(),
        [], [1], {}, {"samples": 1}, torch.zeros(1), torch.zeros(1, 0, 4, 3),
        torch.zeros(1, 4, 4, 2),
    ]
    allowed, messages, raw = {}, [], []
    for node in nodes:
        schema = node.GET_SCHEMA()
        for declared in schema.inputs:
            for value in VALUES:
                given = {declared.id: [value] if schema.is_input_list else value}
                name = f"{schema.node_id}.{declared.id}"
                try:
                    check_inputs(node, given)
                    allowed.setdefault(name, []).append(repr(value)[:20])
                except UserError as error:
                    messages.append([declared.id, str(error)])
                except Exception as error:
                    raw.append([name, repr(value), repr(error)])
    print(json.dumps({"allowed": allowed, "messages": messages, "raw": raw}))
"""


@pytest.fixture(scope="module")
def matrix() -> dict:
    return run_in_comfyui(MATRIX)


def test_every_input_names_a_value_that_it_does_not_allow(matrix: dict) -> None:
    assert matrix["raw"] == []
    assert len(matrix["messages"]) > 2000
    for name, message in matrix["messages"]:
        assert name.lower() in message.lower()
        assert any(verb in message for verb in ("give", "choose", "connect")), message


def test_every_input_refuses_values_of_other_types(matrix: dict) -> None:
    allowed = matrix["allowed"]
    assert "GroundedCaption.kosmos" not in allowed
    assert allowed["CFGSampler.guidance_options"] == ["None"]
    assert allowed["SubjectDataset.templates"] == ["''", "'none'"]
    assert set(allowed["LoadTrainingRun.step"]) == {"1"}
    assert set(allowed["GroundingCrop.padding"]) == {"1", "0.5"}
    assert "LoadKosmos.dtype" not in allowed
