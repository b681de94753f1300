"""Serial lines: opened and closed by wish, kept open by the console keeper, recorded in the database for every reader.

A row in `consoles` is the wish; without it nothing is recorded, and what was recorded is gone.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, Row, func, insert, select

from steelyard.isolation import rules, store, tables
from steelyard.isolation.objects import Node
from steelyard.model.errors import TooMany, WrongState, WrongUse
from steelyard.model.limits import CONSOLE_KEYS_BYTES, CONSOLE_READ_BYTES, CONSOLE_UNSENT_BYTES
from steelyard.service.authority import Caller, Right
from steelyard.service.database import Transaction


@dataclass(frozen=True, slots=True)
class ConsoleText:
    """A piece of what a node said.

    begins   offset of the oldest byte that is kept; `offset` is never before it.
    offset   of the first byte of `said`; read on from offset + len(said).
    ends     offset after the newest byte.
    trouble  why the line is not open at the moment; None: it is, or is about to be.
    """

    begins: int
    offset: int
    said: bytes
    ends: int
    trouble: str | None


def open_console(tx: Transaction, caller: Caller, *, node: str) -> None:
    """Have the node's serial line kept open and recorded; nothing if it is. Raises NotAllowed, NotFound, WrongState."""
    doing = f"opening the console of node {node}"
    subject = _reach(tx.connection, caller, node, doing)
    rules.check_bmc(caller, subject, doing)
    if _find(tx.connection, node) is None:
        tx.connection.execute(insert(tables.consoles).values(node=node, begins=0, ends=0))
        store.record(tx, caller.name, "console.opened", f"node/{node}", subject.project)
        tx.wake("consoles")


def close_console(tx: Transaction, caller: Caller, *, node: str) -> None:
    """Give the line back and forget what was recorded; nothing if it is closed. Raises NotAllowed, NotFound."""
    subject = _reach(tx.connection, caller, node, f"closing the console of node {node}")
    if _find(tx.connection, node) is not None:
        store.forget_console(tx, node)
        store.record(tx, caller.name, "console.closed", f"node/{node}", subject.project)


def write_console(tx: Transaction, caller: Caller, *, node: str, keys: bytes) -> None:
    """Send keys to the node. Raises NotAllowed, NotFound, WrongState (not open), TooLarge, TooMany (keys unsent)."""
    doing = f"writing to the console of node {node}"
    rules.check_bmc(caller, _reach(tx.connection, caller, node, doing), doing)
    rules.check_count(CONSOLE_KEYS_BYTES, len(keys), doing)
    _opened(tx.connection, node, doing)
    table = tables.console_input
    unsent = tx.connection.scalar(select(func.sum(func.length(table.c["keys"]))).where(table.c.node == node)) or 0
    if unsent + len(keys) > CONSOLE_UNSENT_BYTES.most:
        raise TooMany(doing, expected=f"at most {CONSOLE_UNSENT_BYTES.most} bytes not yet sent", found=f"{unsent}")
    if keys:
        tx.connection.execute(insert(table).values(node=node, keys=keys))
        tx.wake("consoles")


def read_console(connection: Connection, caller: Caller, *, node: str, offset: int, most: int) -> ConsoleText:
    """Return at most `most` bytes from `offset` on, or from the oldest kept. Topic: "console/NODE".

    Raises NotAllowed, NotFound, WrongState (not open), WrongUse.
    """
    doing = f"reading the console of node {node}"
    if offset < 0 or not 1 <= most <= CONSOLE_READ_BYTES.most:
        raise WrongUse(
            doing, expected=f"an offset, and 1 to {CONSOLE_READ_BYTES.most} bytes", found=f"{offset}, {most}"
        )
    rules.check_bmc(caller, _reach(connection, caller, node, doing), doing)
    console = _opened(connection, node, doing)
    start = min(max(offset, console.begins), console.ends)
    table = tables.console_output
    # The piece that `start` lies in, and those after it.
    first = select(func.max(table.c.offset)).where(table.c.node == node, table.c.offset <= start).scalar_subquery()
    pieces = connection.execution_options(yield_per=16).execute(
        select(table).where(table.c.node == node, table.c.offset >= func.coalesce(first, 0)).order_by(table.c.offset)
    )
    said = b""
    for piece in pieces:
        said += piece.said[max(start - piece.offset, 0) :]
        if len(said) >= most:
            pieces.close()
            break
    return ConsoleText(console.begins, start, said[:most], console.ends, console.trouble)


def _reach(connection: Connection, caller: Caller, node: str, doing: str) -> Node:
    subject = store.load_node(connection, node)
    rules.check_reach(caller, subject.project, f"node {node}")
    caller.must_act_for(subject.project, Right.CONSOLE, doing)
    return subject


def _find(connection: Connection, node: str) -> Row[tuple[object, ...]] | None:
    return connection.execute(select(tables.consoles).where(tables.consoles.c.node == node)).one_or_none()


def _opened(connection: Connection, node: str, doing: str) -> "Row[tuple[object, ...]]":
    console = _find(connection, node)
    if console is None:
        raise WrongState(doing, expected="a console that was opened", found="closed")
    return console
