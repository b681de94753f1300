"""The whole verification of one machine's evidence, in one function with numbered steps."""

from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn

from steelyard.evidence.boot import BootAppraisal, judge_boot
from steelyard.evidence.bundle import Bundle, Evidence, bound_key
from steelyard.evidence.compiled_policy import CompiledPolicy, Grounds
from steelyard.evidence.document import format_time
from steelyard.evidence.eventlog.parse import parse_event_log
from steelyard.evidence.eventlog.replay import ReplayedLog, verify_log
from steelyard.evidence.findings import Finding, Reason
from steelyard.evidence.ima.judge import ImaAppraisal, judge_ima
from steelyard.evidence.ima.records import IMA_PCR
from steelyard.evidence.ima.replay import ImaPosition
from steelyard.evidence.policy import PolicyId
from steelyard.evidence.tpm.keys import BoundKey
from steelyard.evidence.tpm.nonce import Challenge
from steelyard.evidence.tpm.quote import QuotedPcrs, Rebooted, SameBoot, compare_clock, verify_quote
from steelyard.model.errors import EvidenceRejected, LogRejected, Malformed, WrongUse
from steelyard.model.pcrs import PcrSelection


class _NoTruth:
    """A verdict is asked for by its type; `if verdict:` would take a rejection for a pass."""

    __slots__ = ()

    def __bool__(self) -> NoReturn:
        raise TypeError("a verdict has no truth value: match on Passed and Rejected")


@dataclass(frozen=True, slots=True)
class Passed(_NoTruth):
    """Evidence that is good enough by this policy. Only `appraise` makes it.

    quoted   the PCR values and clock the TPM vouched for.
    boot     what the boot was made of; None when an earlier appraisal judged this same boot.
    runtime  what has run; None when the policy has no run-time rules.
    grounds  the policy and references it rests on.
    expires  when the first of those references ends; a verdict must not outlive it.
    """

    quoted: QuotedPcrs
    boot: BootAppraisal | None
    runtime: ImaAppraisal | None
    grounds: Grounds
    expires: datetime | None

    @property
    def policy(self) -> PolicyId:
        """The one policy that judged."""
        return self.grounds.policy

    def accepted(self) -> "Accepted":
        """Return what to keep of it, to judge what comes next in this boot."""
        return Accepted(self.quoted, None if self.runtime is None else self.runtime.position, self.grounds)


@dataclass(frozen=True, slots=True)
class Rejected(_NoTruth):
    """Evidence that is not good enough, with every reason, at least one.

    boot, runtime  what could be judged nonetheless.
    """

    policy: PolicyId
    findings: tuple[Finding, ...]
    boot: BootAppraisal | None
    runtime: ImaAppraisal | None


Verdict = Passed | Rejected


@dataclass(frozen=True, slots=True)
class Accepted:
    """The last evidence of this node that passed, kept by the verifier, for judging what is new since."""

    quoted: QuotedPcrs
    ima: ImaPosition | None
    grounds: Grounds


def reject_malformed(policy: PolicyId, error: Malformed) -> Rejected:
    """Return malformed evidence as what it is to who judges what a node sent: not good enough."""
    finding = Finding(Reason.BAD_LOG, error.doing, f"the evidence ({error.code})", error.expected, error.found)
    return Rejected(policy, (finding,), None, None)


def appraise(
    evidence: Evidence,
    key: BoundKey,
    challenge: Challenge,
    accepted: Accepted | None,
    compiled: CompiledPolicy,
    at: datetime,
) -> Verdict:
    """Return whether `evidence` is good enough, and why.

    evidence   as it came; nothing of it is believed before it is checked.
    key        the attestation key bound to this node's TPM, from our own store.
    challenge  what we asked with, not used before.
    accepted   the last evidence that passed in the boot expected to go on; None for a boot that is to be judged whole.
    at         when the evidence came: from the time that the policy was compiled for to before its `expires`.

    0. Limits: each part is refused by its size before it is parsed.
    1. to 5. The quote: see `verify_quote`. When it fails, nothing else is looked at, as nothing vouches for it.
    6. The clock goes forward. A reset since `accepted` is a reboot that nobody expected: rejected, and the boot judged
       from the start all the same, so that the report is whole.
    7. The event log replays to the quoted boot PCRs; a quoted PCR without events holds its start value. It may stay
       away only when the boot is the accepted one, accepted on the same grounds, and its PCRs are unchanged.
    8. Every event is covered: by a component, by a rule, or by the firmware's own rules of order.
    9. The IMA list replays to the quoted PCR 10, and every entry is allowed: of an accepted boot those after the
       accepted ones, but all of them when the grounds are others, so that one policy judges the whole (attack 15).
    All findings are collected. Malformed evidence raises, and is as little passed as rejected evidence is.

    Raises Malformed (each part its own kind), TooLarge; WrongUse for a policy compiled for another time.
    """
    policy = compiled.policy
    if at < compiled.since or (compiled.expires is not None and at >= compiled.expires):
        until = "" if compiled.expires is None else f", before {format_time(compiled.expires)}"
        raise WrongUse(
            "appraising evidence",
            expected=f"a policy compiled anew; this one is for evidence from {format_time(compiled.since)} on{until}",
            found=f"evidence of {format_time(at)}",
        )
    try:
        quoted = verify_quote(evidence.quote, key, challenge, policy.selection, evidence.claimed_pcrs)
        clock = compare_clock(accepted.quoted, quoted) if accepted else None
    except EvidenceRejected as error:
        return Rejected(policy.id, (_from_error(Reason.BAD_QUOTE, "the quote", error),), None, None)
    findings = []
    if isinstance(clock, Rebooted):
        findings.append(
            Finding(
                Reason.REBOOTED, "the quote", "the TPM's clock", "the boot that passed", f"{clock.resets} resets since"
            )
        )
    goes_on = accepted if accepted and isinstance(clock, SameBoot) and accepted.grounds == compiled.grounds else None
    boot = _appraise_boot(evidence, quoted, goes_on, compiled, findings)
    runtime = _appraise_runtime(evidence, quoted, goes_on, compiled, at, findings)
    findings += boot.findings if boot else ()
    findings += runtime.findings if runtime else ()
    if findings:
        return Rejected(policy.id, tuple(findings), boot, runtime)
    return Passed(quoted, boot, runtime, compiled.grounds, compiled.expires)


def appraise_bundle(bundle: Bundle, compiled: CompiledPolicy, at: datetime) -> Verdict:
    """Return the verdict on a bundle: the same, whenever and by whomever it is asked for, for the same inputs.

    at  `bundle.received`, to repeat what was judged then; the policy must be compiled for the same time.

    Raises Malformed (each part its own kind), TooLarge, KeyRejected.
    """
    key = bound_key(bundle.attestation_key, bundle.binding)
    return appraise(bundle.evidence, key, bundle.challenge, None, compiled, at)


def verify_reference_boot(bundle: Bundle) -> ReplayedLog:
    """Return the log of a boot that somebody ran to learn values from, once its quote vouches for it.

    Nothing is judged: it is the caller who takes it for good. All PCRs quoted must replay, but for PCR 10.
    Raises EvidenceRejected; Malformed (each part its own kind), TooLarge; WrongUse without an event log.
    """
    evidence = bundle.evidence
    if evidence.event_log is None:
        raise WrongUse("verifying a reference boot", expected="a bundle with an event log", found="one without")
    claimed = evidence.claimed_pcrs
    asked = PcrSelection(claimed.bank, frozenset(claimed.values))
    key = bound_key(bundle.attestation_key, bundle.binding)
    quoted = verify_quote(evidence.quote, key, bundle.challenge, asked, claimed)
    return verify_log(parse_event_log(evidence.event_log), quoted.pcrs, frozenset({IMA_PCR}) & asked.indices)


def _appraise_boot(
    evidence: Evidence,
    quoted: QuotedPcrs,
    goes_on: Accepted | None,
    compiled: CompiledPolicy,
    findings: list[Finding],
) -> BootAppraisal | None:
    if evidence.event_log is None:
        if goes_on is None or _boot_pcrs(goes_on.quoted) != _boot_pcrs(quoted):
            findings.append(
                Finding(Reason.MISSING_EVIDENCE, "the evidence", "event log", "the log of this boot", "none")
            )
        return None
    log = parse_event_log(evidence.event_log)
    elsewhere = frozenset({IMA_PCR}) & compiled.policy.selection.indices
    try:
        replayed = verify_log(log, quoted.pcrs, elsewhere)
    except LogRejected as error:
        findings.append(_from_error(Reason.BAD_LOG, "the event log", error))
        return None
    return judge_boot(replayed, compiled)


def _boot_pcrs(quoted: QuotedPcrs) -> dict[int, bytes]:
    return {index: value for index, value in quoted.pcrs.values.items() if index != IMA_PCR}


def _appraise_runtime(
    evidence: Evidence,
    quoted: QuotedPcrs,
    goes_on: Accepted | None,
    compiled: CompiledPolicy,
    at: datetime,
    findings: list[Finding],
) -> ImaAppraisal | None:
    if compiled.policy.runtime is None:
        return None
    if compiled.runtime is None:
        wanted = "an accepted reference with files, or a key to sign them"
        findings.append(Finding(Reason.NO_REFERENCE, "the run-time rules", "what may run", wanted, "none"))
        return None
    if evidence.ima_list is None:
        findings.append(Finding(Reason.MISSING_EVIDENCE, "the evidence", "IMA list", "the list of this boot", "none"))
        return None
    position = goes_on.ima if goes_on and goes_on.ima else ImaPosition.start(quoted.pcrs.bank)
    try:
        return judge_ima(evidence.ima_list, position, quoted.pcrs, compiled.runtime, at)
    except LogRejected as error:
        findings.append(_from_error(Reason.BAD_LOG, "the IMA list", error))
        return None


def _from_error(reason: Reason, subject: str, error: EvidenceRejected) -> Finding:
    return Finding(reason, error.doing, f"{subject} ({error.code})", error.expected, error.found)
