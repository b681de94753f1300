"""TPM2_Certify: a key that is trusted already attests that another lives in the same TPM.

This is how an IAK (initial attestation key, whose IDevID-style certificate the machine's maker issued) vouches for the
attestation key of an installation. Source: TPM 2.0 Library Part 3, TPM2_Certify; TCG TPM 2.0 Keys for Device Identity
and Attestation 1.0, sections 5 and 6.
"""

import hmac
from typing import Final

from steelyard.evidence.reader import refuse_over
from steelyard.evidence.tpm.attest import TpmsCertifyInfo, parse_tpms_attest
from steelyard.evidence.tpm.keys import AttestationKey, BoundKey, CertifiedBy
from steelyard.evidence.tpm.nonce import Challenge
from steelyard.model.errors import BindingRejected, Malformed
from steelyard.model.limits import TPM_STRUCTURE_BYTES

_DOING: Final = "verifying that one key certifies another"


def verify_certify(
    attest: bytes, signature: bytes, certifying: AttestationKey, certified: AttestationKey, challenge: Challenge
) -> BoundKey:
    """Return `certified`, now known to live in the TPM of `certifying`.

    attest      TPMS_ATTEST of kind certify, big-endian, as the TPM sent it.
    signature   TPMT_SIGNATURE over it by `certifying`, whose own standing the caller has checked (IAK certificate).
    challenge   ours: stops the replay of a certification made for another node or at another time (attack 6).

    Both keys are restricted and fixed to their TPM, so that a certification between two TPMs cannot come about: the
    certifying TPM must have the certified key loaded.

    Raises MalformedTpmStructure, TooLarge; BadSignature, BindingRejected.
    """
    refuse_over(TPM_STRUCTURE_BYTES, len(attest), _DOING)
    certifying.signing.verify(signature, attest, _DOING)
    try:
        read = parse_tpms_attest(attest)
    except Malformed as error:
        raise BindingRejected(_DOING, expected=error.expected, found=error.found) from error
    if not isinstance(read.attested, TpmsCertifyInfo):
        raise BindingRejected(_DOING, expected="an attestation of a key", found="an attestation of PCRs")
    if not hmac.compare_digest(read.extra_data, challenge.qualifying_data()):
        raise BindingRejected(
            _DOING,
            expected=f"qualifying data {challenge.qualifying_data().hex()}",
            found=read.extra_data.hex() or "none",
        )
    if not hmac.compare_digest(read.attested.name, certified.name):
        raise BindingRejected(_DOING, expected=f"Name {certified.name.hex()}", found=read.attested.name.hex() or "none")
    return BoundKey(certified.signing, CertifiedBy(certifying.name))
