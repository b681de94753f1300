"""What a node gets once it has passed: what to start, where its disk is, and keys. Its format is in docs/formats.md.

It came in a box that only the joined key opens, so that its maker is the tenant; it is read strictly all the same, as
a tenant's mistake is to be named rather than acted on.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from steelyard.agent.parameters import is_address
from steelyard.evidence.document import Fields, parse_document
from steelyard.model.errors import MalformedMessage
from steelyard.model.limits import (
    COMMAND_LINE_BYTES,
    INITRAMFS_BYTES,
    KERNEL_BYTES,
    LUKS_HEADER_BYTES,
    PAYLOAD_BYTES,
    Limit,
)
from steelyard.model.secret import Secret

_SCHEMA: Final = "steelyard.payload/1"
_DOING: Final = "reading the payload"
_FILE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
_EXPORT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,222}", re.ASCII)
_TARGET_NAME: Final = re.compile(r"iqn\.[0-9]{4}-[0-9]{2}\.[a-z0-9.:-]{1,211}", re.ASCII)
"""Source: RFC 7143, section 4.2.7."""
_MOST_LUN: Final = 0xFF
_CHAP_USER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", re.ASCII)
_CHAP_SECRET: Final = re.compile(r"[A-Za-z0-9._~+/=-]{12,128}", re.ASCII)
"""What no settings file takes for anything else; 96 bits at least. Source: RFC 7143, section 9.2.1."""
_SHA256_BYTES: Final = 32
RESERVED_FILES: Final = frozenset({"attestation.json", "root.json", "wireguard.key"})
"""What the agent itself puts beside the tenant's files."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """A file to fetch, and what it must be."""

    address: str
    size_bytes: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class LuksHeader:
    """The first bytes of a volume, which say how the rest is encrypted: others could let the key protect nothing."""

    size_bytes: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class NbdVolume:
    """A volume served by NBD over TLS.

    authority, certificate, key  of the server's and the node's own, PEM.
    luks_header                  what the volume must begin with; None for one that is not encrypted.
    """

    address: str
    port: int
    export: str
    authority: str
    certificate: str
    key: Secret
    luks_header: LuksHeader | None


@dataclass(frozen=True, slots=True)
class IscsiVolume:
    """A volume served by iSCSI, with CHAP both ways.

    user, password                what the node proves itself with.
    target_user, target_password  what the target does.
    luks_header                   as above.
    """

    address: str
    port: int
    target: str
    lun: int
    user: str
    password: Secret
    target_user: str
    target_password: Secret
    luks_header: LuksHeader | None


Volume = NbdVolume | IscsiVolume


@dataclass(frozen=True, slots=True)
class Payload:
    """What to start.

    root           the volume to look at before; None where the node has none.
    root_document  how the payload describes it, for the next system, which opens it again.
    files          name -> content, for the next system alone: the LUKS key, peers, a script.
    """

    kernel: Artefact
    initramfs: Artefact
    command_line: str
    root: Volume | None
    root_document: Secret | None
    files: Mapping[str, Secret]


def parse_payload(payload: Secret) -> Payload:
    """Return what the payload says. Raises MalformedMessage, TooLarge; never with a value of it in the text."""
    try:
        return _parse(payload.reveal())
    except MalformedMessage as error:
        raise MalformedMessage(_DOING, expected=error.expected, found="something else") from None


def _parse(document: bytes) -> Payload:
    fields = parse_document(document, PAYLOAD_BYTES, _DOING, MalformedMessage)
    fields.schema(_SCHEMA)
    kernel = _artefact(fields.fields("kernel"), KERNEL_BYTES)
    initramfs = _artefact(fields.fields("initramfs"), INITRAMFS_BYTES)
    command_line = fields.text("command_line")
    if len(command_line) > COMMAND_LINE_BYTES.most or not all(" " <= letter <= "~" for letter in command_line):
        raise fields.wrong("command_line", "a line of printable ASCII", "another")
    root, root_document = None, None
    if not fields.null("root"):
        described = fields.mapping("root")
        root_document = Secret(json.dumps(described).encode())
        root = _volume(Fields(described, "root", _DOING, MalformedMessage))
    files = _files(fields.mapping("files"))
    fields.end()
    return Payload(kernel, initramfs, command_line, root, root_document, files)


def _artefact(fields: Fields, limit: Limit) -> Artefact:
    address = fields.text("address")
    if not is_address(address, ("http", "https")):
        raise fields.wrong("address", "an http or https address", address)
    artefact = Artefact(address, fields.integer("size_bytes", 1, limit.most), _sha256(fields))
    fields.end()
    return artefact


def _volume(fields: Fields) -> Volume:
    read: Callable[[Fields], Volume] = fields.choice("protocol", {"nbd": _nbd_volume, "iscsi": _iscsi_volume})
    volume = read(fields)
    fields.end()
    return volume


def _nbd_volume(fields: Fields) -> NbdVolume:
    return NbdVolume(
        _ip_address(fields),
        _port(fields),
        _matching(fields, "export", _EXPORT_NAME, "the name of an export"),
        fields.text("authority"),
        fields.text("certificate"),
        Secret(fields.text("key").encode()),
        _luks_header(fields),
    )


def _iscsi_volume(fields: Fields) -> IscsiVolume:
    volume = IscsiVolume(
        _ip_address(fields),
        _port(fields),
        _matching(fields, "target", _TARGET_NAME, "the name of a target"),
        fields.integer("lun", 0, _MOST_LUN),
        _matching(fields, "user", _CHAP_USER, "a user's name"),
        Secret(_matching(fields, "password", _CHAP_SECRET, "a password").encode()),
        _matching(fields, "target_user", _CHAP_USER, "a user's name"),
        Secret(_matching(fields, "target_password", _CHAP_SECRET, "a password").encode()),
        _luks_header(fields),
    )
    if volume.password == volume.target_password:
        # Whoever asks us for the proof that we asked the target for gets it. Source: RFC 7143, section 9.2.1.
        raise fields.wrong("target_password", "another than password", "the same")
    return volume


def _ip_address(fields: Fields) -> str:
    address = fields.text("address")
    try:
        ip_address(address)
    except ValueError:
        raise fields.wrong("address", "an IP address", address) from None
    if "%" in address:  # a name of the sender's own, of which open-iscsi would make a file's name
        raise fields.wrong("address", "an IP address without a zone", address)
    return address


def _port(fields: Fields) -> int:
    return fields.integer("port", 1, 0xFFFF)


def _matching(fields: Fields, name: str, pattern: re.Pattern[str], expected: str) -> str:
    text = fields.text(name)
    if not pattern.fullmatch(text):
        raise fields.wrong(name, expected, text)
    return text


def _luks_header(fields: Fields) -> LuksHeader | None:
    if fields.null("luks_header"):
        return None
    described = fields.fields("luks_header")
    header = LuksHeader(described.integer("size_bytes", 1, LUKS_HEADER_BYTES.most), _sha256(described))
    described.end()
    return header


def _sha256(fields: Fields) -> bytes:
    digest = fields.hexadecimal("sha256")
    if len(digest) != _SHA256_BYTES:
        raise fields.wrong("sha256", f"{_SHA256_BYTES} bytes", f"{len(digest)}")
    return digest


def _files(described: Mapping[str, object]) -> Mapping[str, Secret]:
    fields = Fields(described, "files", _DOING, MalformedMessage)
    for name in described:
        if not _FILE_NAME.fullmatch(name) or name in RESERVED_FILES:
            raise fields.wrong(name, "a file name that is not reserved", "another")
    return {name: Secret(fields.base64(name)) for name in described}
