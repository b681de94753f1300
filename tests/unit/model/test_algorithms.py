"""Hash algorithms, against the standard library and what the TCG registry says."""

import hashlib

import pytest

from steelyard.model.algorithms import HASH_BY_NAME, HASH_BY_TPM_ID, HashAlgorithm

COMPUTABLE = [algorithm for algorithm in HashAlgorithm if algorithm is not HashAlgorithm.SM3_256]


@pytest.mark.parametrize("algorithm", COMPUTABLE, ids=lambda algorithm: algorithm.label)
def test_a_digest_is_the_standard_librarys_and_has_the_size_named(algorithm: HashAlgorithm) -> None:
    assert algorithm.computable
    for data in (b"", b"data"):
        digest = algorithm.digest(data)
        assert digest == hashlib.new(algorithm.label, data).digest()
        assert len(digest) == algorithm.size


def test_only_sha2_is_believed() -> None:
    assert {algorithm.label for algorithm in HashAlgorithm if algorithm.believed} == {"sha256", "sha384", "sha512"}


def test_what_is_not_computed_on_every_machine_is_not_computed_on_any() -> None:
    assert not HashAlgorithm.SM3_256.computable


def test_every_algorithm_is_found_by_its_number_and_its_name() -> None:
    for algorithm in HashAlgorithm:
        assert HASH_BY_TPM_ID[algorithm.tpm_id] is algorithm
        assert HASH_BY_NAME[algorithm.label] is algorithm
    assert HASH_BY_TPM_ID[0x000B] is HashAlgorithm.SHA256
    assert len(HASH_BY_TPM_ID) == len(HASH_BY_NAME) == len(HashAlgorithm)
