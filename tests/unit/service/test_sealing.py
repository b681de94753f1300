"""Credentials that are sealed open for what they are for, with the right key, unaltered, and in no other case."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from steelyard.model.errors import ServiceUnready
from steelyard.model.secret import Secret
from steelyard.service.sealing import Sealer, make_key_file, read_sealer

OLD, NEW = (b"old.", Secret(bytes(32))), (b"new.", Secret(bytes(range(32))))
PASSWORD = Secret(b"hunter2")


@given(some.binary(max_size=300), some.text(max_size=40))
def test_what_was_sealed_for_something_opens_for_it(secret: bytes, context: str) -> None:
    sealer = Sealer(dict([NEW]))
    assert sealer.open(context, sealer.seal(context, Secret(secret))) == Secret(secret)


def test_the_same_secret_never_looks_the_same_and_is_not_seen() -> None:
    sealer = Sealer(dict([NEW]))
    first, second = sealer.seal("switch/s1", PASSWORD), sealer.seal("switch/s1", PASSWORD)
    assert first != second
    assert PASSWORD.reveal() not in first


def test_one_devices_password_does_not_open_as_anothers() -> None:
    sealer = Sealer(dict([NEW]))
    with pytest.raises(ServiceUnready):
        sealer.open("switch/s2", sealer.seal("switch/s1", PASSWORD))


def test_no_byte_can_be_altered_added_or_taken() -> None:
    sealer = Sealer(dict([NEW]))
    sealed = sealer.seal("switch/s1", PASSWORD)
    altered = [sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :] for at in range(len(sealed))]
    for wrong in (*altered, sealed + b"!", *(sealed[:length] for length in range(len(sealed)))):
        with pytest.raises(ServiceUnready):
            sealer.open("switch/s1", wrong)


def test_the_id_of_another_key_is_not_believed() -> None:
    """Both keys are the same here, so that only what is authenticated can tell."""
    twins = Sealer({NEW[0]: NEW[1], OLD[0]: NEW[1]})
    sealed = twins.seal("switch/s1", PASSWORD)
    with pytest.raises(ServiceUnready):
        twins.open("switch/s1", sealed.replace(NEW[0], OLD[0]))


def test_after_a_rotation_both_keys_open_and_the_new_one_seals() -> None:
    before, after = Sealer(dict([OLD])), Sealer(dict([NEW, OLD]))
    sealed = before.seal("node/n1", PASSWORD)
    assert after.open("node/n1", sealed) == PASSWORD
    assert not after.is_current(sealed)
    anew = after.seal("node/n1", PASSWORD)
    assert after.is_current(anew)
    assert Sealer(dict([NEW])).open("node/n1", anew) == PASSWORD
    with pytest.raises(ServiceUnready):
        before.open("node/n1", anew)


def test_a_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "sealing.key"
    make_key_file(path)
    assert path.stat().st_mode & 0o777 == 0o600
    sealed = read_sealer(path).seal("node/n1", PASSWORD)
    with pytest.raises(ServiceUnready):
        make_key_file(path)
    assert read_sealer(path).open("node/n1", sealed) == PASSWORD
    assert [entry.name for entry in tmp_path.iterdir()] == ["sealing.key"]


def test_the_first_line_of_a_key_file_seals(tmp_path: Path) -> None:
    old, new, both = (tmp_path / name for name in ("old", "new", "both"))
    make_key_file(old)
    make_key_file(new)
    both.write_bytes(new.read_bytes() + old.read_bytes())
    both.chmod(0o600)
    sealer = read_sealer(both)
    assert read_sealer(new).is_current(sealer.seal("node/n1", PASSWORD))
    assert sealer.open("node/n1", read_sealer(old).seal("node/n1", PASSWORD)) == PASSWORD


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_file_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "sealing.key"
    make_key_file(path)
    path.chmod(mode)
    with pytest.raises(ServiceUnready, match="mode 0600"):
        read_sealer(path)


def test_a_link_a_directory_and_nothing_are_no_key_files(tmp_path: Path) -> None:
    make_key_file(tmp_path / "sealing.key")
    (tmp_path / "link").symlink_to(tmp_path / "sealing.key")
    for path in (tmp_path / "link", tmp_path, tmp_path / "nothing"):
        with pytest.raises(ServiceUnready):
            read_sealer(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"00000000 AAAA\n",
        b"0000000g " + b"A" * 43 + b"=\n",
        b"00000000 " + b"A" * 43 + b"=\n" + b"00000000 " + b"B" * 43 + b"=\n",
        b"00000000 " + b"A" * 43 + b"=\nmore\n",
        b"\xff" * 54,
        b"00000000 " + b"A" * 43 + b"=\n" * 5000,
    ],
)
def test_a_key_file_is_read_strictly_and_never_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sealing.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ServiceUnready) as refused:
        read_sealer(path)
    assert "AAAA" not in str(refused.value)
