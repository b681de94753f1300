"""The commands of the reference authority, over HTTP to a service that listens in this process."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from steelyard.attestation.references.trying import DryRuns
from steelyard.evidence.document import format_time
from steelyard.evidence.reference.version import Version
from steelyard.service.database import Database
from tests import recorded
from tests.api import Api, make_api
from tests.fakes.evidence import FakeEvidence
from tests.unit.attestation.references import rig
from tests.unit.attestation.references.rig import Authority, components, ovmf, policy_bytes, signed
from tests.unit.cli.command import Command, sign_in


@pytest.fixture
def evidence() -> FakeEvidence:
    kept = FakeEvidence()
    kept.put("airlock", "n1", recorded.bundle("first"))
    kept.put("airlock", "n2", recorded.bundle("changed-firmware"))
    return kept


@pytest.fixture
def api(sqlite_database: Database, evidence: FakeEvidence) -> Iterator[Api]:
    made = make_api(sqlite_database)
    runs = DryRuns(sqlite_database, evidence, rig.SEALER)
    runs.start()
    yield made
    runs.stop(20)


@pytest.fixture
def authority(api: Api) -> Authority:
    return Authority(api.database)


@pytest.fixture
def as_admin(steelyard: Command, home: Path) -> Command:
    sign_in(steelyard, home, "admin")
    return steelyard


def key_text(steelyard: Command, path: Path) -> str:
    return steelyard("reference", "keygen", "--out", path).output.strip()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_firmware_update_from_the_command_line(as_admin: Command, authority: Authority, tmp_path: Path) -> None:
    steelyard = as_admin
    release = rig.raw(rig.RELEASE)["key1"]
    key = base64.b64encode(release).decode()
    assert steelyard("attest", "reference", "set-signers", "--key", f"release={key}", "--threshold", 1).exit_code == 0
    files = [
        write(tmp_path / f"{name}.json", signed(authority.fresh(manifest)))
        for name, manifest in recorded.manifests().items()
    ]
    uploaded = steelyard("attest", "reference", "upload", *files, "--json").json()
    assert {one["standing"] for one in uploaded["items"]} == {"accepted"}
    document = write(tmp_path / "airlock.json", policy_bytes())
    assert steelyard("attest", "policy", "put", document).exit_code == 0
    assert steelyard("attest", "policy", "live", "airlock", 1, "--json").json()["in_force"]["number"] == 1

    shown = steelyard("attest", "policy", "dry-run", "airlock")
    assert shown.exit_code == 0  # n2 fails, as it does today
    assert "n2: would fail, as it does today" in shown.output
    assert "unknown-event" in shown.output
    assert "2 of 2 nodes" in shown.errors

    new = write(
        tmp_path / "new.json", signed(authority.fresh(ovmf("changed-firmware"), version=Version("2.0"), serial=2))
    )
    proposed = steelyard("attest", "reference", "upload", new, "--propose", "--json").json()["items"][0]
    assert proposed["standing"] == "proposed"
    short = proposed["id"][:10]
    shown = steelyard("attest", "policy", "dry-run", "airlock", "--accept", short)
    assert (shown.exit_code, "n2: would pass, and fails today" in shown.output) == (0, True)
    assert steelyard("attest", "reference", "accept", short).exit_code == 0

    write(document, policy_bytes(version=1, components=components(ovmf="2.0")))
    assert steelyard("attest", "policy", "put", document).exit_code == 2  # version 1 was kept already
    put = steelyard("attest", "policy", "put", document, "--renumber", "--json").json()
    assert put["latest"] == 2
    shown = steelyard("attest", "policy", "dry-run", "airlock", "--number", 2)
    assert (shown.exit_code, "n1: WOULD FAIL, and passes today" in shown.output) == (4, True)
    told = steelyard("attest", "policy", "dry-run", "airlock", "--number", 2, "--json")
    assert told.exit_code == 4
    assert told.json()["breaks"] == 1
    run = told.json()["dry_run"]["id"]
    assert steelyard("attest", "policy", "results", run).exit_code == 4
    assert run in steelyard("attest", "policy", "dry-runs").output
    assert steelyard("attest", "policy", "history", "airlock", "--json").json()["items"][0]["live_since"] is not None
    kept = tmp_path / "kept.json"
    assert steelyard("attest", "policy", "show", "airlock", "--number", 2, "--out", kept).exit_code == 0
    assert json.loads(kept.read_bytes())["version"] == 2
    assert steelyard("attest", "policy", "show", "airlock", "--number", 2).exit_code == 2
    assert "airlock" in steelyard("attest", "policy", "list").output


def test_revoking_from_the_command_line(as_admin: Command, authority: Authority, tmp_path: Path) -> None:
    authority.boots()
    steelyard = as_admin
    listed = steelyard("attest", "reference", "list", "--json").json()["items"]
    [its_id] = [one["id"] for one in listed if one["component"] == "ovmf"]
    shown = steelyard("attest", "policy", "dry-run", "airlock", "--revoke", its_id[:8])
    assert shown.exit_code == 4
    assert steelyard("attest", "reference", "revoke", its_id[:8], "--why", "wrong file").exit_code == 0
    assert steelyard("attest", "reference", "show", its_id, "--json").json()["why"] == "wrong file"
    assert steelyard("attest", "reference", "revoke-version", "airlock", "1.0", "--why", "a bug").exit_code == 0
    assert "a bug" in steelyard("attest", "reference", "revoked").output
    judging = tmp_path / "judging.json"
    assert steelyard("attest", "policy", "show", "airlock", "--out", judging).exit_code == 0
    revoked = {one["component"]: one["revoked"] for one in json.loads(judging.read_bytes())["components"]}
    assert revoked["airlock"] == ["1.0"]
    assert steelyard("attest", "reference", "restore-version", "airlock", "1.0").exit_code == 0
    assert steelyard("attest", "reference", "revoked", "--json").json() == {"items": []}


def test_an_id_is_named_by_enough_digits(as_admin: Command, authority: Authority) -> None:
    authority.boots()
    assert as_admin("attest", "reference", "show", "abc").exit_code == 2
    assert as_admin("attest", "reference", "show", "0" * 12).exit_code == 7


def test_a_mirror_from_the_command_line(as_admin: Command, authority: Authority, home: Path, tmp_path: Path) -> None:
    steelyard = as_admin
    authority.boots()
    assert steelyard("attest", "reference", "publish", "--root", "offline", "--public").exit_code == 0
    key_text(steelyard, tmp_path / "root.pem")
    root = tmp_path / "root.json"
    assert steelyard("attest", "reference", "make-root", "--key", tmp_path / "root.pem", "--out", root).exit_code == 0
    assert steelyard("attest", "reference", "put-root", root).exit_code == 0
    assert steelyard("attest", "reference", "get-root", "--out", tmp_path / "got.json").exit_code == 0
    assert (tmp_path / "got.json").read_bytes() == root.read_bytes()
    mirror = ("attest", "reference", "mirror", tmp_path / "mirror", "--project", "red")
    assert steelyard(*mirror).exit_code == 2  # no root to begin with
    assert "4 references, 4 of them new" in steelyard(*mirror, "--root", root).output
    url = (home / "url").read_text()
    public = (*mirror, "--url", url)
    assert "4 references, 0 of them new" in steelyard(*public).output
    # Another root key, signed by the last one too; the mirror follows by itself.
    key_text(steelyard, tmp_path / "next.pem")
    keys = ("--key", tmp_path / "next.pem", "--last-key", tmp_path / "root.pem")
    assert steelyard("attest", "reference", "make-root", *keys, "--out", root).exit_code == 0
    assert steelyard("attest", "reference", "put-root", root, "--json").json()["root_version"] == 2
    assert steelyard(*public, "--json").json()["references"]
    # What was mirrored judges without a service.
    policy = write(tmp_path / "policy.json", policy_bytes())
    bundle = write(tmp_path / "first.json", recorded.bundle("first").to_bytes())
    references = ("--references", tmp_path / "mirror" / "references")
    now = format_time(authority.database.clock())
    assert steelyard("evidence", "appraise", bundle, "--policy", policy, *references, "--at", now).exit_code == 0


def test_makers_from_the_command_line(as_admin: Command, home: Path, tmp_path: Path) -> None:
    steelyard = as_admin
    first, second = (write(tmp_path / f"{name}.pem", rig.maker_certificate(name).encode()) for name in ("a", "b"))
    assert steelyard("attest", "maker-ca", "put", "lab", first, second).output.startswith("lab: 2 certificates")
    assert "CN=a" in steelyard("attest", "maker-ca", "show", "lab").output
    assert steelyard("attest", "maker-ca", "put", "lab", first, "--provider").exit_code == 7
    sign_in(steelyard, home, "provider")
    assert steelyard("attest", "maker-ca", "put", "all", first, "--provider", "--demand", "usage").exit_code == 0
    sign_in(steelyard, home, "admin")
    assert steelyard("attest", "maker-ca", "list", "--provider", "--json").json()["items"][0]["demands"] == ["usage"]
    assert steelyard("attest", "maker-ca", "delete", "lab").exit_code == 0
    assert steelyard("attest", "maker-ca", "list", "--json").json() == {"items": []}


def test_a_leaf_certificate_is_no_maker(as_admin: Command) -> None:
    leaf = recorded.BOOTS.parent / "ek.der"
    assert as_admin("attest", "maker-ca", "put", "lab", leaf).exit_code == 2


def test_members_do_not_name_signers(steelyard: Command, home: Path) -> None:
    sign_in(steelyard, home, "member")
    key = "3n5GkUAWtDxWCMQAlsvmbHDDjM6Hbqk0j6BEgoDiQj8="
    refused = steelyard("attest", "reference", "set-signers", "--key", f"me={key}", "--threshold", 1)
    assert refused.exit_code == 7
    assert "admin" in refused.errors
