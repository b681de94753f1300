"""The switch: an Open vSwitch of the rack's own, in user space, managed over OVSDB.

It comes from the factory shut: a port is given a VLAN over OVSDB or carries nothing.
"""

import asyncio
import ipaddress
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from steelyard.lab.children import Child, Children
from steelyard.lab.commands import run_beside
from steelyard.lab.faults import SwitchFault
from steelyard.lab.plan import BRIDGE, OVSDB_PORT, SERVICES_PORT, SWITCH_ADDRESS
from steelyard.lab.preflight import OVS_SCHEMA
from steelyard.lab.waiting import until
from steelyard.model.errors import LabFailed, WrongUse

READY_SECONDS: Final = 20.0

SHUT: Final[Mapping[str, str]] = {"vlan_mode": "trunk", "trunks": "4095", "protected": "true"}
"""A port that carries nothing, said in OVSDB, which has no word for it.

A trunk of a VLAN that the standard keeps back, so that frames without a tag and with any tag in use are dropped;
protected, so that two shut ports do not reach each other even with frames tagged 4095. Source: IEEE 802.1Q-2018,
table 9-2; ovs-vswitchd.conf.db(5), table Port.
"""
OPEN: Final[Mapping[str, str]] = {}
"""What a port is to an Open vSwitch that was told nothing: a trunk of every VLAN."""
SERVICES_TRUNK: Final[Mapping[str, str]] = {"vlan_mode": "trunk", "trunks": "1-4094"}


@dataclass(frozen=True, slots=True)
class ServiceLeg:
    """Where a service stands on a VLAN: an access port of the switch, with an address, in the rack's namespace."""

    vlan: int
    address: ipaddress.IPv4Interface

    def __post_init__(self) -> None:
        if not 1 < self.vlan < 4095:
            raise WrongUse("standing a service on a VLAN", expected="VLAN 2 to 4094", found=f"{self.vlan}")

    @property
    def port(self) -> str:
        """The port's name, and the network device's."""
        return f"vlan{self.vlan}"


class PortKind(StrEnum):
    """How Open vSwitch opens a port: a device that is there, one that it makes, or none at all."""

    SYSTEM = "system"
    INTERNAL = "internal"
    DUMMY = "dummy"


class OpenVSwitch:
    """The switch's two processes and its database.

    node_ports  what the nodes' ports are; with `DUMMY` there are no frames at all, and the management side is the same.
    """

    def __init__(
        self,
        folder: Path,
        children: Children,
        ports: Sequence[str],
        node_ports: PortKind,
    ) -> None:
        self.faults: set[SwitchFault] = set()
        self._folder = folder
        self._children = children
        self._ports = ports
        self._node_ports = node_ports
        self._remotes = (f"punix:{folder / 'management.sock'}", f"ptcp:{OVSDB_PORT}:{SWITCH_ADDRESS}")
        self._legs: dict[int, ServiceLeg] = {}
        self._database: Child | None = None
        self._forwarder: Child | None = None
        self._decoy: Child | None = None
        self._busy = asyncio.Lock()

    async def start(self) -> None:
        """Start a switch as it comes from the factory. Raises LabFailed."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700)
        async with self._busy:
            await self._switch_on()
            await self._configure(SHUT)
            await self._set_management()

    async def stop(self) -> None:
        """Stop it; return when it has ended."""
        async with self._busy:
            await self._switch_off()

    async def restart(self) -> None:
        """Cut its power and give it back. One that is forgetful comes back knowing nothing."""
        async with self._busy:
            await self._switch_off()
            if SwitchFault.FORGETFUL in self.faults:
                self._conf.unlink()
            await self._switch_on()
            if SwitchFault.FORGETFUL in self.faults:
                self._legs.clear()
                await self._configure(OPEN)
            for leg in self._legs.values():
                await self._address(leg)
            await self._set_management()

    async def set_fault(self, fault: SwitchFault, wanted: frozenset[SwitchFault]) -> None:
        """Have exactly the faults `wanted`, of which `fault` is the one that changes."""
        async with self._busy:
            self.faults = set(wanted)
            if fault is not SwitchFault.FORGETFUL:
                await self._set_management()

    async def add_leg(self, leg: ServiceLeg) -> None:
        """Let services stand on a VLAN, at an address. Doing it again with another address changes the address."""
        async with self._busy:
            await self._vsctl(
                "standing a service on a VLAN",
                [
                    *("--may-exist", "add-port", BRIDGE, leg.port, f"tag={leg.vlan}", "vlan_mode=access"),
                    *("--", "set", "interface", leg.port, f"type={PortKind.INTERNAL}"),
                ],
            )
            await self._address(leg)
            self._legs[leg.vlan] = leg

    async def _address(self, leg: ServiceLeg) -> None:
        lines = f"addr flush dev {leg.port}\naddr add {leg.address} dev {leg.port}\nlink set {leg.port} up\n"
        await run_beside("giving a service its address", ["ip", "-batch", "-"], lines)

    # -- the processes --

    @property
    def _conf(self) -> Path:
        return self._folder / "conf.db"

    @property
    def _inner(self) -> Path:
        """The socket between the switch's own parts."""
        return self._folder / "inner.sock"

    def _control(self, part: str) -> Path:
        return self._folder / f"{part}-control.sock"

    async def _switch_on(self) -> None:
        if not self._conf.exists():
            await run_beside("making the switch's database", ["ovsdb-tool", "create", str(self._conf), str(OVS_SCHEMA)])
        self._database = await self._start_database("ovsdb-server", self._conf, [f"punix:{self._inner}"])
        await self._vsctl("preparing the switch", ["--no-wait", "init"])
        dummy = ["--enable-dummy=override"] if self._node_ports is PortKind.DUMMY else []
        self._forwarder = await self._children.start(
            "switch ovs-vswitchd",
            [
                *(
                    "env",
                    f"OVS_RUNDIR={self._folder}",
                    "ovs-vswitchd",
                    f"unix:{self._inner}",
                    "--disable-system",
                    *dummy,
                ),
                *(f"--unixctl={self._control('forwarder')}", "-vconsole:off", "-vsyslog:off"),
                f"--log-file={self._folder / 'ovs-vswitchd.log'}",
            ],
            self._folder / "ovs-vswitchd.log",
            [],
        )

    async def _start_database(self, role: str, database: Path, remotes: Sequence[str]) -> Child:
        control = self._control(database.stem)
        control.unlink(missing_ok=True)
        log = self._folder / f"{role}.log"
        child = await self._children.start(
            f"switch {role}",
            [
                *("ovsdb-server", str(database), *(f"--remote={remote}" for remote in remotes)),
                *(f"--unixctl={control}", "-vconsole:off", "-vsyslog:off", f"--log-file={log}"),
            ],
            log,
            [],
        )
        # It makes its control socket after it has read the database and opened its remotes.
        await until(f"starting {role}", lambda: control.exists() or child.ended, READY_SECONDS)
        if child.ended:
            raise LabFailed(f"starting {role}", expected="it to run", found=f"that it ended; see {log}")
        return child

    async def _switch_off(self) -> None:
        for child in (self._decoy, self._forwarder, self._database):
            if child is not None:
                await child.kill()
        self._decoy = self._forwarder = self._database = None
        for socket in self._folder.glob("*.sock"):
            socket.unlink()

    # -- the configuration --

    async def _configure(self, settings: Mapping[str, str]) -> None:
        """Make the bridge with all its ports in one change."""
        datapath, services = (
            ("dummy", PortKind.DUMMY) if self._node_ports is PortKind.DUMMY else ("netdev", PortKind.INTERNAL)
        )
        command = [
            *("add-br", BRIDGE, "--", "set", "bridge", BRIDGE, f"datapath_type={datapath}", "fail_mode=standalone"),
            # The bridge's own port is a way into the namespace; nobody is to come in by it.
            *("--", "set", "port", BRIDGE, *_columns(SHUT)),
            *("--", "add-port", BRIDGE, SERVICES_PORT, *_columns(SERVICES_TRUNK)),
            *(
                "--",
                "set",
                "interface",
                SERVICES_PORT,
                f"type={services}",
            ),
        ]
        for port in self._ports:
            command += ["--", "add-port", BRIDGE, port, *_columns(settings)]
            if self._node_ports is not PortKind.SYSTEM:
                command += ["--", "set", "interface", port, f"type={self._node_ports}"]
        await self._vsctl("configuring the switch", command)

    async def _vsctl(self, doing: str, command: Sequence[str]) -> None:
        """Change the configuration; return when it is applied."""
        await run_beside(doing, ["ovs-vsctl", f"--db=unix:{self._inner}", "--timeout=20", *command])

    async def _set_management(self) -> None:
        """Answer at the management addresses as the faults would have it: not at all, with a decoy, or truly."""
        if self._decoy is not None:
            # What the decoy was told is lost with it.
            await self._decoy.kill()
            self._decoy = None
        await self._set_remotes("remove")
        if SwitchFault.UNREACHABLE in self.faults:
            return
        if SwitchFault.DEAF in self.faults:
            decoy = self._folder / "decoy.db"
            decoy.write_text(
                await run_beside("copying the switch's database", ["ovsdb-client", "backup", f"unix:{self._inner}"])
            )
            self._decoy = await self._start_database("decoy-server", decoy, self._remotes)
        else:
            await self._set_remotes("add")

    async def _set_remotes(self, verb: str) -> None:
        control = self._control(self._conf.stem)
        listed = await run_beside("asking the switch", ["ovs-appctl", "-t", str(control), "ovsdb-server/list-remotes"])
        for remote in self._remotes:
            if (remote in listed.split()) != (verb == "add"):
                await run_beside(
                    "changing where the switch answers",
                    ["ovs-appctl", "-t", str(control), f"ovsdb-server/{verb}-remote", remote],
                )


def _columns(settings: Mapping[str, str]) -> list[str]:
    return [f"{column}={value}" for column, value in settings.items()]
