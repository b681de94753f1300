"""What is published, and what a mirror of it refuses: roll-back, freeze, mix-and-match, files that are others."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from steelyard.attestation.references import manifests, publication, repository, store
from steelyard.attestation.references.objects import RootKind, Standing
from steelyard.attestation.references.repository import LASTS
from steelyard.client.reference_mirror import Mirrored, mirror_references
from steelyard.evidence.reference.version import Version
from steelyard.model.errors import (
    MalformedReference,
    NotAllowed,
    NotFound,
    ReferenceRejected,
    SteelyardError,
    Unavailable,
    WrongState,
    WrongUse,
)
from steelyard.model.secret import Secret
from steelyard.service.database import Database
from steelyard.service.sealing import Sealer
from tests.unit.attestation.references.rig import ADMIN, DAY, RED, RELEASE, SEALER, SECOND, Authority, raw, signed

HOUR: Final = timedelta(hours=1)


@dataclass(slots=True)
class Clock:
    """A time that a test sets."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(sqlite_database: Database, clock: Clock) -> Iterator[Authority]:
    database = Database(str(sqlite_database.url), clock=clock)
    made = Authority(database)
    made.signers()
    yield made
    database.close()


@dataclass(slots=True)
class Line:
    """The network between a repository and its mirror. `lies`: what comes for a file instead, or what is raised."""

    authority: Authority
    directory: Path
    lies: dict[str, bytes | SteelyardError] = field(default_factory=dict)

    def fetch(self, file: str) -> Iterator[bytes]:
        lie = self.lies.get(file)
        if isinstance(lie, SteelyardError):
            raise lie
        if lie is not None:
            yield lie
            return
        kind, _, name = file.partition("/")
        yield self.authority.metadata(name) if kind == "metadata" else self.authority.target(name)

    def mirror(self, root: bytes | None = None) -> Mirrored:
        return mirror_references(self.fetch, self.directory, root)

    def begin(self) -> Mirrored:
        """Mirror for the first time."""
        return self.mirror(self.authority.metadata("1.root.json"))

    def files(self) -> dict[str, bytes]:
        """Return what is in the directory of references."""
        return {file.name: file.read_bytes() for file in sorted((self.directory / "references").iterdir())}


@pytest.fixture
def line(authority: Authority, tmp_path: Path) -> Line:
    return Line(authority, tmp_path / "mirror")


def document(data: bytes) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(data)
    return read


# -- all is well -------------------------------------------------------------------------------------------------------


def test_a_mirror_has_what_counts_byte_for_byte(authority: Authority, line: Line) -> None:
    first, second = authority.sample(serial=1), authority.sample("airlock", serial=4)
    authority.add(first)
    authority.add(authority.sample("proposed"), standing=Standing.PROPOSED)
    authority.publish()
    begun = line.begin()
    assert len(begun.references) == 1
    authority.add(second)
    mirrored = line.mirror()
    assert set(line.files().values()) == {signed(first), signed(second)}
    assert len(mirrored.fresh) == 1
    assert mirrored.gone == ()
    assert mirrored.version > begun.version


def test_what_is_revoked_leaves_the_mirror_and_is_told_there(authority: Authority, line: Line) -> None:
    reference = authority.add(authority.sample())
    authority.publish()
    line.begin()
    authority.revoke(reference.id, "a bug in it")
    authority.revoke_release("airlock", "1.2")
    assert line.mirror().gone
    assert line.files() == {}
    told = document((line.directory / "revocations.json").read_bytes())
    assert [one["sha256"] for one in told["manifests"]] == [reference.id.hex()]
    assert [(one["component"], one["version"]) for one in told["versions"]] == [("airlock", "1.2")]


def test_what_the_signers_of_now_did_not_sign_is_not_published(authority: Authority, line: Line) -> None:
    authority.add(authority.sample())
    authority.publish()
    authority.signers(raw(SECOND))
    assert line.begin().references == ()


def test_a_mirror_that_has_all_fetches_no_target(authority: Authority, line: Line) -> None:
    authority.add(authority.sample())
    authority.publish()
    line.begin()
    line.lies = {
        f"targets/{name}": Unavailable("fetching", expected="nothing", found="a target") for name in _served(authority)
    }
    line.mirror()


def _served(authority: Authority) -> list[str]:
    row = max(n for n in range(1, 50) if _has(authority, f"{n}.targets.json"))
    targets = document(authority.metadata(f"{row}.targets.json"))["signed"]["targets"]
    return [f"{facts['hashes']['sha256']}.{name}" for name, facts in targets.items()]


def _has(authority: Authority, file: str) -> bool:
    try:
        authority.metadata(file)
    except NotFound:
        return False
    return True


# -- what a mirror refuses ---------------------------------------------------------------------------------------------


def test_an_old_timestamp_is_refused(authority: Authority, line: Line) -> None:
    authority.publish()
    old = authority.metadata("timestamp.json")
    authority.add(authority.sample())
    line.begin()
    before = line.files()
    line.lies["metadata/timestamp.json"] = old
    with pytest.raises(ReferenceRejected, match="BadVersionNumber"):
        line.mirror()
    assert line.files() == before != {}


def test_an_expired_timestamp_is_refused(authority: Authority, line: Line, clock: Clock) -> None:
    authority.publish()
    line.begin()
    clock.now -= LASTS["timestamp"] + HOUR
    authority.add(authority.sample())
    with pytest.raises(ReferenceRejected, match="Expired"):
        line.mirror()
    assert line.files() == {}


def test_a_mirror_that_is_shown_one_state_for_too_long_notices(authority: Authority, line: Line, clock: Clock) -> None:
    clock.now -= LASTS["timestamp"] + HOUR
    authority.publish()
    with pytest.raises(ReferenceRejected, match="Expired"):
        line.begin()


def test_targets_of_one_state_with_the_snapshot_of_another_are_refused(authority: Authority, line: Line) -> None:
    authority.publish()
    old = authority.metadata("1.targets.json")
    authority.add(authority.sample())
    line.lies["metadata/2.targets.json"] = old
    with pytest.raises(ReferenceRejected):
        line.begin()
    assert line.files() == {}


def test_a_snapshot_of_another_state_than_the_timestamp_is_refused(authority: Authority, line: Line) -> None:
    authority.publish()
    old = authority.metadata("1.snapshot.json")
    authority.add(authority.sample())
    line.lies["metadata/2.snapshot.json"] = old
    with pytest.raises(ReferenceRejected):
        line.begin()


def test_a_target_that_was_replaced_is_refused_and_reaches_nobody(authority: Authority, line: Line) -> None:
    authority.add(authority.sample())
    authority.publish()
    for name in _served(authority):
        line.lies[f"targets/{name}"] = bytes(100)
    with pytest.raises(ReferenceRejected):
        line.begin()
    assert line.files() == {}


@pytest.mark.parametrize("size", ["shorter", "longer"])
def test_a_target_of_another_length_is_refused(authority: Authority, line: Line, size: str) -> None:
    authority.add(authority.sample())
    authority.publish()
    for name in _served(authority):
        there = authority.target(name)
        line.lies[f"targets/{name}"] = there[:-1] if size == "shorter" else there + b" "
    with pytest.raises((ReferenceRejected, Unavailable)):
        line.begin()
    assert line.files() == {}


def test_a_file_that_was_changed_in_the_mirror_is_fetched_again(authority: Authority, line: Line) -> None:
    authority.add(authority.sample())
    authority.publish()
    line.begin()
    [(name, right)] = line.files().items()
    (line.directory / "references" / name).write_bytes(b"another")
    line.mirror()
    assert line.files() == {name: right}


def test_metadata_of_another_repository_is_refused(authority: Authority, line: Line) -> None:
    authority.publish()
    other = Ed25519PrivateKey.generate()
    made = repository.make_timestamp(9, 1, b"", datetime.now(UTC) + DAY, other)
    line.lies["metadata/timestamp.json"] = made
    with pytest.raises(ReferenceRejected, match="Unsigned"):
        line.begin()


def test_a_root_that_the_last_one_did_not_sign_is_refused(authority: Authority, line: Line) -> None:
    authority.publish()
    line.begin()
    keys = {role: Ed25519PrivateKey.generate() for role in LASTS}
    public = {role: key.public_key() for role, key in keys.items()}
    line.lies["metadata/2.root.json"] = repository.make_root(2, public, datetime.now(UTC) + DAY, keys["root"])
    with pytest.raises(ReferenceRejected, match="Unsigned"):
        line.mirror()


@pytest.mark.parametrize("name", ["../outside.json", "/etc/passwd", "A.json", ".json", "a/b.json"])
def test_a_name_that_leads_out_of_the_directory_is_refused(authority: Authority, line: Line, name: str) -> None:
    authority.publish()
    keys = {role: Ed25519PrivateKey.generate() for role in LASTS}
    public = {role: key.public_key() for role, key in keys.items()}
    ends = datetime.now(UTC) + DAY
    targets = repository.make_targets(1, {name: repository.Target(1, bytes(32))}, ends, keys["targets"])
    snapshot = repository.make_snapshot(1, 1, targets, ends, keys["snapshot"])
    line.lies = {
        "metadata/2.root.json": NotFound("x", expected="y", found="z"),
        "metadata/1.targets.json": targets,
        "metadata/1.snapshot.json": snapshot,
        "metadata/timestamp.json": repository.make_timestamp(1, 1, snapshot, ends, keys["timestamp"]),
    }
    with pytest.raises(ReferenceRejected, match="names of files"):
        line.mirror(repository.make_root(1, public, ends, keys["root"]))


def test_a_mirror_begins_with_a_root_that_somebody_gave_it(line: Line) -> None:
    with pytest.raises(WrongUse):
        line.mirror()
    with pytest.raises(ReferenceRejected):
        line.mirror(b"{}")


def test_a_repository_that_does_not_answer_is_told_as_that(authority: Authority, line: Line) -> None:
    authority.publish()
    line.lies["metadata/timestamp.json"] = Unavailable("fetching", expected="an answer", found="silence")
    with pytest.raises(Unavailable, match="silence"):
        line.begin()


# -- keeping it fresh --------------------------------------------------------------------------------------------------


def refresh(authority: Authority) -> int:
    with authority.tx() as tx:
        return publication.refresh_due(tx, SEALER)


def test_what_gets_old_is_signed_anew_and_nothing_before(authority: Authority, line: Line, clock: Clock) -> None:
    clock.now -= timedelta(days=30)
    authority.publish()
    assert refresh(authority) == 0
    clock.now += LASTS["timestamp"] / 2 + HOUR
    assert refresh(authority) == 1
    assert refresh(authority) == 0
    clock.now = datetime.now(UTC)
    assert refresh(authority) == 1
    line.begin()


def test_an_online_root_is_signed_anew_by_itself_and_mirrors_follow(
    authority: Authority, line: Line, clock: Clock
) -> None:
    clock.now -= timedelta(days=300)
    authority.publish()
    clock.now += timedelta(days=300)
    refresh(authority)
    assert document(authority.metadata("2.root.json"))["signed"]["version"] == 2
    line.begin()


def test_a_reference_that_ended_is_published_no_longer(authority: Authority, line: Line, clock: Clock) -> None:
    now = clock.now
    clock.now -= timedelta(days=30)
    authority.add(authority.sample(expires=(clock.now + timedelta(days=20)).replace(microsecond=0)))
    authority.publish()
    assert len(_served(authority)) == 2
    clock.now = now
    refresh(authority)
    assert line.begin().references == ()


def test_keys_are_sealed_and_are_sealed_anew(authority: Authority) -> None:
    authority.publish()
    newer = Sealer({b"key2": Secret(b"2" * 32), **SEALER.keys})
    with authority.tx() as tx:
        publication.seal_anew(tx, newer)
    with authority.tx() as tx:
        publication.publish(tx, Sealer({b"key2": Secret(b"2" * 32)}), "red")


def test_a_revocation_holds_though_the_keys_to_publish_it_are_lost(
    authority: Authority, line: Line, clock: Clock
) -> None:
    reference = authority.add(authority.sample())
    authority.publish()
    line.begin()
    other = Sealer({b"key9": Secret(b"9" * 32)})
    with authority.tx() as tx:
        publication.seal_anew(tx, other)
        manifests.revoke_reference(tx, RED, other, project="red", reference=reference.id.hex(), why="a test")
    with authority.database.reading() as connection:
        assert store.load_reference(connection, "red", reference.id.hex()).standing is Standing.REVOKED
    # With the keys back, it is published at the next look.
    clock.now += publication.RETRY + HOUR
    assert refresh(authority) == 1
    assert len(_served(authority)) == 1


# -- an offline root ---------------------------------------------------------------------------------------------------


def online_keys(authority: Authority) -> dict[str, Ed25519PublicKey]:
    with authority.database.reading() as connection:
        keys = publication.public_keys(connection, RED, SEALER, "red")
    return {role: Ed25519PublicKey.from_public_bytes(key) for role, key in keys.items()}


def offline_root(
    authority: Authority, by: Ed25519PrivateKey = RELEASE, version: int = 1, **changes: Ed25519PublicKey
) -> bytes:
    keys = {**online_keys(authority), "root": by.public_key(), **changes}
    return repository.make_root(version, keys, datetime.now(UTC) + 30 * DAY, by)


def put_root(authority: Authority, content: bytes) -> None:
    with authority.tx() as tx:
        publication.put_root(tx, ADMIN, SEALER, project="red", content=content)


def test_nothing_is_served_before_the_offline_root_came(authority: Authority, line: Line) -> None:
    authority.add(authority.sample())
    authority.publish(RootKind.OFFLINE)
    assert "root" not in online_keys(authority)
    with pytest.raises(NotFound):
        authority.metadata("timestamp.json")
    put_root(authority, offline_root(authority))
    assert len(line.begin().references) == 1


def test_an_offline_root_that_follows_is_signed_by_the_one_before_too(authority: Authority, line: Line) -> None:
    authority.publish(RootKind.OFFLINE)
    put_root(authority, offline_root(authority))
    line.begin()
    by_another = offline_root(authority, SECOND, 2)
    with pytest.raises(ReferenceRejected):
        put_root(authority, by_another)
    put_root(authority, repository.sign_root(by_another, RELEASE))
    line.mirror()
    put_root(authority, repository.sign_root(by_another, RELEASE))  # once more changes nothing


def test_an_offline_root_that_cannot_serve_is_refused(authority: Authority) -> None:
    authority.publish(RootKind.OFFLINE)
    another = Ed25519PrivateKey.generate().public_key()
    for wrong in (
        offline_root(authority, version=2),
        offline_root(authority, timestamp=another),
        repository.make_root(
            1, {**online_keys(authority), "root": RELEASE.public_key()}, datetime.now(UTC) - DAY, RELEASE
        ),
        repository.make_root(
            1, {**online_keys(authority), "root": SECOND.public_key()}, datetime.now(UTC) + DAY, RELEASE
        ),
    ):
        with pytest.raises(ReferenceRejected):
            put_root(authority, wrong)
    for malformed in (b"", b"{}", b"[]", b"\xff", authority_timestamp()):
        with pytest.raises(MalformedReference):
            put_root(authority, malformed)


def authority_timestamp() -> bytes:
    return repository.make_timestamp(1, 1, b"", datetime.now(UTC) + DAY, RELEASE)


def test_a_root_kind_is_chosen_once(authority: Authority) -> None:
    authority.publish(RootKind.ONLINE)
    with pytest.raises(WrongState):
        authority.publish(RootKind.OFFLINE)
    with pytest.raises(WrongState):
        put_root(authority, authority.metadata("1.root.json"))


def test_who_is_no_admin_publishes_nothing(authority: Authority) -> None:
    with pytest.raises(NotAllowed):
        authority.publish(by=RED)


def test_only_what_is_public_is_served_to_everybody(authority: Authority) -> None:
    authority.publish()
    with authority.database.reading() as connection, pytest.raises(NotFound):
        publication.check_public(connection, "red")
    authority.publish(public=True)
    with authority.database.reading() as connection:
        publication.check_public(connection, "red")


def test_versions_with_signs_are_published_under_plain_names(authority: Authority, line: Line) -> None:
    authority.add(authority.sample(version=Version("1:2022.11-6+deb12u2~x")))
    authority.publish()
    assert len(line.begin().references) == 1
