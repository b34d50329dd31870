"""Text of others in texts of ours: shown, never obeyed, never endless."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wspool.core.plain import MOST, plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("Rate limit reached für 模型 🙂.", "Rate limit reached für 模型 🙂."),
        ("\x1b]0;owned\x07\x1b[2J", "\\x1b]0;owned\\x07\\x1b[2J"),
        ("a\r\nb\tc\0d\x7fe\x9bf", "a\\r\\nb\\tc\\x00d\\x7fe\\x9bf"),
        ("\u202egnirts\u2066\u200b\ufeff\u2028", "\\u202egnirts\\u2066\\u200b\\ufeff\\u2028"),
        ("\ud83d\U000e0041", "\\ud83d\\U000e0041"),
        ("back\\slash", "back\\slash"),
        ("für\n模型", "für\\n模型"),
    ],
)
def test_what_is_no_letter_is_shown_as_python_writes_it(text: str, shown: str) -> None:
    """Nothing that a terminal, a log or a reader obeys is left, and no letter is lost."""
    assert shown == plain(text)


@given(st.text(max_size=200), st.integers(4, 50))
def test_it_can_be_shown_and_stays_as_it_is(text: str, most: int) -> None:
    """Whatever it was: it is one line, can be written anywhere, and is within its length."""
    shown = plain(text, most)

    assert shown.isprintable()
    assert len(shown) <= most
    shown.encode()
    assert shown == plain(shown, most)
    assert shown == text or not text.isprintable() or len(text) > most


@pytest.mark.parametrize("letter", ["x", "\x1b", "\U0010ffff"])
def test_a_long_text_is_cut(letter: str) -> None:
    """To the length that is asked for, with a sign that there was more."""
    shown = plain(letter * 10_000)

    assert MOST == len(shown)
    assert shown.endswith("...")
    assert MOST == len(plain(letter * 10_000, MOST))
    assert letter != "x" or plain(letter * MOST) == letter * MOST
