"""How a keeper has a device: under a lease that outlasts every call, asked about again before anything is believed."""

import secrets
from dataclasses import dataclass
from datetime import timedelta

from steelyard.isolation.ports import BMC_CALL_SECONDS, SWITCH_CALL_SECONDS
from steelyard.service import leases
from steelyard.service.database import Database, Transaction


class TenureLost(Exception):
    """Another process has the device, or may have: what was begun, and what was found out, is left to it."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a keeper waits after failures in a row: doubling, as a hiccup is soon over and a dead device is not."""

    least: float
    most: float

    def after(self, failures: int) -> float:
        """Return the seconds to wait after that many failures in a row."""
        return min(self.most, self.least * 2.0 ** min(failures - 1, 32))


@dataclass(frozen=True, slots=True)
class Term:
    """How long a device is had for at a time.

    call_seconds  the longest that a call to it takes: that much must be left before one is begun.
    """

    call_seconds: float

    @property
    def lease(self) -> timedelta:
        """How long it stays with a process that died: two calls, and some time to renew between them."""
        return timedelta(seconds=2.5 * self.call_seconds)


@dataclass(frozen=True, slots=True)
class Settings:
    """How keepers work.

    switch, bmc     how long a device of each kind is had for.
    check           how often every port of a switch is read, also if nothing happened.
    take_over       how often a process that does not have a device asks whether it may.
    look            how often a free node's power is read; ten times as often when its BMC failed.
    confirm         how long after a command a BMC is asked whether it has come true.
    repeat          how long after a command that did not come true it is given again.
    patience        with devices that fail.
    batch_ports     how many ports one write to a switch changes: what a cut may have to wait for.
    node_threads    how many BMCs are talked to at a time; half of them at most are such that failed the last time.
    console_bytes   how much of what a node said is kept.
    """

    switch: Term = Term(SWITCH_CALL_SECONDS)
    bmc: Term = Term(BMC_CALL_SECONDS)
    check: timedelta = timedelta(seconds=10)
    take_over: timedelta = timedelta(seconds=2)
    look: timedelta = timedelta(minutes=5)
    confirm: timedelta = timedelta(seconds=0.5)
    repeat: timedelta = timedelta(seconds=10)
    patience: Patience = Patience(0.2, 15)
    batch_ports: int = 64
    node_threads: int = 16
    console_bytes: int = 1024 * 1024


class Tenure:
    """One worker's hold on one device ("switch/s1"), as long as it lasts."""

    def __init__(self, database: Database, name: str, term: Term) -> None:
        self.name = name
        self._database = database
        self._term = term
        self._holder = secrets.token_hex(16)
        self._lease: leases.Lease | None = None

    @property
    def fresh(self) -> bool:
        """Whether it has more than half of its time left: nothing is to be asked of the database."""
        return self._lease is not None and self._lease.seconds_left() > self._term.lease.total_seconds() / 2

    def take(self, tx: Transaction) -> bool:
        """Have the device, or keep it; False: another has it."""
        self._renew(tx)
        if self._lease is None:
            self._lease = leases.acquire(tx, self.name, self._holder, self._term.lease)
        return self._lease is not None

    def confirm(self, tx: Transaction) -> None:
        """Pass if nobody else had the device since it was taken. Raises TenureLost."""
        self._renew(tx)
        if self._lease is None:
            raise TenureLost(self.name)

    def before_call(self) -> int:
        """Return the fence; nobody else will begin a call before one that begins now must have ended.

        Raises TenureLost.
        """
        call = self._term.call_seconds
        if self._lease is not None and self._lease.seconds_left() < call:
            with self._database.writing() as tx:
                self.confirm(tx)
        if self._lease is None or self._lease.seconds_left() < call:
            # It waited too long for the database: what it was about to do may be somebody else's by now.
            raise TenureLost(self.name)
        return self._lease.fence

    def give_up(self, tx: Transaction) -> None:
        """Let others have the device at once."""
        if self._lease is not None:
            leases.give_up(tx, self._lease)
            self._lease = None

    @property
    def fence(self) -> int:
        """The lease's fence; 0 without one. Another one than before: others may have had the device meanwhile."""
        return 0 if self._lease is None else self._lease.fence

    def _renew(self, tx: Transaction) -> None:
        if self._lease is not None:
            self._lease = leases.renew(tx, self._lease, self._term.lease)
