"""Whole verifications, on boots that real firmware, a real TPM and a real kernel made."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from steelyard.evidence.appraisal import (
    Accepted,
    Passed,
    Rejected,
    Verdict,
    appraise,
    appraise_bundle,
    verify_reference_boot,
)
from steelyard.evidence.bundle import Bundle, Evidence, bound_key, parse_bundle
from steelyard.evidence.compiled_policy import CompiledPolicy, compile_policy
from steelyard.evidence.eventlog.events import EventType
from steelyard.evidence.findings import Reason
from steelyard.evidence.ima.replay import ImaExcerpt
from steelyard.evidence.reference.manifest import Manifest
from steelyard.evidence.tpm.attest import TpmsAttest, TpmsClockInfo, TpmsQuoteInfo
from steelyard.evidence.tpm.nonce import PlainNonce
from steelyard.evidence.tpm.quote import SignedQuote
from steelyard.evidence.tpm.selection import TpmlPcrSelection, TpmsPcrSelection
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import EvidenceRejected, Malformed, WrongUse
from steelyard.model.pcrs import PcrValues
from tests.recorded import QUOTED, RECEIVED, bundle, compiled, manifests
from tests.unit.evidence.eventlog.build import Boot
from tests.unit.evidence.samples import manifest, policy, reference
from tests.unit.evidence.tpm.keypairs import ecdsa

FIRST = bundle("first")
POLICY = compiled()


def judge(record: Bundle, **changes: Any) -> Verdict:
    """Judge a bundle with other evidence in it."""
    return appraise_bundle(replace(record, evidence=replace(record.evidence, **changes)), POLICY, RECEIVED)


def continued(
    record: Bundle, accepted: Accepted, policy: CompiledPolicy = POLICY, received: datetime = RECEIVED, **changes: Any
) -> Verdict:
    """Judge what came after something that passed."""
    evidence = replace(record.evidence, **changes)
    key = bound_key(record.attestation_key, record.binding)
    return appraise(evidence, key, record.challenge, accepted, policy, received)


def reasons(verdict: Verdict) -> list[Reason]:
    assert isinstance(verdict, Rejected)
    return [finding.reason for finding in verdict.findings]


def accepted() -> Accepted:
    verdict = judge(FIRST)
    assert isinstance(verdict, Passed)
    return verdict.accepted()


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


def test_a_compiled_policy_is_not_used_for_evidence_from_before_its_time() -> None:
    with pytest.raises(WrongUse, match="compiled anew"):
        appraise_bundle(FIRST, POLICY, RECEIVED - timedelta(seconds=1))


def test_malformed_evidence_is_not_passed() -> None:
    with pytest.raises(Malformed):
        judge(FIRST, event_log=b"bogus")


def test_a_policy_without_run_time_rules_asks_for_no_list() -> None:
    boot = Boot()
    boot.measure(0, EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB, b"a place", b"volume")
    boot.separate()
    values = boot.quoted(*range(8))
    selection = TpmlPcrSelection((TpmsPcrSelection(HashAlgorithm.SHA256, b"\xff\0\0"),))
    digest = HashAlgorithm.SHA256.digest(values.of(range(8)))
    attest = TpmsAttest(b"", b"nonce", TpmsClockInfo(1, 1, 1, safe=True), 1, TpmsQuoteInfo(selection, digest))
    evidence = Evidence(ecdsa().quote(attest.to_bytes()), values, boot.log, None)
    rules = policy(pcrs=list(range(8)))

    def judge_by(*made: Manifest) -> Verdict:
        compiled_rules = compile_policy(rules, [reference(one) for one in made], RECEIVED)
        return appraise(evidence, ecdsa().bound(), PlainNonce(b"nonce"), None, compiled_rules, RECEIVED)

    passed = judge_by(manifest())
    assert isinstance(passed, Passed)
    assert passed.runtime is None
    assert passed.accepted().ima is None
    # Without any reference there is no end to what the policy is good for, which is nothing.
    assert Reason.NO_REFERENCE in reasons(judge_by())


def test_a_reference_boot_without_a_log_is_wrong_use() -> None:
    with pytest.raises(WrongUse, match="event log"):
        verify_reference_boot(replace(FIRST, evidence=replace(FIRST.evidence, event_log=None)))


def test_a_reference_boot_is_what_its_quote_vouches_for() -> None:
    assert verify_reference_boot(FIRST).pcrs.keys() == set(QUOTED) - {10}
    other = bundle("other-command-line").evidence.event_log
    with pytest.raises(EvidenceRejected):
        verify_reference_boot(replace(FIRST, evidence=replace(FIRST.evidence, event_log=other)))
    with pytest.raises(EvidenceRejected):
        verify_reference_boot(replace(FIRST, challenge=PlainNonce(bytes(32))))


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
    assert reasons(continued(FIRST, later.accepted())) == [Reason.BAD_QUOTE]


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
    verdict = continued(FIRST, replace(before, quoted=other), event_log=None, ima_list=ImaExcerpt(4, b""))
    assert reasons(verdict) == [Reason.MISSING_EVIDENCE]


NEW_ISSUE = replace(manifests()["ovmf"], serial=2)


@pytest.mark.parametrize(
    "policy", [compiled(version=2), compiled({**manifests(), "ovmf": NEW_ISSUE})], ids=["policy", "reference"]
)
def test_on_other_grounds_a_boot_that_goes_on_is_judged_whole(policy: CompiledPolicy) -> None:
    """Attack 15: what one policy passed does not pass by another because it was not asked."""
    verdict = continued(FIRST, accepted(), policy, event_log=None, ima_list=ImaExcerpt(4, b""))
    assert reasons(verdict) == [Reason.MISSING_EVIDENCE, Reason.BAD_LOG]
    whole = continued(FIRST, accepted(), policy)
    assert isinstance(whole, Passed)
    assert whole.boot is not None
    assert whole.runtime is not None
    assert whole.runtime.judged == 4


def test_what_ran_before_the_policy_was_changed_is_judged_by_the_new_one() -> None:
    files = {HashAlgorithm.SHA256: {"/bin/other": "00" * 32}}
    changed = compiled({**manifests(), "airlock": replace(manifests()["airlock"], files=files, serial=2)})
    assert Reason.UNKNOWN_FILE in reasons(continued(FIRST, accepted(), changed))


@pytest.mark.parametrize("first", [1, 4, 5])
def test_a_list_that_says_it_begins_later_than_it_does_is_rejected(first: int) -> None:
    whole = FIRST.evidence.ima_list
    assert whole is not None
    assert reasons(judge(FIRST, ima_list=replace(whole, first=first))) == [Reason.BAD_LOG]


def test_evidence_of_another_key_does_not_go_on_from_what_passed() -> None:
    before = accepted()
    stranger = replace(before.quoted.key.signing, fingerprint=bytes(32))
    other = replace(before.quoted, key=replace(before.quoted.key, signing=stranger))
    assert reasons(continued(FIRST, replace(before, quoted=other))) == [Reason.BAD_QUOTE]


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
