"""The keeper of nodes: does at their BMCs what is due, one turn after another, each believed when it was read back.

One thread of one process works at a node at a time. A turn is a command and a look; nobody waits in between, so that a
few threads serve thousands of nodes.
"""

import threading
from typing import Final

import structlog

from steelyard.isolation.keeping.tenure import Settings, Tenure, TenureLost
from steelyard.isolation.node_work import Came, Job, Next, SetBootDevice, SetPower, ShutDown, begin, came_of
from steelyard.isolation.ports import Access, Bmc, Drivers
from steelyard.isolation.store import find, unseal
from steelyard.isolation.tables import nodes
from steelyard.model.errors import (
    DeviceGarbled,
    DeviceRefused,
    SteelyardError,
    Unavailable,
    WrongUse,
)
from steelyard.service.database import Database, local_seconds
from steelyard.service.sealing import Sealer

OFTENER: Final = 10
"""How much oftener a free node is looked at while its BMC fails."""

log = structlog.get_logger(__name__)


def reach_bmc(database: Database, drivers: Drivers, sealer: Sealer, node: str) -> Bmc:
    """Return a node's BMC, not yet connected. Raises WrongUse, ServiceUnready."""
    with database.reading() as connection:
        row = find(connection, nodes, node)
    if row is None or row.bmc_driver not in drivers.bmcs:
        found = "no such node" if row is None else row.bmc_driver
        raise WrongUse(f"reaching the BMC of node {node}", expected="a driver that is there", found=found)
    return drivers.bmcs[row.bmc_driver](Access(row.bmc_address, unseal(sealer, f"node/{node}", row.bmc_sealed)))


class NodeKeeper:
    """Works at every node of the rack. `work` is for many threads, each at another node."""

    def __init__(self, database: Database, drivers: Drivers, sealer: Sealer, settings: Settings) -> None:
        self._database = database
        self._drivers = drivers
        self._sealer = sealer
        self._settings = settings
        self._lock = threading.Lock()
        self._asked: dict[str, tuple[str, float]] = {}
        self._failures: dict[str, int] = {}

    def failures(self, node: str) -> int:
        """Return how many turns in a row failed at a node."""
        return self._failures.get(node, 0)

    def work(self, node: str) -> float | None:
        """Do the turn that is due at a node; return after how many seconds the next may be. None: none was due."""
        tenure = Tenure(self._database, f"node/{node}", self._settings.bmc)
        try:
            with self._database.writing() as tx:
                if not tenure.take(tx):
                    return self._settings.take_over.total_seconds()
                job = begin(tx, node, tx.now - self._settings.look / OFTENER)
                if job is None:
                    tenure.give_up(tx)
                    return None
            came = self._do(job, tenure)
            with self._database.writing() as tx:
                tenure.confirm(tx)
                following = came_of(tx, job, came)
                tenure.give_up(tx)
        except (TenureLost, Unavailable) as error:
            log.warning("working at a node", node=node, error=str(error))
            return self._settings.take_over.total_seconds()
        return self._wait(node, following)

    def _wait(self, node: str, following: Next) -> float:
        with self._lock:
            if following is not Next.LATER:
                self._failures.pop(node, None)
                return self._settings.confirm.total_seconds() if following is Next.SOON else 0
            self._failures[node] = self._failures.get(node, 0) + 1
            return self._settings.patience.after(self._failures[node])

    def _do(self, job: Job, tenure: Tenure) -> Came:
        """Ask and look. Raises TenureLost; what else goes wrong is how it came."""
        try:
            bmc = reach_bmc(self._database, self._drivers, self._sealer, job.node)
        except SteelyardError as error:
            return Came(None, error)
        try:
            refused = self._ask_once(bmc, job, tenure)
            if not job.reads:
                return Came(None, refused)
            tenure.before_call()
            power = bmc.read_power()
            # Some refuse to switch off what is off.
            return Came(power, refused if power is not job.wanted else None)
        except SteelyardError as error:
            return Came(None, error)
        except TenureLost:
            raise
        except Exception as error:
            log.exception("working at a node", node=job.node)
            fault = f"a fault of this service: {type(error).__name__}"
            return Came(None, DeviceGarbled(f"working at node {job.node}", expected="an answer", found=fault))
        finally:
            bmc.close()

    def _ask_once(self, bmc: Bmc, job: Job, tenure: Tenure) -> DeviceRefused | None:
        """Give the command, if it is to be given now; return the refusal, if it was refused."""
        if job.ask is None or not self._is_to_ask(job):
            return None
        tenure.before_call()
        if isinstance(job.ask, ShutDown):
            self._asked[job.node] = (job.key, local_seconds())
        try:
            match job.ask:
                case SetPower(wanted):
                    bmc.set_power(wanted)
                case ShutDown():
                    bmc.shut_down()
                case SetBootDevice(device, once):
                    bmc.set_boot_device(device, once=once)
        except DeviceRefused as refused:
            return refused
        self._asked[job.node] = (job.key, local_seconds())
        return None

    def _is_to_ask(self, job: Job) -> bool:
        """Whether to give the command: until it was answered, and again when what it asks for does not come true.

        Not until it is so, which a BMC may say wrongly. The button of a system is pressed once.
        """
        key, when = self._asked.get(job.node, ("", 0.0))
        if not job.key or key != job.key:
            return True
        return not isinstance(job.ask, ShutDown) and local_seconds() >= when + self._settings.repeat.total_seconds()
