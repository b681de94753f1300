"""What simulated machines boot, and what they run after: the recorded logs of real firmware, whole or changed.

A change here is one of the machine: PCRs and log tell it alike. Logs that lie are made by the node that shows them.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from steelyard.evidence.eventlog.events import EventType
from steelyard.evidence.eventlog.parse import parse_event_log
from steelyard.model.algorithms import HashAlgorithm
from tests.recorded import BOOTS
from tests.unit.evidence.eventlog.build import agile_event
from tests.unit.evidence.ima.lists import Blob, Digest, Entry, boot_aggregate

SHA256: Final = HashAlgorithm.SHA256
SHA384: Final = HashAlgorithm.SHA384
_SHA1_EVENT_BYTES: Final = 32
"""Of the log's first event, before its data."""
SECURE_BOOT_DB: Final = 7
AIRLOCK_IMAGE: Final = 23
"""Numbers of events in the log of the boot `first`: the variable db, the airlock image as an EFI application."""


@dataclass(frozen=True, slots=True)
class Measured:
    """An event, and what was extended for it."""

    pcr: int
    claimed_type: int
    data: bytes
    digests: Mapping[HashAlgorithm, bytes]

    def to_bytes(self) -> bytes:
        """Return the TCG_PCR_EVENT2."""
        listed = [(bank.tpm_id, digest) for bank, digest in self.digests.items()]
        return agile_event(self.pcr, self.claimed_type, self.data, listed)


def measured(pcr: int, claimed_type: int, data: bytes, covered: bytes) -> Measured:
    """Return an event whose digests are of `covered`, in the banks of the recorded logs."""
    banks = (HashAlgorithm.SHA1, SHA256, SHA384)
    return Measured(pcr, claimed_type, data, {bank: hashlib.new(bank.label, covered).digest() for bank in banks})


@dataclass(frozen=True)
class BootLog:
    """A boot: the log's header, and its events in order (number 1 of a log is the first of these)."""

    header: bytes
    events: tuple[Measured, ...]

    def to_bytes(self) -> bytes:
        """Return the log as the kernel shows it."""
        return self.header + b"".join([event.to_bytes() for event in self.events])

    def changed(self, number: int, event: Measured) -> "BootLog":
        """Return the boot with another event of this number."""
        return replace(self, events=(*self.events[: number - 1], event, *self.events[number:]))

    def with_another(self, number: int, content: bytes) -> "BootLog":
        """Return the boot in which something else was measured in the place of an event."""
        old = self.events[number - 1]
        return self.changed(number, measured(old.pcr, old.claimed_type, old.data, content))

    def with_variable(self, number: int, value: bytes) -> "BootLog":
        """Return the boot with more in a variable that had no value; the digest covers all of it."""
        old = self.events[number - 1]
        size_at = 24  # a GUID, the length of the name
        data = old.data[:size_at] + len(value).to_bytes(8, "little") + old.data[size_at + 8 :] + value
        return self.changed(number, measured(old.pcr, old.claimed_type, data, data))

    @property
    def extended(self) -> Iterable[tuple[int, Mapping[HashAlgorithm, bytes]]]:
        """What the PCRs were extended with, in order."""
        return [(each.pcr, each.digests) for each in self.events if each.claimed_type != EventType.EV_NO_ACTION]


@cache
def recorded_boot(name: str) -> BootLog:
    """Return one of the boots in tests/vectors/ovmf/boots."""
    data = (BOOTS / name / "event_log.bin").read_bytes()
    log = parse_event_log(data)
    header = data[: _SHA1_EVENT_BYTES + len(log.events[0].data)]
    boot = BootLog(
        header, tuple(Measured(each.pcr, each.claimed_type, each.data, each.digests) for each in log.events[1:])
    )
    assert boot.to_bytes() == data
    return boot


@cache
def recorded_pcrs(name: str, bank: HashAlgorithm) -> Mapping[int, bytes]:
    """Return what the kernel read from the real TPM after that boot."""
    values = json.loads((BOOTS / name / "pcrs.json").read_text())[bank.label]
    return {int(index): bytes.fromhex(value) for index, value in values.items()}


# -- what ran ----------------------------------------------------------------------------------------------------------


def file_paths(count: int) -> list[str]:
    """Return the paths of so many files, as a distribution has them."""
    return [f"/usr/lib/x86_64-linux-gnu/package-{number % 500}/library-{number}.so.6" for number in range(count)]


def content_of(path: str) -> bytes:
    """Return what the file at a path has in it, as long as nobody changes it."""
    return path.encode()


def good_files(count: int) -> dict[str, str]:
    """Return path -> SHA-256 of so many files, as manifests have them."""
    return {path: hashlib.sha256(content_of(path)).hexdigest() for path in file_paths(count)}


def file_entry(path: str, content: bytes | None = None, template: str = "ima-sig") -> Entry:
    """Return the entry of a file that was run, with another content than its own where one is given."""
    value = hashlib.sha256(content_of(path) if content is None else content).digest()
    return Entry(template, Digest(value), path.encode(), (Blob(b""),) if template == "ima-sig" else ())


class MeasurementList:
    """A kernel's list in its binary form, as it grows."""

    def __init__(self, boot_pcrs: Mapping[int, bytes]) -> None:
        """Begin with the boot_aggregate of these PCRs of the SHA-256 bank; `began` is what PCR 10 is extended with."""
        self._entries: list[bytes] = []
        self.began = self.add(boot_aggregate(dict(boot_pcrs)))

    def add(self, entry: Entry) -> dict[HashAlgorithm, bytes]:
        """Put an entry at its end; return what PCR 10 is extended with."""
        self._entries.append(entry.binary("sha1"))
        data = entry.data()
        return {SHA256: hashlib.sha256(data).digest(), SHA384: hashlib.sha384(data).digest()}

    def __len__(self) -> int:
        return len(self._entries)

    def after(self, entries: int) -> bytes:
        """Return the entries after the first so many."""
        return b"".join(self._entries[entries:])

    def without(self, number: int) -> "MeasurementList":
        """Return the list without one of its entries, counted from 0."""
        other = object.__new__(MeasurementList)
        other._entries = [*self._entries[:number], *self._entries[number + 1 :]]
        return other
