"""Which references count (attack 36)."""

from datetime import UTC, datetime
from typing import Any

import pytest

from steelyard.evidence.compiled_policy import compile_policy
from steelyard.evidence.reference.manifest import Origin
from steelyard.evidence.reference.measurement import Measurement, Presence
from steelyard.evidence.reference.version import Version
from steelyard.model.algorithms import HashAlgorithm
from tests.unit.evidence.samples import NOW, component, digests, manifest, measurement, policy, reference

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


def test_two_issues_with_one_serial_that_disagree_are_both_left_out() -> None:
    pair = [reference(manifest()), reference(manifest(measurement(0, b"another")))]
    compiled = compile_policy(policy(), pair, NOW)
    assert compiled.slots == {}
    assert len(compiled.refused) == 2


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


def test_only_files_of_withdrawn_versions_are_known_bad() -> None:
    """A file signed by a trusted key stays good though some reference that does not count names it too."""
    runtime: dict[str, list[object]] = {"exclude": [], "tolerate_violations": [], "signers": [], "buffers": []}
    files = {version: {HashAlgorithm.SHA256: {"/tool": version * 64}} for version in ("1", "2", "3")}
    made = [
        manifest(files=files["1"], version=Version("1.0")),
        manifest(files=files["2"], version=Version("0.9")),
        manifest(files=files["3"], component="stranger"),
    ]
    compiled = compile_policy(policy(pcrs=[0, 10], runtime=runtime), [reference(one) for one in made], NOW)
    assert compiled.runtime is not None
    assert list(compiled.runtime.revoked) == ["2" * 64]
