"""References made from artefacts alone are what a real firmware, stub and kernel measure, event for event.

A firmware event that is in no artefact is one of `FIRMWARES_OWN`; nothing else is left over.
"""

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from steelyard.evidence.eventlog.content import separator_value
from steelyard.evidence.eventlog.parse import parse_event_log
from steelyard.evidence.eventlog.replay import ReplayedLog, verify_log
from steelyard.evidence.ima.parse import MeasuredFile, parse_ima_list
from steelyard.evidence.reference.banks import BANKS
from steelyard.evidence.reference.debian import files_of_tree
from steelyard.evidence.reference.firmware import measurements_from_reference_boot, measurements_of_firmware
from steelyard.evidence.reference.measurement import Measurement, Presence
from steelyard.evidence.reference.secureboot import (
    measurements_of_authorities,
    measurements_of_secure_boot,
    secure_boot_variables,
)
from steelyard.evidence.reference.uki import measurements_of_uki
from steelyard.evidence.reference.variables import variables_of_firmware_store
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.pcrs import PcrValues
from tests.artefacts import SHA256_HASH, X509, secure_boot_store, signature_list
from tests.machine import (
    LOADER_PATH,
    OVMF,
    SECURE_BOOT_OVMF,
    BootedEvidence,
    Firmware,
    Machine,
    initramfs_files,
    unified_image,
)
from tests.tpm import require_programs

pytestmark = pytest.mark.rack

NONCE = bytes(range(32))
VERSION_OF_OVMF = ""
"""What Debian 12's build calls itself."""

BANK = HashAlgorithm.SHA256
FIRMWARES_OWN = {BANK.digest(b"Calling EFI Application from Boot Option")}
"""What firmware says in PCR 4 before it starts the image."""


@pytest.fixture(scope="module")
def image() -> bytes:
    return unified_image()


@pytest.fixture(scope="module")
def booted(image: bytes, tmp_path_factory: pytest.TempPathFactory) -> BootedEvidence:
    return Machine(tmp_path_factory.mktemp("machine")).boot({LOADER_PATH: image}, nonce=NONCE)


def replayed(evidence: BootedEvidence) -> ReplayedLog:
    """Return the log, which replays to the values that the booted system read from its TPM."""
    values = {index: value for index, value in evidence.pcrs[BANK.label].items() if index < 15}
    return verify_log(parse_event_log(evidence.event_log), PcrValues(BANK, values), frozenset({10}))


def measured(log: ReplayedLog, *pcrs: int) -> list[tuple[int, dict[HashAlgorithm, bytes]]]:
    """Return PCR and digests of what was measured into these PCRs, but for separators and firmware's own words."""
    return [
        (event.pcr, {bank: digest for bank, digest in event.digests.items() if bank.believed})
        for event in log.events
        if event.pcr in pcrs
        and separator_value(log.digest(event), log.bank) is None
        and log.digest(event) not in FIRMWARES_OWN
    ]


def predicted(measurements: Iterable[Measurement], log: ReplayedLog) -> list[tuple[int, dict[HashAlgorithm, bytes]]]:
    """Return PCR and digests of these measurements, in the banks that the machine's TPM has."""
    present = {bank for event in log.events for bank in event.digests if bank in BANKS}
    return [
        (each.pcr, {bank: digest for bank, digest in each.digests.items() if bank in present}) for each in measurements
    ]


def test_a_boot_measures_exactly_what_the_image_says(image: bytes, booted: BootedEvidence) -> None:
    log = replayed(booted)
    assert measured(log, 4, 8, 9, 11, 12, 13, 14) == predicted(measurements_of_uki(image), log)


def test_a_boot_measures_exactly_what_the_firmware_file_says_and_one_volume(booted: BootedEvidence) -> None:
    log = replayed(booted)
    firmware = measurements_of_firmware(OVMF.code.read_bytes(), VERSION_OF_OVMF)
    version, dxe = predicted(firmware.computed, log)
    first, _, third = measured(log, 0)
    assert (first, third) == (version, dxe)
    (pei,) = measurements_from_reference_boot(log, firmware)
    assert [digests[BANK] for _, digests in measured(log, 0)] == [
        version[1][BANK],
        pei.digests[BANK],
        dxe[1][BANK],
    ]


def test_what_a_reference_boot_gives_holds_for_its_class_of_machines_alone(
    image: bytes, booted: BootedEvidence, tmp_path: Path
) -> None:
    """Another machine of the same shape, with another TPM, gives the same; one with two processors does not."""
    firmware = measurements_of_firmware(OVMF.code.read_bytes(), VERSION_OF_OVMF)
    reference = measurements_from_reference_boot(replayed(booted), firmware)
    assert reference[0].digests[BANK] != firmware.patched.digests_in_file[BANK]
    other = Machine(tmp_path)
    equal = other.boot({LOADER_PATH: image}, nonce=NONCE)
    assert measurements_from_reference_boot(replayed(equal), firmware) == reference
    larger = other.boot(
        {LOADER_PATH: image}, nonce=NONCE, firmware=replace(OVMF, switches=(*OVMF.switches, "-smp", "2"))
    )
    assert measurements_from_reference_boot(replayed(larger), firmware) != reference


def test_a_boot_measures_exactly_what_the_variables_say(booted: BootedEvidence) -> None:
    log = replayed(booted)
    variables = secure_boot_variables(variables_of_firmware_store(OVMF.variables.read_bytes()))
    assert measured(log, 7) == predicted(measurements_of_secure_boot(variables), log)


def test_the_kernel_lists_the_files_of_the_root_tree(booted: BootedEvidence) -> None:
    contents = initramfs_files("", {})
    expected = files_of_tree((b"/" + name.encode(), [content]) for name, content in contents.items())
    listed = {
        entry.path: entry.digest.value
        for entry in parse_ima_list(booted.ima_ascii).entries
        if isinstance(entry, MeasuredFile) and entry.path.startswith(b"/")
    }
    assert listed.keys() & expected.keys() >= {b"/init", b"/bin/busybox"}
    assert {path: expected[path] for path in listed.keys() & expected.keys()} == {
        path: listed[path] for path in listed.keys() & expected.keys()
    }


# -- other command lines, other contents -------------------------------------------------------------------------------


def test_a_command_line_that_the_stub_cleans_is_measured_as_the_kernel_gets_it(tmp_path: Path) -> None:
    image = unified_image(command_line="  console=ttyS0 panic=-1\trootfstype=ramfs  ima_policy=tcb \n")
    log = replayed(Machine(tmp_path).boot({LOADER_PATH: image}, nonce=NONCE))
    assert measured(log, 4, 8, 9, 11, 12, 13, 14) == predicted(measurements_of_uki(image), log)


# -- Secure Boot -------------------------------------------------------------------------------------------------------


def signed(image: bytes, directory: Path) -> tuple[bytes, bytes]:
    """Return the image with a new key's signature, and the certificate in DER."""
    require_programs({"sbsign": "sbsigntool", "openssl": "openssl"})

    def run(*argv: str) -> None:
        subprocess.run(argv, cwd=directory, check=True, capture_output=True)

    (directory / "image").write_bytes(image)
    run(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-days", "3650", "-subj", "/CN=test"),
        *("-keyout", "key", "-out", "certificate"),
    )
    run("openssl", "x509", "-in", "certificate", "-outform", "DER", "-out", "der")
    run("sbsign", "--key", "key", "--cert", "certificate", "--output", "signed", "image")
    return (directory / "signed").read_bytes(), (directory / "der").read_bytes()


@pytest.mark.parametrize("firmware", [OVMF, SECURE_BOOT_OVMF], ids=["plain", "secboot"])
def test_a_boot_with_own_keys_measures_exactly_what_the_artefacts_say(
    image: bytes, firmware: Firmware, tmp_path: Path
) -> None:
    signed_image, certificate = signed(image, tmp_path)
    own = signature_list(X509, [certificate])
    store = secure_boot_store(
        OVMF.variables.read_bytes(),
        pk=own,
        kek=own,
        db=signature_list(SHA256_HASH, [bytes(32)]) + own,
        dbx=signature_list(SHA256_HASH, [b"\1" * 32, b"\2" * 32]),
        dbt=own,
    )
    (tmp_path / "store.fd").write_bytes(store)
    evidence = Machine(tmp_path / "machine").boot(
        {LOADER_PATH: signed_image},
        nonce=NONCE,
        firmware=replace(firmware, variables=tmp_path / "store.fd"),
        memory_mib=512,
    )
    log = replayed(evidence)

    variables = secure_boot_variables(variables_of_firmware_store(store))
    assert variables.secure_boot == b"\1"
    state = measurements_of_secure_boot(variables)
    _, vouching = measurements_of_authorities(variables.db or b"")
    assert measured(log, 7) == predicted([*state, vouching], log)

    assert measured(log, 4, 8, 9, 11, 12, 13, 14) == predicted(
        without_sometimes(measurements_of_uki(signed_image)), log
    )

    told = measurements_of_firmware(firmware.code.read_bytes(), VERSION_OF_OVMF)
    assert [measurement.what for measurement in measurements_from_reference_boot(log, told)] == ["PEI volume"]


def without_sometimes(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Return what is always measured; the kernel in the image is not, where the stub answers for it."""
    return [each for each in measurements if each.presence is Presence.ALWAYS]
