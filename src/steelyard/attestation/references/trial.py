"""Judges evidence that was kept by a policy that is only supposed. Pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from steelyard.attestation.references.objects import NodeResult, Outcome
from steelyard.evidence.appraisal import Passed, Rejected, appraise_bundle
from steelyard.evidence.bundle import Bundle
from steelyard.evidence.compiled_policy import CompiledPolicy, compile_policy
from steelyard.evidence.policy import parse_policy
from steelyard.evidence.reference.dsse import parse_envelope
from steelyard.evidence.reference.manifest import Reference, verify_manifest
from steelyard.model.errors import ReferenceRejected, SteelyardError
from steelyard.model.limits import DRY_RUN_FINDINGS

Told = tuple[Mapping[str, Any], ...]


def compile_taken(document: bytes, envelopes: Iterable[bytes], now: datetime) -> CompiledPolicy:
    """Return a policy with those of the envelopes that its own signers signed, as `evidence appraise` does.

    Raises MalformedPolicy, MalformedReference, MalformedKey, KeyRejected, TooLarge.
    """
    policy = parse_policy(document)
    references: list[Reference] = []
    for envelope in envelopes:
        try:
            references.append(verify_manifest(parse_envelope(envelope), policy.signers))
        except ReferenceRejected:
            continue  # the project's signers are not this policy's
    return compile_policy(policy, references, now)


def judge_node(
    node: str, appraisal: str, bundle: Bundle, supposed: CompiledPolicy, today: CompiledPolicy | None, at: datetime
) -> NodeResult:
    """Return what a change would do to a node, were its evidence to come at `at`.

    today  what is in force; None: nothing is.
    """
    outcome, told = _judge(bundle, supposed, at)
    now = Outcome.UNJUDGED if today is None else _judge(bundle, today, at)[0]
    most = DRY_RUN_FINDINGS.most
    return NodeResult(node, appraisal, outcome, now, told[:most], max(0, len(told) - most))


def lost(node: str, appraisal: str, error: SteelyardError) -> NodeResult:
    """Return the result for a node whose evidence is kept no longer."""
    return NodeResult(node, appraisal, Outcome.UNJUDGED, Outcome.UNJUDGED, (_told_error(error),), 0)


def _judge(bundle: Bundle, compiled: CompiledPolicy, at: datetime) -> tuple[Outcome, Told]:
    try:
        verdict = appraise_bundle(bundle, compiled, at)
    except SteelyardError as error:
        return Outcome.FAIL, (_told_error(error),)
    match verdict:
        case Passed():
            return Outcome.PASS, ()
        case Rejected(findings=findings):
            return Outcome.FAIL, tuple(
                {
                    "code": finding.reason.value,
                    "where": finding.where,
                    "subject": finding.subject,
                    "expected": finding.expected,
                    "found": finding.found,
                }
                for finding in findings
            )


def _told_error(error: SteelyardError) -> dict[str, str]:
    return {
        "code": error.code,
        "where": error.doing,
        "subject": "the evidence",
        "expected": error.expected,
        "found": error.found,
    }
