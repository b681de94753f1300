from ipaddress import IPv4Address

import pytest

from steelyard.imaging import boots, catalogue, outcomes, tables
from steelyard.imaging.objects import (
    Boot,
    BootAirlock,
    BootDirect,
    BootDisk,
    BootIpxe,
    BootState,
    BootWhat,
    Keeping,
    KernelAndInitramfs,
    Name,
    Opening,
    OpeningState,
    OperationState,
    Protocol,
    SharedWith,
    Verb,
)
from steelyard.model.errors import AlreadyThere, InUse, NotEnough, NotFound, WrongState, WrongUse
from steelyard.model.network import MacAddress
from tests.unit.imaging.rig import BLUE, KERNEL, MAC, OTHER_MAC, PROVIDER, RED, STRANGER, World, contents, red

DIRECT = BootDirect("root", Protocol.NBD, None, {"user-data": "#cloud-config"})
FIRST = IPv4Address("10.8.0.100")


def _boot(world: World, node: str = "n1") -> Boot:
    with world.database.reading() as connection:
        return boots.get_boot(connection, RED, "red", node)


def _openings(world: World) -> dict[str, Opening]:
    """Return whom each volume is open for, by the volume's name."""
    with world.database.reading() as connection:
        found = [catalogue.opening_of(row) for row in connection.execute(tables.openings.select())]
        names = {row.id: row.name for row in connection.execute(tables.volumes.select())}
    return {names[opening.volume]: opening for opening in found}


def _sealed(world: World) -> list[bytes | None]:
    with world.database.reading() as connection:
        return [row.sealed for row in connection.execute(tables.openings.select())]


def _furnish(world: World, keeping: Keeping = Keeping.KEPT) -> None:
    world.image(red("debian"))
    world.volume(red("root"), red("debian"), keeping)


@pytest.mark.parametrize(
    "what",
    [
        BootAirlock("parameters, to the byte\n", None),
        BootAirlock("", "debian"),
        BootAirlock("", "red/debian"),
        DIRECT,
        BootIpxe("root"),
        BootDisk(),
    ],
)
def test_a_node_boots_what_it_is_told(world: World, what: BootWhat) -> None:
    _furnish(world)
    operation = world.ask_boot("n1", what, caller=RED)
    assert _boot(world).state is BootState.PREPARING
    world.do(operation)
    boot = _boot(world)
    image, volume = world.image_now(red("debian")).id, world.volume_now(red("root")).id
    resolved: BootWhat = BootDisk()
    match what:
        case BootAirlock(parameters, named):
            resolved = BootAirlock(parameters, named and image)
        case BootDirect(_, protocol, line, seed):
            resolved = BootDirect(volume, protocol, line, seed)
        case BootIpxe():
            resolved = BootIpxe(volume)
    assert boot == Boot("red", "n1", "red-net", MAC, FIRST, resolved, BootState.READY, 1)
    opened = Protocol.NBD if what == DIRECT else Protocol.ISCSI if isinstance(what, BootIpxe) else None
    expected = {} if opened is None else {"root": Opening(volume, "red-net", opened, FIRST, "n1", OpeningState.OPEN)}
    assert _openings(world) == expected


def test_a_boot_that_is_asked_for_again_while_it_is_prepared_is_the_same(world: World) -> None:
    _furnish(world)
    operation = world.ask_boot("n1", DIRECT)
    assert world.ask_boot("n1", DIRECT) == operation
    with pytest.raises(InUse):
        world.ask_boot("n1", BootDisk())
    with pytest.raises(InUse):
        world.ask_boot("n1", DIRECT, mac=OTHER_MAC)


def test_a_boot_that_is_put_again_opens_its_volume_anew(world: World) -> None:
    _furnish(world)
    world.boot("n1", "root")
    again = world.ask_boot("n1", DIRECT)
    assert again.state is OperationState.PENDING
    assert _openings(world)["root"].state is OpeningState.OPENING
    assert _sealed(world) == [None]
    world.do(again)
    assert (_boot(world).version, _boot(world).address) == (2, FIRST)
    assert _openings(world)["root"].state is OpeningState.OPEN


def test_a_boot_of_another_volume_ends_the_opening_of_the_first(world: World) -> None:
    _furnish(world)
    world.volume(red("other"), red("debian"))
    world.boot("n1", "root")
    operation = world.ask_boot("n1", BootDirect("other", Protocol.NBD, None, {}))
    states = {name: opening.state for name, opening in _openings(world).items()}
    assert states == {"root": OpeningState.CLOSING, "other": OpeningState.OPENING}
    world.do(operation)
    assert set(_openings(world)) == {"other"}
    world.ask_open(red("root"))


def test_an_ephemeral_volume_goes_when_another_is_booted(world: World) -> None:
    _furnish(world, Keeping.EPHEMERAL)
    volume = world.volume_now(red("root"))
    world.boot("n1", "root")
    world.do(world.ask_boot("n1", BootDisk()))
    assert volume.id in world.discarded()


def test_a_volume_that_a_node_boots_is_no_others(world: World) -> None:
    _furnish(world)
    world.boot("n1", "root")
    with pytest.raises(InUse):
        world.ask_boot("n2", DIRECT, mac=OTHER_MAC)
    with pytest.raises(InUse):
        world.ask_open(red("root"))
    with pytest.raises(InUse):
        world.ask_close(red("root"))


def test_a_volume_that_is_open_for_somebody_is_not_booted(world: World) -> None:
    _furnish(world)
    world.open(red("root"))
    with pytest.raises(InUse):
        world.ask_boot("n1", DIRECT)


def test_a_card_and_an_address_are_one_nodes(world: World) -> None:
    world.do(world.ask_boot("n1"))
    with pytest.raises(AlreadyThere):
        world.ask_boot("n2")
    world.do(world.ask_boot("n2", mac=OTHER_MAC))
    assert {_boot(world, node).address for node in ("n1", "n2")} == {FIRST, FIRST + 1}
    world.do(world.ask_boot("n1", mac=MacAddress("02:00:00:00:00:09")))
    assert _boot(world).address == FIRST


def test_an_address_that_something_is_open_for_is_not_given_to_another(world: World) -> None:
    world.volume(red("data"))
    world.do(world.ask_open(red("data"), address=FIRST))
    world.do(world.ask_boot("n1"))
    assert _boot(world).address == FIRST + 1


def test_addresses_run_out_and_come_back(world: World) -> None:
    for number in range(3):
        world.do(world.ask_boot(f"n{number}", mac=MacAddress(f"02:00:00:00:00:0{number}")))
    with pytest.raises(NotEnough):
        world.ask_boot("n9", mac=MacAddress("02:00:00:00:00:09"))
    world.do(world.ask_end_boot("n1"))
    world.do(world.ask_boot("n9", mac=MacAddress("02:00:00:00:00:09")))
    assert _boot(world, "n9").address == FIRST + 1


def test_a_node_that_moves_to_another_network_has_another_address(world: World) -> None:
    _furnish(world)
    world.boot("n1", "root")
    world.do(world.ask_boot("n1", DIRECT, network="red-more"))
    assert _boot(world).address == IPv4Address("10.8.1.100")
    opening = _openings(world)["root"]
    assert (opening.network, opening.address) == ("red-more", IPv4Address("10.8.1.100"))


def test_a_node_boots_on_a_network_of_its_project_and_from_its_project(world: World) -> None:
    with pytest.raises(NotFound):
        world.ask_boot("n1", network="blue-net")
    world.image(Name("blue", "debian"))
    world.volume(Name("blue", "root"), Name("blue", "debian"))
    with pytest.raises(NotFound):
        world.ask_boot("n1", DIRECT)
    with pytest.raises(NotFound):
        world.ask_boot("n1", BootAirlock("", "blue/debian"), caller=RED)
    with pytest.raises(NotFound):
        world.ask_boot("n1", BootAirlock("", "debian"), caller=RED)
    with pytest.raises(WrongUse):
        world.ask_boot("N1")


def test_the_airlock_gets_the_kernel_of_an_image_that_is_shared(world: World) -> None:
    world.image(Name("blue", "debian"), visibility=SharedWith(frozenset({"red"})))
    world.do(world.ask_boot("n1", BootAirlock("", "blue/debian"), caller=RED))


def test_what_has_no_kernel_is_not_booted_directly(world: World) -> None:
    world.image(red("data"), contents(boot=None))
    world.volume(red("root"), red("data"))
    world.volume(red("blank"))
    with pytest.raises(WrongState):
        world.ask_boot("n1", DIRECT)
    with pytest.raises(WrongState):
        world.ask_boot("n1", BootDirect("blank", Protocol.NBD, "quiet", {}))
    with pytest.raises(WrongState):
        world.ask_boot("n1", BootAirlock("", "data"))
    world.do(world.ask_boot("n1", BootIpxe("blank")))


def test_a_kernel_without_a_command_line_is_told_one(world: World) -> None:
    silent = KernelAndInitramfs(KERNEL.kernel, None, None, KERNEL.measurements)
    world.image(red("debian"), contents(boot=silent))
    world.volume(red("root"), red("debian"))
    with pytest.raises(WrongState):
        world.ask_boot("n1", DIRECT)
    world.do(world.ask_boot("n1", BootDirect("root", Protocol.ISCSI, "root=/dev/sda", {})))


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keeping", Keeping)
@pytest.mark.parametrize("closed_first", [False, True])
def test_a_boot_ends_with_what_was_open_for_it(world: World, keeping: Keeping, closed_first: bool) -> None:  # noqa: FBT001
    _furnish(world, keeping)
    volume = world.volume_now(red("root"))
    world.boot("n1", "root")
    operation = world.ask_end_boot("n1", RED)
    assert world.ask_end_boot("n1") == operation
    assert _boot(world).state is BootState.ENDING
    assert _openings(world)["root"].state is OpeningState.CLOSING
    with pytest.raises((InUse, WrongState)):
        world.ask_boot("n1", BootDisk())
    if closed_first:  # as a worker may write it that is killed after it
        with world.tx() as tx:
            outcomes.closed(tx, volume.id)
    world.do(operation)
    assert _openings(world) == {}
    assert (volume.id in world.discarded()) is (keeping is Keeping.EPHEMERAL)
    with pytest.raises(NotFound):
        _boot(world)
    with pytest.raises(NotFound):
        world.ask_end_boot("n1")


@pytest.mark.parametrize("how", ["failed", "cancelled", "ended"])
def test_a_boot_that_is_not_to_be_goes_the_way_of_the_others(world: World, how: str) -> None:
    _furnish(world)
    world.boot("n1", "root")
    operation = world.ask_boot("n1", DIRECT)
    world.begin(operation)
    match how:
        case "failed":
            world.fail(operation)
        case "cancelled":
            world.cancel(operation)
            with world.tx() as tx:
                outcomes.given_up(tx, operation)
        case "ended":
            world.ask_end_boot("n1")
            assert world.operation(operation).state is OperationState.CANCELLED
    [ending] = world.live()
    assert ending.verb is Verb.END_BOOT
    with world.tx() as tx:
        assert not outcomes.opened(tx, operation, world.volume_now(red("root")).id, b"too late")
        outcomes.booted(tx, operation)
    assert _boot(world).state is BootState.ENDING
    world.do(ending)
    assert (world.count(tables.boots), _openings(world)) == (0, {})


def test_an_ending_that_failed_is_taken_up_again(world: World) -> None:
    _furnish(world)
    world.boot("n1", "root")
    world.fail(world.ask_end_boot("n1"))
    with pytest.raises(WrongState):
        world.ask_boot("n1", DIRECT)
    with world.tx() as tx:
        outcomes.take_up_endings(tx)
        outcomes.take_up_endings(tx)
    [again] = world.live()
    world.do(again)
    assert (again.verb, world.count(tables.boots), _openings(world)) == (Verb.END_BOOT, 0, {})


def test_a_volume_that_a_boot_left_open_is_closed_by_itself(world: World) -> None:
    _furnish(world)
    world.boot("n1", "root")
    operation = world.ask_boot("n1", BootDisk())
    with world.tx() as tx:
        outcomes.take_up_endings(tx)  # not while the boot's own work is to do it
        outcomes.booted(tx, operation)
        outcomes.take_up_endings(tx)
    assert [each.verb for each in world.live()] == [Verb.CLOSE]
    world.do_all()
    assert _openings(world) == {}


def test_boots_are_seen_by_their_project_in_order_of_their_nodes(world: World) -> None:
    world.do(world.ask_boot("n2", mac=OTHER_MAC))
    world.do(world.ask_boot("n1"))
    world.do(world.ask_boot("n3", project="blue", network="blue-net"))
    for caller, expected in ((PROVIDER, ["n3", "n1", "n2"]), (RED, ["n1", "n2"]), (BLUE, ["n3"]), (STRANGER, [])):
        with world.database.reading() as connection:
            page = boots.list_boots(connection, caller, project=None, after=None, limit=10)
            assert [boot.node for boot in page] == expected
            rest = boots.list_boots(connection, caller, project="red", after=red("n1"), limit=1)
            assert [boot.node for boot in rest] == [node for node in expected if node == "n2"]
    with pytest.raises(NotFound), world.database.reading() as connection:
        boots.get_boot(connection, BLUE, "red", "n1")
