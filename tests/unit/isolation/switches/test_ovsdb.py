"""Where a database server is said to be, and where its messages end."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.isolation.ports import Access
from steelyard.isolation.switches.openvswitch import open_vswitch
from steelyard.isolation.switches.ovsdb import Json, Messages, parse_endpoint
from steelyard.model.errors import DeviceGarbled, WrongUse
from steelyard.model.secret import Secret

PEM = {"endpoint": "ssl:10.0.0.1:6640", "ca": "ca", "certificate": "certificate"}
KEY = {"key": Secret(b"very secret")}


@pytest.mark.parametrize(
    ("endpoint", "where"),
    [
        ("unix:/run/openvswitch/db.sock", "/run/openvswitch/db.sock"),
        ("tcp:10.0.0.1:6640", ("10.0.0.1", 6640)),
        ("tcp:[fd00::1]:6640", ("fd00::1", 6640)),
    ],
)
def test_an_endpoint_says_where(endpoint: str, where: object) -> None:
    assert parse_endpoint(Access({"endpoint": endpoint}, {})).where == where


@pytest.mark.parametrize(
    "endpoint",
    [
        *("", "unix:", "unix:db.sock", "tcp:", "tcp:10.0.0.1", "tcp:10.0.0.1:", "tcp:10.0.0.1:0", "tcp:10.0.0.1:65536"),
        *("tcp:switch.example:6640", "tcp:fd00::1:6640", "tcp:[10.0.0.1]:6640", "tcp:10.0.0.1:66\u0664\u0660"),
        *("ptcp:6640", "udp:10.0.0.1:6640", "ssl:10.0.0.1:6640", "/run/db.sock"),
    ],
)
def test_any_other_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(WrongUse):
        parse_endpoint(Access({"endpoint": endpoint}, {}))


@pytest.mark.parametrize(
    ("address", "credentials"),
    [
        ({name: value for name, value in PEM.items() if name != "ca"}, KEY),
        ({name: value for name, value in PEM.items() if name != "certificate"}, KEY),
        (PEM, {}),
        (PEM, KEY),  # none of it is PEM
        ({**PEM, "verify": "no"}, KEY),
        ({"endpoint": "tcp:10.0.0.1:6640", "ca": "ca"}, {}),
        ({"endpoint": "tcp:10.0.0.1:6640"}, KEY),
    ],
)
def test_tls_without_all_that_checks_the_peer_is_refused(
    address: Mapping[str, str], credentials: Mapping[str, Secret]
) -> None:
    with pytest.raises(WrongUse) as refused:
        parse_endpoint(Access(address, credentials))
    assert "very secret" not in str(refused.value)


@pytest.mark.parametrize(
    "address", [{}, {"bridge": ""}, *({"bridge": "b", "settle_ms": ms} for ms in ("", "0", "5001", "-1", "1.5", "x"))]
)
def test_an_address_without_a_bridge_or_with_a_senseless_time_is_refused(address: Mapping[str, str]) -> None:
    with pytest.raises(WrongUse):
        open_vswitch(Access({"endpoint": "unix:/db.sock", **address}, {}))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts | st.sampled_from(['"', "\\", '\\"', "}{", "]["]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(texts, values, max_size=3), max_size=4), st.data())
def test_messages_come_out_as_they_went_in_however_they_were_cut(
    sent: list[dict[str, Json]], data: st.DataObject
) -> None:
    stream = "".join(json.dumps(message, ensure_ascii=data.draw(st.booleans())) for message in sent).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    messages = Messages("unix:/db.sock")
    received = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        messages.add(stream[begin:end])
        while (message := messages.take()) is not None:
            received.append(message)
    assert received == sent


def test_a_backslash_at_the_end_of_what_arrived_escapes_what_comes_next() -> None:
    messages = Messages("unix:/db.sock")
    messages.add(b'{"a":"\\')
    assert messages.take() is None
    messages.add(b'""}')
    assert messages.take() == {"a": '"'}


def test_an_escaped_backslash_at_the_end_of_what_arrived_escapes_nothing() -> None:
    messages = Messages("unix:/db.sock")
    messages.add(b'{"a":"\\\\')
    assert messages.take() is None
    messages.add(b'"}')
    assert messages.take() == {"a": "\\"}


@given(st.binary(max_size=60) | st.text('{}[]",:\\ntrue0 ', max_size=60).map(str.encode))
def test_any_bytes_are_messages_or_garbled(data: bytes) -> None:
    messages = Messages("unix:/db.sock")
    messages.add(data)
    try:
        while (message := messages.take()) is not None:
            assert isinstance(message, dict)
    except DeviceGarbled:
        pass
