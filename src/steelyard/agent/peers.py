"""What an enclave says to a machine of its: where its wall is, and who else is within; both read strictly.

Source: docs/formats.md, "What an enclave gives its machines".
"""

import base64
import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, NetmaskValueError
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from steelyard.agent.parameters import is_address
from steelyard.evidence.document import Fields, parse_document
from steelyard.evidence.verdict import parse_key
from steelyard.model.errors import MalformedMessage
from steelyard.model.limits import ENCLAVE_NODES, PEERS_BYTES
from steelyard.model.names import check_name
from steelyard.model.secret import Secret

_MEMBERSHIP_SCHEMA: Final = "steelyard.enclave/1"
_PEERS_SCHEMA: Final = "steelyard.peers/1"
_READING: Final = "reading what the enclave said"
_HEARING: Final = "reading who the peers are"
_SIGNED_AS: Final = b"steelyard peers 1\x00"
_CARD: Final = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}", re.ASCII)
_KEY_BYTES: Final = 32
_MOST_PORT: Final = 65535
_MOST_SERIAL: Final = 2**53
_MOST_NUMBER: Final = 2**31


@dataclass(frozen=True, slots=True)
class WireGuard:
    """Where the machine is in the encrypted network, and by which UDP port it is reached."""

    port: int
    address: IPv4Interface


@dataclass(frozen=True, slots=True)
class Membership:
    """A machine's place in its enclave.

    number     the machine's, from 1.
    card       hardware address of the card on the enclave's network; address: there; None: nobody says.
    peers      web address of the list of peers; peers_key: who signs it.
    """

    enclave: str
    node: str
    number: int
    card: str
    address: IPv4Interface | None
    wireguard: WireGuard | None
    peers: str
    peers_key: Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class Peer:
    """Another machine of the enclave, that passed. key: WireGuard's, 32 bytes; endpoint: where it is reached."""

    node: str
    key: bytes
    endpoint: tuple[IPv4Address, int]
    address: IPv4Address


@dataclass(frozen=True, slots=True)
class Peers:
    """Who passed, this machine among them. serial: rises with each change."""

    enclave: str
    serial: int
    peers: tuple[Peer, ...]


def parse_membership(data: bytes) -> Membership:
    """Return what is in an enclave.json. Raises Malformed, TooLarge; WrongUse for an unfit name."""
    fields = parse_document(data, PEERS_BYTES, _READING, MalformedMessage)
    fields.schema(_MEMBERSHIP_SCHEMA)
    card, peers = fields.text("card"), fields.text("peers")
    if not _CARD.fullmatch(card):
        raise fields.wrong("card", "a hardware address", card)
    if not is_address(peers, ("http", "https")):
        raise fields.wrong("peers", "an http or https address", peers)
    membership = Membership(
        check_name(fields.text("enclave"), "enclave"),
        check_name(fields.text("node"), "node"),
        fields.integer("number", 1, _MOST_NUMBER),
        card,
        None if fields.null("address") else _interface(fields, "address"),
        None if fields.null("wireguard") else _wireguard(fields.fields("wireguard")),
        peers,
        parse_key(fields.text("peers_key"), _READING),
    )
    fields.end()
    return membership


def _wireguard(fields: Fields) -> WireGuard:
    wireguard = WireGuard(fields.integer("port", 1, _MOST_PORT), _interface(fields, "address"))
    fields.end()
    return wireguard


def _interface(fields: Fields, name: str) -> IPv4Interface:
    text = fields.text(name)
    try:
        return IPv4Interface(text)
    except (AddressValueError, NetmaskValueError) as cause:
        raise fields.wrong(name, "an IPv4 address with its prefix", text) from cause


def parse_peers(answer: bytes, membership: Membership, least_serial: int) -> Peers:
    """Return who the peers are, if the enclave signed that, and no earlier than what was heard before.

    Raises MalformedMessage, TooLarge, WrongUse for an unfit name.
    """
    signed = parse_document(answer, PEERS_BYTES, _HEARING, MalformedMessage)
    document, signature = signed.base64("document"), signed.base64("signature")
    signed.end()
    try:
        membership.peers_key.verify(signature, _SIGNED_AS + document)
    except InvalidSignature as cause:
        raise MalformedMessage(_HEARING, expected="the enclave's signature", found="another") from cause
    fields = parse_document(document, PEERS_BYTES, _HEARING, MalformedMessage)
    fields.schema(_PEERS_SCHEMA)
    fields.text("project")
    enclave = fields.text("enclave")
    if enclave != membership.enclave:
        raise fields.wrong("enclave", membership.enclave, enclave)
    peers = Peers(
        enclave,
        # An older one would bring back who fell.
        fields.integer("serial", least_serial, _MOST_SERIAL),
        tuple(_peer(each) for each in fields.list_of_fields("peers", ENCLAVE_NODES)),
    )
    fields.end()
    return peers


def _peer(fields: Fields) -> Peer:
    host, _, port = fields.text("endpoint").rpartition(":")
    key, address = fields.hexadecimal("key"), fields.text("address")
    if len(key) != _KEY_BYTES:
        raise fields.wrong("key", f"{_KEY_BYTES} bytes", f"{len(key)}")
    if not (port.isascii() and port.isdecimal() and 1 <= int(port[:6]) <= _MOST_PORT):
        raise fields.wrong("endpoint", "an address and a port", f"{host}:{port}")
    try:
        peer = Peer(check_name(fields.text("node"), "node"), key, (IPv4Address(host), int(port)), IPv4Address(address))
    except AddressValueError as cause:
        raise fields.wrong("address", "IPv4 addresses", f"{host}, {address}") from cause
    fields.end()
    return peer


def wireguard_settings(wireguard: WireGuard, private_key: Secret, peers: Peers, own_key: bytes) -> bytes:
    """Return what `wg syncconf` reads: this machine's key and port, and every other machine, by the address it has.

    A secret: the private key is in it. Source: wg(8), "Configuration file format".
    """
    lines = ["[Interface]", f"PrivateKey = {_text(private_key.reveal())}", f"ListenPort = {wireguard.port}"]
    for peer in peers.peers:
        if peer.key != own_key:
            host, port = peer.endpoint
            lines += ["[Peer]", f"PublicKey = {_text(peer.key)}"]
            lines += [f"Endpoint = {host}:{port}", f"AllowedIPs = {peer.address}/32"]
    return ("\n".join(lines) + "\n").encode()


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode("ascii")
