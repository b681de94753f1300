"""Hash algorithms, by the names and numbers that the TPM, the firmware's log and the kernel give them."""

import hashlib
from enum import Enum
from typing import Final


class HashAlgorithm(Enum):
    """A hash: (TPM_ALG_ID, name, digest size in bytes). Source: TCG Algorithm Registry 1.34, table 3."""

    SHA1 = (0x0004, "sha1", 20)
    SHA256 = (0x000B, "sha256", 32)
    SHA384 = (0x000C, "sha384", 48)
    SHA512 = (0x000D, "sha512", 64)
    SM3_256 = (0x0012, "sm3_256", 32)
    SHA3_256 = (0x0027, "sha3_256", 32)
    SHA3_384 = (0x0028, "sha3_384", 48)
    SHA3_512 = (0x0029, "sha3_512", 64)

    tpm_id: int
    label: str
    size: int
    """Of a digest, in bytes."""

    def __init__(self, tpm_id: int, label: str, size: int) -> None:
        # Plain attributes: the verifier reads them for every event of every log.
        self.tpm_id = tpm_id
        self.label = label
        self.size = size

    @property
    def believed(self) -> bool:
        """Whether a proof may rest on this hash. SHA-1 is read, as logs carry it, and never believed."""
        return self in _BELIEVED

    @property
    def computable(self) -> bool:
        """Whether Steelyard computes it. SM3 is not in every OpenSSL, so that its banks are read over, not replayed."""
        return self is not HashAlgorithm.SM3_256

    def digest(self, data: bytes) -> bytes:
        """Return the hash of `data`, `size` bytes."""
        return hashlib.new(self.label, data).digest()


_BELIEVED: Final = frozenset({HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512})

HASH_BY_TPM_ID: Final = {algorithm.tpm_id: algorithm for algorithm in HashAlgorithm}
HASH_BY_NAME: Final = {algorithm.label: algorithm for algorithm in HashAlgorithm}
