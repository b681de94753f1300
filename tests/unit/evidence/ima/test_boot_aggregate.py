"""The boot_aggregate is the hash of the quoted boot PCRs, or the list is another boot's."""

import hashlib

import pytest

from steelyard.evidence.findings import Finding, Reason
from steelyard.evidence.ima.boot_aggregate import judge_boot_aggregate
from steelyard.evidence.ima.parse import FileDigest
from steelyard.evidence.ima.records import DigestKind
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.pcrs import PcrValues

SHA256 = HashAlgorithm.SHA256


def quoted(bank: HashAlgorithm = SHA256, indices: range = range(11)) -> PcrValues:
    return PcrValues(bank, {index: bytes([index + 1]) * bank.size for index in indices})


def aggregate(bank: HashAlgorithm = SHA256, indices: range = range(10)) -> bytes:
    return hashlib.new(bank.label, b"".join(bytes([index + 1]) * bank.size for index in indices)).digest()


def judged(digest: FileDigest, pcrs: PcrValues) -> list[Finding]:
    return list(judge_boot_aggregate(digest, pcrs, "IMA entry 1"))


@pytest.mark.parametrize("bank", [SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512])
def test_the_hash_of_pcr_0_to_9_is_right(bank: HashAlgorithm) -> None:
    assert judged(FileDigest(DigestKind.IMA, bank, aggregate(bank)), quoted(bank)) == []


@pytest.mark.parametrize("value", [bytes(32), aggregate(indices=range(8)), aggregate(indices=range(11))])
def test_any_other_hash_is_another_boots(value: bytes) -> None:
    (finding,) = judged(FileDigest(DigestKind.IMA, SHA256, value), quoted())
    assert finding.reason is Reason.IMA_BOOT_AGGREGATE
    assert aggregate().hex() in finding.expected
    assert value.hex() in finding.found


def test_an_fs_verity_digest_is_no_boot_aggregate() -> None:
    (finding,) = judged(FileDigest(DigestKind.VERITY, SHA256, aggregate()), quoted())
    assert finding.reason is Reason.IMA_BOOT_AGGREGATE


@pytest.mark.parametrize("missing", range(10))
def test_a_boot_pcr_that_was_not_quoted_is_missing_evidence(missing: int) -> None:
    values = dict(quoted().values)
    del values[missing]
    (finding,) = judged(FileDigest(DigestKind.IMA, SHA256, aggregate()), PcrValues(SHA256, values))
    assert finding.reason is Reason.MISSING_EVIDENCE


@pytest.mark.parametrize("algorithm", [HashAlgorithm.SHA1, HashAlgorithm.SHA384, HashAlgorithm.SM3_256])
def test_a_kernel_that_took_another_bank_is_missing_evidence(algorithm: HashAlgorithm) -> None:
    (finding,) = judged(FileDigest(DigestKind.IMA, algorithm, bytes(algorithm.size)), quoted())
    assert finding.reason is Reason.MISSING_EVIDENCE
    assert algorithm.label in finding.expected
