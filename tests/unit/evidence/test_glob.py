"""Patterns match what they look like."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.evidence.glob import matches_text


@settings(max_examples=1000)
@given(st.text("ab*", max_size=6), st.text("ab", max_size=8))
def test_a_star_in_a_word_stands_for_any_run_of_signs_and_nothing_else_is_special(pattern: str, text: str) -> None:
    expected = re.fullmatch(".*".join(re.escape(part) for part in pattern.split("*")), text)
    assert matches_text(pattern, text) is bool(expected)


@given(st.text("ab* \n", max_size=8), st.text("ab \n", max_size=8))
def test_a_star_does_not_go_over_white_space(pattern: str, text: str) -> None:
    expected = re.fullmatch(r"\S*".join(re.escape(part) for part in pattern.split("*")), text)
    assert matches_text(pattern, text) is bool(expected)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("a.c", "abc"),
        ("[ab]", "a"),
        ("a?", "ab"),
        ("abc", "abcd"),
        ("abc", "xabc"),
        ("ab*ba", "aba"),
        ("a", "a\n"),
        ("*", "a b"),
        ("root=* ro", "root=x init=/bin/sh ro"),
        ("*", "a\u00a0b"),
    ],
)
def test_a_pattern_matches_no_more_than_it_says(pattern: str, text: str) -> None:
    assert not matches_text(pattern, text)
