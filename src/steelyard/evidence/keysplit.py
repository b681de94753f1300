"""The three-party key: a payload that opens on a node only when both the tenant and the verifier want it to.

The tenant makes K and hides the payload under it, and splits K into U and V = K xor U. The tenant gives U to the node;
the verifier gives V once the node has passed; neither alone knows anything of K. The node joins them, checks the tag,
and opens the box. Every share and box says in what is authenticated whom it is for (attack 34).

Shares are sealed to a transport key that the node made for this boot and that its quote vouches for (`tpm/nonce.py`).
Ours is X25519 with HPKE; RSA is for nodes that run Keylime's agent. Random bytes and fresh keys are arguments.
Source: Keylime, crypto.py and tenant.py (split, tag, RSA-OAEP); RFC 9180 (HPKE).
"""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from steelyard.evidence.reader import refuse_over
from steelyard.model.errors import MalformedPayload, PayloadRejected, WrongUse
from steelyard.model.limits import PAYLOAD_BYTES
from steelyard.model.names import check_name
from steelyard.model.secret import Secret

KEY_BYTES: Final = 32
"""Of K, U and V."""
NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_LEAST_RSA_BITS: Final = 2048

_KEM: Final = b"KEM" + (0x0020).to_bytes(2)
"""DHKEM(X25519, HKDF-SHA256). Source: RFC 9180, section 7.1."""
_SUITE: Final = b"HPKE" + (0x0020).to_bytes(2) + (0x0001).to_bytes(2) + (0x0002).to_bytes(2)
"""That KEM, HKDF-SHA256, AES-256-GCM. Source: RFC 9180, sections 7.1 to 7.3."""


@dataclass(frozen=True, slots=True)
class NodeBoot:
    """Whom a share or a payload is for: one node, in one boot.

    node  the node's name.
    boot  what tells this boot from every other, such as the nonce of the quote that was judged.
    """

    node: str
    boot: bytes

    def __post_init__(self) -> None:
        check_name(self.node, "node")

    def context(self, what: bytes) -> bytes:
        """Return what is authenticated along with a share or payload; every part has a fixed length."""
        return (
            b"steelyard "
            + what
            + b" 1\x00"
            + hashlib.sha256(self.node.encode()).digest()
            + hashlib.sha256(self.boot).digest()
        )


# -- split -------------------------------------------------------------------------------------------------------------


def split_key(key: Secret, u: Secret) -> Secret:
    """Return V = K xor U; `u` 32 fresh random bytes. Raises WrongUse for another length."""
    return _xor(key, u, "splitting a key")


def join_shares(u: Secret, v: Secret) -> Secret:
    """Return K = U xor V; the tag tells whether it is the right one. Raises WrongUse for another length than 32."""
    return _xor(u, v, "joining two shares")


def _xor(first: Secret, second: Secret, doing: str) -> Secret:
    sizes = len(first.reveal()), len(second.reveal())
    if sizes != (KEY_BYTES, KEY_BYTES):
        raise WrongUse(doing, expected=f"{KEY_BYTES} bytes each", found=f"{sizes[0]} and {sizes[1]} bytes")
    return Secret((int.from_bytes(first.reveal()) ^ int.from_bytes(second.reveal())).to_bytes(KEY_BYTES))


# -- tag ---------------------------------------------------------------------------------------------------------------


def auth_tag(key: Secret, node_id: str) -> bytes:
    """Return HMAC-SHA-384 of the node's id keyed with K, 48 bytes: it tells the right K and gives nothing of it away.

    In hexadecimal it is what Keylime calls the auth tag, its `node_id` being the agent's UUID. Raises WrongUse.
    """
    if not node_id.isascii():
        raise WrongUse("making an auth tag", expected="an id in ASCII", found=node_id)
    return hmac.digest(_key_bytes(key, "making an auth tag"), node_id.encode(), "sha384")


def verify_auth_tag(key: Secret, node_id: str, tag: bytes) -> None:
    """Return when the joined shares are the key this tag was made with, for this node. Raises PayloadRejected."""
    if not hmac.compare_digest(tag, auth_tag(key, node_id)):
        raise PayloadRejected(
            "checking the joined shares", expected="the key that the tag was made with", found="another"
        )


# -- payload box -------------------------------------------------------------------------------------------------------


def seal_payload(key: Secret, payload: Secret, nonce: bytes, recipient: NodeBoot) -> bytes:
    """Return nonce (12 bytes), AES-256-GCM ciphertext and tag (16 bytes), one after the other.

    nonce  fresh for each box.

    Keylime's own box is another: a nonce of 16 bytes, K itself as the key, nothing that binds it to a node.
    Raises WrongUse, TooLarge.
    """
    doing = "sealing a payload"
    refuse_over(PAYLOAD_BYTES, len(payload.reveal()), doing)
    if len(nonce) != NONCE_BYTES:
        raise WrongUse(doing, expected=f"a nonce of {NONCE_BYTES} bytes", found=f"{len(nonce)} bytes")
    sealed = AESGCM(_payload_key(key, doing)).encrypt(nonce, payload.reveal(), recipient.context(b"payload"))
    return nonce + sealed


def open_payload(key: Secret, box: bytes, recipient: NodeBoot) -> Secret:
    """Return the payload in a box that `seal_payload` made with this key for this node and boot.

    Raises WrongUse, TooLarge, MalformedPayload; PayloadRejected.
    """
    doing = "opening a payload"
    overhead = NONCE_BYTES + _TAG_BYTES
    refuse_over(PAYLOAD_BYTES, len(box) - overhead, doing)
    if len(box) < overhead:
        raise MalformedPayload(doing, expected=f"at least {overhead} bytes", found=f"{len(box)} bytes")
    try:
        return Secret(
            AESGCM(_payload_key(key, doing)).decrypt(
                box[:NONCE_BYTES], box[NONCE_BYTES:], recipient.context(b"payload")
            )
        )
    except InvalidTag as error:
        raise PayloadRejected(
            doing, expected="a box made with this key for this node and boot", found="another"
        ) from error


def _payload_key(key: Secret, doing: str) -> bytes:
    """Return a key for the box alone, as K itself makes the tag."""
    return hmac.digest(_key_bytes(key, doing), b"steelyard payload key 1", "sha256")


def _key_bytes(key: Secret, doing: str) -> bytes:
    value = key.reveal()
    if len(value) != KEY_BYTES:
        raise WrongUse(doing, expected=f"a key of {KEY_BYTES} bytes", found=f"{len(value)} bytes")
    return value


# -- shares ------------------------------------------------------------------------------------------------------------


def seal_share(share: Secret, transport_key: bytes, ephemeral: X25519PrivateKey, recipient: NodeBoot) -> bytes:
    """Return a share that only the holder of the transport key opens: HPKE in base mode, single shot, 80 bytes.

    transport_key  the node's X25519 public key, as its quote vouches for it.
    ephemeral      fresh for each share: key and nonce follow from it.

    The result is the ephemeral public key (32 bytes), AES-256-GCM ciphertext (32) and tag (16); the HPKE info is the
    recipient's context, the associated data is empty.
    Raises WrongUse; PayloadRejected for a transport key of low order, with which everyone could open the share.
    """
    doing = "sealing a share"
    value = _key_bytes(share, doing)
    if len(transport_key) != KEY_BYTES:
        raise WrongUse(doing, expected=f"a transport key of {KEY_BYTES} bytes", found=f"{len(transport_key)} bytes")
    encapsulated = raw_public_key(ephemeral)
    shared_x = _exchange(ephemeral, transport_key, doing)
    key, nonce = _schedule(shared_x, encapsulated, transport_key, recipient.context(b"share"))
    return encapsulated + AESGCM(key).encrypt(nonce, value, None)


def open_share(sealed: bytes, transport_key: X25519PrivateKey, recipient: NodeBoot) -> Secret:
    """Return the share that `seal_share` sealed to this transport key for this node and boot.

    Raises MalformedPayload; PayloadRejected.
    """
    doing = "opening a share"
    size = KEY_BYTES + KEY_BYTES + _TAG_BYTES
    if len(sealed) != size:
        raise MalformedPayload(doing, expected=f"{size} bytes", found=f"{len(sealed)} bytes")
    encapsulated, ciphertext = sealed[:KEY_BYTES], sealed[KEY_BYTES:]
    shared_x = _exchange(transport_key, encapsulated, doing)
    own = raw_public_key(transport_key)
    key, nonce = _schedule(shared_x, encapsulated, own, recipient.context(b"share"))
    try:
        return Secret(AESGCM(key).decrypt(nonce, ciphertext, None))
    except InvalidTag as error:
        raise PayloadRejected(
            doing, expected="a share sealed to this key for this node and boot", found="another"
        ) from error


def seal_share_rsa(share: Secret, transport_key: rsa.RSAPublicKey) -> bytes:
    """Return a share sealed as Keylime's agent opens it: RSA-OAEP, SHA-1 for its hash and MGF1, no label.

    OAEP does not rest on the collisions that SHA-1 has lost; its padding is random, from the operating system. Nothing
    in it tells node or boot: only for agents that know no better. Raises WrongUse for a key under 2048 bits.
    """
    doing = "sealing a share with RSA"
    value = _key_bytes(share, doing)
    if transport_key.key_size < _LEAST_RSA_BITS:
        raise WrongUse(doing, expected=f"at least {_LEAST_RSA_BITS} bits", found=f"{transport_key.key_size}")
    sha1 = hashes.SHA1()  # noqa: S303  what that agent takes
    return transport_key.encrypt(value, padding.OAEP(padding.MGF1(sha1), sha1, None))


def raw_public_key(key: X25519PrivateKey) -> bytes:
    """Return the public half as it travels, 32 bytes. In the words that the agent's older library has, too."""
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def _exchange(ours: X25519PrivateKey, theirs: bytes, doing: str) -> bytes:
    try:
        return ours.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError as error:
        raise PayloadRejected(doing, expected="a public key of full order", found="one of low order") from error


def _schedule(shared_x: bytes, encapsulated: bytes, recipient: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Return key and nonce of the one message. Source: RFC 9180, sections 4.1 (Encap) and 5.1 (KeySchedule)."""
    shared_secret = _expand(
        _KEM, _extract(_KEM, b"", b"eae_prk", shared_x), b"shared_secret", encapsulated + recipient, 32
    )
    base_mode = b"\x00"
    context = base_mode + _extract(_SUITE, b"", b"psk_id_hash", b"") + _extract(_SUITE, b"", b"info_hash", info)
    secret = _extract(_SUITE, shared_secret, b"secret", b"")
    return _expand(_SUITE, secret, b"key", context, 32), _expand(_SUITE, secret, b"base_nonce", context, NONCE_BYTES)


def _extract(suite: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
    """LabeledExtract of RFC 9180, section 4."""
    return hmac.digest(salt, b"HPKE-v1" + suite + label + material, "sha256")


def _expand(suite: bytes, key: bytes, label: bytes, info: bytes, size: int) -> bytes:
    """LabeledExpand of RFC 9180, section 4, for at most one block (32 bytes)."""
    return hmac.digest(key, size.to_bytes(2) + b"HPKE-v1" + suite + label + info + b"\x01", "sha256")[:size]
