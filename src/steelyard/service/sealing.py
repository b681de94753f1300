"""Device credentials at rest: sealed with a key that is not in the database.

Who has a copy of the database alone has no password; who can change it cannot give one device's password to another,
as what a secret is for is sealed with it.

The key file has a line per key: its id (8 hex digits), a space, the key (32 bytes, base64). The first seals, any opens.
To rotate: put a fresh line before the others, start the services again, which seal everything anew (`is_current`), take
the old lines out.
"""

import re
import secrets
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from steelyard.model.errors import ServiceUnready
from steelyard.model.limits import SEALING_KEY_FILE_BYTES
from steelyard.model.secret import Secret
from steelyard.service.files import read_private, write_private

FORMAT: Final = b"\x01"
KEY_ID_BYTES: Final = 4
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12

_HEADER_BYTES: Final = len(FORMAT) + KEY_ID_BYTES
_LINE: Final = re.compile(r"([0-9a-f]{8}) ([A-Za-z0-9+/]{43}=)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Sealer:
    """Seals and opens with AES-256-GCM.

    What is sealed: format (1 byte, 01), id of the key (4), nonce (12), ciphertext, tag (16); format, id and context are
    authenticated. Nonces are random: a key is good for 2^32 seals. Source: NIST SP 800-38D, section 8.3.
    """

    keys: Mapping[bytes, Secret]
    """By id; the first one seals."""

    def __post_init__(self) -> None:
        if not self.keys or any(len(key_id) != KEY_ID_BYTES for key_id in self.keys):
            raise ValueError("a sealer without keys, or with an id that is not 4 bytes")

    def seal(self, context: str, secret: Secret) -> bytes:
        """Return the secret sealed for one use ("switch/s1"): it opens for that alone."""
        key_id, key = next(iter(self.keys.items()))
        header, nonce = FORMAT + key_id, secrets.token_bytes(NONCE_BYTES)
        return header + nonce + AESGCM(key.reveal()).encrypt(nonce, secret.reveal(), header + context.encode())

    def open(self, context: str, sealed: bytes) -> Secret:
        """Return what was sealed for `context`. Raises ServiceUnready."""
        header, rest = sealed[:_HEADER_BYTES], sealed[_HEADER_BYTES:]
        nonce, box = rest[:NONCE_BYTES], rest[NONCE_BYTES:]
        key = self.keys.get(header[len(FORMAT) :])
        if key is None or not header.startswith(FORMAT):
            raise _does_not_open(context, f"key {header[len(FORMAT) :].hex() or 'none'}, not in the key file")
        try:
            return Secret(AESGCM(key.reveal()).decrypt(nonce, box, header + context.encode()))
        except (InvalidTag, ValueError) as cause:
            raise _does_not_open(context, "altered, or sealed for something else") from cause

    def is_current(self, sealed: bytes) -> bool:
        """Whether the first key sealed it; what is not is to be sealed anew before its key can go."""
        return sealed.startswith(FORMAT + next(iter(self.keys)))


def read_sealer(path: Path) -> Sealer:
    """Return the sealer of a key file, which must be ours alone. Raises ServiceUnready."""
    keys: dict[bytes, Secret] = {}
    for number, line in enumerate(
        read_private(path, SEALING_KEY_FILE_BYTES).decode("ascii", "replace").splitlines(), 1
    ):
        matched = _LINE.fullmatch(line)
        key_id = bytes.fromhex(matched[1]) if matched else b""
        if matched is None or key_id in keys:
            # Not shown: it may hold a key.
            found = "an id that is there already" if matched else "something else"
            raise ServiceUnready(
                f"reading line {number} of {path}", expected="id and key, base64, of 32 bytes", found=found
            )
        keys[key_id] = Secret(b64decode(matched[2]))
    if not keys:
        raise ServiceUnready(f"reading {path}", expected="at least one key", found="none")
    return Sealer(keys)


def make_key_file(path: Path) -> None:
    """Make a key file with one fresh key. Raises ServiceUnready if there is one."""
    write_private(path, _fresh_line())


def _fresh_line() -> bytes:
    return secrets.token_hex(KEY_ID_BYTES).encode() + b" " + b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n"


def _does_not_open(context: str, found: str) -> ServiceUnready:
    return ServiceUnready(
        f"opening the credentials of {context}", expected="what a key of the key file sealed for it", found=found
    )
