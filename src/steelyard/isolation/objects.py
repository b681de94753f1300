"""What isolation speaks of: projects, nodes, networks, attachments, operations; each an immutable fact."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum

from steelyard.isolation.life import NodeState
from steelyard.isolation.ports import Power
from steelyard.model.errors import WrongUse
from steelyard.model.network import MacAddress, PortVlans, Vlan


@dataclass(frozen=True, slots=True)
class Project:
    """A tenant. Quotas are the most it may hold at a time; who its members are is kept by `service.authority`."""

    name: str
    node_quota: int
    network_quota: int
    version: int


@dataclass(frozen=True, slots=True)
class Identity:
    """What the provider publishes of a node, so that a tenant can tell it from another.

    endorsement_certificates  kind -> PEM: "rsa2048", "secp384r1".
    endorsement_keys          where there is no certificate: digests of TPMT_PUBLIC areas, "sha256:<hex>".
    references                names of the reference manifests of the node's class.
    """

    endorsement_certificates: Mapping[str, str]
    endorsement_keys: tuple[str, ...]
    references: tuple[str, ...]


@dataclass(frozen=True, slots=True, order=True)
class PortName:
    """A switch's port."""

    switch: str
    port: str


@dataclass(frozen=True, slots=True)
class Nic:
    """A node's network card, and the port at the other end of its cable, if there is one."""

    name: str
    mac: MacAddress
    port: PortName | None


class ReleaseStep(Enum):
    """What a release has confirmed, in this order: a disk over the network is cut off only when its node is off."""

    POWER = "power"
    PORTS = "ports"
    HOLDS = "holds"


@dataclass(frozen=True, slots=True)
class Release:
    """A node's way out.

    confirmed  the last step that was; None: none yet, the ports are as they were.
    to         where the node goes then: FREE, MAINTENANCE or REJECTED.
    waives     what need not be confirmed, as the provider answers for it; never for a node that goes to FREE.
    """

    confirmed: ReleaseStep | None
    to: NodeState
    waives: frozenset[ReleaseStep]


@dataclass(frozen=True, slots=True)
class Node:
    """A physical machine.

    project       who holds it; None when it is the provider's.
    since, why    when it came into this state, and what for, in words.
    allocation    the name that the caller gave to the request that allocated it, so that asking again finds it.
    allocated_at  a verdict from before this moment says nothing of what runs now.
    power         as last read; None: never, or not since it was in doubt.
    trouble       why it cannot be given to anyone (its BMC does not answer, a port is in doubt); None: healthy.
    version       counts what verbs changed; what is merely read of the machine does not count.
    release       its way out, while it is RELEASING.
    """

    name: str
    state: NodeState
    since: datetime
    why: str
    project: str | None
    labels: Mapping[str, str]
    hardware: Mapping[str, str]
    identity: Identity
    bmc_driver: str
    bmc_address: Mapping[str, str]
    nics: tuple[Nic, ...]
    allocation: str | None
    allocated_at: datetime | None
    power: Power | None
    trouble: str | None
    version: int
    release: Release | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """What a release has to wait for: a service of the project's still gives the node something, say its disk."""

    node: str
    name: str
    placed_by: str
    placed_at: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Switch:
    """A switch. `address` is what its driver needs to find it; credentials are kept apart, sealed."""

    name: str
    driver: str
    address: Mapping[str, str]
    trouble: str | None
    version: int


@dataclass(frozen=True, slots=True)
class PortState:
    """A port: what it was last read to carry, None when in doubt; up to date when `applied` has reached `wanted`."""

    name: PortName
    wanted: int
    applied: int
    carries: PortVlans | None
    read_at: datetime | None
    trouble: str | None


# -- networks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Private:
    """For its owner alone."""


@dataclass(frozen=True, slots=True)
class SharedWith:
    """For its owner and these projects; at least one, or it would be private. Raises WrongUse."""

    projects: frozenset[str]

    def __post_init__(self) -> None:
        if not self.projects:
            raise WrongUse("sharing a network", expected="the projects to share it with, or private", found="none")


@dataclass(frozen=True, slots=True)
class Public:
    """For every project. Written out: never an empty list (fault 1 of the forebear)."""


Sharing = Private | SharedWith | Public


class Members(Enum):
    """Who hears whom on a network."""

    TOGETHER = "together"
    ISOLATED = "isolated"
    """Members hear the services on the network and not one another: an airlock."""


@dataclass(frozen=True, slots=True)
class OpenAdmission:
    """Every node of a project that may use the network."""


@dataclass(frozen=True, slots=True)
class VerdictAdmission:
    """Only a node with a passing verdict, signed by this key (Ed25519, PEM), issued at most `most_age` ago."""

    key: str
    most_age: timedelta


Admission = OpenAdmission | VerdictAdmission


@dataclass(frozen=True, slots=True)
class Network:
    """A layer-2 network. `owner` None: the provider's."""

    name: str
    owner: str | None
    sharing: Sharing
    vlan: Vlan
    members: Members
    admission: Admission
    version: int


@dataclass(frozen=True, slots=True)
class Attachment:
    """A NIC on a network.

    wanted          False: being taken off; the row stays until the port was read to be without it.
    tagged          frames carry the VLAN's tag.
    applied_at      when the port was first read to carry it; None: not yet.
    verdict_at      when the verdict that admitted it was issued; None: the network asks for none.
    """

    node: str
    nic: str
    network: str
    tagged: bool
    wanted: bool
    since: datetime
    applied_at: datetime | None
    verdict_at: datetime | None


# -- operations --------------------------------------------------------------------------------------------------------


class OperationState(Enum):
    """How far an operation is. The last three are ends."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self in (OperationState.DONE, OperationState.FAILED, OperationState.CANCELLED)


class Verb(Enum):
    """What an operation does."""

    ATTACH = "attach"
    DETACH = "detach"
    QUARANTINE = "quarantine"
    RELEASE = "release"
    POWER_ON = "power-on"
    POWER_OFF = "power-off"
    POWER_CYCLE = "power-cycle"
    POWER_SOFT = "power-soft"
    POWER_READ = "power-read"
    BOOT_DEVICE = "boot-device"


@dataclass(frozen=True, slots=True)
class Operation:
    """Work on a node that takes longer than an answer.

    progress  what it is doing or waiting for, in words.
    failure   code, expected and found of the error that ended it.
    """

    id: str
    verb: Verb
    node: str
    project: str | None
    actor: str
    state: OperationState
    created: datetime
    deadline: datetime
    ended: datetime | None
    parameters: Mapping[str, str]
    progress: str
    failure: Mapping[str, str] | None = field(default=None)
