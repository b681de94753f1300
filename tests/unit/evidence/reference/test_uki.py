import hashlib

import pytest

from steelyard.evidence.reference.measurement import Measurement, Presence
from steelyard.evidence.reference.pe import parse_pe
from steelyard.evidence.reference.uki import measurements_of_uki
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import MalformedArtefact, TooLarge
from steelyard.model.limits import COMMAND_LINE_BYTES
from tests.artefacts import STUB_SECTIONS, Section, kernel_image, unified_image

KERNEL = kernel_image()
PASSED = {".linux": KERNEL, ".osrel": b"ID=test\n", ".cmdline": b"quiet", ".initrd": b"archive"}

MARK_254 = b"#### LoaderInfo: systemd-stub 254.26-1~bpo12+1 ####\0"
MARK_257 = b"#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####"
KNOWN_254 = (*STUB_SECTIONS, ".uname", ".sbat")
KNOWN_257 = (*KNOWN_254, ".ucode", ".profile")
"""What these stubs of Debian know, by their own strings."""


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def summary(measurements: tuple[Measurement, ...]) -> list[tuple[int, str, bytes]]:
    return [(each.pcr, each.what, each.digests[HashAlgorithm.SHA256]) for each in measurements]


def digest_of(what: str, image: bytes) -> bytes | None:
    return {each.what: each.digests[HashAlgorithm.SHA256] for each in measurements_of_uki(image)}.get(what)


def test_a_boot_measures_image_sections_kernel_command_line_and_initramfs() -> None:
    image = unified_image(PASSED)
    assert summary(measurements_of_uki(image)) == [
        (4, "EFI application", parse_pe(image).authenticode_digests()[HashAlgorithm.SHA256]),
        (11, "name of section .linux", sha256(b".linux\0")),
        (11, "section .linux", sha256(KERNEL)),
        (11, "name of section .osrel", sha256(b".osrel\0")),
        (11, "section .osrel", sha256(b"ID=test\n")),
        (11, "name of section .cmdline", sha256(b".cmdline\0")),
        (11, "section .cmdline", sha256(b"quiet")),
        (11, "name of section .initrd", sha256(b".initrd\0")),
        (11, "section .initrd", sha256(b"archive")),
        (4, "kernel in .linux", parse_pe(KERNEL).authenticode_digests()[HashAlgorithm.SHA256]),
        (9, "command line", sha256(b"q\0u\0i\0e\0t\0\0\0")),
        (9, "initramfs", sha256(b"archive")),
    ]


def test_every_believed_bank_is_computed() -> None:
    for measurement in measurements_of_uki(unified_image(PASSED)):
        assert {bank: len(digest) for bank, digest in measurement.digests.items()} == {
            HashAlgorithm.SHA256: 32,
            HashAlgorithm.SHA384: 48,
            HashAlgorithm.SHA512: 64,
        }


def test_only_the_kernel_in_pcr_4_may_be_missing() -> None:
    """With Secure Boot on, firmware does not measure what the stub vouches for; everything else comes in any case."""
    sometimes = [
        each.what for each in measurements_of_uki(unified_image(PASSED)) if each.presence is not Presence.ALWAYS
    ]
    assert sometimes == ["kernel in .linux"]


def test_sections_are_measured_in_the_stubs_order_not_in_the_files() -> None:
    backwards = dict(reversed(PASSED.items()))
    assert [what for pcr, what, _ in summary(measurements_of_uki(unified_image(backwards))) if pcr == 11] == [
        what for pcr, what, _ in summary(measurements_of_uki(unified_image(PASSED))) if pcr == 11
    ]


@pytest.mark.parametrize(
    ("mark", "knows", "measured"),
    [
        (None, STUB_SECTIONS, [".linux", ".pcrpkey"]),
        (MARK_254, KNOWN_254, [".linux", ".uname", ".sbat", ".pcrpkey"]),
        (MARK_257, KNOWN_257, [".linux", ".ucode", ".uname", ".sbat", ".pcrpkey"]),
    ],
    ids=["252", "254", "257"],
)
def test_a_section_that_the_stub_does_not_know_is_not_measured(
    mark: bytes | None, knows: tuple[str, ...], measured: list[str]
) -> None:
    passed = {".sbat": b"s", ".ucode": b"u", ".uname": b"6.1", ".pcrpkey": b"key", ".pcrsig": b"{}", ".linux": KERNEL}
    image = unified_image(passed, knows=knows) if mark is None else unified_image(passed, mark=mark, knows=knows)
    names = [what for _, what, _ in summary(measurements_of_uki(image)) if what.startswith("name of section ")]
    assert names == [f"name of section {name}" for name in measured]


def test_what_the_stub_knows_is_not_asked_of_what_it_carries() -> None:
    carried = unified_image(PASSED | {".initrd": b"a list of names: .uname\0", ".uname": b"6.1"})
    assert digest_of("section .uname", carried) is None


def test_an_older_kernel_measures_less() -> None:
    image = unified_image(PASSED | {".linux": kernel_image(describes=[b"Linux initrd\0"])})
    assert [what for pcr, what, _ in summary(measurements_of_uki(image)) if pcr == 9] == ["initramfs"]
    image = unified_image(PASSED | {".linux": kernel_image(describes=[])})
    assert [what for pcr, what, _ in summary(measurements_of_uki(image)) if pcr == 9] == []


def test_what_is_not_in_the_image_is_not_measured() -> None:
    image = unified_image({".linux": KERNEL})
    assert [what for pcr, what, _ in summary(measurements_of_uki(image)) if pcr != 11] == [
        "EFI application",
        "kernel in .linux",
    ]


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "at_252", "at_257"),
    [
        (b"quiet", "quiet", "quiet"),
        (b"quiet\n", "quiet", "quiet"),
        (b"quiet\n\0\0", "quiet", "quiet"),
        (b"  console=ttyS0\tquiet \n", "  console=ttyS0 quiet", "console=ttyS0 quiet"),
    ],
)
def test_the_kernel_gets_the_command_line_as_the_stub_cleans_it(section: bytes, at_252: str, at_257: str) -> None:
    """The last line was booted with both stubs, and the one before with 257's."""
    passed = PASSED | {".cmdline": section}
    assert digest_of("command line", unified_image(passed)) == sha256((at_252 + "\0").encode("utf-16-le"))
    image = unified_image(passed, mark=MARK_257, knows=KNOWN_257)
    assert digest_of("command line", image) == sha256((at_257 + "\0").encode("utf-16-le"))
    assert digest_of("section .cmdline", image) == sha256(section)


@pytest.mark.parametrize("section", [b"\0", b" \n", b"quiet\0splash", "quiet=\u00e9".encode(), b"quiet\x7f"])
def test_a_command_line_that_stubs_read_in_different_ways_is_refused(section: bytes) -> None:
    with pytest.raises(MalformedArtefact, match="a command line in ASCII"):
        measurements_of_uki(unified_image(PASSED | {".cmdline": section}))


def test_a_command_line_longer_than_any_is_refused() -> None:
    assert measurements_of_uki(unified_image(PASSED | {".cmdline": b"x" * COMMAND_LINE_BYTES.most}))
    with pytest.raises(TooLarge):
        measurements_of_uki(unified_image(PASSED | {".cmdline": b"x" * (COMMAND_LINE_BYTES.most + 1)}))


# -- the initramfs -----------------------------------------------------------------------------------------------------


def archive(name: bytes, content: bytes) -> bytes:
    """Return what systemd-stub passes a section on as, written out by hand for names and contents that fit."""
    directory = (
        b"070701" b"00000001" b"0000416d" b"00000000" b"00000000" b"00000001" b"00000000" b"00000000"
        b"00000000" b"00000000" b"00000000" b"00000000" b"00000007" b"00000000" b".extra\0" + bytes(3)
    )  # fmt: skip
    path = b".extra/" + name + b"\0"
    file = (
        b"070701"
        b"00000002"
        b"00008124"
        b"00000000"
        b"00000000"
        b"00000001"
        b"00000000" + b"%08x" % len(content) + b"00000000"
        b"00000000"
        b"00000000"
        b"00000000" + b"%08x" % len(path) + b"00000000" + path
    )
    trailer = (
        b"070701" b"00000000" b"00000000" b"00000000" b"00000000" b"00000001" b"00000000" b"00000000"
        b"00000000" b"00000000" b"00000000" b"00000000" b"0000000B" b"00000000" b"TRAILER!!!\0" + bytes(3)
    )  # fmt: skip
    return directory + file + bytes(-len(file) % 4) + content + bytes(-len(content) % 4) + trailer


def test_the_signature_and_its_key_are_passed_on_behind_the_initramfs() -> None:
    image = unified_image(PASSED | {".pcrpkey": b"a key", ".pcrsig": b"{}"})
    made = archive(b"tpm2-pcr-signature.json", b"{}") + archive(b"tpm2-pcr-public-key.pem", b"a key")
    assert digest_of("initramfs", image) == sha256(b"archive\0" + made)


def test_newer_stubs_put_microcode_first_and_the_os_release_last() -> None:
    image = unified_image(PASSED | {".ucode": b"microcode", ".pcrpkey": b"k"}, mark=MARK_257, knows=KNOWN_257)
    made = archive(b"tpm2-pcr-public-key.pem", b"k") + archive(b"os-release", b"ID=test\n")
    assert digest_of("initramfs", image) == sha256(b"microcode" + bytes(3) + b"archive\0" + made)


def test_older_stubs_leave_microcode_out() -> None:
    assert digest_of("initramfs", unified_image(PASSED | {".ucode": b"microcode"})) == sha256(b"archive")


# -- refusals ----------------------------------------------------------------------------------------------------------


def refused(image: bytes, expected: str, found: str = "") -> None:
    with pytest.raises(MalformedArtefact) as caught:
        measurements_of_uki(image)
    assert expected in caught.value.expected
    assert found in caught.value.found


@pytest.mark.parametrize(
    ("mark", "found"),
    [
        (b"#### LoaderInfo: systemd-stub 251 ####\0", "251"),
        (b"#### LoaderInfo: systemd-stub 258.1 ####\0", "258.1"),
        (b"#### LoaderInfo: systemd-stub 2525 ####\0", "2525"),
        (b"#### LoaderInfo: systemd-boot 252.39 ####\0", "systemd-boot"),
        (b"#### LoaderInfo: systemd-stub 252.39 ####\0 or 258", "258"),
        (b"\x1b[2J", "\\x1b"),
    ],
)
def test_a_stub_that_is_not_known_to_measure_so_is_refused(mark: bytes, found: str) -> None:
    refused(unified_image(PASSED, mark=mark), "a systemd-stub of version 252 to 257", found)


def test_an_image_without_one_stub_is_refused() -> None:
    refused(kernel_image(), "a systemd-stub", "none")
    second = Section(b".sdmagic", b"#### LoaderInfo: systemd-stub 252.39 ####\0")
    refused(unified_image(PASSED, more=[second]), "a systemd-stub", "252.39")


def test_an_image_without_a_kernel_is_refused() -> None:
    refused(unified_image({".initrd": b"archive"}), "a kernel, in .linux")
    refused(unified_image({".linux": b"ELF"}), "the magic")


@pytest.mark.parametrize("name", [".profile", ".dtbauto", ".hwids", ".efifw"])
def test_a_section_of_which_every_boot_measures_something_else_is_refused(name: str) -> None:
    refused(unified_image(PASSED | {name: b"x"}), "every boot measures alike", name)


@pytest.mark.parametrize("name", [".linux2", ".initrd1", ".sbat.x"])
def test_a_name_that_an_older_stub_takes_for_another_is_refused(name: str) -> None:
    """systemd 252 compares the beginnings of names, and takes the last that fits."""
    refused(unified_image(PASSED | {name: b"x"}), "no name that continues", name)


def test_a_section_that_is_there_twice_is_refused() -> None:
    refused(unified_image(PASSED, more=[Section(b".initrd", b"another")]), "one section .initrd", "a second")


@pytest.mark.parametrize("size", [0, 513])
def test_a_section_that_is_not_wholly_in_the_file_is_refused(size: int) -> None:
    refused(unified_image(PASSED, more=[Section(b".splash", b"x", virtual_size=size)]), "a section .splash that is in")


@pytest.mark.parametrize(("address", "size"), [(0x100, None), (0x1008, None), (0xE80, 0)])
def test_sections_that_overlap_in_memory_are_refused(address: int, size: int | None) -> None:
    """What is loaded last would be measured, and run, in place of what the file says."""
    over = Section(b".other", b"something else", virtual_address=address, virtual_size=size)
    refused(unified_image(PASSED, more=[over]), "do not overlap in memory")


def test_text_from_the_image_reaches_messages_escaped() -> None:
    refused(unified_image(PASSED, more=[Section(b".sbat\x1b[", b"x")]), "continues one", ".sbat\\x1b[")
