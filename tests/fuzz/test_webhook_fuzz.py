"""What strangers send about webhooks: addresses to be called, and requests that pretend to be notices."""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from steelyard.client.webhooks import TOLERANCE, verify_notice
from steelyard.model.errors import MalformedNotice, NoticeRejected, WrongUse
from steelyard.model.notices import ID, SIGNATURE, TIMESTAMP, sign_notice
from steelyard.model.secret import Secret
from steelyard.service.outbound import parse_redirect, parse_target

SECRET: Final = Secret(bytes(32))
NOW: Final = datetime(2026, 11, 24, tzinfo=UTC)
LETTERS: Final = st.text(st.sampled_from("htps:/.@?#[]%\\ 0123456789abcdefxX-_\t\r\n\u00e4\u2028"), max_size=40)
URLS: Final = st.one_of(st.text(max_size=60), LETTERS, LETTERS.map("https://".__add__), LETTERS.map("http://".__add__))


@given(URLS)
def test_a_url_is_read_the_same_twice_or_not_at_all(url: str) -> None:
    try:
        target = parse_target(url, "a test")
    except WrongUse:
        return
    assert parse_target(target.url, "a test") == target
    assert target.url.isascii()
    assert not set(target.url) & set(" \r\n\t\\@#") - set("@" if "@" in target.path else "")
    assert "@" not in target.authority
    assert 0 < target.port < 65536


@given(URLS)
def test_a_redirect_leads_to_a_target_or_nowhere(location: str) -> None:
    start = parse_target("https://example.org/a/b?c", "a test")
    with suppress(WrongUse):
        assert parse_redirect(start, location, "a test").scheme == "https"


@given(
    st.dictionaries(st.sampled_from([ID, TIMESTAMP, SIGNATURE, "Webhook-Id"]), st.text(max_size=80)),
    st.binary(max_size=200),
)
def test_a_request_that_nobody_signed_is_never_a_notice(headers: dict[str, str], body: bytes) -> None:
    try:
        verify_notice(SECRET, headers, body, now=NOW, tolerance=TOLERANCE, seen=())
    except (MalformedNotice, NoticeRejected):
        return
    raise AssertionError(headers)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=10),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["specversion", "id", "source", "data", "type", "number", "at"]), inner
                )
            ),
        ).map(lambda document: repr(document).replace("'", '"').encode("utf-8", "replace")),
    )
)
def test_what_is_signed_and_is_no_notice_is_malformed(body: bytes) -> None:
    seconds = int(NOW.timestamp())
    headers = {ID: "7-00", TIMESTAMP: str(seconds), SIGNATURE: sign_notice(SECRET, "7-00", seconds, body)}
    try:
        verify_notice(SECRET, headers, body, now=NOW, tolerance=TOLERANCE, seen=())
    except (MalformedNotice, NoticeRejected):
        return
    raise AssertionError(body)
