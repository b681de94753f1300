"""Hostile bytes against everything that reads what a TPM, its maker or a node sends: nothing but our own errors leaves.

Good structures are damaged byte by byte and, where the format is a tree, element by element; much is then signed by the
right key, so that what stands behind the signature is reached as well.
"""

import base64
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from steelyard.evidence.keysplit import NodeBoot, open_payload, open_share, seal_payload, seal_share
from steelyard.evidence.tpm.activation import CredentialBlob, parse_credential_file
from steelyard.evidence.tpm.attest import (
    TpmsAttest,
    TpmsCertifyInfo,
    TpmsClockInfo,
    TpmsQuoteInfo,
    parse_tpms_attest,
)
from steelyard.evidence.tpm.certificate import Certificate, parse_certificate
from steelyard.evidence.tpm.certify import verify_certify
from steelyard.evidence.tpm.endorsement import MakerTrust, verify_endorsement
from steelyard.evidence.tpm.identifiers import TpmAlg
from steelyard.evidence.tpm.keys import (
    check_attestation_key,
    check_endorsement_key,
    default_scheme_of_pem,
    parse_signing_key_pem,
)
from steelyard.evidence.tpm.nonce import PlainNonce
from steelyard.evidence.tpm.pcr_file import parse_pcr_file
from steelyard.evidence.tpm.public import parse_tpm2b_public, parse_tpmt_public
from steelyard.evidence.tpm.quote import SignedQuote, verify_quote
from steelyard.evidence.tpm.revocation import parse_revocation_list
from steelyard.evidence.tpm.selection import TpmlPcrSelection, TpmsPcrSelection
from steelyard.evidence.tpm.signature import parse_tpmt_signature
from steelyard.model.errors import EvidenceRejected, Malformed
from steelyard.model.pcrs import PcrSelection, PcrValues
from steelyard.model.secret import Secret
from tests.unit.evidence.tpm.authorities import AUTHORITY, LEAF, NOW, children, element, resigned, root
from tests.unit.evidence.tpm.keypairs import (
    P384,
    SHA256,
    Signer,
    ecc_key,
    ecdsa,
    endorsement_area,
    rsa_key,
    rsassa,
)
from tests.unit.evidence.tpm.test_pcr_file import pcr_file

NONCE: Final = PlainNonce(bytes(range(32)))
PCRS: Final = PcrValues(SHA256, {index: bytes([index]) * 32 for index in (0, 7, 10)})
ASKED: Final = PcrSelection(SHA256, frozenset(PCRS.values))
CLOCK: Final = TpmsClockInfo(1, 2, 3, safe=True)
SIGNER: Final = b"\x00\x0b" + bytes(32)
QUOTE: Final = TpmsAttest(
    SIGNER,
    NONCE.nonce,
    CLOCK,
    4,
    TpmsQuoteInfo(TpmlPcrSelection((TpmsPcrSelection(SHA256, b"\x81\x04\x00"),)), SHA256.digest(PCRS.of(PCRS.values))),
).to_bytes()
CERTIFY: Final = TpmsAttest(
    SIGNER, NONCE.nonce, CLOCK, 4, TpmsCertifyInfo(ecdsa(1).key().name, ecdsa(1).key().name)
).to_bytes()
MAKER: Final = root()
ISSUING: Final = MAKER.authority("Issuing", ecc_key(P384, 1))
REVOCATIONS: Final = ISSUING.revoke(5, 6).fields.public_bytes(Encoding.DER)
CERTIFICATES: Final = (
    ISSUING.issue("", ecc_key(), LEAF),
    ISSUING.issue("Leaf", rsa_key(), LEAF),
    MAKER.issue("Issuing", ISSUING.private, AUTHORITY),
)
PUBLIC_KEYS: Final = [
    key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for key in (rsa_key(), ecc_key(), ecc_key(P384))
]
TRANSPORT: Final = X25519PrivateKey.from_private_bytes(bytes(range(32)))
NODE: Final = NodeBoot("node-7", b"boot")
KEY: Final = Secret(bytes(range(32)))

STRUCTURES: Final[list[tuple[Callable[[bytes], Any], list[bytes]]]] = [
    (parse_tpms_attest, [QUOTE, CERTIFY]),
    (parse_tpmt_signature, [ecdsa().sign(QUOTE), rsassa().sign(QUOTE)]),
    (parse_tpmt_public, [ecdsa().public().to_bytes(), endorsement_area(rsa_key()).to_bytes()]),
    (parse_credential_file, [CredentialBlob(bytes(32), bytes(34), bytes(256)).to_bytes()]),
]


@st.composite
def damaged(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Good bytes with a few changed, left out, put in or repeated; now and then no good bytes at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300))
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from((0, 1, 1, 2, 4, 32))))
        put = draw(
            st.binary(min_size=end - start, max_size=end - start)
            | st.binary(max_size=8)
            | st.sampled_from((b"", b"\x00", b"\xff", b"\xff\xff", b"\x00\x00\x00\x00", data[start:end] * 2))
        )
        data = data[:start] + put + data[end:]
    return data


ODD_ELEMENTS: Final = (
    b"\x05\x00",
    b"\x02\x01\x00",
    b"\x02\x01\xff",
    b"\x02\x00",
    b"\x06\x00",
    b"\x06\x01\x80",
    b"\x03\x01\x09",
    b"\x01\x01\x01",
    b"\x0c\x02\xff\xfe",
    b"\x13\x00",
    b"\x1e\x01a",
    b"\x17\x0d491331000000Z",
    b"\x18\x0f99991231235959Z",
    bytes.fromhex("06092a864886f70d010107"),
    bytes.fromhex("06092a864886f70d01010a"),
    bytes.fromhex("0603551d11"),
    bytes.fromhex("0603551d1e"),
    bytes.fromhex("06082a8648ce3d030101"),
)


@st.composite
def damaged_tree(draw: st.DrawFn, seed: bytes) -> bytes:
    """A DER element with one inside it dropped, doubled, replaced, retagged or damaged; all sizes right again."""
    tag, parts = seed[0], _inside(seed)
    if draw(st.integers(0, 5)) and parts:
        place = draw(st.integers(0, len(parts) - 1))
        changed = draw(damaged_tree(parts[place]))
        return element(tag, b"".join([*parts[:place], changed, *parts[place + 1 :]]))
    match draw(st.integers(0, 5)):
        case 0:
            return b""
        case 1:
            return seed + seed
        case 2:
            return draw(st.sampled_from(ODD_ELEMENTS))
        case 3:
            return bytes([draw(st.integers(0, 255))]) + seed[1:]
        case 4:
            return element(tag, draw(damaged([seed[2:]])))
        case _:
            return element(tag, b"".join(draw(st.permutations(parts))))


def _inside(seed: bytes) -> list[bytes]:
    constructed = seed[0] & 0x20 or (seed[0] == 0x04 and len(seed) > 4 and seed[2] == 0x30)
    return children(seed) if constructed else []


@pytest.mark.parametrize(("parse", "seeds"), STRUCTURES, ids=lambda value: getattr(value, "__name__", ""))
@given(data=st.data())
def test_a_damaged_structure_is_refused_or_written_as_it_was_read(
    parse: Callable[[bytes], Any], seeds: list[bytes], data: st.DataObject
) -> None:
    hostile = data.draw(damaged(seeds))
    try:
        read = parse(hostile)
    except Malformed:
        return
    assert read.to_bytes() == hostile


@given(damaged([ecdsa().public().to_bytes(), rsassa().public().to_bytes(), endorsement_area(ecc_key()).to_bytes()]))
def test_a_damaged_key_is_refused_or_usable(area: bytes) -> None:
    for check in (check_attestation_key, check_endorsement_key):
        try:
            assert check(parse_tpm2b_public(len(area).to_bytes(2) + area)).public.to_bytes() == area
        except (Malformed, EvidenceRejected):
            continue


@given(damaged([QUOTE, CERTIFY]), damaged([ecdsa().sign(QUOTE), rsassa().sign(QUOTE)]), st.booleans())
def test_a_damaged_quote_is_refused_or_says_what_was_asked(message: bytes, signature: bytes, resign: bool) -> None:  # noqa: FBT001
    for signer in (ecdsa(), rsassa()):
        quote = signer.quote(message) if resign else SignedQuote(message, signature)
        try:
            verify_quote(quote, signer.bound(), NONCE, ASKED, PCRS)
        except (Malformed, EvidenceRejected):
            continue
        attest = parse_tpms_attest(message)
        assert attest.extra_data == NONCE.nonce
        assert attest.attested == parse_tpms_attest(QUOTE).attested


@given(damaged([CERTIFY, QUOTE]))
def test_a_damaged_certification_is_refused_or_says_what_was_asked(message: bytes) -> None:
    try:
        verify_certify(message, rsassa().sign(message), rsassa().key(), ecdsa(1).key(), NONCE)
    except (Malformed, EvidenceRejected):
        return
    attested = parse_tpms_attest(message).attested
    assert isinstance(attested, TpmsCertifyInfo)
    assert attested.name == ecdsa(1).key().name


@given(damaged([pcr_file(PCRS), pcr_file(PCRS, PcrValues(SHA256, {1: bytes(32)}))]))
def test_a_damaged_pcr_file_is_refused_or_written_as_it_was_read(data: bytes) -> None:
    try:
        banks = parse_pcr_file(data)
    except Malformed:
        return
    assert parse_pcr_file(pcr_file(*banks)) == banks


def _judge(data: bytes) -> None:
    """Read a certificate and use all of it, as an endorsement certificate and as an intermediate."""
    try:
        certificate = parse_certificate(data)
    except Malformed:
        return
    for leaf, along in ((certificate, ISSUING.certificate), (CERTIFICATES[0], certificate)):
        _verify(leaf, along)


def _verify(leaf: Certificate, intermediate: Certificate) -> None:
    lists = (parse_revocation_list(REVOCATIONS),)
    with suppress(Malformed, EvidenceRejected):
        verify_endorsement(leaf, [intermediate], MakerTrust((MAKER.certificate,), lists, frozenset()), NOW)


@given(damaged([certificate.encoded for certificate in CERTIFICATES]))
def test_a_damaged_certificate_is_refused_or_usable(data: bytes) -> None:
    _judge(data)


@given(st.sampled_from(CERTIFICATES).flatmap(lambda certificate: damaged_tree(certificate.encoded)))
def test_a_certificate_with_a_damaged_element_is_refused_or_usable(data: bytes) -> None:
    _judge(data)


@given(st.data())
def test_a_certificate_with_a_damaged_element_signed_all_the_same_is_refused_or_usable(data: st.DataObject) -> None:
    certificate = data.draw(st.sampled_from(CERTIFICATES))
    issuer = MAKER if certificate is CERTIFICATES[2] else ISSUING
    place = data.draw(st.integers(0, 7))

    def change(fields: list[bytes]) -> list[bytes]:
        return [*fields[:place], data.draw(damaged_tree(fields[place])), *fields[place + 1 :]]

    _judge(resigned(certificate, issuer.private, change))


@given(damaged_tree(REVOCATIONS) | damaged([REVOCATIONS]))
def test_a_damaged_revocation_list_is_refused_or_usable(data: bytes) -> None:
    try:
        revocations = parse_revocation_list(data)
    except Malformed:
        return
    trust = MakerTrust((ISSUING.certificate,), (revocations,), frozenset())
    with suppress(EvidenceRejected):
        verify_endorsement(CERTIFICATES[0], [], trust, NOW)


@given(st.sampled_from(PUBLIC_KEYS).flatmap(lambda seed: damaged_tree(seed) | damaged([seed])))
def test_a_damaged_pem_key_is_refused_or_usable(encoded: bytes) -> None:
    pem = b"-----BEGIN PUBLIC KEY-----\n" + base64.encodebytes(encoded) + b"-----END PUBLIC KEY-----\n"
    for scheme in (TpmAlg.RSASSA, TpmAlg.ECDSA):
        try:
            default_scheme_of_pem(pem)
            parse_signing_key_pem(pem, scheme, SHA256).verify(Signer(ecc_key(), scheme).sign(b""), b"", "verifying")
        except (Malformed, EvidenceRejected):
            continue


@given(
    damaged([seal_share(KEY, TRANSPORT.public_key().public_bytes_raw(), TRANSPORT, NODE)]),
    damaged([seal_payload(KEY, Secret(b"payload"), bytes(12), NODE)]),
)
def test_a_damaged_share_or_payload_is_refused_or_what_was_sealed(share: bytes, box: bytes) -> None:
    with suppress(Malformed, EvidenceRejected):
        assert open_share(share, TRANSPORT, NODE) == KEY
    with suppress(Malformed, EvidenceRejected):
        assert open_payload(KEY, box, NODE) == Secret(b"payload")


def test_what_is_damaged_here_is_good_to_begin_with() -> None:
    for parse, seeds in STRUCTURES:
        for seed in seeds:
            parse(seed)
    verify_quote(ecdsa().quote(QUOTE), ecdsa().bound(), NONCE, ASKED, PCRS)
    verify_certify(CERTIFY, rsassa().sign(CERTIFY), rsassa().key(), ecdsa(1).key(), NONCE)
    trust = MakerTrust((MAKER.certificate,), (parse_revocation_list(REVOCATIONS),), frozenset())
    verify_endorsement(CERTIFICATES[0], [CERTIFICATES[2]], trust, NOW)
