"""Lists that real kernels wrote: other people's beside the checkout, and ours with the PCRs of their TPM."""

import json
from collections import Counter
from pathlib import Path

import pytest

from steelyard.evidence.findings import Reason
from steelyard.evidence.ima.judge import judge_ima
from steelyard.evidence.ima.parse import BOOT_AGGREGATE, MeasuredFile, Violation, parse_ima_list
from steelyard.evidence.ima.policy import compile_runtime_policy
from steelyard.evidence.ima.replay import ImaExcerpt, ImaPosition, pcr10_values, replay
from steelyard.evidence.ima.signatures import file_signing_key
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import LogRejected, MalformedImaList
from steelyard.model.pcrs import PcrValues
from tests.unit.evidence.ima.signing import LATER, NOW
from tests.vectors_dir import OWN, shared_vectors

ONE_BOOT = ("ibm-sha1.log", "ibm-sha256.log")


def folder() -> Path:
    return shared_vectors("ima")


def one_boots_pcr10() -> list[bytes]:
    """Return PCR 10 of the recorded TPM's SHA-1, SHA-256, SHA-384 and SHA-512 banks."""
    lines = (folder() / "ibm-imakvtpcr10.txt").read_text().splitlines()
    return [bytes.fromhex(line.partition(":")[2]) for line in lines]


@pytest.mark.parametrize("name", ["kl-ima-log-sha256", "rk-ascii_runtime_measurements"])
def test_a_list_says_and_replays_to_what_is_known_of_it(name: str) -> None:
    expected = json.loads((folder() / "EXPECTED.json").read_text())[name]
    ima_list = parse_ima_list((folder() / name).read_bytes())
    assert len(ima_list.entries) == expected["entries"]
    assert Counter(entry.template for entry in ima_list.entries) == expected["templates"]
    assert sum(isinstance(entry, Violation) for entry in ima_list.entries) == expected["violations"]
    assert {bank.label: value.hex() for bank, value in pcr10_values(ima_list).items()} == expected["pcr10"]


@pytest.mark.parametrize("name", ["kl-ima-log-unknown", "rk-invalid_ima_log.txt"])
def test_a_list_that_is_none_is_refused(name: str) -> None:
    data = (folder() / name).read_bytes()
    with pytest.raises(MalformedImaList, match="entry 1"):
        parse_ima_list(data)


@pytest.mark.parametrize("name", ONE_BOOT)
def test_both_recordings_of_one_boot_replay_to_its_tpm(name: str) -> None:
    data, values = (folder() / name).read_bytes(), one_boots_pcr10()
    ima_list = parse_ima_list(data)
    assert list(pcr10_values(ima_list).values()) == values
    for bank, value in zip((HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512), values[1:], strict=True):
        result = replay(ImaExcerpt(0, data), ImaPosition.start(bank), value, frozenset())
        assert (result.judged, result.waiting) == (362, 0)


def test_the_two_recordings_of_one_boot_say_the_same() -> None:
    first, second = (parse_ima_list((folder() / name).read_bytes()) for name in ONE_BOOT)
    assert first == second


@pytest.mark.parametrize("left_out", [b"", b"/usr/bin/kmod"])
def test_a_policy_made_of_a_recorded_list_allows_that_list_and_no_file_more(left_out: bytes) -> None:
    data, pcr = (folder() / ONE_BOOT[0]).read_bytes(), one_boots_pcr10()[1]
    policy = compile_runtime_policy(
        files=[
            {HashAlgorithm.SHA256: {entry.path.decode("utf-8", "surrogateescape"): entry.digest.value.hex()}}
            for entry in parse_ima_list(data).entries
            if isinstance(entry, MeasuredFile) and entry.path not in (BOOT_AGGREGATE, left_out)
        ],
        revoked=(),
        signing_keys=(),
        excluded=(),
        tolerated_violations=(),
        buffers=(),
    )
    quoted = PcrValues(HashAlgorithm.SHA256, {10: pcr})
    appraisal = judge_ima(ImaExcerpt(0, data), ImaPosition.start(HashAlgorithm.SHA256), quoted, policy, NOW)
    found = [(finding.reason, finding.subject.encode()) for finding in appraisal.findings]
    # The boot PCRs of that machine were not recorded.
    assert found[0] == (Reason.MISSING_EVIDENCE, BOOT_AGGREGATE)
    assert found[1:] == ([(Reason.UNKNOWN_FILE, left_out)] if left_out else [])


OURS = OWN / "ovmf" / "ima"
OUR_LISTS = ["ima", "ima-buf", "ima-modsig", "ima-ng", "ima-ngv2", "ima-sigv2", "signed-ima-sig", "signed-ima-sigv2"]
FORMS = ["ima.ascii", "ima.bin"]


def our_pcrs(name: str, bank: HashAlgorithm) -> PcrValues:
    values = json.loads((OURS / name / "pcrs.json").read_text())[bank.label]
    return PcrValues(bank, {int(index): bytes.fromhex(value) for index, value in values.items()})


@pytest.mark.parametrize("name", OUR_LISTS)
def test_both_forms_of_our_lists_say_the_same(name: str) -> None:
    from_ascii, from_binary = (parse_ima_list((OURS / name / form).read_bytes()) for form in FORMS)
    assert from_ascii == from_binary
    assert len(from_binary.entries) >= 5


@pytest.mark.parametrize("name", OUR_LISTS)
@pytest.mark.parametrize("form", FORMS)
def test_our_lists_replay_to_the_tpm_that_saw_them(name: str, form: str) -> None:
    data = (OURS / name / form).read_bytes()
    ima_list = parse_ima_list(data)
    shown = pcr10_values(ima_list)
    for bank in (HashAlgorithm.SHA1, HashAlgorithm.SHA256):
        assert shown[bank] == our_pcrs(name, bank).values[10]
    result = replay(
        ImaExcerpt(0, data), ImaPosition.start(HashAlgorithm.SHA256), shown[HashAlgorithm.SHA256], frozenset()
    )
    assert (result.judged, result.waiting) == (len(ima_list.entries), 0)


@pytest.mark.parametrize("name", OUR_LISTS)
def test_a_bank_in_which_the_kernel_could_not_hash_proves_nothing(name: str) -> None:
    """This kernel has SHA-384 as a module, and extended that bank with SHA-1 hashes and zeros (attack 25)."""
    bank = HashAlgorithm.SHA384
    data = (OURS / name / "ima.bin").read_bytes()
    quoted = our_pcrs(name, bank).values[10]
    value = bytes(bank.size)
    for entry in parse_ima_list(data).entries:
        hashed = HashAlgorithm.SHA1.digest(entry.template_data) + bytes(28)
        value = bank.digest(value + (b"\xff" * bank.size if isinstance(entry, Violation) else hashed))
    assert value == quoted
    with pytest.raises(LogRejected, match="PCR 10 to reach"):
        replay(ImaExcerpt(0, data), ImaPosition.start(bank), quoted, frozenset())


@pytest.mark.parametrize("name", OUR_LISTS)
def test_our_lists_begin_with_the_boot_aggregate_of_their_boot(name: str) -> None:
    """The template `ima` has it in SHA-1 only, which no quote that counts can answer."""
    bank = HashAlgorithm.SHA256
    policy = compile_runtime_policy(
        files=[{bank: {"/never": "00" * 32}}],
        revoked=(),
        signing_keys=(),
        excluded=["/**"],
        tolerated_violations=["/**"],
        buffers=(),
    )
    excerpt = ImaExcerpt(0, (OURS / name / "ima.bin").read_bytes())
    appraisal = judge_ima(excerpt, ImaPosition.start(bank), our_pcrs(name, bank), policy, NOW)
    about = [finding.reason for finding in appraisal.findings if finding.subject == "boot_aggregate"]
    assert about == ([Reason.MISSING_EVIDENCE] if name == "ima" else [])


@pytest.mark.parametrize("form", FORMS)
def test_odd_names_are_read_as_the_kernel_saw_them(form: str) -> None:
    entries = parse_ima_list((OURS / "ima-ng" / form).read_bytes()).entries
    names = [entry.path for entry in entries if isinstance(entry, MeasuredFile)]
    assert b"/odd/with_space" in names
    assert b"/odd/new\nline" in names
    assert b"/odd/back\\slash" in names
    assert b"/odd/\xff\xfe_is_not_UTF-8" in names
    assert b"/odd/gone_(deleted)" in names
    assert b"/odd/tab\there\rreturn" in names
    assert b"/odd/line\n10_" + b"0" * 40 + b"_ima-ng_sha256:00" in names


@pytest.mark.parametrize("form", FORMS)
def test_a_template_of_ones_own_is_refused(form: str) -> None:
    with pytest.raises(MalformedImaList, match="known template"):
        parse_ima_list((OURS / "own-format" / form).read_bytes())


@pytest.mark.parametrize("name", ["signed-ima-sig", "signed-ima-sigv2"])
def test_signatures_that_a_kernel_measured_are_judged(name: str) -> None:
    bank = HashAlgorithm.SHA256
    keys = [
        file_signing_key(
            key, (OURS / "keys" / f"{key}.der").read_bytes(), not_after=LATER, revoked=False, paths=["/**"]
        )
        for key in ("rsa", "ecdsa")
    ]
    in_force = max(key.not_before or NOW for key in keys)
    policy = compile_runtime_policy(
        files=(), revoked=(), signing_keys=keys, excluded=(), tolerated_violations=(), buffers=()
    )
    excerpt = ImaExcerpt(0, (OURS / name / "ima.bin").read_bytes())
    appraisal = judge_ima(excerpt, ImaPosition.start(bank), our_pcrs(name, bank), policy, in_force)
    said = {finding.subject: finding.reason for finding in appraisal.findings}
    assert {path: said.get(path) for path in said.keys() | {"/signed/rsa", "/signed/ecdsa"} if "/signed/" in path} == {
        "/signed/rsa": None,
        "/signed/ecdsa": None,
        "/signed/altered": Reason.BAD_FILE_SIGNATURE,
        "/signed/unknown": Reason.BAD_FILE_SIGNATURE,
        "/signed/weak": Reason.BAD_FILE_SIGNATURE,
        "/signed/unsigned": Reason.UNKNOWN_FILE,
        "/signed/hash-only": Reason.UNKNOWN_FILE,
    }
    assert said[".builtin_trusted_keys"] is Reason.UNKNOWN_KEY_MEASURED
