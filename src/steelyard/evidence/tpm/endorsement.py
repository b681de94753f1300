"""Endorsement certificates: a TPM maker's word that a key lives in a TPM of its making.

Source: TCG EK Credential Profile 2.5, section 3.2 (fields); TCG registry of TPM vendor identifiers.
"""

from collections import deque
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
from steelyard.evidence.tpm.revocation import RevocationList
from steelyard.model.errors import CertificateRejected
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
    revocations  lists of anchors and intermediates; an authority that has one here is believed while it is current.
    demands      what every endorsement certificate must have.
    """

    anchors: tuple[Certificate, ...]
    revocations: tuple[RevocationList, ...]
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
    """Return the certificates from `leaf` to the anchor that is reached first, each verified against the next.

    Shortest first, and no certificate is reached twice: a short chain keeps every path length that a longer one keeps,
    no loop or dead end hides the good chain, and what a stranger sends along costs at most one signature a pair. When
    no chain holds, why the last candidate failed is told.

    Raises CertificateRejected; TooLarge for more than CHAIN_CERTIFICATES intermediates, which bounds the chain too.
    """
    doing = f"building a chain from {leaf.subject()}"
    refuse_over(MAKER_CERTIFICATES, len(trust.anchors), doing)
    refuse_over(CHAIN_CERTIFICATES, len(intermediates), doing)
    constraints = leaf.extension(x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise CertificateRejected(doing, expected="a key's certificate", found="a certification authority's")
    leaf.check_valid_at(now, doing)
    _check_critical(leaf, doing)
    anchors = {anchor.encoded for anchor in trust.anchors}
    reached = {leaf.encoded}
    waiting: deque[tuple[Certificate, ...]] = deque([(leaf,)])
    failure = CertificateRejected(doing, expected="a chain to a trusted maker", found="a loop")
    while waiting:
        chain = waiting.popleft()
        named = [issuer for issuer in (*trust.anchors, *intermediates) if _is_named(issuer, chain[-1])]
        if not named:
            failure = CertificateRejected(
                doing,
                expected=f"the certificate of {chain[-1].issuer()} among the trusted makers'",
                found="none of that name",
            )
        for issuer in named:
            if issuer.encoded in reached:
                continue
            try:
                _check_issued(chain, issuer, trust.revocations, now)
            except CertificateRejected as error:
                failure = error
                continue
            if issuer.encoded in anchors:
                return (*chain, issuer)
            reached.add(issuer.encoded)
            waiting.append((*chain, issuer))
    raise failure


def _is_named(issuer: Certificate, subject: Certificate) -> bool:
    return issuer.fields.subject == subject.fields.issuer


def _check_issued(
    chain: tuple[Certificate, ...], issuer: Certificate, revocations: tuple[RevocationList, ...], now: datetime
) -> None:
    """Return when `issuer` may stand behind the last of `chain`. Raises CertificateRejected."""
    subject = chain[-1]
    subject.verify_issued_by(issuer, now)
    _check_critical(issuer, f"taking {issuer.subject()} as an issuer")
    _check_path_length(issuer, len(chain) - 1)
    for revocation in revocations:
        revocation.check_not_revoked(subject, issuer, now)


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
