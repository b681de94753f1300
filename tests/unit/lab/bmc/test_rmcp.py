"""RMCP+ datagrams: what is built is read, and nothing hostile is believed or breaks the reader."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.lab.bmc.rmcp import (
    SUITES,
    PayloadType,
    PlainDatagram,
    ReplayWindow,
    Request,
    SealedDatagram,
    SessionKeys,
    Suite,
    build_legacy,
    build_plain,
    build_response,
    build_sealed,
    open_datagram,
    parse_datagram,
    parse_request,
)
from steelyard.model.errors import MalformedDatagram

VECTOR = bytes(range(16))
SEALED_HEADER = 6  # where the session's number begins


def _keys(suite: Suite = SUITES[0]) -> SessionKeys:
    return SessionKeys.derive(suite, b"a session integrity key")


def _sealed(payload: bytes = b"payload", suite: Suite = SUITES[0]) -> bytes:
    return build_sealed(7, 1, PayloadType.IPMI, payload, _keys(suite), VECTOR)


def _open(data: bytes, keys: SessionKeys) -> bytes:
    datagram = parse_datagram(data)
    if isinstance(datagram, PlainDatagram):
        raise MalformedDatagram("opening a datagram", expected="one of a session", found="none")
    return open_datagram(datagram, keys)


@given(st.binary(max_size=300), st.sampled_from(SUITES))
def test_what_is_sealed_is_opened_by_the_same_keys(payload: bytes, suite: Suite) -> None:
    assert _open(_sealed(payload, suite), _keys(suite)) == payload


@given(st.binary(max_size=255), st.sampled_from([PayloadType.IPMI, PayloadType.RAKP_1]))
def test_what_is_built_plain_is_read(payload: bytes, payload_type: PayloadType) -> None:
    assert parse_datagram(build_plain(payload_type, payload)) == PlainDatagram(False, payload_type, payload)  # noqa: FBT003
    assert parse_datagram(build_legacy(payload)) == PlainDatagram(True, PayloadType.IPMI, payload)  # noqa: FBT003


@given(st.data())
def test_no_changed_byte_of_a_sealed_datagram_is_believed(data: st.DataObject) -> None:
    good = bytearray(_sealed())
    place = data.draw(st.integers(0, len(good) - 1))
    good[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(MalformedDatagram):
        _open(bytes(good), _keys())


def test_other_keys_do_not_open_it() -> None:
    with pytest.raises(MalformedDatagram, match="integrity check"):
        _open(_sealed(), SessionKeys.derive(SUITES[0], b"another key"))


@pytest.mark.parametrize("flags", [0x00, 0x40, 0x80])
def test_a_sessions_datagram_without_protection_is_refused(flags: int) -> None:
    """Else who knows a session's number could speak in it without its keys."""
    data = bytearray(_sealed())
    data[5] = flags
    with pytest.raises(MalformedDatagram, match="encrypted and authenticated"):
        parse_datagram(bytes(data))


def test_a_datagram_without_a_check_is_refused() -> None:
    for cut in range(1, 13):
        data = _sealed()[:-cut]
        with pytest.raises(MalformedDatagram):
            _open(data, _keys())


@given(st.binary(max_size=1100))
def test_random_bytes_break_nothing(data: bytes) -> None:
    for attempt in (data, b"\x06\x00\xff\x07" + data, b"\x06\x00\xff\x07\x06" + data):
        try:
            parsed = parse_datagram(attempt)
            if isinstance(parsed, SealedDatagram):
                open_datagram(parsed, _keys())
            else:
                parse_request(parsed.payload)
        except MalformedDatagram:
            pass


def test_a_flood_is_refused_by_its_size() -> None:
    with pytest.raises(MalformedDatagram):
        parse_datagram(build_plain(PayloadType.IPMI, bytes(1025)))


def test_padding_that_does_not_count_up_is_refused() -> None:
    keys = _keys()
    wrong = keys.encrypt(b"0123456789abcd\x02", VECTOR)  # a last byte of padding that says 0, after one that says 2
    assert keys.decrypt(wrong) == b"0123456789abcd\x02"
    with pytest.raises(MalformedDatagram, match="padding"):
        keys.decrypt(_encrypt_raw(keys, b"0123456789abc\x09\x09\x02"))


def _encrypt_raw(keys: SessionKeys, plain: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # noqa: PLC0415

    encryptor = Cipher(algorithms.AES128(keys.confidentiality), modes.CBC(VECTOR)).encryptor()
    return VECTOR + encryptor.update(plain) + encryptor.finalize()


# -- commands ----------------------------------------------------------------------------------------------------------


def test_a_command_and_its_answer_follow_the_specification() -> None:
    """Get Device ID, as ipmitool sends it: to 20h, from 81h."""
    request = parse_request(bytes.fromhex("2018c8 81 04 01 7a".replace(" ", "")))
    assert request == Request(function=6, command=1, data=b"", requester=0x81, requester_sequence=4, responder_lun=0)
    assert build_response(request, 0, b"\x20") == bytes.fromhex("811c63 20 04 01 00 20 bb".replace(" ", ""))


@given(st.binary(min_size=7, max_size=40))
def test_a_command_with_a_wrong_checksum_is_refused(data: bytes) -> None:
    if sum(data[:3]) & 0xFF or sum(data[3:]) & 0xFF:
        with pytest.raises(MalformedDatagram):
            parse_request(data)


def test_an_answer_is_no_command() -> None:
    with pytest.raises(MalformedDatagram, match="a request"):
        parse_request(bytes.fromhex("811c63" + "200401db"))


# -- sequence numbers --------------------------------------------------------------------------------------------------


def test_a_sequence_number_is_taken_once() -> None:
    window = ReplayWindow()
    window.take(1)
    with pytest.raises(MalformedDatagram):
        window.take(1)


def test_late_ones_are_taken_within_the_window_and_not_beyond() -> None:
    window = ReplayWindow()
    window.take(100)
    window.take(85)
    with pytest.raises(MalformedDatagram):
        window.take(84)
    with pytest.raises(MalformedDatagram):
        window.take(85)


def test_zero_is_never_taken() -> None:
    with pytest.raises(MalformedDatagram):
        ReplayWindow().take(0)
