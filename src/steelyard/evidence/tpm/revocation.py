"""Revocation lists: which certificates their issuer has taken back. Source: RFC 5280, section 5."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509

from steelyard.evidence.reader import refuse_over
from steelyard.evidence.tpm.certificate import UNREADABLE, Certificate
from steelyard.model.errors import CertificateRejected, MalformedCertificate
from steelyard.model.limits import REVOCATION_LIST_BYTES

_DOING: Final = "reading a revocation list"


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A list, read; nothing about it is verified.

    revoked  serial number -> since when it is not to be believed.
    """

    fields: x509.CertificateRevocationList
    revoked: Mapping[int, datetime]

    def check_not_revoked(self, certificate: Certificate, issuer: Certificate, now: datetime) -> None:
        """Return when `certificate`, which `issuer` signed, is not on this list, or the list is another authority's.

        Raises CertificateRejected; also for a list of `issuer` that is not its own, not current, or not whole: an
        attacker who can hold back or thin out the list would otherwise undo every revocation.
        """
        if self.fields.issuer != issuer.fields.subject:
            return
        doing = f"looking up whether {certificate.subject()} is revoked"
        usage = issuer.extension(x509.KeyUsage)
        if usage is not None and not usage.crl_sign:
            raise CertificateRejected(doing, expected="an issuer that may sign revocation lists", found="key usage")
        issuer.verify_signature(self.fields, self.fields.tbs_certlist_bytes, doing)
        start, end = self.fields.last_update_utc, self.fields.next_update_utc
        if end is None or not start <= now <= end:
            raise CertificateRejected(
                doing,
                expected=f"a revocation list in force at {now.isoformat()}",
                found=f"one for {start.isoformat()} to {end.isoformat() if end else 'no date'}",
            )
        for extension in self.fields.extensions:
            # What is critical in a list narrows what it speaks of: some reasons, some certificates, only changes.
            if extension.critical or isinstance(extension.value, x509.DeltaCRLIndicator):
                raise CertificateRejected(
                    doing, expected="a list of all that is revoked", found=f"extension {extension.oid.dotted_string}"
                )
        since = self.revoked.get(certificate.fields.serial_number)
        if since is not None:
            raise CertificateRejected(
                doing, expected="a certificate in force", found=f"one revoked at {since.isoformat()}"
            )


def parse_revocation_list(data: bytes) -> RevocationList:
    """Return the revocation list in `data`, DER or PEM. Raises MalformedCertificate, TooLarge."""
    refuse_over(REVOCATION_LIST_BYTES, len(data), _DOING)
    read = x509.load_pem_x509_crl if data.lstrip().startswith(b"-----BEGIN") else x509.load_der_x509_crl
    try:
        fields = read(data)
        # What the library reads when first asked is read now, so that nothing malformed is met later.
        _ = (fields.issuer, fields.extensions, fields.last_update_utc, fields.next_update_utc)
        _ = (fields.signature_hash_algorithm, fields.signature_algorithm_parameters)
        return RevocationList(fields, {entry.serial_number: entry.revocation_date_utc for entry in fields})
    except UNREADABLE as error:
        raise MalformedCertificate(_DOING, expected="an X.509 revocation list", found=str(error)) from error
