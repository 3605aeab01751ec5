"""Tiny translators in the real architectures and files, trained on three texts."""

from __future__ import annotations

import json
from pathlib import Path

import sentencepiece
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.trainers import BpeTrainer
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    NllbTokenizer,
    PreTrainedTokenizerBase,
)

TEXTS = {
    "a red dog": ("ein roter Hund", "un chien rouge"),
    "a blue house": ("ein blaues Haus", "une maison bleue"),
    "a red dog, a blue house": (
        "ein roter Hund, ein blaues Haus",
        "un chien rouge, une maison bleue",
    ),
}
"""English texts with their German and French translations."""

ALL_TEXTS = [*TEXTS, *(text for texts in TEXTS.values() for text in texts)]
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]


def write_m2m100(folder: Path) -> None:
    """Write an M2M100 as the hub has it: sentencepiece, vocab.json, languages as `__de__`."""
    folder.mkdir(parents=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(ALL_TEXTS * 50),
        model_prefix=str(folder / "sentencepiece.bpe"),
        vocab_size=80,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(str(folder / "sentencepiece.bpe.model"))
    names = [pieces.id_to_piece(k) for k in range(pieces.get_piece_size())]
    vocab = {piece: k for k, piece in enumerate(dict.fromkeys([*SPECIAL_TOKENS, *names]))}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    tokenizer = M2M100Tokenizer(
        str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"), num_madeup_words=0
    )
    _train_and_save(folder, tokenizer, ("en", "de", "fr"))


def write_nllb(folder: Path) -> None:
    """Write a dense NLLB as the hub has it: tokenizer.json, languages as `deu_Latn`."""
    pieces = Tokenizer(BPE())
    pieces.pre_tokenizer = Metaspace()
    pieces.train_from_iterator(
        ALL_TEXTS, BpeTrainer(special_tokens=SPECIAL_TOKENS, show_progress=False)
    )
    bpe = json.loads(pieces.to_str())["model"]
    tokenizer = NllbTokenizer(vocab=bpe["vocab"], merges=[tuple(merge) for merge in bpe["merges"]])
    _train_and_save(folder, tokenizer, ("eng_Latn", "deu_Latn", "fra_Latn"))


def _train_and_save(
    folder: Path, tokenizer: PreTrainedTokenizerBase, codes: tuple[str, str, str]
) -> None:
    torch.manual_seed(0)
    config = M2M100Config(
        vocab_size=512,  # includes the language tokens
        d_model=32,
        max_position_embeddings=128,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
        **{f"{part}_layers": 1 for part in ("encoder", "decoder")},
        **{f"{part}_ffn_dim": 64 for part in ("encoder", "decoder")},
        **{f"{part}_attention_heads": 2 for part in ("encoder", "decoder")},
    )
    model = M2M100ForConditionalGeneration(config)
    tokenizer.src_lang = codes[0]
    batches = []
    for code, texts in zip(codes[1:], zip(*TEXTS.values(), strict=True), strict=True):
        tokenizer.tgt_lang = code
        batch = tokenizer(list(TEXTS), text_target=list(texts), padding=True, return_tensors="pt")
        labels = batch["labels"]
        start = torch.full_like(labels[:, :1], config.decoder_start_token_id)
        batch["decoder_input_ids"] = torch.cat([start, labels[:, :-1]], 1)
        batch["labels"] = labels.masked_fill(labels == config.pad_token_id, -100)
        batch["labels"][:, 0] = -100  # the forced language token
        batches.append(batch)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(600):
        losses = [model(**batch).loss for batch in batches]
        if max(losses) < 0.01:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            return
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
    raise AssertionError("The translator did not converge.")
