"""Answers are what they promised to be, or refused."""

import copy
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from steelyard.client.codec import decode, decode_items, encode
from steelyard.client.objects import ConsoleOutput, NewToken, Node, Project
from steelyard.model.errors import MalformedAnswer
from steelyard.model.secret import Secret

NODE: dict[str, Any] = {
    "name": "n1",
    "state": "allocated",
    "since": "2026-11-24T12:00:00+00:00",
    "why": "allocation web",
    "project": "red",
    "labels": {"gpu": "h100"},
    "hardware": {},
    "identity": {"endorsement_certificates": {}, "endorsement_keys": ["sha256:00"], "references": []},
    "bmc": None,
    "nics": [{"name": "nic0", "mac": "02:00:00:00:00:01", "port": {"switch": "s1", "port": "Ethernet1/1"}}],
    "allocation": "web",
    "allocated_at": None,
    "power": "on",
    "trouble": None,
    "release": None,
    "version": 7,
}


def test_an_object_is_read_and_told_again() -> None:
    node = decode(Node, NODE, "reading")
    assert node.since == datetime(2026, 11, 24, 12, tzinfo=UTC)
    assert node.nics[0].port is not None
    assert node.nics[0].port.port == "Ethernet1/1"
    assert encode(node) == NODE


def test_what_a_newer_service_says_more_is_left_out() -> None:
    assert decode(Node, {**NODE, "colour": "red"}, "reading") == decode(Node, NODE, "reading")


def _set(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda node: node.__setitem__(name, value)


@pytest.mark.parametrize(
    "change",
    [
        lambda node: node.pop("name"),
        lambda node: node.pop("nics"),
        _set("name", None),
        _set("name", 5),
        _set("version", "7"),
        _set("version", True),  # noqa: FBT003 (a value of another type)
        _set("version", 7.0),
        _set("since", "yesterday"),
        _set("since", "2026-11-24T12:00:00"),
        _set("since", 5),
        _set("labels", []),
        _set("labels", {"gpu": 1}),
        _set("nics", {}),
        _set("nics", [None]),
        _set("identity", []),
        lambda node: node["nics"][0].pop("mac"),
        lambda node: node["nics"][0]["port"].__setitem__("port", None),
    ],
)
def test_what_is_not_of_its_type_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    node = copy.deepcopy(NODE)
    change(node)
    with pytest.raises(MalformedAnswer):
        decode(Node, node, "reading")


@pytest.mark.parametrize("document", [None, [], "n1", 5, True])
def test_what_is_no_object_is_refused(document: Any) -> None:
    with pytest.raises(MalformedAnswer):
        decode(Project, document, "reading")
    with pytest.raises(MalformedAnswer):
        decode_items(Project, {"items": document}, "reading")


def test_bytes_are_base64_and_nothing_else() -> None:
    document: dict[str, Any] = {"begins": 0, "offset": 0, "said": "bHM=", "ends": 2, "trouble": None}
    output = decode(ConsoleOutput, document, "reading")
    assert output.said == b"ls"
    assert output.following == 2
    assert encode(output) == document
    for wrong in ("bHM", "bH M=", 5, None):
        with pytest.raises(MalformedAnswer):
            decode(ConsoleOutput, {**document, "said": wrong}, "reading")


def test_a_secret_is_read_and_never_told() -> None:
    token = {
        "id": "0",
        "account": "ada",
        "project": None,
        "rights": ["read"],
        "office": None,
        "words": "",
        "maker": "ada",
        "created": "2026-11-24T12:00:00+00:00",
        "expires": "2026-11-24T12:00:00+00:00",
        "revoked": None,
        "used": None,
    }
    new = decode(NewToken, {"token": token, "bearer": "sy_0_x"}, "reading")
    assert new.bearer == Secret(b"sy_0_x")
    assert "sy_0_x" not in repr(new)
    with pytest.raises(TypeError):
        encode(new)
