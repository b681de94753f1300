"""The faults of the system that did this job before, as far as rules and rows go; each is a test.

Of the others, 2, 5 and 8 are in the suites of exports and of network boot, 4 in those of sealing, 6 with the worker.
"""

from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Final

import pytest

from steelyard.imaging import boots, catalogue, images, operations, quotas, tables, uploads, volumes
from steelyard.imaging.objects import (
    BootDisk,
    FromImage,
    FromUrl,
    Keeping,
    OperationState,
    Private,
    Protocol,
    Verb,
)
from steelyard.imaging.ports import ImageFormat
from steelyard.model.errors import InUse, NotAllowed, NotFound
from steelyard.service.authority import Caller
from steelyard.service.database import Transaction
from tests.unit.imaging.rig import (
    AUDITOR,
    BLUE,
    LIMIT,
    MIB,
    NETWORKS,
    OTHER_MAC,
    PROVIDER,
    QUOTA,
    READER,
    RED,
    SEALER,
    STRANGER,
    World,
    red,
)

URL: Final = FromUrl("https://example.org/disk", ImageFormat.RAW)
CHANGES: Final[dict[str, Callable[[Transaction, Caller], object]]] = {
    "make image": lambda tx, caller: images.make_image(
        tx,
        caller,
        QUOTA,
        name=red("new"),
        source=URL,
        sha256=None,
        signed_by=None,
        visibility=Private(),
        limit=LIMIT,
    ),
    "share": lambda tx, caller: images.set_visibility(
        tx, caller, name=red("debian"), visibility=Private(), expected_version=None
    ),
    "rename image": lambda tx, caller: images.rename_image(
        tx, caller, name=red("debian"), new_name="other", expected_version=None
    ),
    "delete image": lambda tx, caller: images.delete_image(tx, caller, name=red("spare"), expected_version=None),
    "make volume": lambda tx, caller: volumes.make_volume(
        tx, caller, QUOTA, name=red("new"), image=None, keeping=Keeping.KEPT, size_bytes=MIB, limit=LIMIT
    ),
    "resize": lambda tx, caller: volumes.resize_volume(
        tx, caller, QUOTA, name=red("data"), size_bytes=2 * MIB, limit=LIMIT
    ),
    "roll back": lambda tx, caller: volumes.roll_back_volume(
        tx, caller, QUOTA, name=red("data"), image=red("debian"), limit=LIMIT
    ),
    "flatten": lambda tx, caller: volumes.flatten_volume(tx, caller, name=red("data"), limit=LIMIT),
    "rename volume": lambda tx, caller: volumes.rename_volume(
        tx, caller, name=red("data"), new_name="other", expected_version=None
    ),
    "keep": lambda tx, caller: volumes.set_keeping(
        tx, caller, name=red("data"), keeping=Keeping.EPHEMERAL, expected_version=None
    ),
    "delete volume": lambda tx, caller: volumes.delete_volume(tx, caller, name=red("data"), expected_version=None),
    "open": lambda tx, caller: volumes.open_volume(
        tx,
        caller,
        NETWORKS,
        name=red("data"),
        network="red-net",
        protocol=Protocol.NBD,
        address=IPv4Address("10.8.0.9"),
        limit=LIMIT,
    ),
    "close": lambda tx, caller: volumes.close_volume(tx, caller, name=red("served"), limit=LIMIT),
    "read the access": lambda tx, caller: volumes.get_access(tx, caller, SEALER, name=red("served")),
    "boot": lambda tx, caller: boots.put_boot(
        tx,
        caller,
        NETWORKS,
        project="red",
        node="n1",
        network="red-net",
        mac=OTHER_MAC,
        what=BootDisk(),
        limit=LIMIT,
    ),
    "end a boot": lambda tx, caller: boots.end_boot(tx, caller, project="red", node="n2", limit=LIMIT),
    "upload": lambda tx, caller: uploads.put_upload(
        tx, caller, QUOTA, name=red("new"), size_bytes=MIB, sha256=bytes(32)
    ),
    "add to an upload": lambda tx, caller: uploads.check_part(
        tx.connection, caller, name=red("file"), offset=MIB, length=0
    ),
    "delete an upload": lambda tx, caller: uploads.delete_upload(tx, caller, name=red("file")),
    "cancel": lambda tx, caller: operations.cancel(
        tx, caller, operation=next(each.id for each in catalogue.live_operations(tx.connection))
    ),
    "set the quota": lambda tx, caller: quotas.put_quota(
        tx, caller, QUOTA, project="red", images=1, volumes=1, size_bytes=1, expected_version=None
    ),
}


def _furnish(world: World) -> None:
    world.image(red("debian"))
    world.image(red("spare"))
    world.volume(red("data"))
    world.volume(red("served"))
    world.open(red("served"))
    world.upload(red("file"))
    world.boot("n2", _on_debian(world))
    world.ask_image(red("coming"))


def _on_debian(world: World) -> str:
    return world.volume(red("root"), red("debian")).name.name


@pytest.mark.parametrize("change", CHANGES)
def test_fault_1_every_change_asks_who_wants_it(world: World, change: str) -> None:
    _furnish(world)
    for caller in (STRANGER, BLUE, AUDITOR, READER):
        with pytest.raises((NotFound, NotAllowed)), world.tx() as tx:
            CHANGES[change](tx, caller)
    with world.tx() as tx:
        CHANGES[change](tx, PROVIDER if change == "set the quota" else RED)


@pytest.mark.parametrize("change", sorted(set(CHANGES) - {"set the quota"}))
def test_fault_1_what_is_anothers_looks_as_if_it_was_not_there(world: World, change: str) -> None:
    _furnish(world)
    with pytest.raises(NotFound), world.tx() as tx:
        CHANGES[change](tx, STRANGER)


def test_fault_3_what_failed_says_so_and_nothing_of_it_is_left(world: World) -> None:
    image, volume = world.ask_image(red("debian")), world.ask_volume(red("data"), size_bytes=MIB)
    for operation, table in ((image, tables.images), (volume, tables.volumes)):
        failed = world.fail(operation)
        assert failed.state is OperationState.FAILED
        assert failed.failure == {"code": "storage-failed", "doing": "working", "expected": "a disk", "found": "smoke"}
        assert world.count(table) == 0
        assert operation.target in world.discarded()
    assert world.do(world.ask_image(red("debian"))).state is OperationState.DONE


def test_fault_3_a_failure_is_not_made_a_success_by_what_comes_after_it(world: World) -> None:
    operation = world.ask_volume(red("data"), size_bytes=MIB)
    world.begin(operation)
    world.fail(operation)
    assert world.begin(operation) is None
    assert world.do(operation).state is OperationState.FAILED
    assert world.count(tables.volumes) == 0


def test_fault_3_an_opening_that_failed_is_closed_and_never_half_open(world: World) -> None:
    world.volume(red("data"))
    operation = world.ask_open(red("data"))
    world.begin(operation)
    world.fail(operation)
    [closing] = world.live()
    assert closing.verb is Verb.CLOSE
    world.do(closing)
    assert world.count(tables.openings) == 0
    world.open(red("data"))


@pytest.mark.parametrize("user", ["volume", "boot", "copy", "roll back"])
def test_fault_7_an_image_in_use_is_not_deleted(world: World, user: str) -> None:
    image = world.image(red("debian"))
    match user:
        case "volume":
            world.volume(red("root"), red("debian"))
        case "boot":
            world.volume(red("root"), red("debian"))
            world.boot("n1", "root")
        case "copy":
            world.ask_image(red("copy"), FromImage(red("debian")))
        case "roll back":
            world.volume(red("root"))
            with world.tx() as tx:
                volumes.roll_back_volume(tx, RED, QUOTA, name=red("root"), image=red("debian"), limit=LIMIT)
    with pytest.raises(InUse), world.tx() as tx:
        images.delete_image(tx, RED, name=red("debian"), expected_version=None)
    assert world.image_now(red("debian")) == image
    assert image.id not in world.discarded()


def test_fault_7_an_image_that_is_not_in_use_any_more_is_deleted(world: World) -> None:
    image = world.image(red("debian"))
    world.volume(red("root"), red("debian"))
    with world.tx() as tx:
        volumes.delete_volume(tx, RED, name=red("root"), expected_version=None)
        images.delete_image(tx, RED, name=red("debian"), expected_version=None)
    assert image.id in world.discarded()
    world.image(red("debian"))
