"""PCR banks and their values."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import WrongUse

PCR_COUNT: Final = 24
"""Of a PC Client TPM. Source: TCG PC Client Platform TPM Profile 1.05, section 4.6."""


def start_value(index: int, bank: HashAlgorithm) -> bytes:
    """Return what a PCR holds after TPM2_Startup(CLEAR) at locality 0, before anything extends it.

    PCR 17-22 belong to a dynamic launch and start as all ones; the others as zeros. Startup at another locality
    changes PCR 0 alone; the event log says so (StartupLocality).
    Source: TCG PC Client Platform TPM Profile 1.05, section 4.6.
    """
    return (b"\xff" if 17 <= index <= 22 else b"\x00") * bank.size


@dataclass(frozen=True, slots=True)
class PcrSelection:
    """Which PCRs of one bank are asked for: at least one, each below 24. Raises WrongUse."""

    bank: HashAlgorithm
    indices: frozenset[int]

    def __post_init__(self) -> None:
        if not self.indices:
            raise WrongUse("choosing PCRs", expected="at least one PCR", found="none")
        if not all(0 <= index < PCR_COUNT for index in self.indices):
            raise WrongUse("choosing PCRs", expected=f"numbers 0 to {PCR_COUNT - 1}", found=f"{sorted(self.indices)}")


@dataclass(frozen=True, slots=True)
class PcrValues:
    """Values of PCRs of one bank, index -> digest of the bank's size. Says nothing of whether they are true."""

    bank: HashAlgorithm
    values: Mapping[int, bytes]

    def __post_init__(self) -> None:
        for index, value in self.values.items():
            if not 0 <= index < PCR_COUNT or len(value) != self.bank.size:
                raise WrongUse(
                    "taking PCR values",
                    expected=f"PCR 0 to {PCR_COUNT - 1}, {self.bank.size} bytes each",
                    found=f"PCR {index} with {len(value)} bytes",
                )

    def of(self, indices: Collection[int]) -> bytes:
        """Return the values of `indices` in ascending order, concatenated, as a quote hashes them."""
        return b"".join([self.values[index] for index in sorted(indices)])
