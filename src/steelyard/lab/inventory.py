"""What a rack holds, as its provider would hand it to the isolation service: typed, and as JSON.

Passwords are in it, so that its file is for its owner alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from steelyard.model.errors import WrongUse
from steelyard.model.secret import Secret

SCHEMA: Final = "steelyard-lab-inventory/1"


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
    """Return the inventory that `encode_inventory` wrote. Raises WrongUse."""
    try:
        document = json.loads(text)
        if document["schema"] != SCHEMA:
            raise WrongUse("reading an inventory", expected=SCHEMA, found=str(document["schema"]))
        switch = document["switch"]
        return Inventory(
            namespace=document["namespace"],
            switch=Switch(switch["name"], switch["bridge"], tuple(switch["ovsdb"]), switch["services_port"]),
            maker_certificates=tuple(document["maker_certificates"]),
            nodes=tuple(_decode_node(node) for node in document["nodes"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as cause:
        raise WrongUse("reading an inventory", expected="what `steelyard lab up` wrote", found=repr(cause)) from cause


def _decode_node(node: dict[str, Any]) -> Node:
    bmc = dict(node["bmc"])
    password = Secret(bmc.pop("password").encode())
    return Node(
        name=node["name"],
        uuid=node["uuid"],
        bmc=BmcAccess(**bmc, password=password),
        nics=tuple(Nic(**nic) for nic in node["nics"]),
        endorsement_certificates=dict(node["endorsement_certificates"]),
    )
