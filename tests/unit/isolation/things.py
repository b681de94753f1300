"""Nodes, networks and attachments out of thin air, for what is pure."""

from datetime import datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from steelyard.isolation.life import NodeState
from steelyard.isolation.objects import (
    Admission,
    Attachment,
    Members,
    Network,
    Nic,
    Node,
    OpenAdmission,
    PortName,
    Private,
    Release,
    Sharing,
    VerdictAdmission,
)
from steelyard.model.network import MacAddress, Vlan
from tests.unit.isolation.rig import NO_IDENTITY, NOW

PRIVATE, OPEN, CABLE = Private(), OpenAdmission(), PortName("s1", "p0")
SIGNER: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SIGNER_PEM: Final = SIGNER.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
WEIGHED: Final = VerdictAdmission(SIGNER_PEM, timedelta(minutes=10))


def a_nic(name: str = "nic0", port: PortName | None = CABLE) -> Nic:
    return Nic(name, MacAddress("02:00:00:00:00:01"), port)


def a_node(
    state: NodeState = NodeState.ALLOCATED,
    project: str | None = "red",
    nics: tuple[Nic, ...] | None = None,
    release: Release | None = None,
) -> Node:
    return Node(
        name="n1",
        state=state,
        since=NOW,
        why="",
        project=project,
        labels={},
        hardware={},
        identity=NO_IDENTITY,
        bmc_driver="fake",
        bmc_address={"host": "n1-bmc"},
        nics=(a_nic(),) if nics is None else nics,
        allocation=None,
        allocated_at=NOW,
        power=None,
        trouble=None,
        version=1,
        release=release,
    )


def a_network(
    name: str = "net",
    vlan: int = 100,
    *,
    owner: str | None = "red",
    sharing: Sharing = PRIVATE,
    members: Members = Members.TOGETHER,
    admission: Admission = OPEN,
) -> Network:
    return Network(name, owner, sharing, Vlan(vlan), members, admission, 1)


def an_attachment(
    network: str = "net",
    nic: str = "nic0",
    *,
    tagged: bool = False,
    wanted: bool = True,
    applied_at: datetime | None = None,
    verdict_at: datetime | None = None,
) -> Attachment:
    return Attachment("n1", nic, network, tagged, wanted, NOW, applied_at, verdict_at)
