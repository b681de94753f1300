"""The inventory as JSON and back; passwords do not show on the way."""

import json

import pytest

from steelyard.lab.inventory import BmcAccess, Inventory, Nic, Node, Switch, decode_inventory, encode_inventory
from steelyard.model.errors import WrongUse
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


def test_an_unknown_field_is_refused() -> None:
    document = json.loads(encode_inventory(INVENTORY))
    document["nodes"][0]["bmc"]["backdoor"] = True
    with pytest.raises(WrongUse):
        decode_inventory(json.dumps(document))
