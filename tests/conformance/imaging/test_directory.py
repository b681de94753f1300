"""What holds for the store that is a directory: a volume's file is believed only so far."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from steelyard.imaging import tools
from steelyard.imaging.ports import UNWATCHED, ImageFormat
from steelyard.imaging.stores import directory
from steelyard.imaging.stores.directory import DirectoryStore
from steelyard.model.errors import Cancelled, InUse, StorageFailed
from tests.disks import SIZE, content, raw_disk, run


def point_at(store: DirectoryStore, volume: str, base: str, form: str = "raw") -> None:
    """Do as one who has broken what serves the volume: have it name another file as what it stands on."""
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", form, "-b", base, str(store.volume_disk(volume).path))


def keep_data_in(store: DirectoryStore, volume: str, other: Path) -> None:
    disk = store.volume_disk(volume).path
    made = disk.with_name("made")
    run("qemu-img", "create", "-f", "qcow2", "-o", f"data_file={other},data_file_raw=on", str(made), str(SIZE))
    made.rename(disk)


@pytest.fixture
def secret(volumes: DirectoryStore, tmp_path: Path) -> Path:
    """A disk of somebody else, also as the image `secret`."""
    raw_disk(tmp_path / "secret", {0: "s"})
    volumes.import_image("secret", tmp_path / "secret", ImageFormat.RAW, None, SIZE, UNWATCHED)
    return tmp_path / "secret"


@pytest.mark.parametrize(
    "where", ["../../images/secret/disk.raw", "../../images/golden/../secret/disk.raw", "{secret}"]
)
def test_a_volume_that_has_been_made_to_name_another_file_is_not_read(
    volumes: DirectoryStore, secret: Path, where: str
) -> None:
    point_at(volumes, "one", where.format(secret=secret))
    verbs: list[Callable[[], object]] = [
        lambda: volumes.volume_disk("one"),
        lambda: volumes.snapshot("one", "stolen", UNWATCHED),
        lambda: volumes.flatten("one", UNWATCHED),
        lambda: volumes.resize("one", 2 * SIZE),
        lambda: volumes.clone("secret", "one"),
    ]
    for verb in verbs:
        with pytest.raises(StorageFailed):
            verb()
    assert set(volumes.images()) == {"golden", "secret"}


def test_a_volume_that_has_been_made_to_keep_its_data_elsewhere_is_not_read(
    volumes: DirectoryStore, secret: Path
) -> None:
    keep_data_in(volumes, "one", secret)
    with pytest.raises(StorageFailed):
        volumes.volume_disk("one")
    with pytest.raises(StorageFailed):
        volumes.snapshot("one", "stolen", UNWATCHED)


@pytest.mark.usefixtures("secret")
def test_a_damaged_volume_hides_no_other_keeps_its_image_and_can_be_put_right(
    volumes: DirectoryStore, tmp_path: Path
) -> None:
    os.truncate(volumes.volume_disk("one").path, 100)
    assert volumes.volumes() == {"one": "golden", "two": "golden"}
    volumes.delete_volume("two")
    with pytest.raises(InUse):
        volumes.delete_image("golden")
    volumes.roll_back("one", "secret")
    assert content(volumes.volume_disk("one"), tmp_path) == (tmp_path / "secret").read_bytes()
    volumes.delete_image("golden")


@pytest.mark.usefixtures("secret")
def test_a_volume_rolled_back_may_no_longer_name_what_it_stood_on(volumes: DirectoryStore) -> None:
    volumes.roll_back("one", "secret")
    point_at(volumes, "one", "../../images/golden/disk.raw")
    with pytest.raises(StorageFailed):
        volumes.volume_disk("one")


def test_a_flat_volume_may_name_no_image(volumes: DirectoryStore) -> None:
    volumes.flatten("one", UNWATCHED)
    point_at(volumes, "one", "../../images/golden/disk.raw")
    with pytest.raises(StorageFailed):
        volumes.volume_disk("one")


@pytest.mark.parametrize("bases", [b"", b"[]", b'{"bases": [1]}', b'{"bases": ["golden"], "more": 1}'])
def test_a_record_of_what_a_volume_may_name_is_read_strictly(volumes: DirectoryStore, bases: bytes) -> None:
    (volumes.volume_disk("one").path.with_name("bases.json")).write_bytes(bases)
    with pytest.raises(StorageFailed):
        volumes.volume_disk("one")


@pytest.mark.parametrize("facts", [b"", b"[]", b'{"digest": "00", "size_bytes": 512}', b'{"size_bytes": 512}'])
def test_a_record_of_an_image_is_read_strictly(volumes: DirectoryStore, facts: bytes) -> None:
    (volumes.image_disk("golden").path.with_name("facts.json")).write_bytes(facts)
    with pytest.raises(StorageFailed):
        volumes.images()


def test_an_image_is_a_file_that_not_even_its_owner_writes_to(volumes: DirectoryStore) -> None:
    disk = volumes.image_disk("golden").path
    assert disk.stat().st_mode & 0o777 == 0o400
    assert volumes.volume_disk("one").path.stat().st_mode & 0o777 == 0o600
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in disk.parents[2].rglob("*") if path.is_dir())


class GivenUpHalfWay:
    """Lets the first half of long work go on until a program has said that it has begun."""

    def step(self, done_bytes: int, total_bytes: int) -> None:
        if 0 < done_bytes < total_bytes // 2:
            raise Cancelled("waiting", expected="patience", found=f"{done_bytes} of {total_bytes}")


@pytest.mark.parametrize(
    "verb",
    ["import", pytest.param("snapshot", marks=pytest.mark.slow), pytest.param("flatten", marks=pytest.mark.slow)],
)
def test_a_program_that_copies_is_ended_in_the_midst_of_it(
    volumes: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    size = 128 * 2**20
    (tmp_path / "long").write_bytes(os.urandom(size))
    monkeypatch.setattr(tools, "_BEAT_SECONDS", 0.001)
    monkeypatch.setattr(directory, "_TELL_SECONDS", 0.0)
    if verb != "import":
        volumes.import_image("long", tmp_path / "long", ImageFormat.RAW, None, size, UNWATCHED)
        volumes.clone("long", "volume")
    before = volumes.images(), volumes.volumes()
    watch = GivenUpHalfWay()
    verbs: dict[str, Callable[[], object]] = {
        "import": lambda: volumes.import_image("new", tmp_path / "long", ImageFormat.RAW, None, size, watch),
        "snapshot": lambda: volumes.snapshot("volume", "new", watch),
        "flatten": lambda: volumes.flatten("volume", watch),
    }
    with pytest.raises(Cancelled):
        verbs[verb]()
    assert (volumes.images(), volumes.volumes()) == before
    assert list((tmp_path / "store" / "work").iterdir()) == []


@pytest.mark.parametrize(
    "verb",
    [
        ("import", "new", "raw", "raw"),
        ("copy image", "golden", "new"),
        ("clone", "golden", "new"),
        ("create volume", "new", str(SIZE)),
        ("snapshot", "one", "new"),
        ("roll back", "one", "golden"),
        ("flatten", "one"),
        ("resize", "one", str(2 * SIZE)),
        ("delete volume", "one"),
        ("delete image", "spare"),
    ],
)
def test_what_was_done_would_outlive_a_power_cut(
    volumes: DirectoryStore, tmp_path: Path, verb: tuple[str, ...]
) -> None:
    volumes.copy_image("golden", "spare")
    store = tmp_path / "store"
    arguments = [str(tmp_path / word) if (n, word) == (2, "raw") else word for n, word in enumerate(verb)]
    trace = tmp_path / "trace"
    strace = ["strace", "-qqq", "-y", "-s", "0", "-o", str(trace), "-e", "trace=write,fsync,rename,link"]
    program = [sys.executable, "-B", "-m", "tests.conformance.imaging.store_verb", "directory", str(store), *arguments]
    subprocess.run([*strace, *program], cwd=Path(__file__).parents[3], check=True)
    calls = re.findall(r'^(\w+)\((?:\d+<(.*?)>|"(.*?)", "(.*?)").*= \d+$', trace.read_text(), re.MULTILINE)
    assert {call for call, *_ in calls} <= {"write", "fsync", "rename", "link"}
    synced: set[Path] = set()
    named: set[Path] = set()
    for call, path, source, target in calls:
        if call == "fsync":
            synced.add(Path(path))
            named.discard(Path(path))
        elif call == "write":
            synced.discard(Path(path))
        elif call == "link":
            synced.add(Path(target))  # the same file, which has been written long ago
        else:
            if store / "work" not in Path(target).parents:
                assert is_synced(Path(source), Path(target), synced)
            named |= {Path(source).parent, Path(target).parent}
    assert not {path for path in named if store / "work" not in (path, *path.parents)}
    assert verb[0] != "resize" or volumes.volume_disk("one").path in synced


def is_synced(source: Path, target: Path, synced: set[Path]) -> bool:
    """Say whether all that had the name `source` was on the disk when it was given the name `target`, which it has."""
    return source in synced and all(source / path.relative_to(target) in synced for path in target.rglob("*"))
