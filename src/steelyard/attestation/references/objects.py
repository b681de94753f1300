"""What the reference authority speaks of. Digests are bytes; `id` of a reference is its manifest's SHA-256."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

DEFAULT: Final = "_default"
"""Names the signers of every component that has none of its own; no component can be called so."""


class Standing(StrEnum):
    """What a stored manifest counts for."""

    PROPOSED = "proposed"
    """Signed as it must be, and counts in dry runs that ask for it, nowhere else."""
    ACCEPTED = "accepted"
    REVOKED = "revoked"
    """It never counts again, and what it measured is known for bad."""


class Outcome(StrEnum):
    """What comes of judging evidence."""

    PASS = "pass"  # noqa: S105 (no password)
    FAIL = "fail"
    UNJUDGED = "unjudged"
    """There is nothing to judge it by."""


class RunState(StrEnum):
    """How far a dry run is."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self in (RunState.DONE, RunState.FAILED, RunState.CANCELLED)


class RootKind(StrEnum):
    """Who holds the root key of a TUF repository."""

    ONLINE = "online"
    """The service, sealed."""
    OFFLINE = "offline"
    """Somebody outside, who signs root metadata and uploads it."""


@dataclass(frozen=True, slots=True)
class SignerSet:
    """Whose signatures make a manifest of a component count, and how many of them it takes.

    component  or DEFAULT.
    keys       name -> Ed25519 public key, 32 bytes.
    """

    project: str
    component: str
    keys: Mapping[str, bytes]
    threshold: int
    version: int


@dataclass(frozen=True, slots=True)
class StoredReference:
    """A manifest that was signed as it must be when it came.

    release   the component's version.
    key_ids   of the keys whose signatures were found good, hexadecimal.
    envelope  SHA-256 of the envelope that it is in.
    why       it was revoked; empty while it is not.
    """

    project: str
    id: bytes
    component: str
    release: str
    serial: int
    machine_class: str | None
    origin: str
    artefact: str
    issued: datetime
    expires: datetime
    standing: Standing
    key_ids: frozenset[str]
    envelope: bytes
    size_bytes: int
    added_by: str
    added_at: datetime
    why: str

    @property
    def issue(self) -> tuple[str, str, str | None]:
        """What its serial counts within: of two such statements, the later one holds."""
        return self.component, self.release, self.machine_class


@dataclass(frozen=True, slots=True)
class RevokedRelease:
    """A version of a component that is known bad."""

    project: str
    component: str
    release: str
    why: str
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """One version of a policy, which never changes. `live_since` None: it is not the live one."""

    project: str
    name: str
    number: int
    sha256: bytes
    components: tuple[str, ...]
    made_by: str
    made_at: datetime
    live_since: datetime | None


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """A policy, with what of it nodes are judged by now.

    latest      the number of its newest version.
    live        of the version that judges; None: none does yet.
    document    SHA-256 of what judges: the live version, with what was revoked since put into it. Empty without one.
    references  SHA-256 of each envelope that it takes, sorted.
    version     counts its changes, for ETag.
    """

    project: str
    name: str
    latest: int
    live: int | None
    document: bytes
    references: tuple[bytes, ...]
    version: int


@dataclass(frozen=True, slots=True)
class Change:
    """What a dry run supposes: a version of a policy (None: the live one), and these references' new standing."""

    policy: str
    number: int | None
    accept: frozenset[bytes]
    revoke: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class DryRun:
    """A change, judged against the newest evidence of every node that the policy `evidence` judges.

    done, total  nodes.
    passing      of those done, the ones that would pass; failing: that would not; already: of these, which fail today.
    """

    id: str
    project: str
    change: Change
    evidence: str
    actor: str
    state: RunState
    created: datetime
    deadline: datetime
    ended: datetime | None
    done: int
    total: int
    passing: int
    failing: int
    already: int
    cancelling: bool
    failure: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class NodeResult:
    """What a change would do to one node.

    today     the same evidence by what is in force.
    findings  why it would fail, as they are told; `more`: how many are left out.
    """

    node: str
    appraisal: str
    outcome: Outcome
    today: Outcome
    findings: tuple[Mapping[str, Any], ...]
    more: int

    @property
    def breaks(self) -> bool:
        """Whether the change is what makes it fail."""
        return self.outcome is not Outcome.PASS and self.today is Outcome.PASS


@dataclass(frozen=True, slots=True)
class Repository:
    """A project's TUF repository.

    public        whether it is served to everybody.
    root_version  0: its root metadata is still to come.
    keys          role -> id of the key that signs for it.
    """

    project: str
    root: RootKind
    public: bool
    keys: Mapping[str, str]
    root_version: int
    root_expires: datetime | None
    timestamp_version: int
    timestamp_expires: datetime | None
    references: int
    version: int
