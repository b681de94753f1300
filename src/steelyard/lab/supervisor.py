"""The rack's one process of ours: the BMCs are in it, and it minds the switch and the machines.

Run within the rack's namespace by `lab up`, as `python -m steelyard.lab.supervisor DIRECTORY READY`. To the file
descriptor READY it writes JSON lines: {"progress": words} any number of times, then {"ready": true} or {"error": ...}.
If nobody reads them, it takes everything down again.
"""

import asyncio
import ipaddress
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from steelyard.lab import control
from steelyard.lab.bmc.controller import Controller, FileStore, Machine
from steelyard.lab.bmc.ipmi import IpmiEndpoint
from steelyard.lab.bmc.redfish import RedfishService
from steelyard.lab.build import BMC_USER, build_modified_firmware, build_other_image, build_other_tpm, read_credentials
from steelyard.lab.children import Children
from steelyard.lab.console import Console
from steelyard.lab.faults import BmcFault, NodeFault, SwitchFault
from steelyard.lab.machine import EmulatedMachine
from steelyard.lab.plan import IPMI_PORT, REDFISH_PORT, Machines, NodePlan, plan_nodes
from steelyard.lab.processes import identify
from steelyard.lab.simulation import SimulatedMachine
from steelyard.lab.state import Rack, RackDirectory
from steelyard.lab.switch import OpenVSwitch, PortKind, ServiceLeg
from steelyard.model.errors import LabFailed, LabUnready, SteelyardError, WrongUse
from steelyard.model.secret import Secret

log = logging.getLogger(__name__)

F = TypeVar("F", BmcFault, NodeFault, SwitchFault)


class Report(Protocol):
    """How the supervisor tells `lab up` how far it is."""

    def __call__(self, **message: object) -> None:
        """Say `message`. Raises BrokenPipeError if nobody waits for the rack."""
        ...


_PORTS: Final = {Machines.EMULATED: PortKind.SYSTEM, Machines.SIMULATED: PortKind.DUMMY}
SWITCH_TARGET: Final = "switch"
BMC_SUFFIX: Final = "/bmc"


class Bmc:
    """One BMC on the wire: its logic with both its protocols."""

    def __init__(self, controller: Controller, password: Secret, keys: Path) -> None:
        self.controller = controller
        self._password = password
        self._keys = keys
        self._ipmi: IpmiEndpoint | None = None
        self._redfish: RedfishService | None = None

    async def start(self) -> None:
        """Answer at the BMC's address. Raises LabUnready if something else does."""
        address = str(self.controller.node.bmc_address)
        ipmi = IpmiEndpoint(self.controller, BMC_USER, self._password)
        redfish = RedfishService(self.controller, BMC_USER, self._password)
        try:
            await asyncio.get_running_loop().create_datagram_endpoint(lambda: ipmi, local_addr=(address, IPMI_PORT))
            self._ipmi = ipmi
            await redfish.start(address, REDFISH_PORT, self._keys)
            self._redfish = redfish
        except OSError as cause:
            await redfish.close()
            await self.stop()
            raise LabUnready(
                f"starting the BMC of {self.controller.node.name}",
                expected=f"UDP port {IPMI_PORT} and TCP port {REDFISH_PORT} free at {address}",
                found=cause.strerror or str(cause),
            ) from cause

    async def stop(self) -> None:
        """Answer no more. The machine is as it was."""
        if self._ipmi is not None:
            self._ipmi.close()
        if self._redfish is not None:
            await self._redfish.close()
        self._ipmi = self._redfish = None

    async def set_faults(self, wanted: frozenset[BmcFault]) -> None:
        """Have exactly the faults `wanted`. Raises LabUnready if it cannot be made to answer again."""
        if BmcFault.UNREACHABLE in wanted:
            await self.stop()
        elif self._redfish is None:
            await self.start()
        self.controller.faults = set(wanted)


class Supervisor:
    """Everything that runs of a rack."""

    def __init__(self, directory: RackDirectory, rack: Rack, children: Children) -> None:
        self._directory = directory
        self._rack = rack
        self._children = children
        nodes = plan_nodes(rack.shape)
        ports = [nic.port for node in nodes for nic in node.nics]
        self._switch = OpenVSwitch(directory.switch, children, ports, _PORTS[rack.shape.machines])
        self._consoles: dict[str, Console] = {}
        self._machines: dict[str, EmulatedMachine] = {}
        self._bmcs: dict[str, Bmc] = {}
        passwords = read_credentials(directory)
        for node in nodes:
            self._add_node(node, passwords[node.name])
        self._servers: list[asyncio.Server] = []
        self._stopped = asyncio.Event()

    def _add_node(self, node: NodePlan, password: Secret) -> None:
        files = self._directory.node(node.name)
        console: Console | None = None
        machine: Machine = SimulatedMachine()
        if self._rack.shape.machines is Machines.EMULATED:
            console = self._consoles[node.name] = Console(files.console_record)
            machine = self._machines[node.name] = EmulatedMachine(
                node, self._rack, self._directory, self._children, console
            )
        controller = Controller(node, machine, console, FileStore(files.bmc_settings))
        self._bmcs[node.name] = Bmc(controller, password, self._directory.bmc_keys / f"{node.name}.pem")

    async def run(self, report: Report) -> None:
        """Start everything, say so, and mind it until asked to end. Whatever was started is ended again."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopped.set)
        try:
            await self._start(report)
            report(ready=True)
            await self._stopped.wait()
        finally:
            await self._stop()

    async def _start(self, report: Report) -> None:
        await self._switch.start()
        report(progress="switch up, all ports shut")
        for bmc in self._bmcs.values():
            await bmc.start()
        for name, console in self._consoles.items():
            self._servers.append(await console.serve(self._directory.node(name).console_socket))
        report(progress=f"{len(self._bmcs)} BMCs answer")
        verbs = {"status": self._status, "fault": self._fault, "restart": self._restart, "leg": self._leg}
        self._servers.append(await control.serve(self._directory.control_socket, verbs))

    async def _stop(self) -> None:
        for server in self._servers:
            server.close()
        for bmc in self._bmcs.values():
            await bmc.stop()
        await asyncio.gather(*(bmc.controller.close() for bmc in self._bmcs.values()))
        await self._switch.stop()
        for console in self._consoles.values():
            console.close()

    # -- what may be asked --

    async def _status(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        return {
            "accelerator": self._rack.accelerator,
            "switch": {"faults": sorted(self._switch.faults)},
            "nodes": [
                {
                    "name": name,
                    "power": bmc.controller.true_power,
                    "bmc": str(bmc.controller.node.bmc_address),
                    "faults": sorted(self._machines[name].faults) if name in self._machines else [],
                    "bmc_faults": sorted(bmc.controller.faults),
                }
                for name, bmc in self._bmcs.items()
            ],
            "processes": [{"role": process.role, "pid": process.pid} for process in self._children.living],
        }

    async def _leg(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        await self._switch.add_leg(ServiceLeg(request["vlan"], ipaddress.IPv4Interface(request["address"])))
        return {}

    async def _restart(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        await self._switch.restart()
        return {}

    async def _fault(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        target, name = request["target"], request["fault"]
        set_it = request["state"] == "on"
        if target == SWITCH_TARGET:
            switch_fault = _known_fault(SwitchFault, name, target)
            await self._switch.set_fault(switch_fault, _changed(self._switch.faults, switch_fault, set_it=set_it))
        elif target.endswith(BMC_SUFFIX):
            bmc = self._bmcs[self._known_node(target.removesuffix(BMC_SUFFIX))]
            bmc_fault = _known_fault(BmcFault, name, target)
            await bmc.set_faults(_changed(bmc.controller.faults, bmc_fault, set_it=set_it))
        else:
            node_fault = _known_fault(NodeFault, name, self._known_node(target))
            if target not in self._machines:
                raise WrongUse(f"making {target} fail", expected="a machine", found="a simulated one: its BMC can fail")
            if set_it:
                await asyncio.to_thread(self._prepare, node_fault, target, request["image"])
            machine = self._machines[target]
            machine.faults = set(_changed(machine.faults, node_fault, set_it=set_it))
        return {}

    def _known_node(self, name: str) -> str:
        if name not in self._bmcs:
            raise WrongUse("choosing a node", expected=", ".join(self._bmcs), found=name)
        return name

    def _prepare(self, fault: NodeFault, name: str, image: str | None) -> None:
        """Make what the fault needs. Raises WrongUse, LabFailed."""
        files = self._directory.node(name)
        match fault:
            case NodeFault.MODIFIED_FIRMWARE:
                build_modified_firmware(self._directory)
            case NodeFault.OTHER_TPM:
                build_other_tpm(self._directory, files)
            case NodeFault.OTHER_IMAGE:
                if image is None or not Path(image).is_file():
                    raise WrongUse(f"having {name} boot another image", expected="an EFI application", found=str(image))
                build_other_image(files, Path(image))
            case NodeFault.NEVER_BOOTS | NodeFault.HANGS:
                pass


def _known_fault(kind: type[F], name: str, target: str) -> F:
    try:
        return kind(name)
    except ValueError as cause:
        raise WrongUse(f"making {target} fail", expected=", ".join(kind), found=name) from cause


def _changed(present: set[F], fault: F, *, set_it: bool) -> frozenset[F]:
    return frozenset(present | {fault} if set_it else present - {fault})


def main(arguments: list[str]) -> int:
    """Run the supervisor of the rack in the directory given."""
    directory = RackDirectory(Path(arguments[0]))
    # Three sockets for each BMC: a thousand of them are more than a process starts with.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with os.fdopen(int(arguments[1]), "w", buffering=1) as ready:

        def report(**message: object) -> None:
            ready.write(json.dumps(message) + "\n")

        try:
            asyncio.run(_run(directory, report))
        except SteelyardError as cause:
            log.error("%s", cause)
            report(error=control.encode_error(cause))
            return cause.exit_code
    return 0


async def _run(directory: RackDirectory, report: Report) -> None:
    rack, itself = directory.read_rack(), identify("supervisor", os.getpid())
    if rack is None or itself is None:
        raise LabFailed("starting the rack", expected=f"a rack in {directory.root}", found="none")
    await Supervisor(directory, rack, Children(directory, itself)).run(report)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
