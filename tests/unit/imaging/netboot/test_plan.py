"""What is refused before anything is served."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from steelyard.imaging.netboot.answers import airlock_files, ipxe_files
from steelyard.imaging.netboot.plan import AirlockBoot, BootNetwork, DirectBoot
from steelyard.imaging.ports import IscsiAccess
from steelyard.model.errors import WrongUse
from steelyard.model.limits import COMMAND_LINE_BYTES
from steelyard.model.secret import Secret

NETWORK = BootNetwork(
    "boot", "blue", "svc0", IPv4Interface("10.8.0.1/24"), IPv4Address("10.8.0.100"), IPv4Address("10.8.0.199")
)
ACCESS = IscsiAccess(
    IPv4Address("10.8.0.1"), 3260, "iqn.2026-11.x:y", 1, "node", Secret(b"one"), "target", Secret(b"two")
)


@pytest.mark.parametrize("interface", ["", "-x", "a*", "eth0:1", "a b", "a/b", "a" * 16, "a\n", "a,b"])
def test_an_interface_is_a_name_that_means_nothing_else(interface: str) -> None:
    with pytest.raises(WrongUse):
        replace(NETWORK, interface=interface)


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("10.8.0.0", "10.8.0.99"),
        ("10.8.0.100", "10.8.0.255"),
        ("10.8.0.101", "10.8.0.100"),
        ("10.9.0.1", "10.9.0.2"),
        ("10.8.0.1", "10.8.0.9"),
    ],
)
def test_nodes_addresses_are_of_the_network_and_not_the_services_own(first: str, last: str) -> None:
    with pytest.raises(WrongUse):
        replace(NETWORK, first=IPv4Address(first), last=IPv4Address(last))


@pytest.mark.parametrize("name", ["boot.efi", "boot.ipxe", "airlock.squashfs", "parameters", "../x", "a/b", "", "é"])
def test_a_file_of_the_airlock_takes_no_other_ones_place(name: str) -> None:
    with pytest.raises(WrongUse):
        AirlockBoot(b"", {name: Path("/etc/hostname")})


def test_what_a_node_boots_is_not_what_its_other_files_say() -> None:
    files = airlock_files(AirlockBoot(b"p", {"kernel": Path("k")}), Path("image"), Path("second"))
    assert files["boot.efi"] == Path("image")
    assert files["kernel"] == Path("k")
    assert files["parameters"] == Secret(b"p")


@pytest.mark.parametrize("line", ["", " ", "quiet\n", "quiet\0", "é", "x" * (COMMAND_LINE_BYTES.most + 1)])
def test_a_command_line_is_one_line_of_ascii(line: str) -> None:
    with pytest.raises(WrongUse):
        DirectBoot(Path("kernel"), None, line, {})


@pytest.mark.parametrize("name", ["../luks.key", "a/b", "", ".hidden"])
def test_what_is_handed_over_stays_in_its_folder(name: str) -> None:
    with pytest.raises(WrongUse):
        DirectBoot(Path("kernel"), None, "quiet", {name: Secret(b"")})


@pytest.mark.parametrize("word", ["a b", "a\nsanboot x", "${net0/mac}", "a;b", "a||b", "", "a" * 224])
@pytest.mark.parametrize("field", ["target", "user", "target_user", "password", "target_password"])
def test_no_word_of_an_opening_means_anything_in_a_script(field: str, word: str) -> None:
    ipxe_files(ACCESS, Path("ipxe"))
    bad: str | Secret = Secret(word.encode()) if "password" in field else word
    with pytest.raises(WrongUse):
        ipxe_files(replace(ACCESS, **{field: bad}), Path("ipxe"))  # type: ignore[arg-type]  # which is known by name
