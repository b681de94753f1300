"""The PCR files of tpm2_quote: as the tool writes them, and what is not one."""

from struct import pack
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.evidence.tpm.pcr_file import parse_pcr_file
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import Malformed, MalformedTpmStructure, TooLarge
from steelyard.model.limits import PCR_FILE_BYTES
from steelyard.model.pcrs import PcrValues
from tests.tpm import SigningKind, SoftwareTpm
from tests.vectors_dir import shared_vectors

SHA1: Final = HashAlgorithm.SHA1
SHA256: Final = HashAlgorithm.SHA256
LISTS: Final = 4 + 16 * 8
RESTRICTED: Final = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign|restricted"


def pcr_file(*banks: PcrValues, digests_a_list: int = 8) -> bytes:
    """Write a file as the tool does."""
    selections = b"".join(
        pack("<HB4sx", part.bank.tpm_id, 3, sum(1 << index for index in part.values).to_bytes(4, "little"))
        for part in banks
    )
    digests = [part.values[index] for part in banks for index in sorted(part.values)]
    lists = [digests[start : start + digests_a_list] for start in range(0, len(digests), digests_a_list)]
    written = b"".join(
        pack("<I", len(part)) + b"".join(pack("<H64s", len(digest), digest) for digest in part).ljust(8 * 66, b"\x00")
        for part in lists
    )
    return pack("<I", len(banks)) + selections.ljust(16 * 8, b"\x00") + pack("<I", len(lists)) + written


def some(bank: HashAlgorithm, *indices: int) -> PcrValues:
    return PcrValues(bank, {index: bytes([index + 1]) * bank.size for index in indices})


@pytest.mark.parametrize(
    "pcrs",
    [
        "sha256:0",
        "sha256:0,1,2,3,4,5,6,7",
        "sha256:0,1,2,3,4,5,6,7,8,9,10,11",
        "sha256:all",
        "sha1:23,1,3+sha256:all+sha384:7,8",
        "sha256:1+sha256:2",
    ],
)
def test_the_file_of_a_real_quote_has_the_values_that_the_tpm_reads_out(tpm: SoftwareTpm, pcrs: str) -> None:
    if tpm.read_pcrs("sha256")[1] == bytes(32):
        for index in range(16):
            tpm.extend(index, "sha256", bytes([index + 1]) * 32)
            tpm.extend(index, "sha1", bytes([index + 1]) * 20)
    key = tpm.create_signing_key(SigningKind.ECC_P256_ECDSA_SHA256, RESTRICTED)
    asked = [part.split(":") for part in pcrs.split("+")]
    read = parse_pcr_file(tpm.quote(key, pcrs, b"nonce").pcrs)
    assert [part.bank.label for part in read] == [bank for bank, _ in asked]
    for part, (bank, listed) in zip(read, asked, strict=True):
        indices = range(24) if listed == "all" else [int(index) for index in listed.split(",")]
        every = tpm.read_pcrs(bank)
        assert part.values == {index: every[index] for index in indices}


def test_the_recorded_file_has_the_expected_values() -> None:
    (read,) = parse_pcr_file((shared_vectors("quotes") / "tpm2-tools-emulator" / "quotepcr.out").read_bytes())
    assert read.bank is SHA256
    assert set(read.values) == {15, 16, 22}
    assert read.values[15] == bytes(32)
    assert read.values[16].hex().startswith("9dbb2238")
    assert read.values[22] == b"\xff" * 32


@given(
    st.lists(
        st.sampled_from((SHA1, SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512)).flatmap(
            lambda bank: st.builds(
                PcrValues,
                st.just(bank),
                st.dictionaries(st.integers(0, 23), st.binary(min_size=bank.size, max_size=bank.size)),
            )
        ),
        max_size=4,
    ),
    st.integers(1, 8),
)
def test_any_file_is_read_as_it_was_written(banks: list[PcrValues], digests_a_list: int) -> None:
    assert parse_pcr_file(pcr_file(*banks, digests_a_list=digests_a_list)) == tuple(banks)


def test_a_file_cut_anywhere_or_followed_by_anything_is_refused() -> None:
    data = pcr_file(some(SHA256, 0, 7, 10))
    for wrong in [data[:end] for end in range(len(data))] + [data + b"\x00", data + data]:
        with pytest.raises(MalformedTpmStructure):
            parse_pcr_file(wrong)


def test_a_byte_where_nothing_is_stored_is_refused() -> None:
    data = pcr_file(some(SHA1, 0, 7))
    unused = [
        11,  # behind the first selection
        12,  # the second selection
        LISTS - 1,
        LISTS + 8 + 2 + 20,  # behind the first digest
        LISTS + 8 + 2 * 66,  # the third digest
        len(data) - 1,
    ]
    for place in unused:
        assert data[place] == 0
        with pytest.raises(MalformedTpmStructure, match="zeros"):
            parse_pcr_file(data[:place] + b"\x01" + data[place + 1 :])


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, pack("<I", 17), "selections"),
        (0, pack("<I", 0), "zeros"),
        (4, pack("<H", 0x0010), "bank"),
        (6, b"\x05", "PCRs"),
        (6, b"\x00", "PCRs"),
        (10, b"\x01", "PCRs"),
        (7, b"\x83\x04", "digests, as selected"),
        (7, b"\x01\x04", "digests, as selected"),
        (LISTS, pack("<I", 0), "trailing"),
        (LISTS, pack("<I", 2), "bytes left"),
        (LISTS, pack("<I", 0xFFFFFFFF), "bytes left"),
        (LISTS + 4, pack("<I", 9), "digests in a list"),
        (LISTS + 4, pack("<I", 0), "zeros"),
        (LISTS + 8, pack("<H", 65), "64 bytes"),
        (LISTS + 8, pack("<H", 33), "another size"),
    ],
)
def test_a_number_that_lies_is_refused(place: int, value: bytes, message: str) -> None:
    data = pcr_file(some(SHA256, 0, 7, 10))
    with pytest.raises(MalformedTpmStructure, match=message):
        parse_pcr_file(data[:place] + value + data[place + len(value) :])


def test_a_pcr_that_no_pc_has_is_refused() -> None:
    data = pcr_file(some(SHA256, 0))
    wide = data[:6] + b"\x04" + data[7:10] + b"\x01" + data[11:]
    with pytest.raises(MalformedTpmStructure, match="below 24"):
        parse_pcr_file(wide)


def test_a_file_of_more_than_the_tools_can_hold_is_refused_unread() -> None:
    with pytest.raises(TooLarge):
        parse_pcr_file(bytes(PCR_FILE_BYTES.most + 1))


def test_values_written_raw_are_no_such_file() -> None:
    with pytest.raises(Malformed):
        parse_pcr_file(bytes(24 * 32))
