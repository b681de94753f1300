from pathlib import Path
from struct import pack_into
from uuid import UUID

import pytest

from steelyard.evidence.eventlog.variables import EFI_GLOBAL_VARIABLE, UefiVariable
from steelyard.evidence.reference.variables import variables_of_firmware_store
from steelyard.model.errors import MalformedArtefact, TooLarge
from steelyard.model.limits import FIRMWARE_VARIABLES
from tests.artefacts import OWNER, SEC_VOLUME, blank_store, stored_variable, write_store
from tests.tpm import require_programs

SNAKEOIL = Path("/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd")

NAME = UefiVariable(OWNER, "Name", b"value")
OLD = UefiVariable(OWNER, "Name", b"old")
STORE = 72
"""Where the store begins in the file, after the volume's header."""
FIRST = STORE + 28


def stored(*variables: bytes, size: int = 0x2000) -> bytes:
    return write_store(blank_store(size), variables)


def changed(image: bytes, at: int, layout: str, *values: int | bytes) -> bytes:
    copy = bytearray(image)
    pack_into(layout, copy, at, *values)
    return bytes(copy)


def refused(image: bytes, expected: str) -> None:
    with pytest.raises(MalformedArtefact) as caught:
        variables_of_firmware_store(image)
    assert expected in caught.value.expected


def test_debians_store_with_keys_holds_what_its_firmware_will_find() -> None:
    """The sizes are those that this firmware measured, in a boot with Secure Boot on."""
    require_programs({str(SNAKEOIL): "ovmf"})
    variables = {variable.name: variable for variable in variables_of_firmware_store(SNAKEOIL.read_bytes())}
    assert {name: len(variables[name].value) for name in ("PK", "KEK", "db", "dbx")} == {
        "PK": 935,
        "KEK": 935,
        "db": 935,
        "dbx": 76,
    }
    assert variables["PK"].vendor == EFI_GLOBAL_VARIABLE
    assert variables["SecureBootEnable"].value == b"\1"


def test_variables_are_found_with_vendor_name_and_value() -> None:
    other = UefiVariable(UUID(int=5), "Name", b"")
    assert variables_of_firmware_store(stored(stored_variable(NAME), stored_variable(other))) == (NAME, other)


def test_an_empty_store_is_empty() -> None:
    assert variables_of_firmware_store(blank_store()) == ()


def test_a_store_is_found_before_the_code() -> None:
    assert variables_of_firmware_store(stored(stored_variable(NAME)) + SEC_VOLUME) == (NAME,)


@pytest.mark.parametrize("state", [0x3D, 0x3C, 0x7F, 0x7D])
def test_what_was_deleted_or_never_finished_is_not_there(state: int) -> None:
    image = stored(stored_variable(OLD, state=state), stored_variable(NAME), stored_variable(OLD, state=state))
    assert variables_of_firmware_store(image) == (NAME,)


def test_an_old_value_counts_until_the_new_one_is_written() -> None:
    fading = stored_variable(OLD, state=0x3E)
    assert variables_of_firmware_store(stored(fading, stored_variable(NAME))) == (NAME,)
    assert variables_of_firmware_store(stored(stored_variable(NAME), fading)) == (NAME,)
    assert variables_of_firmware_store(stored(fading, stored_variable(NAME, state=0x7F))) == (OLD,)


def test_a_store_may_be_full_to_the_last_byte() -> None:
    filling = UefiVariable(OWNER, "Name", b"x" * (0x400 - FIRST - 60 - 10))
    assert variables_of_firmware_store(stored(stored_variable(filling), size=0x400)) == (filling,)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(SEC_VOLUME, "a file with one variable store", id="no-store"),
        pytest.param(blank_store() * 2, "a file with one variable store", id="two-stores"),
        pytest.param(
            changed(blank_store(), STORE, "16s", OWNER.bytes_le), "a store of authenticated", id="other-store"
        ),
        pytest.param(changed(blank_store(), STORE + 20, "B", 0xFF), "formatted and healthy", id="unformatted"),
        pytest.param(changed(blank_store(), STORE + 21, "B", 0xFC), "formatted and healthy", id="unhealthy"),
        pytest.param(changed(blank_store(), STORE + 16, "<I", 27), "at least 28 bytes", id="too-short"),
        pytest.param(changed(blank_store(), STORE + 16, "<I", 0x2000), "the store's variables", id="too-long"),
        pytest.param(changed(blank_store(), FIRST, "B", 0x00), "a variable or erased flash", id="no-start"),
        pytest.param(changed(blank_store(), 0x1FFF, "B", 0x00), "erased flash after", id="after-the-last"),
        pytest.param(stored(stored_variable(NAME, state=0x15)), "a state that firmware", id="state"),
        pytest.param(stored(stored_variable(NAME), stored_variable(OLD)), "every variable once", id="twice"),
        pytest.param(
            stored(stored_variable(NAME, state=0x3E), stored_variable(OLD, state=0x3E)),
            "every variable once",
            id="twice-old",
        ),
        pytest.param(changed(stored(stored_variable(NAME)), FIRST + 36, "<I", 9), "in UTF-16", id="name-odd"),
        pytest.param(changed(stored(stored_variable(NAME)), FIRST + 36, "<I", 0), "its one NUL", id="name-empty"),
        pytest.param(changed(stored(stored_variable(NAME)), FIRST + 36, "<I", 8), "its one NUL", id="name-unended"),
        pytest.param(changed(stored(stored_variable(NAME)), FIRST + 60, "<H", 0), "its one NUL", id="name-cut"),
        pytest.param(
            changed(stored(stored_variable(NAME)), FIRST + 60, "<H", 0xD800), "in UTF-16", id="name-surrogate"
        ),
        pytest.param(
            changed(stored(stored_variable(NAME)), FIRST + 36, "<I", 2**31), "name of a variable", id="name-long"
        ),
        pytest.param(
            changed(stored(stored_variable(NAME)), FIRST + 40, "<I", 2**31), "data of a variable", id="data-long"
        ),
    ],
)
def test_a_store_that_firmware_would_not_read_so_is_refused(image: bytes, expected: str) -> None:
    refused(image, expected)


def test_more_variables_than_any_store_has_are_refused() -> None:
    variable = stored_variable(UefiVariable(OWNER, "x", b""), state=0x3C)
    size = FIRST + len(variable) * (FIRMWARE_VARIABLES.most + 1)
    assert variables_of_firmware_store(stored(variable * FIRMWARE_VARIABLES.most, size=size)) == ()
    with pytest.raises(TooLarge):
        variables_of_firmware_store(stored(variable * (FIRMWARE_VARIABLES.most + 1), size=size))
