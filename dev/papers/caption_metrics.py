"""CIDEr-D of captions, by pycocoevalcap, whose tokenizer needs Java; without it, by ours."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence

from ...shared.errors import UserError
from .result_table import Result, mean_result

HAS_JAVA = shutil.which("java") is not None

_PUNCTUATION = re.compile(r"[\"`.?!,:;]|--+|(?<=\s)-(?=\s)|'(?!\w)|(?<!\w)'")
_CONTRACTION = re.compile(r"(?<=\w)('(?:s|m|d|ll|re|ve)|n't)\b")
_TWO_WORDS = re.compile(r"\b(can)(not)\b|\b(gon)(na)\b|\b(got)(ta)\b|\b(wan)(na)\b")


def tokenize_caption(text: str) -> str:
    """Return the words of a caption in lower case, without punctuation, joined by blanks.

    It follows the Penn Treebank tokenizer of the published metrics for everyday captions, and is
    used where there is no Java. Full stops remain in abbreviations and numbers.
    """
    words = re.sub(r"[()]", lambda m: f" -{'lr'[m[0] == ')']}rb- ", text.lower())
    words = re.sub(r"[\[\]{}]", " ", words)
    kept = re.sub(
        r"(?<=\d)[.,:](?=\d)|(?<=\b\w)\.(?=\w\.)|(?<=\.\w)\.", lambda m: _HIDE[m[0]], words
    )
    bare = _PUNCTUATION.sub(" ", kept)
    split = _TWO_WORDS.sub(lambda m: " ".join(group for group in m.groups() if group), bare)
    split = re.sub(r"([$&%#])(?=\S)|(?<=\S)([%])", lambda m: f" {m[0]} ", split)
    split = _CONTRACTION.sub(r" \1", split)
    for mark, hidden in _HIDE.items():
        split = split.replace(hidden, mark)
    return " ".join(split.split())


_HIDE = {".": "\ue000", ",": "\ue001", ":": "\ue002"}


def cider(
    captions: dict[str, str],
    references: Mapping[str, Sequence[str]],
    name: str,
    published: float | None = None,
) -> Result:
    """Return 100 times CIDEr-D (Vedantam et al. 2015).

    `references` has each key of `captions`. The document frequencies are those of the references,
    so a part of a data set has another CIDEr than the whole. Raises UserError without
    pycocoevalcap.
    """
    try:
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
    except ImportError as error:
        raise UserError(
            "The package pycocoevalcap is not installed: run `pip install pycocoevalcap`."
        ) from error
    keys = list(captions)
    if HAS_JAVA and keys:
        tokenize = PTBTokenizer().tokenize
        texts = tokenize({key: [{"caption": captions[key]}] for key in keys})
        truths = tokenize({key: [{"caption": one} for one in references[key]] for key in keys})
    else:
        texts = {key: [tokenize_caption(captions[key])] for key in keys}
        truths = {key: [tokenize_caption(one) for one in references[key]] for key in keys}
    scores = Cider().compute_score(truths, texts)[1] if keys else []
    return mean_result(f"{name}, CIDEr", list(map(float, scores)), keys, published)


def tokenizer_name() -> str:
    """Return what cuts captions into words, for the results."""
    return "PTBTokenizer of Stanford CoreNLP" if HAS_JAVA else "own, as there is no Java"
