"""How a stranger's words are shown."""

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.model.text import SHOWN_CHARACTERS, printable


@pytest.mark.parametrize("words", ["", "plain words", "/usr/bin/env (deleted)", "~!@#$%^&*()[]{}"])
def test_printable_ascii_is_shown_as_it_is(words: str) -> None:
    assert printable(words) == printable(words.encode()) == words


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("a\nb", "a\\nb"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x00", "\\x00"),
        ("n\u043ede", "n\\u043ede"),
        ("\u202ecod.exe", "\\u202ecod.exe"),
        ("\U0001f512", "\\U0001f512"),
        ("\ud800", "\\ud800"),
        (b"\xff\xfe", "\\xff\\xfe"),
        (b"caf\xc3\xa9", "caf\\xe9"),
        ("\x7f", "\\x7f"),
    ],
)
def test_everything_else_is_escaped(words: str | bytes, shown: str) -> None:
    assert printable(words) == shown


@given(st.text() | st.binary())
def test_what_is_shown_is_one_printable_line_of_ascii(words: str | bytes) -> None:
    shown = printable(words)
    assert shown.isascii()
    assert shown.isprintable()


@given(st.text(max_size=SHOWN_CHARACTERS).filter(lambda words: "\\" not in words and "'" not in words))
def test_words_within_the_limit_are_shown_whole(words: str) -> None:
    assert ast.literal_eval(f"'{printable(words)}'") == words


def test_a_flood_is_cut_before_it_is_looked_at() -> None:
    assert printable("x" * 1_000_000) == "x" * SHOWN_CHARACTERS + "..."
    assert printable(b"x" * 1_000_000) == "x" * SHOWN_CHARACTERS + "..."
    assert printable("abcdef", 3) == "abc..."
    assert len(printable("\U0001f512" * 1_000_000)) == SHOWN_CHARACTERS * 10 + 3
