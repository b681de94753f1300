"""A booted machine hands out evidence that is true: its log, its lists and its quote are of what its TPM holds."""

from dataclasses import replace
from pathlib import Path

import pytest

from steelyard.evidence.eventlog.parse import parse_event_log
from steelyard.evidence.eventlog.replay import replay
from steelyard.evidence.ima.parse import parse_ima_list
from steelyard.evidence.ima.replay import pcr10_values
from steelyard.evidence.tpm.keys import AssertedByOperator, BoundKey, check_attestation_key
from steelyard.evidence.tpm.nonce import PlainNonce
from steelyard.evidence.tpm.public import parse_tpm2b_public
from steelyard.evidence.tpm.quote import QuotedPcrs, Rebooted, SignedQuote, compare_clock, verify_quote
from steelyard.model.algorithms import HASH_BY_NAME, HashAlgorithm
from steelyard.model.pcrs import PcrSelection, PcrValues, start_value
from tests.machine import (
    COMMAND_LINE,
    LOADER_PATH,
    OVMF,
    BootedEvidence,
    Machine,
    MachineFailed,
    change_firmware,
    unified_image,
)
from tests.tpm import BANKS, SoftwareTpm

pytestmark = pytest.mark.rack

NONCE = bytes(range(32))
QUOTED = frozenset(range(15))
IMA_PCR = 10


@pytest.fixture(scope="module")
def image() -> bytes:
    return unified_image(script="echo found >/out/note")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("machine"))


@pytest.fixture(scope="module")
def booted(machine: Machine, image: bytes) -> BootedEvidence:
    return machine.boot({LOADER_PATH: image}, nonce=NONCE, quoted=QUOTED)


def verified(machine: Machine, evidence: BootedEvidence) -> QuotedPcrs:
    """Return the quoted values, which are those that the booted system read."""
    key = check_attestation_key(parse_tpm2b_public(machine.attestation_key.public))
    bank = HashAlgorithm.SHA256
    return verify_quote(
        SignedQuote(evidence.quote, evidence.signature),
        BoundKey(key.signing, AssertedByOperator()),
        PlainNonce(evidence.nonce),
        PcrSelection(bank, QUOTED),
        PcrValues(bank, {index: evidence.pcrs[bank.label][index] for index in QUOTED}),
    )


@pytest.mark.parametrize("bank", [HASH_BY_NAME[name] for name in BANKS])
def test_every_pcr_holds_what_the_log_says_or_its_start_value(booted: BootedEvidence, bank: HashAlgorithm) -> None:
    replayed = replay(parse_event_log(booted.event_log), bank)
    assert set(replayed) >= set(range(8))
    expected = {index: replayed.get(index, start_value(index, bank)) for index in range(24)}
    found = dict(booted.pcrs[bank.label])
    assert found.pop(IMA_PCR) != expected.pop(IMA_PCR)
    assert found == expected


@pytest.mark.parametrize("form", ["ima_ascii", "ima_binary"])
def test_pcr_10_holds_what_the_ima_list_says(booted: BootedEvidence, form: str) -> None:
    values = pcr10_values(parse_ima_list(getattr(booted, form)))
    for bank in (HashAlgorithm.SHA1, HashAlgorithm.SHA256):
        assert booted.pcrs[bank.label][IMA_PCR] == values[bank]


def test_the_quote_is_over_the_values_that_the_system_read(machine: Machine, booted: BootedEvidence) -> None:
    assert verified(machine, booted).clock.safe


def test_what_the_script_leaves_comes_out(booted: BootedEvidence) -> None:
    assert booted.files == {"note": b"found\n"}


def test_a_second_boot_measures_the_same_whatever_the_nonce(
    machine: Machine, image: bytes, booted: BootedEvidence
) -> None:
    second = machine.boot({LOADER_PATH: image}, nonce=NONCE[::-1], quoted=QUOTED)
    assert second.pcrs == booted.pcrs
    assert compare_clock(verified(machine, booted), verified(machine, second)) == Rebooted(1)


def test_a_changed_firmware_changes_pcr_0_and_with_it_the_boot_aggregate(
    machine: Machine, image: bytes, booted: BootedEvidence, tmp_path: Path
) -> None:
    changed = tmp_path / "changed.fd"
    changed.write_bytes(change_firmware(OVMF.code.read_bytes()))
    evidence = machine.boot({LOADER_PATH: image}, nonce=NONCE, quoted=QUOTED, firmware=replace(OVMF, code=changed))
    before, after = booted.pcrs["sha256"], evidence.pcrs["sha256"]
    assert {index for index in before if before[index] != after[index]} == {0, IMA_PCR}


def test_its_tpm_opens_what_is_sealed_to_its_keys(machine: Machine, booted: BootedEvidence) -> None:
    assert booted.quote
    with SoftwareTpm(machine.directory) as tpm:
        credential = tpm.make_credential(machine.endorsement_key.public, machine.attestation_key.name, b"secret")
        assert tpm.activate_credential(machine.attestation_key, machine.endorsement_key, credential) == b"secret"


def test_a_system_that_does_not_come_up_is_told_with_its_last_words(machine: Machine) -> None:
    broken = unified_image(command_line=f"{COMMAND_LINE} rdinit=/missing init=/missing")
    with pytest.raises(MachineFailed, match="Kernel panic"):
        machine.boot({LOADER_PATH: broken}, nonce=NONCE)
