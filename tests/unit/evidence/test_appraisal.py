"""Whole verifications, on boots that real firmware, a real TPM and a real kernel made."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from steelyard.evidence.appraisal import Accepted, Passed, Rejected, Verdict, appraise, appraise_bundle
from steelyard.evidence.bundle import Bundle, bound_key, parse_bundle
from steelyard.evidence.findings import Reason
from steelyard.evidence.ima.replay import ImaExcerpt
from steelyard.evidence.tpm.nonce import PlainNonce
from steelyard.evidence.tpm.quote import SignedQuote
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import Malformed, WrongUse
from steelyard.model.pcrs import PcrValues
from tests.recorded import QUOTED, RECEIVED, bundle, compiled, manifests

FIRST = bundle("first")
POLICY = compiled()


def judge(record: Bundle, **changes: Any) -> Verdict:
    """Judge a bundle with other evidence in it."""
    return appraise_bundle(replace(record, evidence=replace(record.evidence, **changes)), POLICY, RECEIVED)


def continued(record: Bundle, accepted: Accepted, **changes: Any) -> Verdict:
    """Judge what came after something that passed."""
    evidence = replace(record.evidence, **changes)
    key = bound_key(record.attestation_key, record.binding)
    return appraise(evidence, key, record.challenge, accepted, POLICY, RECEIVED)


def reasons(verdict: Verdict) -> list[Reason]:
    assert isinstance(verdict, Rejected)
    return [finding.reason for finding in verdict.findings]


def accepted() -> Accepted:
    verdict = judge(FIRST)
    assert isinstance(verdict, Passed)
    assert verdict.runtime is not None
    return Accepted(verdict.quoted, verdict.runtime.position)


@pytest.mark.parametrize("name", ["first", "second"])
def test_an_unchanged_machine_passes_at_every_boot(name: str) -> None:
    verdict = judge(bundle(name))
    assert isinstance(verdict, Passed)
    assert verdict.boot is not None
    assert {found.manifest.component for found in verdict.boot.components} == set(manifests())
    assert verdict.runtime is not None
    assert verdict.runtime.judged == 4


@pytest.mark.parametrize(
    ("name", "pcrs"), [("changed-firmware", {0}), ("more-memory", {0}), ("other-command-line", {4, 9, 11})]
)
def test_a_changed_machine_is_rejected_and_the_change_is_named(name: str, pcrs: set[int]) -> None:
    verdict = judge(bundle(name))
    assert isinstance(verdict, Rejected)
    unknown = [finding for finding in verdict.findings if finding.reason is Reason.UNKNOWN_EVENT]
    assert {finding.where.partition(",")[0] for finding in unknown} == {f"PCR {pcr}" for pcr in pcrs}


def test_a_bad_quote_is_rejected_and_nothing_else_is_looked_at() -> None:
    signature = bytearray(FIRST.evidence.quote.signature)
    signature[-1] ^= 1
    forged = SignedQuote(FIRST.evidence.quote.attest, bytes(signature))
    verdict = judge(FIRST, quote=forged, event_log=b"not even read", ima_list=ImaExcerpt(0, b"nor this"))
    assert reasons(verdict) == [Reason.BAD_QUOTE]


def test_a_quote_for_another_nonce_is_rejected() -> None:
    verdict = appraise_bundle(replace(FIRST, challenge=PlainNonce(bytes(32))), POLICY, RECEIVED)
    assert reasons(verdict) == [Reason.BAD_QUOTE]


def test_fewer_pcrs_than_the_policy_wants_are_rejected() -> None:
    values = {index: value for index, value in FIRST.evidence.claimed_pcrs.values.items() if index != 7}
    verdict = judge(FIRST, claimed_pcrs=PcrValues(HashAlgorithm.SHA256, values))
    assert reasons(verdict) == [Reason.BAD_QUOTE]


@pytest.mark.parametrize("index", QUOTED)
def test_a_claimed_value_that_was_not_quoted_is_rejected(index: int) -> None:
    values = dict(FIRST.evidence.claimed_pcrs.values) | {index: bytes([7]) * 32}
    assert reasons(judge(FIRST, claimed_pcrs=PcrValues(HashAlgorithm.SHA256, values))) == [Reason.BAD_QUOTE]


def test_the_log_of_another_boot_is_rejected() -> None:
    """Attack 13: a quote from one boot with the log of another."""
    verdict = judge(FIRST, event_log=bundle("other-command-line").evidence.event_log)
    assert reasons(verdict) == [Reason.BAD_LOG]


def test_a_missing_log_is_rejected_and_the_run_time_list_is_judged_nonetheless() -> None:
    verdict = judge(FIRST, event_log=None)
    assert reasons(verdict) == [Reason.MISSING_EVIDENCE]
    assert isinstance(verdict, Rejected)
    assert verdict.runtime is not None


def test_a_missing_list_is_rejected_and_the_boot_is_judged_nonetheless() -> None:
    verdict = judge(FIRST, ima_list=None)
    assert reasons(verdict) == [Reason.MISSING_EVIDENCE]
    assert isinstance(verdict, Rejected)
    assert verdict.boot is not None


def test_an_empty_list_is_rejected() -> None:
    assert reasons(judge(FIRST, ima_list=ImaExcerpt(0, b""))) == [Reason.BAD_LOG]


def test_faults_of_boot_and_run_time_are_reported_together() -> None:
    firmware = replace(manifests()["airlock"], files={HashAlgorithm.SHA256: {"/bin/other": "00" * 32}})
    rules = compiled({**manifests(), "airlock": firmware})
    verdict = appraise_bundle(bundle("changed-firmware"), rules, RECEIVED)
    assert {Reason.UNKNOWN_EVENT, Reason.MISSING_MEASUREMENT, Reason.UNKNOWN_FILE} == set(reasons(verdict))


def test_without_a_reference_for_what_may_run_nothing_passes() -> None:
    rules = compiled({**manifests(), "airlock": replace(manifests()["airlock"], files={})})
    assert reasons(appraise_bundle(FIRST, rules, RECEIVED)) == [Reason.NO_REFERENCE]


def test_a_verdict_has_no_truth_value() -> None:
    for verdict in (judge(FIRST), judge(FIRST, event_log=None)):
        with pytest.raises(TypeError, match="no truth value"):
            bool(verdict)


def test_a_verdict_names_the_one_version_of_the_policy_that_judged() -> None:
    """Attack 15: a policy that changes in flight."""
    verdict = judge(FIRST)
    assert str(verdict.policy) == "sample version 1"


def test_a_compiled_policy_past_the_end_of_a_reference_is_not_used() -> None:
    assert POLICY.expires is not None
    with pytest.raises(WrongUse, match="compiled anew"):
        appraise_bundle(FIRST, POLICY, POLICY.expires)
    assert isinstance(appraise_bundle(FIRST, POLICY, POLICY.expires - timedelta(seconds=1)), Passed)


def test_malformed_evidence_is_not_passed() -> None:
    with pytest.raises(Malformed):
        judge(FIRST, event_log=b"bogus")


# -- a boot that goes on -----------------------------------------------------------------------------------------------


def test_an_unexpected_reboot_is_rejected_and_the_new_boot_judged_whole() -> None:
    verdict = continued(bundle("second"), accepted())
    assert reasons(verdict) == [Reason.REBOOTED]
    assert isinstance(verdict, Rejected)
    assert verdict.boot is not None
    assert verdict.runtime is not None
    assert verdict.runtime.judged == 4


def test_a_quote_from_before_the_accepted_one_is_rejected() -> None:
    later = judge(bundle("second"))
    assert isinstance(later, Passed)
    assert reasons(continued(FIRST, Accepted(later.quoted, None))) == [Reason.BAD_QUOTE]


def test_in_the_same_boot_the_log_may_stay_away_and_only_new_entries_are_judged() -> None:
    verdict = continued(FIRST, accepted(), event_log=None, ima_list=ImaExcerpt(4, b""))
    assert isinstance(verdict, Passed)
    assert verdict.boot is None
    assert verdict.runtime is not None
    assert verdict.runtime.judged == 0


def test_in_a_new_boot_the_log_may_not_stay_away() -> None:
    verdict = continued(bundle("second"), accepted(), event_log=None)
    assert reasons(verdict) == [Reason.REBOOTED, Reason.MISSING_EVIDENCE]


def test_the_log_may_not_stay_away_when_a_boot_pcr_has_moved() -> None:
    before = accepted()
    moved = dict(before.quoted.pcrs.values) | {12: bytes([1]) * 32}
    other = replace(before.quoted, pcrs=PcrValues(HashAlgorithm.SHA256, moved))
    verdict = continued(FIRST, Accepted(other, before.ima), event_log=None, ima_list=ImaExcerpt(4, b""))
    assert reasons(verdict) == [Reason.MISSING_EVIDENCE]


# -- bundles -----------------------------------------------------------------------------------------------------------


def test_a_bundle_written_and_read_gives_the_same_verdict() -> None:
    for name in ("first", "changed-firmware"):
        record = bundle(name)
        read = parse_bundle(record.to_bytes())
        assert read == record
        assert appraise_bundle(read, POLICY, RECEIVED) == appraise_bundle(record, POLICY, RECEIVED)


def test_no_byte_of_the_log_can_be_changed_unnoticed_where_it_was_measured() -> None:
    """CVE-2023-3674 and its like: nothing bad is merely noted."""
    log = FIRST.evidence.event_log
    assert log is not None
    for position in range(100, len(log), 97):
        changed = bytearray(log)
        changed[position] ^= 0x40
        try:
            verdict = judge(FIRST, event_log=bytes(changed))
        except Malformed:
            continue
        if isinstance(verdict, Passed):
            # Only what no digest covers: SHA-1 digests, descriptions, the address an image was loaded at.
            assert verdict.boot is not None
            original = judge(FIRST)
            assert isinstance(original, Passed)
            assert original.boot is not None
            assert verdict.boot.components == original.boot.components
            assert [varied.rule for varied in verdict.boot.varied] == [varied.rule for varied in original.boot.varied]
