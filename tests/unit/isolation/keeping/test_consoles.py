"""Serial lines: recorded for every reader, bounded, and gone with the project."""

from steelyard.isolation import consoles
from steelyard.isolation.consoles import ConsoleText
from steelyard.isolation.keeping.consoles import ConsoleKeeper
from steelyard.isolation.keeping.tenure import Settings
from steelyard.isolation.ports import Power
from tests.fakes.bmc import Fault
from tests.unit.isolation.keeping.rig import SETTINGS, World
from tests.unit.isolation.rig import PROVIDER, RED, SEALER


def a_keeper(world: World, settings: Settings = SETTINGS) -> ConsoleKeeper:
    return ConsoleKeeper("n1", world.database, world.devices.drivers, SEALER, settings)


def open_console(world: World) -> None:
    with world.database.writing() as tx:
        consoles.open_console(tx, RED, node="n1")


def read(world: World, offset: int = 0) -> ConsoleText:
    with world.database.reading() as connection:
        return consoles.read_console(connection, RED, node="n1", offset=offset, most=1024 * 1024)


def test_what_a_node_says_is_there_for_every_reader(world: World) -> None:
    """Fault 13: one reader evicted the other."""
    open_console(world)
    keeper = a_keeper(world)
    assert keeper.hear_once(0) == 0
    world.devices.bmcs["n1"].say(b"hello ")
    keeper.hear_once(0)
    world.devices.bmcs["n1"].say(b"world")
    keeper.hear_once(0)
    for _ in range(2):
        assert read(world).said == b"hello world"
        assert read(world, 6).said == b"world"


def test_keys_are_typed_once(world: World) -> None:
    open_console(world)
    world.devices.bmcs["n1"].be(Power.ON)
    keeper = a_keeper(world)
    keeper.hear_once(0)
    for keys in (b"root\n", b"ls\n"):
        with world.database.writing() as tx:
            consoles.write_console(tx, RED, node="n1", keys=keys)
    keeper.type_once()
    keeper.type_once()
    assert world.devices.bmcs["n1"].typed == b"root\nls\n"


def test_of_what_a_node_says_the_newest_is_kept(world: World) -> None:
    open_console(world)
    keeper = a_keeper(world, Settings(console_bytes=10))
    keeper.hear_once(0)
    for word in (b"0123", b"4567", b"89ab", b"cdef"):
        world.devices.bmcs["n1"].say(word)
        keeper.hear_once(0)
    text = read(world)
    assert (text.begins, text.said, text.ends) == (4, b"456789abcdef", 16)


def test_nobody_reads_what_the_node_said_to_the_project_before(world: World) -> None:
    """Fault 7: freeing a node left its console open. A thread that was slow to end writes nothing down either."""
    open_console(world)
    keeper = a_keeper(world)
    keeper.hear_once(0)
    device = world.devices.bmcs["n1"]
    device.say(b"the secret")
    line = device._console
    assert line is not None

    def hand_over() -> None:
        """Release the node and give it to red anew while a line of the first time was being read."""
        world.release("n1")
        for _ in range(4):
            world.process.do_all()
            world.clock.advance(11)
        world.allocate("n1", "red")
        open_console(world)

    listen = line.read

    def slowly(seconds: float) -> bytes:
        said = listen(seconds)
        if said:
            hand_over()
        return said

    line.read = slowly  # type: ignore[method-assign]  # the moment between hearing and writing down
    keeper.hear_once(0)
    assert read(world).said == b""
    keeper.hear_once(0)
    device.say(b"news")
    keeper.hear_once(0)
    assert read(world).said == b"news"


def test_a_closed_console_is_given_back(world: World) -> None:
    open_console(world)
    keeper = a_keeper(world)
    keeper.hear_once(0)
    assert world.devices.bmcs["n1"]._console is not None
    with world.database.writing() as tx:
        consoles.close_console(tx, PROVIDER, node="n1")
    assert keeper.hear_once(0) is None
    assert world.devices.bmcs["n1"]._console is None


def test_a_line_that_was_lost_is_taken_again(world: World) -> None:
    open_console(world)
    device = world.devices.bmcs["n1"]
    keeper = a_keeper(world)
    keeper.hear_once(0)
    device.restart_bmc()
    device.faults.add(Fault.UNREACHABLE)
    assert keeper.hear_once(0) == 0.2
    assert keeper.hear_once(0) == 0.4
    assert read(world).trouble is not None
    device.faults.clear()
    keeper.hear_once(0)
    assert read(world).trouble is None
    device.say(b"again")
    keeper.hear_once(0)
    assert read(world).said == b"again"


def test_a_line_is_held_by_one_process(world: World) -> None:
    open_console(world)
    keeper = a_keeper(world)
    keeper.hear_once(0)
    other = a_keeper(world)
    assert other.hear_once(0) == SETTINGS.take_over.total_seconds()
    keeper.close()
    assert other.hear_once(0) == 0
