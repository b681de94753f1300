"""TPML_PCR_SELECTION: which PCRs of which banks."""

from dataclasses import dataclass
from typing import Final

from steelyard.evidence.reader import BigEndianReader
from steelyard.evidence.tpm.identifiers import parse_hash_algorithm
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import MalformedTpmStructure, TooLarge
from steelyard.model.limits import PCR_SELECT_BYTES, PCR_SELECTIONS
from steelyard.model.pcrs import PcrSelection

_DOING: Final = "reading TPML_PCR_SELECTION"
_PC_CLIENT_SELECT_BYTES: Final = 3
"""sizeofSelect of a TPM with 24 PCRs. Source: TCG PC Client Platform TPM Profile 1.05, section 4.6.2."""


@dataclass(frozen=True, slots=True)
class TpmsPcrSelection:
    """One bank and a bit map: bit n of byte m is PCR 8m+n. Source: TPM 2.0 Library Part 2, section 10.6.2."""

    hash_algorithm: HashAlgorithm
    select: bytes

    def indices(self) -> frozenset[int]:
        """Return the PCRs whose bits are set."""
        bits = int.from_bytes(self.select, "little")
        return frozenset(index for index in range(8 * len(self.select)) if bits >> index & 1)

    def to_bytes(self) -> bytes:
        """Return the structure as the TPM marshals it."""
        return self.hash_algorithm.tpm_id.to_bytes(2) + len(self.select).to_bytes(1) + self.select


@dataclass(frozen=True, slots=True)
class TpmlPcrSelection:
    """Selections in the order given. Source: TPM 2.0 Library Part 2, section 10.9.7."""

    selections: tuple[TpmsPcrSelection, ...]

    def to_bytes(self) -> bytes:
        """Return the structure as the TPM marshals it."""
        return len(self.selections).to_bytes(4) + b"".join([selection.to_bytes() for selection in self.selections])


def marshal_selection(asked: PcrSelection) -> bytes:
    """Return the one TPML_PCR_SELECTION that a PC Client TPM signs when `asked` is all it was asked for.

    Comparing bytes leaves no room for a second bank, a duplicate, or a bit map of another size to mean something else.
    """
    bits = sum(1 << index for index in asked.indices)
    select = bits.to_bytes(_PC_CLIENT_SELECT_BYTES, "little")
    return TpmlPcrSelection((TpmsPcrSelection(asked.bank, select),)).to_bytes()


def read_pcr_selections(reader: BigEndianReader) -> TpmlPcrSelection:
    """Return the TPML_PCR_SELECTION at the reader's position. Raises MalformedTpmStructure, TooLarge."""
    count = reader.u32("count of selections")
    if count > PCR_SELECTIONS.most:
        raise TooLarge(_DOING, expected=f"at most {PCR_SELECTIONS.most} banks", found=f"{count}")
    selections = []
    for _ in range(count):
        number = reader.u16("hash of a selection")
        size = reader.u8("sizeofSelect")
        if size > PCR_SELECT_BYTES.most:
            raise TooLarge(_DOING, expected=f"sizeofSelect of at most {PCR_SELECT_BYTES.most}", found=f"{size}")
        select = reader.take(size, "pcrSelect")
        algorithm = parse_hash_algorithm(number, "bank", _DOING, MalformedTpmStructure)
        selections.append(TpmsPcrSelection(algorithm, select))
    return TpmlPcrSelection(tuple(selections))
