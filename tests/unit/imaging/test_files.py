"""Files are whole or not there, and their owner's alone."""

from pathlib import Path

import pytest

from steelyard.imaging.files import clear_workplaces, make_directory, move, workplace, write_file


def test_what_is_written_is_its_owners_alone(tmp_path: Path) -> None:
    make_directory(tmp_path / "place")
    write_file(tmp_path / "place" / "file", b"data")
    assert (tmp_path / "place").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "place" / "file").stat().st_mode & 0o777 == 0o600


def test_a_file_that_somebody_put_there_before_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"")
    (tmp_path / "file").symlink_to(tmp_path / "target")
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "file", b"data")
    assert (tmp_path / "target").read_bytes() == b""


def test_a_directory_does_not_take_the_place_of_another(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    with pytest.raises(FileExistsError):
        move(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "one" / "one").exists()


def test_nothing_is_left_of_work_that_failed(tmp_path: Path) -> None:
    def fail() -> None:
        with workplace(tmp_path) as place:
            (place / "file").write_bytes((place / "nothing").read_bytes())

    with pytest.raises(FileNotFoundError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_work_that_goes_on_is_not_cleared_away_and_work_that_was_cut_short_is(tmp_path: Path) -> None:
    (tmp_path / "cut-short" / "deep").mkdir(parents=True)
    with workplace(tmp_path) as place:
        clear_workplaces(tmp_path)
        assert list(tmp_path.iterdir()) == [place]
