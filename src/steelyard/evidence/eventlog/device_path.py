"""UEFI device paths: where firmware found an image, in the text form that boot entries and firmware menus use.

Source: UEFI Specification 2.10, sections 10.3 (nodes) and 10.6.1 (text).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final
from uuid import UUID

from steelyard.evidence.reader import LittleEndianReader
from steelyard.model.errors import MalformedEventLog, TooLarge
from steelyard.model.limits import DEVICE_PATH_NODES

_DOING: Final = "reading a device path"

_END: Final = 0x7F
_END_OF_INSTANCE: Final = 0x01
_END_OF_PATH: Final = 0xFF

_ATTACHMENTS: Final = {0x0301: "Keyboard", 0x0401: "ParallelPort", 0x0501: "Serial", 0x0604: "Floppy"}
_ROOTS: Final = {0x0A03: "PciRoot", 0x0A08: "PcieRoot"}
_EISA_PNP: Final = 0x41D0
"""The letters PNP in the low half of an EISA id; the product number is the high half."""
_IP_PROTOCOLS: Final = {6: "TCP", 17: "UDP"}
_IPV6_ORIGINS: Final = ("Static", "StatelessAutoConfigure", "StatefulAutoConfigure")
_BBS_DEVICES: Final = {1: "Floppy", 2: "HD", 3: "CDROM", 4: "PCMCIA", 5: "USB", 6: "Network"}
_MBR_SIGNATURE: Final = 1
_GPT_SIGNATURE: Final = 2


@dataclass(frozen=True, slots=True)
class DevicePathNode:
    """One step of a path; `text` is its text form, of any characters that an attacker likes."""

    kind: int
    subkind: int
    data: bytes
    text: str


@dataclass(frozen=True, slots=True)
class DevicePath:
    """The nodes from the root to the file, the end node left out; several instances are parted by an end node."""

    nodes: tuple[DevicePathNode, ...]

    def __str__(self) -> str:
        return "/".join(node.text for node in self.nodes).replace("/,/", ",")


def parse_device_path(data: bytes) -> DevicePath:
    """Return the one device path that `data` is, whole; no bytes at all are a path without nodes, as an image has that
    was loaded from memory.

    Raises MalformedEventLog, TooLarge.
    """
    reader = LittleEndianReader(data, _DOING, MalformedEventLog)
    path = read_device_path(reader) if data else DevicePath(())
    reader.end()
    return path


def read_device_path(reader: LittleEndianReader) -> DevicePath:
    """Return the device path at the reader's position, its end node read over. Raises MalformedEventLog, TooLarge."""
    nodes: list[DevicePathNode] = []
    while True:
        if len(nodes) > DEVICE_PATH_NODES.most:
            raise TooLarge(_DOING, expected=f"at most {DEVICE_PATH_NODES.most} nodes", found="more")
        kind, subkind, length = reader.u8("type of a node"), reader.u8("sub-type of a node"), reader.u16("its length")
        if length < 4:
            raise reader.wrong("a node of at least 4 bytes", f"{length}")
        data = reader.take(length - 4, "a node")
        if kind == _END and subkind == _END_OF_PATH:
            return DevicePath(tuple(nodes))
        nodes.append(DevicePathNode(kind, subkind, data, _text(kind, subkind, data)))


# -- text of each node -------------------------------------------------------------------------------------------------


def _text(kind: int, subkind: int, data: bytes) -> str:
    write = _WRITERS.get((kind, subkind))
    if write is None:
        return f"Path({kind},{subkind}{',' if data else ''}{data.hex()})"
    reader = LittleEndianReader(data, f"{_DOING}, node of type {kind}, sub-type {subkind}", MalformedEventLog)
    text = write(reader)
    reader.end()
    return text


def _guid(reader: LittleEndianReader) -> UUID:
    return UUID(bytes_le=reader.take(16, "GUID"))


def _pci(reader: LittleEndianReader) -> str:
    function, device = reader.u8("function"), reader.u8("device")
    return f"Pci(0x{device:x},0x{function:x})"


def _memory_mapped(reader: LittleEndianReader) -> str:
    return f"MemoryMapped(0x{reader.u32('type'):x},0x{reader.u64('start'):x},0x{reader.u64('end'):x})"


def _vendor(name: str) -> Callable[[LittleEndianReader], str]:
    def write(reader: LittleEndianReader) -> str:
        guid, data = _guid(reader), reader.rest()
        return f"{name}({guid}{',' if data else ''}{data.hex()})"

    return write


def _controller(reader: LittleEndianReader) -> str:
    return f"Ctrl(0x{reader.u32('controller'):x})"


def _acpi(reader: LittleEndianReader) -> str:
    hid, uid = reader.u32("HID"), reader.u32("UID")
    product = hid >> 16
    if hid & 0xFFFF != _EISA_PNP:
        return f"Acpi(0x{hid:08x},0x{uid:x})"
    name = _ROOTS.get(product) or _ATTACHMENTS.get(product)
    return f"{name}(0x{uid:x})" if name else f"Acpi(PNP{product:04X},0x{uid:x})"


def _ata(reader: LittleEndianReader) -> str:
    channel = "Secondary" if reader.u8("channel") else "Primary"
    drive = "Slave" if reader.u8("drive") else "Master"
    return f"Ata({channel},{drive},0x{reader.u16('LUN'):x})"


def _scsi(reader: LittleEndianReader) -> str:
    return f"Scsi(0x{reader.u16('target'):x},0x{reader.u16('LUN'):x})"


def _usb(reader: LittleEndianReader) -> str:
    return f"USB(0x{reader.u8('port'):x},0x{reader.u8('interface'):x})"


def _mac(reader: LittleEndianReader) -> str:
    address, kind = reader.take(32, "MAC address"), reader.u8("interface type")
    # The field is 32 bytes for all; Ethernet (0 is "other", as many firmwares log it) uses the first 6.
    used = address[:6] if kind in (0, 1) else address
    return f"MAC({used.hex()},0x{kind:x})"


def _ipv4(reader: LittleEndianReader) -> str:
    local, remote = IPv4Address(reader.take(4, "local IP")), IPv4Address(reader.take(4, "remote IP"))
    reader.take(4, "ports")
    protocol = _ip_protocol(reader)
    origin = "Static" if reader.u8("whether static") else "DHCP"
    text = f"IPv4({remote},{protocol},{origin},{local}"
    if reader.remaining:
        text += f",{IPv4Address(reader.take(4, 'gateway'))},{IPv4Address(reader.take(4, 'subnet mask'))}"
    return text + ")"


def _ipv6(reader: LittleEndianReader) -> str:
    local, remote = IPv6Address(reader.take(16, "local IP")), IPv6Address(reader.take(16, "remote IP"))
    reader.take(4, "ports")
    protocol, origin = _ip_protocol(reader), reader.u8("origin of the address")
    named = _IPV6_ORIGINS[origin] if origin < len(_IPV6_ORIGINS) else f"0x{origin:x}"
    text = f"IPv6({remote},{protocol},{named},{local}"
    if reader.remaining:
        prefix = reader.u8("length of the prefix")
        text += f",{IPv6Address(reader.take(16, 'gateway'))},{prefix}"
    return text + ")"


def _ip_protocol(reader: LittleEndianReader) -> str:
    protocol = reader.u16("protocol")
    return _IP_PROTOCOLS.get(protocol, f"0x{protocol:x}")


def _usb_class(reader: LittleEndianReader) -> str:
    vendor, product = reader.u16("vendor"), reader.u16("product")
    classes = ",".join(f"0x{reader.u8('class'):x}" for _ in range(3))
    return f"UsbClass(0x{vendor:x},0x{product:x},{classes})"


def _sata(reader: LittleEndianReader) -> str:
    return f"Sata(0x{reader.u16('port'):x},0x{reader.u16('multiplier'):x},0x{reader.u16('LUN'):x})"


def _vlan(reader: LittleEndianReader) -> str:
    return f"Vlan({reader.u16('VLAN')})"


def _nvme(reader: LittleEndianReader) -> str:
    namespace, eui = reader.u32("namespace"), reader.take(8, "EUI-64")
    return f"NVMe(0x{namespace:x},{eui[::-1].hex('-').upper()})"


def _uri(reader: LittleEndianReader) -> str:
    return f"Uri({_ascii(reader, reader.rest())})"


def _sd(name: str) -> Callable[[LittleEndianReader], str]:
    return lambda reader: f"{name}(0x{reader.u8('slot'):x})"


def _hard_drive(reader: LittleEndianReader) -> str:
    number, start, size = reader.u32("partition"), reader.u64("start"), reader.u64("size")
    signature = reader.take(16, "signature")
    reader.u8("format")
    kind = reader.u8("type of signature")
    if kind == _GPT_SIGNATURE:
        named = f"GPT,{UUID(bytes_le=signature)}"
    elif kind == _MBR_SIGNATURE:
        named = f"MBR,0x{int.from_bytes(signature[:4], 'little'):08x}"
    else:
        named = f"{kind},{signature.hex()}"
    return f"HD({number},{named},0x{start:x},0x{size:x})"


def _cd_rom(reader: LittleEndianReader) -> str:
    return f"CDROM(0x{reader.u32('boot entry'):x},0x{reader.u64('start'):x},0x{reader.u64('size'):x})"


def _file_path(reader: LittleEndianReader) -> str:
    data = reader.rest()
    try:
        text = data.decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise reader.wrong("UTF-16 in a file path", data.hex()) from error
    name, nul, rest = text.partition("\0")
    # Something after the NUL would be a part of the path that no firmware reads and every reader of text sees.
    if not nul or rest.strip("\0"):
        raise reader.wrong("a file path that ends in NUL", text)
    return name


def _named_guid(name: str) -> Callable[[LittleEndianReader], str]:
    return lambda reader: f"{name}({_guid(reader)})"


def _offset(reader: LittleEndianReader) -> str:
    reader.u32("reserved")
    return f"Offset(0x{reader.u64('start'):x},0x{reader.u64('end'):x})"


def _ram_disk(reader: LittleEndianReader) -> str:
    start, end, kind = reader.u64("start"), reader.u64("end"), _guid(reader)
    return f"RamDisk(0x{start:x},0x{end:x},{reader.u16('instance')},{kind})"


def _bbs(reader: LittleEndianReader) -> str:
    kind, status = reader.u16("device type"), reader.u16("status")
    description = _ascii(reader, reader.rest().split(b"\0", 1)[0])
    return f"BBS({_BBS_DEVICES.get(kind, f'0x{kind:x}')},{description},0x{status:x})"


def _ascii(reader: LittleEndianReader, data: bytes) -> str:
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        raise reader.wrong("ASCII", data.hex()) from error


_WRITERS: Final[Mapping[tuple[int, int], Callable[[LittleEndianReader], str]]] = {
    (1, 1): _pci,
    (1, 3): _memory_mapped,
    (1, 4): _vendor("VenHw"),
    (1, 5): _controller,
    (2, 1): _acpi,
    (3, 1): _ata,
    (3, 2): _scsi,
    (3, 5): _usb,
    (3, 10): _vendor("VenMsg"),
    (3, 11): _mac,
    (3, 12): _ipv4,
    (3, 13): _ipv6,
    (3, 15): _usb_class,
    (3, 18): _sata,
    (3, 20): _vlan,
    (3, 23): _nvme,
    (3, 24): _uri,
    (3, 26): _sd("SD"),
    (3, 29): _sd("eMMC"),
    (4, 1): _hard_drive,
    (4, 2): _cd_rom,
    (4, 3): _vendor("VenMedia"),
    (4, 4): _file_path,
    (4, 5): _named_guid("Media"),
    (4, 6): _named_guid("FvFile"),
    (4, 7): _named_guid("Fv"),
    (4, 8): _offset,
    (4, 9): _ram_disk,
    (5, 1): _bbs,
    (_END, _END_OF_INSTANCE): lambda _: ",",
}
"""By type and sub-type; what is not in here is written as Path(type,sub-type,data), as the specification has it."""
