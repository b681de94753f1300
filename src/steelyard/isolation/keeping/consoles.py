"""The keeper of one node's serial line: holds it, writes down what the node says, types what was asked for.

Readers read the table, any number of them, so that none evicts another. What is kept is bounded, and gone with the wish
for the console: nobody after this project reads it.
"""

from datetime import datetime
from typing import Final

import structlog
from sqlalchemy import Connection, delete, func, insert, select, update

from steelyard.isolation.keeping.nodes import reach_bmc
from steelyard.isolation.keeping.tenure import Settings, Tenure, TenureLost
from steelyard.isolation.ports import Bmc, Console, Drivers
from steelyard.isolation.tables import console_input, console_output, consoles, nodes
from steelyard.model.errors import SteelyardError, Unavailable
from steelyard.service.database import Database, Transaction
from steelyard.service.sealing import Sealer

GATHER_SECONDS: Final = 0.05
"""How long is listened on when the node says something: a commit a letter would keep everybody else waiting."""

log = structlog.get_logger(__name__)


class ConsoleKeeper:
    """Keeps one serial line. `hear_once` and `close` are for one thread, `type_once` is for another."""

    def __init__(self, node: str, database: Database, drivers: Drivers, sealer: Sealer, settings: Settings) -> None:
        self.node = node
        self._database = database
        self._drivers = drivers
        self._sealer = sealer
        self._settings = settings
        self._tenure = Tenure(database, f"console/{node}", settings.bmc)
        self._bmc: Bmc | None = None
        self._console: Console | None = None
        self._wish: tuple[datetime | None] | None = None
        self._failures = 0

    def hear_once(self, seconds: float) -> float | None:
        """Listen for at most `seconds`; return after how many to listen again. None: nobody wants it any more."""
        try:
            with self._database.reading() as connection:
                wish = self._read_wish(connection)
            if wish != self._wish:
                self._hang_up()
                self._wish = wish
            if wish is None:
                return None
            if not self._tenure.fresh:
                with self._database.writing() as tx:
                    if not self._tenure.take(tx):
                        return self._settings.take_over.total_seconds()
            self._listen(seconds)
        except TenureLost:
            self._hang_up()
            return self._settings.take_over.total_seconds()
        except SteelyardError as error:
            return self._failed(str(error))
        except Exception as error:
            log.exception("keeping a console", node=self.node)
            return self._failed(f"a fault of this service: {type(error).__name__}")
        self._failures = 0
        return 0

    def type_once(self) -> None:
        """Send the keys that wait, each once: what may have been typed is not typed again."""
        with self._database.reading() as connection:
            waiting = connection.execute(select(console_input.c.id).where(console_input.c.node == self.node).limit(1))
            if self._console is None or waiting.first() is None:
                return
        try:
            with self._database.writing() as tx:
                self._confirm(tx)
                mine = console_input.c.node == self.node
                rows = tx.connection.execute(select(console_input).where(mine).order_by(console_input.c.id)).all()
                tx.connection.execute(delete(console_input).where(mine))
            self._tenure.before_call()
            self._console.write(b"".join(row.keys for row in rows))
        except (TenureLost, SteelyardError) as error:
            log.warning("typing at a console", node=self.node, error=str(error))

    def close(self) -> None:
        """Give the line back, and leave it to other processes."""
        self._hang_up()
        with self._database.writing() as tx:
            self._tenure.give_up(tx)

    def _read_wish(self, connection: Connection) -> tuple[datetime | None] | None:
        """Return the allocation that the console is wanted for: what one project's node said is not for the next."""
        row = connection.execute(
            select(nodes.c.allocated_at)
            .join(consoles, consoles.c.node == nodes.c.name)
            .where(nodes.c.name == self.node)
        ).one_or_none()
        return None if row is None else (row.allocated_at,)

    def _confirm(self, tx: Transaction) -> None:
        self._tenure.confirm(tx)
        if self._read_wish(tx.connection) != self._wish:
            raise TenureLost(self._tenure.name)

    def _listen(self, seconds: float) -> None:
        if self._console is None:
            self._tenure.before_call()
            self._bmc = reach_bmc(self._database, self._drivers, self._sealer, self.node)
            self._console = self._bmc.open_console()
            with self._database.writing() as tx:
                self._confirm(tx)
                tx.connection.execute(update(consoles).where(consoles.c.node == self.node).values(trouble=None))
        said = self._console.read(seconds)
        if said:
            said += self._console.read(GATHER_SECONDS)
            with self._database.writing() as tx:
                self._confirm(tx)
                self._write_down(tx, said)

    def _write_down(self, tx: Transaction, said: bytes) -> None:
        mine = consoles.c.node == self.node
        ends = tx.connection.execute(select(consoles.c.ends).where(mine)).scalar_one()
        tx.connection.execute(insert(console_output).values(node=self.node, offset=ends, said=said))
        ends += len(said)
        pieces = console_output.c.node == self.node
        too_old = console_output.c.offset + func.length(console_output.c.said) <= ends - self._settings.console_bytes
        tx.connection.execute(delete(console_output).where(pieces, too_old))
        begins = tx.connection.execute(select(func.min(console_output.c.offset)).where(pieces)).scalar_one()
        tx.connection.execute(update(consoles).where(mine).values(begins=begins, ends=ends))
        tx.wake(f"console/{self.node}")

    def _failed(self, trouble: str) -> float:
        self._hang_up()
        self._failures += 1
        try:
            with self._database.writing() as tx:
                tx.connection.execute(update(consoles).where(consoles.c.node == self.node).values(trouble=trouble))
                tx.wake(f"console/{self.node}")
        except Unavailable:
            log.warning("keeping a console", node=self.node, trouble=trouble)
        return self._settings.patience.after(self._failures)

    def _hang_up(self) -> None:
        console, bmc, self._console, self._bmc = self._console, self._bmc, None, None
        if console is not None:
            console.close()
        if bmc is not None:
            bmc.close()
