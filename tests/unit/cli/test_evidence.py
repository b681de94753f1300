"""`steelyard evidence`: what it prints, and what it ends with."""

import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from steelyard.evidence.reference.dsse import sign
from steelyard.evidence.reference.manifest import PAYLOAD_TYPE
from steelyard.evidence.tpm.public import parse_tpm2b_public
from tests.lab.recording import pcr_file
from tests.recorded import BOOTS, QUOTED, RULES, bundle, manifests
from tests.unit.cli.command import Command
from tests.unit.evidence.samples import KEY, encode, policy_document
from tests.vectors_dir import OWN, shared_vectors

SWTPM = OWN / "swtpm"
AK = SWTPM / "p256-ecdsa-sha256"


def quote_arguments(**changes: object) -> list[object]:
    arguments: dict[str, object] = {
        "ak": AK / "ak.pub",
        "quote": AK / "2-extended.msg",
        "signature": AK / "2-extended.sig",
        "pcrs": AK / "2-extended.pcrs",
        "nonce": (SWTPM / "nonce").read_bytes().hex(),
        **changes,
    }
    return ["evidence", "quote", *(word for name, value in arguments.items() for word in (f"--{name}", value))]


def test_an_event_log_is_printed_as_the_document_promised(steelyard: Command) -> None:
    outcome = steelyard("evidence", "eventlog", BOOTS / "first" / "event_log.bin", "--json")
    assert outcome.exit_code == 0
    document = outcome.json()
    assert set(document) == {"banks", "events"}
    assert {frozenset(event) for event in document["events"]} == {
        frozenset({"pcr", "type", "digests", "what", "trusted"})
    }
    values = json.loads((BOOTS / "first" / "pcrs.json").read_text())
    for bank, pcrs in document["banks"].items():
        for index, value in pcrs.items():
            assert value == values[bank][index]


def test_every_recorded_log_replays_to_what_was_expected(steelyard: Command) -> None:
    folder = shared_vectors("eventlogs")
    expected = json.loads((folder / "EXPECTED.json").read_text())
    for name, right in expected.items():
        outcome = steelyard("evidence", "eventlog", folder / name, "--json")
        if name.endswith("-bogus"):
            assert outcome.exit_code == 3
            continue
        assert outcome.exit_code == 0, name
        assert len(outcome.json()["events"]) == right["events"]
        assert {bank: pcrs for bank, pcrs in outcome.json()["banks"].items() if pcrs} == right["pcrs"], name


def test_what_a_digest_does_not_cover_is_marked_untrusted(steelyard: Command) -> None:
    events = steelyard("evidence", "eventlog", BOOTS / "first" / "event_log.bin", "--json").json()["events"]
    trusted = {event["type"]: event["trusted"] for event in events}
    assert trusted["EV_EFI_ACTION"] is True
    assert trusted["EV_SEPARATOR"] is True
    assert trusted["EV_EFI_VARIABLE_BOOT"] is False
    assert trusted["EV_EFI_BOOT_SERVICES_APPLICATION"] is False
    assert trusted["EV_NO_ACTION"] is False


def test_a_sha1_log_is_read_and_said_not_to_be_believed(steelyard: Command) -> None:
    outcome = steelyard("evidence", "eventlog", shared_vectors("eventlogs") / "tt-event-uefi-sha1-log.bin")
    assert outcome.exit_code == 0
    assert "not believed" in outcome.output


def test_a_table_for_a_pipe_has_one_line_for_each_event(steelyard: Command) -> None:
    lines = steelyard("evidence", "eventlog", BOOTS / "first" / "event_log.bin").output.splitlines()
    assert sum("EV_SEPARATOR" in line for line in lines) == 8
    assert all(line == line.rstrip() for line in lines)


def test_a_list_is_summed_up_as_the_document_promised(steelyard: Command) -> None:
    outcome = steelyard("evidence", "ima", BOOTS / "first" / "ima.ascii", "--json")
    assert outcome.exit_code == 0
    document = outcome.json()
    values = json.loads((BOOTS / "first" / "pcrs.json").read_text())
    assert document["entries"] == 4
    assert document["violations"] == 0
    assert document["templates"] == {"ima-sig": 4}
    assert document["pcr10"]["sha256"] == values["sha256"]["10"]
    assert document["pcr10"]["sha1"] == values["sha1"]["10"]


@pytest.mark.parametrize("name", ["kl-ima-log-unknown", "rk-invalid_ima_log.txt"])
def test_a_list_that_is_none_is_malformed(steelyard: Command, name: str) -> None:
    assert steelyard("evidence", "ima", shared_vectors("ima") / name).exit_code == 3


def test_a_good_quote_is_good(steelyard: Command) -> None:
    outcome = steelyard(*quote_arguments(), "--json")
    assert outcome.exit_code == 0
    document = outcome.json()
    assert document["verified"] is True
    assert document["key"]["restricted"] is True
    assert document["pcrs"]["16"] != "00" * 32


def test_a_quote_for_another_nonce_is_rejected_and_the_reason_told(steelyard: Command) -> None:
    outcome = steelyard(*quote_arguments(nonce="00" * 20), "--json")
    assert outcome.exit_code == 4
    error = outcome.json()["error"]
    assert error["code"] == "wrong-nonce"
    assert error["expected"] == "qualifying data " + "00" * 20
    assert "wrong-nonce" in outcome.errors


def test_a_quote_over_fewer_pcrs_than_asked_is_rejected(steelyard: Command) -> None:
    outcome = steelyard(*quote_arguments(select="sha256:0,1,2,3,4,5,6,7,10,16,23"))
    assert outcome.exit_code == 4
    assert "wrong-selection" in outcome.errors


def test_a_pcr_file_of_three_whole_banks_is_asked_for_one(steelyard: Command, tmp_path: Path) -> None:
    values = {index: bytes(32) for index in range(24)}
    one_bank = pcr_file(values, range(24))
    selection, lists = one_bank[4:12], one_bank[136:]
    three = (3).to_bytes(4, "little") + selection * 3 + bytes(13 * 8) + (9).to_bytes(4, "little") + lists * 3
    (tmp_path / "pcrs").write_bytes(three)
    outcome = steelyard(*quote_arguments(pcrs=tmp_path / "pcrs"))
    assert outcome.exit_code == 2
    assert "one bank at a time" in outcome.errors


def test_a_pem_key_verifies_too_and_is_said_to_tell_less(steelyard: Command, tmp_path: Path) -> None:
    key = parse_tpm2b_public((AK / "ak.pub").read_bytes()).parameters.public_key()
    pem = tmp_path / "ak.pem"
    pem.write_bytes(key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    outcome = steelyard(*quote_arguments(ak=pem), "--json")
    assert outcome.exit_code == 0
    assert outcome.json()["key"]["restricted"] is False


@pytest.mark.parametrize(
    ("changes", "exit_code"),
    [
        ({"nonce": "zz"}, 2),
        ({"select": "sha256"}, 2),
        ({"select": "md5:1"}, 2),
        ({"select": "sha256:99"}, 2),
        ({"quote": "/nonexistent"}, 2),
        ({"quote": AK / "ak.pub"}, 4),
        ({"signature": AK / "ak.pub"}, 3),
        ({"pcrs": AK / "ak.pub"}, 3),
        ({"ak": AK / "2-extended.msg"}, 3),
        ({"ak": AK / "ek.pub"}, 4),
    ],
)
def test_every_wrong_input_ends_with_its_exit_code(
    steelyard: Command, changes: dict[str, object], exit_code: int
) -> None:
    outcome = steelyard(*quote_arguments(**changes))
    assert outcome.exit_code == exit_code
    assert "expected" in outcome.errors
    assert "next" in outcome.errors


def test_an_endorsement_certificate_is_verified_and_the_maker_named(steelyard: Command) -> None:
    vectors = shared_vectors("certs")
    arguments = ["--maker-ca", vectors.parent / "maker-ca", "--at", "2026-01-01T00:00:00Z", "--json"]
    outcome = steelyard("evidence", "ek-cert", vectors / "stm-rsa-ek.der", *arguments)
    assert outcome.exit_code == 0
    assert outcome.json()["manufacturer"] == "STM"
    assert len(outcome.json()["chain"]) == 2


def test_a_certificate_of_no_trusted_maker_is_rejected(steelyard: Command, tmp_path: Path) -> None:
    vectors = shared_vectors("certs")
    (tmp_path / "other.pem").write_bytes((vectors.parent / "maker-ca" / "ibm-gstpmroot.pem").read_bytes())
    outcome = steelyard("evidence", "ek-cert", vectors / "stm-rsa-ek.der", "--maker-ca", tmp_path)
    assert outcome.exit_code == 4


def test_an_empty_directory_of_makers_is_wrong_use(steelyard: Command, tmp_path: Path) -> None:
    assert steelyard("evidence", "ek-cert", AK / "ek.pub", "--maker-ca", tmp_path).exit_code != 0
    certificate = SWTPM / "certificates" / "ek-rsa2048.der"
    outcome = steelyard("evidence", "ek-cert", certificate, "--maker-ca", tmp_path)
    assert outcome.exit_code == 2


# -- whole appraisals --------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with a policy and signed references."""
    (tmp_path / "policy.json").write_bytes(encode({**policy_document(), **RULES}))
    (tmp_path / "references").mkdir()
    for name, made in manifests().items():
        envelope = sign(made.to_bytes(), PAYLOAD_TYPE, KEY)
        (tmp_path / "references" / f"{name}.json").write_bytes(envelope.to_bytes())
    return tmp_path


def appraise(steelyard: Command, site: Path, name: str, *more: object) -> tuple[int, dict[str, object], str]:
    record = site / "bundle.json"
    record.write_bytes(bundle(name).to_bytes())
    arguments = ["--policy", site / "policy.json", "--references", site / "references", *more]
    human = steelyard("evidence", "appraise", record, *arguments)
    outcome = steelyard("evidence", "appraise", record, *arguments, "--json")
    assert outcome.exit_code == human.exit_code
    return outcome.exit_code, outcome.json(), human.output


def test_a_good_bundle_passes_with_all_that_it_rests_on(steelyard: Command, site: Path) -> None:
    exit_code, document, text = appraise(steelyard, site, "first")
    assert exit_code == 0
    assert document["verdict"] == "passed"
    assert document["findings"] == []
    assert document["references_not_used"] == []
    assert "PASSED: first by sample version 1" in text
    assert "boot entries differ between machines" in text


def test_a_changed_machine_is_rejected_with_every_reason(steelyard: Command, site: Path) -> None:
    exit_code, document, text = appraise(steelyard, site, "other-command-line")
    assert exit_code == 4
    assert document["verdict"] == "rejected"
    assert isinstance(document["findings"], list)
    assert len(document["findings"]) == 6
    assert text.count("unknown-event") == 3


def test_the_verdict_is_the_same_at_any_later_time(steelyard: Command, site: Path) -> None:
    assert appraise(steelyard, site, "first") == appraise(steelyard, site, "first")


def test_references_out_of_force_do_not_count(steelyard: Command, site: Path) -> None:
    exit_code, document, _ = appraise(steelyard, site, "first", "--at", "2031-01-01T00:00:00Z")
    assert exit_code == 4
    assert isinstance(document["references_not_used"], list)
    assert len(document["references_not_used"]) == 4


def test_a_reference_nobody_trusted_signed_is_left_out_and_named(steelyard: Command, site: Path) -> None:
    path = site / "references" / "ovmf.json"
    spoilt = json.loads(path.read_text())
    spoilt["signatures"] = []
    path.write_text(json.dumps(spoilt))
    exit_code, document, text = appraise(steelyard, site, "first")
    assert exit_code == 4
    assert document["references_not_used"] == [{"file": "ovmf.json", "why": "reference-rejected"}]
    assert "reference not used: ovmf.json" in text


def test_a_bundle_made_of_files_is_the_verifiers_own(steelyard: Command, tmp_path: Path) -> None:
    folder = BOOTS / "first"
    values = {
        int(index): bytes.fromhex(value)
        for index, value in json.loads((folder / "pcrs.json").read_text())["sha256"].items()
    }
    (tmp_path / "pcrs").write_bytes(pcr_file(values, QUOTED))
    made = tmp_path / "made.json"
    outcome = steelyard(
        *("evidence", "bundle", "--node", "first", "--ak", OWN / "ovmf" / "ak.pub"),
        *("--quote", folder / "quote.msg", "--signature", folder / "quote.sig", "--pcrs", tmp_path / "pcrs"),
        *("--nonce", (folder / "nonce").read_bytes().hex(), "--eventlog", folder / "event_log.bin"),
        *("--ima", folder / "ima.ascii", "--received", "2026-11-24T12:00:00Z", "--out", made),
    )
    assert outcome.exit_code == 0
    assert made.read_bytes() == bundle("first").to_bytes()


def test_a_name_that_is_none_makes_no_bundle(steelyard: Command, tmp_path: Path) -> None:
    out = tmp_path / "bundle.json"
    outcome = steelyard("evidence", "bundle", "--node", "../x", *quote_arguments()[2:], "--out", out)
    assert outcome.exit_code == 2
    assert not out.exists()


# -- references --------------------------------------------------------------------------------------------------------


def test_a_key_is_made_for_its_owner_alone_and_never_over_another(steelyard: Command, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    public = steelyard("reference", "keygen", "--out", path)
    assert public.exit_code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    again = steelyard("reference", "keygen", "--out", path)
    assert again.exit_code == 2
    assert path.read_bytes() == before


def test_a_manifest_is_made_signed_and_verified(steelyard: Command, tmp_path: Path) -> None:
    tree = tmp_path / "root"
    (tree / "usr" / "bin").mkdir(parents=True)
    (tree / "usr" / "bin" / "tool").write_bytes(b"a tool")
    (tree / "usr" / "bin" / "alias").symlink_to("tool")
    about = ["--component", "tools", "--version", "1.0", "--serial", 1, "--valid-days", 30]
    made = steelyard("reference", "from-rootfs", tree, *about, "--out", tmp_path / "tools.json")
    assert made.exit_code == 0
    public = steelyard("reference", "keygen", "--out", tmp_path / "key.pem").output.strip()
    signed = tmp_path / "signed.json"
    key = ["--key", tmp_path / "key.pem"]
    assert steelyard("reference", "sign", tmp_path / "tools.json", *key, "--out", signed).exit_code == 0
    verified = steelyard("reference", "verify", signed, "--key", f"me={public}", "--threshold", 1, "--json")
    assert verified.exit_code == 0
    assert verified.json()["files"] == 1
    assert verified.json()["signed_by"] == ["me"]
    stranger = steelyard("reference", "keygen", "--out", tmp_path / "other.pem").output.strip()
    refused = steelyard("reference", "verify", signed, "--key", f"me={stranger}", "--threshold", 1)
    assert refused.exit_code == 4


def test_a_manifest_that_cannot_be_read_again_is_not_written(steelyard: Command, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "tool").write_bytes(b"a tool")
    about = ["--component", "tools", "--version", "1.0", "--out", tmp_path / "tools.json"]
    for wrong in (
        ["--serial", 2**53 + 1, "--valid-days", 1],
        ["--serial", 1, "--valid-days", 3660, "--issued", "9995-01-01T00:00:00Z"],
    ):
        assert steelyard("reference", "from-rootfs", tmp_path / "root", *about, *wrong).exit_code == 2
    assert not (tmp_path / "tools.json").exists()


def test_a_manifest_that_another_tool_signed_is_signed_too(steelyard: Command, tmp_path: Path) -> None:
    """Whatever the order of the envelope's fields."""
    envelope = json.loads(sign(manifests()["airlock"].to_bytes(), PAYLOAD_TYPE, KEY).to_bytes())
    path = tmp_path / "airlock.json"
    path.write_text(json.dumps(dict(sorted(envelope.items()))))
    steelyard("reference", "keygen", "--out", tmp_path / "key.pem")
    assert steelyard("reference", "sign", path, "--key", tmp_path / "key.pem", "--out", path).exit_code == 0
    assert len(json.loads(path.read_text())["signatures"]) == 2


def test_what_is_no_manifest_is_not_signed(steelyard: Command, tmp_path: Path) -> None:
    steelyard("reference", "keygen", "--out", tmp_path / "key.pem")
    (tmp_path / "note.json").write_text("{}")
    signed = tmp_path / "signed.json"
    outcome = steelyard("reference", "sign", tmp_path / "note.json", "--key", tmp_path / "key.pem", "--out", signed)
    assert outcome.exit_code == 3
    assert not signed.exists()


def test_help_is_there_for_every_command(steelyard: Command) -> None:
    for path in (["evidence", "appraise"], ["reference", "from-uki"], []):
        outcome = steelyard(*path, "--help")
        assert outcome.exit_code == 0
        assert "Usage" in outcome.output
