"""Documents are read strictly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.evidence.document import Fields, parse_document, parse_time
from steelyard.model.errors import Malformed, MalformedPolicy, TooLarge, WrongUse
from steelyard.model.limits import Limit

LIMIT = Limit(1_000_000, "bytes", "a test's")


def read(text: str | bytes) -> Fields:
    data = text if isinstance(text, bytes) else text.encode()
    return parse_document(data, LIMIT, "reading a test", MalformedPolicy)


def test_a_field_given_twice_is_refused() -> None:
    with pytest.raises(MalformedPolicy, match="'a' twice"):
        read('{"a": 1, "a": 2}')


def test_a_field_given_twice_deep_inside_is_refused() -> None:
    with pytest.raises(MalformedPolicy, match="'b' twice"):
        read('{"a": [{"b": 1, "b": 2}]}')


def test_a_field_nobody_asked_for_is_refused() -> None:
    fields = read('{"a": 1, "typo": 2}')
    fields.integer("a", 0, 9)
    with pytest.raises(MalformedPolicy, match="typo"):
        fields.end()


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_refused(text: str) -> None:
    with pytest.raises(MalformedPolicy, match="JSON numbers"):
        read(f'{{"a": {text}}}')


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b'"a"', b"{", b'{"a":1} x', b'\xff{"a":1}', b'{"a": ' + b"9" * 5000 + b"}", "\ufeff{}".encode()],
)
def test_what_is_no_json_object_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedPolicy):
        read(data)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_nesting_is_malformed_and_no_crash(opening: str) -> None:
    with pytest.raises(MalformedPolicy):
        read(opening * 100_000)


def test_a_document_over_its_limit_is_not_read() -> None:
    with pytest.raises(TooLarge):
        parse_document(b" " * 11, Limit(10, "bytes", "a test's"), "reading a test", MalformedPolicy)


def test_true_is_no_number() -> None:
    with pytest.raises(MalformedPolicy, match="whole number"):
        read('{"a": true}').integer("a", 0, 9)
    with pytest.raises(MalformedPolicy, match="whole numbers"):
        read('{"a": [true]}').integers("a", 0, 9)


@pytest.mark.parametrize("value", ['""', "1", "null", "[]"])
def test_a_text_is_a_text_and_not_empty(value: str) -> None:
    with pytest.raises(MalformedPolicy, match="text"):
        read(f'{{"a": {value}}}').text("a")


@pytest.mark.parametrize("value", ["AB", "a", "zz", "0x", " 00", "00 "])
def test_hexadecimal_is_lower_case_and_nothing_else(value: str) -> None:
    with pytest.raises(MalformedPolicy, match="hexadecimal"):
        read(f'{{"a": "{value}"}}').hexadecimal("a")


@pytest.mark.parametrize("value", ["a", "YQ", "Y Q==", "YQ==\\n", "-_==", "ü"])
def test_base64_is_standard_and_padded(value: str) -> None:
    with pytest.raises(MalformedPolicy, match="base64"):
        read(f'{{"a": "{value}"}}').base64("a")


@pytest.mark.parametrize(
    "text", ["2026-11-24", "2026-11-24T12:00:00", "2026-11-24T12:00:00+01:00", "2026-13-24T12:00:00Z"]
)
def test_a_time_is_in_utc_and_whole(text: str) -> None:
    with pytest.raises(WrongUse, match="2026-11-24T12:00:00Z"):
        parse_time(text)


def test_an_error_names_the_place_in_the_document() -> None:
    inner = next(read('{"rules": [{"pcr": 99}]}').list_of_fields("rules", LIMIT))
    with pytest.raises(MalformedPolicy, match=r"rules\[0\].pcr"):
        inner.integer("pcr", 0, 23)


def test_a_list_over_its_limit_is_refused() -> None:
    with pytest.raises(TooLarge):
        list(read('{"a": [{}, {}, {}]}').list_of_fields("a", Limit(2, "rules", "a test's")))


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_read_or_malformed(data: bytes) -> None:
    try:
        read(data)
    except Malformed:
        return
    assert data.lstrip()[:1] == b"{"
