"""What the next kernel is given, measured first.

Nothing else of the boot chain uses PCR 13 (systemd extends 11 and 15 later, 16 and 23 can be reset by anyone).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from steelyard.model.algorithms import HashAlgorithm

HANDOVER_PCR: Final = 13

Digests = Mapping[HashAlgorithm, bytes]


@dataclass(frozen=True, slots=True)
class Loaded:
    """The digests of all that the next system is made of, per bank; the header only where its volume has one."""

    parameters: Digests
    kernel: Digests
    initramfs: Digests
    command_line: Digests
    luks_header: Digests | None


def plan_measurements(loaded: Loaded) -> list[tuple[str, Digests]]:
    """Return what PCR 13 is extended with, in this order: what it is, for people, and its digests."""
    planned = [
        ("parameters", loaded.parameters),
        ("kernel", loaded.kernel),
        ("initramfs", loaded.initramfs),
        ("command line", loaded.command_line),
    ]
    return planned if loaded.luks_header is None else [*planned, ("LUKS header", loaded.luks_header)]


def digests_of(data: bytes, banks: frozenset[HashAlgorithm]) -> Digests:
    """Return the digest of `data` for each bank."""
    return {bank: bank.digest(data) for bank in banks}
