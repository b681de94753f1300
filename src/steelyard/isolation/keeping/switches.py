"""The keeper of a switch: has its ports carry what is wanted, and looks whether they still do.

One thread of one process has a switch at a time. Cuts go first and alone; then, if anything is in doubt, everything is
read before anything is written; then the projects take turns.
"""

from collections.abc import Mapping, Sequence

import structlog

from steelyard.isolation.confirmed import doubt_ports, drop_expired, note_switch, settle_ports
from steelyard.isolation.due import PortPlan, plan_due_ports, plan_ports
from steelyard.isolation.keeping.tenure import Settings, Tenure, TenureLost
from steelyard.isolation.ports import Access, Drivers, Missing, PortReading, Switch
from steelyard.isolation.store import AnyRow, find, unseal
from steelyard.isolation.tables import switches
from steelyard.isolation.wanted import next_batch
from steelyard.model.errors import (
    DeviceGarbled,
    DeviceRefused,
    DeviceUnreachable,
    OutcomeUnknown,
    SteelyardError,
    Unavailable,
    WrongUse,
)
from steelyard.service.database import Database, local_seconds
from steelyard.service.sealing import Sealer

log = structlog.get_logger(__name__)


def reach_switch(row: AnyRow, drivers: Drivers, sealer: Sealer) -> Switch:
    """Return the switch of a row, not yet connected. Raises WrongUse, ServiceUnready."""
    if row.driver not in drivers.switches:
        raise WrongUse(f"reaching switch {row.name}", expected="a driver that is there", found=row.driver)
    return drivers.switches[row.driver](Access(row.address, unseal(sealer, f"switch/{row.name}", row.sealed)))


class SwitchKeeper:
    """Keeps one switch. For one thread, which calls `pass_once` again and again."""

    def __init__(self, name: str, database: Database, drivers: Drivers, sealer: Sealer, settings: Settings) -> None:
        self.name = name
        self._database = database
        self._drivers = drivers
        self._sealer = sealer
        self._settings = settings
        self._tenure = Tenure(database, f"switch/{name}", settings.switch)
        self._fence = 0
        # Whether the switch has answered a write under this fence: only then no write from before can still come.
        self._fenced = False
        self._switch: Switch | None = None
        self._version = 0
        # When every port was read last; None: something is in doubt.
        self._checked: float | None = None
        self._failures = 0
        self._turn: str | None = None
        # Ports that would spoil a batch: how often each failed by itself, and when it is tried again.
        self._alone: dict[str, tuple[int, float]] = {}
        self._was_alone = False
        self._missing: frozenset[str] = frozenset()

    def expect_change(self) -> None:
        """Have every port read before anything is written: the switch may not be as it was. From any thread."""
        self._checked = None

    def pass_once(self) -> float | None:
        """Do what is most pressing; return after how many seconds at most to come again. None: it is gone for good."""
        try:
            with self._database.reading() as connection:
                row = find(connection, switches, self.name)
            if row is None:
                return None
            if not self._hold():
                return self._settings.take_over.total_seconds()
            wait = self._work(self._connected(row))
        except TenureLost:
            self.expect_change()
            return 0
        except SteelyardError as error:
            return self._failed(str(error))
        except Exception as error:
            log.exception("keeping a switch", switch=self.name)
            return self._failed(f"a fault of this service: {type(error).__name__}")
        self._failures = 0
        return wait

    def close(self) -> None:
        """Give up the connection, and the switch to other processes."""
        if self._switch is not None:
            self._switch.close()
            self._switch = None
        with self._database.writing() as tx:
            self._tenure.give_up(tx)

    def _connected(self, row: AnyRow) -> Switch:
        if self._switch is None or self._version != row.version:
            if self._switch is not None:
                self._switch.close()
            self._switch, self._version = reach_switch(row, self._drivers, self._sealer), row.version
            self._fenced = False
            self.expect_change()
        return self._switch

    def _hold(self) -> bool:
        if self._tenure.fresh:
            return True
        with self._database.writing() as tx:
            held = self._tenure.take(tx)
        if self._fence != self._tenure.fence:
            # Others may have had it meanwhile.
            self._fence, self._fenced = self._tenure.fence, False
            self._alone.clear()
            self.expect_change()
        return held

    def _failed(self, trouble: str) -> float:
        self._failures += 1
        self.expect_change()
        try:
            with self._database.writing() as tx:
                note_switch(tx, self.name, trouble)
        except Unavailable:
            log.warning("switch", switch=self.name, trouble=trouble)
        return self._settings.patience.after(self._failures)

    # -- one pass --

    def _work(self, switch: Switch) -> float:
        with self._database.reading() as connection:
            due = plan_due_ports(connection, self.name, self._database.clock())
        if any(plan.expired for plan in due):
            with self._database.writing() as tx:
                drop_expired(tx, due)
            return 0
        self._alone = {plan.port: self._alone[plan.port] for plan in due if plan.port in self._alone}
        present = [plan for plan in due if plan.port not in self._missing]
        together = [plan.due for plan in present if plan.port not in self._alone]
        if not any(port.urgent for port in together) and self._is_check_due():
            self._check(switch)
            return 0
        ripe = [plan for plan in present if plan.port in self._alone and self._alone[plan.port][1] <= local_seconds()]
        self._was_alone = bool(ripe) and not (together and self._was_alone)
        if self._was_alone:
            self._make_true(switch, ripe[:1])
            return 0
        batch = next_batch(together, self._turn, self._settings.batch_ports)
        if batch.ports:
            self._turn = batch.turn
            self._make_true(switch, [plan for plan in present if plan.due.name in batch.ports])
            return 0
        times = [self._alone[plan.port][1] for plan in present if plan.port in self._alone]
        return max(0, min([self._next_check(), *times]) - local_seconds())

    def _is_check_due(self) -> bool:
        return local_seconds() >= self._next_check()

    def _next_check(self) -> float:
        return 0 if self._checked is None else self._checked + self._settings.check.total_seconds()

    def _check(self, switch: Switch) -> None:
        """Read every port. What is due is settled by it only if no write that was begun before can still come."""
        with self._database.reading() as connection:
            plans = plan_ports(connection, self.name, self._database.clock())
        self._checked = local_seconds()
        readings = self._read(switch, plans)
        self._missing = frozenset(port for port, reading in readings.items() if reading == Missing())
        self._settle([plan for plan in plans if self._fenced or plan.applied == plan.wanted], readings)

    def _make_true(self, switch: Switch, batch: Sequence[PortPlan]) -> None:
        """Write ports, and read them back."""
        if not self._tenure.fresh:
            # The plan may be old, and a verdict with it.
            return
        fence = self._tenure.before_call()
        try:
            switch.write({plan.port: plan.carry for plan in batch}, fence)
            self._fenced = True
        except DeviceUnreachable:
            raise
        except (OutcomeUnknown, DeviceGarbled) as error:
            self._fenced = False
            self._doubt(batch, str(error))
            raise
        except DeviceRefused as error:
            self._set_apart(batch)
            self._doubt(batch, str(error))
            self.expect_change()
            return
        except Exception as error:
            # Whatever it is about these ports, it is not to hold up others.
            self._set_apart(batch)
            self._doubt(batch, f"a fault of this service: {type(error).__name__}")
            raise
        for port in self._settle(batch, self._read(switch, batch)):
            self._set_apart([plan for plan in batch if plan.port == port])

    def _read(self, switch: Switch, plans: Sequence[PortPlan]) -> Mapping[str, PortReading]:
        self._tenure.before_call()
        return switch.read([plan.port for plan in plans])

    def _settle(self, plans: Sequence[PortPlan], readings: Mapping[str, PortReading]) -> frozenset[str]:
        with self._database.writing() as tx:
            self._tenure.confirm(tx)
            wrong = settle_ports(tx, self.name, plans, readings)
            note_switch(tx, self.name, None)
        return wrong

    def _set_apart(self, batch: Sequence[PortPlan]) -> None:
        for plan in batch:
            failures = self._alone.get(plan.port, (0, 0.0))[0] + (len(batch) == 1)
            wait = self._settings.patience.after(failures) if failures else 0
            self._alone[plan.port] = (failures, local_seconds() + wait)

    def _doubt(self, batch: Sequence[PortPlan], trouble: str) -> None:
        with self._database.writing() as tx:
            self._tenure.confirm(tx)
            doubt_ports(tx, self.name, [plan.port for plan in batch], trouble)
