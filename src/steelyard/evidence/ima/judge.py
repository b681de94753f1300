"""Judges what a kernel measured while it ran, once the list is proven to be the one behind the quoted PCR 10."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from steelyard.evidence.findings import Finding, Reason
from steelyard.evidence.ima.boot_aggregate import judge_boot_aggregate
from steelyard.evidence.ima.parse import (
    BOOT_AGGREGATE,
    ImaEntry,
    MeasuredBuffer,
    MeasuredFile,
    Violation,
    decode_record,
)
from steelyard.evidence.ima.path_globs import PathGlob
from steelyard.evidence.ima.policy import RuntimePolicy
from steelyard.evidence.ima.records import IMA_PCR
from steelyard.evidence.ima.replay import ImaExcerpt, ImaPosition, replay
from steelyard.evidence.ima.signatures import verify_file_signature
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import FileSignatureRejected, WrongUse
from steelyard.model.pcrs import PcrValues
from steelyard.model.text import printable


@dataclass(frozen=True, slots=True)
class ImaAppraisal:
    """What was found in the entries up to the quote.

    position    to go on from, at the quoted value.
    judged      entries that were judged now; `waiting` came after the quote.
    findings    everything that is wrong; each bad entry is in it, not only the first.
    exclusions_used, violations_tolerated  the globs without which there were more findings -> for how many entries.
    """

    position: ImaPosition
    judged: int
    waiting: int
    findings: tuple[Finding, ...]
    exclusions_used: Mapping[str, int]
    violations_tolerated: Mapping[str, int]


def judge_ima(
    excerpt: ImaExcerpt, position: ImaPosition, quoted: PcrValues, policy: RuntimePolicy, time: datetime
) -> ImaAppraisal:
    """Return what is wrong with the entries that lead from `position` to the quoted PCR 10.

    excerpt   the list as sent, from the position or from an entry before it on.
    position  where the last accepted appraisal of this boot ended, `ImaPosition.start` for a boot not yet judged.
    quoted    what the TPM vouched for, in the bank of the position: PCR 10, and 0 to 9 for the boot_aggregate.
    time      at which signing keys must be in force.

    Raises TooLarge, MalformedImaList, and LogRejected for a list that does not lead to the quoted value; WrongUse where
    bank and position differ.
    """
    if quoted.bank is not position.bank or IMA_PCR not in quoted.values:
        raise WrongUse(
            "judging an IMA list",
            expected=f"PCR {IMA_PCR} in the bank {position.bank.label}, as of the position",
            found=f"PCR {', '.join(map(str, sorted(quoted.values)))} in {quoted.bank.label}",
        )
    replayed = replay(excerpt, position, quoted.values[IMA_PCR], policy.allowed)
    entries = [decode_record(number, record) for number, record in replayed.set_aside]
    judge = _Judge(quoted, policy, time)
    findings = [] if position.entries else list(_judge_beginning(entries, replayed.judged))
    for entry in entries:
        findings += judge.judge(entry)
    return ImaAppraisal(
        position=replayed.position,
        judged=replayed.judged,
        waiting=replayed.waiting,
        findings=tuple(findings),
        exclusions_used=dict(judge.exclusions_used),
        violations_tolerated=dict(judge.violations_tolerated),
    )


def _judge_beginning(entries: list[ImaEntry], judged: int) -> Iterator[Finding]:
    """Yield what is wrong with how a boot's list begins: an empty one proves nothing, whatever PCR 10 holds."""
    if not judged:
        yield Finding(Reason.MISSING_EVIDENCE, "PCR 10", "IMA list", "entries up to the quoted value", "none")
    elif not (entries and entries[0].number == 1 and _is_boot_aggregate(entries[0])):
        yield Finding(
            Reason.IMA_BOOT_AGGREGATE,
            "IMA entry 1",
            "boot_aggregate",
            "boot_aggregate to begin the list",
            "another entry",
        )


def _is_boot_aggregate(entry: ImaEntry) -> bool:
    return isinstance(entry, MeasuredFile) and entry.path == BOOT_AGGREGATE


@dataclass(slots=True)
class _Judge:
    """Judges entry by entry, and counts the globs that were needed."""

    quoted: PcrValues
    policy: RuntimePolicy
    time: datetime
    exclusions_used: Counter[str] = field(default_factory=Counter)
    violations_tolerated: Counter[str] = field(default_factory=Counter)

    def judge(self, entry: ImaEntry) -> Iterator[Finding]:
        """Yield everything that is wrong with an entry that is not allowed by its claim alone."""
        where = f"IMA entry {entry.number}"
        if isinstance(entry, Violation):
            if not _covered(entry.path, self.policy.tolerated_violations, self.violations_tolerated):
                yield Finding(Reason.IMA_VIOLATION, where, printable(entry.path), "a measurement", "a violation")
        elif isinstance(entry, MeasuredBuffer):
            yield from self._judge_buffer(entry, where)
        elif entry.path == BOOT_AGGREGATE:
            # Wherever it stands: a list that is carried over a kexec has the next kernel's further on.
            yield from judge_boot_aggregate(entry.digest, self.quoted, where)
        else:
            yield from self._judge_file(entry, where)

    def _judge_buffer(self, entry: MeasuredBuffer, where: str) -> Iterator[Finding]:
        """Judge by the bytes themselves: they are covered by the replay, in whatever hash the kernel has for them."""
        allowed = self.policy.buffers.get(entry.name, ())
        if any(buffer.algorithm.digest(entry.content) == buffer.digest for buffer in allowed):
            return
        expected = _some([f"{buffer.algorithm.label}:{buffer.digest.hex()}" for buffer in allowed])
        found = f"{len(entry.content)} bytes, sha256:{HashAlgorithm.SHA256.digest(entry.content).hex()}"
        yield Finding(
            Reason.UNKNOWN_KEY_MEASURED, where, printable(entry.name), expected or "nothing under this name", found
        )

    def _judge_file(self, entry: MeasuredFile, where: str) -> Iterator[Finding]:
        """Judge a file that is not allowed by its digest: revoked before all, then by signature, then by path."""
        policy = self.policy
        subject = printable(entry.path)
        expected = _some(policy.digests.get(entry.path, "").split())
        revoked = policy.revoked.get(entry.digest.value.hex())
        if revoked is not None:
            found = f"{entry.digest}, of {revoked}"
            yield Finding(Reason.REVOKED_COMPONENT, where, subject, expected or "an accepted version", found)
            return
        bad_signature = None
        if entry.signature is not None and policy.signing_keys:
            try:
                verify_file_signature(entry.signature, entry.digest, entry.path, policy.signing_keys, self.time)
            except FileSignatureRejected as error:
                bad_signature = error
            else:
                return
        if _covered(entry.path, policy.excluded, self.exclusions_used):
            return
        if bad_signature is not None:
            yield Finding(Reason.BAD_FILE_SIGNATURE, where, subject, bad_signature.expected, bad_signature.found)
        if expected:
            yield Finding(Reason.WRONG_FILE, where, subject, expected, str(entry.digest))
        elif bad_signature is None:
            yield Finding(Reason.UNKNOWN_FILE, where, subject, "a file of an accepted component", str(entry.digest))


def _covered(path: bytes, globs: tuple[PathGlob, ...], used: Counter[str]) -> bool:
    """Return whether one of `globs` means `path`, and note the first that does."""
    for glob in globs:
        if glob.matches(path):
            used[glob.text] += 1
            return True
    return False


def _some(digests: list[str]) -> str:
    """Return the digests for a finding, but not all where there are many."""
    shown = " or ".join(digests[:_SHOWN_DIGESTS])
    return f"{shown} or {len(digests) - _SHOWN_DIGESTS} others" if len(digests) > _SHOWN_DIGESTS else shown


_SHOWN_DIGESTS: Final = 4
