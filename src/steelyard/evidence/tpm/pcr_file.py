"""The PCR file of tpm2_quote and tpm2_pcrread (-o, format "serialized"): the values that are claimed beside a quote.

The file is the tools' memory, written by a little-endian machine: a TPML_PCR_SELECTION with room for 16 banks (count,
then 8 bytes each), the number of lists, and each list a TPML_DIGEST with room for 8 digests of 64 bytes (count, then 66
bytes each). All room that is not used is zero. The digests follow the selections: bank by bank, PCRs ascending.
Source: tpm2-tools 5.4, lib/pcr.c; tpm2-tss, tss2_tpm2_types.h.
"""

from typing import Final

from steelyard.evidence.reader import LittleEndianReader, refuse_over
from steelyard.evidence.tpm.identifiers import parse_hash_algorithm
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import MalformedTpmStructure
from steelyard.model.limits import PCR_FILE_BYTES
from steelyard.model.pcrs import PCR_COUNT, PcrValues

_DOING: Final = "reading a PCR file"
_BANKS: Final = 16
_SELECT_BYTES: Final = 4
_DIGESTS: Final = 8
_DIGEST_BYTES: Final = 64


def parse_pcr_file(data: bytes) -> tuple[PcrValues, ...]:
    """Return the claimed values, one `PcrValues` for each bank in the file's order, whatever it selects of the bank.

    The quote decides what they are worth: neither the values nor which PCRs they are of is believed here.
    Raises MalformedTpmStructure, TooLarge.
    """
    refuse_over(PCR_FILE_BYTES, len(data), _DOING)
    reader = LittleEndianReader(data, _DOING, MalformedTpmStructure)
    selections = _read_selections(reader)
    digests = _read_digests(reader)
    reader.end()
    wanted = sum(len(indices) for _, indices in selections)
    if len(digests) != wanted:
        raise reader.wrong(f"{wanted} digests, as selected", f"{len(digests)}")
    banks = []
    for bank, indices in selections:
        values, digests = dict(zip(indices, digests, strict=False)), digests[len(indices) :]
        if any(len(value) != bank.size for value in values.values()):
            raise reader.wrong(f"digests of {bank.size} bytes for {bank.label}", "another size")
        banks.append(PcrValues(bank, values))
    return tuple(banks)


def _read_selections(reader: LittleEndianReader) -> list[tuple[HashAlgorithm, list[int]]]:
    count = reader.u32("count of selections")
    if count > _BANKS:
        raise reader.wrong(f"at most {_BANKS} selections", f"{count}")
    selections = []
    for _ in range(count):
        bank = parse_hash_algorithm(reader.u16("hash"), "bank", _DOING, MalformedTpmStructure)
        size = reader.u8("sizeofSelect")
        bits = int.from_bytes(reader.take(_SELECT_BYTES, "pcrSelect"), "little")
        _expect_zeros(reader, 1)
        if size > _SELECT_BYTES or bits >> min(8 * size, PCR_COUNT):
            raise reader.wrong(
                f"PCRs below {PCR_COUNT} within sizeofSelect bytes", f"bit map 0x{bits:08x} in {size} bytes"
            )
        selections.append((bank, [index for index in range(PCR_COUNT) if bits >> index & 1]))
    _expect_zeros(reader, (_BANKS - count) * 8)
    return selections


def _read_digests(reader: LittleEndianReader) -> list[bytes]:
    digests = []
    for _ in range(reader.u32("count of lists")):
        count = reader.u32("count of digests")
        if count > _DIGESTS:
            raise reader.wrong(f"at most {_DIGESTS} digests in a list", f"{count}")
        for _ in range(count):
            size = reader.u16("size of a digest")
            if size > _DIGEST_BYTES:
                raise reader.wrong(f"a digest of at most {_DIGEST_BYTES} bytes", f"{size}")
            digests.append(reader.take(size, "a digest"))
            _expect_zeros(reader, _DIGEST_BYTES - size)
        _expect_zeros(reader, (_DIGESTS - count) * (2 + _DIGEST_BYTES))
    return digests


def _expect_zeros(reader: LittleEndianReader, size: int) -> None:
    unused = reader.take(size, "unused room")
    if any(unused):
        raise reader.wrong("zeros where nothing is stored", unused.strip(b"\x00").hex())
