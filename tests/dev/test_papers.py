"""The commands of the papers' tables on tiny data sets in the published layouts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kosmos_dreambooth.dev.papers import (
    caption_metrics,
    flickr_captions,
    phrase_grounding,
    referring,
    region_captions,
    vqa,
)
from kosmos_dreambooth.dev.papers.answer_file import AnswerFile
from kosmos_dreambooth.dev.papers.caption_metrics import cider, tokenize_caption
from kosmos_dreambooth.dev.papers.phrase_grounding import read_phrases, recall
from kosmos_dreambooth.dev.papers.refcoco_data import read_references
from kosmos_dreambooth.dev.papers.referring import accuracy as referring_accuracy
from kosmos_dreambooth.dev.papers.result_table import mean_result
from kosmos_dreambooth.dev.papers.vqa_accuracy import accuracy, normalize_answer
from kosmos_dreambooth.dev.sandbox.scene_pool import Sample
from kosmos_dreambooth.sandbox.world.captions import noun_phrase
from kosmos_dreambooth.shared.errors import UserError

from .conftest import SIDE

SaveImages = Callable[..., Path]


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut captions into words by our tokenizer, which starts no Java."""
    monkeypatch.setattr(caption_metrics, "HAS_JAVA", False)


def run(command: object, monkeypatch: pytest.MonkeyPatch, out: Path, **options: object) -> dict:
    """Run a command's main with the sandbox's model; return its results.json."""
    arguments = ["command", "--model", "sandbox", "--device", "cpu", "--out", str(out)]
    for name, value in options.items():
        arguments += [f"--{name}", str(value)]
    monkeypatch.setattr(sys, "argv", arguments)
    command.main()  # type: ignore[attr-defined]
    assert (out / "results.md").read_text(encoding="utf-8").startswith("# ")
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


def values(results: dict) -> dict[str, float]:
    return {one["name"]: one["value"] for one in results["results"]}


def answered(tmp_path: Path, **texts: str) -> AnswerFile:
    answers = AnswerFile(tmp_path / "known.jsonl", {})
    answers.add(texts)
    return answers


def write_entities(folder: Path, samples: list[Sample]) -> None:
    """Flickr30k Entities with the true boxes of the things in the scenes."""
    for name in ("Sentences", "Annotations"):
        (folder / name).mkdir(parents=True)
    (folder / "test.txt").write_text("1\n2\n")
    for image, sample in enumerate(samples, 1):
        things, objects = [], []
        for k, (thing, box) in enumerate(zip(sample.scene.things, sample.boxes, strict=True)):
            things.append(f"[/EN#{k}/animals/other {noun_phrase(thing)}]")
            edges = [f"<{n}>{SIDE * e:.0f}</{n}>" for n, e in zip(XYXY, box, strict=True)]
            objects.append(f"<object><name>{k}</name><bndbox>{''.join(edges)}</bndbox></object>")
        objects.append("<object><name>9</name><scene>1</scene><nobndbox>0</nobndbox></object>")
        sentence = f"An image of {' and '.join(things)} in [/EN#9/scene the picture] .\n"
        (folder / "Sentences" / f"{image}.txt").write_text(sentence)
        size = f"<size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size>"
        (folder / "Annotations" / f"{image}.xml").write_text(
            f"<annotation>{size}{''.join(objects)}</annotation>"
        )


XYXY = ("xmin", "ymin", "xmax", "ymax")


def test_phrase_grounding(
    samples: list[Sample],
    save_images: SaveImages,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_entities(tmp_path / "entities", samples)
    images = save_images("flickr30k-images", "1.jpg", "2.jpg")
    options = {"data": tmp_path / "entities", "images": images}
    results = run(phrase_grounding, monkeypatch, tmp_path / "out", **options)
    phrases = sum(len(sample.scene.things) for sample in samples)
    assert results["results"][0]["count"] == phrases
    assert results["results"][0]["published"] == 78.7
    assert values(results)["R@1, test"] >= 50  # of the sandbox
    assert values(results)["R@1, test: animals"] >= 50

    answers = tmp_path / "out" / "answers.jsonl"
    complete = answers.read_bytes()
    answers.write_bytes(complete[:-10])  # interrupted while it wrote
    (images / "1.jpg").write_bytes(b"")
    again = run(phrase_grounding, monkeypatch, tmp_path / "out", **options)
    assert answers.read_bytes() == complete
    assert again["results"] == results["results"]

    with pytest.raises(UserError, match="other settings"):
        run(phrase_grounding, monkeypatch, tmp_path / "out", dtype="bfloat16", **options)
    for model in ("nowhere", str(tmp_path)):
        with pytest.raises(UserError, match="model"):
            run(phrase_grounding, monkeypatch, tmp_path / "none", model=model, **options)
    part = run(phrase_grounding, monkeypatch, tmp_path / "part", limit=1, **options)
    assert part["results"][0]["count"] == 0
    assert "1.jpg" in part["notes"][0]


def test_recall_of_known_boxes(samples: list[Sample], tmp_path: Path) -> None:
    write_entities(tmp_path, samples)
    examples = list(read_phrases(tmp_path, "test"))
    assert [one.phrase for one in examples] == [
        noun_phrase(thing) for sample in samples for thing in sample.scene.things
    ]
    assert examples[0].before == "An image of"
    assert examples[0].types == ("animals", "other")
    from kosmos_dreambooth.kosmos.grounding import Box, GroundedText, Phrase, serialize

    def text(*boxes: Box) -> str:
        return serialize(GroundedText("it", (Phrase("it", 0, 2, boxes),)))

    wrong = Box(0.0, 0.0, 1 / 32, 1 / 32)
    texts = [text(one.boxes[0]) for one in examples]
    texts[0] = text(wrong, examples[0].boxes[0])  # found second
    known = dict(zip([one.key for one in examples], texts, strict=True))
    share = 100 * (len(examples) - 1) / len(examples)
    at_1, at_5, *_ = recall(examples, answered(tmp_path, **known), "test")
    assert at_1.value == pytest.approx(share)
    assert at_5.value == 100
    assert at_1.low <= at_1.value <= at_1.high


def write_refcoco(folder: Path, samples: list[Sample], names: list[str]) -> None:
    folder.mkdir()
    images, annotations, refs = [], [], []
    for k, (sample, name) in enumerate(zip(samples, names, strict=True)):
        images.append({"id": k, "file_name": name, "width": SIDE, "height": SIDE})
        for thing, (x0, y0, x1, y1) in zip(sample.scene.things, sample.boxes, strict=True):
            number = len(annotations)
            bbox = [SIDE * e for e in (x0, y0, x1 - x0, y1 - y0)]
            annotations.append({"id": number, "image_id": k, "bbox": bbox})
            sentences = [{"sent": noun_phrase(thing), "raw": noun_phrase(thing)}]
            ref = {"ref_id": number, "ann_id": number, "image_id": k, "split": "val"}
            refs.append({**ref, "sentences": sentences})
    instances = {"images": images, "annotations": annotations}
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "refs(umd).json").write_text(json.dumps(refs))


@pytest.mark.usefixtures("ours")
def test_refcoco_and_its_regions(
    samples: list[Sample],
    save_images: SaveImages,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"COCO_train2014_{k:012}.jpg" for k in range(2)]
    images = save_images("coco/train2014", *names).parent
    write_refcoco(tmp_path / "refcocog", samples, names)
    options = {"data": tmp_path / "refcocog", "images": images}
    results = run(referring, monkeypatch, tmp_path / "referring", **options)
    assert values(results)["refcocog val, accuracy at IoU 0.5"] >= 50  # of the sandbox
    assert results["results"][0]["published"] == 60.57

    results = run(region_captions, monkeypatch, tmp_path / "regions", **options)
    assert values(results)["RefCOCOg val, CIDEr"] > 100
    assert results["results"][0]["published"] == 60.3

    references = read_references(tmp_path / "refcocog", "val")
    nothing = answered(tmp_path, **{f"{one.key}/0": "<phrase>it</phrase>" for one in references})
    assert referring_accuracy(references, nothing, "refcocog", "val")[0].value == 0
    with pytest.raises(UserError, match="testA"):
        read_references(tmp_path / "refcocog", "testA")


def test_a_pickle_of_references_is_never_loaded(tmp_path: Path) -> None:
    (tmp_path / "refs(unc).p").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(UserError, match=r"papers\.md"):
        read_references(tmp_path, "val")


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize("beams", [1, 2])
def test_captions(
    beams: int, save_images: SaveImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = save_images("flickr30k-images", "1.jpg", "2.jpg")
    (tmp_path / "dataset_flickr30k.json").write_text(
        json.dumps(
            {
                "images": [
                    {
                        "filename": f"{k}.jpg",
                        "split": "test" if k < 3 else "train",
                        "sentences": [{"raw": "A red dog lies in the snow."}] * 5,
                    }
                    for k in range(1, 4)
                ]
            }
        )
    )
    (tmp_path / "results.token").write_text("1.jpg#0\tA dog .\n1.jpg#1\tA cat .\n")
    assert flickr_captions.read_captions(tmp_path / "results.token", "test") == {
        "1.jpg": ["A dog .", "A cat ."]
    }
    options = {"captions": tmp_path / "dataset_flickr30k.json", "images": images, "beams": beams}
    results = run(flickr_captions, monkeypatch, tmp_path / "out", **options)
    assert results["results"][0]["count"] == 2
    assert results["results"][0]["published"] == 80.5
    text = (tmp_path / "out" / "answers.jsonl").read_text(encoding="utf-8")
    assert text.count("An image of") == 2


@pytest.mark.usefixtures("ours")
def test_captions_that_repeat_their_only_reference_score_1000() -> None:
    references = {"a": ["A red dog in snow."], "b": ["Two cats sleep under trees."]}
    captions = {key: texts[0].lower() for key, texts in references.items()}
    result = cider(captions, references, "known", 80.5)
    assert (result.value, result.low, result.high) == pytest.approx((1000, 1000, 1000))
    assert cider({**captions, "b": "nothing"}, references, "known").value == pytest.approx(500)


@pytest.mark.skipif(not caption_metrics.HAS_JAVA, reason="needs java")
def test_our_tokens_are_those_of_the_published_tokenizer() -> None:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    texts = [
        "A man's dog doesn't run (fast), \"quickly\" -- at 3:30 p.m. for $5.00; in the U.S.",
        "Two t-shirts, 1/2 off; cannot see the 2,000 people - all of them.",
        "The dogs' owner said: 'look!' I'm gonna go... it'll and they're 50% off?",
    ]
    published = PTBTokenizer().tokenize({0: [{"caption": text} for text in texts]})[0]
    assert [tokenize_caption(text) for text in texts] == published


def test_vqa(
    samples: list[Sample],
    save_images: SaveImages,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = save_images("val2014", *(f"COCO_val2014_{k:012}.jpg" for k in range(2)))
    counts = ["one", "two", "three"]
    questions, annotations = [], []
    for k, sample in enumerate(samples):
        row = {"image_id": k, "question_id": 10 * k}
        questions.append({**row, "question": "how many are there?"})
        answer = counts[len(sample.boxes) - 1]
        people = [{"answer": answer if n else "7", "answer_id": n} for n in range(10)]
        annotations.append({**row, "answer_type": "number", "answers": people})
    for name, rows in (("questions", questions), ("annotations", annotations)):
        content = {"data_subtype": "val2014", name: rows}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    options = {"questions": tmp_path / "questions.json", "images": images}
    run(vqa, monkeypatch, tmp_path / "test", **options)
    submission = json.loads((tmp_path / "test" / "submission.json").read_text())
    assert [one["question_id"] for one in submission] == [0, 10]

    options["annotations"] = tmp_path / "annotations.json"
    results = run(vqa, monkeypatch, tmp_path / "test", **options)
    assert list(values(results)) == ["VQAv2 val2014, accuracy", "VQAv2 val2014, number"]
    assert results["results"][0]["count"] == 2


@pytest.mark.parametrize(
    ("answer", "normalized"),
    [
        ("The  dog.", "dog"),
        ("Two", "2"),
        ("none", "0"),
        ("dont know", "don't know"),
        ("red, white", "red white"),
        ("black/white", "black white"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("youd've", "you'd've"),
        ("lets go", "lets go"),
        ("yes!\n", "yes"),
    ],
)
def test_answers_are_normalized_as_the_owners_do(answer: str, normalized: str) -> None:
    assert normalize_answer(answer) == normalized


def test_vqa_accuracy_by_hand() -> None:
    assert accuracy("Dog.", ["dog"] * 10) == 1
    # Three of ten: of nine people, two agree in three choices and three in seven.
    assert accuracy("dog", ["dog"] * 3 + ["cat"] * 7) == pytest.approx((3 * 2 / 3 + 7) / 10)
    assert accuracy("dog", ["dog"] + ["cat"] * 9) == pytest.approx(9 / 30)
    assert accuracy("cow", ["dog"] * 10) == 0


def test_the_interval_is_wider_for_values_that_depend_on_each_other() -> None:
    hits = [1.0] * 50 + [0.0] * 50
    alone = mean_result("", hits, [str(k) for k in range(100)])
    grouped = mean_result("", hits, [str(k // 10) for k in range(100)])
    assert alone.value == grouped.value == 50
    assert pytest.approx(alone.low, abs=2) == 40
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)
