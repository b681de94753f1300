from typing import Final

import pytest

from steelyard.imaging import operations, outcomes, tables, volumes
from steelyard.imaging.objects import Keeping, Name, Operation, OperationState, Verb
from steelyard.model.errors import NotFound, WrongState, WrongUse
from steelyard.service.authority import Caller
from tests.unit.imaging.rig import BLUE, LIMIT, MIB, PROVIDER, QUOTA, RED, STRANGER, World, contents, red

MAKING: Final = ("make image", "make volume", "open", "boot", "resize", "roll back", "flatten")


def _ask(world: World, what: str) -> Operation:
    """Have something done to data, a blank volume of one MiB."""
    match what:
        case "make image":
            return world.ask_image(red("debian"))
        case "make volume":
            return world.ask_volume(red("new"), size_bytes=MIB)
        case "open":
            return world.ask_open(red("data"))
        case "boot":
            return world.ask_boot("n1")
        case "close":
            world.open(red("data"))
            return world.ask_close(red("data"))
        case "end boot":
            world.do(world.ask_boot("n1"))
            return world.ask_end_boot("n1")
    with world.tx() as tx:
        match what:
            case "resize":
                return volumes.resize_volume(tx, RED, QUOTA, name=red("data"), size_bytes=2 * MIB, limit=LIMIT)
            case "roll back":
                name, base = red("data"), red("base")
                return volumes.roll_back_volume(tx, RED, QUOTA, name=name, image=base, limit=LIMIT)
            case _:
                return volumes.flatten_volume(tx, RED, name=red("data"), limit=LIMIT)


def _furnish(world: World) -> tuple[object, ...]:
    world.image(red("base"), contents(5 * MIB))
    world.volume(red("data"))
    return _there(world)


def _there(world: World) -> tuple[object, ...]:
    """Return what there is beside operations; not how often it was changed."""
    tabled = (tables.images, tables.volumes, tables.openings, tables.boots)
    with world.database.reading() as connection:
        return tuple(
            tuple(
                tuple(value for key, value in row._mapping.items() if key != "version")
                for row in connection.execute(table.select())
            )
            for table in tabled
        )


@pytest.mark.parametrize("when", ["waiting", "begun"])
@pytest.mark.parametrize("what", MAKING)
def test_work_that_is_given_up_leaves_nothing(world: World, what: str, when: str) -> None:
    before = _furnish(world)
    operation = _ask(world, what)
    if when == "begun":
        world.begin(operation)
        told = world.cancel(operation, RED)
        assert (told.state, told.cancelling) == (OperationState.RUNNING, True)
        assert world.cancel(operation, RED) == told
        with world.tx() as tx:
            assert not outcomes.progress(tx, operation, "half done", 1, 2)
            outcomes.given_up(tx, operation)
    else:
        assert world.cancel(operation, RED).state is OperationState.CANCELLED
    assert world.operation(operation).state is OperationState.CANCELLED
    assert world.cancel(operation).state is OperationState.CANCELLED
    world.do_all()
    assert _there(world) == before


@pytest.mark.parametrize("what", MAKING)
def test_work_that_was_done_before_it_heard_is_done(world: World, what: str) -> None:
    _furnish(world)
    operation = _ask(world, what)
    world.begin(operation)
    world.cancel(operation)
    assert world.do(operation).state is OperationState.DONE
    with pytest.raises(WrongState):
        world.cancel(operation)


@pytest.mark.parametrize("what", ["close", "end boot"])
def test_what_cuts_a_node_off_is_not_given_up(world: World, what: str) -> None:
    _furnish(world)
    operation = _ask(world, what)
    with pytest.raises(WrongState):
        world.cancel(operation)
    world.begin(operation)
    with pytest.raises(WrongState):
        world.cancel(operation)
    assert world.do(operation).state is OperationState.DONE


@pytest.mark.parametrize("what", [*MAKING, "close", "end boot"])
def test_every_operation_ends_by_its_deadline(world: World, what: str) -> None:
    _furnish(world)
    operation = _ask(world, what)
    _let_time_pass(world)
    ended = world.operation(operation)
    assert ended.state is OperationState.FAILED
    assert ended.failure is not None
    assert ended.failure["code"] == "out-of-time"


@pytest.mark.parametrize("what", MAKING)
def test_work_under_way_is_told_when_its_time_is_over(world: World, what: str) -> None:
    before = _furnish(world)
    operation = _ask(world, what)
    world.begin(operation)
    with world.tx() as tx:
        assert outcomes.progress(tx, operation, "half done", 1, 2)
    _let_time_pass(world)
    with world.tx() as tx:
        assert not outcomes.progress(tx, operation, "nearly done", 1, 2)
        tx.now += 2 * LIMIT
        outcomes.given_up(tx, operation)
    ended = world.operation(operation)
    assert ended.state is OperationState.FAILED
    assert ended.failure is not None
    assert ended.failure["found"] == "nearly done"
    world.do_all()
    assert _there(world) == before


def _let_time_pass(world: World) -> None:
    with world.tx() as tx:
        tx.now += 2 * LIMIT
        outcomes.end_overdue(tx)


def test_what_has_ended_does_not_go_on(world: World) -> None:
    operation = world.do(world.ask_volume(red("data"), size_bytes=MIB))
    with world.tx() as tx:
        assert not outcomes.progress(tx, operation, "still going", 1, 2)
        assert outcomes.begin(tx, operation) is None
    assert world.operation(operation) == operation
    assert (operation.state, operation.progress) == (OperationState.DONE, "done")
    assert world.fail(operation) == operation


def test_progress_is_told(world: World) -> None:
    operation = world.ask_image(red("debian"))
    world.begin(operation)
    with world.tx() as tx:
        assert outcomes.progress(tx, operation, "fetching", 3, 7)
        assert f"imaging-operation/{operation.id}" in tx.topics
    now = world.operation(operation)
    assert (now.progress, now.done_bytes, now.total_bytes) == ("fetching", 3, 7)


def test_asking_wakes_the_worker_and_ending_wakes_who_waits(world: World) -> None:
    with world.tx() as tx:
        operation = volumes.make_volume(
            tx, RED, QUOTA, name=red("v"), image=None, keeping=Keeping.KEPT, size_bytes=MIB, limit=LIMIT
        )
        assert "imaging" in tx.topics
    with world.tx() as tx:
        outcomes.volume_made(tx, operation)
        assert f"imaging-operation/{operation.id}" in tx.topics


def test_operations_are_seen_by_their_project_the_oldest_first(world: World) -> None:
    first = world.do(world.ask_volume(red("a"), size_bytes=MIB))
    second = world.ask_image(red("b"))
    other = world.ask_volume(Name("blue", "c"), size_bytes=MIB)
    with world.database.reading() as connection:

        def listed(
            caller: Caller,
            project: str | None = None,
            verb: Verb | None = None,
            state: OperationState | None = None,
            after: str = "",
        ) -> list[str]:
            found = operations.list_operations(
                connection, caller, project=project, verb=verb, state=state, after=after, limit=10
            )
            return [operation.id for operation in found]

        assert sorted(listed(PROVIDER)) == sorted(each.id for each in (first, second, other))
        assert sorted(listed(RED)) == sorted((first.id, second.id))
        assert listed(RED, verb=Verb.MAKE_IMAGE) == [second.id]
        assert listed(RED, state=OperationState.DONE) == [first.id]
        assert listed(PROVIDER, project="blue") == [other.id]
        assert listed(STRANGER) == []
        assert listed(RED, after=max(first.id, second.id)) == []
        with pytest.raises(NotFound):
            operations.get_operation(connection, BLUE, first.id)
        with pytest.raises(NotFound):
            operations.get_operation(connection, RED, "none")
        with pytest.raises(WrongUse):
            operations.list_operations(connection, RED, project=None, verb=None, state=None, after="", limit=1001)
    with pytest.raises(NotFound):
        world.cancel(second, BLUE)
