"""Policies: versions that never change, one of them live; what judges is one row that is always up to date."""

import hashlib
import re
from pathlib import Path

import pytest

from steelyard.attestation.ports import grounds_digest
from steelyard.attestation.references import policies
from steelyard.model.errors import Changed, MalformedPolicy, NotAllowed, NotFound, WrongUse
from steelyard.service import journal
from steelyard.service.database import Database
from tests.unit.attestation.references.rig import (
    ADMIN,
    AUDITOR,
    BLUE,
    READER,
    RED,
    SEALER,
    Authority,
    policy_bytes,
)


@pytest.fixture
def authority(database: Database) -> Authority:
    return Authority(database)


def test_a_kept_version_judges_nobody_before_it_is_live(authority: Authority) -> None:
    kept = authority.put_policy()
    assert (kept.latest, kept.live) == (1, None)
    with pytest.raises(NotFound):
        authority.judges()
    live = authority.make_live()
    assert live.live == 1
    assert authority.judges()[0] == policy_bytes()
    authority.put_policy(policy_bytes(version=2))
    assert authority.judges()[0] == policy_bytes()


def test_versions_rise_and_never_change(authority: Authority) -> None:
    authority.put_policy(policy_bytes(version=3))
    for version in (1, 2, 3):
        with pytest.raises(WrongUse):
            authority.put_policy(policy_bytes(version=version, machine_class=None))
    assert authority.put_policy(policy_bytes(version=7)).latest == 7
    assert document(authority, 3) == policy_bytes(version=3)


def document(authority: Authority, number: int | None) -> bytes:
    with authority.database.reading() as connection:
        return policies.get_document(connection, RED, project="red", name="airlock", number=number)


def test_the_newest_version_once_more_changes_nothing(authority: Authority) -> None:
    first = authority.put_policy()
    assert authority.put_policy() == first


def test_a_document_of_another_policy_or_none_is_refused(authority: Authority) -> None:
    with pytest.raises(WrongUse):
        authority.put_policy(policy_bytes("runtime"))
    for wrong in (b"", b"{}", policy_bytes(components=[]), policy_bytes(signers={"threshold": 1, "keys": []})):
        with pytest.raises(MalformedPolicy):
            authority.put_policy(wrong)


def test_an_older_version_is_gone_back_to(authority: Authority) -> None:
    authority.put_policy(policy_bytes(version=1))
    authority.put_policy(policy_bytes(version=2, machine_class=None))
    authority.make_live(2)
    authority.make_live(1)
    assert authority.judges()[0] == policy_bytes(version=1)
    with authority.database.reading() as connection:
        history = policies.list_versions(connection, RED, project="red", name="airlock", after=0, limit=10)
    assert [(one.number, one.live_since is not None) for one in history] == [(1, True), (2, False)]


def test_what_somebody_else_changed_meanwhile_is_not_overwritten(authority: Authority) -> None:
    seen = authority.put_policy()
    authority.make_live()
    with pytest.raises(Changed), authority.tx() as tx:
        policies.put_policy(
            tx,
            RED,
            project="red",
            name="airlock",
            document=policy_bytes(version=2),
            expected_version=seen.version,
        )
    with pytest.raises(Changed), authority.tx() as tx:
        policies.make_live(tx, RED, SEALER, project="red", name="airlock", number=1, expected_version=seen.version)


def test_what_judges_has_one_digest(authority: Authority) -> None:
    authority.boots()
    with authority.database.reading() as connection:
        found = policies.StoredPolicies().in_force(connection, "red", "airlock")
    assert found.grounds == grounds_digest(found.sha256, found.references)
    assert len(found.references) == 4
    authority.revoke_release("airlock", "1.0")
    with authority.database.reading() as connection:
        after = policies.StoredPolicies().in_force(connection, "red", "airlock")
    assert after.id == found.id
    assert after.grounds != found.grounds


def test_what_judged_once_can_be_read_for_ever(authority: Authority) -> None:
    authority.boots()
    before = authority.judges()
    port = policies.StoredPolicies()
    with authority.database.reading() as connection:
        found = port.in_force(connection, "red", "airlock")
    authority.revoke_release("ovmf", "1.0")
    authority.put_policy(policy_bytes(version=2))
    authority.make_live(2)
    with authority.database.reading() as connection:
        assert port.content(connection, found.sha256) == before[0]
        assert [port.content(connection, one) for one in found.references] == before[1]


def test_another_project_has_its_own(authority: Authority) -> None:
    authority.boots()
    with authority.database.reading() as connection, pytest.raises(NotFound):
        policies.StoredPolicies().in_force(connection, "blue", "airlock")


def test_policies_are_changed_by_members_with_the_right(authority: Authority) -> None:
    with pytest.raises(NotFound):
        authority.put_policy(by=BLUE)
    for caller in (AUDITOR, READER):
        with pytest.raises(NotAllowed):
            authority.put_policy(by=caller)
    authority.put_policy(by=ADMIN)
    with pytest.raises(NotAllowed):
        authority.make_live(by=READER)
    with pytest.raises(NotFound):
        authority.make_live(9)


def test_every_change_of_what_judges_is_in_the_journal(authority: Authority) -> None:
    authority.boots()
    authority.revoke_release("ovmf", "1.0")
    with authority.database.reading() as connection:
        verbs = [entry.verb for entry in journal.read_entries(connection, RED, after=0, limit=100)]
    assert verbs[:1] == ["signers.set"]
    assert verbs[-5:] == ["policy.kept", "policy.live", "policy.grounds", "release.revoked", "policy.grounds"]


def test_the_documented_example_of_grounds_is_what_the_code_computes() -> None:
    page = (Path(__file__).parents[4] / "docs" / "formats.md").read_text()
    row = dict(re.findall(r"^\| (document|grounds) \| `([^`]+)` \|$", page, re.MULTILINE))
    document, *envelopes = (hashlib.sha256(text).digest() for text in (row["document"].encode(), b"one", b"two"))
    assert grounds_digest(document, envelopes).hex() == row["grounds"]
    assert grounds_digest(document, reversed(envelopes)).hex() == row["grounds"]
