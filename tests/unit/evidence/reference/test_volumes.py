from collections.abc import Callable
from pathlib import Path
from struct import pack, pack_into
from uuid import UUID

import pytest

from steelyard.evidence.reference.volumes import VARIABLE_STORE, volumes_of
from steelyard.model.errors import MalformedArtefact, TooLarge
from steelyard.model.limits import FIRMWARE_BYTES, FIRMWARE_DECOMPRESSED_BYTES, FIRMWARE_DEPTH, FIRMWARE_FILES, MIB
from tests.artefacts import (
    DRIVER,
    DXE,
    FILE_SYSTEM_3,
    IMAGE,
    LZMA_GUID,
    PEI,
    SEC,
    blank_store,
    firmware_file,
    firmware_image,
    firmware_section,
    firmware_volume,
    fix_volume_checksum,
    lzma_section,
    volume_section,
)
from tests.tpm import require_programs

OVMF = Path("/usr/share/OVMF/OVMF_CODE.fd")

INNER = firmware_volume(firmware_file(DRIVER, b"a driver"))


def nested(*sections: bytes) -> bytes:
    return firmware_volume(firmware_file(IMAGE, b"".join(sections)))


def refused(image: bytes, expected: str) -> None:
    with pytest.raises(MalformedArtefact) as caught:
        volumes_of(image)
    assert expected in caught.value.expected


# -- what is found -----------------------------------------------------------------------------------------------------


def test_debians_firmware_unpacks_to_the_volumes_it_is_built_of() -> None:
    require_programs({str(OVMF): "ovmf"})
    volumes = volumes_of(OVMF.read_bytes())
    cores = [(volume.depth, sorted(volume.file_types & {SEC, PEI, DXE}), len(volume.data)) for volume in volumes]
    assert cores == [(0, [], 0x1AC000), (2, [PEI], 0xE0000), (2, [DXE], 0xC00000), (0, [SEC], 0x34000)]


def test_volumes_are_found_in_plain_and_compressed_sections() -> None:
    outer = nested(volume_section(INNER), lzma_section(firmware_section(0x19, b"x") + volume_section(INNER)))
    found = volumes_of(outer + INNER)
    assert [(volume.depth, bytes(volume.data)) for volume in found] == [(0, outer), (1, INNER), (2, INNER), (0, INNER)]
    assert [volume.file_types for volume in found] == [{IMAGE}, {DRIVER}, {DRIVER}, {DRIVER}]


def test_a_variable_store_is_a_volume_without_files() -> None:
    (store,) = volumes_of(blank_store())
    assert (store.file_system, store.header_bytes, store.file_types) == (VARIABLE_STORE, 72, frozenset())


def test_files_begin_after_an_extended_header() -> None:
    image = firmware_volume(firmware_file(DRIVER, b"a driver"), extension=b"whatever it says")
    assert volumes_of(image)[0].file_types == {DRIVER}


def test_a_file_may_have_a_checksum_and_a_large_header() -> None:
    body = firmware_file(DRIVER, b"summed", attributes=0x40) + firmware_file(DXE, b"large", attributes=0x01)
    assert volumes_of(firmware_volume(body, file_system=FILE_SYSTEM_3))[0].file_types == {DRIVER, DXE}


def test_a_section_may_have_a_large_header() -> None:
    filler = firmware_section(0x19, bytes(17 * MIB))
    body = firmware_file(IMAGE, filler + volume_section(INNER), attributes=0x01)
    assert len(volumes_of(firmware_volume(body, file_system=FILE_SYSTEM_3))) == 2


def test_flash_that_erases_to_zeros_is_read_so() -> None:
    header = 72
    image = bytearray(firmware_volume(firmware_file(DRIVER, b"12345678", state=0x07), attributes=0x4F6FF, free=0))
    assert volumes_of(bytes(image))[0].file_types == {DRIVER}
    pack_into("<Q", image, 32, len(image) + 64)
    fix_volume_checksum(image)
    assert volumes_of(bytes(image) + bytes(64))[0].file_types == {DRIVER}
    assert len(image) > header


# -- refusals ----------------------------------------------------------------------------------------------------------


def volume_with(change: Callable[[bytearray], None], *, extension: bytes = b"") -> bytes:
    """Return a volume with something changed in its header, and its checksum right again."""
    image = bytearray(firmware_volume(firmware_file(DRIVER, b"a driver"), extension=extension))
    change(image)
    fix_volume_checksum(image)
    return bytes(image)


def putting(layout: str, at: int, *values: int | bytes) -> Callable[[bytearray], None]:
    return lambda image: pack_into(layout, image, at, *values)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(volume_with(putting("4s", 40, b"_FVX")), "the signature _FVH", id="signature"),
        pytest.param(volume_with(putting("16s", 16, UUID(int=1).bytes_le)), "files (FFS 2 or 3)", id="file-system"),
        pytest.param(volume_with(putting("B", 55, 1)), "revision 2", id="revision"),
        pytest.param(volume_with(putting("<Q", 32, 1000)), "inside its container", id="longer-than-its-file"),
        pytest.param(volume_with(putting("<Q", 32, 70)), "inside its container", id="shorter-than-its-header"),
        pytest.param(volume_with(putting("<H", 48, 54)), "inside its container", id="header-too-short"),
        pytest.param(volume_with(putting("<H", 48, 73)), "inside its container", id="header-odd"),
        pytest.param(
            volume_with(putting("<H", 52, 40), extension=b"x"), "an extended header inside", id="extension-early"
        ),
        pytest.param(
            volume_with(putting("<I", 88, 4000), extension=b"x"), "an extended header inside", id="extension-long"
        ),
        pytest.param(volume_with(putting("<H", 52, 160)), "20 bytes", id="extension-outside"),
    ],
)
def test_a_volume_header_that_lies_is_refused(image: bytes, expected: str) -> None:
    if expected == "20 bytes":
        expected = "bytes of name of a volume"
    refused(image, expected)


def test_a_volume_header_with_a_wrong_sum_is_refused() -> None:
    image = bytearray(INNER)
    image[50] ^= 1
    refused(bytes(image), "whose 16-bit words add up to 0")


@pytest.mark.parametrize("rest", [b"\xff", b"\xff" * 100, b"x" * 100])
def test_what_lies_behind_the_last_volume_is_refused(rest: bytes) -> None:
    with pytest.raises(MalformedArtefact):
        volumes_of(INNER + rest)


def test_an_empty_file_holds_no_volume() -> None:
    assert volumes_of(b"") == ()


def test_bytes_in_free_space_are_refused() -> None:
    for at in range(len(INNER) - 64 + 1, len(INNER)):
        image = bytearray(INNER)
        image[at] = 0xFE
        with pytest.raises(MalformedArtefact):
            volumes_of(bytes(image))


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        pytest.param(firmware_file(DRIVER, b"x", state=0xFA), "a file that is valid", id="half-written"),
        pytest.param(firmware_file(DRIVER, b"x", state=0xE8), "a file that is valid", id="deleted"),
        pytest.param(firmware_file(DRIVER, b"x", attributes=0x01), "up to 16 MiB", id="large-in-ffs-2"),
        pytest.param(
            firmware_file(DRIVER, b"x")[:17] + b"\xab" + firmware_file(DRIVER, b"x")[18:],
            "checksum 0xaa",
            id="fixed-sum",
        ),
        pytest.param(b"x" + firmware_file(DRIVER, b"x")[1:], "bytes add up to 0", id="header-sum"),
        pytest.param(firmware_file(DRIVER, b"x", attributes=0x40)[:24] + b"y", "checksum 0x87", id="body-sum"),
    ],
)
def test_a_file_that_firmware_would_not_take_is_refused(file: bytes, expected: str) -> None:
    refused(firmware_volume(file + bytes(-len(file) % 8)), expected)


@pytest.mark.parametrize("size", [23, 4000])
def test_a_file_that_does_not_fit_is_refused(size: int) -> None:
    file = bytearray(firmware_file(DRIVER, b"x"))
    was = file[20:23]
    file[20:23] = size.to_bytes(3, "little")
    file[16] = (file[16] + sum(was) - sum(file[20:23])) & 0xFF
    refused(firmware_volume(bytes(file)), "a file inside its volume")


@pytest.mark.parametrize("size", [0, 3, 200])
def test_a_section_that_does_not_fit_is_refused(size: int) -> None:
    refused(nested(size.to_bytes(3, "little") + b"\x19" + bytes(60)), "a section inside its file")


def test_a_volume_must_fill_its_section() -> None:
    refused(nested(firmware_section(0x17, INNER + b"\0" * 8)), "a volume that fills its section")


def test_other_compression_is_refused() -> None:
    refused(nested(firmware_section(0x01, b"packed")), "plain or LZMA")
    refused(nested(lzma_section(volume_section(INNER), guid=UUID(int=7))), f"compressed with LZMA, {LZMA_GUID}")


@pytest.mark.parametrize("claimed", [len(INNER) + 3, len(INNER) + 5, 0])
def test_a_stream_of_another_size_than_it_says_is_refused(claimed: int) -> None:
    refused(nested(lzma_section(volume_section(INNER), claimed_size=claimed)), "an LZMA stream")


def test_a_stream_that_is_none_is_refused() -> None:
    section = bytearray(lzma_section(volume_section(INNER)))
    section[24] = 0xFF
    refused(nested(bytes(section)), "an LZMA stream")
    refused(nested(firmware_section(0x02, LZMA_GUID.bytes_le + pack("<HH", 24, 1) + b"short")), "LZMA")


def test_a_stream_that_ends_early_is_refused() -> None:
    section = lzma_section(volume_section(INNER))
    shorter = (len(section) - 16).to_bytes(3, "little") + section[3:-16]
    refused(nested(shorter), "an LZMA stream of")


def test_bytes_after_a_stream_are_refused() -> None:
    section = lzma_section(volume_section(INNER))
    longer = (len(section) + 8).to_bytes(3, "little") + section[3:] + b"trailing"
    refused(nested(longer), "and nothing after it")


# -- limits ------------------------------------------------------------------------------------------------------------


def test_a_file_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(TooLarge):
        volumes_of(bytes(FIRMWARE_BYTES.most + 1))


@pytest.mark.parametrize("claimed", [FIRMWARE_DECOMPRESSED_BYTES.most + 1, 2**64 - 1])
def test_a_stream_that_says_that_it_is_a_bomb_is_not_unpacked(claimed: int) -> None:
    with pytest.raises(TooLarge):
        volumes_of(nested(lzma_section(b"", claimed_size=claimed)))


def test_many_streams_together_may_not_unpack_to_more_than_one() -> None:
    part = lzma_section(firmware_section(0x19, bytes(15 * MIB)))
    fitting = FIRMWARE_DECOMPRESSED_BYTES.most // (15 * MIB + 4)
    assert len(volumes_of(nested(*[part] * fitting))) == 1
    with pytest.raises(TooLarge, match="bytes"):
        volumes_of(nested(*[part] * (fitting + 1)))


def test_a_stream_gets_the_dictionary_that_edk2_asks_for_and_not_gigabytes() -> None:
    section = bytearray(lzma_section(volume_section(INNER)))
    pack_into("<I", section, 25, 0x19000000)
    assert len(volumes_of(nested(bytes(section)))) == 2
    pack_into("<I", section, 25, 0xFFFFFFFF)
    refused(nested(bytes(section)), "an LZMA stream")


def test_volumes_nest_as_deep_as_the_limit_and_no_deeper() -> None:
    image = INNER
    for _ in range(FIRMWARE_DEPTH.most):
        image = nested(volume_section(image))
    assert len(volumes_of(image)) == FIRMWARE_DEPTH.most + 1
    with pytest.raises(TooLarge, match="levels"):
        volumes_of(nested(volume_section(image)))


def test_sections_nest_as_deep_as_the_limit_and_no_deeper() -> None:
    section = firmware_section(0x19, b"x")
    for _ in range(FIRMWARE_DEPTH.most + 1):
        section = lzma_section(section)
    with pytest.raises(TooLarge, match="levels"):
        volumes_of(nested(section))


def test_more_files_than_any_firmware_has_are_refused() -> None:
    file = firmware_file(DRIVER, b"")
    half = firmware_volume(file * (FIRMWARE_FILES.most // 2), free=0)
    assert len(volumes_of(half * 2)) == 2
    with pytest.raises(TooLarge, match="files"):
        volumes_of(half * 2 + INNER)


def test_a_truncated_firmware_file_is_refused_wherever_it_ends() -> None:
    image = firmware_image()
    ends = {0, *(len(volumes_of(image)[0].data),)}
    for end in range(len(image)):
        if end not in ends:
            with pytest.raises(MalformedArtefact):
                volumes_of(image[:end])
