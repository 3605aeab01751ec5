"""Prompts for captions in other languages, and their recognition."""

from __future__ import annotations

import pytest
from kosmos_dreambooth.kosmos.generate.language import (
    ENGLISH,
    LANGUAGES,
    check_language,
    is_in,
    localized_prompt,
)
from kosmos_dreambooth.shared.errors import UserError

TEXTS = {
    "Arabic": "كلب أحمر في المرج",
    "Chinese": "草地上的一只红狗",
    "Czech": "červený pes na louce",
    "Danish": "en rød hund på engen",
    "Dutch": "een rode hond op het gras",
    "English": "An image of a red dog in the meadow.",
    "French": "un chien rouge dans la prairie",
    "German": "ein roter Hund auf der Wiese",
    "Greek": "ένας κόκκινος σκύλος στο λιβάδι",
    "Hebrew": "כלב אדום באחו",
    "Hindi": "घास के मैदान में एक लाल कुत्ता",
    "Indonesian": "seekor anjing merah di padang rumput",
    "Italian": "un cane rosso nel prato",
    "Japanese": "草原で赤い犬",
    "Korean": "초원에 있는 빨간 개",
    "Polish": "czerwony pies na łące",
    "Portuguese": "um cachorro vermelho no prado",
    "Romanian": "un câine roșu pe pajiște",
    "Russian": "красная собака на лугу",
    "Spanish": "un perro rojo en el prado",
    "Swedish": "en röd hund på ängen",
    "Thai": "สุนัขสีแดงในทุ่งหญ้า",
    "Turkish": "çayırda kırmızı bir köpek",
    "Ukrainian": "червоний собака на лузі",
    "Vietnamese": "một con chó đỏ trên đồng cỏ",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_is_recognized_by_its_letters_or_words(language: str) -> None:
    assert is_in(language, TEXTS[language])
    assert not is_in(language, TEXTS["English"]) or language == ENGLISH
    assert not is_in(language, "")


def test_one_caption_in_the_language_is_enough() -> None:
    check_language("German", [TEXTS["English"], TEXTS["German"]])
    check_language(ENGLISH, [""])
    with pytest.raises(UserError, match="cannot write German"):
        check_language("German", [TEXTS["English"]])


def test_only_other_languages_change_the_prompt() -> None:
    assert localized_prompt(ENGLISH, "An image of", detailed=False) == "An image of"
    for detailed, prompt in (
        (False, "Describe this image in German:"),
        (True, "Describe this image in detail in German:"),
    ):
        assert localized_prompt("German", "An image of", detailed=detailed) == prompt
