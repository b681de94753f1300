"""What the isolation service tells, as its client sees it: immutable facts of one moment."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from steelyard.model.secret import Secret

ENDED: Final = frozenset({"done", "failed", "cancelled"})
"""The states in which an operation is over."""


@dataclass(frozen=True, slots=True)
class Project:
    """A tenant. Quotas are the most it may hold at a time."""

    name: str
    node_quota: int
    network_quota: int
    version: int


@dataclass(frozen=True, slots=True)
class Member:
    """Somebody in a project; role: "admin" or "member"."""

    project: str
    account: str
    role: str


@dataclass(frozen=True, slots=True)
class PortName:
    """A switch's port."""

    switch: str
    port: str


@dataclass(frozen=True, slots=True)
class Nic:
    """A node's network card, and the port at the other end of its cable, if there is one."""

    name: str
    mac: str
    port: PortName | None


@dataclass(frozen=True, slots=True)
class Identity:
    """What the provider publishes of a node, so that a tenant can tell it from another.

    endorsement_certificates  kind -> PEM.
    endorsement_keys          digests of TPMT_PUBLIC areas, "sha256:<hex>", where there is no certificate.
    references                names of the reference manifests of the node's class.
    """

    endorsement_certificates: Mapping[str, str]
    endorsement_keys: tuple[str, ...]
    references: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Device:
    """How the provider's service reaches a device; never with what credentials."""

    driver: str
    address: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Attachment:
    """A NIC on a network.

    wanted      False: being taken off.
    applied_at  when the switch was first read to carry it; None: not yet.
    """

    node: str
    nic: str
    network: str
    tagged: bool
    wanted: bool
    since: datetime
    applied_at: datetime | None
    verdict_at: datetime | None


@dataclass(frozen=True, slots=True)
class Hold:
    """What a release waits for: a service of the project's still gives the node something, say its disk."""

    node: str
    name: str
    placed_by: str
    placed_at: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Release:
    """A node's way out: the last step that was confirmed ("power", "ports", "holds"), and where it goes then."""

    confirmed: str | None
    to: str
    waives: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """A machine. What the caller may not know of it is empty; `bmc` is the provider's alone."""

    name: str
    state: str
    since: datetime
    why: str
    project: str | None
    labels: Mapping[str, str]
    hardware: Mapping[str, str]
    identity: Identity
    bmc: Device | None
    nics: tuple[Nic, ...]
    allocation: str | None
    allocated_at: datetime | None
    power: str | None
    trouble: str | None
    release: Release | None
    version: int


@dataclass(frozen=True, slots=True)
class Switch:
    """A switch."""

    name: str
    driver: str
    address: Mapping[str, str]
    trouble: str | None
    version: int


@dataclass(frozen=True, slots=True)
class PortVlans:
    """What a port carries."""

    untagged: int | None
    tagged: tuple[int, ...]
    isolated: bool


@dataclass(frozen=True, slots=True)
class Port:
    """A port: what it was last read to carry, None when in doubt; up to date when `applied` has reached `wanted`."""

    switch: str
    port: str
    wanted: int
    applied: int
    carries: PortVlans | None
    read_at: datetime | None
    trouble: str | None


@dataclass(frozen=True, slots=True)
class VerdictAdmission:
    """Only nodes with a passing verdict, signed by this key (Ed25519, PEM), no older than this."""

    key: str
    most_age_seconds: int


@dataclass(frozen=True, slots=True)
class Network:
    """A layer-2 network.

    owner       None: the provider's.
    sharing     "private", "shared" or "public"; shared_with: with these projects.
    members     "together" or "isolated".
    admission   None: every node of a project that may use it.
    """

    name: str
    owner: str | None
    sharing: str
    shared_with: tuple[str, ...]
    vlan: int
    members: str
    admission: VerdictAdmission | None
    version: int


@dataclass(frozen=True, slots=True)
class Operation:
    """Work that takes longer than an answer.

    progress  what it is doing or waiting for, in words.
    failure   code, expected and found of the error that ended it.
    """

    id: str
    verb: str
    node: str
    project: str | None
    actor: str
    state: str
    created: datetime
    deadline: datetime
    ended: datetime | None
    parameters: Mapping[str, str]
    progress: str
    failure: Mapping[str, str] | None

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self.state in ENDED

    @property
    def about(self) -> str:
        """What it is done to, in words."""
        return f"node {self.node}"

    @property
    def place(self) -> tuple[str, ...]:
        """Where it is asked for again, below /v1."""
        return ("operations", self.id)


@dataclass(frozen=True, slots=True)
class ConsoleOutput:
    """A piece of what a node said.

    begins   offset of the oldest byte that is kept.
    offset   of the first byte of `said`; later than was asked for, if that is not kept any more.
    ends     offset after the newest byte.
    trouble  why the line is not open at the moment.
    """

    begins: int
    offset: int
    said: bytes
    ends: int
    trouble: str | None

    @property
    def following(self) -> int:
        """The offset to read on from."""
        return self.offset + len(self.said)


@dataclass(frozen=True, slots=True)
class Event:
    """A change, as the journal has it."""

    number: int
    at: datetime
    actor: str
    verb: str
    subject: str
    project: str | None
    detail: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Allocation:
    """Nodes that a project got together."""

    name: str
    project: str
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Rack:
    """What an inventory brought in."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A link of the audit log's chain; digest and chain in hexadecimal.

    entry  what was hashed; None where the caller may not see it.
    """

    number: int
    digest: str
    chain: str
    entry: Mapping[str, object] | None


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The last entry's number, and the chain's value after it."""

    number: int
    chain: str


@dataclass(frozen=True, slots=True)
class OpenIdName:
    """Whom of an OpenID issuer an account belongs to; `subject` None: whom the issuer calls by the account's name."""

    issuer: str
    subject: str | None


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody. kind: "user" or "service"; office, in the whole service: "provider", "auditor" or none."""

    name: str
    kind: str
    office: str | None
    openid: OpenIdName | None


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token, which is all but its secret.

    project  None: it is for every project of the account's.
    words    what it is for, in its maker's words.
    """

    id: str
    account: str
    project: str | None
    rights: tuple[str, ...]
    office: str | None
    words: str
    maker: str
    created: datetime
    expires: datetime
    revoked: datetime | None
    used: datetime | None


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token, and its text: told this once."""

    token: Token
    bearer: Secret


@dataclass(frozen=True, slots=True)
class Session:
    """Who the caller is to the service, and what the token that was shown leaves of it.

    roles    project -> "admin" or "member".
    token    its id; None: of an OpenID issuer.
    project  the one it is limited to; None: it is not.
    """

    account: str
    office: str | None
    roles: Mapping[str, str]
    rights: tuple[str, ...]
    token: str | None
    project: str | None
    expires: datetime
