"""Hash algorithms, by the names and numbers that the TPM, the firmware's log and the kernel give them."""

import hashlib
from collections.abc import Callable
from enum import Enum
from typing import Final, Protocol


class Hash(Protocol):
    """A hash of bytes, begun."""

    def digest(self) -> bytes:
        """Return the digest."""

    def update(self, data: bytes, /) -> None:
        """Go on with more bytes."""


class HashAlgorithm(Enum):
    """A hash: TPM_ALG_ID, name, digest size in bytes, and whether a proof may rest on it.

    Source: TCG Algorithm Registry 1.34, table 3.
    """

    SHA1 = (0x0004, "sha1", 20, False)
    SHA256 = (0x000B, "sha256", 32, True)
    SHA384 = (0x000C, "sha384", 48, True)
    SHA512 = (0x000D, "sha512", 64, True)
    SM3_256 = (0x0012, "sm3_256", 32, False)
    SHA3_256 = (0x0027, "sha3_256", 32, False)
    SHA3_384 = (0x0028, "sha3_384", 48, False)
    SHA3_512 = (0x0029, "sha3_512", 64, False)

    tpm_id: int
    label: str
    size: int
    """Of a digest, in bytes."""
    believed: bool
    """SHA-1 is read, as logs carry it, and never believed; the others that are not are in no TPM met so far."""
    new: Callable[[bytes], Hash] | None
    """Begins a hash of bytes; None for SM3, which is not in every OpenSSL, so that its banks are carried, not computed.

    The constructor itself: to look a hash up by its name costs as much as to compute a short one.
    """

    def __init__(self, tpm_id: int, label: str, size: int, believed: bool) -> None:  # noqa: FBT001 (a fact, no switch)
        # Plain attributes: the verifier reads them for every event of every log.
        self.tpm_id = tpm_id
        self.label = label
        self.size = size
        self.believed = believed
        self.new = getattr(hashlib, label, None)

    # By identity, and not by name as enumerations do in Python: banks are keys wherever digests are.
    __hash__ = object.__hash__

    @property
    def computable(self) -> bool:
        """Whether Steelyard computes it."""
        return self.new is not None

    def digest(self, data: bytes) -> bytes:
        """Return the hash of `data`, `size` bytes; of a computable algorithm."""
        if self.new is None:
            raise TypeError(f"{self.label} is not computed")
        return self.new(data).digest()


HASH_BY_TPM_ID: Final = {algorithm.tpm_id: algorithm for algorithm in HashAlgorithm}
HASH_BY_NAME: Final = {algorithm.label: algorithm for algorithm in HashAlgorithm}
