import pytest

from steelyard.imaging import quotas
from steelyard.imaging.objects import FromImage, FromUpload, FromVolume, Quota
from steelyard.imaging.ports import ImageFormat
from steelyard.model.errors import Changed, NotAllowed, NotFound, OverQuota, WrongUse
from tests.unit.imaging.rig import BLUE, MIB, PROVIDER, QUOTA, RED, World, contents, red


def _put(world: World, images: int, volumes: int, size_bytes: int, version: int | None = None) -> Quota:
    with world.tx() as tx:
        return quotas.put_quota(
            tx,
            PROVIDER,
            QUOTA,
            project="red",
            images=images,
            volumes=volumes,
            size_bytes=size_bytes,
            expected_version=version,
        )


def _held(world: World) -> Quota:
    with world.database.reading() as connection:
        return quotas.get_quota(connection, RED, QUOTA, "red")[1]


def test_a_project_has_the_default_until_the_provider_says_otherwise(world: World) -> None:
    with world.database.reading() as connection:
        assert quotas.get_quota(connection, RED, QUOTA, "red") == (QUOTA, Quota(0, 0, 0, 0))
        with pytest.raises(NotFound):
            quotas.get_quota(connection, BLUE, QUOTA, "red")
    assert _put(world, 1, 2, 3, version=0) == Quota(1, 2, 3, 1)
    assert _put(world, 4, 5, 6, version=1) == Quota(4, 5, 6, 2)
    with pytest.raises(Changed):
        _put(world, 1, 1, 1, version=1)
    with pytest.raises(WrongUse):
        _put(world, -1, 1, 1)
    with world.database.reading() as connection:
        assert quotas.get_quota(connection, RED, QUOTA, "red")[0] == Quota(4, 5, 6, 2)
        assert quotas.load_quota(connection, QUOTA, "blue") == QUOTA


def test_a_project_does_not_set_its_own(world: World) -> None:
    with pytest.raises(NotAllowed), world.tx() as tx:
        quotas.put_quota(tx, RED, QUOTA, project="red", images=9, volumes=9, size_bytes=9, expected_version=None)


def test_what_is_being_made_counts(world: World) -> None:
    world.volume(red("data"))
    world.image(red("debian"))
    assert _held(world) == Quota(1, 1, 11 * MIB, 0)
    world.ask_volume(red("root"), red("debian"))
    world.ask_image(red("snap"), FromVolume(red("data")))
    world.ask_image(red("copy"), FromImage(red("debian")))
    world.ask_image(red("fetched"))
    assert _held(world) == Quota(4, 2, 32 * MIB, 0)
    world.do_all()
    # As the worker of these tests makes every image of 10 MiB.
    assert _held(world) == Quota(4, 2, 51 * MIB, 0)


def test_numbers_are_bounded_too(world: World) -> None:
    _put(world, 1, 1, 100 * MIB)
    world.image(red("debian"))
    world.volume(red("data"))
    with pytest.raises(OverQuota):
        world.ask_image(red("other"))
    with pytest.raises(OverQuota):
        world.ask_volume(red("other"), size_bytes=512)


def test_an_image_that_turns_out_too_large_is_not_made(world: World) -> None:
    operation = world.ask_image(red("debian"))
    with pytest.raises(OverQuota):
        world.do(operation, contents(101 * MIB))
    assert not world.operation(operation).state.ended
    assert _held(world) == Quota(1, 0, 0, 0)
    world.fail(operation)
    assert _held(world) == Quota(0, 0, 0, 0)


def test_an_upload_makes_room_for_the_image_that_it_becomes(world: World) -> None:
    world.upload(red("file"), size_bytes=60 * MIB)
    world.do(world.ask_image(red("debian"), FromUpload("file", ImageFormat.RAW)), contents(90 * MIB))
    assert _held(world) == Quota(1, 0, 90 * MIB, 0)


def test_who_has_more_than_a_new_quota_keeps_it_and_gets_no_more(world: World) -> None:
    world.volume(red("data"))
    _put(world, 0, 0, 0)
    assert _held(world).volumes == 1
    with pytest.raises(OverQuota):
        world.ask_volume(red("other"), size_bytes=512)
