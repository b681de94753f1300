"""What commands read and write: within limits, whole or not at all, never something else's place."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from steelyard.cli.files import list_directory, read_file, write_file, write_secret_file
from steelyard.model.errors import TooLarge, WrongUse
from steelyard.model.limits import Limit

LIMIT = Limit(10, "bytes", "a test's")


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(10))
    assert read_file(path, LIMIT) == bytes(10)
    path.write_bytes(bytes(11))
    with pytest.raises(TooLarge, match="more"):
        read_file(path, LIMIT)


def test_an_endless_device_and_a_huge_file_cost_no_more_than_the_limit(tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(1 << 40)
    for path in (huge, Path("/dev/zero")):
        with pytest.raises(TooLarge):
            read_file(path, LIMIT)


@pytest.mark.parametrize("name", ["absent", ".", "absent/below"])
def test_what_cannot_be_read_is_wrong_use(tmp_path: Path, name: str) -> None:
    with pytest.raises(WrongUse, match="reading"):
        read_file(tmp_path / name, LIMIT)


@pytest.mark.usefixtures("umask")
def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    open_before = path.open("rb")
    write_file(path, b"new")
    with open_before:
        assert open_before.read() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "link"
    link.symlink_to("elsewhere/target")
    write_file(link, b"new")
    assert link.is_symlink()
    assert (tmp_path / "elsewhere" / "target").read_bytes() == b"new"


def test_a_pipe_or_device_is_written_to_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write_file(path, b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_what_cannot_be_written_is_wrong_use_and_leaves_nothing(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent" / "file", Path("/dev/full")):
        with pytest.raises(WrongUse, match="writing"):
            write_file(path, b"data")
    with pytest.raises(WrongUse, match="writing"):
        write_secret_file(tmp_path / "absent" / "file", b"data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("existing", ["file", "dangling link"])
def test_a_secret_is_for_its_owner_alone_and_never_takes_a_place(tmp_path: Path, existing: str) -> None:
    path = tmp_path / "key"
    write_secret_file(path, b"secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    other = tmp_path / "other"
    if existing == "file":
        other.write_bytes(b"kept")
    else:
        other.symlink_to("nowhere")
    with pytest.raises(WrongUse, match="not overwritten"):
        write_secret_file(other, b"secret")
    assert not (tmp_path / "nowhere").exists()


def test_a_secret_does_not_go_to_standard_output() -> None:
    with pytest.raises(WrongUse, match="standard output"):
        write_secret_file(Path("-"), b"secret")


def test_a_directory_gives_its_files_in_order_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b", "a", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert [path.name for path in list_directory(tmp_path)] == ["a", "b"]
    with pytest.raises(WrongUse, match="directory"):
        list_directory(tmp_path / "a")
