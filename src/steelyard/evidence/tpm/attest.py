"""TPMS_ATTEST: what a TPM signs when it quotes PCRs or certifies a key.

Reading it says nothing of whether a TPM made it: that is `quote.py` and `certify.py`.
Source: TPM 2.0 Library Part 2 revision 1.59, section 10.12.
"""

from dataclasses import dataclass
from typing import Final

from steelyard.evidence.reader import BigEndianReader, refuse_over
from steelyard.evidence.tpm.identifiers import TPM_GENERATED_VALUE, TpmSt
from steelyard.evidence.tpm.selection import TpmlPcrSelection, read_pcr_selections
from steelyard.model.errors import MalformedTpmStructure
from steelyard.model.limits import TPM_STRUCTURE_BYTES

_DOING: Final = "reading TPMS_ATTEST"


def tpm2b(content: bytes) -> bytes:
    """Return `content` after its 16-bit size."""
    return len(content).to_bytes(2) + content


@dataclass(frozen=True, slots=True)
class TpmsClockInfo:
    """A TPM's time. Source: section 10.11.1.

    clock          milliseconds powered, never back except by TPM2_Clear.
    reset_count    TPM resets (reboots) since TPM2_Clear.
    restart_count  restarts and resumes since the last reset.
    safe           False when the clock may have lost up to its last saved step at a power cut.
    """

    clock: int
    reset_count: int
    restart_count: int
    safe: bool

    def to_bytes(self) -> bytes:
        """Return the structure as the TPM marshals it."""
        return (
            self.clock.to_bytes(8)
            + self.reset_count.to_bytes(4)
            + self.restart_count.to_bytes(4)
            + self.safe.to_bytes(1)
        )


@dataclass(frozen=True, slots=True)
class TpmsQuoteInfo:
    """What a quote attests: a digest over the selected PCRs. Source: section 10.12.4."""

    pcr_select: TpmlPcrSelection
    pcr_digest: bytes

    def to_bytes(self) -> bytes:
        """Return the structure as the TPM marshals it."""
        return self.pcr_select.to_bytes() + tpm2b(self.pcr_digest)


@dataclass(frozen=True, slots=True)
class TpmsCertifyInfo:
    """What a certification attests: that a key of this Name is loaded in this TPM. Source: section 10.12.3."""

    name: bytes
    qualified_name: bytes

    def to_bytes(self) -> bytes:
        """Return the structure as the TPM marshals it."""
        return tpm2b(self.name) + tpm2b(self.qualified_name)


@dataclass(frozen=True, slots=True)
class TpmsAttest:
    """What a TPM signed. Source: section 10.12.12.

    qualified_signer  qualified Name of the signing key.
    extra_data        qualifying data of the one who asked.
    firmware_version  the maker's number for the TPM's own firmware.
    attested          its kind tells the type field.
    """

    qualified_signer: bytes
    extra_data: bytes
    clock_info: TpmsClockInfo
    firmware_version: int
    attested: TpmsQuoteInfo | TpmsCertifyInfo

    def to_bytes(self) -> bytes:
        """Return the structure as the TPM marshals it."""
        kind = TpmSt.ATTEST_QUOTE if isinstance(self.attested, TpmsQuoteInfo) else TpmSt.ATTEST_CERTIFY
        return (
            TPM_GENERATED_VALUE.to_bytes(4)
            + kind.to_bytes(2)
            + tpm2b(self.qualified_signer)
            + tpm2b(self.extra_data)
            + self.clock_info.to_bytes()
            + self.firmware_version.to_bytes(8)
            + self.attested.to_bytes()
        )


def parse_tpms_attest(data: bytes) -> TpmsAttest:
    """Return the structure that `data` is, whole. Raises MalformedTpmStructure, TooLarge.

    Magic and type are part of the format here: another magic, or a kind other than quote and certify, is malformed.
    """
    refuse_over(TPM_STRUCTURE_BYTES, len(data), _DOING)
    reader = BigEndianReader(data, _DOING, MalformedTpmStructure)
    magic = reader.u32("magic")
    if magic != TPM_GENERATED_VALUE:
        raise reader.wrong("magic TPM_GENERATED_VALUE, 0xff544347", f"0x{magic:08x}")
    kind = reader.u16("type")
    qualified_signer = reader.sized("qualifiedSigner")
    extra_data = reader.sized("extraData")
    clock, reset_count, restart_count = reader.u64("clock"), reader.u32("resetCount"), reader.u32("restartCount")
    safe = reader.u8("safe")
    if safe > 1:
        raise reader.wrong("safe to be 0 or 1 (TPMI_YES_NO)", f"{safe}")
    firmware_version = reader.u64("firmwareVersion")
    attested: TpmsQuoteInfo | TpmsCertifyInfo
    if kind == TpmSt.ATTEST_QUOTE:
        attested = TpmsQuoteInfo(read_pcr_selections(reader), reader.sized("pcrDigest"))
    elif kind == TpmSt.ATTEST_CERTIFY:
        attested = TpmsCertifyInfo(reader.sized("name"), reader.sized("qualifiedName"))
    else:
        raise reader.wrong("type TPM_ST_ATTEST_QUOTE or TPM_ST_ATTEST_CERTIFY", f"0x{kind:04x}")
    reader.end()
    return TpmsAttest(
        qualified_signer,
        extra_data,
        TpmsClockInfo(clock, reset_count, restart_count, safe == 1),
        firmware_version,
        attested,
    )
