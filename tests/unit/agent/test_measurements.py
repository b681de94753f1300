"""The kernel's list, read in increments: from any entry on, of every template, and never more than is new."""

from pathlib import Path

import pytest

from steelyard.agent.measurements import COUNT, LIST, MeasurementList
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import NodeFailed
from tests.unit.evidence.ima.lists import Entry, boot_aggregate, ng, one_of_each, pcr10, write

ALL = one_of_each()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    show(tmp_path, ALL)
    return tmp_path


def show(folder: Path, entries: list[Entry]) -> None:
    (folder / LIST).write_bytes(write(entries))
    (folder / COUNT).write_text(f"{len(entries)}\n")


@pytest.mark.parametrize("first", range(len(ALL) + 1))
def test_a_list_is_read_from_any_entry_on(folder: Path, first: int) -> None:
    assert MeasurementList(folder, b"").after(first) == write(ALL[first:])


def test_a_list_is_read_on_and_back(folder: Path) -> None:
    read = MeasurementList(folder, b"")
    for first in (3, 9, 9, 4, 0, len(ALL)):
        assert read.after(first) == write(ALL[first:])
    show(folder, [*ALL, ng(b"/bin/new")])
    assert read.count() == len(ALL) + 1
    assert read.after(len(ALL)) == write([ng(b"/bin/new")])


def test_what_was_before_a_kexec_begins_the_list(folder: Path) -> None:
    before = [boot_aggregate(), ng(b"/airlock")]
    read = MeasurementList(folder, write(before))
    assert read.count() == len(before) + len(ALL)
    for first in range(len(before) + len(ALL) + 1):
        assert read.after(first) == write([*before, *ALL][first:])


@pytest.mark.parametrize("more", [0, 2])
def test_whether_it_does_is_what_pcr_10_says(folder: Path, more: int) -> None:
    before = [boot_aggregate(), ng(b"/airlock")]
    for held, entries in (([*before, *ALL], len(before) + len(ALL)), (ALL, len(ALL))):
        read = MeasurementList(folder, write(before))
        show(folder, [*ALL, *ALL[:more]])
        read.settle(HashAlgorithm.SHA256, pcr10(held))
        assert read.count() == entries + more
    lost = MeasurementList(folder, write(before))
    lost.settle(HashAlgorithm.SHA256, b"?" * 32)
    assert lost.count() == len(before) + len(ALL) + more, "the verifier says what is wrong"


def test_a_list_without_a_beginning_is_not_replayed_to_find_one(folder: Path) -> None:
    read = MeasurementList(folder, b"")
    (folder / LIST).unlink()
    read.settle(HashAlgorithm.SHA256, bytes(32))


def test_more_entries_than_there_are_cannot_be_passed_over(folder: Path) -> None:
    with pytest.raises(NodeFailed):
        MeasurementList(folder, b"").after(len(ALL) + 1)
    with pytest.raises(NodeFailed):
        MeasurementList(folder, write(ALL)[:-1])


@pytest.mark.parametrize("cut", range(1, 120, 7))
def test_part_of_an_entry_is_none(folder: Path, cut: int) -> None:
    (folder / LIST).write_bytes(write(ALL)[:-cut])
    with pytest.raises(NodeFailed):
        MeasurementList(folder, b"").after(len(ALL))


@pytest.mark.parametrize("text", ["", "many\n", "1.5\n"])
def test_a_count_that_is_none_is_told(folder: Path, text: str) -> None:
    (folder / COUNT).write_text(text)
    with pytest.raises(NodeFailed, match=COUNT):
        MeasurementList(folder, b"").count()


def test_a_kernel_without_a_list_is_told(tmp_path: Path) -> None:
    with pytest.raises(NodeFailed, match=COUNT):
        MeasurementList(tmp_path, b"").count()
    with pytest.raises(NodeFailed, match=LIST):
        MeasurementList(tmp_path, b"").after(0)
