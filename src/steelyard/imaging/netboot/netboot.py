"""Network boot: on each boot network, those nodes that were named get an address and what they are to boot.

    lock           held by the one process that serves from here
    images/        unified kernel images made for one node each, gone with its boot
    work/          those that are being made
    networks/NAME  what the network's dnsmasq needs

Nothing of it outlives the process: whoever starts next is told by the service what boots.
"""

import asyncio
import fcntl
import os
import secrets
import shutil
from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import combinations
from pathlib import Path
from threading import Lock, Thread
from typing import Final

from steelyard.imaging.airlock.build import SECOND_STAGE_NAME, UKI_NAME
from steelyard.imaging.files import make_directory, needing_room
from steelyard.imaging.netboot.answers import Answer, Content, airlock_files, check_boots, direct_files, ipxe_files
from steelyard.imaging.netboot.direct import write_direct_image
from steelyard.imaging.netboot.plan import AirlockBoot, BootNetwork, DirectBoot, DiskBoot, IpxeBoot, NodeBoot
from steelyard.imaging.netboot.station import Station
from steelyard.model.errors import InUse, SteelyardError, StorageUnready, WrongUse

_IPXE: Final = Path("/usr/lib/ipxe/snponly.efi")
"""Of Debian's package ipxe: the build that drives, through the firmware, the card that it came by."""


@dataclass(frozen=True, slots=True)
class _Made:
    """An image that was made for a node."""

    boot: DirectBoot
    image: Path


class Netboot:
    """Serves boots from the directory `root`, which is its own. For root; started and stopped once.

    airlock  the directory that `steelyard airlock build` wrote; None: no node boots the airlock.

    Raises WrongUse when two networks cannot be told apart.
    """

    def __init__(self, root: Path, networks: Sequence[BootNetwork], airlock: Path | None) -> None:
        for one, other in combinations(networks, 2):
            if one.name == other.name or one.interface == other.interface:
                found = f"{one.name} at {one.interface}, {other.name} at {other.interface}"
                raise WrongUse("setting up boot networks", expected="a name and an interface for each", found=found)
            if one.address.network.overlaps(other.address.network):
                found = f"{one.address.network} and {other.address.network}"
                raise WrongUse("setting up boot networks", expected="addresses of one network alone", found=found)
        self._root, self._airlock = root.absolute(), airlock
        self._networks = {network.name: network for network in networks}
        self._stations: dict[str, Station] = {}
        self._made: dict[str, dict[IPv4Address, _Made]] = {name: {} for name in self._networks}
        self._serving = Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="netboot")
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = ExitStack()

    def start(self) -> None:
        """Begin, with nobody to answer so far; what a process that died has left is ended. Raises InUse."""
        make_directory(self._root)
        self._ending.enter_context(_alone(self._root / "lock"))
        for place in (self._images, self._work):
            shutil.rmtree(place, ignore_errors=True)
            make_directory(place)
        self._ending.callback(shutil.rmtree, self._images)
        self._thread.start()
        self._ending.callback(self._thread.join)
        self._ending.callback(self._loop.call_soon_threadsafe, self._loop.stop)
        self._ending.callback(lambda: self._wait_for(self._end()))
        self._wait_for(self._begin())

    def serve(self, network: str, boots: Collection[NodeBoot]) -> Mapping[str, SteelyardError]:
        """See to it that these nodes, and nobody else, are answered on that network; return why some are not, by node.

        One that cannot be does not keep others from it: StorageUnready when a file or program is missing, BuildFailed.
        What is wrong with the network is told by `trouble`, and tried again until it is right.

        Raises WrongUse.
        """
        if network not in self._networks:
            raise WrongUse("saying what boots", expected="a boot network that is set up", found=network)
        check_boots(self._networks[network], boots)
        failures: dict[str, SteelyardError] = {}
        with self._serving:
            before, made = self._made[network], dict[IPv4Address, _Made]()
            answers: dict[IPv4Address, Answer] = {}
            for boot in boots:
                try:
                    answers[boot.address] = Answer(boot.mac, self._files(boot, before, made))
                except SteelyardError as failure:
                    failures[boot.node] = failure
            self._made[network] = made
            self._wait_for(self._stations[network].serve(answers))
            for image in {each.image for each in before.values()} - {each.image for each in made.values()}:
                image.unlink()
        return failures

    def trouble(self) -> Mapping[str, str]:
        """Return what is wrong, by network; nothing of one that is right."""
        return {name: station.trouble for name, station in self._stations.items() if station.trouble is not None}

    def stop(self) -> None:
        """Return when nobody is answered any more, and nothing is left of it."""
        self._ending.close()
        self._loop.close()

    @property
    def _images(self) -> Path:
        return self._root / "images"

    @property
    def _work(self) -> Path:
        return self._root / "work"

    def _files(
        self, boot: NodeBoot, before: Mapping[IPv4Address, _Made], made: dict[IPv4Address, _Made]
    ) -> Mapping[str, Content]:
        """Return what the node may fetch; its image, if it has one of its own, goes into `made`."""
        doing = f"preparing what {boot.node} boots"
        match boot.what:
            case AirlockBoot() as airlock:
                if self._airlock is None:
                    raise StorageUnready(doing, expected="an airlock image", found="none is set up")
                return airlock_files(airlock, self._airlock / UKI_NAME, self._airlock / SECOND_STAGE_NAME)
            case DirectBoot() as direct:
                there = before.get(boot.address)
                if there is None or there.boot != direct:
                    # Never in place of another: who may still fetch that one would get this.
                    there = _Made(direct, self._images / secrets.token_hex(8))
                    with needing_room(doing):
                        write_direct_image(doing, direct, self._work, there.image)
                made[boot.address] = there
                return direct_files(there.image)
            case IpxeBoot(access):
                if not _IPXE.is_file():
                    raise StorageUnready(doing, expected=f"{_IPXE}, of the package ipxe", found="no such file")
                return ipxe_files(access, _IPXE)
            case DiskBoot():
                return {}

    async def _begin(self) -> None:
        for name, network in self._networks.items():
            station = self._stations[name] = Station(network, self._root / "networks" / name)
            self._tasks.append(asyncio.create_task(station.run(), name=name))
        await asyncio.gather(*(station.serve({}) for station in self._stations.values()))

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _wait_for(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Be the only process that serves from there. Raises InUse."""
    with os.fdopen(os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUse("starting network boot", expected="no other process on it", found="one that serves") from error
        yield
