"""RMCP+ datagrams and their keys: bytes to checked fields and back. Pure, but for the entropy it is given.

Source: Intelligent Platform Management Interface Specification 2.0, revision 1.1, chapter 13. Little-endian.
"""

import hmac
import itertools
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from steelyard.model.errors import MalformedDatagram

DATAGRAM_BYTES: Final = 1024
"""More than the largest that either side sends: a serial-over-LAN packet of 255 characters."""

_RMCP: Final = b"\x06\x00\xff\x07"
"""RMCP version 1.0, no acknowledgement, class IPMI. Source: section 13.1.3."""
_FORMAT_NONE: Final = 0x00
_FORMAT_RMCP_PLUS: Final = 0x06
_NEXT_HEADER: Final = 0x07
_ENCRYPTED: Final = 0x80
_AUTHENTICATED: Final = 0x40
_BLOCK: Final = 16


class PayloadType(IntEnum):
    """What a datagram carries. Source: section 13.27.3."""

    IPMI = 0x00
    SOL = 0x01
    OPEN_SESSION_REQUEST = 0x10
    OPEN_SESSION_RESPONSE = 0x11
    RAKP_1 = 0x12
    RAKP_2 = 0x13
    RAKP_3 = 0x14
    RAKP_4 = 0x15


@dataclass(frozen=True, slots=True)
class Suite:
    """A cipher suite: authentication, integrity and AES-CBC-128, all by one hash. Source: section 22.15.2."""

    number: int
    authentication: int
    integrity: int
    hash_name: str
    check_size: int
    """Of an integrity check, in bytes: the hash cut short."""

    def mac(self, key: bytes, message: bytes) -> bytes:
        """Return the keyed hash."""
        return hmac.digest(key, message, self.hash_name)


CONFIDENTIALITY: Final = 1
"""AES-CBC-128, of every suite here."""
SUITES: Final = (Suite(3, 1, 1, "sha1", 12), Suite(17, 3, 4, "sha256", 16))


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """What both sides derive from the password and their random numbers. Source: sections 13.31 and 13.32."""

    suite: Suite
    integrity: bytes
    confidentiality: bytes

    @classmethod
    def derive(cls, suite: Suite, session_integrity_key: bytes) -> "SessionKeys":
        """Return the keys K1 and the first half of K2."""
        k1, k2 = (suite.mac(session_integrity_key, bytes([constant]) * 20) for constant in (1, 2))
        return cls(suite, k1, k2[:_BLOCK])

    def encrypt(self, payload: bytes, vector: bytes) -> bytes:
        """Return the initialization vector and the payload, padded 1, 2, 3, ... and how many."""
        pad = -(len(payload) + 1) % _BLOCK
        plain = payload + bytes(range(1, pad + 1)) + bytes([pad])
        encryptor = Cipher(algorithms.AES128(self.confidentiality), modes.CBC(vector)).encryptor()
        return vector + encryptor.update(plain) + encryptor.finalize()

    def decrypt(self, sealed: bytes) -> bytes:
        """Return the payload. Raises MalformedDatagram."""
        if len(sealed) < 2 * _BLOCK or len(sealed) % _BLOCK:
            raise _malformed("whole AES blocks after an initialization vector", f"{len(sealed)} bytes")
        decryptor = Cipher(algorithms.AES128(self.confidentiality), modes.CBC(sealed[:_BLOCK])).decryptor()
        plain = decryptor.update(sealed[_BLOCK:]) + decryptor.finalize()
        pad = plain[-1]
        if pad >= _BLOCK or plain[-1 - pad : -1] != bytes(range(1, pad + 1)):
            raise _malformed("padding 1, 2, 3, ...", "another")
        return plain[: -1 - pad]


@dataclass(frozen=True, slots=True)
class PlainDatagram:
    """A datagram outside any session; `legacy` is in the format of IPMI 1.5, in which clients ask what is spoken."""

    legacy: bool
    payload_type: PayloadType
    payload: bytes


@dataclass(frozen=True, slots=True)
class SealedDatagram:
    """A datagram that claims to be of a session: nothing of it is believed until `open_datagram` returned."""

    session: int
    sequence: int
    payload_type: PayloadType
    sealed: bytes
    signed: bytes
    check: bytes


def parse_datagram(data: bytes) -> PlainDatagram | SealedDatagram:
    """Return the datagram's fields. Raises MalformedDatagram for anything that a session's peer would not send."""
    if len(data) > DATAGRAM_BYTES or data[:4] != _RMCP or len(data) < 14:
        raise _malformed("an RMCP datagram of class IPMI", f"{len(data)} bytes that are none")
    if data[4] == _FORMAT_NONE:
        # 4 sequence, 4 session, 1 length. Source: section 13.6. A pad byte may follow.
        payload = data[14 : 14 + data[13]]
        if data[5:13] != bytes(8) or len(payload) != data[13] or len(data) - 14 - len(payload) > 1:
            raise _malformed("an IPMI 1.5 message without a session", "another")
        return PlainDatagram(legacy=True, payload_type=PayloadType.IPMI, payload=payload)
    if data[4] != _FORMAT_RMCP_PLUS or len(data) < 16:
        raise _malformed("RMCP+", f"authentication type {data[4]:#04x}")
    try:
        payload_type = PayloadType(data[5] & 0x3F)
    except ValueError as cause:
        raise _malformed("a payload type of IPMI 2.0", f"{data[5] & 0x3F:#04x}") from cause
    session, sequence = int.from_bytes(data[6:10], "little"), int.from_bytes(data[10:14], "little")
    size = int.from_bytes(data[14:16], "little")
    payload, trailer = data[16 : 16 + size], data[16 + size :]
    if len(payload) != size:
        raise _malformed(f"{size} bytes of payload", f"{len(payload)}")
    if session == 0:
        if data[5] & (_ENCRYPTED | _AUTHENTICATED) or trailer:
            raise _malformed("no protection outside a session", f"{len(trailer)} bytes of it")
        return PlainDatagram(legacy=False, payload_type=payload_type, payload=payload)
    if data[5] & (_ENCRYPTED | _AUTHENTICATED) != _ENCRYPTED | _AUTHENTICATED:
        # Else who knows a session's number could speak in it without its keys.
        raise _malformed("an encrypted and authenticated payload", f"payload type {data[5]:#04x}")
    pad = -(size + 14) % 4
    check = trailer[pad + 2 :]
    if not check or trailer[: pad + 2] != b"\xff" * pad + bytes([pad, _NEXT_HEADER]):
        raise _malformed("an integrity trailer", f"{len(trailer)} bytes")
    return SealedDatagram(session, sequence, payload_type, payload, data[4 : len(data) - len(check)], check)


def open_datagram(datagram: SealedDatagram, keys: SessionKeys) -> bytes:
    """Return the payload, now known to be from who has the keys. Raises MalformedDatagram."""
    expected = keys.suite.mac(keys.integrity, datagram.signed)[: keys.suite.check_size]
    if not hmac.compare_digest(expected, datagram.check):
        raise _malformed("an integrity check by the session's key", "another")
    return keys.decrypt(datagram.sealed)


def build_plain(payload_type: PayloadType, payload: bytes) -> bytes:
    """Return an RMCP+ datagram outside any session."""
    header = bytes([_FORMAT_RMCP_PLUS, payload_type]) + bytes(8)
    return _RMCP + header + len(payload).to_bytes(2, "little") + payload


def build_legacy(payload: bytes) -> bytes:
    """Return an IPMI 1.5 datagram without a session."""
    return _RMCP + bytes([_FORMAT_NONE]) + bytes(8) + bytes([len(payload)]) + payload


def build_sealed(
    session: int, sequence: int, payload_type: PayloadType, payload: bytes, keys: SessionKeys, vector: bytes
) -> bytes:
    """Return an RMCP+ datagram of a session, encrypted and authenticated. `vector`: 16 bytes, never used before."""
    sealed = keys.encrypt(payload, vector)
    pad = -(len(sealed) + 14) % 4
    signed = (
        bytes([_FORMAT_RMCP_PLUS, payload_type | _ENCRYPTED | _AUTHENTICATED])
        + session.to_bytes(4, "little")
        + sequence.to_bytes(4, "little")
        + len(sealed).to_bytes(2, "little")
        + sealed
        + b"\xff" * pad
        + bytes([pad, _NEXT_HEADER])
    )
    return _RMCP + signed + keys.suite.mac(keys.integrity, signed)[: keys.suite.check_size]


# -- IPMI messages, within a payload -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """A command. Source: section 13.8: both addresses and sums, NetFn and LUN in one byte, sequence and LUN in one."""

    function: int
    command: int
    data: bytes
    requester: int
    requester_sequence: int
    responder_lun: int


def parse_request(payload: bytes) -> Request:
    """Return the command. Raises MalformedDatagram."""
    if len(payload) < 7 or sum(payload[:3]) & 0xFF or sum(payload[3:]) & 0xFF:
        raise _malformed("an IPMI message with right checksums", f"{len(payload)} bytes that are none")
    function, lun = payload[1] >> 2, payload[1] & 0x03
    if function & 1:
        raise _malformed("a request", "a response")
    return Request(function, payload[5], payload[6:-1], payload[3], payload[4], lun)


def build_response(request: Request, completion: int, data: bytes) -> bytes:
    """Return the answer to `request`."""
    function = (request.function | 1) << 2 | (request.requester_sequence & 0x03)
    head = bytes([request.requester, function])
    body = bytes([0x20, request.requester_sequence & 0xFC | request.responder_lun, request.command, completion]) + data
    return head + _checksum(head) + body + _checksum(body)


def _checksum(data: bytes) -> bytes:
    return bytes([-sum(data) & 0xFF])


# -- which datagrams were seen already --------------------------------------------------------------------------------


class ReplayWindow:
    """Sequence numbers of one session: each is taken once, and none from long ago. Source: section 6.12.13."""

    _SIZE: Final = 16

    def __init__(self) -> None:
        self._highest = 0
        self._seen: set[int] = set()

    def take(self, sequence: int) -> None:
        """Return if `sequence` is new. Raises MalformedDatagram."""
        if sequence == 0 or sequence <= self._highest - self._SIZE or sequence in self._seen:
            raise _malformed("a sequence number not seen yet", f"{sequence}")
        self._highest = max(self._highest, sequence)
        self._seen = {seen for seen in itertools.chain(self._seen, [sequence]) if seen > self._highest - self._SIZE}


def _malformed(expected: str, found: str) -> MalformedDatagram:
    return MalformedDatagram("reading an RMCP+ datagram", expected=expected, found=found)
