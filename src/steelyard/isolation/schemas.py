"""What isolation's API takes and tells, as JSON: Pydantic's, and nothing behind the edge knows of it.

What is taken is bounded here in size and shape; what it means is judged by the verbs. docs/formats.md is not repeated.
"""

import binascii
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Annotated, Final, Literal

from pydantic import BaseModel, Field, SecretStr, StringConstraints

from steelyard.isolation import objects
from steelyard.isolation.consoles import ConsoleText
from steelyard.isolation.life import NodeState
from steelyard.isolation.objects import (
    Admission,
    Members,
    OpenAdmission,
    OperationState,
    PortName,
    Private,
    Public,
    ReleaseStep,
    SharedWith,
    Sharing,
    Verb,
)
from steelyard.isolation.ports import BootDevice, Power
from steelyard.isolation.views import NodeView
from steelyard.model.errors import Malformed, WrongUse
from steelyard.model.limits import (
    ADMISSION_AGE_SECONDS,
    ALLOCATED_AT_ONCE,
    CONSOLE_KEYS_BYTES,
    DEVICE_SETTING_BYTES,
    DEVICE_SETTINGS,
    ENDORSEMENTS,
    LABEL_CHARACTERS,
    LABELS,
    NODE_REFERENCES,
    OPERATION_SECONDS,
    PUBLIC_KEY_BYTES,
    QUOTA,
    SHARED_PROJECTS,
    VERDICT_BYTES,
    WHY_CHARACTERS,
)
from steelyard.model.network import PortVlans, Vlan
from steelyard.model.secret import Secret
from steelyard.service.http import Input

NAME_CHARACTERS: Final = 63
SECONDS: Final = 300
"""How long an operation may take, if nothing else is said."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=NAME_CHARACTERS)]
Label = Annotated[str, StringConstraints(max_length=LABEL_CHARACTERS.most)]
Labels = Annotated[dict[Name, Label], Field(max_length=LABELS.most)]
Setting = Annotated[str, StringConstraints(max_length=DEVICE_SETTING_BYTES.most)]
SecretSetting = Annotated[SecretStr, Field(max_length=DEVICE_SETTING_BYTES.most)]
Certificate = Annotated[str, StringConstraints(max_length=DEVICE_SETTING_BYTES.most)]
Why = Annotated[str, StringConstraints(max_length=WHY_CHARACTERS.most)]
Whole = Annotated[int, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Quota = Annotated[int, Field(strict=True, ge=0, le=QUOTA.most)]
Seconds = Annotated[int, Field(strict=True, ge=1, le=OPERATION_SECONDS.most)]
"""How long until an operation has failed; what it wants stays wanted."""


# -- projects ----------------------------------------------------------------------------------------------------------


class ProjectInput(Input):
    """The most that a project may hold at a time."""

    node_quota: Quota
    network_quota: Quota


class ProjectBody(BaseModel):
    """A tenant."""

    name: str
    node_quota: int
    network_quota: int
    version: int


class AllocationInput(Input):
    """Nodes to take, all or none. `nodes`: these and no others."""

    count: Annotated[int, Field(strict=True, ge=1, le=ALLOCATED_AT_ONCE.most)]
    labels: Labels = Field(default_factory=dict)
    nodes: Annotated[list[Name], Field(max_length=ALLOCATED_AT_ONCE.most)] | None = None


# -- nodes -------------------------------------------------------------------------------------------------------------


class IdentityBody(Input):
    """What the provider publishes of a node, so that a tenant can tell it from another."""

    endorsement_certificates: Annotated[dict[Name, Certificate], Field(max_length=ENDORSEMENTS.most)]
    endorsement_keys: Annotated[list[Label], Field(max_length=ENDORSEMENTS.most)]
    references: Annotated[list[Name], Field(max_length=NODE_REFERENCES.most)]

    def identity(self) -> objects.Identity:
        """Return it as the verbs take it."""
        return objects.Identity(self.endorsement_certificates, tuple(self.endorsement_keys), tuple(self.references))


class DeviceInput(Input):
    """How to reach a device. `credentials` null: those that are known."""

    driver: Name
    address: Annotated[dict[Name, Setting], Field(max_length=DEVICE_SETTINGS.most)]
    credentials: Annotated[dict[Name, SecretSetting], Field(max_length=DEVICE_SETTINGS.most)] | None

    def secrets(self) -> Mapping[str, Secret] | None:
        """Return the credentials as the verbs take them."""
        if self.credentials is None:
            return None
        return {name: Secret(value.get_secret_value().encode()) for name, value in self.credentials.items()}


class NodeInput(Input):
    """A machine, as its provider registers it."""

    labels: Labels
    hardware: Labels
    identity: IdentityBody
    bmc: DeviceInput


class PortNameBody(Input):
    """A switch's port."""

    switch: Name
    port: Name


class NicInput(Input):
    """A network card, and the port at the other end of its cable; null: none."""

    mac: Name
    port: PortNameBody | None

    def port_name(self) -> PortName | None:
        """Return the port as the verbs take it."""
        return None if self.port is None else PortName(self.port.switch, self.port.port)


class NicBody(BaseModel):
    """A network card."""

    name: str
    mac: str
    port: PortNameBody | None


class BmcBody(BaseModel):
    """How a BMC is reached; never with what credentials."""

    driver: str
    address: dict[str, str]


class ReleaseBody(BaseModel):
    """A node's way out: the last step that was confirmed, and where it goes then."""

    confirmed: ReleaseStep | None
    to: NodeState
    waives: list[ReleaseStep]


class NodeBody(BaseModel):
    """A machine; what the caller may not know of it is empty."""

    name: str
    state: NodeState
    since: datetime
    why: str
    project: str | None
    labels: dict[str, str]
    hardware: dict[str, str]
    identity: IdentityBody
    bmc: BmcBody | None
    nics: list[NicBody]
    allocation: str | None
    allocated_at: datetime | None
    power: Power | None
    trouble: str | None
    release: ReleaseBody | None
    version: int


class AllocationBody(BaseModel):
    """Nodes that a project got together."""

    name: str
    project: str
    nodes: list[NodeBody]


class RackBody(BaseModel):
    """What an inventory brought in."""

    nodes: list[NodeBody]


class WhyInput(Input):
    """What for, in words."""

    why: Why


class ReleaseInput(Input):
    """Where a node goes, and what need not be confirmed."""

    to: Literal["free", "maintenance", "rejected"] = "free"
    why: Why = "given back"
    waives: Annotated[list[ReleaseStep], Field(max_length=len(ReleaseStep))] = Field(default_factory=list)
    seconds: Seconds = SECONDS


class QuarantineInput(Input):
    """Why a node is cut off."""

    why: Why
    seconds: Seconds = SECONDS


class PowerWord(Enum):
    """What to do with the power: `soft` asks the node's system to go off, `read` only looks."""

    ON = "on"
    OFF = "off"
    CYCLE = "cycle"
    SOFT = "soft"
    READ = "read"


class PowerInput(Input):
    """What to do with a node's power."""

    verb: PowerWord
    seconds: Seconds = SECONDS

    def power_verb(self) -> Verb:
        """Return it as the verbs take it."""
        return Verb(f"power-{self.verb.value}")


class BootDeviceInput(Input):
    """From what a node starts; the next time only, or always."""

    device: BootDevice
    once: Flag = False
    seconds: Seconds = SECONDS


class HoldBody(BaseModel):
    """What a release waits for."""

    node: str
    name: str
    placed_by: str
    placed_at: datetime
    why: str


class KeysInput(Input):
    """Keys to press, base64."""

    keys: Annotated[str, StringConstraints(max_length=(CONSOLE_KEYS_BYTES.most + 2) // 3 * 4)]

    def content(self) -> bytes:
        """Return them. Raises Malformed, without showing them: they may be a password."""
        try:
            return b64decode(self.keys, validate=True)
        except (binascii.Error, ValueError):
            raise Malformed("reading the keys to press", expected="bytes in base64", found="something else") from None


class ConsoleBody(BaseModel):
    """A piece of what a node said, base64; read on from `offset` and its length."""

    begins: int
    offset: int
    said: str
    ends: int
    trouble: str | None


# -- networks ----------------------------------------------------------------------------------------------------------


class AttachInput(Input):
    """How a NIC is on a network, and the signed verdict that admits it, where one is demanded."""

    tagged: Flag = False
    verdict: Annotated[str, StringConstraints(max_length=VERDICT_BYTES.most)] | None = None
    seconds: Seconds = SECONDS


class AttachmentBody(BaseModel):
    """A NIC on a network. `wanted` false: being taken off."""

    node: str
    nic: str
    network: str
    tagged: bool
    wanted: bool
    since: datetime
    applied_at: datetime | None
    verdict_at: datetime | None


class VerdictAdmissionBody(Input):
    """Only nodes with a passing verdict, signed by this key (Ed25519, PEM), no older than this."""

    key: Annotated[str, StringConstraints(max_length=PUBLIC_KEY_BYTES.most)]
    most_age_seconds: Annotated[int, Field(strict=True, ge=1, le=ADMISSION_AGE_SECONDS.most)]


SharingWord = Literal["private", "shared", "public"]


class NetworkInput(Input):
    """A layer-2 network. `owner` null: the provider's. `vlan` null: one of the pool, or the one that it has."""

    owner: Name | None
    sharing: SharingWord
    shared_with: Annotated[list[Name], Field(max_length=SHARED_PROJECTS.most)] = Field(default_factory=list)
    vlan: Whole | None = None
    members: Members = Members.TOGETHER
    admission: VerdictAdmissionBody | None = None

    def sharing_of(self) -> Sharing:
        """Return it as the verbs take it. Raises WrongUse."""
        return sharing_of(self.sharing, self.shared_with)

    def vlan_number(self) -> Vlan | None:
        """Return it as the verbs take it. Raises WrongUse."""
        return None if self.vlan is None else Vlan(self.vlan)

    def admission_of(self) -> Admission:
        """Return it as the verbs take it."""
        if self.admission is None:
            return OpenAdmission()
        return objects.VerdictAdmission(self.admission.key, timedelta(seconds=self.admission.most_age_seconds))


class NetworkBody(BaseModel):
    """A layer-2 network. `shared_with`: those of them that the caller may know of."""

    name: str
    owner: str | None
    sharing: SharingWord
    shared_with: list[str]
    vlan: int
    members: Members
    admission: VerdictAdmissionBody | None
    version: int


# -- switches ----------------------------------------------------------------------------------------------------------


class SwitchBody(BaseModel):
    """A switch; never its credentials."""

    name: str
    driver: str
    address: dict[str, str]
    trouble: str | None
    version: int


class PortVlansBody(BaseModel):
    """What a port carries."""

    untagged: int | None
    tagged: list[int]
    isolated: bool


class PortBody(BaseModel):
    """A port: what it was last read to carry, null when in doubt; up to date when `applied` has reached `wanted`."""

    switch: str
    port: str
    wanted: int
    applied: int
    carries: PortVlansBody | None
    read_at: datetime | None
    trouble: str | None


# -- operations --------------------------------------------------------------------------------------------------------


class OperationBody(BaseModel):
    """Work that takes longer than an answer."""

    id: str
    verb: Verb
    node: str
    project: str | None
    actor: str
    state: OperationState
    created: datetime
    deadline: datetime
    ended: datetime | None
    parameters: dict[str, str]
    progress: str
    failure: dict[str, str] | None


# -- objects, as they are told -----------------------------------------------------------------------------------------


def project_body(project: objects.Project) -> ProjectBody:
    """Return a project as it is told."""
    return ProjectBody(
        name=project.name,
        node_quota=project.node_quota,
        network_quota=project.network_quota,
        version=project.version,
    )


def node_body(node: NodeView) -> NodeBody:
    """Return a node as it is told."""
    release = node.release
    return NodeBody(
        name=node.name,
        state=node.state,
        since=node.since,
        why=node.why,
        project=node.project,
        labels=dict(node.labels),
        hardware=dict(node.hardware),
        # What is stored was checked when it was taken.
        identity=IdentityBody.model_construct(
            endorsement_certificates=dict(node.identity.endorsement_certificates),
            endorsement_keys=list(node.identity.endorsement_keys),
            references=list(node.identity.references),
        ),
        bmc=None if node.bmc is None else BmcBody(driver=node.bmc.driver, address=dict(node.bmc.address)),
        nics=[nic_body(nic) for nic in node.nics],
        allocation=node.allocation,
        allocated_at=node.allocated_at,
        power=node.power,
        trouble=node.trouble,
        release=None
        if release is None
        else ReleaseBody(
            confirmed=release.confirmed, to=release.to, waives=sorted(release.waives, key=lambda step: step.value)
        ),
        version=node.version,
    )


def nic_body(nic: objects.Nic) -> NicBody:
    """Return a NIC as it is told."""
    port = None if nic.port is None else PortNameBody.model_construct(switch=nic.port.switch, port=nic.port.port)
    return NicBody(name=nic.name, mac=nic.mac.text, port=port)


def hold_body(hold: objects.Hold) -> HoldBody:
    """Return a hold as it is told."""
    return HoldBody(node=hold.node, name=hold.name, placed_by=hold.placed_by, placed_at=hold.placed_at, why=hold.why)


def console_body(text: ConsoleText) -> ConsoleBody:
    """Return a piece of a console as it is told."""
    said = b64encode(text.said).decode("ascii")
    return ConsoleBody(begins=text.begins, offset=text.offset, said=said, ends=text.ends, trouble=text.trouble)


def attachment_body(attachment: objects.Attachment) -> AttachmentBody:
    """Return an attachment as it is told."""
    return AttachmentBody(
        node=attachment.node,
        nic=attachment.nic,
        network=attachment.network,
        tagged=attachment.tagged,
        wanted=attachment.wanted,
        since=attachment.since,
        applied_at=attachment.applied_at,
        verdict_at=attachment.verdict_at,
    )


def network_body(network: objects.Network) -> NetworkBody:
    """Return a network as it is told."""
    word, projects = _sharing_words(network.sharing)
    admission = network.admission
    return NetworkBody(
        name=network.name,
        owner=network.owner,
        sharing=word,
        shared_with=projects,
        vlan=network.vlan.number,
        members=network.members,
        admission=None
        if isinstance(admission, OpenAdmission)
        else VerdictAdmissionBody.model_construct(
            key=admission.key, most_age_seconds=int(admission.most_age.total_seconds())
        ),
        version=network.version,
    )


def sharing_of(word: SharingWord, projects: list[str]) -> Sharing:
    """Return for whom a network is. Raises WrongUse."""
    if word == "shared":
        return SharedWith(frozenset(projects))
    if projects:
        raise WrongUse("sharing a network", expected=f"no projects beside {word!r}", found=", ".join(projects))
    return Private() if word == "private" else Public()


def _sharing_words(sharing: Sharing) -> tuple[SharingWord, list[str]]:
    match sharing:
        case Private():
            return "private", []
        case SharedWith(projects):
            return "shared", sorted(projects)
        case Public():
            return "public", []


def switch_body(switch: objects.Switch) -> SwitchBody:
    """Return a switch as it is told."""
    return SwitchBody(
        name=switch.name,
        driver=switch.driver,
        address=dict(switch.address),
        trouble=switch.trouble,
        version=switch.version,
    )


def port_body(port: objects.PortState) -> PortBody:
    """Return a port as it is told."""
    return PortBody(
        switch=port.name.switch,
        port=port.name.port,
        wanted=port.wanted,
        applied=port.applied,
        carries=None if port.carries is None else _vlans(port.carries),
        read_at=port.read_at,
        trouble=port.trouble,
    )


def _vlans(carries: PortVlans) -> PortVlansBody:
    return PortVlansBody(
        untagged=None if carries.untagged is None else carries.untagged.number,
        tagged=sorted(vlan.number for vlan in carries.tagged),
        isolated=carries.isolated,
    )


def operation_body(operation: objects.Operation) -> OperationBody:
    """Return an operation as it is told."""
    return OperationBody(
        id=operation.id,
        verb=operation.verb,
        node=operation.node,
        project=operation.project,
        actor=operation.actor,
        state=operation.state,
        created=operation.created,
        deadline=operation.deadline,
        ended=operation.ended,
        parameters=dict(operation.parameters),
        progress=operation.progress,
        failure=None if operation.failure is None else dict(operation.failure),
    )
