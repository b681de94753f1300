"""The three-party key: each part against a second construction, and everything that is not quite it refused."""

import hashlib
import hmac
from itertools import combinations
from typing import Final

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from hypothesis import given
from hypothesis import strategies as st

from steelyard.evidence.keysplit import (
    NodeBoot,
    auth_tag,
    join_shares,
    open_payload,
    open_share,
    seal_payload,
    seal_share,
    seal_share_rsa,
    split_key,
    verify_auth_tag,
)
from steelyard.model.errors import MalformedPayload, PayloadRejected, SteelyardError, TooLarge, WrongUse
from steelyard.model.limits import PAYLOAD_BYTES
from steelyard.model.secret import Secret

KEY: Final = Secret(bytes(range(32)))
U: Final = Secret(bytes(range(100, 132)))
NODE: Final = NodeBoot("node-7", b"nonce of the quote")
OTHERS: Final = [NodeBoot("node-8", NODE.boot), NodeBoot("node-7", b"another"), NodeBoot("node-7", b"")]
PAYLOAD: Final = Secret(b"LUKS key, peers, script")
NONCE: Final = bytes(range(12))
TRANSPORT: Final = X25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
TRANSPORT_PUBLIC: Final = TRANSPORT.public_key().public_bytes_raw()
EPHEMERAL: Final = X25519PrivateKey.from_private_bytes(bytes(range(33, 65)))
HPKE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
keys = st.binary(min_size=32, max_size=32).map(Secret)


# -- split -------------------------------------------------------------------------------------------------------------


@given(keys, keys)
def test_the_two_shares_joined_are_the_key_in_either_order(key: Secret, u: Secret) -> None:
    v = split_key(key, u)
    assert join_shares(u, v) == join_shares(v, u) == key
    assert v.reveal() == bytes(one ^ other for one, other in zip(key.reveal(), u.reveal(), strict=True))


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_a_key_or_share_of_another_length_is_refused(size: int) -> None:
    wrong = Secret(bytes(size))
    for first, second in ((wrong, U), (KEY, wrong), (wrong, wrong)):
        with pytest.raises(WrongUse):
            split_key(first, second)
        with pytest.raises(WrongUse):
            join_shares(first, second)
    with pytest.raises(WrongUse):
        auth_tag(wrong, "node-7")
    with pytest.raises(WrongUse):
        seal_payload(wrong, PAYLOAD, NONCE, NODE)
    with pytest.raises(WrongUse):
        open_payload(wrong, bytes(100), NODE)
    with pytest.raises(WrongUse):
        seal_share(wrong, TRANSPORT_PUBLIC, EPHEMERAL, NODE)


# -- tag ---------------------------------------------------------------------------------------------------------------


def test_the_tag_is_keylimes_hmac_of_the_agents_uuid_under_the_key() -> None:
    uuid = "D432FBB3-D2F1-4A97-9EF7-75BD81C00000"
    keylimes = hmac.new(KEY.reveal(), msg=None, digestmod=hashlib.sha384)
    keylimes.update(uuid.encode("utf-8"))
    assert auth_tag(KEY, uuid).hex() == keylimes.hexdigest()
    verify_auth_tag(KEY, uuid, bytes.fromhex(keylimes.hexdigest()))


@pytest.mark.parametrize("tag", [b"", auth_tag(KEY, "node-7")[:-1], auth_tag(KEY, "node-7") + b"\x00", bytes(48)])
def test_a_tag_that_is_not_the_keys_is_refused(tag: bytes) -> None:
    with pytest.raises(PayloadRejected):
        verify_auth_tag(KEY, "node-7", tag)


def test_a_tag_of_another_node_or_key_is_refused() -> None:
    for key, node in ((KEY, "node-8"), (U, "node-7")):
        with pytest.raises(PayloadRejected):
            verify_auth_tag(KEY, "node-7", auth_tag(key, node))


def test_an_id_with_look_alike_letters_is_refused() -> None:
    with pytest.raises(WrongUse):
        auth_tag(KEY, "n\N{CYRILLIC SMALL LETTER O}de-7")
    with pytest.raises(WrongUse):
        auth_tag(KEY, "\ud800")


# -- payload box -------------------------------------------------------------------------------------------------------


@given(keys, st.binary(max_size=2000).map(Secret), st.binary(min_size=12, max_size=12))
def test_a_box_opens_with_its_key_for_its_node_and_boot(key: Secret, payload: Secret, nonce: bytes) -> None:
    box = seal_payload(key, payload, nonce, NODE)
    assert len(box) == 12 + len(payload.reveal()) + 16
    assert open_payload(key, box, NODE) == payload


def test_a_box_is_nonce_ciphertext_and_tag_as_a_second_construction_makes_it() -> None:
    key = hmac.digest(KEY.reveal(), b"steelyard payload key 1", "sha256")
    encryptor = Cipher(AES(key), GCM(NONCE)).encryptor()
    encryptor.authenticate_additional_data(
        b"steelyard payload 1\x00" + hashlib.sha256(b"node-7").digest() + hashlib.sha256(NODE.boot).digest()
    )
    ciphertext = encryptor.update(PAYLOAD.reveal()) + encryptor.finalize()
    box = seal_payload(KEY, PAYLOAD, NONCE, NODE)
    assert box == NONCE + ciphertext + encryptor.tag
    assert (
        box.hex()
        == "000102030405060708090a0b9329b6869a3471bb533d42f9601efb104f7d7fd3cb1e4e8839a1a25605690df75d3e60a00bb079"
    )


def test_a_box_with_any_byte_changed_or_any_other_length_is_refused() -> None:
    box = seal_payload(KEY, PAYLOAD, NONCE, NODE)
    for place in range(len(box)):
        with pytest.raises(PayloadRejected):
            open_payload(KEY, box[:place] + bytes([box[place] ^ 1]) + box[place + 1 :], NODE)
    for end in range(len(box)):
        with pytest.raises((MalformedPayload, PayloadRejected)):
            open_payload(KEY, box[:end], NODE)
    with pytest.raises(PayloadRejected):
        open_payload(KEY, box + b"\x00", NODE)


def test_attack_34_a_box_for_another_node_or_boot_or_key_is_refused() -> None:
    box = seal_payload(KEY, PAYLOAD, NONCE, NODE)
    for other in OTHERS:
        with pytest.raises(PayloadRejected):
            open_payload(KEY, box, other)
    for key in (U, split_key(KEY, U)):
        with pytest.raises(PayloadRejected):
            open_payload(key, box, NODE)


@pytest.mark.parametrize("size", [0, 11, 13, 16])
def test_a_nonce_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(WrongUse):
        seal_payload(KEY, PAYLOAD, bytes(size), NODE)


def test_a_payload_beyond_its_limit_is_neither_sealed_nor_opened() -> None:
    largest = Secret(bytes(PAYLOAD_BYTES.most))
    assert open_payload(KEY, seal_payload(KEY, largest, NONCE, NODE), NODE) == largest
    with pytest.raises(TooLarge):
        seal_payload(KEY, Secret(bytes(PAYLOAD_BYTES.most + 1)), NONCE, NODE)
    with pytest.raises(TooLarge):
        open_payload(KEY, bytes(PAYLOAD_BYTES.most + 29), NODE)


# -- shares ------------------------------------------------------------------------------------------------------------


@given(keys)
def test_a_share_opens_with_its_transport_key_for_its_node_and_boot(share: Secret) -> None:
    sealed = seal_share(share, TRANSPORT_PUBLIC, EPHEMERAL, NODE)
    assert len(sealed) == 80
    assert open_share(sealed, TRANSPORT, NODE) == share


@given(keys)
def test_a_share_is_sealed_as_another_hpke_opens_it_and_the_reverse(share: Secret) -> None:
    info = b"steelyard share 1\x00" + hashlib.sha256(b"node-7").digest() + hashlib.sha256(NODE.boot).digest()
    sealed = seal_share(share, TRANSPORT_PUBLIC, X25519PrivateKey.generate(), NODE)
    assert HPKE.decrypt(sealed, TRANSPORT, info) == share.reveal()
    assert open_share(HPKE.encrypt(share.reveal(), TRANSPORT.public_key(), info), TRANSPORT, NODE) == share


def test_a_share_is_sealed_as_it_always_was() -> None:
    sealed = seal_share(U, TRANSPORT_PUBLIC, EPHEMERAL, NODE)
    assert sealed[:32] == EPHEMERAL.public_key().public_bytes_raw()
    assert (
        sealed[32:].hex()
        == "7e301ac8a5f5ba110c0d96b9ac337afc325548e6ab940d923191933dab3422a013ec9ae5145570b0d497af4322895df0"
    )


def test_a_share_with_any_byte_changed_or_any_other_length_is_refused() -> None:
    sealed = seal_share(U, TRANSPORT_PUBLIC, EPHEMERAL, NODE)
    for place in range(len(sealed)):
        for change in (0x01, 0x80):  # X25519 itself passes over the last bit of a public key
            with pytest.raises(PayloadRejected):
                open_share(sealed[:place] + bytes([sealed[place] ^ change]) + sealed[place + 1 :], TRANSPORT, NODE)
    for wrong in [sealed[:end] for end in range(len(sealed))] + [sealed + b"\x00"]:
        with pytest.raises(MalformedPayload):
            open_share(wrong, TRANSPORT, NODE)


def test_attack_34_a_share_for_another_node_or_boot_or_transport_key_is_refused() -> None:
    sealed = seal_share(U, TRANSPORT_PUBLIC, EPHEMERAL, NODE)
    for other in OTHERS:
        with pytest.raises(PayloadRejected):
            open_share(sealed, TRANSPORT, other)
    with pytest.raises(PayloadRejected):
        open_share(sealed, EPHEMERAL, NODE)


LOW_ORDER: Final = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]
"""Points of Curve25519 that every private key takes to zero."""


@pytest.mark.parametrize("point", LOW_ORDER, ids=lambda point: point.hex()[:8])
def test_attack_14_a_transport_key_with_which_everyone_could_open_the_share_is_refused(point: bytes) -> None:
    with pytest.raises(PayloadRejected, match="low order"):
        seal_share(U, point, EPHEMERAL, NODE)
    with pytest.raises(PayloadRejected, match="low order"):
        open_share(point + bytes(48), TRANSPORT, NODE)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_transport_key_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(WrongUse):
        seal_share(U, bytes(size), EPHEMERAL, NODE)


def test_a_share_under_rsa_opens_as_keylimes_agent_opens_it() -> None:
    private = rsa.generate_private_key(65537, 2048)
    sealed = seal_share_rsa(U, private.public_key())
    agents = padding.OAEP(mgf=padding.MGF1(algorithm=hashes.SHA1()), algorithm=hashes.SHA1(), label=None)  # noqa: S303
    assert private.decrypt(sealed, agents) == U.reveal()
    assert seal_share_rsa(U, private.public_key()) != sealed


def test_an_rsa_transport_key_that_can_be_factored_is_refused() -> None:
    with pytest.raises(WrongUse):
        seal_share_rsa(U, rsa.generate_private_key(65537, 1024).public_key())  # noqa: S505  what is to be refused


# -- whom it is for ----------------------------------------------------------------------------------------------------


def test_no_two_recipients_or_uses_share_a_context() -> None:
    contexts = [who.context(what) for who in [NODE, *OTHERS] for what in (b"share", b"payload")]
    contexts.append(NodeBoot("node-7nonce", b" of the quote").context(b"share"))
    for one, other in combinations(contexts, 2):
        assert one != other


@pytest.mark.parametrize("name", ["", "Node", "a/b", "n\x00", "n\u043ede", "x" * 64])
def test_a_recipient_has_the_name_of_a_node(name: str) -> None:
    with pytest.raises(WrongUse):
        NodeBoot(name, b"")


def test_no_error_tells_a_secret() -> None:
    box = seal_payload(KEY, PAYLOAD, NONCE, NODE)
    short = Secret(b"hush" * 7)
    for fail in (
        lambda: split_key(short, U),
        lambda: seal_payload(short, PAYLOAD, NONCE, NODE),
        lambda: open_payload(U, box, NODE),
        lambda: verify_auth_tag(U, "node-7", auth_tag(KEY, "node-7")),
    ):
        with pytest.raises(SteelyardError) as caught:
            fail()
        for secret in (KEY, U, PAYLOAD, short):
            told = f"{caught.value}{caught.value!r}"
            assert secret.reveal().hex() not in told
            assert repr(secret.reveal())[2:-1] not in told
