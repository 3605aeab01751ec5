"""Messages can be shown by every console, log and web page."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kosmos_dreambooth.shared.errors import LONGEST_MESSAGE, UserError, printable

ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=300)


@given(ANY_TEXT)
def test_a_message_is_one_line_that_utf_8_can_encode(text: str) -> None:
    message = str(UserError(f'The value "{text}" is wrong: give another one.'))
    assert message.encode()
    assert len(message.splitlines()) == 1
    assert message.endswith(": give another one.")
    assert printable(message) == message
    assert json.loads(json.dumps(message)) == message


@pytest.mark.parametrize("text", ["\x1b[31m", "\u202eevil", "\ud800", "a\0b"])
def test_control_characters_are_escaped(text: str) -> None:
    assert all(character.isprintable() for character in printable(text))


def test_long_values_are_cut_and_the_remedy_stays() -> None:
    message = str(UserError(f'"{"a" * 5000}" is wrong: give another one, "{"b" * 80}".'))
    assert len(message) < 250
    assert message.endswith(f'is wrong: give another one, "{"b" * 80}".')
    assert len(str(UserError("x" * 10**6 + ": give less."))) == LONGEST_MESSAGE


def test_other_languages_are_kept() -> None:
    assert str(UserError("猫 ü 👩‍👩‍👧")) == "猫 ü 👩‍👩‍👧"
