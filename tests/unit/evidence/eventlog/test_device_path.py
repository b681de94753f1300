"""Device paths: the text of each kind of node, and paths that lie about their length (attack 21)."""

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final
from uuid import UUID

import pytest

from steelyard.evidence.eventlog.device_path import parse_device_path
from steelyard.model.errors import MalformedEventLog, TooLarge
from steelyard.model.limits import DEVICE_PATH_NODES
from tests.unit.evidence.eventlog.build import END, node

GUID: Final = UUID("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1")
V4: Final = IPv4Address("192.0.2.1").packed, IPv4Address("198.51.100.7").packed
V6: Final = IPv6Address("2001:db8::1").packed, IPv6Address("2001:db8::7").packed
FIELDS_24: Final = struct.pack("<IQQ", 1, 0x800, 0x12C000)


def _wide(text: str) -> bytes:
    return text.encode("utf-16-le")


NODES: Final = [
    (1, 1, bytes([2, 0x1D]), "Pci(0x1d,0x2)"),
    (1, 3, struct.pack("<IQQ", 0xB, 0x820000, 0x8FFFFF), "MemoryMapped(0xb,0x820000,0x8fffff)"),
    (1, 4, GUID.bytes_le, f"VenHw({GUID})"),
    (1, 4, GUID.bytes_le + b"\1\2", f"VenHw({GUID},0102)"),
    (1, 5, struct.pack("<I", 3), "Ctrl(0x3)"),
    (2, 1, struct.pack("<II", 0x0A0341D0, 0), "PciRoot(0x0)"),
    (2, 1, struct.pack("<II", 0x0A0841D0, 1), "PcieRoot(0x1)"),
    (2, 1, struct.pack("<II", 0x060441D0, 0), "Floppy(0x0)"),
    (2, 1, struct.pack("<II", 0x0C0241D0, 5), "Acpi(PNP0C02,0x5)"),
    (2, 1, struct.pack("<II", 0x12345678, 5), "Acpi(0x12345678,0x5)"),
    (3, 1, struct.pack("<BBH", 1, 0, 2), "Ata(Secondary,Master,0x2)"),
    (3, 2, struct.pack("<HH", 3, 4), "Scsi(0x3,0x4)"),
    (3, 5, bytes([11, 1]), "USB(0xb,0x1)"),
    (3, 10, GUID.bytes_le, f"VenMsg({GUID})"),
    (3, 11, bytes.fromhex("0cc47aff601c") + bytes(26) + b"\1", "MAC(0cc47aff601c,0x1)"),
    (3, 11, b"\1" * 32 + b"\7", f"MAC({'01' * 32},0x7)"),
    (3, 12, V4[0] + V4[1] + bytes(4) + b"\x06\0\0", "IPv4(198.51.100.7,TCP,DHCP,192.0.2.1)"),
    (
        3,
        12,
        V4[0] + V4[1] + bytes(4) + b"\x11\0\1" + V4[1] + b"\xff\xff\xff\0",
        "IPv4(198.51.100.7,UDP,Static,192.0.2.1,198.51.100.7,255.255.255.0)",
    ),
    (3, 13, V6[0] + V6[1] + bytes(4) + b"\0\0\2", "IPv6(2001:db8::7,0x0,StatefulAutoConfigure,2001:db8::1)"),
    (
        3,
        13,
        V6[0] + V6[1] + bytes(4) + b"\x06\0\x09\x40" + V6[1],
        "IPv6(2001:db8::7,TCP,0x9,2001:db8::1,2001:db8::7,64)",
    ),
    (3, 15, struct.pack("<HHBBB", 0x1234, 0xFFFF, 8, 6, 80), "UsbClass(0x1234,0xffff,0x8,0x6,0x50)"),
    (3, 18, struct.pack("<HHH", 4, 0x8000, 0), "Sata(0x4,0x8000,0x0)"),
    (3, 20, struct.pack("<H", 100), "Vlan(100)"),
    (3, 23, struct.pack("<I", 1) + bytes.fromhex("002538b941b131c0"), "NVMe(0x1,C0-31-B1-41-B9-38-25-00)"),
    (3, 24, b"https://example.org/boot.efi", "Uri(https://example.org/boot.efi)"),
    (3, 24, b"", "Uri()"),
    (3, 26, b"\2", "SD(0x2)"),
    (3, 29, b"\0", "eMMC(0x0)"),
    (4, 1, FIELDS_24 + GUID.bytes_le + b"\2\2", f"HD(1,GPT,{GUID},0x800,0x12c000)"),
    (4, 1, FIELDS_24 + b"\x78\x56\x34\x12" + bytes(12) + b"\1\1", "HD(1,MBR,0x12345678,0x800,0x12c000)"),
    (4, 1, FIELDS_24 + bytes(16) + b"\1\0", f"HD(1,0,{'00' * 16},0x800,0x12c000)"),
    (4, 2, FIELDS_24, "CDROM(0x1,0x800,0x12c000)"),
    (4, 3, GUID.bytes_le, f"VenMedia({GUID})"),
    (4, 4, _wide("\\EFI\\BOOT\\BOOTX64.EFI\0"), "\\EFI\\BOOT\\BOOTX64.EFI"),
    (4, 4, _wide("\\a\0\0"), "\\a"),
    (4, 5, GUID.bytes_le, f"Media({GUID})"),
    (4, 6, GUID.bytes_le, f"FvFile({GUID})"),
    (4, 7, GUID.bytes_le, f"Fv({GUID})"),
    (4, 8, struct.pack("<IQQ", 0, 0xF250, 0x201FF), "Offset(0xf250,0x201ff)"),
    (4, 9, struct.pack("<QQ16sH", 1, 2, GUID.bytes_le, 3), f"RamDisk(0x1,0x2,3,{GUID})"),
    (5, 1, struct.pack("<HH", 2, 1) + b"disk\0", "BBS(HD,disk,0x1)"),
    (5, 1, struct.pack("<HH", 0x81, 0) + b"\0", "BBS(0x81,,0x0)"),
    (3, 99, b"\xab\xcd", "Path(3,99,abcd)"),
    (6, 1, b"", "Path(6,1)"),
    (0x7F, 0x02, b"", "Path(127,2)"),
]


@pytest.mark.parametrize(("kind", "subkind", "data", "text"), NODES)
def test_a_node_reads_as_the_specification_writes_it(kind: int, subkind: int, data: bytes, text: str) -> None:
    path = parse_device_path(node(kind, subkind, data) + END)
    assert str(path) == text
    assert [(step.kind, step.subkind, step.data) for step in path.nodes] == [(kind, subkind, data)]


FIXED_SIZE: Final = [entry for entry in NODES if entry[0] < 5 and entry[1] not in (4, 10, 24, 99, 3) and entry[2]]


@pytest.mark.parametrize(("kind", "subkind", "data", "text"), FIXED_SIZE)
def test_a_node_of_another_size_is_refused(kind: int, subkind: int, data: bytes, text: str) -> None:
    assert text
    for other in (data[:-1], data + b"\0"):
        with pytest.raises(MalformedEventLog):
            parse_device_path(node(kind, subkind, other) + END)


def test_nodes_are_joined_and_instances_parted() -> None:
    root, card = node(2, 1, struct.pack("<II", 0x0A0341D0, 0)), node(1, 1, b"\0\6")
    assert str(parse_device_path(root + card + END)) == "PciRoot(0x0)/Pci(0x6,0x0)"
    assert str(parse_device_path(root + node(0x7F, 1) + card + END)) == "PciRoot(0x0),Pci(0x6,0x0)"


def test_no_bytes_are_a_path_without_nodes() -> None:
    assert parse_device_path(b"").nodes == ()
    assert parse_device_path(END).nodes == ()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (node(1, 1, b"\0\6"), "1 bytes of type of a node"),
        (END[:3], "2 bytes of its length"),
        (struct.pack("<BBH", 1, 1, 3) + END, "a node of at least 4 bytes; found 3"),
        (struct.pack("<BBH", 1, 1, 0) + END, "a node of at least 4 bytes; found 0"),
        (struct.pack("<BBH", 4, 4, 0xFFFF) + END, "65531 bytes of a node"),
        (END + b"\0", "nothing after the last field"),
        (END + END, "nothing after the last field"),
        (node(4, 4, b"a\0") + END, "a file path that ends in NUL"),
        (node(4, 4, _wide("\\good.efi\0\\evil.efi\0")) + END, "a file path that ends in NUL"),
        (node(4, 4, b"a\0\0") + END, "UTF-16 in a file path"),
        (node(4, 4, b"\x00\xd8\0\0") + END, "UTF-16 in a file path"),
        (node(3, 24, b"http://\xff") + END, "ASCII"),
        (node(5, 1, b"\2\0\0\0\xff") + END, "ASCII"),
    ],
)
def test_a_path_is_refused(data: bytes, expected: str) -> None:
    with pytest.raises(MalformedEventLog, match=expected):
        parse_device_path(data)


def test_a_path_of_as_many_nodes_as_the_limit_is_read_and_no_more() -> None:
    most = DEVICE_PATH_NODES.most
    assert len(parse_device_path(node(1, 1, b"\0\0") * most + END).nodes) == most
    with pytest.raises(TooLarge):
        parse_device_path(node(1, 1, b"\0\0") * (most + 1) + END)
