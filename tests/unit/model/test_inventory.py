"""The inventory as JSON and back; passwords do not show on the way."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from steelyard.model.errors import TooLarge, WrongUse
from steelyard.model.inventory import BmcAccess, Inventory, Nic, Node, Switch, decode_inventory, encode_inventory
from steelyard.model.limits import INVENTORY_BYTES
from steelyard.model.secret import Secret

INVENTORY = Inventory(
    "steelyard-1",
    Switch("switch", "rack", ("tcp:127.77.0.2:6640",), "services"),
    ("PEM",),
    (
        Node(
            "n1",
            "c7ec671f-d666-52ff-bb70-34ede001c1c1",
            BmcAccess("127.77.1.1", 623, "https://127.77.1.1:443", "admin", Secret(b"tell nobody"), "PEM"),
            (Nic("nic0", "02:73:79:00:01:00", "switch", "n1-nic0"),),
            {"rsa2048": "PEM"},
        ),
    ),
)


def test_what_was_written_is_read() -> None:
    assert decode_inventory(encode_inventory(INVENTORY)) == INVENTORY


def test_a_password_does_not_show_when_an_inventory_is_printed() -> None:
    assert "tell nobody" not in repr(INVENTORY)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "steelyard-lab-inventory/2"}'])
def test_another_document_is_refused(text: str) -> None:
    with pytest.raises(WrongUse):
        decode_inventory(text)


def test_another_version_is_refused() -> None:
    document = json.loads(encode_inventory(INVENTORY))
    with pytest.raises(WrongUse, match="inventory/1"):
        decode_inventory(json.dumps({**document, "schema": "steelyard-lab-inventory/2"}))


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update(backdoor=True),
        lambda document: document["switch"].update(backdoor=True),
        lambda document: document["nodes"][0].update(backdoor=True),
        lambda document: document["nodes"][0]["bmc"].update(backdoor=True),
        lambda document: document["nodes"][0]["nics"][0].update(backdoor=True),
        lambda document: document.pop("namespace"),
        lambda document: document["nodes"][0]["bmc"].pop("password"),
        lambda document: document.update(nodes={}),
        lambda document: document.update(nodes=["n1"]),
        lambda document: document.update(maker_certificates=[1]),
        lambda document: document["switch"].update(ovsdb="tcp:127.77.0.2:6640"),
        lambda document: document["nodes"][0]["bmc"].update(ipmi_port=True),
        lambda document: document["nodes"][0]["bmc"].update(ipmi_port="623"),
        lambda document: document["nodes"][0]["nics"][0].update(port=None),
        lambda document: document["nodes"][0].update(endorsement_certificates={"rsa2048": None}),
    ],
)
def test_a_field_more_or_less_or_of_another_type_is_refused(change: Callable[[Any], object]) -> None:
    document = json.loads(encode_inventory(INVENTORY))
    change(document)
    with pytest.raises(WrongUse) as refused:
        decode_inventory(json.dumps(document))
    assert "tell nobody" not in str(refused.value)


def test_a_field_given_twice_is_refused() -> None:
    twice = encode_inventory(INVENTORY).replace('"username"', '"username": "root", "username"')
    with pytest.raises(WrongUse, match="twice"):
        decode_inventory(twice)


def test_an_inventory_beyond_the_limit_or_of_endless_depth_is_refused() -> None:
    with pytest.raises(TooLarge):
        decode_inventory(" " * (INVENTORY_BYTES.most + 1))
    with pytest.raises(WrongUse):
        decode_inventory("[" * 100_000)
