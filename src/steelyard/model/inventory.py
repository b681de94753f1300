"""What a rack holds, as its provider hands it to the isolation service: typed, and as JSON.

Passwords are in it, so that its file is for its owner alone.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from steelyard.model.errors import TooLarge, WrongUse
from steelyard.model.limits import INVENTORY_BYTES
from steelyard.model.secret import Secret

SCHEMA: Final = "steelyard-lab-inventory/1"

_DOING: Final = "reading an inventory"


@dataclass(frozen=True, slots=True)
class Nic:
    """A network card, and the switch port at the other end of its cable."""

    name: str
    mac: str
    switch: str
    port: str


@dataclass(frozen=True, slots=True)
class BmcAccess:
    """How to reach a BMC, and as whom. `ca_certificate` is PEM; the Redfish endpoint's chain ends in it."""

    address: str
    ipmi_port: int
    redfish_url: str
    username: str
    password: Secret
    ca_certificate: str


@dataclass(frozen=True, slots=True)
class Node:
    """A machine.

    endorsement_certificates  kind -> PEM, as its TPM's maker published them: "rsa2048", "secp384r1".
    """

    name: str
    uuid: str
    bmc: BmcAccess
    nics: tuple[Nic, ...]
    endorsement_certificates: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Switch:
    """An Open vSwitch and where it is managed. `ovsdb` are its OVSDB endpoints, in Open vSwitch's notation."""

    name: str
    bridge: str
    ovsdb: tuple[str, ...]
    services_port: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """The rack. `namespace` is the network namespace in which its addresses mean something; None: this computer's."""

    namespace: str | None
    switch: Switch
    maker_certificates: tuple[str, ...]
    nodes: tuple[Node, ...]


def encode_inventory(inventory: Inventory) -> str:
    """Return the inventory as JSON, passwords in the clear."""
    return json.dumps(
        {
            "schema": SCHEMA,
            "namespace": inventory.namespace,
            "switch": {
                "name": inventory.switch.name,
                "bridge": inventory.switch.bridge,
                "ovsdb": list(inventory.switch.ovsdb),
                "services_port": inventory.switch.services_port,
            },
            "maker_certificates": list(inventory.maker_certificates),
            "nodes": [_encode_node(node) for node in inventory.nodes],
        },
        indent=2,
    )


def _encode_node(node: Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "uuid": node.uuid,
        "bmc": {
            "address": node.bmc.address,
            "ipmi_port": node.bmc.ipmi_port,
            "redfish_url": node.bmc.redfish_url,
            "username": node.bmc.username,
            "password": node.bmc.password.reveal().decode(),
            "ca_certificate": node.bmc.ca_certificate,
        },
        "nics": [{"name": nic.name, "mac": nic.mac, "switch": nic.switch, "port": nic.port} for nic in node.nics],
        "endorsement_certificates": dict(node.endorsement_certificates),
    }


def decode_inventory(text: str) -> Inventory:
    """Return the inventory that `encode_inventory` wrote, no field more or less. Raises WrongUse, TooLarge."""
    if len(text) > INVENTORY_BYTES.most:
        raise TooLarge(
            _DOING, expected=f"at most {INVENTORY_BYTES.most} bytes ({INVENTORY_BYTES.reason})", found=f"{len(text)}"
        )
    try:
        document = json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as cause:
        raise _wrong("a JSON document", str(cause)) from cause
    if isinstance(document, dict) and document.get("schema") != SCHEMA:
        raise _wrong(SCHEMA, str(document.get("schema")))
    namespace, switch, makers, nodes = _fields(
        document, schema=str, namespace=(str, type(None)), switch=dict, maker_certificates=list, nodes=list
    )[1:]
    name, bridge, ovsdb, services_port = _fields(switch, name=str, bridge=str, ovsdb=list, services_port=str)
    return Inventory(
        namespace=namespace,
        switch=Switch(name, bridge, _texts(ovsdb), services_port),
        maker_certificates=_texts(makers),
        nodes=tuple(_decode_node(node) for node in nodes),
    )


def _decode_node(node: object) -> Node:
    name, uuid, bmc, nics, certificates = _fields(
        node, name=str, uuid=str, bmc=dict, nics=list, endorsement_certificates=dict
    )
    address, ipmi_port, redfish_url, username, password, ca_certificate = _fields(
        bmc, address=str, ipmi_port=int, redfish_url=str, username=str, password=str, ca_certificate=str
    )
    _texts(certificates.values())
    return Node(
        name=name,
        uuid=uuid,
        bmc=BmcAccess(address, ipmi_port, redfish_url, username, Secret(password.encode()), ca_certificate),
        nics=tuple(Nic(*_fields(nic, name=str, mac=str, switch=str, port=str)) for nic in nics),
        endorsement_certificates=certificates,
    )


def _fields(value: object, **kinds: type | tuple[type, ...]) -> list[Any]:
    """Return an object's fields in the order asked for: these and no others, each of its type."""
    if not isinstance(value, dict) or value.keys() != kinds.keys():
        found = ", ".join(sorted(value)) if isinstance(value, dict) else type(value).__name__
        raise _wrong(f"an object with {', '.join(kinds)}", found)
    for name, kind in kinds.items():
        # bool is an int to Python. What was found is not shown: it may be a password.
        if not isinstance(value[name], kind) or isinstance(value[name], bool):
            raise _wrong(f"a field {name!r} of its type", type(value[name]).__name__)
    return [value[name] for name in kinds]


def _texts(values: Collection[object]) -> tuple[str, ...]:
    texts = tuple(value for value in values if isinstance(value, str))
    if len(texts) != len(values):
        raise _wrong("texts", "something else among them")
    return texts


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field twice")
    return fields


def _wrong(expected: str, found: str) -> WrongUse:
    return WrongUse(_DOING, expected=expected, found=found)
