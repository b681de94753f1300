"""Replays an IMA list to the quoted value of PCR 10, from wherever the last replay ended.

Owns the chain from entry to PCR. While it goes over the entries it also looks each up in a set of claims that are
accepted, as this is the one place that touches every entry; those that are not in it are set aside for `judge`.
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from itertools import islice
from typing import Final

from steelyard.evidence.ima.parse import ImaList, Violation
from steelyard.evidence.ima.records import HASHES, IMA_PCR, Record, file_claim, read_records
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import LogRejected, WrongUse
from steelyard.model.pcrs import start_value

_DOING: Final = "replaying an IMA list"


@dataclass(frozen=True, slots=True)
class ImaPosition:
    """How far the list of one boot was judged: so many entries, after which PCR 10 of `bank` held `pcr10`.

    A reboot ends it: the next list starts at `ImaPosition.start`. Raises WrongUse for a bank no proof may rest on.
    """

    bank: HashAlgorithm
    entries: int
    pcr10: bytes

    def __post_init__(self) -> None:
        if not self.bank.believed or len(self.pcr10) != self.bank.size or self.entries < 0:
            raise WrongUse(
                "taking a position in an IMA list",
                expected="a SHA-2 bank, its PCR 10 and a count of entries",
                found=f"{self.bank.label}, {len(self.pcr10)} bytes, {self.entries}",
            )

    @classmethod
    def start(cls, bank: HashAlgorithm) -> "ImaPosition":
        """Return the position before the first entry of a boot."""
        return cls(bank, 0, start_value(IMA_PCR, bank))


@dataclass(frozen=True, slots=True)
class ImaExcerpt:
    """The entries of a list from number `first` + 1 on, as sent, in ASCII or binary. `first` is the sender's claim."""

    first: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Replay:
    """A list that leads to the quoted value.

    position   the new one, at the quoted value.
    judged     how many entries lie between the old position and the new.
    waiting    how many came after: they were measured after the quote, and wait for the next.
    set_aside  those of `judged` that are not accepted by their claim alone, with their numbers.
    """

    position: ImaPosition
    judged: int
    waiting: int
    set_aside: tuple[tuple[int, Record], ...]


def replay(excerpt: ImaExcerpt, position: ImaPosition, quoted: bytes, accepted: Set[bytes]) -> Replay:
    """Return how `excerpt` leads from `position` to `quoted`, the value of PCR 10 in the position's bank.

    accepted  claims, as `records.file_claim` gives them, of which nothing needs to be said.

    Entries before the position, which were judged already, are passed over unread. Template hashes are computed in the
    bank; a violation extends all ones. A kernel older than 5.7, or one without the bank's hash built in, extends SHA-1
    hashes padded with zeros: such a bank proves nothing, and its lists do not replay here (attack 25).

    Raises TooLarge, MalformedImaList, and LogRejected for a list that does not reach the quoted value: one that was
    shortened, edited, reordered, or belongs to another boot.
    Source: security/integrity/ima/ima_queue.c, ima_crypto.c of Linux 6.12.
    """
    records = read_records(excerpt.data, excerpt.first)
    _pass_over(records, excerpt.first, position.entries)
    set_aside: list[tuple[int, Record]] = []
    number = position.entries
    pcr = position.pcr10
    if pcr != quoted:
        hash_of = HASHES[position.bank]
        violation = b"\xff" * position.bank.size
        # The loop that a million entries go through: keep it to what each must have.
        for number, record in enumerate(records, position.entries + 1):
            template_hash, template, data = record
            pcr = hash_of(pcr + (violation if template_hash is None else hash_of(data).digest())).digest()
            if template_hash is None or file_claim(template, data) not in accepted:
                set_aside.append((number, record))
            if pcr == quoted:
                break
        else:
            found = f"{pcr.hex()} after the last entry, number {number}"
            raise LogRejected(_DOING, expected=f"PCR 10 to reach {quoted.hex()}", found=found)
    return Replay(
        position=ImaPosition(position.bank, number, pcr),
        judged=number - position.entries,
        waiting=sum(1 for _ in records),
        set_aside=tuple(set_aside),
    )


def _pass_over(records: Iterator[Record], first: int, entries: int) -> None:
    """Move on to the entry after number `entries`. Raises LogRejected where entries are missing before it."""
    if first > entries:
        raise LogRejected(_DOING, expected=f"entries from number {entries + 1} on", found=f"entries from {first + 1}")
    passed = sum(1 for _ in islice(records, entries - first))
    if passed < entries - first:
        raise LogRejected(_DOING, expected=f"{entries} entries, as many as before", found=f"{first + passed}")


def pcr10_values(ima_list: ImaList) -> Mapping[HashAlgorithm, bytes]:
    """Return what PCR 10 of each bank holds after the whole list, when it started at zero. For display: no proof."""
    values = {}
    for bank, hash_of in HASHES.items():
        pcr = start_value(IMA_PCR, bank)
        for entry in ima_list.entries:
            extended = b"\xff" * bank.size if isinstance(entry, Violation) else hash_of(entry.template_data).digest()
            pcr = hash_of(pcr + extended).digest()
        values[bank] = pcr
    return values
