"""From a log's words to events that a quote stands behind.

Replay computes what each PCR must hold if the log tells all that was extended, in order. Where that is what the TPM
quoted, the log's digests for that PCR are true, complete and in order; its types, data and order across PCRs are still
only claimed (`content` says what of the data the digests cover).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from steelyard.evidence.eventlog.content import Committed, committed_content
from steelyard.evidence.eventlog.events import Event, EventLog, EventType
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import LogRejected
from steelyard.model.pcrs import PcrValues, start_value

_DOING: Final = "replaying an event log"

_NO_ACTION: Final = int(EventType.EV_NO_ACTION)
"""As a plain number: to compare with a member of an enumeration costs as much as the rest of the loops below."""

_STARTUP_LOCALITY: Final = b"StartupLocality\0"
"""Signature of TCG_EfiStartupLocalityEvent; one byte of locality follows."""
_STARTUP_LOCALITIES: Final = frozenset({0, 3, 4})
_H_CRTM_LOCALITY: Final = 4


@dataclass(frozen=True, slots=True)
class ReplayedLog:
    """The events that explain quoted PCR values. Only `verify_log` makes it.

    bank      the bank that was quoted; always a believed one.
    pcrs      index -> the quoted value, which the events below replay to; a PCR without events is at its start value.
    events    every measurement that was extended into these PCRs, in the log's order: proven within a PCR, only
              claimed across PCRs. No EV_NO_ACTION is among them.
    left_out  how many events of the log are not: those of PCRs that were not quoted or have no digest of this bank
              (nothing vouches for them), and EV_NO_ACTION.
    """

    bank: HashAlgorithm
    pcrs: Mapping[int, bytes]
    events: tuple[Event, ...]
    left_out: int

    def digest(self, event: Event) -> bytes:
        """Return the digest that was extended for one of `events`."""
        return event.digests[self.bank]

    def committed(self, event: Event) -> Committed | None:
        """Return what that digest covers, or nothing; hashes the event's data, so ask once."""
        return committed_content(event, self.bank)


def replay(log: EventLog, bank: HashAlgorithm) -> Mapping[int, bytes]:
    """Return what the log says that each PCR of `bank` holds, for the PCRs that it has events of.

    bank  one that the log carries and Steelyard computes; SHA-1 too, as to compute a value is not to believe it.

    Raises LogRejected.
    Source: TCG PC Client Platform Firmware Profile 1.06, TCG_PCR_EVENT2, EV_NO_ACTION.
    """
    new = bank.new
    if bank not in log.algorithms or new is None:
        carried = ", ".join(algorithm.label for algorithm in log.algorithms if algorithm.computable)
        raise LogRejected(_DOING, expected=f"a bank that the log carries ({carried or 'none'})", found=bank.label)
    values: dict[int, bytes] = {}
    start_of_pcr_0 = _start_of_pcr_0(log, bank)
    for event in log.events:
        digest = event.digests.get(bank)
        if digest is None or event.claimed_type == _NO_ACTION:
            continue
        pcr = event.pcr
        value = values.get(pcr)
        if value is None:
            value = start_of_pcr_0 if pcr == 0 else start_value(pcr, bank)
        values[pcr] = new(value + digest).digest()
    return values


def verify_log(log: EventLog, quoted: PcrValues, elsewhere: frozenset[int]) -> ReplayedLog:
    """Return the log's events of the quoted PCRs, now known to be what was extended.

    quoted     values that a verified quote vouches for, at least one; of one believed bank, which the log must carry.
    elsewhere  PCRs that another log accounts for (10: the IMA list), so that this one need not. It must then have no
               event in them: two accounts of one PCR cannot both be whole.

    1. The bank is believed, and the log carries it.
    2. Every quoted PCR that is not elsewhere has the value that its events replay to, and its start value if it has
       no events. What starts PCR 0 is read from the log: a lie in it gives another value.
    3. Events of other PCRs are left out and counted: no quoted value covers them, so they may not satisfy a rule
       (attack 16), nor spoil an appraisal. So are events that lack a digest of this bank, as boot loaders log that
       extend some banks only.
    4. Where a digest of this bank covers data, the event's digests of other believed banks are hashes of the same:
       whoever reads another bank of this log must not be told another story.

    Raises LogRejected.
    """
    bank = quoted.bank
    doing = f"{_DOING} to the quoted {bank.label} values"
    if not bank.believed:
        raise LogRejected(doing, expected="a bank of SHA-256 or better", found=bank.label)
    expected = {index: value for index, value in sorted(quoted.values.items()) if index not in elsewhere}
    if not expected:
        raise LogRejected(doing, expected="at least one quoted PCR for the log to explain", found="none")
    replayed = replay(log, bank)
    for index in sorted(elsewhere):
        if index in replayed:
            raise LogRejected(doing, expected=f"no event in PCR {index}, which another log is of", found="events")
    start_of_pcr_0 = _start_of_pcr_0(log, bank)
    for index, value in expected.items():
        start = start_of_pcr_0 if index == 0 else start_value(index, bank)
        computed = replayed.get(index, start)
        if computed != value:
            how = "replayed" if index in replayed else "without events, start value"
            raise LogRejected(
                doing, expected=f"PCR {index} to be {value.hex()}, as quoted", found=f"{computed.hex()} ({how})"
            )
    events = tuple(
        event
        for event in log.events
        if event.pcr in expected and bank in event.digests and event.claimed_type != _NO_ACTION
    )
    _check_banks_agree(events, bank, log.algorithms)
    return ReplayedLog(bank, expected, events, len(log.events) - len(events))


def _start_of_pcr_0(log: EventLog, bank: HashAlgorithm) -> bytes:
    """Return what PCR 0 holds before its first event: the locality of TPM2_Startup, or 4 after an H-CRTM, as a number.

    Raises LogRejected for a StartupLocality event that is not one, in PCR 0, before what PCR 0 is extended with
    (attack 17). It is no measurement: what proves it is that PCR 0 replays to the quoted value from here only.
    Source: TPM 2.0 Library Part 1, H-CRTM before TPM2_Startup(); Platform Firmware Profile 1.06,
    TCG_EfiStartupLocalityEvent and EV_EFI_HCRTM_EVENT.
    """
    claimed: int | None = None
    first: Event | None = None
    for event in log.events:
        if event.claimed_type == _NO_ACTION:
            if not event.data.startswith(_STARTUP_LOCALITY[:-1]):
                continue
            if event.pcr != 0 or first is not None or claimed is not None:
                raise LogRejected(
                    _DOING,
                    expected="one StartupLocality event, in PCR 0, before any measurement into it",
                    found=f"event {event.number}, in PCR {event.pcr}",
                )
            locality = event.data[len(_STARTUP_LOCALITY) :]
            if event.data[: len(_STARTUP_LOCALITY)] != _STARTUP_LOCALITY or len(locality) != 1:
                raise LogRejected(_DOING, expected="a StartupLocality event of 17 bytes", found=event.data.hex())
            claimed = locality[0]
            if claimed not in _STARTUP_LOCALITIES:
                raise LogRejected(_DOING, expected="startup at locality 0, 3 or 4", found=f"{claimed}")
        elif event.pcr == 0 and first is None:
            first = event
    # The TPM forgets the locality of TPM2_Startup when an H-CRTM came before it.
    started_by_h_crtm = first is not None and first.claimed_type == EventType.EV_EFI_HCRTM_EVENT
    locality_byte = _H_CRTM_LOCALITY if started_by_h_crtm else claimed or 0
    return locality_byte.to_bytes(bank.size, "big")


def _check_banks_agree(events: tuple[Event, ...], bank: HashAlgorithm, algorithms: tuple[HashAlgorithm, ...]) -> None:
    others = [algorithm for algorithm in algorithms if algorithm.believed and algorithm is not bank]
    if not others:
        return
    for event in events:
        committed = committed_content(event, bank)
        if committed is None:
            continue
        for other in others:
            digest = event.digests.get(other)
            if digest is not None and digest != other.digest(committed.covered):
                raise LogRejected(
                    f"{_DOING}, event {event.number} in PCR {event.pcr}",
                    expected=f"{bank.label} and {other.label} digests of the same data",
                    found=f"{other.label} {digest.hex()}",
                )
