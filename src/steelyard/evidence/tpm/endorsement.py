"""Endorsement certificates: a TPM maker's word that a key lives in a TPM of its making.

Source: TCG EK Credential Profile 2.5, section 3.2 (fields); TCG registry of TPM vendor identifiers.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtensionOID, ObjectIdentifier

from steelyard.evidence.reader import refuse_over
from steelyard.evidence.tpm.certificate import Certificate
from steelyard.evidence.tpm.keys import AttestationKey, EndorsementKey
from steelyard.model.errors import CertificateRejected, MalformedCertificate
from steelyard.model.limits import CHAIN_CERTIFICATES, MAKER_CERTIFICATES
from steelyard.model.text import printable

_TCG_MANUFACTURER: Final = ObjectIdentifier("2.23.133.2.1")
_TCG_MODEL: Final = ObjectIdentifier("2.23.133.2.2")
_TCG_VERSION: Final = ObjectIdentifier("2.23.133.2.3")
_TCG_KP_EK_CERTIFICATE: Final = ObjectIdentifier("2.23.133.8.1")

_UNDERSTOOD: Final = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.CERTIFICATE_POLICIES,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
    }
)
"""Extensions whose meaning is honoured here, or that only add information; any other that is critical is refused."""


class Demand(StrEnum):
    """What an endorsement certificate must have besides a trusted chain; older makers leave it out."""

    TCG_USAGE = "usage"
    """The extended key usage tcg-kp-EKCertificate."""
    TCG_NAMES = "names"
    """Maker, model and firmware version of the TPM."""


@dataclass(frozen=True, slots=True)
class TpmMake:
    """Who made the TPM, by the names the TCG gives; each None where the certificate does not say.

    manufacturer  the TCG vendor identifier's 4 characters ("STM", "IFX", "NTC"), or as written when not in that form.
    """

    manufacturer: str | None
    model: str | None
    firmware_version: str | None


@dataclass(frozen=True, slots=True)
class MakerTrust:
    """Whom to believe about TPMs.

    anchors      certificates the operator trusts as such: roots, or intermediates whose root is not to be had.
    revocations  current lists of the anchors or of intermediates; an authority with a list here must not be past it.
    demands      what every endorsement certificate must have.
    """

    anchors: tuple[Certificate, ...]
    revocations: tuple[x509.CertificateRevocationList, ...]
    demands: frozenset[Demand]


@dataclass(frozen=True, slots=True)
class VerifiedEndorsement:
    """An endorsement certificate that a trusted maker stands behind.

    chain  from the certificate to the anchor, both included.
    """

    certificate: Certificate
    chain: tuple[Certificate, ...]
    make: TpmMake


def verify_endorsement(
    certificate: Certificate, intermediates: Collection[Certificate], trust: MakerTrust, now: datetime
) -> VerifiedEndorsement:
    """Return the certificate when a trusted maker issued it for an endorsement key, and it holds at `now`.

    intermediates  what came along with the certificate; not trusted, only used to build the chain.

    Raises CertificateRejected (attack 2).
    """
    doing = f"verifying the endorsement certificate {certificate.subject()}"
    _check_usage(certificate, trust.demands, doing)
    make = read_tpm_make(certificate)
    if Demand.TCG_NAMES in trust.demands and None in (make.manufacturer, make.model, make.firmware_version):
        raise CertificateRejected(doing, expected="TPM manufacturer, model and version", found=f"{make}")
    return VerifiedEndorsement(certificate, verify_chain(certificate, intermediates, trust, now), make)


def check_key_matches(endorsement: VerifiedEndorsement, endorsement_key: EndorsementKey) -> None:
    """Return when the certificate is for this very key. Raises CertificateRejected (attack 2)."""
    _check_same_key(endorsement.certificate, endorsement_key.key, "comparing certificate and endorsement key")


def verify_iak(
    certificate: Certificate,
    intermediates: Collection[Certificate],
    iak: AttestationKey,
    trust: MakerTrust,
    now: datetime,
) -> tuple[Certificate, ...]:
    """Return the chain of an initial attestation key's certificate, when it is for this key and a trusted maker's.

    The key itself comes checked (`check_attestation_key`): a certificate for a key that could sign anything is no IAK.
    Raises CertificateRejected.
    """
    _check_same_key(certificate, iak.public.parameters.public_key(), "comparing certificate and IAK")
    return verify_chain(certificate, intermediates, trust, now)


def _check_same_key(certificate: Certificate, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, doing: str) -> None:
    # Numbers are compared, as encodings of one key differ; the kinds' numbers never equal one another.
    if certificate.key.public_numbers() != key.public_numbers():
        raise CertificateRejected(doing, expected="the key in the certificate", found="another key")


def verify_chain(
    leaf: Certificate, intermediates: Collection[Certificate], trust: MakerTrust, now: datetime
) -> tuple[Certificate, ...]:
    """Return the certificates from `leaf` to the first anchor that is reached, each verified against the next.

    Depth first over issuers with the right name, at most CHAIN_CERTIFICATES deep; why the last candidate failed is
    told when none holds. Raises CertificateRejected.
    """
    doing = f"building a chain from {leaf.subject()}"
    refuse_over(MAKER_CERTIFICATES, len(trust.anchors), doing)
    refuse_over(CHAIN_CERTIFICATES, len(intermediates), doing)
    constraints = leaf.extension(x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise CertificateRejected(doing, expected="a key's certificate", found="a certification authority's")
    leaf.check_valid_at(now, doing)
    _check_critical(leaf, doing)
    chain: tuple[Certificate, ...] = (leaf,)
    while len(chain) <= CHAIN_CERTIFICATES.most:
        issuer, is_anchor = _find_issuer(chain, intermediates, trust, now)
        chain = (*chain, issuer)
        if is_anchor:
            return chain
    raise CertificateRejected(
        doing, expected=f"a chain of at most {CHAIN_CERTIFICATES.most}", found="a longer one, or a loop"
    )


def _find_issuer(
    chain: tuple[Certificate, ...], intermediates: Collection[Certificate], trust: MakerTrust, now: datetime
) -> tuple[Certificate, bool]:
    """Return who issued the last of `chain`, and whether that is an anchor; anchors are tried first."""
    subject = chain[-1]
    failures = []
    for is_anchor, candidates in ((True, trust.anchors), (False, intermediates)):
        for candidate in candidates:
            if candidate.fields.subject != subject.fields.issuer:
                continue
            try:
                subject.verify_issued_by(candidate, now)
                _check_critical(candidate, f"taking {candidate.subject()} as an issuer")
                _check_path_length(candidate, len(chain) - 1)
                _check_not_revoked(subject, candidate, trust.revocations, now)
            except CertificateRejected as error:
                failures.append(error)
            else:
                return candidate, is_anchor
    if failures:
        raise failures[-1]
    raise CertificateRejected(
        f"building a chain from {chain[0].subject()}",
        expected=f"the certificate of {subject.issuer()} among the trusted makers'",
        found="none of that name",
    )


def _check_path_length(issuer: Certificate, authorities_below: int) -> None:
    most = issuer.path_length()
    if most is not None and authorities_below > most:
        raise CertificateRejected(
            f"taking {issuer.subject()} as an issuer",
            expected=f"at most {most} authorities below it",
            found=f"{authorities_below}",
        )


def _check_critical(certificate: Certificate, doing: str) -> None:
    for extension in certificate.fields.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise CertificateRejected(
                doing, expected="critical extensions that are understood", found=extension.oid.dotted_string
            )


def _check_not_revoked(
    certificate: Certificate,
    issuer: Certificate,
    revocations: tuple[x509.CertificateRevocationList, ...],
    now: datetime,
) -> None:
    doing = f"looking up whether {certificate.subject()} is revoked"
    for revocation in revocations:
        if revocation.issuer != issuer.fields.subject:
            continue
        if not revocation.is_signature_valid(issuer.key):
            raise CertificateRejected(doing, expected="a list signed by the issuer", found="one that is not")
        end = revocation.next_update_utc
        if end is None or not revocation.last_update_utc <= now <= end:
            # An attacker who can hold back the list would otherwise undo every revocation.
            raise CertificateRejected(doing, expected="a current revocation list", found=f"one that ended at {end}")
        entry = revocation.get_revoked_certificate_by_serial_number(certificate.fields.serial_number)
        if entry is not None:
            raise CertificateRejected(
                doing,
                expected="a certificate in force",
                found=f"one revoked at {entry.revocation_date_utc.isoformat()}",
            )


def _check_usage(certificate: Certificate, demands: frozenset[Demand], doing: str) -> None:
    usages = certificate.extension(x509.ExtendedKeyUsage)
    if usages is None:
        if Demand.TCG_USAGE in demands:
            raise CertificateRejected(doing, expected="extended key usage tcg-kp-EKCertificate", found="none")
    elif _TCG_KP_EK_CERTIFICATE not in usages:
        raise CertificateRejected(
            doing,
            expected="extended key usage tcg-kp-EKCertificate",
            found=", ".join(usage.dotted_string for usage in usages),
        )
    usage = certificate.extension(x509.KeyUsage)
    may_decrypt = usage is None or usage.key_encipherment or usage.key_agreement
    if not may_decrypt:
        raise CertificateRejected(doing, expected="key usage keyEncipherment or keyAgreement", found="neither")


def read_tpm_make(certificate: Certificate) -> TpmMake:
    """Return maker, model and firmware version; from the subject alternative name, else from the subject."""
    names = {attribute.oid: attribute.value for attribute in _attributes(certificate)}
    values = [names.get(oid) for oid in (_TCG_MANUFACTURER, _TCG_MODEL, _TCG_VERSION)]
    shown = [None if value is None else printable(value) for value in values]
    return TpmMake(_vendor(shown[0]), shown[1], shown[2])


def _attributes(certificate: Certificate) -> Iterator[x509.NameAttribute[str | bytes]]:
    yield from certificate.fields.subject
    alternative = certificate.extension(x509.SubjectAlternativeName)
    for name in alternative.get_values_for_type(x509.DirectoryName) if alternative else ():
        yield from name


def _vendor(written: str | None) -> str | None:
    """Return "id:53544D20" as "STM"."""
    if written is None or not written.startswith("id:") or len(written) != 11:
        return written
    try:
        return printable(bytes.fromhex(written[3:]).rstrip(b"\x00 "))
    except ValueError:
        return written


def parse_revocation_list(data: bytes) -> x509.CertificateRevocationList:
    """Return the revocation list in `data`, DER or PEM. Raises MalformedCertificate."""
    try:
        if data.lstrip().startswith(b"-----BEGIN"):
            return x509.load_pem_x509_crl(data)
        return x509.load_der_x509_crl(data)
    except ValueError as error:
        raise MalformedCertificate("reading a revocation list", expected="an X.509 CRL", found=str(error)) from error
