"""What holds for every store, told by what QEMU sees in it."""

import hashlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from steelyard.imaging.ports import UNWATCHED, ImageFacts, ImageFormat, Overlay, Store, Watch
from steelyard.model.errors import (
    AlreadyThere,
    Cancelled,
    InUse,
    MalformedImage,
    NotFound,
    SteelyardError,
    StorageFailed,
    TooLarge,
    WrongDigest,
    WrongUse,
)
from tests.conformance.imaging.killing import FILE_CALLS, kills_at_each_step
from tests.conformance.imaging.store_verb import do
from tests.conformance.imaging.stores import STORES, open_store
from tests.disks import BLOCK, SIZE, block, content, is_sound, opened, qcow2_disk, raw_disk, run, write

LARGE = 2**40


@pytest.fixture(params=STORES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(kind: str, place: Path) -> Store:
    return open_store(kind, place)


@pytest.fixture
def disk(tmp_path: Path) -> bytes:
    """The golden disk; the file raw has it, and the file qcow2."""
    data = raw_disk(tmp_path / "raw", {0: "a", 5: "b"})
    qcow2_disk(tmp_path / "qcow2", tmp_path / "raw")
    return data


@pytest.fixture
def golden(store: Store, disk: bytes, tmp_path: Path) -> bytes:
    """The same, and the image `golden` that has it."""
    store.import_image("golden", tmp_path / "raw", ImageFormat.RAW, None, LARGE, UNWATCHED)
    return disk


def facts_of(disk: bytes) -> ImageFacts:
    return ImageFacts(hashlib.sha256(disk).digest(), len(disk))


def left_over(place: Path) -> list[Path]:
    """Return what is in the store's directory and is neither image nor volume."""
    return [path for path in place.rglob("*") if "work" in path.parts and path.name != "work"]


# -- import ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ImageFormat)
def test_a_disk_taken_in_is_the_same_disk(store: Store, disk: bytes, tmp_path: Path, form: ImageFormat) -> None:
    assert store.import_image("golden", tmp_path / form.value, form, None, SIZE, UNWATCHED) == facts_of(disk)
    assert store.images() == {"golden": facts_of(disk)}
    assert content(store.image_disk("golden"), tmp_path) == disk
    occupancy = store.image_occupancy("golden")
    assert occupancy.apparent_bytes == SIZE
    assert 2 * BLOCK <= occupancy.real_bytes < 4 * BLOCK


def test_a_file_with_the_digest_that_was_announced_is_taken(store: Store, disk: bytes, tmp_path: Path) -> None:
    announced = hashlib.sha256((tmp_path / "qcow2").read_bytes()).digest()
    assert store.import_image("golden", tmp_path / "qcow2", ImageFormat.QCOW2, announced, SIZE, UNWATCHED) == facts_of(
        disk
    )


def test_taking_the_same_disk_in_again_changes_nothing(store: Store, golden: bytes, tmp_path: Path) -> None:
    store.clone("golden", "volume")
    assert store.import_image("golden", tmp_path / "qcow2", ImageFormat.QCOW2, None, SIZE, UNWATCHED) == facts_of(
        golden
    )
    assert store.volumes() == {"volume": "golden"}


def test_another_disk_by_the_same_name_is_refused(store: Store, golden: bytes, tmp_path: Path) -> None:
    raw_disk(tmp_path / "other", {0: "c"})
    with pytest.raises(AlreadyThere):
        store.import_image("golden", tmp_path / "other", ImageFormat.RAW, None, LARGE, UNWATCHED)
    assert content(store.image_disk("golden"), tmp_path) == golden


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 3 * BLOCK)


def with_base(path: Path) -> None:
    run("qemu-img", "create", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", str(path))


def with_data_elsewhere(path: Path) -> None:
    run("qemu-img", "create", "-f", "qcow2", "-o", f"data_file={path.parent / 'data'}", str(path), str(SIZE))


def with_base_put_in_later(path: Path) -> None:
    """A sound file that has been given a base, a way in which one that was checked by others could be changed."""
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", str(path))


def encrypted(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[35] = 1
    path.write_bytes(data)


def with_snapshot(path: Path) -> None:
    run("qemu-img", "snapshot", "-c", "before", str(path))


def with_lost_table(path: Path) -> None:
    """Level 1 of its tables points to where the file has long ended."""
    data = bytearray(path.read_bytes())
    level_1 = int.from_bytes(data[40:48])
    data[level_1 : level_1 + 8] = (2**63 | 2**30).to_bytes(8)
    path.write_bytes(data)


def with_disk_one_block_longer(path: Path) -> None:
    run("qemu-img", "resize", "-f", "qcow2", str(path), str(SIZE + 512))


def a_raw_disk(path: Path) -> None:
    path.write_bytes(bytes(SIZE))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_link(path: Path) -> None:
    path.rename(path.with_name("behind"))
    path.symlink_to(path.with_name("behind"))


def gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (cut_off, MalformedImage),
        (with_base, MalformedImage),
        (with_data_elsewhere, MalformedImage),
        (with_base_put_in_later, MalformedImage),
        (encrypted, MalformedImage),
        (with_snapshot, MalformedImage),
        (with_lost_table, MalformedImage),
        (with_disk_one_block_longer, TooLarge),
        (a_raw_disk, MalformedImage),
        (empty, MalformedImage),
        (a_directory, WrongUse),
        (a_pipe, WrongUse),
        (a_link, WrongUse),
        (gone, WrongUse),
    ],
)
@pytest.mark.usefixtures("disk")
def test_a_hostile_qcow2_file_is_refused_and_leaves_nothing(
    store: Store, place: Path, tmp_path: Path, spoil: Callable[[Path], None], error: type[SteelyardError]
) -> None:
    spoil(tmp_path / "qcow2")
    with pytest.raises(error):
        store.import_image("golden", tmp_path / "qcow2", ImageFormat.QCOW2, None, SIZE, UNWATCHED)
    assert store.images() == {}
    assert left_over(place) == []


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.usefixtures("disk")
def test_a_damaged_qcow2_file_is_taken_as_it_is_or_refused(
    store: Store, place: Path, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 (the same damage each time)
    data = bytearray((tmp_path / "qcow2").read_bytes())
    # Head, tables, data: each has its share.
    for end in chance.sample([104, 600, 0x20010, 0x50010, len(data)], 2):
        data[chance.randrange(end)] ^= 1 << chance.randrange(8)
    (tmp_path / "qcow2").write_bytes(data)
    try:
        facts = store.import_image("golden", tmp_path / "qcow2", ImageFormat.QCOW2, None, 4 * SIZE, UNWATCHED)
    except (MalformedImage, TooLarge):
        assert store.images() == {}
    else:
        found = content(store.image_disk("golden"), tmp_path)
        assert facts == facts_of(found)
    assert left_over(place) == []


@pytest.mark.parametrize("spoil", [with_base, with_base_put_in_later])
@pytest.mark.usefixtures("disk")
def test_a_disk_on_another_is_refused_before_any_other_program_reads_it(
    store: Store, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(tmp_path / "qcow2")
    with pytest.raises(MalformedImage, match="whole in itself"):
        store.import_image("golden", tmp_path / "qcow2", ImageFormat.QCOW2, None, SIZE, UNWATCHED)


def test_a_few_bytes_that_say_they_are_a_huge_disk_are_refused(store: Store, place: Path, tmp_path: Path) -> None:
    run("qemu-img", "create", "-f", "qcow2", str(tmp_path / "bomb"), "63T")
    for most in (SIZE, 2**63):
        with pytest.raises(TooLarge):
            store.import_image("golden", tmp_path / "bomb", ImageFormat.QCOW2, None, most, UNWATCHED)
    assert left_over(place) == []


def one_block_cut_off(path: Path) -> None:
    os.truncate(path, SIZE - 1)


def a_page(path: Path) -> None:
    path.write_bytes(b"<html>not found".ljust(512))


def a_compressed_disk(path: Path) -> None:
    path.write_bytes(b"\x1f\x8b".ljust(512))


def partitions_cut_off(path: Path) -> None:
    os.truncate(path, 2 * SIZE)
    subprocess.run(["sfdisk", "--quiet", str(path)], input="label: gpt\nsize=1MiB", check=True, text=True)
    os.truncate(path, SIZE)


@pytest.mark.parametrize("spoil", [one_block_cut_off, partitions_cut_off, a_page, a_compressed_disk, empty])
@pytest.mark.usefixtures("disk")
def test_what_is_no_raw_disk_is_refused_and_leaves_nothing(
    store: Store, place: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(tmp_path / "raw")
    with pytest.raises(MalformedImage):
        store.import_image("golden", tmp_path / "raw", ImageFormat.RAW, None, LARGE, UNWATCHED)
    assert store.images() == {}
    assert left_over(place) == []


@pytest.mark.parametrize("spoil", [one_block_cut_off, empty])
@pytest.mark.usefixtures("disk")
def test_what_is_not_of_whole_blocks_is_told_as_such(
    store: Store, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(tmp_path / "raw")
    with pytest.raises(MalformedImage, match="whole blocks"):
        store.import_image("golden", tmp_path / "raw", ImageFormat.RAW, None, LARGE, UNWATCHED)


@pytest.mark.usefixtures("disk")
def test_a_qcow2_file_said_to_be_raw_is_not_looked_into(store: Store, tmp_path: Path) -> None:
    with pytest.raises(MalformedImage, match="qcow2"):
        store.import_image("golden", tmp_path / "qcow2", ImageFormat.RAW, None, LARGE, UNWATCHED)


@pytest.mark.parametrize("form", ImageFormat)
@pytest.mark.usefixtures("disk")
def test_a_file_with_another_digest_is_refused_and_leaves_nothing(
    store: Store, place: Path, tmp_path: Path, form: ImageFormat
) -> None:
    with pytest.raises(WrongDigest):
        store.import_image("golden", tmp_path / form.value, form, bytes(32), LARGE, UNWATCHED)
    assert store.images() == {}
    assert left_over(place) == []


@pytest.mark.parametrize("name", ["", "..", "-rf", "a/b", "A", "a\n", "a" * 64])
def test_a_name_that_is_none_is_refused_by_every_verb(store: Store, golden: bytes, tmp_path: Path, name: str) -> None:
    store.clone("golden", "volume")
    verbs: list[Callable[[], object]] = [
        lambda: store.import_image(name, tmp_path / "raw", ImageFormat.RAW, None, LARGE, UNWATCHED),
        lambda: store.clone("golden", name),
        lambda: store.clone(name, "other"),
        lambda: store.create_volume(name, SIZE),
        lambda: store.copy_image("golden", name),
        lambda: store.copy_image(name, "other"),
        lambda: store.snapshot("volume", name, UNWATCHED),
        lambda: store.snapshot(name, "other", UNWATCHED),
        lambda: store.roll_back("volume", name),
        lambda: store.roll_back(name, "golden"),
        lambda: store.flatten(name, UNWATCHED),
        lambda: store.resize(name, 2 * SIZE),
        lambda: store.delete_volume(name),
        lambda: store.delete_image(name),
        lambda: store.image_occupancy(name),
        lambda: store.volume_occupancy(name),
        lambda: store.image_disk(name),
        lambda: store.volume_disk(name),
    ]
    for verb in verbs:
        with pytest.raises(WrongUse, match="naming a"):
            verb()
    assert content(store.volume_disk("volume"), tmp_path) == golden


# -- copies ------------------------------------------------------------------------------------------------------------


def test_a_copy_is_the_same_disk_takes_no_room_and_outlives_the_first(
    store: Store, golden: bytes, tmp_path: Path
) -> None:
    alone = store.image_occupancy("golden").real_bytes
    assert store.copy_image("golden", "copy") == facts_of(golden)
    assert store.copy_image("golden", "copy") == facts_of(golden)
    assert store.images() == {"golden": facts_of(golden), "copy": facts_of(golden)}
    both = [store.image_occupancy(image) for image in ("golden", "copy")]
    assert [occupancy.apparent_bytes for occupancy in both] == [SIZE, SIZE]
    assert sum(occupancy.real_bytes for occupancy in both) == alone
    store.clone("copy", "volume")
    with opened(store.volume_disk("volume")):
        store.delete_image("golden")
    with pytest.raises(InUse):
        store.delete_image("copy")
    assert store.images() == {"copy": facts_of(golden)}
    assert content(store.image_disk("copy"), tmp_path) == golden
    assert content(store.volume_disk("volume"), tmp_path) == golden


def test_the_first_outlives_its_copy(store: Store, golden: bytes, tmp_path: Path) -> None:
    store.copy_image("golden", "copy")
    store.delete_image("copy")
    assert content(store.image_disk("golden"), tmp_path) == golden


@pytest.mark.usefixtures("golden")
def test_a_copy_does_not_take_the_place_of_another_disk(store: Store, tmp_path: Path) -> None:
    other = raw_disk(tmp_path / "other", {0: "c"})
    store.import_image("other", tmp_path / "other", ImageFormat.RAW, None, LARGE, UNWATCHED)
    with pytest.raises(AlreadyThere):
        store.copy_image("golden", "other")
    assert content(store.image_disk("other"), tmp_path) == other


# -- volumes -----------------------------------------------------------------------------------------------------------


def test_a_blank_volume_is_zeros_and_stands_on_nothing(store: Store, tmp_path: Path) -> None:
    store.create_volume("data", SIZE)
    assert store.volumes() == {"data": None}
    assert content(store.volume_disk("data"), tmp_path) == bytes(SIZE)
    assert store.volume_occupancy("data").real_bytes < SIZE // 4


def test_making_a_blank_volume_again_leaves_what_was_written(store: Store, tmp_path: Path) -> None:
    store.create_volume("data", SIZE)
    write(store.volume_disk("data"), {1: "x"})
    store.create_volume("data", SIZE)
    assert content(store.volume_disk("data"), tmp_path) == bytes(BLOCK) + block("x") + bytes(SIZE - 2 * BLOCK)


@pytest.mark.usefixtures("golden")
def test_a_blank_volume_does_not_take_the_place_of_another(store: Store) -> None:
    store.create_volume("data", SIZE)
    store.clone("golden", "volume")
    for volume, size in (("data", 2 * SIZE), ("volume", SIZE)):
        with pytest.raises(AlreadyThere):
            store.create_volume(volume, size)
    with pytest.raises(AlreadyThere):
        store.clone("golden", "data")
    assert store.volumes() == {"data": None, "volume": "golden"}


@pytest.mark.parametrize("size", [0, -512, SIZE + 1, 2**62])
def test_a_size_that_no_disk_has_is_refused(store: Store, size: int) -> None:
    with pytest.raises((WrongUse, TooLarge)):
        store.create_volume("data", size)
    assert store.volumes() == {}


def test_a_clone_is_the_image_and_keeps_what_is_written_to_itself(store: Store, golden: bytes, tmp_path: Path) -> None:
    store.clone("golden", "one")
    store.clone("golden", "two")
    write(store.volume_disk("one"), {5: "x", 6: "y"})
    assert store.volumes() == {"one": "golden", "two": "golden"}
    assert (
        content(store.volume_disk("one"), tmp_path)
        == golden[: 5 * BLOCK] + block("x") + block("y") + golden[7 * BLOCK :]
    )
    assert content(store.volume_disk("two"), tmp_path) == golden
    assert content(store.image_disk("golden"), tmp_path) == golden


def test_a_clone_takes_room_for_what_was_written_alone(store: Store, golden: bytes) -> None:
    store.clone("golden", "volume")
    before = store.volume_occupancy("volume")
    write(store.volume_disk("volume"), {7: "x"})
    after = store.volume_occupancy("volume")
    assert before.apparent_bytes == after.apparent_bytes == len(golden)
    assert BLOCK <= after.real_bytes - before.real_bytes <= 3 * BLOCK


def test_cloning_again_leaves_what_was_written(store: Store, golden: bytes, tmp_path: Path) -> None:
    store.clone("golden", "volume")
    write(store.volume_disk("volume"), {0: "x"})
    store.clone("golden", "volume")
    assert content(store.volume_disk("volume"), tmp_path) == block("x") + golden[BLOCK:]


@pytest.mark.usefixtures("golden")
def test_a_clone_of_another_image_by_the_same_name_is_refused(store: Store, tmp_path: Path) -> None:
    raw_disk(tmp_path / "other", {0: "c"})
    store.import_image("other", tmp_path / "other", ImageFormat.RAW, None, LARGE, UNWATCHED)
    store.clone("golden", "volume")
    with pytest.raises(AlreadyThere):
        store.clone("other", "volume")
    assert store.volumes() == {"volume": "golden"}


def test_a_snapshot_is_the_volume_of_that_moment_and_needs_nobody(store: Store, golden: bytes, tmp_path: Path) -> None:
    store.clone("golden", "volume")
    write(store.volume_disk("volume"), {1: "x"})
    then = golden[:BLOCK] + block("x") + golden[2 * BLOCK :]
    assert store.snapshot("volume", "later", UNWATCHED) == facts_of(then)
    write(store.volume_disk("volume"), {1: "y"})
    assert store.snapshot("volume", "later", UNWATCHED) == facts_of(then)
    store.delete_volume("volume")
    store.delete_image("golden")
    assert store.images() == {"later": facts_of(then)}
    assert content(store.image_disk("later"), tmp_path) == then


def test_a_volume_rolled_back_is_the_image_again(store: Store, golden: bytes, tmp_path: Path) -> None:
    store.clone("golden", "volume")
    write(store.volume_disk("volume"), {1: "x"})
    facts = store.snapshot("volume", "later", UNWATCHED)
    write(store.volume_disk("volume"), {1: "y"})
    store.roll_back("volume", "later")
    assert hashlib.sha256(content(store.volume_disk("volume"), tmp_path)).digest() == facts.digest
    store.roll_back("volume", "golden")
    assert content(store.volume_disk("volume"), tmp_path) == golden
    assert store.volumes() == {"volume": "golden"}


def test_a_flat_volume_outlives_its_image(store: Store, golden: bytes, tmp_path: Path) -> None:
    store.clone("golden", "volume")
    write(store.volume_disk("volume"), {1: "x"})
    store.flatten("volume", UNWATCHED)
    store.flatten("volume", UNWATCHED)
    store.delete_image("golden")
    assert store.volumes() == {"volume": None}
    assert content(store.volume_disk("volume"), tmp_path) == golden[:BLOCK] + block("x") + golden[2 * BLOCK :]


def test_a_volume_grows_and_never_shrinks(store: Store, golden: bytes, tmp_path: Path) -> None:
    store.clone("golden", "volume")
    store.resize("volume", 2 * SIZE)
    store.resize("volume", 2 * SIZE)
    for size in (SIZE, 2 * SIZE - 512, 2 * SIZE + 1, 0, -512, 2**62):
        with pytest.raises((WrongUse, TooLarge)):
            store.resize("volume", size)
    assert store.volume_occupancy("volume").apparent_bytes == 2 * SIZE
    assert content(store.volume_disk("volume"), tmp_path) == golden + bytes(SIZE)


def test_deleting_what_is_not_there_is_no_error(store: Store) -> None:
    store.delete_volume("volume")
    store.delete_image("golden")


@pytest.mark.usefixtures("golden")
def test_what_is_not_there_cannot_be_used(store: Store) -> None:
    store.clone("golden", "volume")
    verbs: list[Callable[[], object]] = [
        lambda: store.clone("nothing", "other"),
        lambda: store.copy_image("nothing", "other"),
        lambda: store.snapshot("nothing", "other", UNWATCHED),
        lambda: store.roll_back("nothing", "golden"),
        lambda: store.roll_back("volume", "nothing"),
        lambda: store.flatten("nothing", UNWATCHED),
        lambda: store.resize("nothing", SIZE),
        lambda: store.volume_disk("nothing"),
        lambda: store.image_disk("nothing"),
        lambda: store.volume_occupancy("nothing"),
        lambda: store.image_occupancy("nothing"),
    ]
    for verb in verbs:
        with pytest.raises(NotFound):
            verb()
    assert store.volumes() == {"volume": "golden"}
    assert set(store.images()) == {"golden"}


# -- long work ---------------------------------------------------------------------------------------------------------


class Witness:
    """Hears how far work is; ends it when it has heard more than `patience` times."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.heard: list[tuple[int, int]] = []

    def step(self, done_bytes: int, total_bytes: int) -> None:
        self.heard.append((done_bytes, total_bytes))
        if len(self.heard) > self.patience:
            raise Cancelled("waiting", expected="patience", found="none")


def goes_through(work: Callable[[Watch], object], watch: Watch) -> bool:
    try:
        work(watch)
    except Cancelled:
        return False
    return True


def long_verbs(store: Store, source: Path) -> dict[str, Callable[[Watch], object]]:
    announced = hashlib.sha256(source.read_bytes()).digest()
    return {
        "import": lambda watch: store.import_image("new", source, ImageFormat.QCOW2, announced, LARGE, watch),
        "snapshot": lambda watch: store.snapshot("volume", "new", watch),
        "flatten": lambda watch: store.flatten("volume", watch),
    }


@pytest.mark.parametrize("verb", ["import", "snapshot", "flatten"])
@pytest.mark.usefixtures("golden")
def test_long_work_tells_how_far_it_is_and_leaves_nothing_wherever_it_is_given_up(
    store: Store, place: Path, golden: bytes, tmp_path: Path, verb: str
) -> None:
    store.clone("golden", "volume")
    before = store.images(), store.volumes()
    do_it = long_verbs(store, tmp_path / "qcow2")[verb]
    patience = 0
    while not goes_through(do_it, witness := Witness(patience)):
        assert (store.images(), store.volumes()) == before
        assert left_over(place) == []
        patience += 1
    assert patience, "nobody was asked whether it should go on"
    assert (store.images(), store.volumes()) != before
    assert len({total for _, total in witness.heard}) == 1
    done = [done for done, _ in witness.heard]
    assert done == sorted(done)
    assert 0 == done[0] <= done[-1] <= witness.heard[0][1]
    assert content(store.volume_disk("volume"), tmp_path) == golden


class Meanwhile:
    """Tries something, once, while long work goes on."""

    def __init__(self, attempt: Callable[[], object]) -> None:
        self.attempt = attempt
        self.tried = False

    def step(self, done_bytes: int, total_bytes: int) -> None:
        assert 0 <= done_bytes <= total_bytes
        if not self.tried:
            self.tried = True
            self.attempt()


@pytest.mark.usefixtures("golden")
def test_nobody_else_works_on_a_volume_that_is_worked_on(kind: str, place: Path, store: Store) -> None:
    other = open_store(kind, place)
    verbs: dict[str, Callable[[], object]] = {
        "clone": lambda: other.clone("golden", "volume"),
        "create volume": lambda: other.create_volume("volume", SIZE),
        "snapshot": lambda: other.snapshot("volume", "second", UNWATCHED),
        "roll back": lambda: other.roll_back("volume", "golden"),
        "flatten": lambda: other.flatten("volume", UNWATCHED),
        "resize": lambda: other.resize("volume", 2 * SIZE),
        "delete volume": lambda: other.delete_volume("volume"),
    }
    store.clone("golden", "volume")
    for name, verb in verbs.items():
        for work in (
            lambda watch: store.snapshot("volume", "first", watch),
            lambda watch: store.flatten("volume", watch),
        ):
            store.delete_image("first")
            store.roll_back("volume", "golden")
            watch = Meanwhile(verb)
            with pytest.raises(InUse):
                work(watch)
            assert watch.tried, name
    assert store.volumes() == {"volume": "golden"}
    assert set(store.images()) == {"golden"}


@pytest.mark.usefixtures("golden")
def test_nobody_else_works_on_an_image_that_is_worked_on(kind: str, place: Path, store: Store, tmp_path: Path) -> None:
    other = open_store(kind, place)
    store.clone("golden", "volume")
    store.copy_image("golden", "spare")
    verbs: list[Callable[[], object]] = [
        lambda: other.import_image("golden", tmp_path / "raw", ImageFormat.RAW, None, LARGE, UNWATCHED),
        lambda: other.snapshot("volume", "golden", UNWATCHED),
        lambda: other.copy_image("golden", "new"),
        lambda: other.copy_image("spare", "golden"),
        lambda: other.clone("golden", "new"),
        lambda: other.roll_back("volume", "golden"),
        lambda: other.delete_image("golden"),
    ]
    for verb in verbs:
        watch = Meanwhile(verb)
        with pytest.raises(InUse):
            store.import_image("golden", tmp_path / "raw", ImageFormat.RAW, None, LARGE, watch)
        assert watch.tried
    assert store.volumes() == {"volume": "golden"}
    assert set(store.images()) == {"golden", "spare"}


@pytest.mark.parametrize("verb", ["snapshot", "flatten"])
def test_no_node_writes_to_a_volume_that_is_read(store: Store, golden: bytes, tmp_path: Path, verb: str) -> None:
    store.clone("golden", "volume")
    watch = Meanwhile(lambda: write(store.volume_disk("volume"), {0: "x"}))
    with pytest.raises(subprocess.CalledProcessError):
        long_verbs(store, tmp_path / "qcow2")[verb](watch)
    assert content(store.volume_disk("volume"), tmp_path) == golden


@pytest.mark.usefixtures("disk")
def test_a_file_that_is_cut_off_while_it_is_taken_in_is_refused(store: Store, place: Path, tmp_path: Path) -> None:
    watch = Meanwhile(lambda: os.truncate(tmp_path / "raw", SIZE // 2))
    with pytest.raises(StorageFailed):
        store.import_image("golden", tmp_path / "raw", ImageFormat.RAW, None, LARGE, watch)
    assert store.images() == {}
    assert left_over(place) == []


# -- in use ------------------------------------------------------------------------------------------------------------


def test_an_image_with_volumes_is_not_deleted(store: Store, golden: bytes, tmp_path: Path) -> None:
    store.clone("golden", "volume")
    with pytest.raises(InUse, match="volume"):
        store.delete_image("golden")
    assert content(store.volume_disk("volume"), tmp_path) == golden
    store.delete_volume("volume")
    store.delete_image("golden")
    assert store.images() == {}


@pytest.mark.parametrize(
    "verb",
    [
        ("snapshot", "volume", "later"),
        ("roll back", "volume", "golden"),
        ("flatten", "volume"),
        ("resize", "volume", str(2 * SIZE)),
        ("delete volume", "volume"),
    ],
)
def test_a_volume_that_a_node_has_open_is_left_alone(
    store: Store, place: Path, golden: bytes, tmp_path: Path, verb: tuple[str, ...]
) -> None:
    store.clone("golden", "volume")
    write(store.volume_disk("volume"), {0: "x"})
    with opened(store.volume_disk("volume")), pytest.raises(InUse):
        do(store, *verb)
    assert left_over(place) == []
    assert set(store.images()) == {"golden"}
    assert content(store.volume_disk("volume"), tmp_path) == block("x") + golden[BLOCK:]
    do(store, *verb)


@pytest.mark.usefixtures("golden")
def test_many_clones_at_once_are_all_made(store: Store) -> None:
    threads = [threading.Thread(target=store.clone, args=("golden", f"volume-{n}")) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.volumes() == {f"volume-{n}": "golden" for n in range(24)}


# -- killed ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("golden")
@pytest.mark.parametrize(
    "verb",
    [
        ("import", "other", "qcow2", "qcow2"),
        ("clone", "golden", "other"),
        ("create volume", "other", str(SIZE)),
        ("copy image", "golden", "other"),
        ("snapshot", "volume", "other"),
        ("roll back", "volume", "golden"),
        ("flatten", "volume"),
        ("resize", "volume", str(2 * SIZE)),
        ("delete volume", "volume"),
        ("delete image", "spare"),
    ],
)
def test_a_verb_killed_at_any_step_is_done_or_not_begun_and_can_be_asked_again(
    kind: str, place: Path, store: Store, tmp_path: Path, verb: tuple[str, ...]
) -> None:
    verb = tuple(str(tmp_path / word) if word == "qcow2" and n == 2 else word for n, word in enumerate(verb))

    def begin() -> None:
        """Have `golden` with a `volume` that differs, a `spare` image, and nothing `other`."""
        store.delete_volume("other")
        store.delete_image("other")
        store.import_image("spare", tmp_path / "raw", ImageFormat.RAW, None, LARGE, UNWATCHED)
        store.delete_volume("volume")
        store.clone("golden", "volume")
        write(store.volume_disk("volume"), {1: "x"})

    def state() -> object:
        volumes = {
            name: (base, store.volume_occupancy(name).apparent_bytes, content(store.volume_disk(name), tmp_path))
            for name, base in store.volumes().items()
        }
        assert all(is_sound(store.volume_disk(name).path) for name in volumes if kind == "directory")
        images = {name: (facts, content(store.image_disk(name), tmp_path)) for name, facts in store.images().items()}
        return volumes, images

    begin()
    before = state()
    do(store, *verb)
    after = state()
    assert before != after
    seen = []
    for step in kills_at_each_step(
        FILE_CALLS, begin, "tests.conformance.imaging.store_verb", [kind, str(place), *verb], tmp_path
    ):
        assert state() in (before, after), step
        store.collect()
        assert left_over(place) == []
        do(store, *verb)
        assert state() == after, step
        seen.append(step)
    assert seen


@pytest.mark.usefixtures("golden")
def test_collecting_does_not_disturb_work_that_goes_on(kind: str, place: Path, store: Store) -> None:
    collecting = threading.Event()

    def collect() -> None:
        other = open_store(kind, place)
        while not collecting.is_set():
            other.collect()

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        for n in range(10):
            store.clone("golden", f"volume-{n}")
            store.flatten(f"volume-{n}", UNWATCHED)
    finally:
        collecting.set()
        thread.join()
    assert store.volumes() == {f"volume-{n}": None for n in range(10)}


def test_disks_told_by_a_store_name_what_they_stand_on(store: Store, golden: bytes) -> None:
    store.clone("golden", "volume")
    disk = store.volume_disk("volume")
    assert isinstance(disk, Overlay)
    assert disk.base == store.image_disk("golden")
    assert golden


WHERE_IT_IS_FULL = """
import sys
from pathlib import Path
from steelyard.imaging.ports import UNWATCHED, ImageFormat
from steelyard.model.errors import StorageUnready
from tests.conformance.imaging.stores import open_store

kind, place, source, form, verb = sys.argv[1:]
store = open_store(kind, Path(place) / "store")
verbs = {
    "import": lambda: store.import_image("other", Path(source), ImageFormat(form), None, 2**40, UNWATCHED),
    "snapshot": lambda: store.snapshot("volume", "other", UNWATCHED),
    "flatten": lambda: store.flatten("volume", UNWATCHED),
    "clone": lambda: store.clone("golden", "other"),
    "create volume": lambda: store.create_volume("other", 2**30),
    "roll back": lambda: store.roll_back("volume", "golden"),
}
store.import_image("golden", Path(source), ImageFormat(form), None, 2**40, UNWATCHED)
store.clone("golden", "volume")
before = store.images(), store.volumes()
try:
    if verb in ("clone", "create volume", "roll back"):
        with (Path(place) / "filling").open("wb", buffering=0) as filling:
            while filling.write(bytes(4096)):
                pass
except OSError:
    pass
try:
    verbs[verb]()
except StorageUnready as error:
    print(error.found)
assert (store.images(), store.volumes()) == before
print([path.name for path in Path(place).rglob("work/*")])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system has to be mounted, which needs root")
@pytest.mark.parametrize(
    ("verb", "form"),
    [
        ("import", ImageFormat.RAW),
        ("import", ImageFormat.QCOW2),
        ("snapshot", ImageFormat.RAW),
        ("flatten", ImageFormat.RAW),
        ("clone", ImageFormat.RAW),
        ("create volume", ImageFormat.RAW),
        ("roll back", ImageFormat.RAW),
    ],
)
def test_a_disk_that_there_is_no_room_for_is_told_and_leaves_nothing(
    kind: str, tmp_path: Path, verb: str, form: ImageFormat
) -> None:
    (tmp_path / "raw").write_bytes(os.urandom(SIZE))
    qcow2_disk(tmp_path / "qcow2", tmp_path / "raw")
    (tmp_path / "small").mkdir()
    small = f'mount -t tmpfs -o size=6m none {tmp_path / "small"} && exec "$@"'
    program = [
        sys.executable,
        "-c",
        WHERE_IT_IS_FULL,
        kind,
        str(tmp_path / "small"),
        str(tmp_path / form.value),
        form.value,
        verb,
    ]
    ended = subprocess.run(
        ["unshare", "--mount", "sh", "-c", small, "sh", *program],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    found, left = ended.stdout.splitlines()
    assert "No space left" in found
    assert left == "[]"
