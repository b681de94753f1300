"""What attestation's verbs need of its reference authority, which is a package of its own within it."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection

from steelyard.evidence.policy import PolicyId


@dataclass(frozen=True, slots=True)
class PolicyInForce:
    """The version of a policy that is in force now, and the references that are there for it, by what they are.

    sha256      of the policy's bytes.
    references  SHA-256 of each DSSE envelope that is in force, sorted.
    """

    id: PolicyId
    sha256: bytes
    references: tuple[bytes, ...]

    @property
    def grounds(self) -> bytes:
        """What the two come to: judged on the same, the same evidence has the same verdict."""
        return grounds_digest(self.sha256, self.references)


def grounds_digest(policy: bytes, references: Iterable[bytes]) -> bytes:
    """Return the digest of a policy and references, given by their SHA-256."""
    return hashlib.sha256(b"steelyard grounds 1\x00" + policy + b"".join(sorted(references))).digest()


class Policies(Protocol):
    """The reference authority, as the verifier asks it. Both are read in the view that `connection` is."""

    def in_force(self, connection: Connection, project: str, name: str) -> PolicyInForce:
        """Return what is in force. Raises NotFound for a policy that the project does not have."""

    def content(self, connection: Connection, sha256: bytes) -> bytes:
        """Return a policy's or an envelope's bytes that `in_force` named."""
