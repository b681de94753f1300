"""Patterns match what they look like."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.evidence.glob import matches_text


@given(st.text("ab*", max_size=6), st.text("ab", max_size=8))
def test_a_star_stands_for_any_run_of_letters_and_nothing_else_is_special(pattern: str, text: str) -> None:
    expected = re.fullmatch(".*".join(re.escape(part) for part in pattern.split("*")), text, re.DOTALL)
    assert matches_text(pattern, text) is bool(expected)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [("a.c", "abc"), ("[ab]", "a"), ("a?", "ab"), ("abc", "abcd"), ("abc", "xabc"), ("ab*ba", "aba")],
)
def test_a_pattern_matches_no_more_than_it_says(pattern: str, text: str) -> None:
    assert not matches_text(pattern, text)
