from ipaddress import IPv4Address

import pytest
from sqlalchemy import select

from steelyard.imaging import catalogue, images, outcomes, tables, volumes
from steelyard.imaging.objects import (
    FromVolume,
    Keeping,
    Name,
    Opening,
    OpeningState,
    Operation,
    OperationState,
    Protocol,
    Verb,
)
from steelyard.imaging.ports import Access
from steelyard.model.errors import (
    AlreadyThere,
    Changed,
    InUse,
    NotFound,
    OverQuota,
    ServiceUnready,
    WrongState,
    WrongUse,
)
from steelyard.model.secret import Secret
from steelyard.service.journal import read_entries
from steelyard.service.sealing import Sealer
from tests.unit.imaging.rig import (
    BLUE,
    BOTH,
    ISCSI,
    LIMIT,
    MIB,
    NBD,
    NODE,
    PROVIDER,
    QUOTA,
    RED,
    SEALER,
    STRANGER,
    World,
    contents,
    red,
)

DATA = red("data")


def _resize(world: World, size_bytes: int) -> Operation:
    with world.tx() as tx:
        return volumes.resize_volume(tx, RED, QUOTA, name=DATA, size_bytes=size_bytes, limit=LIMIT)


def _roll_back(world: World, image: Name | None) -> Operation:
    with world.tx() as tx:
        return volumes.roll_back_volume(tx, RED, QUOTA, name=DATA, image=image, limit=LIMIT)


def _flatten(world: World) -> Operation:
    with world.tx() as tx:
        return volumes.flatten_volume(tx, RED, name=DATA, limit=LIMIT)


def _delete(world: World) -> None:
    with world.tx() as tx:
        volumes.delete_volume(tx, RED, name=DATA, expected_version=None)


def _opening(world: World) -> Opening:
    with world.database.reading() as connection:
        return volumes.get_opening(connection, RED, DATA)


def _access(world: World, sealer: Sealer = SEALER) -> Access:
    with world.tx() as tx:
        return volumes.get_access(tx, RED, sealer, name=DATA)


# -- making ------------------------------------------------------------------------------------------------------------


def test_a_volume_begins_as_an_image_of_its_size_or_larger(world: World) -> None:
    image = world.image(red("debian"))
    same = world.volume(DATA, red("debian"))
    assert (same.image, same.size_bytes, same.ready) == (image.id, 10 * MIB, True)
    world.do(world.ask_volume(red("large"), red("debian"), size_bytes=20 * MIB))
    assert world.volume_now(red("large")).size_bytes == 20 * MIB
    with pytest.raises(WrongUse):
        world.ask_volume(red("small"), red("debian"), size_bytes=5 * MIB)


def test_a_blank_volume_has_a_size(world: World) -> None:
    with pytest.raises(WrongUse):
        world.ask_volume(DATA)
    operation = world.ask_volume(DATA, size_bytes=MIB)
    assert not world.volume_now(DATA).ready
    with pytest.raises(InUse):
        world.ask_open(DATA)
    world.do(operation)
    assert (world.volume_now(DATA).image, world.volume_now(DATA).ready) == (None, True)


@pytest.mark.parametrize("when", ["waiting", "begun", "done", "open", "image renamed"])
def test_a_volume_that_is_asked_for_again_is_the_same(world: World, when: str) -> None:
    world.image(red("debian"))
    operation = world.ask_volume(DATA, red("debian"), caller=RED)
    match when:
        case "begun":
            world.begin(operation)
        case "done":
            world.do(operation)
        case "open":
            world.do(operation)
            world.open(DATA)
        case "image renamed":
            with world.tx() as tx:
                images.rename_image(tx, RED, name=red("debian"), new_name="old", expected_version=None)
    assert world.ask_volume(DATA, red("debian"), caller=RED) == world.operation(operation)
    assert world.count(tables.volumes) == 1


def test_another_volume_of_the_same_name_is_refused(world: World) -> None:
    world.image(red("debian"))
    world.image(red("other"))
    world.volume(DATA, red("debian"))
    with pytest.raises(AlreadyThere):
        world.ask_volume(DATA, red("other"))
    with pytest.raises(AlreadyThere):
        world.ask_volume(DATA, red("debian"), keeping=Keeping.EPHEMERAL)
    with pytest.raises(AlreadyThere):
        world.ask_volume(DATA, red("debian"), size_bytes=20 * MIB)
    with pytest.raises(AlreadyThere):
        world.ask_volume(DATA, size_bytes=MIB)


def test_a_volume_of_an_image_that_took_the_name_since_is_another(world: World) -> None:
    world.image(red("debian"))
    world.volume(DATA, red("debian"))
    with world.tx() as tx:
        images.rename_image(tx, RED, name=red("debian"), new_name="old", expected_version=None)
    world.image(red("debian"))
    with pytest.raises(AlreadyThere):
        world.ask_volume(DATA, red("debian"))


def test_projects_have_names_of_their_own(world: World) -> None:
    world.volume(DATA)
    world.volume(Name("blue", "data"))
    assert world.volume_now(DATA).id != world.volume_now(Name("blue", "data")).id


def test_an_image_that_is_another_projects_alone_is_not_to_be_had(world: World) -> None:
    world.image(red("debian"))
    with pytest.raises(NotFound):
        world.ask_volume(Name("blue", "root"), red("debian"), caller=BLUE)
    world.ask_volume(Name("blue", "root"), red("debian"), caller=BOTH)


# -- work --------------------------------------------------------------------------------------------------------------


def test_a_volume_grows_and_never_shrinks(world: World) -> None:
    world.volume(DATA)
    world.do(_resize(world, 2 * MIB))
    assert world.volume_now(DATA).size_bytes == 2 * MIB
    with pytest.raises(WrongUse):
        _resize(world, MIB)
    assert world.do(_resize(world, 2 * MIB)).state is OperationState.DONE


def test_growth_counts_from_when_it_is_asked_for_until_it_is_given_up(world: World) -> None:
    world.volume(DATA)
    with pytest.raises(OverQuota):
        _resize(world, 101 * MIB)
    operation = _resize(world, 100 * MIB)
    with pytest.raises(OverQuota):
        world.ask_volume(red("more"), size_bytes=MIB)
    world.fail(operation)
    assert world.volume_now(DATA).size_bytes == MIB
    world.ask_volume(red("more"), size_bytes=MIB)


def test_a_volume_goes_back_to_what_it_stands_on_or_to_another_image(world: World) -> None:
    world.image(red("debian"))
    other = world.image(red("other"), contents(20 * MIB))
    world.volume(DATA, red("debian"))
    world.do(_resize(world, 15 * MIB))
    world.do(_roll_back(world, None))
    assert world.volume_now(DATA).size_bytes == 10 * MIB
    world.do(_roll_back(world, red("other")))
    assert (world.volume_now(DATA).image, world.volume_now(DATA).size_bytes) == (other.id, 20 * MIB)


def test_rolling_back_to_a_larger_image_counts_from_when_it_is_asked_for(world: World) -> None:
    world.image(red("large"), contents(40 * MIB))
    world.volume(DATA)
    operation = _roll_back(world, red("large"))
    with pytest.raises(OverQuota):
        world.ask_volume(red("more"), size_bytes=21 * MIB)
    world.fail(operation)
    assert (world.volume_now(DATA).image, world.volume_now(DATA).size_bytes) == (None, MIB)
    world.ask_volume(red("more"), size_bytes=21 * MIB)


def test_rolling_back_to_a_smaller_image_gives_nothing_back_before_it_is_done(world: World) -> None:
    world.image(red("small"), contents(10 * MIB))
    world.do(world.ask_volume(DATA, size_bytes=80 * MIB))
    operation = _roll_back(world, red("small"))
    with pytest.raises(OverQuota):
        world.ask_volume(red("more"), size_bytes=20 * MIB)
    world.do(operation)
    world.ask_volume(red("more"), size_bytes=20 * MIB)


def test_a_blank_volume_has_nothing_to_go_back_to(world: World) -> None:
    world.volume(DATA)
    with pytest.raises(WrongState):
        _roll_back(world, None)


def test_a_flat_volume_lets_its_image_go(world: World) -> None:
    world.image(red("debian"))
    world.volume(DATA, red("debian"))
    operation = _flatten(world)
    with pytest.raises(InUse), world.tx() as tx:
        images.delete_image(tx, RED, name=red("debian"), expected_version=None)
    world.do(operation)
    with world.tx() as tx:
        images.delete_image(tx, RED, name=red("debian"), expected_version=None)


@pytest.mark.parametrize("work", ["resize", "roll back", "flatten", "snapshot"])
def test_work_excludes_other_work_and_is_the_same_when_it_is_asked_for_again(world: World, work: str) -> None:
    world.image(red("debian"))
    world.volume(DATA, red("debian"))
    asks = {
        "resize": lambda: _resize(world, 12 * MIB),
        "roll back": lambda: _roll_back(world, None),
        "flatten": lambda: _flatten(world),
        "snapshot": lambda: world.ask_image(red("snap"), FromVolume(DATA)),
    }
    operation = asks[work]()
    assert asks[work]() == operation
    for other in sorted(set(asks) - {work}):
        with pytest.raises(InUse):
            asks[other]()
    for otherwise in (
        lambda: _resize(world, 13 * MIB),
        lambda: _roll_back(world, red("debian")),
        lambda: world.ask_open(DATA),
        lambda: _delete(world),
    ):
        with pytest.raises(InUse):
            otherwise()
    world.do(operation)
    world.open(DATA)


def test_a_volume_is_renamed_and_kept_at_any_time(world: World) -> None:
    operation = world.ask_volume(DATA, size_bytes=MIB, keeping=Keeping.EPHEMERAL)
    with world.tx() as tx:
        renamed = volumes.rename_volume(tx, RED, name=DATA, new_name="new", expected_version=1)
        kept = volumes.set_keeping(tx, RED, name=red("new"), keeping=Keeping.KEPT, expected_version=renamed.version)
        assert volumes.set_keeping(tx, RED, name=red("new"), keeping=Keeping.KEPT, expected_version=None) == kept
        assert volumes.rename_volume(tx, RED, name=red("new"), new_name="new", expected_version=None) == kept
    with pytest.raises(Changed), world.tx() as tx:
        volumes.rename_volume(tx, RED, name=red("new"), new_name="newer", expected_version=1)
    other = world.do(world.ask_volume(DATA, size_bytes=MIB))
    with pytest.raises(AlreadyThere), world.tx() as tx:
        volumes.rename_volume(tx, RED, name=red("new"), new_name="data", expected_version=None)
    world.do(operation)
    assert world.volume_now(red("new")).id == operation.target != other.target
    assert world.volume_now(red("new")).ready


# -- open and close ----------------------------------------------------------------------------------------------------


def test_a_volume_is_open_when_it_is_served_and_not_before(world: World) -> None:
    world.volume(DATA)
    operation = world.ask_open(DATA, caller=RED)
    assert _opening(world) == Opening(
        world.volume_now(DATA).id, "red-net", Protocol.NBD, NODE, None, OpeningState.OPENING
    )
    with pytest.raises(WrongState):
        _access(world)
    world.do(operation)
    assert _opening(world).state is OpeningState.OPEN
    assert _access(world) == NBD


def test_a_volume_is_open_for_one_address(world: World) -> None:
    world.volume(DATA)
    operation = world.ask_open(DATA)
    assert world.ask_open(DATA) == operation
    world.do(operation)
    again = world.ask_open(DATA)
    assert (again.state, world.live()) == (OperationState.DONE, ())
    for ask in (
        lambda: world.ask_open(DATA, address=IPv4Address("10.8.0.51")),
        lambda: world.ask_open(DATA, protocol=Protocol.ISCSI),
        lambda: world.ask_open(DATA, network="red-more", address=IPv4Address("10.8.1.51")),
        lambda: _resize(world, 2 * MIB),
        lambda: _delete(world),
    ):
        with pytest.raises(InUse):
            ask()


def test_a_volume_is_open_on_a_network_of_its_project_alone(world: World) -> None:
    world.volume(DATA)
    with pytest.raises(NotFound):
        world.ask_open(DATA, caller=BOTH, network="blue-net", address=IPv4Address("10.9.0.5"))
    with pytest.raises(WrongUse):
        world.ask_open(DATA, address=IPv4Address("10.9.0.5"))


def test_a_volume_that_is_closing_opens_for_nobody_until_nothing_serves_it(world: World) -> None:
    world.volume(DATA)
    world.open(DATA)
    operation = world.ask_close(DATA)
    assert world.ask_close(DATA) == operation
    with pytest.raises(WrongState):
        _access(world)
    with pytest.raises(InUse):
        world.ask_open(DATA)
    with world.database.reading() as connection:
        assert connection.execute(select(tables.openings.c.sealed)).scalar_one() is None
    world.do(operation)
    assert world.count(tables.openings) == 0
    assert world.ask_close(DATA).state is OperationState.DONE
    world.open(DATA)


def test_a_volume_is_closed_while_it_is_being_opened(world: World) -> None:
    world.volume(DATA)
    opening = world.ask_open(DATA)
    world.begin(opening)
    closing = world.ask_close(DATA)
    assert world.operation(opening).state is OperationState.CANCELLED
    with world.tx() as tx:  # what the worker has opened by now is not to be
        assert not outcomes.opened(tx, opening, opening.target, b"sealed")
    world.do(closing)
    assert world.count(tables.openings) == 0


def test_an_ephemeral_volume_goes_when_it_is_closed(world: World) -> None:
    volume = world.volume(DATA, keeping=Keeping.EPHEMERAL)
    world.open(DATA)
    operation = world.ask_close(DATA)
    assert world.count(tables.volumes) == 1
    world.do(operation)
    assert world.count(tables.volumes) == 0
    assert volume.id in world.discarded()


def test_a_closing_that_failed_is_taken_up_again(world: World) -> None:
    world.volume(DATA)
    world.open(DATA)
    world.fail(world.ask_close(DATA))
    with pytest.raises(InUse):
        world.ask_open(DATA)
    with world.tx() as tx:
        outcomes.take_up_endings(tx)
        outcomes.take_up_endings(tx)
    [again] = world.live()
    assert again.verb is Verb.CLOSE
    world.do(again)
    world.open(DATA)


def test_what_opens_a_volume_is_told_to_who_may_use_it_and_the_journal_says_so(world: World) -> None:
    world.volume(DATA)
    world.open(DATA)
    _access(world)
    with world.database.reading() as connection:
        told = [entry for entry in read_entries(connection, PROVIDER, after=0, limit=100) if "access" in entry.verb]
        assert [(entry.actor, entry.subject) for entry in told] == [("rob", "volume/data")]
        sealed = connection.execute(select(tables.openings.c.sealed)).scalar_one()
    assert b"certificate" not in sealed


@pytest.mark.parametrize("access", [NBD, ISCSI])
def test_an_access_opens_as_it_was_sealed_and_for_its_own_volume(access: Access) -> None:
    sealed = catalogue.seal_access(SEALER, "v1", access)
    assert catalogue.open_access(SEALER, "v1", sealed) == access
    with pytest.raises(ServiceUnready):
        catalogue.open_access(SEALER, "v2", sealed)


def test_accesses_are_sealed_anew_when_there_is_a_newer_key(world: World) -> None:
    world.volume(DATA)
    world.open(DATA)
    newer = Sealer({b"key2": Secret(b"2" * 32), **SEALER.keys})
    with world.tx() as tx:
        assert list(catalogue.seal_anew(tx, newer)) == []
    newest = Sealer({b"key2": Secret(b"2" * 32)})
    assert _access(world, newest) == NBD
    with world.tx() as tx:
        assert list(catalogue.seal_anew(tx, SEALER)) == [world.volume_now(DATA).id]


# -- looking -----------------------------------------------------------------------------------------------------------


def test_volumes_are_seen_by_their_project_in_order_of_their_names(world: World) -> None:
    for name in (red("b"), red("a"), Name("blue", "z")):
        world.volume(name)
    for caller, expected in (
        (PROVIDER, ["blue/z", "red/a", "red/b"]),
        (RED, ["red/a", "red/b"]),
        (BLUE, ["blue/z"]),
        (STRANGER, []),
    ):
        with world.database.reading() as connection:
            page = volumes.list_volumes(connection, caller, project=None, after=None, limit=10)
            assert [str(volume.name) for volume in page] == expected
            rest = volumes.list_volumes(connection, caller, project="red", after=red("a"), limit=1)
            assert [str(volume.name) for volume in rest] == [name for name in expected if name == "red/b"]
    with world.database.reading() as connection:
        for name in (red("a"), red("none")):
            with pytest.raises(NotFound):
                volumes.get_volume(connection, BLUE, name)
        with pytest.raises(NotFound):
            volumes.get_opening(connection, RED, red("a"))
