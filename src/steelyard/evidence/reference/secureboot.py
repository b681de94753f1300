"""Secure Boot: what firmware measures into PCR 7 of its variables, and of the keys that let images pass."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from steelyard.evidence.eventlog.variables import EFI_GLOBAL_VARIABLE, UefiVariable
from steelyard.evidence.reader import LittleEndianReader, refuse_over
from steelyard.evidence.reference.banks import digests_of
from steelyard.evidence.reference.measurement import Measurement, Presence
from steelyard.model.errors import MalformedArtefact
from steelyard.model.limits import SIGNATURE_DATABASE_ENTRIES

_DOING: Final = "reading Secure Boot variables"
_PCR: Final = 7

_IMAGE_SECURITY: Final = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
_SECURE_BOOT_ENABLE: Final = UUID("f0a30bc7-af08-4556-99c4-001009c93a44")
"""EDK2's own switch, in the store; the variable SecureBoot, which only firmware writes, follows it."""
_SIGNATURE_LIST_HEADER_BYTES: Final = 28


@dataclass(frozen=True, slots=True)
class SecureBootVariables:
    """The variables' contents; None for one that is absent.

    secure_boot  one byte, 1 when images are checked; firmware without Secure Boot has no such variable.
    pk, kek, db, dbx, dbt  EFI_SIGNATURE_LISTs, one behind the other.
    """

    secure_boot: bytes | None
    pk: bytes | None
    kek: bytes | None
    db: bytes | None
    dbx: bytes | None
    dbt: bytes | None


def secure_boot_variables(store: Iterable[UefiVariable]) -> SecureBootVariables:
    """Return what firmware that knows Secure Boot makes of its variable store when it starts."""
    by_name = {(variable.vendor, variable.name): variable.value for variable in store}
    pk = by_name.get((EFI_GLOBAL_VARIABLE, "PK"))
    switch = by_name.get((_SECURE_BOOT_ENABLE, "SecureBootEnable"), b"\1")
    return SecureBootVariables(
        secure_boot=b"\1" if pk is not None and switch == b"\1" else b"\0",
        pk=pk,
        kek=by_name.get((EFI_GLOBAL_VARIABLE, "KEK")),
        db=by_name.get((_IMAGE_SECURITY, "db")),
        dbx=by_name.get((_IMAGE_SECURITY, "dbx")),
        dbt=by_name.get((_IMAGE_SECURITY, "dbt")),
    )


def measurements_of_secure_boot(variables: SecureBootVariables) -> tuple[Measurement, ...]:
    """Return what firmware measures before it starts anything, in that order: its Secure Boot policy.

    Source: TCG PC Client Platform Firmware Profile 1.06, section 3.3.4.8 (PCR 7).
    """
    return tuple(
        Measurement(_PCR, f"variable {name}", Presence.ALWAYS, digests_of(_variable_data(vendor, name, data or b"")))
        for vendor, name, data in (
            (EFI_GLOBAL_VARIABLE, "SecureBoot", variables.secure_boot),
            (EFI_GLOBAL_VARIABLE, "PK", variables.pk),
            (EFI_GLOBAL_VARIABLE, "KEK", variables.kek),
            (_IMAGE_SECURITY, "db", variables.db),
            (_IMAGE_SECURITY, "dbx", variables.dbx),
            (_IMAGE_SECURITY, "dbt", variables.dbt),
        )
        # The five that rule every image are measured even when they are not there; dbt only when it is.
        if name != "dbt" or data
    )


def measurements_of_authorities(db: bytes) -> tuple[Measurement, ...]:
    """Return what firmware measures when an entry of `db` lets an image pass: one measurement for each entry.

    Each is made once per boot, before the first image that the entry vouches for; which come depends on what is booted.

    Raises MalformedArtefact, TooLarge.
    Source: TCG PC Client Platform Firmware Profile 1.06, section 3.3.4.8; UEFI 2.10, section 32.4.1 (signature lists).
    """
    return tuple(
        Measurement(
            _PCR, f"db entry {number}", Presence.SOMETIMES, digests_of(_variable_data(_IMAGE_SECURITY, "db", entry))
        )
        for number, entry in enumerate(_signature_entries(db), 1)
    )


def _variable_data(vendor: UUID, name: str, data: bytes) -> bytes:
    """Return UEFI_VARIABLE_DATA. Source: TCG PC Client Platform Firmware Profile 1.06, section 10.2.6."""
    # Characters are counted, the name has no NUL.
    return (
        vendor.bytes_le
        + len(name).to_bytes(8, "little")
        + len(data).to_bytes(8, "little")
        + name.encode("utf-16-le")
        + data
    )


def _signature_entries(database: bytes) -> Iterator[bytes]:
    """Yield each EFI_SIGNATURE_DATA: the owner's GUID and a certificate or hash."""
    reader = LittleEndianReader(database, _DOING, MalformedArtefact)
    count = 0
    while reader.remaining:
        reader.take(16, "type of a signature list")
        list_bytes = reader.u32("size of a signature list")
        header_bytes = reader.u32("size of a signature list's header")
        entry_bytes = reader.u32("size of a signature")
        body_bytes = list_bytes - _SIGNATURE_LIST_HEADER_BYTES
        if header_bytes or entry_bytes <= 16 or body_bytes < entry_bytes or body_bytes % entry_bytes:
            raise reader.wrong(
                "a signature list of whole entries and no header",
                f"{list_bytes} bytes, a header of {header_bytes}, entries of {entry_bytes}",
            )
        for _ in range(body_bytes // entry_bytes):
            count += 1
            refuse_over(SIGNATURE_DATABASE_ENTRIES, count, _DOING)
            yield reader.take(entry_bytes, "signature")
