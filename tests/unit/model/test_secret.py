"""A secret is not seen, not by accident."""

import copy
import pickle
import traceback

import pytest

from steelyard.model.secret import Secret

VALUE = b"correct horse battery staple"


def test_a_secret_is_given_when_asked_for_by_name_only() -> None:
    assert Secret(VALUE).reveal() == VALUE


def test_nothing_that_prints_shows_it() -> None:
    secret = Secret(VALUE)
    for shown in (repr(secret), str(secret), f"{secret}", f"{[secret]}", f"{secret!r}"):
        assert "horse" not in shown
        assert "<secret>" in shown


def test_a_traceback_that_shows_local_variables_does_not_show_it() -> None:
    with pytest.raises(ValueError, match="<secret>") as caught:
        _fail(Secret(VALUE))
    report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert "secret = <secret>" in "".join(report.format())
    assert VALUE.decode() not in "".join(report.format())


def _fail(secret: Secret) -> None:
    raise ValueError(secret)


def test_secrets_are_equal_when_their_bytes_are() -> None:
    assert Secret(VALUE) == Secret(VALUE)
    assert Secret(VALUE) != Secret(VALUE[:-1])
    assert Secret(VALUE) != VALUE


def test_a_secret_is_neither_hashed_nor_pickled_nor_copied() -> None:
    secret = Secret(VALUE)
    with pytest.raises(TypeError):
        hash(secret)
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            copied(secret)


def test_a_secret_does_not_change() -> None:
    with pytest.raises(AttributeError):
        Secret(VALUE)._value = b""  # type: ignore[misc]  # this is what is tried
