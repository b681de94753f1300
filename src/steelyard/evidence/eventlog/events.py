"""The measured-boot event log as it was recorded: what firmware and boot loaders say they extended PCRs with.

Nothing in here is believed. An event's type and data are words about a measurement; only `replay` ties digests to a
quote, and only `content` says which words a digest covers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from steelyard.model.algorithms import HashAlgorithm


class EventType(IntEnum):
    """TCG_EVENTTYPE. Source: TCG PC Client Platform Firmware Profile 1.06, event types."""

    EV_PREBOOT_CERT = 0x0
    EV_POST_CODE = 0x1
    EV_UNUSED = 0x2
    EV_NO_ACTION = 0x3
    EV_SEPARATOR = 0x4
    EV_ACTION = 0x5
    EV_EVENT_TAG = 0x6
    EV_S_CRTM_CONTENTS = 0x7
    EV_S_CRTM_VERSION = 0x8
    EV_CPU_MICROCODE = 0x9
    EV_PLATFORM_CONFIG_FLAGS = 0xA
    EV_TABLE_OF_DEVICES = 0xB
    EV_COMPACT_HASH = 0xC
    EV_IPL = 0xD
    EV_IPL_PARTITION_DATA = 0xE
    EV_NONHOST_CODE = 0xF
    EV_NONHOST_CONFIG = 0x10
    EV_NONHOST_INFO = 0x11
    EV_OMIT_BOOT_DEVICE_EVENTS = 0x12
    EV_POST_CODE2 = 0x13
    EV_EFI_EVENT_BASE = 0x80000000
    EV_EFI_VARIABLE_DRIVER_CONFIG = 0x80000001
    EV_EFI_VARIABLE_BOOT = 0x80000002
    EV_EFI_BOOT_SERVICES_APPLICATION = 0x80000003
    EV_EFI_BOOT_SERVICES_DRIVER = 0x80000004
    EV_EFI_RUNTIME_SERVICES_DRIVER = 0x80000005
    EV_EFI_GPT_EVENT = 0x80000006
    EV_EFI_ACTION = 0x80000007
    EV_EFI_PLATFORM_FIRMWARE_BLOB = 0x80000008
    EV_EFI_HANDOFF_TABLES = 0x80000009
    EV_EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000000A
    EV_EFI_HANDOFF_TABLES2 = 0x8000000B
    EV_EFI_VARIABLE_BOOT2 = 0x8000000C
    EV_EFI_GPT_EVENT2 = 0x8000000D
    EV_EFI_HCRTM_EVENT = 0x80000010
    EV_EFI_VARIABLE_AUTHORITY = 0x800000E0
    EV_EFI_SPDM_FIRMWARE_BLOB = 0x800000E1
    EV_EFI_SPDM_FIRMWARE_CONFIG = 0x800000E2
    EV_EFI_SPDM_DEVICE_POLICY = 0x800000E3
    EV_EFI_SPDM_DEVICE_AUTHORITY = 0x800000E4


def type_name(claimed_type: int) -> str:
    """Return the profile's name of an event type, or its number for one that the profile does not know."""
    try:
        return EventType(claimed_type).name
    except ValueError:
        return f"0x{claimed_type:08x}"


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the log.

    number        its position in the log, from 0, the header counted.
    pcr           0 to 23; for an EV_NO_ACTION also what the profile has in place of a PCR (`parse`).
    claimed_type  an EventType, or a number that the profile does not know; no digest covers it.
    digests       per algorithm that Steelyard knows, of its size; what was extended, if the type is not EV_NO_ACTION.
    data          what the one who measured said of it; covered by a digest or not, see `content`.
    """

    number: int
    pcr: int
    claimed_type: int
    digests: Mapping[HashAlgorithm, bytes]
    data: bytes


@dataclass(frozen=True, slots=True)
class SpecIdEvent:
    """TCG_EfiSpecIDEvent, the header of a crypto-agile log. Source: PC Client Platform Firmware Profile 1.06.

    version       major, minor, errata of the profile that the firmware follows; 2, 0, ... for a TPM 2.0.
    digest_sizes  TPM_ALG_ID -> bytes, in the order of the header; also of algorithms that Steelyard does not know.
    """

    platform_class: int
    version: tuple[int, int, int]
    digest_sizes: Mapping[int, int]
    vendor_info: bytes


@dataclass(frozen=True, slots=True)
class EventLog:
    """A whole log, in the order it was recorded; at least one event.

    algorithms  the known algorithms whose banks it may carry, in the header's order; an event need not have all.
    header      absent from a log in the SHA-1-only format of TPM 1.2.
    """

    events: tuple[Event, ...]
    algorithms: tuple[HashAlgorithm, ...]
    header: SpecIdEvent | None
