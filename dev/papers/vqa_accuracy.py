"""The accuracy of VQAv2 and its normalisation of answers (Antol et al. 2015, "VQA")."""

from __future__ import annotations

import re
from collections.abc import Sequence

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
DIGITS = {name: str(k) for k, name in enumerate(NUMBERS)} | {"none": "0"}
ARTICLES = {"a", "an", "the"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't shan't she'd've should've shouldn't
shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's
something'd something'd've something'll that's there'd there'd've there're there's they'd
they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's
won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()  # noqa: SIM905
"""The contractions whose apostrophes are restored."""


def _with_an_apostrophe_missing() -> dict[str, str]:
    """Each contraction by its forms without one of its apostrophes."""
    forms = {"somebody'd": "somebodyd"}  # as in the owners' evaluation
    for word in CONTRACTED:
        forms |= {word[:k] + word[k + 1 :]: word for k, mark in enumerate(word) if mark == "'"}
    return forms


CONTRACTIONS = _with_an_apostrophe_missing()


def normalize_punctuation(answer: str) -> str:
    """Return an answer without punctuation: removed next to a blank, otherwise a blank.

    As in the owners' evaluation, all marks are removed where a comma is in a number, and full stops
    that no digit follows.
    """
    result = answer
    in_number = re.search(r"\d,\d", answer) is not None
    for mark in PUNCTUATION:
        at_blank = f"{mark} " in answer or f" {mark}" in answer
        result = result.replace(mark, "" if at_blank or in_number else " ")
    return re.sub(r"\.(?!\d)", "", result)


def normalize_answer(answer: str) -> str:
    """Return an answer in lower case, without punctuation and articles, numbers as digits."""
    text = normalize_punctuation(answer.replace("\n", " ").replace("\t", " ").strip())
    words = [DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def accuracy(answer: str, human_answers: Sequence[str]) -> float:
    """Return the mean, over all choices of nine of the ten people, of min(matches / 3, 1).

    People's answers are normalised like the model's, but only in punctuation, and not at all when
    all agree.
    """
    truths = [truth.replace("\n", " ").replace("\t", " ").strip() for truth in human_answers]
    if len(set(truths)) > 1:
        truths = [normalize_punctuation(truth) for truth in truths]
    matches = [truth == normalize_answer(answer) for truth in truths]
    total = sum(matches)
    return sum(min(1.0, (total - match) / 3) for match in matches) / len(matches)
