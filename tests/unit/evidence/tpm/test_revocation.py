"""Attack 2: what a maker took back stays taken back, even when somebody holds back, forges or thins out the list."""

from datetime import timedelta
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ObjectIdentifier

from steelyard.evidence.tpm.certificate import Certificate
from steelyard.evidence.tpm.endorsement import MakerTrust, verify_chain
from steelyard.evidence.tpm.revocation import RevocationList, parse_revocation_list
from steelyard.model.errors import CertificateRejected, MalformedCertificate, TooLarge
from steelyard.model.limits import REVOCATION_LIST_BYTES
from tests.unit.evidence.tpm.authorities import (
    AUTHORITY,
    DAY,
    LEAF,
    NOW,
    children,
    element,
    having,
    key_usage,
    root,
    rsa_root,
    sign,
    without,
)
from tests.unit.evidence.tpm.keypairs import P384, ecc_key, rsa_key

ROOT: Final = root()
ISSUING: Final = ROOT.authority("Issuing", ecc_key(P384, 1), serial=77)
LEAF_CERTIFICATE: Final = ISSUING.issue("", ecc_key(), LEAF, serial=1234)


def verify(*revocations: RevocationList, leaf: Certificate = LEAF_CERTIFICATE) -> tuple[Certificate, ...]:
    trust = MakerTrust((ROOT.certificate,), revocations, frozenset())
    return verify_chain(leaf, [ISSUING.certificate], trust, NOW)


def encoded(revocations: RevocationList) -> bytes:
    return revocations.fields.public_bytes(Encoding.DER)


def test_a_certificate_that_no_list_names_holds() -> None:
    assert len(verify(ISSUING.revoke(), ROOT.revoke(1234), ISSUING.revoke(1, 1233, 1235))) == 3


def test_attack_2_a_revoked_certificate_is_refused() -> None:
    with pytest.raises(CertificateRejected, match="revoked at"):
        verify(ISSUING.revoke(1, 1234))


def test_attack_2_a_certificate_under_a_revoked_authority_is_refused() -> None:
    with pytest.raises(CertificateRejected, match="revoked at"):
        verify(ROOT.revoke(77))


def test_attack_2_every_list_of_an_authority_counts() -> None:
    for lists in ((ISSUING.revoke(), ISSUING.revoke(1234)), (ISSUING.revoke(1234), ISSUING.revoke())):
        with pytest.raises(CertificateRejected, match="revoked at"):
            verify(*lists)


@pytest.mark.parametrize(
    ("start", "end"), [(-3 * DAY, -DAY), (DAY, 3 * DAY), (-3 * DAY, -timedelta(seconds=1))], ids=["old", "new", "just"]
)
def test_attack_2_a_list_that_is_not_current_is_refused(start: timedelta, end: timedelta) -> None:
    with pytest.raises(CertificateRejected, match="in force"):
        verify(ISSUING.revoke(start=NOW + start, end=NOW + end))


def test_attack_2_a_list_without_an_end_is_refused() -> None:
    fields = children(children(encoded(ISSUING.revoke()))[0])
    times = [place for place, field in enumerate(fields) if field[0] in (0x17, 0x18)]
    assert len(times) == 2
    content = element(0x30, b"".join(fields[: times[1]] + fields[times[1] + 1 :]))
    signature = sign(ISSUING.private, content)
    endless = parse_revocation_list(element(0x30, content + fields[1] + element(0x03, b"\x00" + signature)))
    assert endless.fields.next_update_utc is None
    with pytest.raises(CertificateRejected, match="no date"):
        verify(endless)


def test_attack_2_a_list_by_another_key_is_refused() -> None:
    with pytest.raises(CertificateRejected, match="by the issuer's key"):
        verify(ISSUING.revoke(private=ecc_key(P384, 5)))
    with pytest.raises(CertificateRejected, match="scheme"):
        verify(ISSUING.revoke(private=rsa_key()))


def test_attack_2_a_list_with_any_signed_byte_changed_is_refused() -> None:
    data = encoded(ISSUING.revoke(1234))
    signed = ISSUING.revoke(1234).fields.tbs_certlist_bytes
    start = data.index(signed)
    for place in range(start, start + len(signed)):
        damaged = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        _is_refused_or_another_authoritys(damaged)


def _is_refused_or_another_authoritys(data: bytes) -> None:
    try:
        read = parse_revocation_list(data)
    except MalformedCertificate:
        return
    if read.fields.issuer == ISSUING.certificate.fields.subject:
        with pytest.raises(CertificateRejected):
            verify(read)


def test_a_list_of_an_authority_that_may_not_sign_lists_is_refused() -> None:
    issuer = ROOT.authority("Issuing", ISSUING.private, having(AUTHORITY, key_usage(issue=True)))
    trust = MakerTrust((ROOT.certificate,), (issuer.revoke(),), frozenset())
    with pytest.raises(CertificateRejected, match="may sign revocation lists"):
        verify_chain(LEAF_CERTIFICATE, [issuer.certificate], trust, NOW)


def test_an_authority_without_key_usage_may_sign_lists() -> None:
    issuer = ROOT.authority("Issuing", ISSUING.private, without(AUTHORITY, x509.KeyUsage))
    trust = MakerTrust((ROOT.certificate,), (issuer.revoke(),), frozenset())
    assert len(verify_chain(LEAF_CERTIFICATE, [issuer.certificate], trust, NOW)) == 3


NARROWED: Final = x509.IssuingDistributionPoint(
    full_name=None,
    relative_name=None,
    only_contains_user_certs=False,
    only_contains_ca_certs=True,
    only_some_reasons=None,
    indirect_crl=False,
    only_contains_attribute_certs=False,
)


@pytest.mark.parametrize(
    ("extension", "critical"),
    [
        (NARROWED, True),
        (x509.DeltaCRLIndicator(3), True),
        (x509.DeltaCRLIndicator(3), False),
        (x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00"), True),
    ],
)
def test_attack_2_a_list_that_does_not_speak_of_everything_is_refused(
    extension: x509.ExtensionType, *, critical: bool
) -> None:
    with pytest.raises(CertificateRejected, match="all that is revoked"):
        verify(ISSUING.revoke(extensions=[(extension, critical)]))


def test_a_numbered_list_holds() -> None:
    verify(ISSUING.revoke(extensions=[(x509.CRLNumber(7), False)]))


def test_attack_2_a_list_over_sha1_is_refused() -> None:
    maker = rsa_root()
    leaf = maker.issue("", ecc_key(), LEAF, serial=1234)
    fields = children(children(encoded(maker.revoke()))[0])
    weak = bytes.fromhex("300d06092a864886f70d0101050500")
    content = element(0x30, b"".join([fields[0], weak, *fields[2:]]))
    signature = rsa_key().sign(content, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303  what is to be refused
    read = parse_revocation_list(element(0x30, content + weak + element(0x03, b"\x00" + signature)))
    with pytest.raises(CertificateRejected, match="SHA-256"):
        verify_chain(leaf, [], MakerTrust((maker.certificate,), (read,), frozenset()), NOW)


# -- reading -----------------------------------------------------------------------------------------------------------


def test_pem_is_read_as_the_same_list() -> None:
    made = ISSUING.revoke(5, 6)
    read = parse_revocation_list(made.fields.public_bytes(Encoding.PEM))
    assert encoded(read) == encoded(made)
    assert read.revoked == {5: NOW - DAY, 6: NOW - DAY}


def test_a_list_cut_anywhere_or_followed_by_anything_is_refused() -> None:
    data = encoded(ISSUING.revoke(5))
    for wrong in [data[:end] for end in range(len(data))] + [data + b"\x00", data + data]:
        with pytest.raises(MalformedCertificate):
            parse_revocation_list(wrong)


def test_a_list_with_an_entry_that_is_none_is_refused_when_it_is_read() -> None:
    data = encoded(ISSUING.revoke(5))
    date = (NOW - DAY).strftime("%y%m%d%H%M%SZ").encode()
    assert data.count(date) == 2, "last update and revocation"
    place = data.rindex(date)
    with pytest.raises(MalformedCertificate):
        parse_revocation_list(data[:place] + b"99" * 6 + b"Z" + data[place + 13 :])


@pytest.mark.parametrize("data", [b"", b"\x30\x00", b"-----BEGIN X509 CRL-----\n", LEAF_CERTIFICATE.encoded])
def test_what_is_no_list_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedCertificate):
        parse_revocation_list(data)


def test_a_huge_list_is_refused_unread() -> None:
    with pytest.raises(TooLarge):
        parse_revocation_list(bytes(REVOCATION_LIST_BYTES.most + 1))
