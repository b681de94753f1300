"""EDK2 firmware as QEMU runs it (OVMF): what it measures of itself into PCR 0, as far as its file can tell.

Its first code, which lies in the file as it is, unpacks two volumes into memory and starts the first. That one, the PEI
volume, measures both: by then it has changed itself, in ways that depend on the machine's shape (the number of
processors, their address width, and with sleep states the size of memory). Its value therefore comes from a boot of
such a machine that the verifier's owner ran. The other one, the DXE volume, with all drivers, measures to what is in
the file. The first code is measured by nobody; who can change it has the machine, and everything it will ever say.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from steelyard.evidence.eventlog.content import separator_value
from steelyard.evidence.eventlog.replay import ReplayedLog
from steelyard.evidence.reference.banks import digests_of
from steelyard.evidence.reference.measurement import Measurement, Presence
from steelyard.evidence.reference.volumes import DXE_CORE, PEI_CORE, SECURITY_CORE, Volume, volumes_of
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import LogRejected, MalformedArtefact

_DOING: Final = "reading an OVMF firmware file"
_DOING_BOOT: Final = "taking the firmware's remaining measurement from a reference boot"
_PCR: Final = 0


@dataclass(frozen=True, slots=True)
class PatchedVolume:
    """A volume that the firmware changes in memory before it measures it, so that its file does not tell the digest.

    size_bytes       as the log's event says too.
    digests_in_file  of the volume as it is in the file: tells one build from another, and is never measured.
    """

    what: str
    size_bytes: int
    digests_in_file: Mapping[HashAlgorithm, bytes]


@dataclass(frozen=True, slots=True)
class FirmwareMeasurements:
    """What a firmware file tells of PCR 0, and what a reference boot has to."""

    computed: tuple[Measurement, ...]
    patched: PatchedVolume


def measurements_of_firmware(image: bytes, version: str) -> FirmwareMeasurements:
    """Return what OVMF measures of itself, in the order in which it does.

    image    the firmware's code, with or without its variables.
    version  what it was built to call itself; Debian 12's has none, "", Debian 13's is as its package's.

    Raises MalformedArtefact, also for firmware that is put together otherwise; TooLarge.
    Source: TCG PC Client Platform Firmware Profile 1.06, section 10.4.1 (EV_S_CRTM_VERSION,
    EV_EFI_PLATFORM_FIRMWARE_BLOB); EDK2, SecurityPkg/Tcg/Tcg2Pei.
    """
    volumes = volumes_of(image)
    _the_one(SECURITY_CORE, "uncompressed", [volume for volume in volumes if volume.depth == 0])
    unpacked = [volume for volume in volumes if volume.depth > 0]
    pei = _the_one(PEI_CORE, "compressed", unpacked)
    dxe = _the_one(DXE_CORE, "compressed", unpacked)
    return FirmwareMeasurements(
        (
            Measurement(_PCR, "firmware version", Presence.ALWAYS, digests_of(_utf_16(version + "\0"))),
            Measurement(_PCR, "DXE volume", Presence.ALWAYS, digests_of(dxe.data)),
        ),
        PatchedVolume("PEI volume", len(pei.data), digests_of(pei.data)),
    )


def measurements_from_reference_boot(log: ReplayedLog, firmware: FirmwareMeasurements) -> tuple[Measurement, ...]:
    """Return the one measurement that the firmware's file does not tell, in the one bank that the log was replayed in.

    log  replayed to the quote of a machine of the class in question, which the verifier's owner started with this very
         firmware file, and trusts; never the node that is judged.

    1. Everything that the file does tell is in PCR 0, once: it is this firmware that ran.
    2. Besides it and separators there is one event only, and it is about a volume of the right size.

    Raises LogRejected.
    """
    expected = {measurement.digests[log.bank]: measurement.what for measurement in firmware.computed}
    measured = [
        event for event in log.events if event.pcr == _PCR and separator_value(log.digest(event), log.bank) is None
    ]
    times = Counter(log.digest(event) for event in measured)
    for digest, what in expected.items():
        if times[digest] != 1:
            raise LogRejected(_DOING_BOOT, expected=f"the {what} in PCR 0, once", found=f"{times[digest]} times")
    unknown = [event for event in measured if log.digest(event) not in expected]
    if len(unknown) != 1:
        raise LogRejected(
            _DOING_BOOT, expected=f"one event in PCR 0 besides, the {firmware.patched.what}", found=f"{len(unknown)}"
        )
    (event,) = unknown
    size_bytes = int.from_bytes(event.data[-8:], "little")
    if size_bytes != firmware.patched.size_bytes:
        raise LogRejected(
            _DOING_BOOT,
            expected=f"the {firmware.patched.what} of {firmware.patched.size_bytes} bytes",
            found=f"an event about {size_bytes} bytes",
        )
    return (Measurement(_PCR, firmware.patched.what, Presence.ALWAYS, {log.bank: log.digest(event)}),)


def _utf_16(text: str) -> bytes:
    # Lone surrogates too: what stands in an argument is not always Unicode, and this is measured, not shown.
    return text.encode("utf-16-le", "surrogatepass")


def _the_one(core: int, where: str, volumes: list[Volume]) -> Volume:
    names = {SECURITY_CORE: "SEC", PEI_CORE: "PEI", DXE_CORE: "DXE"}
    holders = [volume for volume in volumes if core in volume.file_types]
    if len(holders) != 1:
        raise MalformedArtefact(
            _DOING, expected=f"one {where} volume with the {names[core]} core, as in OVMF", found=f"{len(holders)}"
        )
    return holders[0]
