"""Whatever is in an artefact, its parser returns or raises its own error, and costs no more than the limits allow.

Right artefacts are damaged in a few places, as random bytes get no further than the first magic. Where a checksum or
compression would stop the damage at the door, it is done behind that door.
"""

from collections.abc import Callable

from hypothesis import example, given
from hypothesis import strategies as st

from steelyard.evidence.eventlog.variables import UefiVariable
from steelyard.evidence.reference.debian import files_of_package
from steelyard.evidence.reference.firmware import measurements_of_firmware
from steelyard.evidence.reference.pe import measurements_of_efi_application
from steelyard.evidence.reference.secureboot import (
    measurements_of_authorities,
    measurements_of_secure_boot,
    secure_boot_variables,
)
from steelyard.evidence.reference.uki import measurements_of_uki
from steelyard.evidence.reference.variables import variables_of_firmware_store
from steelyard.evidence.reference.volumes import volumes_of
from steelyard.model.errors import MalformedArtefact, TooLarge
from tests.artefacts import (
    DRIVER,
    DXE_VOLUME,
    IMAGE,
    OWNER,
    PE32,
    PEI_VOLUME,
    SEC_VOLUME,
    SHA256_HASH,
    TAR_END,
    X509,
    Section,
    blank_store,
    debian_package,
    firmware_file,
    firmware_image,
    firmware_section,
    firmware_volume,
    fix_volume_checksum,
    gzipped,
    kernel_image,
    lzma_section,
    pe_image,
    signature_list,
    stored_variable,
    tar_member,
    unified_image,
    volume_section,
    write_store,
)

INTERESTING = st.sampled_from(
    [
        b"\0",
        b"\xff",
        b"\x7f",
        b"\x80",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\xff\xff\xff\x7f",
        b"\0\0\0\x80",
        b"\0\2\0\0",
    ]
)


@st.composite
def damaged(draw: st.DrawFn, base: bytes) -> bytes:
    """Draw `base` with bytes replaced, taken out or put in, and perhaps cut."""
    data = bytearray(base)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        put = draw(INTERESTING | st.binary(max_size=8))
        taken = draw(st.sampled_from([len(put), len(put), len(put), 0, 1, 64]))
        data[at : at + taken] = put
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data)


def returns_or_refuses(parse: Callable[[bytes], object], data: bytes) -> None:
    try:
        parse(data)
    except (MalformedArtefact, TooLarge) as refusal:
        message = str(refusal)
    else:
        return
    assert message.isascii()
    assert message.isprintable()


# -- EFI applications --------------------------------------------------------------------------------------------------

APPLICATION = pe_image(
    [Section(b".text", b"code"), Section(b".data", b"data")], trailing=b"more", certificates=b"signed"
)
OLD_APPLICATION = pe_image([Section(b".text", b"code")], magic=PE32, directories=4)
UNIFIED = unified_image(
    {".linux": kernel_image(), ".osrel": b"ID=x", ".cmdline": b"quiet\n", ".initrd": b"abc", ".pcrsig": b"{}"}
)


@given(st.binary(max_size=600) | damaged(APPLICATION) | damaged(OLD_APPLICATION))
@example(b"MZ".ljust(0x3C, b"\0") + b"\xf0\xff\xff\xff")
def test_efi_applications(data: bytes) -> None:
    returns_or_refuses(measurements_of_efi_application, data)


@given(damaged(UNIFIED))
def test_unified_images(data: bytes) -> None:
    returns_or_refuses(measurements_of_uki, data)


@given(
    kernel=damaged(kernel_image()),
    command_line=st.binary(max_size=40),
    mark=damaged(b"#### LoaderInfo: systemd-stub 257.13-1 ####"),
    more=st.lists(
        st.builds(
            Section,
            st.sampled_from(
                [b".linux", b".initrd", b".sbat", b".ucode", b".pcrpkey", b".dtb", b".profile", b".linux2"]
            ),
            st.binary(max_size=20),
            st.none() | st.integers(0, 2**32 - 1),
            st.none() | st.integers(0, 2**32 - 1),
        ),
        max_size=3,
    ),
)
def test_unified_images_of_any_sections(kernel: bytes, command_line: bytes, mark: bytes, more: list[Section]) -> None:
    passed = {".linux": kernel, ".cmdline": command_line}
    returns_or_refuses(measurements_of_uki, unified_image(passed, mark=mark, more=more))


# -- firmware ----------------------------------------------------------------------------------------------------------


def measure_firmware(data: bytes) -> object:
    return measurements_of_firmware(data, "")


@given(st.binary(max_size=200) | damaged(firmware_image()))
def test_firmware_files(data: bytes) -> None:
    returns_or_refuses(measure_firmware, data)


SECTIONS = firmware_section(0x19, b"filler") + volume_section(PEI_VOLUME) + volume_section(DXE_VOLUME)


@given(damaged(SECTIONS))
def test_what_is_compressed_in_firmware_files(sections: bytes) -> None:
    image = firmware_volume(firmware_file(IMAGE, lzma_section(sections))) + SEC_VOLUME
    returns_or_refuses(measure_firmware, image)


@given(damaged(firmware_volume(firmware_file(IMAGE, SECTIONS) + firmware_file(DRIVER, b"x"), extension=b"e")))
def test_volumes_whose_checksum_is_right(data: bytes) -> None:
    volume = bytearray(data)
    if len(volume) >= 72:
        fix_volume_checksum(volume)
    returns_or_refuses(volumes_of, bytes(volume))


@given(sections=damaged(SECTIONS), kind=st.sampled_from([0x0B, 0x05]), claimed=st.none() | st.integers(0, 2**64 - 1))
def test_sections_in_sections(sections: bytes, kind: int, claimed: int | None) -> None:
    packed = lzma_section(lzma_section(sections, claimed_size=claimed))
    returns_or_refuses(volumes_of, firmware_volume(firmware_file(kind, packed + sections)))


# -- variables ---------------------------------------------------------------------------------------------------------

LISTS = signature_list(X509, [b"certificate"]) + signature_list(SHA256_HASH, [b"1" * 32, b"2" * 32])
VARIABLES = b"".join(
    stored_variable(UefiVariable(OWNER, name, value), state=state)
    for name, value, state in [("a", b"1", 0x3F), ("bc", LISTS, 0x3E), ("bc", b"", 0x3C), ("d", b"4", 0x3F)]
)


def measure_store(data: bytes) -> object:
    variables = secure_boot_variables(variables_of_firmware_store(data))
    return measurements_of_secure_boot(variables), measurements_of_authorities(variables.db or b"")


@given(st.binary(max_size=200) | damaged(write_store(blank_store(0x400), [VARIABLES])))
def test_variable_stores(data: bytes) -> None:
    returns_or_refuses(measure_store, data)


@given(damaged(VARIABLES))
def test_variables_in_a_store(variables: bytes) -> None:
    returns_or_refuses(measure_store, write_store(blank_store(0x800), [variables]))


@given(st.binary(max_size=100) | damaged(LISTS))
def test_signature_lists(data: bytes) -> None:
    returns_or_refuses(measurements_of_authorities, data)


# -- packages ----------------------------------------------------------------------------------------------------------

MEMBERS = [
    tar_member(b"./", kind=b"5"),
    tar_member(b"././@LongLink", b"./usr/long\0", kind=b"L"),
    tar_member(b"./usr/lo", b"content"),
    tar_member(b"./bin/a", b"x" * 600),
    tar_member(b"./bin/b", kind=b"1", target=b"./bin/a"),
]


@given(st.binary(max_size=200) | damaged(debian_package(MEMBERS)))
def test_packages(data: bytes) -> None:
    returns_or_refuses(files_of_package, data)


@given(damaged(b"".join(MEMBERS) + TAR_END), st.sampled_from([b"data.tar.gz", b"data.tar"]))
def test_archives_in_packages(archive: bytes, name: bytes) -> None:
    pack_with = gzipped if name.endswith(b"gz") else bytes
    returns_or_refuses(files_of_package, debian_package([], name=name, pack_with=lambda _: pack_with(archive)))


@given(
    st.lists(
        st.builds(
            lambda name, content, kind, size: tar_member(name, content, kind=kind, size=size, target=name),
            st.sampled_from([b"./a", b"./b/a", b"/a", b"", b"././@LongLink"]) | st.binary(max_size=100),
            st.binary(max_size=600),
            st.sampled_from([b"0", b"\0", b"1", b"2", b"5", b"L", b"K", b"x", b"S"]),
            st.none() | st.sampled_from([b"00000000000\0", b"77777777777\0", b"\x80" + b"\xff" * 11, b"\xff" * 12]),
        ),
        max_size=4,
    )
)
def test_archives_of_any_members(members: list[bytes]) -> None:
    returns_or_refuses(files_of_package, debian_package(members, name=b"data.tar", pack_with=bytes))


@given(damaged(gzipped(b"".join(MEMBERS) + TAR_END)))
def test_streams_in_packages(stream: bytes) -> None:
    returns_or_refuses(files_of_package, debian_package([], name=b"data.tar.gz", pack_with=lambda _: stream))
