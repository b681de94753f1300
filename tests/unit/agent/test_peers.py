"""What an enclave says to its machines: refused unless it is signed, whole and no older than what was heard before."""

import base64
import json
from ipaddress import IPv4Address, IPv4Interface
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from steelyard.agent.peers import Membership, Peer, Peers, parse_membership, parse_peers, wireguard_settings
from steelyard.enclave.keys import public_pem, sign_peers
from steelyard.evidence.keysplit import raw_public_key
from steelyard.model.errors import MalformedMessage, SteelyardError
from steelyard.model.secret import Secret

KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))
OTHER: Final = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
OF_NO_KNOWN_KIND: Final = "-----BEGIN PUBLIC KEY-----\nMAswBQYDKgMEAwIAAA==\n-----END PUBLIC KEY-----\n"
"""SubjectPublicKeyInfo with an algorithm that nobody uses, 1.2.3.4."""
OWN: Final = Secret(b"\2" * 32)
OWN_PUBLIC: Final = raw_public_key(X25519PrivateKey.from_private_bytes(b"\2" * 32))


def here(**changed: Any) -> bytes:
    """Return an enclave.json."""
    document = {
        "schema": "steelyard.enclave/1",
        "enclave": "lab",
        "node": "n1",
        "number": 1,
        "card": "02:00:00:00:00:01",
        "address": "10.60.0.1/24",
        "wireguard": {"port": 51820, "address": "10.77.0.1/24"},
        "peers": "http://10.9.0.1:8090/peers/0123",
        "peers_key": public_pem(KEY),
    }
    return json.dumps({**document, **changed}).encode()


def member(**changed: Any) -> Membership:
    return parse_membership(here(**changed))


def peer(**changed: Any) -> dict[str, Any]:
    return {"node": "n2", "key": "ab" * 32, "endpoint": "10.60.0.2:51820", "address": "10.77.0.2", **changed}


def said(**changed: Any) -> dict[str, Any]:
    """Return a list of peers."""
    document = {"schema": "steelyard.peers/1", "enclave": "lab", "project": "blue", "serial": 7, "peers": [peer()]}
    return {**document, **changed}


def test_what_the_enclave_signed_is_understood() -> None:
    found = member()
    assert found.address == IPv4Interface("10.60.0.1/24")
    assert parse_peers(sign_peers(KEY, said()), found, 7) == Peers(
        "lab", 7, (Peer("n2", b"\xab" * 32, (IPv4Address("10.60.0.2"), 51820), IPv4Address("10.77.0.2")),)
    )


@pytest.mark.parametrize(
    ("signer", "document", "least_serial"),
    [
        (OTHER, said(), 0),
        (KEY, said(), 8),  # as it was before somebody fell
        (KEY, said(enclave="other"), 0),
        (KEY, said(schema="steelyard.peers/2"), 0),
        (KEY, said(more=1), 0),
        (KEY, said(peers=[peer(key="ab" * 31)]), 0),
        (KEY, said(peers=[peer(endpoint="10.60.0.2:0")]), 0),
        (KEY, said(peers=[peer(endpoint="10.60.0.2")]), 0),
        (KEY, said(peers=[peer(endpoint="$(id):1")]), 0),
        (KEY, said(peers=[peer(address="10.77.0.2/0\nAllowedIPs = 0.0.0.0")]), 0),
        (KEY, said(peers=[peer(node="n 2")]), 0),
    ],
)
def test_a_list_that_is_not_the_enclaves_newest_is_refused(
    signer: Ed25519PrivateKey, document: dict[str, Any], least_serial: int
) -> None:
    with pytest.raises(SteelyardError):
        parse_peers(sign_peers(signer, document), member(), least_serial)


def test_a_signature_is_over_every_byte() -> None:
    answer = json.loads(sign_peers(KEY, said()))
    changed = base64.b64decode(answer["document"]).replace(b"10.60.0.2", b"10.60.0.3")
    answer["document"] = base64.b64encode(changed).decode()
    with pytest.raises(MalformedMessage, match="signature"):
        parse_peers(json.dumps(answer).encode(), member(), 0)


@pytest.mark.parametrize(
    "changed",
    [
        {"card": "eth0"},
        {"card": "02:00:00:00:00:01 up"},
        {"address": "10.60.0.1/33"},
        {"address": "-4"},
        {"wireguard": {"port": 0, "address": "10.77.0.1/24"}},
        {"wireguard": {"port": 1, "address": "10.77.0.1/24", "key": ""}},
        {"peers": "file:///etc/shadow"},
        {"peers_key": "none"},
        {"peers_key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"},
        {"peers_key": OF_NO_KNOWN_KIND},
        {"number": 0},
        {"more": 1},
    ],
)
def test_an_enclave_json_that_is_not_one_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(SteelyardError):
        member(**changed)


@given(st.binary(max_size=200))
def test_nothing_but_our_own_errors_leaves_the_readers(data: bytes) -> None:
    with pytest.raises(SteelyardError):
        parse_membership(data)
    with pytest.raises(SteelyardError):
        parse_peers(data, member(), 0)


def test_a_machine_has_every_other_as_a_peer_by_its_one_address() -> None:
    found = member()
    assert found.wireguard is not None
    others = [peer(), peer(node="n1", key=OWN_PUBLIC.hex(), address="10.77.0.1")]
    peers = parse_peers(sign_peers(KEY, said(peers=others)), found, 0)
    settings = wireguard_settings(found.wireguard, OWN, peers, OWN_PUBLIC).decode().splitlines()
    assert settings == [
        "[Interface]",
        "PrivateKey = " + base64.b64encode(b"\2" * 32).decode(),
        "ListenPort = 51820",
        "[Peer]",
        "PublicKey = " + base64.b64encode(b"\xab" * 32).decode(),
        "Endpoint = 10.60.0.2:51820",
        "AllowedIPs = 10.77.0.2/32",
    ]
