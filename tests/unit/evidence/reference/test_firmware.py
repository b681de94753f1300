import hashlib
import json
from collections.abc import Sequence

import pytest

from steelyard.evidence.eventlog.events import Event, EventLog, EventType, SpecIdEvent
from steelyard.evidence.eventlog.parse import parse_event_log
from steelyard.evidence.eventlog.replay import ReplayedLog, replay, verify_log
from steelyard.evidence.reference.firmware import (
    FirmwareMeasurements,
    PatchedVolume,
    measurements_from_reference_boot,
    measurements_of_firmware,
)
from steelyard.evidence.reference.measurement import Measurement, Presence
from steelyard.evidence.reference.volumes import volumes_of
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import LogRejected, Malformed, MalformedArtefact
from steelyard.model.pcrs import PcrValues
from tests.artefacts import (
    DRIVER,
    DXE,
    DXE_VOLUME,
    PEI,
    PEI_VOLUME,
    SEC,
    SEC_VOLUME,
    blank_store,
    firmware_file,
    firmware_image,
    firmware_volume,
)
from tests.vectors_dir import OWN

IMAGE = firmware_image()


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# -- from the file -----------------------------------------------------------------------------------------------------


def test_the_version_and_the_dxe_volume_are_computed() -> None:
    firmware = measurements_of_firmware(IMAGE, "2025.02-8")
    assert [(each.pcr, each.what, each.presence, each.digests[HashAlgorithm.SHA256]) for each in firmware.computed] == [
        (0, "firmware version", Presence.ALWAYS, sha256("2025.02-8\0".encode("utf-16-le"))),
        (0, "DXE volume", Presence.ALWAYS, sha256(DXE_VOLUME)),
    ]
    assert {len(digest) for each in firmware.computed for digest in each.digests.values()} == {32, 48, 64}


def test_firmware_without_a_version_measures_the_end_of_its_text() -> None:
    version = measurements_of_firmware(IMAGE, "").computed[0]
    assert version.digests[HashAlgorithm.SHA256] == sha256(b"\0\0")


def test_a_version_that_is_no_unicode_is_measured_as_it_is() -> None:
    version = measurements_of_firmware(IMAGE, "\udcff").computed[0]
    assert version.digests[HashAlgorithm.SHA256] == sha256(b"\xff\xdc\0\0")


def test_the_pei_volume_is_told_apart_but_not_predicted() -> None:
    firmware = measurements_of_firmware(IMAGE, "")
    assert firmware.patched.what == "PEI volume"
    assert firmware.patched.size_bytes == len(PEI_VOLUME)
    assert firmware.patched.digests_in_file[HashAlgorithm.SHA256] == sha256(PEI_VOLUME)
    assert "PEI volume" not in {each.what for each in firmware.computed}


def test_code_with_its_variables_measures_the_same() -> None:
    assert measurements_of_firmware(blank_store() + IMAGE, "") == measurements_of_firmware(IMAGE, "")


@pytest.mark.parametrize(("volume", "name"), [(PEI_VOLUME, "pei"), (DXE_VOLUME, "dxe")])
def test_a_changed_byte_in_a_measured_volume_changes_the_result_or_is_refused(volume: bytes, name: str) -> None:
    right = measurements_of_firmware(IMAGE, "")
    outcomes = set()
    for at in range(len(volume)):
        changed = bytearray(volume)
        changed[at] ^= 0x10
        try:
            image = firmware_image(pei=bytes(changed)) if name == "pei" else firmware_image(dxe=bytes(changed))
            outcome = measurements_of_firmware(image, "")
        except Malformed:
            outcomes.add("refused")
            continue
        assert outcome != right, f"byte {at}"
        outcomes.add("changed")
    assert outcomes == {"refused", "changed"}


def test_a_changed_byte_in_the_packed_file_is_refused_or_seen_unless_it_unpacks_to_the_same() -> None:
    right = measurements_of_firmware(IMAGE, "")
    packed_end = len(IMAGE) - len(SEC_VOLUME)
    for at in range(packed_end):
        changed = bytearray(IMAGE)
        changed[at] ^= 0x10
        try:
            outcome = measurements_of_firmware(bytes(changed), "")
        except Malformed:
            continue
        if outcome == right:
            # Names, LZMA's end mark and padding: bytes that no measured volume is made from.
            assert measured_volumes(bytes(changed)) == measured_volumes(IMAGE)


def measured_volumes(image: bytes) -> list[bytes]:
    return [bytes(volume.data) for volume in volumes_of(image) if volume.depth]


BARE = firmware_volume(firmware_file(DRIVER, b"x"))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(firmware_image(sec=b""), "one uncompressed volume with the SEC core", id="no-sec"),
        pytest.param(firmware_image(sec=SEC_VOLUME * 2), "one uncompressed volume with the SEC core", id="two-sec"),
        pytest.param(firmware_image(pei=BARE), "one compressed volume with the PEI core", id="no-pei"),
        pytest.param(firmware_image(dxe=BARE), "one compressed volume with the DXE core", id="no-dxe"),
        pytest.param(
            firmware_image(dxe=firmware_volume(firmware_file(DXE, b"x") + firmware_file(PEI, b"y"))),
            "one compressed volume with the PEI core",
            id="two-pei",
        ),
        pytest.param(
            firmware_image(pei=BARE) + PEI_VOLUME, "one compressed volume with the PEI core", id="pei-in-flash"
        ),
        pytest.param(
            firmware_image(pei=firmware_volume(firmware_file(SEC, b"x")), sec=b""), "SEC core", id="sec-packed"
        ),
        pytest.param(blank_store(), "SEC core", id="variables-only"),
        pytest.param(b"", "SEC core", id="empty"),
    ],
)
def test_firmware_that_is_put_together_otherwise_is_refused(image: bytes, expected: str) -> None:
    with pytest.raises(MalformedArtefact) as caught:
        measurements_of_firmware(image, "")
    assert expected in caught.value.expected


# -- from a reference boot ---------------------------------------------------------------------------------------------

FIRMWARE = measurements_of_firmware(IMAGE, "")
PATCHED = sha256(b"the PEI volume as this machine patched it")
SEPARATOR = sha256(bytes(4))


def blob(size: int) -> bytes:
    return (0x820000).to_bytes(8, "little") + size.to_bytes(8, "little")


VERSION, DXE_EVENT = (each.digests[HashAlgorithm.SHA256] for each in FIRMWARE.computed)
PEI_EVENT = (0, PATCHED, blob(len(PEI_VOLUME)))
BOOT = [(0, VERSION, b"\0\0"), PEI_EVENT, (0, DXE_EVENT, blob(len(DXE_VOLUME))), (0, SEPARATOR, bytes(4))]


def replayed(measured: Sequence[tuple[int, bytes, bytes]]) -> ReplayedLog:
    """Return a log of events (PCR, SHA-256, data) that a quote stands behind."""
    header = Event(0, 0, EventType.EV_NO_ACTION, {HashAlgorithm.SHA1: bytes(20)}, b"")
    events = [
        Event(number, pcr, EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB, {HashAlgorithm.SHA256: digest}, data)
        for number, (pcr, digest, data) in enumerate(measured, 1)
    ]
    log = EventLog((header, *events), (HashAlgorithm.SHA256,), SpecIdEvent(0, (2, 0, 0), {0xB: 32}, b""))
    return verify_log(log, PcrValues(HashAlgorithm.SHA256, replay(log, HashAlgorithm.SHA256)), frozenset())


def test_a_reference_boot_gives_only_what_the_file_does_not() -> None:
    other = (4, sha256(b"an application"), b"")
    (measurement,) = measurements_from_reference_boot(replayed([*BOOT, other]), FIRMWARE)
    assert (measurement.pcr, measurement.what, measurement.presence) == (0, "PEI volume", Presence.ALWAYS)
    assert measurement.digests == {HashAlgorithm.SHA256: PATCHED}


@pytest.mark.parametrize(
    ("boot", "expected"),
    [
        pytest.param(BOOT[1:], "the firmware version in PCR 0, once", id="version-missing"),
        pytest.param([*BOOT[:2], BOOT[3]], "the DXE volume in PCR 0, once", id="dxe-missing"),
        pytest.param([*BOOT, BOOT[2]], "the DXE volume in PCR 0, once", id="dxe-twice"),
        pytest.param(
            [BOOT[0], (0, sha256(b"another"), b""), BOOT[3]], "the DXE volume in PCR 0, once", id="other-firmware"
        ),
        pytest.param([BOOT[0], *BOOT[2:]], "one event in PCR 0 besides, the PEI volume", id="pei-missing"),
        pytest.param([*BOOT, (0, sha256(b"more"), b"")], "one event in PCR 0 besides, the PEI volume", id="one-more"),
        pytest.param([*BOOT, PEI_EVENT], "one event in PCR 0 besides, the PEI volume", id="pei-twice"),
        pytest.param(
            [BOOT[0], (0, PATCHED, blob(len(PEI_VOLUME) + 1)), *BOOT[2:]],
            "the PEI volume of 208 bytes",
            id="other-size",
        ),
        pytest.param([(4, digest, data) for _, digest, data in BOOT], "the firmware version in PCR 0", id="other-pcr"),
    ],
)
def test_a_boot_of_another_firmware_gives_no_reference(boot: list[tuple[int, bytes, bytes]], expected: str) -> None:
    with pytest.raises(LogRejected) as caught:
        measurements_from_reference_boot(replayed(boot), FIRMWARE)
    assert expected in caught.value.expected


def test_the_reference_of_one_build_is_not_taken_for_another() -> None:
    other: FirmwareMeasurements = measurements_of_firmware(
        firmware_image(dxe=firmware_volume(firmware_file(DXE, b"another build"))), ""
    )
    with pytest.raises(LogRejected, match="the DXE volume in PCR 0"):
        measurements_from_reference_boot(replayed(BOOT), other)


# -- recorded boots ----------------------------------------------------------------------------------------------------


def recorded(name: str) -> ReplayedLog:
    folder = OWN / "ovmf" / "boots" / name
    log = parse_event_log((folder / "event_log.bin").read_bytes())
    values = json.loads((folder / "pcrs.json").read_text())["sha256"]
    return verify_log(log, PcrValues(HashAlgorithm.SHA256, {0: bytes.fromhex(values["0"])}), frozenset())


def recorded_firmware() -> FirmwareMeasurements:
    """Return what the firmware file of the first boot must have told: all but the second event."""
    version, _, dxe = [event for event in recorded("first").events if event.pcr == 0][:3]
    computed = tuple(
        Measurement(0, what, Presence.ALWAYS, event.digests) for what, event in [("v", version), ("d", dxe)]
    )
    return FirmwareMeasurements(computed, PatchedVolume("PEI volume", 0xE0000, {}))


def test_two_recorded_boots_of_a_machine_give_one_reference() -> None:
    (first,), (second,) = (
        measurements_from_reference_boot(recorded(name), recorded_firmware()) for name in ("first", "second")
    )
    assert first == second
    assert first.digests == {HashAlgorithm.SHA256: recorded("first").events[1].digests[HashAlgorithm.SHA256]}


def test_a_recorded_boot_of_changed_firmware_gives_no_reference() -> None:
    with pytest.raises(LogRejected, match="the d in PCR 0, once"):
        measurements_from_reference_boot(recorded("changed-firmware"), recorded_firmware())
