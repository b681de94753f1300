"""Which references count (attack 36)."""

import base64
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from steelyard.evidence.compiled_policy import Grounds, compile_policy
from steelyard.evidence.reference.manifest import Origin
from steelyard.evidence.reference.measurement import Measurement, Presence
from steelyard.evidence.reference.version import Version
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import TooLarge
from steelyard.model.limits import REFERENCES
from tests.unit.evidence.samples import NOW, component, digests, manifest, measurement, policy, reference
from tests.unit.evidence.tpm.keypairs import ecc_key

RUNTIME: dict[str, list[object]] = {"exclude": [], "tolerate_violations": [], "signers": [], "buffers": []}
VOLUME = (0, digests(b"volume")[HashAlgorithm.SHA256])


def test_an_accepted_reference_is_looked_up_by_pcr_and_digest() -> None:
    compiled = compile_policy(policy(), [reference(manifest())], NOW)
    (slot,) = compiled.slots[VOLUME]
    assert slot.manifest.measurements[0].what == "volume"
    assert slot.positions == (0,)
    assert compiled.refused == ()


def test_digests_of_another_bank_are_not_looked_up() -> None:
    compiled = compile_policy(policy(bank="sha384"), [reference(manifest())], NOW)
    assert list(compiled.slots) == [(0, digests(b"volume")[HashAlgorithm.SHA384])]


def test_a_reference_that_lacks_the_banks_digest_of_anything_does_not_count() -> None:
    other = Measurement(4, "loader", Presence.ALWAYS, {HashAlgorithm.SHA384: bytes(48)})
    compiled = compile_policy(policy(), [reference(manifest(measurement(0, b"volume"), other))], NOW)
    assert compiled.slots == {}
    assert "no sha256 digest of loader" in compiled.refused[0].why


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"component": "stranger"}, "does not name"),
        ({"version": Version("0.9")}, "older than"),
        ({"version": Version("1.5")}, "revoked"),
        ({"serial": 4}, "serial 4 is below 5"),
        ({"origin": Origin.UKI}, "made from-uki"),
        ({"origin": Origin.REFERENCE_BOOT, "machine_class": "q35"}, "made from-reference-boot"),
        ({"machine_class": "other"}, "machine class other"),
        ({"expires": NOW}, "in force"),
        ({"issued": datetime(2026, 12, 1, tzinfo=UTC)}, "in force"),
    ],
)
def test_a_reference_that_the_policy_does_not_accept_is_only_known_by_name(change: dict[str, Any], why: str) -> None:
    rules = policy(machine_class="q35", components=[component(revoked=["1.5"], least_serial=5)])
    spoilt = manifest(**{"serial": 5, **change})
    compiled = compile_policy(rules, [reference(spoilt)], NOW)
    assert compiled.slots == {}
    assert compiled.manifests == {}
    assert why in compiled.refused[0].why
    assert compiled.not_accepted[VOLUME].manifest == spoilt
    assert compiled.refused[0].withdrawn is ("version" in change)


def test_a_reference_for_the_policys_machine_class_counts() -> None:
    rules = policy(machine_class="q35", components=[component(origins=["from-reference-boot"])])
    boot = manifest(origin=Origin.REFERENCE_BOOT, machine_class="q35")
    assert VOLUME in compile_policy(rules, [reference(boot)], NOW).slots


def test_a_later_issue_about_the_same_version_supersedes_the_earlier() -> None:
    old, new = manifest(serial=1), manifest(measurement(0, b"corrected"), serial=2)
    for order in ([old, new], [new, old]):
        compiled = compile_policy(policy(), [reference(one) for one in order], NOW)
        assert list(compiled.slots) == [(0, digests(b"corrected")[HashAlgorithm.SHA256])]
        assert "supersedes" in compiled.refused[0].why


def test_an_issue_that_has_ended_still_supersedes_the_earlier_one() -> None:
    """Attack 36: an old statement does not come back because the new one was withheld from renewal."""
    ended = manifest(serial=2, expires=datetime(2026, 11, 1, tzinfo=UTC))
    assert compile_policy(policy(), [reference(manifest()), reference(ended)], NOW).slots == {}


def test_an_issue_that_is_not_in_force_yet_supersedes_nothing_and_ends_the_use_of_the_compiled_policy() -> None:
    later = datetime(2026, 12, 1, tzinfo=UTC)
    pair = [reference(manifest()), reference(manifest(measurement(0, b"corrected"), serial=2, issued=later))]
    compiled = compile_policy(policy(), pair, NOW)
    assert VOLUME in compiled.slots
    assert compiled.expires == later
    assert VOLUME not in compile_policy(policy(), pair, later).slots


def test_a_reference_that_measures_where_no_log_is_wanted_does_not_count() -> None:
    for pcr, pcrs, runtime in ((11, [0, 1], None), (10, [0, 10], RUNTIME)):
        elsewhere = measurement(pcr, b"section")
        compiled = compile_policy(
            policy(pcrs=pcrs, runtime=runtime), [reference(manifest(measurement(0, b"volume"), elsewhere))], NOW
        )
        assert f"in PCR {pcr}" in compiled.refused[0].why
    sometimes = manifest(measurement(0, b"volume"), measurement(11, b"section", Presence.SOMETIMES))
    assert compile_policy(policy(), [reference(sometimes)], NOW).refused == ()


@pytest.mark.parametrize(
    "change", [{"serial": 2}, {"machine_class": "q35"}, {"version": Version("2.0")}, {"component": "other"}]
)
def test_grounds_differ_with_each_reference_and_each_policy(change: dict[str, Any]) -> None:
    components = [component(), component("other")]

    def grounds(policy_version: int, **changes: Any) -> Grounds:
        rules = policy(components=components, machine_class="q35", version=policy_version)
        return compile_policy(rules, [reference(manifest(**changes))], NOW).grounds

    assert grounds(1) == grounds(1)
    assert grounds(1) != grounds(2)
    assert grounds(1) != grounds(1, **change)


def test_two_issues_with_one_serial_that_disagree_are_both_left_out() -> None:
    pair = [reference(manifest()), reference(manifest(measurement(0, b"another")))]
    compiled = compile_policy(policy(), pair, NOW)
    assert compiled.slots == {}
    assert len(compiled.refused) == 2


def test_more_references_than_the_limit_are_refused() -> None:
    with pytest.raises(TooLarge):
        compile_policy(policy(), [reference(manifest())] * (REFERENCES.most + 1), NOW)


def test_the_same_issue_twice_counts_once() -> None:
    compiled = compile_policy(policy(), [reference(manifest()), reference(manifest())], NOW)
    assert len(compiled.manifests["firmware"]) == 1


def test_versions_are_tried_newest_first() -> None:
    versions = ["1.9", "1.10", "1.2"]
    compiled = compile_policy(policy(), [reference(manifest(version=Version(text))) for text in versions], NOW)
    assert [found.version.text for found in compiled.manifests["firmware"]] == ["1.10", "1.9", "1.2"]


def test_the_verdict_ends_with_the_first_reference() -> None:
    early = datetime(2026, 12, 1, tzinfo=UTC)
    pair = [reference(manifest()), reference(manifest(version=Version("2.0"), expires=early))]
    assert compile_policy(policy(), pair, NOW).expires == early


def test_a_key_to_sign_files_is_enough_for_run_time_rules_and_nothing_is_not() -> None:
    public = ecc_key().public_key()
    encoded = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    signer = {
        "name": "vendor",
        "certificate": base64.b64encode(encoded).decode(),
        "paths": ["/**"],
        "not_after": "2027-01-01T00:00:00Z",
        "standing": "in-force",
    }
    for signers in ([signer], []):
        rules = policy(pcrs=[0, 10], runtime={**RUNTIME, "signers": signers})
        runtime = compile_policy(rules, [reference(manifest())], NOW).runtime
        assert (runtime is None) is (not signers)


def test_only_files_of_withdrawn_versions_are_known_bad() -> None:
    """A file signed by a trusted key stays good though some reference that does not count names it too."""
    files = {version: {HashAlgorithm.SHA256: {"/tool": version * 64}} for version in ("1", "2", "3")}
    made = [
        manifest(files=files["1"], version=Version("1.0")),
        manifest(files=files["2"], version=Version("0.9")),
        manifest(files=files["3"], component="stranger"),
    ]
    compiled = compile_policy(policy(pcrs=[0, 10], runtime=RUNTIME), [reference(one) for one in made], NOW)
    assert compiled.runtime is not None
    assert list(compiled.runtime.revoked) == ["2" * 64]
