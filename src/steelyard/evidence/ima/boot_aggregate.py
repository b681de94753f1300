"""Ties an IMA list to the boot that was quoted: its first entry holds the boot PCRs as the kernel read them.

The digest is the hash, with the algorithm of a bank, of that bank's PCR 0 to 9 one after another (since Linux 5.8; of a
SHA-1 bank PCR 0 to 7, which proves nothing here). The kernel takes the bank of its `ima_hash`, else the SHA-256 bank,
else the SHA-1 bank. A kernel that found no TPM writes zeros.

Source: ima_calc_boot_aggregate and ima_calc_boot_aggregate_tfm in security/integrity/ima/ima_crypto.c of Linux 6.12.
"""

from collections.abc import Iterator
from typing import Final

from steelyard.evidence.findings import Finding, Reason
from steelyard.evidence.ima.parse import FileDigest
from steelyard.evidence.ima.records import DigestKind
from steelyard.model.pcrs import PcrValues

BOOT_PCRS: Final = frozenset(range(10))
"""What must be quoted, so that a boot_aggregate can be checked."""


def judge_boot_aggregate(digest: FileDigest, quoted: PcrValues, where: str) -> Iterator[Finding]:
    """Yield what is wrong with the digest of a boot_aggregate, by the PCRs that were quoted."""
    if digest.algorithm is not quoted.bank or not quoted.values.keys() >= BOOT_PCRS:
        yield Finding(
            Reason.MISSING_EVIDENCE,
            where,
            "boot_aggregate",
            f"PCR 0 to 9 quoted in the {digest.algorithm.label} bank, which this kernel took",
            f"PCR {', '.join(map(str, sorted(quoted.values)))} in {quoted.bank.label}",
        )
        return
    expected = FileDigest(DigestKind.IMA, quoted.bank, quoted.bank.digest(quoted.of(BOOT_PCRS)))
    if digest != expected:
        found = str(digest)
        yield Finding(
            Reason.IMA_BOOT_AGGREGATE, where, "boot_aggregate", f"{expected}, of the quoted PCR 0 to 9", found
        )
