"""Policies made ready for use, once a process: they never change, as they go by the digest of all they are made of."""

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from steelyard.attestation import archive
from steelyard.attestation.ports import Policies, PolicyInForce
from steelyard.evidence.compiled_policy import CompiledPolicy, compile_policy
from steelyard.evidence.policy import Policy, parse_policy
from steelyard.evidence.reference.dsse import parse_envelope
from steelyard.evidence.reference.manifest import Reference, verify_manifest
from steelyard.model.errors import EvidenceRejected, Malformed, SteelyardError, WrongState
from steelyard.service.database import Database

MOST: Final = 64
"""How many are kept ready; those made first go first."""


@dataclass(slots=True)
class _Ready:
    sha256: bytes
    policy: Policy
    references: tuple[Reference, ...]
    compiled: CompiledPolicy | None


class CompiledPolicies:
    """Policies by their grounds. Threads share it."""

    def __init__(self, database: Database, policies: Policies) -> None:
        self._database = database
        self._policies = policies
        self._lock = threading.Lock()
        self._ready: OrderedDict[bytes, _Ready] = OrderedDict()

    def policy(self, found: PolicyInForce) -> Policy:
        """Return the policy that is in force, kept with its references from now on. Raises WrongState."""
        ready = self._ready.get(found.grounds)
        if ready is None:
            archive.keep_grounds(self._database, self._policies, found)
            ready = self._load(found.grounds)
        return ready.policy

    def known(self, grounds: bytes) -> Policy | None:
        """Return a policy that was made ready in this process."""
        ready = self._ready.get(grounds)
        return None if ready is None else ready.policy

    def is_ready(self, grounds: bytes, at: datetime) -> bool:
        """Whether `compiled` would return at once."""
        ready = self._ready.get(grounds)
        return ready is not None and _holds(ready.compiled, at)

    def policy_sha256(self, grounds: bytes) -> bytes:
        """Return what tells the policy of these grounds from every other. Raises NotFound, WrongState."""
        ready = self._ready.get(grounds)
        return (self._load(grounds) if ready is None else ready).sha256

    def compiled(self, grounds: bytes, at: datetime) -> CompiledPolicy:
        """Return the policy of these grounds, ready to judge evidence of a time. Raises WrongState."""
        ready = self._ready.get(grounds)
        if ready is None:
            ready = self._load(grounds)
        compiled = ready.compiled
        if compiled is not None and _holds(compiled, at):
            return compiled
        with self._lock:
            compiled = ready.compiled
            if compiled is None or not _holds(compiled, at):
                try:
                    compiled = compile_policy(ready.policy, ready.references, at)
                except SteelyardError as cause:
                    raise _unusable(str(ready.policy.id), cause) from cause
                if ready.compiled is None or compiled.since > ready.compiled.since:
                    ready.compiled = compiled
        return compiled

    def _load(self, digest: bytes) -> _Ready:
        with self._lock:
            ready = self._ready.get(digest)
            if ready is not None:
                return ready
            with self._database.reading() as connection:
                found = archive.read_grounds(connection, digest)
            try:
                policy = parse_policy(found.policy)
            except SteelyardError as cause:
                raise _unusable("a policy", cause) from cause
            ready = _Ready(hashlib.sha256(found.policy).digest(), policy, _trusted(policy, found), None)
            self._ready[digest] = ready
            while len(self._ready) > MOST:
                self._ready.popitem(last=False)
            return ready


def _holds(compiled: CompiledPolicy | None, at: datetime) -> bool:
    return compiled is not None and compiled.since <= at and (compiled.expires is None or at < compiled.expires)


def _trusted(policy: Policy, found: archive.Grounds) -> tuple[Reference, ...]:
    """Return the references that enough of the policy's signers signed; the others say nothing."""
    trusted = []
    for envelope in found.references.values():
        try:
            trusted.append(verify_manifest(parse_envelope(envelope), policy.signers))
        except (EvidenceRejected, Malformed):
            continue
    return tuple(trusted)


def _unusable(what: str, cause: SteelyardError) -> WrongState:
    return WrongState(f"making {what} ready for use", expected="one that can be used", found=str(cause))
