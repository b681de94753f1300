"""Judges a boot: which component made each event, which events a rule lets vary, and what nobody answers for.

Works on a replayed log, by PCR, digest and what the digest covers; the claimed type of an event is never asked for.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from steelyard.evidence.compiled_policy import CompiledPolicy, Slot
from steelyard.evidence.eventlog.content import (
    Committed,
    CommittedData,
    CommittedSeparator,
    CommittedText,
    CommittedVariable,
    CommittedVariableValue,
)
from steelyard.evidence.eventlog.events import Event
from steelyard.evidence.eventlog.partitions import parse_partition_table
from steelyard.evidence.eventlog.payloads import describe
from steelyard.evidence.eventlog.replay import ReplayedLog
from steelyard.evidence.eventlog.sequence import check_sequence
from steelyard.evidence.eventlog.variables import parse_boot_order, parse_load_option
from steelyard.evidence.findings import Finding, Reason
from steelyard.evidence.glob import matches_text
from steelyard.evidence.policy import (
    AnythingMatch,
    BootOrderMatch,
    LoadOptionMatch,
    Match,
    PartitionTableMatch,
    Requirement,
    TextMatch,
    VariableMatch,
    VaryingEvent,
)
from steelyard.evidence.reference.manifest import Manifest
from steelyard.evidence.reference.measurement import Presence
from steelyard.model.errors import Malformed
from steelyard.model.text import printable

_FIRMWARE_ACTIONS: Final = {
    (4, b"Calling EFI Application from Boot Option"),
    (4, b"Returning from EFI Application from Boot Option"),
    (5, b"Exit Boot Services Invocation"),
    (5, b"Exit Boot Services Returned with Success"),
}
"""What every UEFI firmware says at these points; it says it itself, about itself, and the words carry no choice.

Source: TCG PC Client Platform Firmware Profile 1.06, section 10.4.4 (EV_EFI_ACTION event types).
"""


_SEPARATED_PCRS: Final = frozenset(range(8))
"""Where firmware puts separators, and `check_sequence` judges them."""


@dataclass(frozen=True, slots=True)
class FoundComponent:
    """A component that was measured completely, as this manifest has it."""

    manifest: Manifest
    events: tuple[int, ...]
    """Numbers of its events in the log."""


@dataclass(frozen=True, slots=True)
class VariedEvent:
    """An event that only a rule covers, and the rule."""

    event: int
    rule: VaryingEvent


@dataclass(frozen=True, slots=True)
class BootAppraisal:
    """What a boot was made of, and everything wrong with it."""

    components: tuple[FoundComponent, ...]
    varied: tuple[VariedEvent, ...]
    findings: tuple[Finding, ...]


def judge_boot(log: ReplayedLog, compiled: CompiledPolicy) -> BootAppraisal:
    """Return what `log` was made of.

    1. The order inside the firmware's PCRs holds.
    2. Of each component one accepted manifest is there completely, in order, no more often than allowed.
    3. Every event left is a separator, a firmware's own word, or covered by a rule with room left.
    Every finding is reported; none hides another.
    """
    findings = list(check_sequence(log))
    hits = _find_hits(log, compiled)
    components = []
    explained: set[int] = set()
    for component, accepted in compiled.policy.components.items():
        found, wrong = _judge_component(
            hits.get(component, {}),
            compiled.manifests.get(component, ()),
            component,
            accepted.requirement,
            accepted.at_most,
        )
        findings += wrong
        explained.update(hit.event for group in hits.get(component, {}).values() for hit in group if wrong)
        if found is not None:
            components.append(found)
            explained.update(found.events)
    varied, unknown = _judge_rest([event for event in log.events if event.number not in explained], log, compiled)
    return BootAppraisal(tuple(components), varied, (*findings, *unknown))


@dataclass(frozen=True, slots=True)
class _Hit:
    """An event that has the digest of a measurement."""

    event: int
    slot: Slot


Hits = Mapping[int, Sequence[_Hit]]
"""Per manifest (by identity: its place among the component's accepted ones)."""


def _find_hits(log: ReplayedLog, compiled: CompiledPolicy) -> dict[str, dict[int, list[_Hit]]]:
    """Return, per component and manifest, the events that have one of its digests, in the log's order."""
    hits: dict[str, dict[int, list[_Hit]]] = {}
    slots, bank = compiled.slots, log.bank
    for event in log.events:
        for slot in slots.get((event.pcr, event.digests[bank]), ()):
            hits.setdefault(slot.manifest.component, {}).setdefault(id(slot.manifest), []).append(
                _Hit(event.number, slot)
            )
    return hits


def _judge_component(
    hits: Hits, manifests: Sequence[Manifest], component: str, requirement: Requirement, at_most: int
) -> tuple[FoundComponent | None, list[Finding]]:
    """Return the newest manifest that is there completely, else what the closest one lacks."""
    closest: tuple[int, Manifest, list[Finding]] | None = None
    for manifest in manifests:
        own = hits.get(id(manifest), ())
        if not own:
            continue
        wrong = _what_is_wrong(own, manifest, at_most)
        if not wrong:
            return FoundComponent(manifest, tuple(hit.event for hit in own)), []
        if closest is None or len(own) > closest[0]:
            closest = (len(own), manifest, wrong)
    if closest is not None:
        return None, closest[2]
    if requirement is Requirement.OPTIONAL:
        return None, []
    return None, [
        Finding(
            Reason.MISSING_MEASUREMENT,
            "the whole log",
            component,
            "one of " + ", ".join(manifest.version.text for manifest in manifests)
            if manifests
            else "an accepted reference for it; none was given",
            "nothing that it measures",
        )
    ]


def _what_is_wrong(own: Sequence[_Hit], manifest: Manifest, at_most: int) -> list[Finding]:
    subject = f"{manifest.component} {manifest.version.text}"
    times = Counter(hit.slot.position for hit in own)
    findings = []
    for position, measurement in enumerate(manifest.measurements):
        where = f"PCR {measurement.pcr}"
        if times[position] == 0 and measurement.presence is Presence.ALWAYS:
            findings.append(Finding(Reason.MISSING_MEASUREMENT, where, subject, measurement.what, "no such event"))
        elif times[position] > at_most:
            findings.append(
                Finding(
                    Reason.TOO_OFTEN,
                    where,
                    subject,
                    f"{measurement.what} at most {at_most} times",
                    f"{times[position]}",
                )
            )
    if at_most == 1:
        by_pcr = defaultdict(list)
        for hit in own:
            by_pcr[hit.slot.measurement.pcr].append(hit)
        for pcr, in_order in by_pcr.items():
            for before, after in pairwise(in_order):
                if after.slot.position <= before.slot.position:
                    findings.append(
                        Finding(
                            Reason.OUT_OF_ORDER,
                            f"PCR {pcr}, event {after.event}",
                            subject,
                            f"{after.slot.measurement.what} before {before.slot.measurement.what}",
                            "after it",
                        )
                    )
    return findings


def _judge_rest(
    events: Sequence[Event], log: ReplayedLog, compiled: CompiledPolicy
) -> tuple[tuple[VariedEvent, ...], list[Finding]]:
    """Return the events that rules cover, and a finding for each that nothing covers."""
    used: Counter[int] = Counter()
    varied, findings = [], []
    rules = compiled.policy.varying
    for event in events:
        content = log.committed(event)
        if _is_checked_separator(event, content) or _is_firmware_action(event, content):
            continue
        fitting = [place for place, rule in enumerate(rules) if rule.pcr == event.pcr and _fits(rule.match, content)]
        free = next((place for place in fitting if used[place] < rules[place].at_most), None)
        if free is not None:
            used[free] += 1
            varied.append(VariedEvent(event.number, rules[free]))
        else:
            findings.append(_unknown(event, log, compiled, [rules[place] for place in fitting]))
    return tuple(varied), findings


def _is_checked_separator(event: Event, content: Committed | None) -> bool:
    """Tell whether it is a separator where `check_sequence` has judged it."""
    return isinstance(content, CommittedSeparator) and event.pcr in _SEPARATED_PCRS


def _is_firmware_action(event: Event, content: Committed | None) -> bool:
    return isinstance(content, CommittedText) and (event.pcr, content.covered) in _FIRMWARE_ACTIONS


def _fits(match: Match, content: Committed | None) -> bool:
    """Tell whether a rule covers what an event's digest covers; content that it does not cover fits nothing."""
    match match:
        case AnythingMatch():
            return True
        case VariableMatch(vendor, name):
            return (
                isinstance(content, CommittedVariable)
                and content.variable.vendor == vendor
                and content.variable.name == name
            )
        case LoadOptionMatch():
            return _reads(parse_load_option, _value(content))
        case BootOrderMatch():
            return _is_boot_order(_value(content))
        case PartitionTableMatch():
            return isinstance(content, CommittedData) and _reads(parse_partition_table, content.covered)
        case TextMatch(pattern):
            return isinstance(content, CommittedText) and matches_text(pattern, content.text)


def _value(content: Committed | None) -> bytes:
    """Return a variable's value, whether the digest covers only it (EDK2) or the name too (EV_EFI_VARIABLE_BOOT2)."""
    match content:
        case CommittedVariableValue(value):
            return value
        case CommittedVariable(_, variable):
            return variable.value
        case _:
            return b""


def _reads(parse: Callable[[bytes], object], data: bytes) -> bool:
    try:
        parse(data)
    except Malformed:
        return False
    return True


def _is_boot_order(value: bytes) -> bool:
    # Any even number of bytes is a list of numbers; that they differ is what makes it an order and no other variable.
    return len(value) >= 2 and len(value) % 2 == 0 and len(set(parse_boot_order(value))) == len(value) // 2


def _unknown(event: Event, log: ReplayedLog, compiled: CompiledPolicy, full: Sequence[VaryingEvent]) -> Finding:
    where = f"PCR {event.pcr}, event {event.number}"
    digest = event.digests[log.bank]
    found = f"{log.bank.label} {digest.hex()}, {printable(describe(event))}"
    if full:
        return Finding(
            Reason.TOO_OFTEN, where, found, f"at most {full[0].at_most} events that vary ({full[0].reason})", "one more"
        )
    known = compiled.not_accepted.get((event.pcr, digest))
    if known is not None:
        manifest = known.manifest
        subject = f"{manifest.component} {manifest.version.text}"
        return Finding(Reason.REVOKED_COMPONENT, where, subject, "a version that the policy accepts", known.why)
    return Finding(Reason.UNKNOWN_EVENT, where, _look_alike(event, compiled), "an accepted component or a rule", found)


def _look_alike(event: Event, compiled: CompiledPolicy) -> str:
    """Return which components have measurements in this PCR: one of them is likely what was changed."""
    components = sorted(
        {
            f"{component} {manifest.version.text}"
            for component, manifests in compiled.manifests.items()
            for manifest in manifests
            if any(measurement.pcr == event.pcr for measurement in manifest.measurements)
        }
    )
    return "in place of, or besides, " + ", ".join(components) if components else "nothing the policy knows in this PCR"
