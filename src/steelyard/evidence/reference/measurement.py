"""One value that a component extends a PCR with."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from steelyard.model.algorithms import HashAlgorithm


class Presence(StrEnum):
    """Whether a boot of the component always makes this measurement."""

    ALWAYS = "always"
    SOMETIMES = "sometimes"


@dataclass(frozen=True, slots=True)
class Measurement:
    """A digest that a component puts into a PCR.

    what     for people: "DXE volume", ".cmdline section", "db variable".
    digests  the extended value per bank, each of its bank's size; at least one believed bank.
    """

    pcr: int
    what: str
    presence: Presence
    digests: Mapping[HashAlgorithm, bytes]
