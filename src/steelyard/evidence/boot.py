"""Judges a boot: which component made each event, which events a rule lets vary, and what nobody answers for.

Works on a replayed log, by PCR, digest and what the digest covers; the claimed type of an event is never asked for.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from steelyard.evidence.compiled_policy import CompiledPolicy
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
    AcceptedComponent,
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
from steelyard.model.algorithms import HashAlgorithm
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
        own = hits.get(component, [])
        found, wrong = _judge_component(own, compiled.manifests.get(component, ()), accepted, log.bank)
        findings += wrong
        if found is not None:
            components.append(found)
            explained.update(found.events)
        elif wrong:
            # What it lacks is said; that its other events are then nobody's goes without saying.
            explained.update(hit.event for group in own for hit in group.hits)
    varied, unknown = _judge_rest([event for event in log.events if event.number not in explained], log, compiled)
    return BootAppraisal(tuple(components), varied, (*findings, *unknown))


@dataclass(frozen=True, slots=True)
class _Hit:
    """An event that has the digest of a measurement; `position` is the measurement's in its manifest."""

    event: int
    pcr: int
    position: int


class _Hits:
    """The events that have digests of one manifest, in the log's order, each told off to one of its measurements."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.times: Counter[int] = Counter()
        self.hits: list[_Hit] = []

    def add(self, event: Event, positions: Sequence[int]) -> None:
        """Tell an event off to the measurement that lacks one most: two of one component may have the same digest."""
        position = min(positions, key=lambda place: (self.times[place], place))
        self.times[position] += 1
        self.hits.append(_Hit(event.number, event.pcr, position))


def _find_hits(log: ReplayedLog, compiled: CompiledPolicy) -> dict[str, list[_Hits]]:
    """Return, per component, what of each accepted manifest is in the log, newest version first."""
    found: dict[int, _Hits] = {}
    slots, bank = compiled.slots, log.bank
    for event in log.events:
        for slot in slots.get((event.pcr, event.digests[bank]), ()):
            hits = found.get(id(slot.manifest))
            if hits is None:
                hits = found[id(slot.manifest)] = _Hits(slot.manifest)
            hits.add(event, slot.positions)
    return {
        component: [found[id(manifest)] for manifest in manifests if id(manifest) in found]
        for component, manifests in compiled.manifests.items()
    }


def _judge_component(
    found: Sequence[_Hits], manifests: Sequence[Manifest], accepted: AcceptedComponent, bank: HashAlgorithm
) -> tuple[FoundComponent | None, list[Finding]]:
    """Return the newest manifest that is there completely, else what the closest one lacks."""
    closest: tuple[int, list[Finding]] | None = None
    for hits in found:
        wrong = _what_is_wrong(hits, accepted.at_most, bank)
        if not wrong:
            return FoundComponent(hits.manifest, tuple(hit.event for hit in hits.hits)), []
        if closest is None or len(hits.hits) > closest[0]:
            closest = (len(hits.hits), wrong)
    if closest is not None:
        return None, closest[1]
    if accepted.requirement is Requirement.OPTIONAL:
        return None, []
    where, subject = "the whole log", accepted.component
    if not manifests:
        wanted, got = "an accepted reference for it", "none: it cannot be told from anything else"
        return None, [Finding(Reason.NO_REFERENCE, where, subject, wanted, got)]
    wanted = "one of the versions " + ", ".join(manifest.version.text for manifest in manifests)
    return None, [Finding(Reason.MISSING_MEASUREMENT, where, subject, wanted, "nothing that any of them measures")]


def _what_is_wrong(found: _Hits, at_most: int, bank: HashAlgorithm) -> list[Finding]:
    manifest = found.manifest
    subject = f"{manifest.component} {manifest.version.text}"
    findings = []
    for position, measurement in enumerate(manifest.measurements):
        where, times = f"PCR {measurement.pcr}", found.times[position]
        wanted = f"{measurement.what}, {bank.label} {measurement.digests[bank].hex()}"
        if times == 0 and measurement.presence is Presence.ALWAYS:
            findings.append(Finding(Reason.MISSING_MEASUREMENT, where, subject, wanted, "no such event"))
        elif times > at_most:
            findings.append(
                Finding(Reason.TOO_OFTEN, where, subject, f"{wanted}, at most {at_most} times", f"{times} times")
            )
    if max(found.times.values()) == 1:
        findings += _out_of_order(found, subject)
    return findings


def _out_of_order(found: _Hits, subject: str) -> Iterator[Finding]:
    last: dict[int, _Hit] = {}
    for hit in found.hits:
        before = last.get(hit.pcr)
        if before is not None and hit.position < before.position:
            what = [found.manifest.measurements[place.position].what for place in (hit, before)]
            where = f"PCR {hit.pcr}, event {hit.event}"
            yield Finding(Reason.OUT_OF_ORDER, where, subject, f"{what[0]} before {what[1]}", "after it")
        last[hit.pcr] = hit


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
        reason = Reason.REVOKED_COMPONENT if known.withdrawn else Reason.UNKNOWN_EVENT
        return Finding(reason, where, subject, "a component in a version that the policy accepts", known.why)
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
