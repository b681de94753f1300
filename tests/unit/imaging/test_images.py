import pytest
from sqlalchemy import select

from steelyard.imaging import images, tables, uploads, volumes
from steelyard.imaging.objects import (
    BootFound,
    FromImage,
    FromUpload,
    FromUrl,
    FromVolume,
    ImageContents,
    Making,
    Name,
    OperationState,
    Private,
    Public,
    SharedWith,
    Source,
    UnifiedKernel,
    Visibility,
)
from steelyard.imaging.ports import ImageFormat
from steelyard.model.errors import (
    AlreadyThere,
    Changed,
    InUse,
    NotAllowed,
    NotFound,
    WrongDigest,
    WrongState,
    WrongUse,
)
from steelyard.service.authority import Caller, Right
from tests.unit.imaging.rig import (
    BLUE,
    BOTH,
    KERNEL,
    LIMIT,
    MIB,
    PROVIDER,
    QUOTA,
    READER,
    RED,
    STRANGER,
    World,
    contents,
    red,
)

WITH_BLUE = SharedWith(frozenset({"blue"}))
UPLOAD = FromUpload("file", ImageFormat.QCOW2)


def _names(world: World, caller: Caller, project: str | None = None, after: Name | None = None) -> list[str]:
    with world.database.reading() as connection:
        found = images.list_images(connection, caller, project=project, after=after, limit=100)
    return [str(image.name) for image in found]


def _share(world: World, visibility: Visibility, caller: Caller = RED) -> None:
    with world.tx() as tx:
        images.set_visibility(tx, caller, name=red("debian"), visibility=visibility, expected_version=None)


def test_an_image_is_a_name_until_it_is_ready(world: World) -> None:
    operation = world.ask_image(red("debian"), caller=RED, sha256=b"s" * 32, signed_by="ab" * 32)
    assert operation.state is OperationState.PENDING
    coming = world.image_now(red("debian"))
    assert coming.contents == Making()
    assert (coming.made_by, coming.signed_by) == ("rob", "ab" * 32)
    with pytest.raises(WrongState):
        world.ask_volume(red("root"), red("debian"))
    world.do(operation)
    assert world.image_now(red("debian")).contents == contents()


@pytest.mark.parametrize("boot", [None, KERNEL, UnifiedKernel(KERNEL.kernel, KERNEL.measurements)])
def test_what_was_found_in_an_image_is_kept(world: World, boot: BootFound | None) -> None:
    made = ImageContents(b"d" * 32, MIB, MIB, boot, None if boot else "damaged")
    assert world.image(red("debian"), made).contents == made


@pytest.mark.parametrize("when", ["waiting", "begun", "done"])
def test_an_image_that_is_asked_for_again_is_the_same(world: World, when: str) -> None:
    world.upload(red("file"))
    operation = world.ask_image(red("debian"), UPLOAD, caller=RED)
    if when == "begun":
        world.begin(operation)
    if when == "done":
        world.do(operation)  # the upload is used up
        assert world.count(tables.uploads) == 0
    assert world.ask_image(red("debian"), UPLOAD, caller=RED) == world.operation(operation)
    assert world.ask_image(red("debian"), UPLOAD, caller=RED, sha256=b"u" * 32).id == operation.id
    assert world.count(tables.images) == 1


def test_an_image_of_a_volume_is_the_same_when_the_volume_is_open_by_then(world: World) -> None:
    world.volume(red("data"))
    operation = world.do(world.ask_image(red("snap"), FromVolume(red("data"))))
    world.open(red("data"))
    assert world.ask_image(red("snap"), FromVolume(red("data"))) == operation


@pytest.mark.parametrize(
    ("source", "sha256", "signed_by", "visibility"),
    [
        (FromUpload("file", ImageFormat.RAW), None, None, Private()),
        (FromUrl("https://example.org/disk", ImageFormat.QCOW2), None, None, Private()),
        (UPLOAD, b"x" * 32, None, Private()),
        (UPLOAD, None, "ab" * 32, Private()),
        (UPLOAD, None, None, WITH_BLUE),
    ],
)
def test_another_image_of_the_same_name_is_refused(
    world: World, source: Source, sha256: bytes | None, signed_by: str | None, visibility: Visibility
) -> None:
    world.upload(red("file"))
    world.ask_image(red("debian"), UPLOAD)
    with pytest.raises(AlreadyThere):
        world.ask_image(red("debian"), source, sha256=sha256, signed_by=signed_by, visibility=visibility)


def test_an_image_of_another_upload_by_the_same_name_is_another(world: World) -> None:
    world.upload(red("file"))
    world.do(world.ask_image(red("debian"), UPLOAD))
    world.upload(red("file"), sha256=b"v" * 32)
    with pytest.raises(AlreadyThere):
        world.ask_image(red("debian"), UPLOAD)


def test_an_upload_has_to_be_there_whole_and_with_the_digest_that_is_said(world: World) -> None:
    with pytest.raises(NotFound):
        world.ask_image(red("debian"), UPLOAD)
    with world.tx() as tx:
        begun = uploads.put_upload(tx, RED, QUOTA, name=red("file"), size_bytes=2, sha256=b"u" * 32)
        uploads.note_received(tx, begun, 1)
    with pytest.raises(WrongState, match="1 of 2"):
        world.ask_image(red("debian"), UPLOAD)
    with world.tx() as tx:
        uploads.note_received(tx, uploads.get_upload(tx.connection, RED, red("file")), 2)
    with pytest.raises(WrongDigest):
        world.ask_image(red("debian"), UPLOAD, sha256=b"x" * 32)
    assert world.ask_image(red("debian"), UPLOAD).parameters["sha256"] == (b"u" * 32).hex()


def test_an_upload_serves_every_image_that_is_being_made_of_it(world: World) -> None:
    upload = world.upload(red("file"))
    first, second = world.ask_image(red("one"), UPLOAD), world.ask_image(red("two"), UPLOAD)
    world.do(first)
    assert upload.id not in world.discarded()
    world.do(second)
    assert upload.id in world.discarded()


@pytest.mark.parametrize("source", [FromVolume(red("data")), FromImage(red("debian"))])
def test_what_is_no_file_has_no_digest_of_one(world: World, source: Source) -> None:
    world.image(red("debian"))
    world.volume(red("data"))
    with pytest.raises(WrongUse):
        world.ask_image(red("new"), source, sha256=b"s" * 32)


def test_an_open_volume_is_of_no_moment_to_make_an_image_of(world: World) -> None:
    world.volume(red("data"))
    world.open(red("data"))
    with pytest.raises(InUse):
        world.ask_image(red("snap"), FromVolume(red("data")))


def test_a_volume_that_becomes_an_image_rests_until_then(world: World) -> None:
    world.volume(red("data"))
    operation = world.ask_image(red("snap"), FromVolume(red("data")))
    with pytest.raises(InUse):
        world.ask_open(red("data"))
    with pytest.raises(InUse), world.tx() as tx:
        volumes.delete_volume(tx, RED, name=red("data"), expected_version=None)
    world.do(operation)
    world.open(red("data"))


def test_anothers_volume_is_not_made_an_image_of(world: World) -> None:
    world.volume(red("data"))
    with pytest.raises(NotFound):
        world.ask_image(Name("blue", "snap"), FromVolume(red("data")), caller=BLUE)


def test_an_image_that_one_may_use_is_copied_to_ones_own(world: World) -> None:
    world.image(red("debian"), visibility=WITH_BLUE)
    world.do(world.ask_image(Name("blue", "mine"), FromImage(red("debian")), caller=BLUE))
    _share(world, Private())
    assert _names(world, BLUE) == ["blue/mine"]
    with pytest.raises(NotFound):
        world.ask_image(Name("blue", "more"), FromImage(red("debian")), caller=BLUE)


@pytest.mark.parametrize(
    ("visibility", "seen"),
    [
        (Private(), [PROVIDER, RED, BOTH, READER]),
        (WITH_BLUE, [PROVIDER, RED, BOTH, READER, BLUE]),
        (Public(), [PROVIDER, RED, BOTH, READER, BLUE, STRANGER]),
    ],
)
def test_who_an_image_is_for_sees_it_and_nobody_else(world: World, visibility: Visibility, seen: list[Caller]) -> None:
    world.image(red("debian"), visibility=visibility)
    coming = world.ask_image(red("coming"), visibility=visibility)
    for caller in (PROVIDER, RED, BOTH, READER, BLUE, STRANGER):
        own = caller in (PROVIDER, RED, BOTH, READER)
        # What is being made is for its owner alone.
        names = ["red/coming", "red/debian"] if own else ["red/debian"] if caller in seen else []
        assert _names(world, caller) == names
        assert _names(world, caller, project="red") == names
        assert _names(world, caller, project="blue") == []
        with world.database.reading() as connection:
            if caller in seen:
                assert images.get_image(connection, caller, red("debian")).name == red("debian")
            else:
                with pytest.raises(NotFound):
                    images.get_image(connection, caller, red("debian"))
    world.do(coming)
    assert "red/coming" in _names(world, BOTH)


def test_a_token_that_does_not_read_sees_nothing(world: World) -> None:
    world.image(red("debian"), visibility=Public())
    assert _names(world, Caller("rob", None, RED.roles, RED.rights - {Right.READ})) == []


def test_images_come_in_pages_in_order_of_their_names(world: World) -> None:
    for name in (red("b"), red("a"), Name("blue", "z")):
        world.image(name)
    assert _names(world, PROVIDER) == ["blue/z", "red/a", "red/b"]
    assert _names(world, PROVIDER, after=red("a")) == ["red/b"]
    with pytest.raises(WrongUse), world.database.reading() as connection:
        images.list_images(connection, PROVIDER, project=None, after=None, limit=0)


def test_volumes_stay_when_their_image_is_shared_no_more(world: World) -> None:
    world.image(red("debian"), visibility=WITH_BLUE)
    name = Name("blue", "root")
    asked = world.do(world.ask_volume(name, red("debian"), caller=BLUE))
    _share(world, Private())
    assert world.volume_now(name).image == world.image_now(red("debian")).id
    assert world.ask_volume(name, red("debian"), caller=BLUE) == asked
    with pytest.raises(NotFound):
        world.ask_volume(Name("blue", "other"), red("debian"), caller=BLUE)
    with world.tx() as tx:  # what it stands on is still its own to go back to
        volumes.roll_back_volume(tx, BLUE, QUOTA, name=name, image=None, limit=LIMIT)


def test_sharing_is_told_once_and_by_whom(world: World) -> None:
    image = world.image(red("debian"))
    _share(world, WITH_BLUE)
    _share(world, WITH_BLUE)
    shared = world.image_now(red("debian"))
    assert (shared.visibility, shared.version) == (WITH_BLUE, image.version + 1)
    with pytest.raises(NotAllowed):
        _share(world, Public())
    with pytest.raises(Changed), world.tx() as tx:
        images.set_visibility(tx, RED, name=red("debian"), visibility=Private(), expected_version=image.version)
    with pytest.raises(NotAllowed):
        _share(world, Private(), BLUE)


def test_an_image_is_renamed_while_it_is_made(world: World) -> None:
    operation = world.ask_image(red("old"))
    with world.tx() as tx:
        images.rename_image(tx, RED, name=red("old"), new_name="new", expected_version=None)
        assert images.rename_image(tx, RED, name=red("new"), new_name="new", expected_version=None).name == red("new")
    other = world.ask_image(red("old"))
    assert other.id != operation.id
    world.do(operation)
    assert isinstance(world.image_now(red("new")).contents, ImageContents)
    assert world.image_now(red("old")).contents == Making()


def test_an_image_is_not_renamed_to_what_is_taken_or_no_name(world: World) -> None:
    world.image(red("one"))
    world.image(red("two"))
    for new_name, refusal in (("two", AlreadyThere), ("../two", WrongUse)):
        with pytest.raises(refusal), world.tx() as tx:
            images.rename_image(tx, RED, name=red("one"), new_name=new_name, expected_version=None)


def test_an_image_that_is_being_made_is_given_up_and_not_deleted(world: World) -> None:
    operation = world.ask_image(red("debian"))
    with pytest.raises(InUse), world.tx() as tx:
        images.delete_image(tx, RED, name=red("debian"), expected_version=None)
    world.cancel(operation, RED)
    assert world.count(tables.images) == 0


def test_a_deleted_image_leaves_no_shares(world: World) -> None:
    world.image(red("debian"), visibility=WITH_BLUE)
    with world.tx() as tx:
        images.delete_image(tx, RED, name=red("debian"), expected_version=None)
        assert tx.connection.execute(select(tables.image_shares)).all() == []
