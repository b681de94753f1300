"""A machine that boots: its log grows as its PCRs do, so that a test can then make the log lie."""

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from uuid import UUID

from steelyard.evidence.eventlog.events import Event, EventType
from steelyard.evidence.eventlog.parse import parse_event_log
from steelyard.evidence.eventlog.replay import ReplayedLog, verify_log
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.pcrs import PcrValues

SHA256: Final = HashAlgorithm.SHA256
SHA384: Final = HashAlgorithm.SHA384
GLOBAL_VARIABLE: Final = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
SECURITY_DATABASE: Final = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")

SEPARATOR: Final = bytes(4)
EXIT_BOOT_SERVICES: Final = b"Exit Boot Services Invocation"
EXIT_FAILED: Final = b"Exit Boot Services Returned with Failure"
EXIT_SUCCEEDED: Final = b"Exit Boot Services Returned with Success"


def sha1_event(pcr: int, claimed_type: int, data: bytes, digest: bytes = bytes(20), size: int | None = None) -> bytes:
    """Return a TCG_PCClientPCREvent whose data claims to be of `size` bytes."""
    return struct.pack("<II20sI", pcr, claimed_type, digest, len(data) if size is None else size) + data


def spec_id(sizes: Sequence[tuple[int, int]], *, vendor_info: bytes = b"", count: int | None = None) -> bytes:
    """Return the data of a "Spec ID Event03" header with algorithms and their sizes."""
    head = struct.pack("<16sIBBBBI", b"Spec ID Event03\0", 0, 0, 2, 0, 2, len(sizes) if count is None else count)
    listed = b"".join(struct.pack("<HH", *size) for size in sizes)
    return head + listed + bytes([len(vendor_info)]) + vendor_info


def header(*algorithms: HashAlgorithm) -> bytes:
    """Return the first event of a crypto-agile log."""
    return sha1_event(
        0, EventType.EV_NO_ACTION, spec_id([(algorithm.tpm_id, algorithm.size) for algorithm in algorithms])
    )


def agile_event(
    pcr: int,
    claimed_type: int,
    data: bytes,
    digests: Iterable[tuple[int, bytes]],
    *,
    count: int | None = None,
    size: int | None = None,
) -> bytes:
    """Return a TCG_PCR_EVENT2 that claims `count` digests and `size` bytes of data."""
    listed = [struct.pack("<H", algorithm) + digest for algorithm, digest in digests]
    return (
        struct.pack("<III", pcr, claimed_type, len(listed) if count is None else count)
        + b"".join(listed)
        + struct.pack("<I", len(data) if size is None else size)
        + data
    )


def variable(name: str, value: bytes, vendor: UUID = GLOBAL_VARIABLE) -> bytes:
    """Return a UEFI_VARIABLE_DATA."""
    encoded = name.encode("utf-16-le")
    return vendor.bytes_le + struct.pack("<QQ", len(encoded) // 2, len(value)) + encoded + value


def node(kind: int, subkind: int, data: bytes = b"") -> bytes:
    """Return a node of a device path."""
    return struct.pack("<BBH", kind, subkind, 4 + len(data)) + data


END: Final = node(0x7F, 0xFF)


def image_load(path: bytes, *, path_size: int | None = None) -> bytes:
    """Return a UEFI_IMAGE_LOAD_EVENT that claims a path of `path_size` bytes."""
    return struct.pack("<QQQQ", 0x7000, 0x1000, 0, len(path) if path_size is None else path_size) + path


class Boot:
    """A TPM's banks and the log that firmware and boot loaders write of what they extend."""

    def __init__(self, *banks: HashAlgorithm, locality: int = 0) -> None:
        self.banks = banks or (SHA256,)
        self.events = [header(*self.banks)]
        self._pcrs = {
            (bank, pcr): (b"\xff" if 17 <= pcr <= 22 else b"\0") * bank.size for bank in self.banks for pcr in range(24)
        }
        for bank in self.banks:
            self._pcrs[bank, 0] = locality.to_bytes(bank.size, "big")

    @property
    def log(self) -> bytes:
        """The log's bytes as they are now."""
        return b"".join(self.events)

    def measure(self, pcr: int, claimed_type: int, data: bytes, covered: bytes | None = None) -> None:
        """Extend every bank with the hash of `covered` (of `data` where nothing else is said), and log it."""
        self.extend(pcr, {bank: digest_of(data if covered is None else covered, bank) for bank in self.banks})
        self.events.append(self.event(pcr, claimed_type, data, covered))

    def event(self, pcr: int, claimed_type: int, data: bytes, covered: bytes | None = None) -> bytes:
        """Return the bytes that the log would get for it."""
        hashed = data if covered is None else covered
        return agile_event(pcr, claimed_type, data, [(bank.tpm_id, digest_of(hashed, bank)) for bank in self.banks])

    def extend(self, pcr: int, digests: Mapping[HashAlgorithm, bytes]) -> None:
        """Extend some banks, and tell nobody."""
        for bank, digest in digests.items():
            self._pcrs[bank, pcr] = digest_of(self._pcrs[bank, pcr] + digest, bank)

    def no_action(self, data: bytes, pcr: int = 0) -> None:
        """Log an EV_NO_ACTION."""
        self.events.append(
            agile_event(pcr, EventType.EV_NO_ACTION, data, [(bank.tpm_id, bytes(bank.size)) for bank in self.banks])
        )

    def separate(self, *pcrs: int) -> None:
        """Extend a separator, into PCR 0 to 7 where nothing else is said."""
        for pcr in pcrs or range(8):
            self.measure(pcr, EventType.EV_SEPARATOR, SEPARATOR)

    def quoted(self, *pcrs: int, bank: HashAlgorithm = SHA256) -> PcrValues:
        """Return what a quote over these PCRs would vouch for."""
        return PcrValues(bank, {pcr: self._pcrs[bank, pcr] for pcr in pcrs})

    def replayed(self, *pcrs: int) -> ReplayedLog:
        """Return the log verified against a quote over these PCRs, 0 to 7 where nothing else is said."""
        return verify_log(parse_event_log(self.log), self.quoted(*(pcrs or range(8))), frozenset())


def digest_of(data: bytes, bank: HashAlgorithm) -> bytes:
    """Return the hash without the help of what is tested."""
    return hashlib.new(bank.label, data).digest()


def single_event(claimed_type: int, data: bytes, covered: bytes | None = None, pcr: int = 0) -> Event:
    """Return one parsed event of a SHA-256 log."""
    boot = Boot()
    boot.measure(pcr, claimed_type, data, covered)
    return parse_event_log(boot.log).events[1]
