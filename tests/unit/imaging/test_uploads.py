from datetime import timedelta

import pytest

from steelyard.imaging import tables, uploads
from steelyard.imaging.objects import FromUpload, Name, Quota, Upload
from steelyard.imaging.ports import ImageFormat
from steelyard.model.errors import AlreadyThere, InUse, NotFound, OverQuota, TooLarge, WrongState, WrongUse
from steelyard.model.limits import IMAGE_BYTES
from steelyard.service.authority import Caller
from tests.unit.imaging.rig import BLUE, MIB, PROVIDER, QUOTA, RED, World, red

FILE = red("file")
DIGEST = b"u" * 32


def _put(world: World, size_bytes: int = 10, sha256: bytes = DIGEST, quota: Quota = QUOTA) -> Upload:
    with world.tx() as tx:
        return uploads.put_upload(tx, RED, quota, name=FILE, size_bytes=size_bytes, sha256=sha256)


def _check(world: World, offset: int, length: int) -> Upload:
    with world.database.reading() as connection:
        return uploads.check_part(connection, RED, name=FILE, offset=offset, length=length)


def _received(world: World, upload: Upload, received_bytes: int) -> Upload:
    with world.tx() as tx:
        return uploads.note_received(tx, upload, received_bytes)


def test_an_upload_goes_on_where_it_broke_off(world: World) -> None:
    begun = _put(world)
    assert _put(world) == begun
    part = _received(world, _check(world, 0, 4), 4)
    assert _put(world) == part
    assert part.received_bytes == 4
    whole = _received(world, _check(world, 4, 6), 10)
    assert whole.received_bytes == whole.size_bytes


def test_parts_come_without_a_gap_and_not_beyond_the_end(world: World) -> None:
    _received(world, _put(world), 4)
    for offset in (0, 3, 5):
        with pytest.raises(WrongState, match="from byte 4 on"):
            _check(world, offset, 1)
    with pytest.raises(TooLarge):
        _check(world, 4, 7)


def test_of_two_parts_that_come_at_once_one_counts(world: World) -> None:
    before = _put(world)
    _received(world, before, 4)
    with pytest.raises(WrongState):
        _received(world, before, 6)
    with world.database.reading() as connection:
        assert uploads.get_upload(connection, RED, FILE).received_bytes == 4


def test_another_file_of_the_same_name_is_refused(world: World) -> None:
    _put(world)
    with pytest.raises(AlreadyThere):
        _put(world, sha256=b"v" * 32)
    with pytest.raises(AlreadyThere):
        _put(world, size_bytes=11)


@pytest.mark.parametrize(
    ("size_bytes", "sha256", "refusal"),
    [(0, DIGEST, WrongUse), (10, b"short", WrongUse), (IMAGE_BYTES.most + 1, DIGEST, TooLarge)],
)
def test_a_file_has_a_size_and_a_digest(
    world: World, size_bytes: int, sha256: bytes, refusal: type[WrongUse | TooLarge]
) -> None:
    with pytest.raises(refusal):
        _put(world, size_bytes, sha256)


def test_an_upload_counts_from_its_beginning(world: World) -> None:
    with pytest.raises(OverQuota):
        _put(world, quota=Quota(1, 1, 9, 0))
    _put(world, size_bytes=99 * MIB)
    with pytest.raises(OverQuota):
        world.ask_volume(red("data"), size_bytes=2 * MIB)


def test_an_upload_that_becomes_an_image_is_not_deleted(world: World) -> None:
    upload = world.upload(FILE)
    operation = world.ask_image(red("debian"), FromUpload("file", ImageFormat.RAW))
    with pytest.raises(InUse), world.tx() as tx:
        uploads.delete_upload(tx, RED, name=FILE)
    world.fail(operation)  # the file is still good, and can be tried again
    with world.tx() as tx:
        uploads.delete_upload(tx, RED, name=FILE)
    assert upload.id in world.discarded()
    assert world.count(tables.uploads) == 0


def test_uploads_that_nobody_adds_to_expire_but_not_under_the_work(world: World) -> None:
    world.upload(FILE)
    old = world.upload(red("old"))
    operation = world.ask_image(red("debian"), FromUpload("file", ImageFormat.RAW))
    with world.tx() as tx:
        uploads.expire(tx, tx.now - timedelta(days=7))
    assert world.count(tables.uploads) == 2
    with world.tx() as tx:
        uploads.expire(tx, tx.now + timedelta(seconds=1))
    assert world.discarded() == {old.id}
    world.do(operation)


def test_uploads_are_seen_by_their_project_in_order_of_their_names(world: World) -> None:
    for name in (red("b"), red("a"), Name("blue", "z")):
        world.upload(name)
    with world.database.reading() as connection:

        def listed(caller: Caller, after: str = "") -> list[str]:
            found = uploads.list_uploads(connection, caller, project="red", after=after, limit=10)
            return [upload.name.name for upload in found]

        assert (listed(RED), listed(PROVIDER, "a")) == (["a", "b"], ["b"])
        with pytest.raises(NotFound):
            listed(BLUE)
        with pytest.raises(NotFound):
            uploads.get_upload(connection, BLUE, red("a"))
