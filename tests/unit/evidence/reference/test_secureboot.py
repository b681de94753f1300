import hashlib
from dataclasses import replace
from struct import pack

import pytest

from steelyard.evidence.eventlog.events import EventType
from steelyard.evidence.eventlog.parse import parse_event_log
from steelyard.evidence.eventlog.variables import EFI_GLOBAL_VARIABLE, UefiVariable, split_variable
from steelyard.evidence.reference.measurement import Presence
from steelyard.evidence.reference.secureboot import (
    SecureBootVariables,
    measurements_of_authorities,
    measurements_of_secure_boot,
    secure_boot_variables,
)
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import MalformedArtefact, TooLarge
from steelyard.model.limits import SIGNATURE_DATABASE_ENTRIES
from tests.artefacts import IMAGE_SECURITY, OWNER, SECURE_BOOT_ENABLE, SHA256_HASH, X509, signature_list
from tests.vectors_dir import shared_vectors

VARIABLE_EVENTS = {EventType.EV_EFI_VARIABLE_DRIVER_CONFIG, EventType.EV_EFI_VARIABLE_AUTHORITY}

SET_UP = SecureBootVariables(b"\1", b"pk", b"kek", b"db", b"dbx", None)
EMPTY = SecureBootVariables(b"\0", None, None, None, None, None)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def measured(variables: SecureBootVariables) -> list[tuple[int, str, bytes]]:
    return [
        (each.pcr, each.what, each.digests[HashAlgorithm.SHA256]) for each in measurements_of_secure_boot(variables)
    ]


# -- the state ---------------------------------------------------------------------------------------------------------


def test_a_machine_without_keys_measures_what_ovmf_measured() -> None:
    """Digests of a boot of Debian 12's OVMF with empty variables."""
    assert [(what, digest.hex()) for _, what, digest in measured(EMPTY)] == [
        ("variable SecureBoot", "115aa827dbccfb44d216ad9ecfda56bdea620b860a94bed5b7a27bba1c4d02d8"),
        ("variable PK", "dea7b80ab53a3daaa24d5cc46c64e1fa9ffd03739f90aadbd8c0867c4a5b4890"),
        ("variable KEK", "e670e121fcebd473b8bc41bb801301fc1d9afa33904f06f7149b74f12c47a68f"),
        ("variable db", "baf89a3ccace52750c5f0128351e0422a41597a1adfd50822aa363b9d124ea7c"),
        ("variable dbx", "9f75b6823bff6af1024a4e2036719cdd548d3cbc2bf1de8e7ef4d0ed01f94bf9"),
    ]


def test_firmware_that_has_no_secure_boot_measures_the_variable_as_empty() -> None:
    """Digest of a boot of Debian 13's OVMF without Secure Boot."""
    without = measured(replace(EMPTY, secure_boot=None))
    assert without[0][2].hex() == "ce9ce386b52e099f3019e512a0d6062d6b560efe4ff3e5661c7525e2f9c263df"
    assert without[1:] == measured(EMPTY)[1:]


def test_the_variables_are_measured_in_pcr_7_with_vendor_name_and_contents() -> None:
    assert measured(replace(SET_UP, dbt=b"dbt")) == [
        (
            7,
            f"variable {name}",
            sha256(vendor.bytes_le + pack("<QQ", len(name), len(data)) + name.encode("utf-16-le") + data),
        )
        for vendor, name, data in [
            (EFI_GLOBAL_VARIABLE, "SecureBoot", b"\1"),
            (EFI_GLOBAL_VARIABLE, "PK", b"pk"),
            (EFI_GLOBAL_VARIABLE, "KEK", b"kek"),
            (IMAGE_SECURITY, "db", b"db"),
            (IMAGE_SECURITY, "dbx", b"dbx"),
            (IMAGE_SECURITY, "dbt", b"dbt"),
        ]
    ]


def test_only_dbt_is_left_out_where_it_is_absent() -> None:
    assert [what for _, what, _ in measured(SET_UP)] == [
        "variable SecureBoot",
        "variable PK",
        "variable KEK",
        "variable db",
        "variable dbx",
    ]
    assert {each.presence for each in measurements_of_secure_boot(SET_UP)} == {Presence.ALWAYS}


def stored(*, enable: bytes | None, pk: bytes | None) -> list[UefiVariable]:
    store = [
        UefiVariable(EFI_GLOBAL_VARIABLE, "KEK", b"kek"),
        UefiVariable(IMAGE_SECURITY, "db", b"db"),
        UefiVariable(IMAGE_SECURITY, "dbx", b"dbx"),
        UefiVariable(IMAGE_SECURITY, "dbt", b"dbt"),
        UefiVariable(OWNER, "PK", b"of another vendor"),
        UefiVariable(EFI_GLOBAL_VARIABLE, "db", b"of another vendor"),
    ]
    if pk is not None:
        store.append(UefiVariable(EFI_GLOBAL_VARIABLE, "PK", pk))
    if enable is not None:
        store.append(UefiVariable(SECURE_BOOT_ENABLE, "SecureBootEnable", enable))
    return store


@pytest.mark.parametrize(
    ("enable", "pk", "on"),
    [
        (b"\1", b"pk", b"\1"),
        (None, b"pk", b"\1"),
        (b"\0", b"pk", b"\0"),
        (b"\1", None, b"\0"),
        (None, None, b"\0"),
    ],
)
def test_images_are_checked_when_there_is_a_platform_key_and_it_is_not_switched_off(
    enable: bytes | None, pk: bytes | None, on: bytes
) -> None:
    """All but the fourth were booted."""
    variables = secure_boot_variables(stored(enable=enable, pk=pk))
    assert variables == SecureBootVariables(on, pk, b"kek", b"db", b"dbx", b"dbt")


# -- what lets images pass ---------------------------------------------------------------------------------------------

CERTIFICATE = b"a certificate"
DB = signature_list(X509, [CERTIFICATE]) + signature_list(SHA256_HASH, [b"1" * 32, b"2" * 32])


def test_each_entry_of_db_may_be_measured_with_its_owner() -> None:
    measurements = measurements_of_authorities(DB)
    assert [each.digests[HashAlgorithm.SHA256] for each in measurements] == [
        sha256(IMAGE_SECURITY.bytes_le + pack("<QQ", 2, 16 + len(entry)) + b"d\0b\0" + OWNER.bytes_le + entry)
        for entry in (CERTIFICATE, b"1" * 32, b"2" * 32)
    ]
    assert {(each.pcr, each.presence) for each in measurements} == {(7, Presence.SOMETIMES)}
    assert [each.what for each in measurements] == ["db entry 1", "db entry 2", "db entry 3"]


def test_an_empty_db_lets_nothing_pass() -> None:
    assert measurements_of_authorities(b"") == ()


def header(list_bytes: int, header_bytes: int, entry_bytes: int) -> bytes:
    return X509.bytes_le + pack("<III", list_bytes, header_bytes, entry_bytes)


@pytest.mark.parametrize(
    "db",
    [
        pytest.param(DB[:-1], id="truncated"),
        pytest.param(DB + b"\0", id="trailing"),
        pytest.param(header(28, 0, 17), id="no-entries"),
        pytest.param(header(28 + 17, 1, 17) + bytes(17), id="header"),
        pytest.param(header(28 + 16, 0, 16) + bytes(16), id="empty-entries"),
        pytest.param(header(28 + 64 + 45, 0, 64) + bytes(64) + signature_list(X509, [b"x"]), id="a-list-in-an-entry"),
        pytest.param(header(0, 0, 17) + bytes(17), id="no-size"),
        pytest.param(header(28 + 17, 0, 0) + bytes(17), id="entries-of-nothing"),
        pytest.param(header(2**32 - 1, 0, 2**32 - 29), id="huge"),
    ],
)
def test_a_signature_list_that_lies_is_refused(db: bytes) -> None:
    with pytest.raises(MalformedArtefact):
        measurements_of_authorities(db)


def test_more_entries_than_any_db_has_are_refused() -> None:
    entries = [bytes([7]) * 32] * SIGNATURE_DATABASE_ENTRIES.most
    assert len(measurements_of_authorities(signature_list(SHA256_HASH, entries))) == len(entries)
    with pytest.raises(TooLarge):
        measurements_of_authorities(signature_list(SHA256_HASH, [*entries, bytes(32)]))


# -- a second opinion --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "ibm-dell1.log",
        "ibm-hp1.log",
        "ibm-sm4.log",
        "rk-uefi_log.bin",
        "tt-event-arch-linux.bin",
        "tt-event-moklisttrusted.bin",
        "tt-event-postcode.bin",
        "tt-event-sd-boot-fedora37.bin",
    ],
)
def test_real_machines_measured_their_variables_so(name: str) -> None:
    """The contents are those that each log shows; the digests are those that its TPM was extended with."""
    log = parse_event_log((shared_vectors("eventlogs") / name).read_bytes())
    events = [event for event in log.events if event.pcr == 7]
    shown = [(event, split_variable(event.data)[0]) for event in events if event.claimed_type in VARIABLE_EVENTS]
    contents = {variable.name: variable.value or None for _, variable in shown[:5]}
    variables = SecureBootVariables(
        contents["SecureBoot"], contents["PK"], contents["KEK"], contents["db"], contents["dbx"], None
    )
    expected = [each.digests[HashAlgorithm.SHA256] for each in measurements_of_secure_boot(variables)]
    assert [event.digests[HashAlgorithm.SHA256] for event in events[:5]] == expected
    authorities = {
        event.digests[HashAlgorithm.SHA256]
        for event, variable in shown
        if event.claimed_type == EventType.EV_EFI_VARIABLE_AUTHORITY and variable.name == "db"
    }
    known = {each.digests[HashAlgorithm.SHA256] for each in measurements_of_authorities(variables.db or b"")}
    assert authorities <= known
    assert bool(authorities) == (variables.secure_boot == b"\1")
