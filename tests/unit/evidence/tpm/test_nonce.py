"""What a quote's qualifying data commits to, and that no two different things commit to the same (attack 14)."""

import hashlib
from itertools import combinations

import pytest

from steelyard.evidence.tpm.nonce import NonceWithKeys, PlainNonce
from steelyard.model.errors import WrongUse

NONCE = bytes(range(32))
TRANSPORT = b"t" * 32
WIREGUARD = b"w" * 32


def test_a_plain_nonce_is_its_own_qualifying_data() -> None:
    for nonce in (b"\x00", NONCE, bytes(64)):
        assert PlainNonce(nonce).qualifying_data() == nonce


def test_an_empty_nonce_and_one_that_no_tpm_takes_are_refused() -> None:
    for nonce in (b"", bytes(65)):
        with pytest.raises(WrongUse):
            PlainNonce(nonce)


def test_qualifying_data_is_a_hash_over_fixed_places() -> None:
    def digest(data: bytes) -> bytes:
        return hashlib.sha256(data).digest()

    made = NonceWithKeys(NONCE, TRANSPORT, None, b"parameters").qualifying_data()
    assert made == digest(b"steelyard quote 1\x00" + NONCE + digest(TRANSPORT) + bytes(32) + digest(b"parameters"))
    assert made.hex() == "203b029054c539de6c93777e8d8412b38ef8e4b36b704a7ab3541c9ec9585e48"


def test_no_two_different_challenges_commit_to_the_same() -> None:
    different = [
        NonceWithKeys(NONCE, TRANSPORT, WIREGUARD, b"parameters"),
        NonceWithKeys(NONCE[::-1], TRANSPORT, WIREGUARD, b"parameters"),
        NonceWithKeys(NONCE, WIREGUARD, TRANSPORT, b"parameters"),
        NonceWithKeys(NONCE, TRANSPORT, None, b"parameters"),
        NonceWithKeys(NONCE, TRANSPORT, bytes(32), b"parameters"),
        NonceWithKeys(NONCE, TRANSPORT, WIREGUARD, b""),
        NonceWithKeys(NONCE, TRANSPORT, WIREGUARD, None),
        NonceWithKeys(NONCE, TRANSPORT, None, None),
        NonceWithKeys(NONCE, TRANSPORT, None, WIREGUARD),
    ]
    for one, other in combinations(different, 2):
        assert one.qualifying_data() != other.qualifying_data()


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_nonce_or_key_of_another_length_is_refused(size: int) -> None:
    wrong = bytes(size)
    for make in (
        lambda: NonceWithKeys(wrong, TRANSPORT, WIREGUARD, None),
        lambda: NonceWithKeys(NONCE, wrong, WIREGUARD, None),
        lambda: NonceWithKeys(NONCE, TRANSPORT, wrong, None),
    ):
        with pytest.raises(WrongUse):
            make()
