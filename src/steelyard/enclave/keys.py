"""The tenant's keys: made here, sealed at rest, given to one boot of one machine that passed, and shown to nobody.

K and U are of one boot, and V = K xor U is left with the verifier (evidence/keysplit.py). The key of the disk lasts as
long as the disk. They are in no log, no error, no environment, and in the database only under the key file's key.
"""

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from steelyard.enclave.objects import BootSecrets
from steelyard.enclave.ports import System
from steelyard.evidence.keysplit import KEY_BYTES, NONCE_BYTES, NodeBoot, auth_tag, seal_payload, seal_share, split_key
from steelyard.evidence.verdict import parse_key, verify_verdict
from steelyard.model.errors import NotAdmitted
from steelyard.model.secret import Secret
from steelyard.service.sealing import Sealer

PURPOSE: Final = "airlock"
_KEY_HEX: Final = 2 * KEY_BYTES


@dataclass(frozen=True, slots=True)
class Passed:
    """A machine whose verdict was checked here: by its bytes, not by what a service says of it.

    boot       nonce of the quote that was judged.
    transport  the key that shares are sealed to; wireguard: the one that its neighbours know it by, if it has one.
    ends       when the verdict does.
    """

    node: str
    boot: bytes
    transport: bytes
    wireguard: bytes | None
    ends: datetime


# -- secrets of a place ------------------------------------------------------------------------------------------------


def make_secrets(disk: Secret | None) -> BootSecrets:
    """Return fresh secrets for a boot; the disk's key stays what it was, if there is one."""
    k, u, d = (Secret(secrets.token_bytes(KEY_BYTES)) for _ in range(3))
    return BootSecrets(k, u, disk if disk is not None else d)


def verifier_share(own: BootSecrets) -> Secret:
    """Return V, which is to be left with the verifier."""
    return split_key(own.key, own.u)


def seal_secrets(sealer: Sealer, place: str, own: BootSecrets) -> bytes:
    """Return the secrets as they are kept: they open for this place alone."""
    joined = own.key.reveal() + own.u.reveal() + own.disk.reveal()
    return sealer.seal(_context(place), Secret(joined))


def open_secrets(sealer: Sealer, place: str, sealed: bytes) -> BootSecrets:
    """Return what `seal_secrets` sealed. Raises ServiceUnready."""
    joined = sealer.open(_context(place), sealed).reveal()
    parts = [Secret(joined[start : start + KEY_BYTES]) for start in range(0, 3 * KEY_BYTES, KEY_BYTES)]
    return BootSecrets(*parts)


def seal_anew(sealer: Sealer, place: str, sealed: bytes) -> bytes:
    """Return the same secrets, sealed by the newest key."""
    return sealer.seal(_context(place), sealer.open(_context(place), sealed))


def _context(place: str) -> str:
    return f"enclave-place/{place}"


# -- verdicts ----------------------------------------------------------------------------------------------------------


def check_verdict(
    verdict: str, keys: tuple[str, ...], node: str, parameters: bytes, earlier: str | None, now: datetime
) -> Passed:
    """Return what a verdict vouches for, if one of these keys (PEM) signed that this machine passed its airlock.

    parameters  the document that we gave the machine: a verdict on another is none.
    earlier     the boot, hexadecimal, that it must be about; None: any.

    Raises NotAdmitted, MalformedVerdict, MalformedKey.
    """
    doing = f"checking the verdict on node {node}"
    affirmed = None
    for key in keys:
        try:
            affirmed = verify_verdict(verdict, parse_key(key), node, doing, now)
        except (NotAdmitted, UnsupportedAlgorithm):
            if key == keys[-1]:
                raise
        else:
            break
    if affirmed is None:
        raise NotAdmitted(doing, expected="a key whose verdicts count", found="none is set up")
    said = affirmed.appraisal

    def demand(name: str, expected: str) -> None:
        if said.get(name) != expected:
            raise NotAdmitted(doing, expected=f"{name} {expected}", found=f"{said.get(name)}")

    demand("steelyard.purpose", PURPOSE)
    demand("steelyard.parameters-sha256", hashlib.sha256(parameters).hexdigest())
    if earlier is not None:
        demand("steelyard.boot", earlier)
    if affirmed.ends is None:
        raise NotAdmitted(doing, expected="a verdict that ends", found="one that does not")
    wireguard = said.get("steelyard.wireguard-key")
    return Passed(
        node,
        _key(said, "steelyard.boot", doing),
        _key(said, "steelyard.transport-key", doing),
        None if wireguard is None else _key(said, "steelyard.wireguard-key", doing),
        affirmed.ends,
    )


def _key(said: Mapping[str, Any], name: str, doing: str) -> bytes:
    value = said.get(name)
    try:
        key = bytes.fromhex(value) if isinstance(value, str) and len(value) == _KEY_HEX else b""
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise NotAdmitted(doing, expected=f"{name}: {KEY_BYTES} bytes in hexadecimal", found="something else")
    return key


# -- deliveries --------------------------------------------------------------------------------------------------------


def make_payload(system: System, command_line: str, root: Secret | None, files: Mapping[str, Secret]) -> Secret:
    """Return a payload document (docs/formats.md). root: as imaging's `access` gives it."""
    described = None if root is None else {"luks_header": None, **json.loads(root.reveal())}
    return Secret(
        json.dumps(
            {
                "schema": "steelyard.payload/1",
                "kernel": _file(system.kernel.address, system.kernel.size_bytes, system.kernel.sha256),
                "initramfs": _file(system.initramfs.address, system.initramfs.size_bytes, system.initramfs.sha256),
                "command_line": command_line,
                "root": described,
                "files": {name: _text(content.reveal()) for name, content in files.items()},
            }
        ).encode()
    )


def make_delivery(own: BootSecrets, passed: Passed, payload: Secret) -> bytes:
    """Return what the machine fetches: U and the payload, which only it opens, in this boot, with V.

    Raises PayloadRejected for a transport key with which everybody could.
    """
    boot = NodeBoot(passed.node, passed.boot)
    share = seal_share(own.u, passed.transport, X25519PrivateKey.generate(), boot)
    box = seal_payload(own.key, payload, secrets.token_bytes(NONCE_BYTES), boot)
    said = {"share": _text(share), "tag": _text(auth_tag(own.key, passed.node)), "payload": _text(box)}
    return json.dumps(said).encode()


def _file(address: str, size_bytes: int, sha256: str) -> dict[str, str | int]:
    return {"address": address, "size_bytes": size_bytes, "sha256": sha256}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


# -- who signs who the peers are ---------------------------------------------------------------------------------------


def make_signing_key(sealer: Sealer, enclave: str) -> bytes:
    """Return a new key for an enclave, sealed."""
    private = Ed25519PrivateKey.generate().private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    return sealer.seal(f"enclave/{enclave}", Secret(private))


def open_signing_key(sealer: Sealer, enclave: str, sealed: bytes) -> Ed25519PrivateKey:
    """Return the key of an enclave. Raises ServiceUnready."""
    return Ed25519PrivateKey.from_private_bytes(sealer.open(f"enclave/{enclave}", sealed).reveal())


def public_pem(key: Ed25519PrivateKey) -> str:
    """Return the public half, PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def sign_peers(key: Ed25519PrivateKey, document: Mapping[str, Any]) -> bytes:
    """Return who the peers are, signed: `document` as JSON in base64, and an Ed25519 signature over its bytes."""
    said = json.dumps(document, sort_keys=True).encode()
    return json.dumps({"document": _text(said), "signature": _text(key.sign(b"steelyard peers 1\x00" + said))}).encode()
