"""Bytes that must not be seen."""

import hmac
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Secret:
    """Bytes that no log, error text or debugger line shows; compared in constant time, taken out by `reveal` alone."""

    _value: bytes

    def reveal(self) -> bytes:
        """Return the bytes; each call of this is a place to review."""
        return self._value

    def __repr__(self) -> str:
        return "<secret>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        raise TypeError("a secret is not hashed: a table of hashes would tell which secrets are equal")

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")
