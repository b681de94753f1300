"""The order that a boot keeps in PCR 0 to 7: separators, what may follow them, what may follow the firmware's exit.

Firmware extends a separator into each of these PCRs where it hands over. What was extended before it came from
firmware; whatever runs later can extend more, but not before it. Within one PCR the order is proven by the replay.
Across PCRs it is only claimed: a log with two PCRs interleaved otherwise replays the same. So the rule about the exit
from boot services finds what an honest log shows; someone who extended PCR 4 later could have said that it was earlier.
Such an event is still one that an accepted component must cover.
"""

from collections.abc import Iterator
from enum import Enum
from typing import Final

from steelyard.evidence.eventlog.content import NORMAL_SEPARATORS, CommittedVariable, separator_value
from steelyard.evidence.eventlog.events import Event, EventType, type_name
from steelyard.evidence.eventlog.payloads import describe
from steelyard.evidence.eventlog.replay import ReplayedLog
from steelyard.evidence.findings import Finding, Reason
from steelyard.model.text import printable


class _MayFollow(Enum):
    """What may come after the separator of a PCR."""

    NOTHING = "nothing"
    AUTHORITIES = "variables that vouched for an image"
    ANYTHING = "anything"


_AFTER_SEPARATOR: Final = {
    # Firmware's own code is complete before it hands over.
    0: _MayFollow.NOTHING,
    # Boot entries (HP, Supermicro) and SMBIOS tables (Lenovo) are measured after it.
    1: _MayFollow.ANYTHING,
    # Drivers of devices that are connected late (Lenovo).
    2: _MayFollow.ANYTHING,
    3: _MayFollow.NOTHING,
    # Boot loaders; partition tables, and actions of the boot manager.
    4: _MayFollow.ANYTHING,
    5: _MayFollow.ANYTHING,
    6: _MayFollow.NOTHING,
    # The entries of db by which images were let in, and shim's. The state of Secure Boot belongs before it.
    7: _MayFollow.AUTHORITIES,
}
"""Seen in real logs, each with the maker; PCR 3 and 6 had nothing in any. Source of what each PCR is for: TCG PC Client
Platform Firmware Profile 1.06, PCR usage."""

_SECURE_BOOT_STATE: Final = frozenset(
    {"SecureBoot", "SetupMode", "AuditMode", "DeployedMode", "PK", "KEK", "dbx", "dbt", "dbr"}
)
"""Variables that no image is let in by. `db` is not here: an authority is logged under its name."""

_EXIT_PCR: Final = 5
_EXIT: Final = b"Exit Boot Services Invocation"
_EXIT_FAILED: Final = b"Exit Boot Services Returned with Failure"
_EXIT_SUCCEEDED: Final = b"Exit Boot Services Returned with Success"
"""EV_EFI_ACTION strings. Source: Platform Firmware Profile 1.06, EV_EFI_ACTION."""


def check_sequence(log: ReplayedLog) -> tuple[Finding, ...]:
    """Return what breaks the rules of order in the quoted PCRs 0 to 7, in the log's order, missing separators last.

    Exactly one separator in each, known by its digest: the hash of 0 or of 0xffffffff in four bytes. One that says
    that firmware met an error (the hash of 1, or anything else under the name of a separator) is a finding of its own.
    After it, what `_AFTER_SEPARATOR` allows. After firmware was told to exit boot services, none of these PCRs changes
    but for the answer, until the exit fails.
    """
    boot_pcrs = sorted(log.pcrs.keys() & _AFTER_SEPARATOR.keys())
    events = [event for event in log.events if event.pcr in boot_pcrs]
    findings = sorted([*_around_separators(log, events), *_after_exit(log, events)], key=lambda found: found[0])
    separated = {event.pcr for event in events if _separator(log, event) in NORMAL_SEPARATORS}
    missing = [
        Finding(Reason.BAD_SEPARATOR, f"PCR {pcr}", "separator", "one separator", "none")
        for pcr in boot_pcrs
        if pcr not in separated
    ]
    return (*(finding for _, finding in findings), *missing)


def _around_separators(log: ReplayedLog, events: list[Event]) -> Iterator[tuple[int, Finding]]:
    separated: set[int] = set()
    for event in events:
        value = _separator(log, event)
        if value in NORMAL_SEPARATORS:
            if event.pcr in separated:
                yield _found(log, event, Reason.BAD_SEPARATOR, "one separator", "another")
            separated.add(event.pcr)
        elif value is not None or event.claimed_type == EventType.EV_SEPARATOR:
            yield _found(log, event, Reason.BAD_SEPARATOR, "a separator that says no error", _error(value))
        elif event.pcr in separated:
            follow = _AFTER_SEPARATOR[event.pcr]
            if follow is _MayFollow.NOTHING or (follow is _MayFollow.AUTHORITIES and not _is_authority(log, event)):
                yield _found(log, event, Reason.AFTER_SEPARATOR, f"{follow.value} after the separator", "an event")


def _after_exit(log: ReplayedLog, events: list[Event]) -> Iterator[tuple[int, Finding]]:
    invoked, failed, succeeded = (log.bank.digest(action) for action in (_EXIT, _EXIT_FAILED, _EXIT_SUCCEEDED))
    exiting = False
    for event in events:
        action = log.digest(event) if event.pcr == _EXIT_PCR else None
        if action == failed:
            exiting = False
        elif exiting and action != succeeded:
            expected = "no measurement after firmware was told to exit boot services"
            yield _found(log, event, Reason.OUT_OF_ORDER, expected, "an event")
        elif action == invoked:
            exiting = True


def _separator(log: ReplayedLog, event: Event) -> int | None:
    return separator_value(log.digest(event), log.bank)


def _error(value: int | None) -> str:
    return "one of another value" if value is None else f"one of value 0x{value:08x}"


def _is_authority(log: ReplayedLog, event: Event) -> bool:
    committed = log.committed(event)
    return isinstance(committed, CommittedVariable) and committed.variable.name not in _SECURE_BOOT_STATE


def _found(log: ReplayedLog, event: Event, reason: Reason, expected: str, what: str) -> tuple[int, Finding]:
    where = f"PCR {event.pcr}, event {event.number}"
    subject = printable(f"{type_name(event.claimed_type)}: {describe(event)}")
    return event.number, Finding(reason, where, subject, expected, f"{what}, digest {log.digest(event).hex()}")
