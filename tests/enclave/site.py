"""Everything real but the devices: isolation and its keepers, imaging's tables and API, attestation, the enclave.

All of them listen on one port of this computer and are reached by HTTP alone. Switches and BMCs are fakes in memory;
imaging's work is done in words; a machine that is switched on and boots the airlock speaks the native protocol with
real evidence of a simulated TPM, and opens what it is delivered as the agent does.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from steelyard.agent.airlock import BootKeys, open_delivery
from steelyard.agent.payload import Payload
from steelyard.agent.protocol import Asked, parse_delivery
from steelyard.client import attestation, enclave, isolation
from steelyard.client.connection import Client
from steelyard.client.enclave_objects import Enclave, Place
from steelyard.client.objects import Device, Identity, VerdictAdmission
from steelyard.enclave.delivery import DeliveryServer
from steelyard.enclave.keeping import Keeper
from steelyard.enclave.ports import ScalesAt, Services
from steelyard.enclave.service import find_in
from steelyard.enclave.services.attestation import OverAttestation
from steelyard.enclave.services.imaging import OverImaging
from steelyard.enclave.services.isolation import OverIsolation
from steelyard.enclave.worker import Worker
from steelyard.isolation.keeping.keepers import Keepers
from steelyard.isolation.ports import Power
from steelyard.model.errors import SteelyardError
from steelyard.model.pcrs import PcrSelection
from steelyard.service.database import Database
from tests import attestation_site, attesting
from tests.api import ENCLAVE_SEALER, Api, client_of, listening, make_api
from tests.fakes.enclave_world import AUTHORITY
from tests.simulated_nodes import Lie, Refused, SimulatedNode, through
from tests.simulated_tpm import NodeTpm, make_tpm
from tests.unit.imaging.rig import KERNEL, red
from tests.unit.isolation.keeping.rig import SETTINGS, Devices, World
from tests.unit.isolation.rig import SEALER

BOOT: Final = "red-net"
WALL: Final = "red-wall"
LIMIT_SECONDS: Final = 60.0


class _Rack(World):
    """The isolation rig's verbs, on this database."""

    def __init__(self, database: Database, devices: Devices) -> None:
        self.database, self.devices = database, devices


def seal() -> dict[str, Any]:
    """Return what pins the image of this site, whose disk is nothing but words."""
    assert KERNEL.initramfs is not None
    return {
        "kernel": KERNEL.kernel.sha256.hex(),
        "initramfs": KERNEL.initramfs.sha256.hex(),
        "command_line": "quiet",
        "root_hash": "ab" * 32,
        "data_bytes": 1 << 20,
        "image_bytes": 2 << 20,
    }


@dataclass
class Site:
    """All of it. lies: how machines, by name, are not what they should be; payloads: what they were given."""

    api: Api
    url: str
    devices: Devices
    client: Client
    tpms: dict[str, NodeTpm]
    deliveries: DeliveryServer
    keeper: Keeper | None = None
    lies: dict[str, Lie] = field(default_factory=dict)
    payloads: dict[str, Payload] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)
    machines: dict[str, SimulatedNode] = field(default_factory=dict)

    @property
    def database(self) -> Database:
        return self.api.database

    # -- the tenant ----------------------------------------------------------------------------------------------------

    def file(self, trust: str, count: int, **changed: Any) -> str:
        """Return an enclave file of this site."""
        lines = [
            "name: lab",
            f"trust: {trust}",
            f"nodes: {{count: {count}}}",
            "image: debian",
        ]
        disk = ", size_bytes: 35651584" if trust == "sealed" else ""
        lines.append(f"disk: {{after: destroy{disk}}}")
        if trust == "open":
            lines.append(f"networks: {{boot: {BOOT}, enclave: {BOOT}}}")
        else:
            lines.append(f"networks: {{boot: {BOOT}, enclave: {WALL}, addresses: 10.60.0.0/16}}")
            runtime = ", runtime_policy: runtime" if trust == "sealed" else ""
            lines.append(f"attestation: {{service: own, airlock_policy: airlock, makers: makers{runtime}}}")
        if trust == "sealed":
            lines.append("wireguard: {port: 51820, addresses: 10.77.0.0/16}")
            lines.append(f"seal: {json.dumps(seal())}")
        lines += [f"{name}: {value}" for name, value in changed.items()]
        return "\n".join(lines) + "\n"

    def apply(self, text: str) -> Enclave:
        return self.client.ask(enclave.apply("red", "lab", text))

    def delete(self) -> Enclave:
        return self.client.ask(enclave.delete("red", "lab"))

    def read(self) -> Enclave:
        return self.client.ask(enclave.read("red", "lab"))

    def places(self, *, over: bool = False) -> list[Place]:
        return list(self.client.every(enclave.list_places("red", "lab", over=over)))

    def states(self) -> list[str]:
        return [place.state for place in self.places()]

    # -- the service ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a keeper of the enclave service, with nothing in its memory."""
        [key, *_] = self.client.ask(attestation.read_keys()).keys
        scales = ScalesAt(OverAttestation(self.client), "https://10.8.0.1", AUTHORITY, (key.pem,))
        services = Services(
            OverIsolation(self.client),
            OverImaging(self.client),
            {"own": scales},
            f"http://127.0.0.1:{self.deliveries.port}",
        )
        self.keeper = Keeper(self.database, Worker(self.database, ENCLAVE_SEALER, services), threads=4)
        self.keeper.start()

    def stop(self) -> None:
        if self.keeper is not None:
            self.keeper.stop(LIMIT_SECONDS)
            self.keeper = None

    def wait(self, so: Callable[[], bool]) -> None:
        end = time.monotonic() + LIMIT_SECONDS
        pause = threading.Event()
        while not so():
            assert not self.trouble, self.trouble
            shown = [(each.node, each.state, each.words, each.why) for each in self.places(over=True)]
            assert time.monotonic() < end, shown
            pause.wait(0.1)

    # -- the machines --------------------------------------------------------------------------------------------------

    def boot(self, name: str) -> None:
        """Do what a machine does that was switched on, as the agent would."""
        try:
            with httpx.Client(base_url=self.url, timeout=30) as http:
                with self.api.database.reading() as connection:
                    row = connection.exec_driver_sql(
                        "SELECT what FROM boots WHERE node = '" + name + "'"  # noqa: S608 (a test's own name)
                    ).scalar()
                parameters = _parameters(row)
                if parameters is None:
                    return
                self.tpms[name].reboot()
                node = SimulatedNode(name, through(http), self.tpms[name], parameters=parameters)
                if name in self.lies:
                    node.tell(self.lies[name])
                self.machines[name] = node
                node.pass_airlock()
                self._enter(node)
        except Refused as refused:
            if refused.status != 422:
                self.trouble.append(f"{name}: {refused}")
            self.devices.bmcs[name].be(Power.OFF)
        except Exception as error:
            self.trouble.append(f"{name}: {error!r}")

    def _enter(self, node: SimulatedNode) -> None:
        v = node.fetch_share()
        address = _delivery(node.parameters)
        found = None
        end = time.monotonic() + LIMIT_SECONDS
        while found is None:
            assert time.monotonic() < end, "no delivery"
            answer = httpx.get(address)
            found = answer.content if answer.status_code == 200 else None
            threading.Event().wait(0.05)
        boot_keys = BootKeys(node.transport, node.wireguard)
        asked = Asked("", node._share_nonce, _ANY, 0)
        self.payloads[node.name] = open_delivery(parse_delivery(found), v, node.name, boot_keys, asked)
        node.tell_step("loading the tenant's system", "done", "")
        with suppress(Refused):  # where nobody asks for reports
            node.report()


_ANY: Final[PcrSelection] = None  # type: ignore[assignment]  # what is opened does not ask


def _parameters(row: Any) -> bytes | None:
    document = row if isinstance(row, dict) else json.loads(row) if row else {}
    text = document.get("parameters")
    return None if text is None else text.encode()


def _delivery(parameters: bytes) -> str:
    address: str = json.loads(parameters)["delivery"]
    return address


@contextmanager
def site_on(database: Database, nodes: int = 3) -> Iterator[Site]:
    """Give a site with so many free machines of the provider's, and project red's networks and image."""
    devices = Devices()
    for switch in ("s1", "s2"):
        devices.switches.add(switch, [f"p{index}" for index in range(1, nodes + 1)])
    api = make_api(database, devices.drivers)
    rack = _Rack(database, devices)
    with ExitStack() as ending:
        url = ending.enter_context(listening(api.app))
        provider = ending.enter_context(client_of(url, api.tokens["provider"]))
        member = ending.enter_context(client_of(url, api.tokens["member"]))
        keepers = Keepers(database, devices.drivers, SEALER, SETTINGS)
        keepers.start()
        ending.callback(keepers.stop, LIMIT_SECONDS)
        attesting.make_grounds(database)
        tpms: dict[str, NodeTpm] = {f"n{index}": make_tpm() for index in range(1, nodes + 1)}
        for index, (name, tpm) in enumerate(tpms.items(), 1):
            rack.node(name, ("s1", f"p{index}"), ("s2", f"p{index}"))
            published = attestation_site.endorsements(tpm)
            identity = Identity(published.certificates, (), ())
            device = Device("fake", {"host": name})
            provider.ask(
                isolation.put_node(name, bmc=device, credentials=None, labels={}, hardware={}, identity=identity)
            )
            provider.wait_for(provider.ask(isolation.release(name)))
        [key, *_] = provider.ask(attestation.read_keys()).keys
        provider.ask(isolation.put_network(BOOT, owner="red", members="isolated"))
        admission = VerdictAdmission(key.pem, 300)
        provider.ask(isolation.put_network(WALL, owner="red", admission=admission))
        api.imaging.image(red("debian"))
        deliveries = DeliveryServer("127.0.0.1", 0, find_in(database, ENCLAVE_SEALER))
        deliveries.start()
        ending.callback(deliveries.stop)
        site = Site(api, url, devices, member, tpms, deliveries)
        ending.enter_context(_working(site))
        site.start()
        ending.callback(site.stop)
        yield site


@contextmanager
def _working(site: Site) -> Iterator[None]:
    """Let imaging's work be done, and machines that are switched on boot."""
    stop = threading.Event()
    booted = dict.fromkeys(site.tpms, 0)
    threads: list[threading.Thread] = []

    def work() -> None:
        while not stop.wait(0.02):
            with suppress(SteelyardError):
                site.api.imaging.do_all()
            for name in site.tpms:
                starts = len(site.devices.bmcs[name].starts)
                if starts > booted[name]:
                    booted[name] = starts
                    threads.append(threading.Thread(target=site.boot, args=(name,)))
                    threads[-1].start()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join()
        for thread in threads:
            thread.join()
