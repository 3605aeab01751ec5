"""Translate captions and transfer their boxes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece
import torch
from kosmos_dreambooth.kosmos.grounding import Box, GroundedText, Phrase, parse
from kosmos_dreambooth.kosmos.translate import load_translator, transfer_boxes, translate
from kosmos_dreambooth.shared.errors import UserError
from transformers import MarianConfig, MarianMTModel, MarianTokenizer

A, B = Box(0.0, 0.0, 0.5, 0.5), Box(0.5, 0.5, 1.0, 1.0)


def phrase(*boxes: Box) -> Phrase:
    return Phrase("", 0, 0, boxes)


@pytest.mark.parametrize(
    ("caption", "phrases", "expected"),
    [
        ("ein roter Hund im Schnee.", ["ein roter Hund"], ["ein roter Hund"]),
        ("Das Bild eines roten Hundes.", ["ein roter Hund"], ["eines roten Hundes"]),
        ("Katze und Hund", ["Hund", "Katze"], ["Katze", "Hund"]),
        ("un perro rojo y un perro azul", ["un perro azul", "un perro rojo"], None),
        ("雪の中で赤い犬と青い車。", ["赤い犬", "青い車"], ["赤い犬", "青い車"]),
        ("красная собака на лугу", ["красная собака"], ["красная собака"]),
        ("एक लाल कुत्ता और एक नीला घर", ["एक लाल कुत्ता"], ["एक लाल कुत्ता"]),
        ("สุนัขสีแดงและบ้านสีฟ้า", ["สุนัขสีแดง"], ["สุนัขสีแดง"]),
        ("ein Schiff am Meer", ["zwei Hunde"], [""]),
        ("", ["ein Hund"], [""]),
        ("ein Hund", [""], [""]),
    ],
)
def test_translated_phrases_are_found(
    caption: str, phrases: list[str], expected: list[str] | None
) -> None:
    translated = [(text, phrase(A)) for text in phrases]
    result = transfer_boxes(caption, translated)
    expected = expected or ["un perro rojo", "un perro azul"]
    assert [one.text for one in result.phrases] == expected
    assert all(one.boxes == (A,) for one in result.phrases)
    end = 0
    for one in result.phrases:
        assert end <= one.start
        assert caption[one.start : one.end] == one.text
        end = one.end


def test_two_equal_phrases_get_different_words() -> None:
    result = transfer_boxes(
        "ein Hund und ein Hund", [("ein Hund", phrase(A)), ("ein Hund", phrase(B))]
    )
    assert [(one.start, one.boxes) for one in result.phrases] == [(0, (A,)), (13, (B,))]


PAIRS = {
    "An image of a red dog and a blue house.": "Bild: Haus blau und Hund rot.",
    "a red dog": "Hund rot",
    "a blue house": "Haus blau",
    "the sea": "das Meer",
}


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny MarianMT in the real architecture and files, trained on four texts."""
    folder = tmp_path_factory.mktemp("models") / "tiny-marian"
    folder.mkdir()
    vocab = {"</s>": 0, "<unk>": 1}
    for name, texts in (("source", list(PAIRS)), ("target", list(PAIRS.values()))):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts * 50),
            model_prefix=str(folder / name),
            vocab_size=60,
            hard_vocab_limit=False,
            bos_id=-1,
            eos_id=0,
            unk_id=1,
            pad_id=-1,
            minloglevel=2,
        )
        pieces = sentencepiece.SentencePieceProcessor(str(folder / f"{name}.model"))
        for k in range(pieces.get_piece_size()):
            vocab.setdefault(pieces.id_to_piece(k), len(vocab))
    pad = vocab.setdefault("<pad>", len(vocab))
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    tokenizer = MarianTokenizer(
        *(str(folder / name) for name in ("source.model", "target.model", "vocab.json"))
    )
    torch.manual_seed(0)
    heads = {f"{part}_attention_heads": 2 for part in ("encoder", "decoder")}
    widths = {f"{part}_ffn_dim": 32 for part in ("encoder", "decoder")}
    layers = {f"{part}_layers": 1 for part in ("encoder", "decoder")}
    config = MarianConfig(
        vocab_size=len(vocab),
        d_model=32,
        pad_token_id=pad,
        decoder_start_token_id=pad,
        eos_token_id=0,
        forced_eos_token_id=None,
        dropout=0.0,
        max_position_embeddings=64,
        **heads,
        **widths,
        **layers,
    )
    model = MarianMTModel(config)
    batch = tokenizer(
        list(PAIRS), text_target=list(PAIRS.values()), padding=True, return_tensors="pt"
    )
    batch["labels"] = batch["labels"].masked_fill(batch["labels"] == pad, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(400):
        loss = model(**batch).loss
        if loss < 0.01:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


GROUNDED = parse(
    "An image of<phrase> a red dog</phrase><object><patch_index_0044><patch_index_0863></object>"
    " and<phrase> a blue house</phrase><object><patch_index_0000><patch_index_0500></object>."
)


def test_a_loaded_translator_translates_captions_with_boxes(marian: Path) -> None:
    translator = load_translator(marian, torch.float32)
    progress: list[tuple[int, int]] = []
    texts = translate(
        translator,
        [GROUNDED, GroundedText("the sea"), GroundedText("")],
        "German",
        on_batch=lambda *counts: progress.append(counts),
    )
    assert [text.caption for text in texts] == ["Bild: Haus blau und Hund rot.", "das Meer", ""]
    assert [(one.text, one.boxes) for one in texts[0].phrases] == [
        ("Haus blau", GROUNDED.phrases[1].boxes),
        ("Hund rot", GROUNDED.phrases[0].boxes),
    ]
    assert progress[-1] == (4, 4)


def test_another_or_a_broken_model_raises_a_user_error(marian: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json"):
        load_translator(tmp_path, torch.float32)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match='kind "bert"'):
        load_translator(tmp_path, torch.float32)
    (tmp_path / "config.json").write_text((marian / "config.json").read_text())
    with pytest.raises(UserError, match="not complete"):
        load_translator(tmp_path, torch.float32)


def test_an_unsupported_language_raises_a_user_error(marian: Path) -> None:
    translator = load_translator(marian, torch.float32)
    translator.tokenizer.supported_language_codes = [">>fra<<"]
    with pytest.raises(UserError, match="does not support Korean"):
        translate(translator, [GROUNDED], "Korean")
