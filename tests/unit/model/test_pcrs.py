"""PCRs: what they start as, what is asked for and what is claimed."""

from pathlib import Path

import pytest

from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import WrongUse
from steelyard.model.pcrs import PCR_COUNT, PcrSelection, PcrValues, start_value
from tests.tpm import SoftwareTpm

SHA256 = HashAlgorithm.SHA256


def test_pcrs_start_as_a_real_tpm_starts_them(tmp_path: Path) -> None:
    with SoftwareTpm(tmp_path) as tpm:
        for bank in (HashAlgorithm.SHA1, SHA256, HashAlgorithm.SHA384):
            assert tpm.read_pcrs(bank.label) == {index: start_value(index, bank) for index in range(PCR_COUNT)}


def test_a_selection_of_nothing_is_refused() -> None:
    with pytest.raises(WrongUse):
        PcrSelection(SHA256, frozenset())


@pytest.mark.parametrize("index", [-1, 24, 1 << 40])
def test_a_pcr_that_no_pc_has_is_refused(index: int) -> None:
    with pytest.raises(WrongUse):
        PcrSelection(SHA256, frozenset({0, index}))
    with pytest.raises(WrongUse):
        PcrValues(SHA256, {index: bytes(32)})


@pytest.mark.parametrize("size", [0, 20, 31, 33, 48])
def test_a_value_of_another_size_than_the_banks_is_refused(size: int) -> None:
    with pytest.raises(WrongUse):
        PcrValues(SHA256, {0: bytes(32), 1: bytes(size)})


def test_values_are_joined_in_ascending_order() -> None:
    values = PcrValues(SHA256, {10: b"c" * 32, 0: b"a" * 32, 7: b"b" * 32})
    assert values.of((10, 0, 7)) == b"a" * 32 + b"b" * 32 + b"c" * 32
    assert values.of({7}) == b"b" * 32
