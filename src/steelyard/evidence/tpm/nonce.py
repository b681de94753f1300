"""What a quote's qualifying data must be: our nonce, alone or together with the keys that the quote vouches for.

Source: RFC 9334, section 10 (freshness by nonce); TPM 2.0 Library Part 3, TPM2_Quote (qualifyingData).
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from steelyard.model.errors import WrongUse

NONCE_BYTES: Final = 32
LONGEST_QUALIFYING_BYTES: Final = 64
"""A SHA-512 digest. TPM2B_DATA has room for a TPMT_HA, two bytes more."""

_CONTEXT: Final = b"steelyard quote 1\x00"
_ABSENT: Final = bytes(32)
"""In place of the hash of what is not there; no input hashes to it."""


@dataclass(frozen=True, slots=True)
class PlainNonce:
    """The qualifying data is the nonce itself, as tpm2_quote takes it; it vouches for no key. 1 to 64 bytes."""

    nonce: bytes

    def __post_init__(self) -> None:
        if not 1 <= len(self.nonce) <= LONGEST_QUALIFYING_BYTES:
            raise WrongUse(
                "taking a nonce",
                expected=f"1 to {LONGEST_QUALIFYING_BYTES} bytes",
                found=f"{len(self.nonce)} bytes",
            )

    def qualifying_data(self) -> bytes:
        """Return the extraData that the quote must carry."""
        return self.nonce


@dataclass(frozen=True, slots=True)
class NonceWithKeys:
    """The qualifying data commits to the nonce and to what else the quote vouches for (attack 14).

    nonce          32 bytes, ours, never used before.
    transport_key  X25519 public key, 32 bytes: shares are sealed to it.
    wireguard_key  X25519 public key, 32 bytes, or None where the node has none.
    parameters     the measured parameters the node was started with, as it was given them; None where it has none.
    """

    nonce: bytes
    transport_key: bytes
    wireguard_key: bytes | None
    parameters: bytes | None

    def __post_init__(self) -> None:
        for what, value in (("nonce", self.nonce), ("transport key", self.transport_key)):
            if len(value) != NONCE_BYTES:
                raise WrongUse(f"binding keys to a {what}", expected="32 bytes", found=f"{len(value)} bytes")
        if self.wireguard_key is not None and len(self.wireguard_key) != NONCE_BYTES:
            raise WrongUse("binding a WireGuard key", expected="32 bytes", found=f"{len(self.wireguard_key)} bytes")

    def qualifying_data(self) -> bytes:
        """Return SHA-256 over context, nonce and the SHA-256 of each bound thing, zeros for an absent one: 32 bytes.

        Every part has a fixed length, so that no two different sets of keys give the same bytes to hash.
        """
        bound = (self.transport_key, self.wireguard_key, self.parameters)
        parts = [_ABSENT if part is None else hashlib.sha256(part).digest() for part in bound]
        return hashlib.sha256(_CONTEXT + self.nonce + b"".join(parts)).digest()


Challenge = PlainNonce | NonceWithKeys
