"""Serial lines, as far as the database goes."""

import pytest
from sqlalchemy import func, insert, select, update

from steelyard.isolation import consoles, operations, tables
from steelyard.isolation.consoles import ConsoleText
from steelyard.isolation.life import NodeState
from steelyard.model.errors import NotAllowed, NotFound, TooLarge, TooMany, WrongState, WrongUse
from steelyard.service.authority import Caller, Right, Role
from tests.unit.isolation.rig import AUDITOR, BLUE, LIMIT, PROVIDER, RED, Rack


@pytest.fixture
def used(rack: Rack) -> Rack:
    """A rack in which red has n1, and its console is open."""
    rack.free("n1")
    rack.allocate(RED, "red")
    with rack.tx() as tx:
        consoles.open_console(tx, RED, node="n1")
        assert "consoles" in tx.topics
    return rack


def say(used: Rack, *pieces: tuple[int, bytes], begins: int = 0) -> None:
    """Record what a node said, as the console keeper does."""
    with used.tx() as tx:
        for offset, said in pieces:
            tx.connection.execute(insert(tables.console_output).values(node="n1", offset=offset, said=said))
        ends = pieces[-1][0] + len(pieces[-1][1])
        tx.connection.execute(update(tables.consoles).values(begins=begins, ends=ends))


def read(used: Rack, offset: int, most: int = 100, caller: Caller = RED) -> ConsoleText:
    with used.database.reading() as connection:
        return consoles.read_console(connection, caller, node="n1", offset=offset, most=most)


def write(used: Rack, keys: bytes, caller: Caller = RED) -> None:
    with used.tx() as tx:
        consoles.write_console(tx, caller, node="n1", keys=keys)


def rows(used: Rack) -> list[int]:
    with used.database.reading() as connection:
        return [
            connection.scalar(select(func.count()).select_from(table)) or 0
            for table in (tables.consoles, tables.console_output, tables.console_input)
        ]


def test_readers_read_from_where_they_are_and_evict_nobody(used: Rack) -> None:
    assert read(used, 0) == ConsoleText(0, 0, b"", 0, None)
    say(used, (0, b"login: "), (7, b"root\n"), (12, b"# "))
    assert read(used, 0) == ConsoleText(0, 0, b"login: root\n# ", 14, None)
    assert read(used, 5) == ConsoleText(0, 5, b": root\n# ", 14, None)
    assert read(used, 7, 3) == ConsoleText(0, 7, b"roo", 14, None)
    assert read(used, 10, 3).said == b"t\n#"
    assert read(used, 14).said == b""
    assert read(used, 99) == ConsoleText(0, 14, b"", 14, None)


def test_what_is_no_longer_kept_is_left_out(used: Rack) -> None:
    say(used, (100, b"later"), begins=100)
    assert read(used, 3) == ConsoleText(100, 100, b"later", 105, None)


def test_a_reader_asks_for_a_piece_of_some_size(used: Rack) -> None:
    for offset, most in ((-1, 1), (0, 0), (0, 1024 * 1024 + 1)):
        with pytest.raises(WrongUse):
            read(used, offset, most)


def test_keys_wait_for_the_keeper_up_to_a_limit(used: Rack) -> None:
    write(used, b"reboot\n")
    write(used, b"")
    with pytest.raises(TooLarge):
        write(used, bytes(4097))
    for _ in range(3):
        write(used, bytes(4096))
    with pytest.raises(TooMany):
        write(used, bytes(4096))
    assert rows(used) == [1, 0, 4]


def test_closing_forgets_what_was_said_and_opening_again_begins_anew(used: Rack) -> None:
    say(used, (0, b"password: hunter2"))
    write(used, b"x")
    with used.tx() as tx:
        consoles.close_console(tx, RED, node="n1")
        consoles.close_console(tx, RED, node="n1")
    assert rows(used) == [0, 0, 0]
    with pytest.raises(WrongState, match="closed"):
        read(used, 0)
    with pytest.raises(WrongState, match="closed"):
        write(used, b"x")
    with used.tx() as tx:
        consoles.open_console(tx, RED, node="n1")
        consoles.open_console(tx, RED, node="n1")
    assert read(used, 0).ends == 0
    assert [verb for verb, _, _ in used.journal() if verb.startswith("console")] == [
        "console.opened",
        "console.closed",
        "console.opened",
    ]


def test_a_release_closes_the_console_and_the_next_tenant_reads_nothing(used: Rack) -> None:
    say(used, (0, b"password: hunter2"))
    with used.tx() as tx:
        operations.release(tx, RED, node="n1", to=NodeState.FREE, why="done", waives=frozenset(), limit=LIMIT)
    assert rows(used) == [0, 0, 0]
    with pytest.raises(WrongState), used.tx() as tx:
        consoles.open_console(tx, PROVIDER, node="n1")


def test_a_console_is_its_projects(used: Rack) -> None:
    with pytest.raises(NotFound):
        read(used, 0, caller=BLUE)
    with pytest.raises(NotFound):
        write(used, b"x", caller=BLUE)
    no_console = Caller("rob", None, {"red": Role.ADMIN}, frozenset(Right) - {Right.CONSOLE})
    for caller in (AUDITOR, no_console):
        with pytest.raises(NotAllowed):
            read(used, 0, caller=caller)
        with pytest.raises(NotAllowed):
            write(used, b"x", caller=caller)
    assert read(used, 0, caller=PROVIDER).said == b""


def test_in_quarantine_the_provider_alone_has_the_console(used: Rack) -> None:
    with used.tx() as tx:
        operations.quarantine(tx, RED, node="n1", why="it failed", limit=LIMIT)
    with pytest.raises(WrongState):
        read(used, 0)
    with pytest.raises(WrongState):
        write(used, b"x")
    write(used, b"x", caller=PROVIDER)
