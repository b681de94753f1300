import hashlib
import subprocess
from collections.abc import Iterable
from pathlib import Path
from struct import pack_into, unpack_from

import pytest

from steelyard.evidence.reference.measurement import Presence
from steelyard.evidence.reference.pe import Subsystem, measurements_of_efi_application, parse_pe
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import Malformed, MalformedArtefact, TooLarge
from steelyard.model.limits import EFI_APPLICATION_BYTES, PE_SECTIONS
from tests.artefacts import PE32, PE32_PLUS, Section, pe_image
from tests.tpm import require_programs

TWO = [Section(b".text", b"code"), Section(b".data", b"data", virtual_size=0x2000)]
PE_HEADER, OPTIONAL_HEADER = 0x40, 0x58
SECTION_TABLE = OPTIONAL_HEADER + 112 + 8 * 16
SECURITY_DIRECTORY = OPTIONAL_HEADER + 112 + 8 * 4

STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
BOOT_LOADER = Path("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")


def sha256_of(image: bytes) -> bytes:
    return parse_pe(image).authenticode_digests()[HashAlgorithm.SHA256]


def changed(image: bytes, at: int, layout: str, *values: int | bytes) -> bytes:
    copy = bytearray(image)
    pack_into(layout, copy, at, *values)
    return bytes(copy)


# -- the digest --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [STUB, BOOT_LOADER, PE32, PE32_PLUS], ids=str)
def test_the_digest_is_the_one_that_is_signed(make: Path | int, tmp_path: Path) -> None:
    """sbsign puts its own digest of the image into the signature, as an octet string of 32 bytes (DigestInfo)."""
    require_programs({"sbsign": "sbsigntool", "openssl": "openssl", str(STUB): "systemd-boot-efi"})
    image, signed = tmp_path / "image.efi", tmp_path / "signed.efi"
    image.write_bytes(make.read_bytes() if isinstance(make, Path) else pe_image(TWO, magic=make))
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-noenc",
            "-subj",
            "/CN=test",
            "-keyout",
            key,
            "-out",
            certificate,
        ]
    )
    run(["sbsign", "--key", key, "--cert", certificate, "--output", signed, image])
    signature = signed.read_bytes()[image.stat().st_size :]
    assert b"\x04\x20" + sha256_of(signed.read_bytes()) in signature


def run(argv: Iterable[str | Path]) -> str:
    return subprocess.run([*argv], capture_output=True, check=True, text=True).stdout


def test_every_byte_but_checksum_and_signature_is_covered() -> None:
    image = pe_image(TWO, trailing=b"more", certificates=b"signature")
    uncovered = {
        *range(OPTIONAL_HEADER + 64, OPTIONAL_HEADER + 68),
        *range(len(image) - len(b"signature"), len(image)),
    }
    right = sha256_of(image)
    for at in range(len(image)):
        other = changed(image, at, "B", image[at] ^ 0x01)
        try:
            covered = sha256_of(other) != right
        except Malformed:
            covered = True
        assert covered == (at not in uncovered), f"byte {at}"


def test_a_signature_changes_nothing_else() -> None:
    assert sha256_of(pe_image(TWO, certificates=b"signature")) == sha256_of(pe_image(TWO))


@pytest.mark.parametrize("extra", [b"", b"x", b"thirteen more"])
def test_what_follows_the_sections_is_hashed_without_padding(extra: bytes) -> None:
    """Signing tools pad files to 8 bytes before they hash; firmware hashes the file that it has."""
    image = pe_image(TWO, trailing=extra)
    covered = (
        image[: OPTIONAL_HEADER + 64]
        + image[OPTIONAL_HEADER + 68 : SECURITY_DIRECTORY]
        + image[SECURITY_DIRECTORY + 8 :]
    )
    assert parse_pe(image).authenticode_digests() == {
        bank: hashlib.new(bank.label, covered).digest()
        for bank in (HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512)
    }


def test_an_image_without_a_security_directory_is_hashed_whole() -> None:
    image = pe_image(TWO, directories=4)
    assert sha256_of(image) == hashlib.sha256(image[: OPTIONAL_HEADER + 64] + image[OPTIONAL_HEADER + 68 :]).digest()


def test_sections_are_hashed_in_the_order_of_the_file() -> None:
    image = pe_image(TWO)
    entries = image[SECTION_TABLE : SECTION_TABLE + 80]
    swapped = image[:SECTION_TABLE] + entries[40:] + entries[:40] + image[SECTION_TABLE + 80 :]
    headers = (
        swapped[: OPTIONAL_HEADER + 64]
        + swapped[OPTIONAL_HEADER + 68 : SECURITY_DIRECTORY]
        + swapped[SECURITY_DIRECTORY + 8 :]
    )
    assert [section.name for section in parse_pe(swapped).sections] == [b".data", b".text"]
    assert sha256_of(swapped) == hashlib.sha256(headers).digest()


def test_bytes_between_sections_are_not_hashed_where_they_are() -> None:
    """The rest is counted from the sum of the sizes, so that it begins too early by the size of the gap.

    OVMF does it so: shown by a boot of an image with a gap.
    """
    image = pe_image(TWO)
    at = unpack_from("<I", image, SECTION_TABLE + 40 + 20)[0]
    gapped = changed(image[:at] + b"gap." * 128 + image[at:], SECTION_TABLE + 40 + 20, "<I", at + 512)
    headers = (
        gapped[: OPTIONAL_HEADER + 64]
        + gapped[OPTIONAL_HEADER + 68 : SECURITY_DIRECTORY]
        + gapped[SECURITY_DIRECTORY + 8 : 0x200]
    )
    text, data = gapped[at - 512 : at], gapped[at + 512 :]
    assert sha256_of(gapped) == hashlib.sha256(headers + text + data + data).digest()


@pytest.mark.parametrize(
    ("subsystem", "pcr", "what"),
    [(10, 4, "EFI application"), (11, 2, "EFI boot service driver"), (12, 2, "EFI runtime driver")],
)
def test_an_application_goes_to_pcr_4_and_a_driver_to_pcr_2(subsystem: int, pcr: int, what: str) -> None:
    image = pe_image(TWO, subsystem=subsystem)
    (measurement,) = measurements_of_efi_application(image)
    assert (measurement.pcr, measurement.what, measurement.presence) == (pcr, what, Presence.ALWAYS)
    assert measurement.digests == parse_pe(image).authenticode_digests()
    assert parse_pe(image).subsystem == Subsystem(subsystem)


def test_a_section_is_found_with_what_the_file_and_the_loader_have_of_it() -> None:
    text, data = parse_pe(pe_image(TWO)).sections
    assert (text.name, bytes(text.raw), text.virtual_size) == (b".text", b"code".ljust(512, b"\0"), 4)
    assert (data.name, data.virtual_address, data.virtual_size) == (b".data", 0x2000, 0x2000)


# -- refusals ----------------------------------------------------------------------------------------------------------

IMAGE = pe_image(TWO, certificates=b"signature")


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(b"ZM" + IMAGE[2:], 'the magic "MZ"', id="not-dos"),
        pytest.param(changed(IMAGE, 0x3C, "<I", 0xFFFFFFF0), "PE magic", id="pe-header-outside"),
        pytest.param(changed(IMAGE, PE_HEADER, "<4s", b"PE\0\1"), 'the magic "PE"', id="not-pe"),
        pytest.param(changed(IMAGE, PE_HEADER + 20, "<H", 239), "ends with its data directories", id="optional-short"),
        pytest.param(changed(IMAGE, PE_HEADER + 20, "<H", 248), "ends with its data directories", id="optional-long"),
        pytest.param(changed(IMAGE, OPTIONAL_HEADER, "<H", 0x107), "the magic of PE32", id="rom-image"),
        pytest.param(changed(IMAGE, OPTIONAL_HEADER + 68, "<H", 3), "an EFI application", id="console-program"),
        pytest.param(changed(IMAGE, OPTIONAL_HEADER + 60, "<I", SECTION_TABLE + 79), "section table", id="table-cut"),
        pytest.param(changed(IMAGE, OPTIONAL_HEADER + 60, "<I", len(IMAGE) + 1), "end in the file", id="headers-long"),
        pytest.param(changed(IMAGE, OPTIONAL_HEADER + 60, "<I", 0x201), "do not overlap", id="headers-overlap"),
        pytest.param(changed(IMAGE, SECTION_TABLE + 16, "<I", 0x10000), "inside the file", id="section-outside"),
        pytest.param(changed(IMAGE, SECTION_TABLE + 16, "<I", 0x201), "do not overlap", id="sections-overlap"),
        pytest.param(changed(IMAGE, SECURITY_DIRECTORY, "<I", 0x5FF), "ends the file", id="certificates-inside"),
        pytest.param(changed(IMAGE, SECURITY_DIRECTORY + 4, "<I", 8), "ends the file", id="certificates-short"),
        pytest.param(changed(IMAGE, SECURITY_DIRECTORY, "<II", 0x500, 0x109), "do not overlap", id="certificates-over"),
        pytest.param(pe_image(TWO, directories=17), "16 at most", id="too-many-directories"),
    ],
)
def test_a_file_that_could_be_read_in_two_ways_is_refused(image: bytes, expected: str) -> None:
    with pytest.raises(MalformedArtefact) as caught:
        parse_pe(image)
    assert expected in caught.value.expected


@pytest.mark.parametrize("image", [pe_image(TWO), pe_image(TWO, magic=PE32, certificates=b"signature")])
def test_a_truncated_file_is_refused_wherever_it_ends(image: bytes) -> None:
    for end in range(len(image)):
        with pytest.raises(MalformedArtefact):
            parse_pe(image[:end])


def test_more_sections_than_any_image_has_are_refused() -> None:
    sections = [Section(b".text", b"")] * PE_SECTIONS.most
    assert len(parse_pe(pe_image(sections)).sections) == PE_SECTIONS.most
    with pytest.raises(TooLarge):
        parse_pe(pe_image([*sections, Section(b".text", b"")]))


def test_a_file_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(TooLarge):
        parse_pe(bytes(EFI_APPLICATION_BYTES.most + 1))
