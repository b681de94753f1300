"""Every error can be read by people and by programs, and shows nothing as an attacker wrote it."""

import re
from collections.abc import Iterator

import pytest

from steelyard.model.errors import (
    EvidenceRejected,
    ExitCode,
    Malformed,
    MalformedTpmStructure,
    QuoteRejected,
    SteelyardError,
    WrongUse,
)


def kinds(kind: type[SteelyardError] = SteelyardError) -> Iterator[type[SteelyardError]]:
    for child in kind.__subclasses__():
        yield child
        yield from kinds(child)


def test_every_error_has_a_code_of_its_own() -> None:
    # A driver may tell apart what is the same to everybody else, by an error of its own with the same code.
    codes = [kind.code for kind in kinds() if kind.__module__ == SteelyardError.__module__]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)


@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: str(kind.code))
def test_every_error_says_what_it_means_and_what_to_do(kind: type[SteelyardError]) -> None:
    assert kind.__doc__
    assert kind.remedy.endswith(".")
    assert kind.exit_code != ExitCode.GOOD


def test_the_exit_code_says_whose_fault_it_is() -> None:
    assert WrongUse.exit_code == 2
    assert {kind.exit_code for kind in kinds(Malformed)} == {3}
    assert {kind.exit_code for kind in kinds(EvidenceRejected)} == {4}


def test_an_error_says_what_was_done_what_was_right_and_what_came() -> None:
    error = MalformedTpmStructure("reading", expected="a key", found="a lock")
    assert str(error) == "reading: expected a key; found a lock"
    assert (error.doing, error.expected, error.found) == ("reading", "a key", "a lock")
    with pytest.raises(Malformed):
        raise error


def test_a_strangers_words_are_escaped_and_cut() -> None:
    hostile = "\x1b[2Jreading\nroot: \u202egood" + "x" * 1000
    error = QuoteRejected(hostile, expected=hostile, found=hostile)
    for text in (str(error), error.doing, error.expected, error.found):
        assert text.isascii()
        assert text.isprintable()
        assert len(text) < 1400
