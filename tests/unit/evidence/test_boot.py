"""What a boot is made of: every event answered for, every component whole."""

import struct
from typing import Any

import pytest

from steelyard.evidence.boot import BootAppraisal, judge_boot
from steelyard.evidence.compiled_policy import compile_policy
from steelyard.evidence.eventlog.events import EventType
from steelyard.evidence.findings import Reason
from steelyard.evidence.reference.manifest import Manifest
from steelyard.evidence.reference.measurement import Measurement, Presence
from steelyard.evidence.reference.version import Version
from tests.unit.evidence.eventlog.build import END, GLOBAL_VARIABLE, Boot, variable
from tests.unit.evidence.samples import NOW, component, digests, manifest, measurement, policy, reference

FIRMWARE = manifest(measurement(0, b"volume one"), measurement(0, b"volume two"))
LOADER = manifest(measurement(4, b"loader"), measurement(4, b"kernel"), component="loader")
TWO = [component(), component("loader")]
CALL = b"Calling EFI Application from Boot Option"


def started() -> Boot:
    """A machine whose firmware has measured itself."""
    boot = Boot()
    for what in (b"volume one", b"volume two"):
        boot.measure(0, EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB, b"a place", what)
    return boot


def booted(*extra: tuple[int, int, bytes]) -> Boot:
    """A machine that has booted, with some events more before the separators."""
    boot = started()
    for pcr, kind, data in extra:
        boot.measure(pcr, kind, data)
    boot.separate()
    for what in (b"loader", b"kernel"):
        boot.measure(4, EventType.EV_EFI_BOOT_SERVICES_APPLICATION, b"a path", what)
    return boot


def judge(boot: Boot, *made: Manifest, **rules: Any) -> BootAppraisal:
    rules = {"pcrs": list(range(8)), "components": TWO, **rules}
    manifests = made or (FIRMWARE, LOADER)
    return judge_boot(boot.replayed(), compile_policy(policy(**rules), [reference(one) for one in manifests], NOW))


def reasons(appraisal: BootAppraisal) -> list[Reason]:
    return [finding.reason for finding in appraisal.findings]


def varying(**changes: Any) -> list[dict[str, Any]]:
    return [{"pcr": 1, "event": "load-option", "at_most": 1, "reason": "it varies", **changes}]


def load_option(name: str) -> bytes:
    return struct.pack("<IH", 1, len(END)) + name.encode("utf-16-le") + b"\0\0" + END


def test_a_boot_of_accepted_components_is_good_and_names_them() -> None:
    appraisal = judge(booted())
    assert appraisal.findings == ()
    assert [(found.manifest.component, found.events) for found in appraisal.components] == [
        ("firmware", (1, 2)),
        ("loader", (11, 12)),
    ]


@pytest.mark.parametrize("pcr", range(8))
def test_an_event_that_nothing_covers_is_found_by_name(pcr: int) -> None:
    """Attack 22: an extra driver, option ROM or application between firmware and airlock image."""
    appraisal = judge(booted((pcr, EventType.EV_EFI_BOOT_SERVICES_DRIVER, b"a stranger")))
    assert reasons(appraisal) == [Reason.UNKNOWN_EVENT]
    (finding,) = appraisal.findings
    assert finding.where == f"PCR {pcr}, event 3"
    assert digests(b"a stranger")[Boot().banks[0]].hex() in finding.found


def test_a_known_digest_in_another_pcr_is_unknown_there() -> None:
    appraisal = judge(booted((2, EventType.EV_EFI_BOOT_SERVICES_DRIVER, b"loader")))
    assert reasons(appraisal) == [Reason.UNKNOWN_EVENT]


def test_a_required_component_that_is_not_there_is_found() -> None:
    boot = started()
    boot.separate()
    appraisal = judge(boot)
    assert reasons(appraisal) == [Reason.MISSING_MEASUREMENT]
    assert appraisal.findings[0].subject == "loader"


def test_a_required_component_without_any_reference_is_found() -> None:
    appraisal = judge(booted(), FIRMWARE)
    assert Reason.NO_REFERENCE in reasons(appraisal)
    assert "an accepted reference" in appraisal.findings[0].expected


def test_a_component_that_is_there_in_part_is_found_with_what_lacks() -> None:
    boot = started()
    boot.separate()
    boot.measure(4, EventType.EV_EFI_BOOT_SERVICES_APPLICATION, b"", b"loader")
    appraisal = judge(boot)
    assert reasons(appraisal) == [Reason.MISSING_MEASUREMENT]
    assert appraisal.findings[0].expected.startswith("kernel, sha256 ")


def test_an_optional_component_may_stay_away_but_not_in_part() -> None:
    rules = [component(), component("loader", presence="optional")]
    boot = started()
    boot.separate()
    assert judge(boot, components=rules).findings == ()
    boot.measure(4, EventType.EV_EFI_BOOT_SERVICES_APPLICATION, b"", b"kernel")
    assert reasons(judge(boot, components=rules)) == [Reason.MISSING_MEASUREMENT]


def test_what_a_component_measures_only_sometimes_may_lack() -> None:
    sometimes = manifest(measurement(4, b"loader"), measurement(4, b"extra", Presence.SOMETIMES), component="loader")
    boot = started()
    boot.separate()
    boot.measure(4, EventType.EV_EFI_BOOT_SERVICES_APPLICATION, b"", b"loader")
    assert judge(boot, FIRMWARE, sometimes).findings == ()


def test_two_half_versions_do_not_make_a_whole_one() -> None:
    old = manifest(measurement(4, b"loader"), measurement(4, b"old kernel"), component="loader")
    new = manifest(measurement(4, b"new loader"), measurement(4, b"kernel"), component="loader", version=Version("2.0"))
    appraisal = judge(booted(), FIRMWARE, old, new)
    assert reasons(appraisal) == [Reason.MISSING_MEASUREMENT]


def test_of_two_whole_versions_the_newest_is_named() -> None:
    newer = manifest(*LOADER.measurements, component="loader", version=Version("2.0"))
    appraisal = judge(booted(), FIRMWARE, LOADER, newer)
    assert appraisal.findings == ()
    assert appraisal.components[1].manifest.version.text == "2.0"


def test_a_version_that_is_no_longer_accepted_is_named_as_such() -> None:
    appraisal = judge(booted(), components=[component(), component("loader", least_version="2.0")])
    assert reasons(appraisal) == [Reason.NO_REFERENCE, Reason.REVOKED_COMPONENT, Reason.REVOKED_COMPONENT]
    assert appraisal.findings[1].subject == "loader 1.0"
    assert "older than 2.0" in appraisal.findings[1].found


def test_measurements_of_a_component_in_another_order_are_found() -> None:
    boot = started()
    boot.separate()
    for what in (b"kernel", b"loader"):
        boot.measure(4, EventType.EV_EFI_BOOT_SERVICES_APPLICATION, b"", what)
    assert reasons(judge(boot)) == [Reason.OUT_OF_ORDER]


def test_a_component_measured_more_often_than_allowed_is_found() -> None:
    boot = booted()
    boot.measure(4, EventType.EV_EFI_BOOT_SERVICES_APPLICATION, b"", b"kernel")
    assert reasons(judge(boot)) == [Reason.TOO_OFTEN]
    assert judge(boot, components=[component(), component("loader", at_most=2)]).findings == ()


def test_two_measurements_of_one_component_with_one_digest_are_two() -> None:
    twins = manifest(measurement(4, b"loader"), measurement(4, b"loader"), component="loader")
    boot = started()
    boot.separate()
    boot.measure(4, EventType.EV_EFI_BOOT_SERVICES_APPLICATION, b"", b"loader")
    assert reasons(judge(boot, FIRMWARE, twins)) == [Reason.MISSING_MEASUREMENT]
    boot.measure(4, EventType.EV_EFI_BOOT_SERVICES_APPLICATION, b"", b"loader")
    assert judge(boot, FIRMWARE, twins).findings == ()
    boot.measure(4, EventType.EV_EFI_BOOT_SERVICES_APPLICATION, b"", b"loader")
    assert reasons(judge(boot, FIRMWARE, twins)) == [Reason.TOO_OFTEN]


def test_firmwares_own_words_are_good_where_they_belong_and_nowhere_else() -> None:
    assert judge(booted((4, EventType.EV_EFI_ACTION, CALL))).findings == ()
    assert reasons(judge(booted((5, EventType.EV_EFI_ACTION, CALL)))) == [Reason.UNKNOWN_EVENT]


def test_firmwares_own_words_beside_another_digest_are_not_believed() -> None:
    boot = started()
    boot.measure(4, EventType.EV_EFI_ACTION, CALL, b"something else")
    boot.separate()
    appraisal = judge(boot, components=[component()])
    assert reasons(appraisal) == [Reason.UNKNOWN_EVENT]


def test_the_rules_of_order_are_part_of_the_judgement() -> None:
    boot = booted()
    boot.separate(4)
    assert reasons(judge(boot)) == [Reason.BAD_SEPARATOR]


@pytest.mark.parametrize(
    ("rule", "kind", "data", "covered"),
    [
        (
            {"event": "load-option"},
            EventType.EV_EFI_VARIABLE_BOOT,
            variable("Boot0001", load_option("a")),
            load_option("a"),
        ),
        ({"event": "load-option"}, EventType.EV_EFI_VARIABLE_BOOT2, variable("Boot0001", load_option("a")), None),
        ({"event": "boot-order"}, EventType.EV_EFI_VARIABLE_BOOT, variable("BootOrder", b"\1\0\2\0"), b"\1\0\2\0"),
        (
            {"event": "variable", "vendor": str(GLOBAL_VARIABLE), "name": "Lang"},
            EventType.EV_EFI_VARIABLE_DRIVER_CONFIG,
            variable("Lang", b"eng"),
            None,
        ),
        (
            {"event": "text", "pattern": "set root=*,gpt2"},
            EventType.EV_IPL,
            b"grub_cmd: set root=hd0,gpt2\0",
            b"set root=hd0,gpt2",
        ),
        ({"event": "anything"}, EventType.EV_EFI_HANDOFF_TABLES, b"a pointer", b"a table"),
    ],
)
def test_a_rule_lets_an_event_vary(rule: dict[str, Any], kind: EventType, data: bytes, covered: bytes | None) -> None:
    boot = started()
    boot.measure(1, kind, data, covered)
    boot.separate()
    rules = {"components": [component()], "varying": varying(**rule)}
    appraisal = judge(boot, FIRMWARE, **rules)
    assert appraisal.findings == ()
    assert [(varied.event, varied.rule.reason) for varied in appraisal.varied] == [(3, "it varies")]
    boot = started()
    boot.measure(1, kind, data, covered)
    boot.measure(1, kind, data, covered)
    boot.separate()
    assert reasons(judge(boot, FIRMWARE, **rules)) == [Reason.TOO_OFTEN]


@pytest.mark.parametrize(
    ("rule", "kind", "data", "covered"),
    [
        # Attack 18: data that the digest does not cover reaches no rule.
        ({"event": "load-option"}, EventType.EV_EFI_VARIABLE_BOOT, variable("Boot0001", load_option("a")), b"other"),
        ({"event": "boot-order"}, EventType.EV_EFI_VARIABLE_BOOT, variable("BootOrder", b"\1\0\2\0"), b"other"),
        ({"event": "text", "pattern": "*"}, EventType.EV_IPL, b"grub_cmd: insmod evil\0", b"other"),
        # The name of a boot variable is not covered, so that a rule about a name does not see it.
        (
            {"event": "variable", "vendor": str(GLOBAL_VARIABLE), "name": "Boot0001"},
            EventType.EV_EFI_VARIABLE_BOOT,
            variable("Boot0001", load_option("a")),
            load_option("a"),
        ),
        (
            {"event": "variable", "vendor": str(GLOBAL_VARIABLE), "name": "Lang"},
            EventType.EV_EFI_VARIABLE_DRIVER_CONFIG,
            variable("PlatformLang", b"eng"),
            None,
        ),
        # Attack 19: the same bytes under another type are what they are.
        ({"event": "load-option"}, EventType.EV_EFI_VARIABLE_BOOT, b"no load option at all", None),
        (
            {"event": "boot-order"},
            EventType.EV_EFI_VARIABLE_BOOT,
            variable("BootOrder", load_option("a")),
            load_option("a"),
        ),
        ({"event": "partition-table"}, EventType.EV_EFI_GPT_EVENT, b"no table", None),
        ({"event": "text", "pattern": "set root=*"}, EventType.EV_IPL, b"grub_cmd: insmod evil\0", b"insmod evil"),
    ],
)
def test_a_rule_does_not_cover_what_only_looks_like_it(
    rule: dict[str, Any], kind: EventType, data: bytes, covered: bytes | None
) -> None:
    boot = started()
    boot.measure(1, kind, data, covered)
    boot.separate()
    appraisal = judge(boot, FIRMWARE, components=[component()], varying=varying(**rule))
    assert reasons(appraisal) == [Reason.UNKNOWN_EVENT]


def test_a_rule_covers_only_its_own_pcr() -> None:
    boot = booted((3, EventType.EV_EFI_HANDOFF_TABLES, b"a table"))
    assert reasons(judge(boot, varying=varying(event="anything"))) == [Reason.UNKNOWN_EVENT]


def test_every_fault_is_reported_and_none_hides_another() -> None:
    boot = started()
    boot.measure(2, EventType.EV_EFI_BOOT_SERVICES_DRIVER, b"a stranger")
    boot.measure(6, EventType.EV_COMPACT_HASH, b"another")
    boot.separate(*range(7))
    appraisal = judge(boot)
    assert sorted(reasons(appraisal)) == [
        Reason.BAD_SEPARATOR,
        Reason.MISSING_MEASUREMENT,
        Reason.UNKNOWN_EVENT,
        Reason.UNKNOWN_EVENT,
    ]


def test_a_log_in_hostile_words_is_shown_escaped() -> None:
    boot = booted((2, EventType.EV_ACTION, b"\x1b[2J\x07 all is well \xff\n"))
    (finding,) = judge(boot).findings
    assert finding.found.isprintable()
    assert finding.found.isascii()


def test_a_measurement_is_looked_up_in_the_quoted_bank_only() -> None:
    other_bank = {bank: digest for bank, digest in digests(b"loader").items() if bank is not Boot().banks[0]}
    mixed = manifest(Measurement(4, "loader", Presence.ALWAYS, other_bank), component="loader")
    assert Reason.NO_REFERENCE in reasons(judge(booted(), FIRMWARE, mixed))
