"""Caption files: text, JSON and COCO, and no unwanted overwriting."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kosmos_dreambooth.kosmos.files.caption_files import (
    caption_file_contents,
    caption_file_paths,
    lacks_caption,
    read_caption,
    read_grounded,
    write_files,
)
from kosmos_dreambooth.kosmos.files.coco import (
    CaptionedImage,
    category_name,
    coco_captions,
    coco_instances,
)
from kosmos_dreambooth.kosmos.files.grounding_json import grounded_text_from_json
from kosmos_dreambooth.kosmos.grounding import Box, GroundedText, Phrase
from kosmos_dreambooth.shared.errors import UserError

GROUNDED = GroundedText(
    "a Hündchen and two cats",
    (
        Phrase("a Hündchen", 0, 10, (Box(0.25, 0.5, 0.5, 1.0),)),
        Phrase("two cats", 15, 23, (Box(0.0, 0.0, 0.5, 0.5), Box(0.5, 0.0, 1.0, 0.5))),
    ),
)


def test_an_image_gets_text_and_json(tmp_path: Path) -> None:
    image_file = tmp_path / "dog.1.png"
    write_files(
        caption_file_contents(
            image_file, CaptionedImage(image_file.name, 200, 100, GROUNDED), "txt and json"
        ),
        overwrite=False,
    )
    assert (tmp_path / "dog.1.txt").read_text(encoding="utf-8") == "a Hündchen and two cats\n"
    data = json.loads((tmp_path / "dog.1.json").read_text(encoding="utf-8"))
    assert data["phrases"][0] == {
        "text": "a Hündchen",
        "start": 0,
        "end": 10,
        "boxes": [[0.25, 0.5, 0.5, 1.0]],
    }
    assert read_caption(image_file) == GROUNDED.caption
    (tmp_path / "dog.1.txt").unlink()
    assert read_caption(image_file) == GROUNDED.caption
    assert read_caption(tmp_path / "cat.png") is None


def entry(image_file: Path) -> CaptionedImage:
    return CaptionedImage(image_file.name, 200, 100, GROUNDED)


def test_images_of_one_stem_have_their_own_caption_files(tmp_path: Path) -> None:
    first, second = tmp_path / "a.png", tmp_path / "a.jpg"
    files = caption_file_contents(first, entry(first), "txt and json")
    own = caption_file_contents(second, entry(second), "txt and json", files)
    assert {path.name for path in own} == {"a.jpg.txt", "a.jpg.json"}
    write_files(files | dict.fromkeys(own, "the second"), overwrite=False)
    assert read_caption(first) == GROUNDED.caption
    assert read_caption(second) == "the second"


def test_a_json_of_another_program_is_reported_and_kept(tmp_path: Path) -> None:
    image_file, foreign = tmp_path / "a.png", tmp_path / "a.json"
    foreign.write_text('{"shapes": []}')
    problems: list[str] = []
    assert read_grounded(image_file, problems.append) is None
    [problem] = problems
    assert problem.startswith(f"{foreign} is not a caption")
    write_files(caption_file_contents(image_file, entry(image_file), "json"), overwrite=False)
    assert foreign.read_text() == '{"shapes": []}'
    assert read_grounded(image_file) == GROUNDED


@pytest.mark.parametrize("value", ["1e999", "NaN", "9" * 400, "[" * 10**5, '"\\ud800"', "null"])
def test_invalid_values_in_a_json_are_reported(tmp_path: Path, value: str) -> None:
    for name in ("caption", "text", "start", "boxes"):
        phrase = {"text": '"a"', "start": "0", "end": "1", "boxes": "[[0, 0, 1, 1]]"}
        phrase |= {name: f"[[0, 0, 1, {value}]]" if name == "boxes" else value}
        caption = phrase.pop("caption", '"a dog"')
        fields = ", ".join(f'"{key}": {text}' for key, text in phrase.items())
        text = f'{{"caption": {caption}, "phrases": [{{{fields}}}]}}'
        if value != "null" or name in ("start", "boxes"):
            with pytest.raises(UserError, match="is not a caption"):
                grounded_text_from_json(text, "a.json")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_boxes_stay_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    image_file = tmp_path / "a.png"
    files = caption_file_contents(image_file, entry(image_file), "txt and json")
    for path, text in files.items():
        path.write_text(text, encoding=encoding)
    problems: list[str] = []
    assert read_grounded(image_file, problems.append) == GROUNDED
    assert not problems


def test_an_empty_caption_is_none(tmp_path: Path) -> None:
    image_file = tmp_path / "a.png"
    (tmp_path / "a.txt").write_text(" \n")
    assert read_caption(image_file) is None
    empty = CaptionedImage("a.png", 1, 1, GroundedText(""))
    write_files(caption_file_contents(image_file, empty, "json"), overwrite=False)
    assert read_caption(image_file) is None
    assert all(lacks_caption(path) for path in caption_file_paths(image_file, "txt and json"))


def test_existing_files_are_overwritten_only_on_request(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("mine")
    files = {tmp_path / "a.txt": "new", tmp_path / "b.txt": "new"}
    with pytest.raises(UserError, match=r"^b\.txt would be overwritten"):
        write_files(files, overwrite=False)
    assert not (tmp_path / "a.txt").exists()
    write_files(files, overwrite=True)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"new"}


def test_a_set_is_saved_as_two_coco_files() -> None:
    images = [
        CaptionedImage("x.png", 200, 100, GROUNDED),
        CaptionedImage("y.png", 10, 10, GroundedText("the sea")),
    ]
    boxes, texts = coco_instances(images), coco_captions(images)
    assert [c["name"] for c in boxes["categories"]] == ["cats", "hündchen"]
    first = boxes["annotations"][0]
    assert first["bbox"] == [50, 50, 50, 50]
    assert first["area"] == 2500
    assert (first["image_id"], first["category_id"], first["phrase"]) == (1, 2, "a Hündchen")
    assert [a["caption"] for a in texts["annotations"]] == [GROUNDED.caption, "the sea"]
    assert texts["images"] == boxes["images"]
    ids = [a["id"] for a in boxes["annotations"]]
    assert len(ids) == len(set(ids)) == 3


@pytest.mark.parametrize(
    ("phrase", "name"),
    [("A red dog", "red dog"), ("two cats", "cats"), ("anemone", "anemone"), ("the", "the")],
)
def test_categories_have_no_article(phrase: str, name: str) -> None:
    assert category_name(phrase) == name


@pytest.mark.parametrize(
    "content",
    [
        '{"caption": null, "phrases": []}',
        '{"caption": ["a dog"], "phrases": []}',
        '{"caption": "a dog", "phrases": [{"text": "a", "start": 0, "end": 1e999, "boxes": []}]}',
        '{"caption": "a dog", "phrases": [{"text": "a", "start": -1, "end": 1, "boxes": []}]}',
        '{"caption": "a dog", "phrases": [{"text": "a", "start": 0, "end": 9, "boxes": []}]}',
        *(
            '{"caption": "a dog", "phrases": [{"text": "a dog", "start": 0, "end": 5, '
            f'"boxes": [{box}]}}]}}'
            for box in ("[NaN, 0, 1, 1]", "[10, 20, 300, 400]", f"[0, 0, 1, 1{'0' * 400}]")
        ),
    ],
)
def test_other_json_with_a_caption_and_phrases_is_reported(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    problems: list[str] = []
    assert read_grounded(tmp_path / "a.png", problems.append) is None
    assert "is not a caption" in problems[0]
    assert not lacks_caption(tmp_path / "a.json")


def test_an_image_with_the_longest_name_has_no_caption_yet(tmp_path: Path) -> None:
    image_file = tmp_path / f"{'a' * 251}.png"
    image_file.touch()
    assert read_caption(image_file) is None
    write_files(caption_file_contents(image_file, entry(image_file), "txt"), overwrite=False)
    assert read_caption(image_file) == GROUNDED.caption


def test_lone_surrogates_are_written_as_replacement_characters(tmp_path: Path) -> None:
    image = CaptionedImage("a.png", 4, 4, GroundedText("a \ud800 dog"))
    write_files(caption_file_contents(tmp_path / "a.png", image, "txt and json"), overwrite=False)
    assert read_caption(tmp_path / "a.png") == "a \ufffd dog"
