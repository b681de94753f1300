"""What events say by the type they claim: structures, text, and how they are shown."""

import struct
from typing import Final
from uuid import UUID

import pytest

from steelyard.evidence.eventlog.device_path import DevicePath
from steelyard.evidence.eventlog.events import EventType
from steelyard.evidence.eventlog.parse import parse_event_log
from steelyard.evidence.eventlog.partitions import PartitionTable, parse_partition_table
from steelyard.evidence.eventlog.payloads import (
    BootEntry,
    BootOrder,
    DeviceSecurity,
    FirmwareBlob,
    HandoffTables,
    Identifier,
    ImageLoad,
    NoAction,
    Opaque,
    Payload,
    Separator,
    StartupLocality,
    Tagged,
    Variable,
    Words,
    describe,
    read_payload,
)
from steelyard.evidence.eventlog.variables import UefiVariable
from steelyard.model.errors import MalformedEventLog
from tests.unit.evidence.eventlog.build import (
    END,
    GLOBAL_VARIABLE,
    SECURITY_DATABASE,
    image_load,
    node,
    sha1_event,
    single_event,
    variable,
)
from tests.vectors_dir import shared_vectors

GUID: Final = UUID("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1")
BLOB: Final = struct.pack("<QQ", 0x820000, 0xE0000)
TABLE: Final = GUID.bytes_le + struct.pack("<Q", 0x1000)
PCI: Final = node(1, 1, b"\0\6") + END


def _payload(claimed_type: int, data: bytes) -> Payload:
    return read_payload(single_event(claimed_type, data))


def _gpt(*partitions: bytes, count: int | None = None, entry_size: int = 128) -> bytes:
    head = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, 1, 99, 34, 98, GUID.bytes_le, 2, 128, 0, 0)
    head = head[:84] + struct.pack("<I", entry_size) + head[88:]
    return head + struct.pack("<Q", len(partitions) if count is None else count) + b"".join(partitions)


def _partition(name: str) -> bytes:
    return struct.pack("<16s16sQQQ72s", GUID.bytes_le, GUID.bytes_le, 34, 40, 0, name.encode("utf-16-le"))


# -- real logs ---------------------------------------------------------------------------------------------------------

_SHOWN: Final = {
    ("rk-uefi_log.bin", 1): "N3VET59W ",
    ("rk-uefi_log.bin", 2): "firmware, 3145728 bytes at 0x9b00000",
    ("rk-uefi_log.bin", 5): "variable SecureBoot of 8be4df61-93ca-11d2-aa0d-00e098032b8c: 00",
    ("rk-uefi_log.bin", 10): "separator 0x00000000",
    ("rk-uefi_log.bin", 13): "image of 119720 bytes from "
    "Fv(f0d99c58-3e06-430c-8d02-9ab88ba16120)/FvFile(9f899796-1a84-461e-9523-f1b85ce895b5)",
    ("rk-uefi_log.bin", 22): "boot order 0001, 001C, 0000, 001D, 001E, 001F, 0020, 0021, 0022, 0023, 0002",
    ("rk-uefi_log.bin", 31): "Boot0022: LENOVO CLOUD, VenMsg(bc7838d2-0f82-4d60-8316-c068ee79d25b,"
    "ad38ccbbf7edf04d959cf42aa74d3650)/Uri(https://download.lenovo.com/pccbbs/cdeploy/efi/boot.efi)",
    ("rk-uefi_log.bin", 42): "01",
    ("rk-uefi_log.bin", 43): "tables: f2fd1544-9794-4a2c-992e-e5bbcf20e394 at 0x20b5d000",
    ("rk-uefi_log.bin", 45): "partition table of disk 449eae8c-ed03-4b4b-a781-29fd01c94dcb: EFI System Partition, "
    "bc13c2ff-59e6-4262-a352-b275fd6f7172, 0fc63daf-8483-4772-8e79-3d69d8477de4",
    ("rk-uefi_log.bin", 46): "image of 949424 bytes from PciRoot(0x0)/Pci(0x2,0x4)/Pci(0x0,0x0)/"
    "NVMe(0x1,C0-31-B1-41-B9-38-25-00)/HD(1,GPT,5c79c822-f5f7-4a93-a562-08c6c424c05a,0x800,0x12c000)/"
    "\\EFI\\fedora\\shimx64.efi",
    ("rk-uefi_log.bin", 47): "MokList",
    ("rk-uefi_log.bin", 49): "variable SbatLevel of 605dab50-e046-4300-abb6-3dd810dd8b23: "
    "736261742c312c323032313033303231380a",
    ("rk-uefi_log.bin", 55): "grub_cmd: set prefix=(hd0,gpt2)/grub2",
    ("rk-uefi_log.bin", 118): "(hd0,gpt2)/vmlinuz-6.15.4-200.fc42.x86_64",
    ("ibm-dell1.log", 1): "startup at locality 3",
    ("ibm-dell1.log", 2): "Boot Guard Measured S-CRTM",
    ("ibm-dell1.log", 6): "firmware, 4988928 bytes at 0x4bca9000",
    ("ibm-dell1.log", 46): "WBCL",
    ("ibm-hp1.log", 1): "546bfb1e-1d0c-4055-a4ad-4ef4bf17b83a",
    ("ibm-sm4.log", 18): "MokList",
    ("ibm-sm4.log", 19): "image of 0 bytes",
    ("tt-event-sd-boot-fedora37.bin", 23): " console=ttyS0 console=tty0 efi=debug ",
    ("tt-event-sd-boot-fedora37.bin", 25): "Linux initrd: Linux initrd",
}


def test_events_of_recorded_logs_are_shown_as_people_write_them() -> None:
    for (name, number), shown in _SHOWN.items():
        log = parse_event_log((shared_vectors("eventlogs") / name).read_bytes())
        assert describe(log.events[number]) == shown, (name, number)


def test_every_event_of_every_recorded_log_is_readable() -> None:
    for path in sorted(shared_vectors("eventlogs").iterdir()):
        if path.suffix != ".json" and "bogus" not in path.name:
            for event in parse_event_log(path.read_bytes()).events:
                assert not describe(event).startswith("unreadable"), (path.name, event.number)


# -- each structure ----------------------------------------------------------------------------------------------------

T: Final = EventType

PAYLOADS: Final[list[tuple[int, bytes, Payload, str]]] = [
    (T.EV_EFI_ACTION, b"action", Words("action"), "action"),
    (T.EV_ACTION, b"action\0", Words("action"), "action"),
    (T.EV_IPL, ".linux\0".encode("utf-16-le"), Words(".linux"), ".linux"),
    (T.EV_IPL, b"MokList\0\xaf", Words("MokList"), "MokList"),
    (T.EV_IPL, b"a\0b\0\0", Words("ab"), "ab"),
    (T.EV_IPL, b"\1\2\3", Opaque(b"\1\2\3"), "010203"),
    (T.EV_IPL, b"\t\0\2\0\4", Opaque(b"\t\0\2\0\4"), "0900020004"),
    (T.EV_IPL, b"", Opaque(b""), "empty"),
    (T.EV_IPL, b"\xff" * 33, Opaque(b"\xff" * 33), "ff" * 32 + "... (33 bytes)"),
    (0x8401, b"\xff", Opaque(b"\xff"), "ff"),
    (T.EV_EFI_HCRTM_EVENT, b"HCRTM", Words("HCRTM"), "HCRTM"),
    (T.EV_SEPARATOR, b"\xff" * 4, Separator(0xFFFFFFFF), "separator 0xffffffff"),
    (T.EV_SEPARATOR, b"WBCL", Words("WBCL"), "WBCL"),
    (T.EV_SEPARATOR, b"\1", Opaque(b"\1"), "01"),
    (T.EV_S_CRTM_VERSION, b"v\x001\0\0\0", Words("v1"), "v1"),
    (T.EV_S_CRTM_VERSION, GUID.bytes_le, Identifier(GUID), str(GUID)),
    (T.EV_S_CRTM_VERSION, b"\0\0", Opaque(b"\0\0"), "0000"),
    (T.EV_POST_CODE, b"ACPI DATA", Words("ACPI DATA"), "ACPI DATA"),
    (T.EV_POST_CODE, BLOB, FirmwareBlob("", 0x820000, 0xE0000), "firmware, 917504 bytes at 0x820000"),
    (T.EV_S_CRTM_CONTENTS, BLOB, FirmwareBlob("", 0x820000, 0xE0000), "firmware, 917504 bytes at 0x820000"),
    (T.EV_EFI_PLATFORM_FIRMWARE_BLOB, BLOB, FirmwareBlob("", 0x820000, 0xE0000), "firmware, 917504 bytes at 0x820000"),
    (
        T.EV_EFI_PLATFORM_FIRMWARE_BLOB2,
        b"\4PEI\0" + BLOB,
        FirmwareBlob("PEI", 0x820000, 0xE0000),
        "PEI, 917504 bytes at 0x820000",
    ),
    (T.EV_POST_CODE2, b"\0" + BLOB, FirmwareBlob("", 0x820000, 0xE0000), "firmware, 917504 bytes at 0x820000"),
    (
        T.EV_EFI_HANDOFF_TABLES,
        struct.pack("<Q", 1) + TABLE,
        HandoffTables("", ((GUID, 0x1000),)),
        f"tables: {GUID} at 0x1000",
    ),
    (T.EV_EFI_HANDOFF_TABLES, bytes(8), HandoffTables("", ()), "tables: none"),
    (
        T.EV_EFI_HANDOFF_TABLES2,
        b"\6SMBIOS" + struct.pack("<Q", 1) + TABLE,
        HandoffTables("SMBIOS", ((GUID, 0x1000),)),
        f"SMBIOS: {GUID} at 0x1000",
    ),
    (
        T.EV_EFI_BOOT_SERVICES_APPLICATION,
        image_load(b"") + bytes(8) + b"\xcc",
        ImageLoad(0x7000, 0x1000, 0, DevicePath(())),
        "image of 4096 bytes",
    ),
    (
        T.EV_EFI_VARIABLE_DRIVER_CONFIG,
        variable("SecureBoot", b"\1"),
        Variable(UefiVariable(GLOBAL_VARIABLE, "SecureBoot", b"\1")),
        f"variable SecureBoot of {GLOBAL_VARIABLE}: 01",
    ),
    (
        T.EV_EFI_VARIABLE_AUTHORITY,
        variable("db", b"", SECURITY_DATABASE) + bytes(5) + b"\xaf",
        Variable(UefiVariable(SECURITY_DATABASE, "db", b"")),
        f"variable db of {SECURITY_DATABASE}: empty",
    ),
    (
        T.EV_EFI_VARIABLE_BOOT,
        variable("Boot0001", b"1", SECURITY_DATABASE),
        Variable(UefiVariable(SECURITY_DATABASE, "Boot0001", b"1")),
        f"variable Boot0001 of {SECURITY_DATABASE}: 31",
    ),
    (
        T.EV_EFI_VARIABLE_BOOT,
        variable("Boot000x", b"1"),
        Variable(UefiVariable(GLOBAL_VARIABLE, "Boot000x", b"1")),
        f"variable Boot000x of {GLOBAL_VARIABLE}: 31",
    ),
    (T.EV_EFI_VARIABLE_BOOT2, variable("BootOrder", b"\1\0\x1c\0"), BootOrder((1, 0x1C)), "boot order 0001, 001C"),
    (T.EV_EFI_VARIABLE_BOOT, variable("BootOrder", b""), BootOrder(()), "boot order empty"),
    (
        T.EV_EVENT_TAG,
        struct.pack("<II", 0x8F3B22ED, 5) + b"words",
        Tagged(0x8F3B22ED, Words("words")),
        "Linux load options: words",
    ),
    (
        T.EV_EVENT_TAG,
        struct.pack("<II", 0xF5BC582A, 4) + b"a\0\0\0",
        Tagged(0xF5BC582A, Words("a")),
        "systemd-boot loader.conf: a",
    ),
    (T.EV_EVENT_TAG, struct.pack("<II", 7, 1) + b"\1", Tagged(7, Opaque(b"\1")), "tag 0x00000007: 01"),
    (
        T.EV_EFI_SPDM_FIRMWARE_BLOB,
        b"SPDM Device Sec\0\1\0" + bytes(10),
        DeviceSecurity(1, None),
        "SPDM measurement of a device",
    ),
    (T.EV_NO_ACTION, b"StartupLocality\0\3", StartupLocality(3), "startup at locality 3"),
    (T.EV_NO_ACTION, b"StartupLocality\0", NoAction("StartupLocality", b""), "StartupLocality, 0 bytes"),
    (T.EV_NO_ACTION, b"SP800-155 Event3data", NoAction("SP800-155 Event3", b"data"), "SP800-155 Event3, 4 bytes"),
]


@pytest.mark.parametrize(("claimed_type", "data", "payload", "shown"), PAYLOADS)
def test_a_payload_is_read_and_shown(claimed_type: int, data: bytes, payload: Payload, shown: str) -> None:
    event = single_event(claimed_type, data)
    assert read_payload(event) == payload
    assert describe(event) == shown


def test_a_header_is_shown_by_its_signature() -> None:
    log = parse_event_log(sha1_event(0, T.EV_NO_ACTION, b"Spec ID Event02\0..."))
    assert describe(log.events[0]) == "Spec ID Event02, 3 bytes"


@pytest.mark.parametrize(
    "claimed_type",
    [T.EV_EFI_BOOT_SERVICES_APPLICATION, T.EV_EFI_BOOT_SERVICES_DRIVER, T.EV_EFI_RUNTIME_SERVICES_DRIVER],
)
def test_an_image_is_shown_with_its_path(claimed_type: EventType) -> None:
    payload = _payload(claimed_type, image_load(PCI))
    assert isinstance(payload, ImageLoad)
    assert (payload.address, payload.size, str(payload.path)) == (0x7000, 0x1000, "Pci(0x6,0x0)")
    assert str(payload) == "image of 4096 bytes from Pci(0x6,0x0)"


def test_a_boot_entry_is_shown_with_its_paths() -> None:
    option = struct.pack("<IH", 0, 2 * len(PCI)) + "Linux\0".encode("utf-16-le") + PCI + PCI
    payload = _payload(T.EV_EFI_VARIABLE_BOOT, variable("Boot00AF", option))
    assert isinstance(payload, BootEntry)
    assert str(payload) == "Boot00AF (inactive): Linux, Pci(0x6,0x0) or Pci(0x6,0x0)"


def test_a_device_of_spdm_version_2_is_shown_with_its_path() -> None:
    data = b"SPDM Device Sec2\2\0" + bytes(26) + struct.pack("<Q", len(PCI)) + PCI + b"measurements"
    payload = _payload(T.EV_EFI_SPDM_FIRMWARE_CONFIG, data)
    assert str(payload) == "SPDM measurement of Pci(0x6,0x0)"


@pytest.mark.parametrize("claimed_type", [T.EV_EFI_SPDM_DEVICE_POLICY, T.EV_EFI_SPDM_DEVICE_AUTHORITY])
def test_the_policy_of_spdm_is_a_variable(claimed_type: EventType) -> None:
    assert isinstance(_payload(claimed_type, variable("devdb", b"")), Variable)


@pytest.mark.parametrize("claimed_type", [T.EV_EFI_GPT_EVENT, T.EV_EFI_GPT_EVENT2])
def test_a_partition_table_names_its_disk_and_partitions(claimed_type: EventType) -> None:
    table = _payload(claimed_type, _gpt(_partition("boot"), _partition(""), bytes(128)))
    assert isinstance(table, PartitionTable)
    assert [(part.name, part.kind, part.first, part.last) for part in table.partitions] == [
        ("boot", GUID, 34, 40),
        ("", GUID, 34, 40),
    ]
    assert str(table) == f"partition table of disk {GUID}: boot, {GUID}"


def test_a_partition_table_may_have_larger_entries_and_none() -> None:
    assert parse_partition_table(_gpt(_partition("a") + bytes(128), entry_size=256)).partitions[0].name == "a"
    assert str(parse_partition_table(_gpt())) == f"partition table of disk {GUID}: no partition"


# -- attack 21 and others: data that is not what its type makes it -----------------------------------------------------


@pytest.mark.parametrize(
    ("claimed_type", "data", "expected"),
    [
        (T.EV_EFI_GPT_EVENT, b"EFI PARD" + _gpt()[8:], "signature"),
        (T.EV_EFI_GPT_EVENT, _gpt(_partition("a"), count=2), "2 entries of 128 bytes"),
        (T.EV_EFI_GPT_EVENT, _gpt(_partition("a"), count=0), "0 entries of 128 bytes"),
        (T.EV_EFI_GPT_EVENT, _gpt(count=(1 << 64) - 1), "18446744073709551615 entries"),
        (T.EV_EFI_GPT_EVENT, _gpt(entry_size=127), "entries of 128 to 4096 bytes"),
        (T.EV_EFI_GPT_EVENT, _gpt(entry_size=0, count=(1 << 64) - 1), "entries of 128 to 4096 bytes"),
        (T.EV_EFI_GPT_EVENT, _gpt(_partition("a")[:56] + b"\x00\xd8" + bytes(70)), "name in UTF-16"),
        (T.EV_EFI_BOOT_SERVICES_DRIVER, image_load(PCI, path_size=len(PCI) + 1), "bytes of device path"),
        (T.EV_EFI_BOOT_SERVICES_DRIVER, image_load(PCI[:-4]), "type of a node"),
        (T.EV_EFI_BOOT_SERVICES_DRIVER, bytes(31), "size of the device path"),
        (T.EV_EFI_PLATFORM_FIRMWARE_BLOB, BLOB + b"!", "nothing after the last field"),
        (T.EV_EFI_PLATFORM_FIRMWARE_BLOB2, b"\xffPEI" + BLOB, "255 bytes of description"),
        (T.EV_EFI_PLATFORM_FIRMWARE_BLOB2, b"\0" + BLOB + b"!", "nothing after the last field"),
        (T.EV_EFI_HANDOFF_TABLES, struct.pack("<Q", 1 << 60) + TABLE, "tables of 24 bytes"),
        (T.EV_EFI_HANDOFF_TABLES2, b"\0" + bytes(8) + b"!", "0 tables of 24 bytes"),
        (T.EV_EVENT_TAG, struct.pack("<II", 7, 2) + b"\1", "2 bytes of taggedEventData"),
        (T.EV_EVENT_TAG, struct.pack("<II", 7, 0) + b"\1", "nothing after the last field"),
        (T.EV_EFI_VARIABLE_BOOT, variable("BootOrder", b"\1"), "16-bit numbers"),
        (T.EV_EFI_VARIABLE_BOOT, variable("Boot0000", b"\1"), "attributes"),
        (T.EV_EFI_VARIABLE_DRIVER_CONFIG, b"short", "32 bytes before the name"),
        (T.EV_EFI_SPDM_FIRMWARE_BLOB, b"SPDM Device Sec3\2\0", "signature SPDM"),
    ],
)
def test_data_of_another_shape_is_refused_and_said_to_be_unreadable(
    claimed_type: EventType, data: bytes, expected: str
) -> None:
    event = single_event(claimed_type, data)
    with pytest.raises(MalformedEventLog, match=expected):
        read_payload(event)
    assert describe(event).startswith("unreadable (reading ")


def test_too_long_a_path_is_said_to_be_unreadable() -> None:
    event = single_event(T.EV_EFI_BOOT_SERVICES_DRIVER, image_load(node(1, 1, b"\0\0") * 65 + END))
    assert describe(event).startswith("unreadable (reading a device path: expected at most 64 nodes")
