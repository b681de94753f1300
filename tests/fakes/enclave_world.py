"""Light simulators of isolation, imaging and attestation, and of the machines themselves: what an enclave is tried on.

The keys, verdicts and deliveries are real; the machines are a few fields. At every change the world looks whether what
must never be is so, whatever the enclave service believes: see `World.look`.
"""

# ruff: noqa: ARG002 (a port's verbs have arguments that a simulator has no use for)

import hashlib
import json
import secrets
import threading
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from steelyard.enclave.ports import (
    AirlockBoot,
    Disks,
    Done,
    Enrolment,
    File,
    Identity,
    Machine,
    Machines,
    OpenBoot,
    Pending,
    Power,
    Progress,
    Scales,
    ScalesAt,
    Services,
    Standing,
    System,
    Tenure,
    Weighed,
)
from steelyard.enclave.steps import NEIGHBOURS, STARTED
from steelyard.evidence.keysplit import (
    NodeBoot,
    join_shares,
    open_payload,
    open_share,
    raw_public_key,
    seal_share,
    verify_auth_tag,
)
from steelyard.model.errors import NotAdmitted, NotEnough, NotFound, Unavailable, WrongState
from steelyard.model.secret import Secret

IMAGE_SHA256: Final = "0a" * 32
"""Of the kernel and of the initramfs of the one image."""
AIRLOCK: Final = "blue-boot"
ENCLAVE: Final = "blue-net"
DELIVERIES: Final = "http://10.9.0.1:8090"
ATTESTATION: Final = "https://10.9.0.1"
AUTHORITY: Final = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
VERDICT_LASTS: Final = timedelta(minutes=15)


class Killed(BaseException):
    """The service is dead."""


@dataclass
class Boot:
    """One boot of a machine: what runs, and the keys that it made."""

    runs: str
    began: datetime
    transport: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)
    wireguard: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)
    nonce: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    v: Secret | None = None
    payload: dict[str, Any] | None = None
    passed: bool = False


@dataclass
class Node:
    """A machine. good: what it boots is what it should be; dead: it never boots."""

    name: str
    good: bool = True
    dead: bool = False
    allocation: str | None = None
    holds: set[str] = field(default_factory=set)
    power: str = "off"
    from_network: bool = False
    networks: set[str] = field(default_factory=set)
    coming: dict[str, int] = field(default_factory=dict)
    cut: bool = False
    leaving: bool = False
    boot: Boot | None = None
    served: AirlockBoot | OpenBoot | None = None
    terms: Enrolment | None = None
    standing: Standing = Standing.ABSENT
    verdict: str | None = None
    step: tuple[str, str] | None = None
    detail: str = ""
    neighbours: str = ""
    reports: bool = False
    share: Secret | None = None


class World:
    """All of them. fault: called with the name of each verb before and after its effect; may raise.

    looks     whether it looks at itself at every call, which takes time that grows with its size.
    laziness  how often is asked about what takes time, until it is so.
    """

    def __init__(self, clock: Callable[[], datetime], nodes: int, *, laziness: int = 1) -> None:
        self.clock = clock
        self.nodes = {f"n{index}": Node(f"n{index}") for index in range(1, nodes + 1)}
        self.volumes: dict[str, str | None] = {}
        self.fault: Callable[[str], None] = lambda _verb: None
        self.fetch: Callable[[str], bytes | None] = lambda _path: None
        self.laziness = laziness
        self.key = Ed25519PrivateKey.generate()
        self.verdict_key = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        self.calls = 0
        self.keys_given: list[str] = []
        self._asked: dict[str, int] = {}
        self.lock = threading.RLock()
        self.looks = True

    def services(self) -> Services:
        """Return the ports."""
        scales = ScalesAt(SimScales(self), ATTESTATION, AUTHORITY, (self.verdict_key,))
        return Services(SimMachines(self), SimDisks(self), {"own": scales}, DELIVERIES)

    def locked_services(self) -> Services:
        """Return the ports for services with threads; whoever lets time pass holds `lock`."""
        own = self.services()
        scales = {
            name: ScalesAt(
                cast("Scales", Locked(each.scales, self.lock)), each.address, each.authority, each.verdict_keys
            )
            for name, each in own.scales.items()
        }
        machines, disks = (Locked(each, self.lock) for each in (own.machines, own.disks))
        return Services(cast("Machines", machines), cast("Disks", disks), scales, own.deliveries)

    def called(self, verb: str) -> None:
        """Note a moment at which anything may go wrong; look at the world."""
        if self.looks:
            self.look()
        self.calls += 1
        self.fault(verb)

    def later(self, what: str) -> bool:
        """Whether something that takes time has been asked about often enough."""
        self._asked[what] = self._asked.get(what, 0) + 1
        if self._asked[what] <= self.laziness:
            return False
        del self._asked[what]
        return True

    # -- what must never be --------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Raise AssertionError if something is so that must never be."""
        for node in self.nodes.values():
            if ENCLAVE in node.networks and self.demands:
                assert node.boot is not None, f"{node.name} is on the enclave's network and runs nothing"
                assert node.boot.passed, f"{node.name} is on the enclave's network, unweighed"
                assert node.good, f"{node.name} is on the enclave's network, and is not what it should be"
            if node.boot is not None and node.boot.payload is not None:
                assert node.boot.passed, f"{node.name} has keys, unweighed"
                assert node.good, f"{node.name} has keys, and is not what it should be"
            if node.allocation is None:
                assert node.power == "off", f"{node.name} is free and on"
                assert not node.networks, f"{node.name} is free and on a network"
                assert not node.holds
                assert node.served is None, f"{node.name} is free and still served"

    demands: bool = True
    """Whether the enclave's network demands verdicts."""
    frozen: bool = False
    """Whether machines do nothing more."""

    def is_as_at_the_start(self) -> bool:
        """Whether nothing is left of anybody."""
        return not self.volumes and all(
            (node.allocation, node.served, node.terms, node.share) == (None, None, None, None)
            and not node.networks
            and not node.coming
            for node in self.nodes.values()
        )

    # -- time passes ---------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Let every machine, and isolation's own work, go on a little."""
        for node in self.nodes.values():
            self._isolation(node)
            if not self.frozen:
                self._machine(node)
        if self.looks:
            self.look()

    def _isolation(self, node: Node) -> None:
        if node.leaving:
            self.switch(node, "off")
            node.networks.clear()
            node.coming.clear()
            if not node.holds:
                node.allocation, node.leaving, node.cut, node.from_network = None, False, False, False
        for network in [name for name, left in node.coming.items() if left <= 0]:
            del node.coming[network]
            if not node.cut:
                node.networks.add(network)
        for network in node.coming:
            node.coming[network] -= 1

    def switch(self, node: Node, power: str) -> None:
        """Switch a machine, which forgets what it was running."""
        if node.power == power:
            return
        node.power = power
        if power == "off":
            # A machine that is off is no danger on a network; it comes up as another boot.
            node.boot = None
            node.networks.discard(ENCLAVE)
        elif node.from_network and not node.dead and node.served is not None:
            node.boot = Boot("airlock" if isinstance(node.served, AirlockBoot) else "tenant", self.clock())

    def _machine(self, node: Node) -> None:
        boot, terms = node.boot, node.terms
        if boot is None or boot.runs != "airlock" or terms is None or not isinstance(node.served, AirlockBoot):
            return
        if not boot.passed and node.standing is not Standing.FAILED:
            self._judge(node, boot, node.served)
        elif boot.passed and boot.v is None and node.share is not None:
            sealed = seal_share(
                node.share, raw_public_key(boot.transport), X25519PrivateKey.generate(), NodeBoot(node.name, boot.nonce)
            )
            boot.v, node.share = open_share(sealed, boot.transport, NodeBoot(node.name, boot.nonce)), None
        elif boot.v is not None and boot.payload is None:
            self._collect(node, boot, node.served)
        elif boot.payload is not None and node.standing is Standing.PASSED:
            node.step = STARTED
            node.reports = terms.runtime_policy is not None

    def _judge(self, node: Node, boot: Boot, served: AirlockBoot) -> None:
        assert node.terms is not None
        right = hashlib.sha256(served.parameters.encode()).hexdigest() == node.terms.parameters_sha256
        if node.neighbours:
            node.step, node.detail = NEIGHBOURS, f"found also {node.neighbours}"
            self.switch(node, "off")
            return
        if not node.good or not right:
            node.standing = Standing.FAILED
            self.switch(node, "off")
            return
        boot.passed = True
        node.standing, node.verdict = Standing.PASSED, self.verdict(node, boot, served.parameters)

    def verdict(self, node: Node, boot: Boot, parameters: str, **changed: Any) -> str:
        """Return the signed word that a machine passed."""
        now = int(self.clock().timestamp())
        appraisal = {
            "ear.status": "affirming",
            "steelyard.purpose": "airlock",
            "steelyard.boot": boot.nonce.hex(),
            "steelyard.transport-key": raw_public_key(boot.transport).hex(),
            "steelyard.wireguard-key": raw_public_key(boot.wireguard).hex(),
            "steelyard.parameters-sha256": hashlib.sha256(parameters.encode()).hexdigest(),
        }
        claims = {
            "eat_profile": "tag:github.com,2023:veraison/ear",
            "iat": now,
            "exp": now + int(VERDICT_LASTS.total_seconds()),
            "sub": node.name,
            "submods": {node.name: {**appraisal, **changed}},
        }
        parts = [json.dumps(part).encode() for part in ({"alg": "EdDSA"}, claims)]
        said = ".".join(urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
        return f"{said}.{urlsafe_b64encode(self.key.sign(said.encode())).rstrip(b'=').decode()}"

    def _collect(self, node: Node, boot: Boot, served: AirlockBoot) -> None:
        address: str = json.loads(served.parameters)["delivery"]
        found = self.fetch(address.removeprefix(f"{DELIVERIES}/delivery/"))
        if found is None or boot.v is None:
            return
        delivery = {name: b64decode(value) for name, value in json.loads(found).items()}
        own = NodeBoot(node.name, boot.nonce)
        key = join_shares(open_share(delivery["share"], boot.transport, own), boot.v)
        verify_auth_tag(key, node.name, delivery["tag"])
        boot.payload = json.loads(open_payload(key, delivery["payload"], own).reveal())
        self.keys_given.append(node.name)


class SimMachines:
    """Isolation."""

    def __init__(self, world: World) -> None:
        self._world = world

    def _node(self, name: str) -> Node:
        return self._world.nodes[name]

    def take(self, project: str, allocation: str, labels: Mapping[str, str], avoid: Collection[str]) -> Machine:
        self._world.called("take")
        found = next((node for node in self._world.nodes.values() if node.allocation == allocation), None)
        if found is None:
            nodes = self._world.nodes.values()
            found = next((node for node in nodes if node.allocation is None and node.name not in avoid), None)
            if found is None:
                raise NotEnough("allocating", expected="1 free node", found="none")
            found.allocation = allocation
        self._world.called("taken")
        return Machine(
            found.name,
            {f"eth{card}": f"52:54:00:0{card}:00:{int(found.name[1:]) % 256:02x}" for card in (0, 1)},
            Identity({}, ()),
        )

    def taken(self, project: str, allocation: str) -> str | None:
        self._world.called("ask-allocation")
        return next((n.name for n in self._world.nodes.values() if n.allocation == allocation), None)

    def look(self, project: str, allocation: str, node: str) -> Tenure:
        self._world.called("look")
        found = self._node(node)
        if found.allocation != allocation:
            return Tenure(ours=False, cut=False, leaving=False, dark=False, words="it is not ours")
        dark = found.leaving and found.power == "off" and not found.networks and not found.coming
        return Tenure(ours=True, cut=found.cut, leaving=found.leaving, dark=dark, words="switches it off")

    def hold(self, node: str, name: str, why: str) -> None:
        self._world.called("hold")
        _must_be_held(self._node(node))
        self._node(node).holds.add(name)
        self._world.called("held")

    def lift(self, node: str, name: str) -> None:
        self._world.called("lift")
        found = self._node(node)
        found.holds.discard(name)
        self._world._isolation(found)
        self._world.called("lifted")

    def power(self, node: str, wanted: Power, asked: str | None) -> Progress:
        self._world.called("power")
        found = self._node(node)
        _must_be_ours(found)
        if found.cut:
            raise WrongState("power", expected="a node that is not cut off", found="quarantined")
        if found.power == wanted.value:
            return Done()
        if not self._world.later(f"power/{node}"):
            return Pending("op", "the BMC is asked")
        self._world.switch(found, wanted.value)
        self._world.called("powered")
        return Done()

    def boot_from_network(self, node: str, asked: str | None) -> Progress:
        self._world.called("boot-device")
        found = self._node(node)
        _must_be_ours(found)
        found.from_network = True
        self._world.called("boot-device-set")
        return Done()

    def check_airlock(self, network: str) -> None:
        self._world.called("check-airlock")
        assert network == AIRLOCK

    def check_admission(self, network: str, verdict_keys: Collection[str]) -> None:
        self._world.called("check-admission")
        if not self._world.demands or self._world.verdict_key not in verdict_keys:
            raise WrongState("looking at a network", expected="one that demands verdicts of our key", found="another")

    def attach(self, node: str, nic: str, network: str, *, verdict: str | None) -> Progress:
        self._world.called("attach")
        found = self._node(node)
        _must_be_ours(found)
        if network in found.networks:
            return Done()
        if found.cut:
            raise WrongState("attaching", expected="a node that is not cut off", found="quarantined")
        if network == ENCLAVE and self._world.demands:
            assert verdict is not None, "asked for the enclave's network without a verdict"
            assert found.boot is not None
            if not found.boot.passed:
                raise NotAdmitted("attaching", expected="a verdict on what runs", found="an old one")
        if network not in found.coming:
            found.coming[network] = self._world.laziness - 1
        self._world.called("attaching")
        return Pending(None, "the switch is written")

    def detach_all(self, node: str) -> Progress:
        self._world.called("detach")
        found = self._node(node)
        found.networks.clear()
        found.coming.clear()
        self._world.called("detached")
        return Done()

    def cut(self, node: str, why: str) -> Progress:
        self._world.called("cut")
        found = self._node(node)
        if found.cut and not found.networks:
            return Done()
        found.cut = True
        found.networks.clear()
        found.coming.clear()
        self._world.called("cutting")
        return Pending(None, "the switch is written")

    def release(self, node: str, why: str) -> None:
        self._world.called("release")
        found = self._node(node)
        if found.allocation is not None:
            found.leaving = True
        self._world.called("releasing")


def _must_be_held(node: Node) -> None:
    if node.allocation is None:
        raise WrongState("acting on a node", expected="one that is somebody's", found="a free one")


def _must_be_ours(node: Node) -> None:
    if node.allocation is None or node.leaving:
        raise WrongState("acting on a node", expected="one that is allocated", found="another")


class SimDisks:
    """Imaging."""

    def __init__(self, world: World) -> None:
        self._world = world

    def make_volume(self, project: str, volume: str, image: str, size_bytes: int | None, asked: str | None) -> Progress:
        self._world.called("make-volume")
        if image == "absent":
            raise NotFound("looking for an image", expected="one", found="none")
        if volume in self._world.volumes:
            return Done()
        if not self._world.later(f"volume/{volume}"):
            return Pending("op", "cloning")
        self._world.volumes[volume] = None
        self._world.called("made-volume")
        return Done()

    def _boot(self, node: str, what: AirlockBoot | OpenBoot) -> Progress:
        self._world.called("boot")
        found = self._world.nodes[node]
        if found.served == what:
            return Done()
        found.served = what
        self._world.called("booting")
        return Done()

    def boot_open(self, project: str, node: str, what: OpenBoot, asked: str | None) -> Progress:
        assert what.volume in self._world.volumes
        return self._boot(node, what)

    def boot_airlock(self, project: str, node: str, what: AirlockBoot, asked: str | None) -> Progress:
        return self._boot(node, what)

    def address(self, project: str, node: str) -> str | None:
        self._world.called("address")
        return f"10.9.1.{node[1:]}"

    def open_volume(self, project: str, volume: str, network: str, address: str, asked: str | None) -> Progress:
        self._world.called("open-volume")
        if self._world.volumes[volume] != address:
            self._world.volumes[volume] = address
            self._world.called("opening-volume")
        return Done()

    def system(self, project: str, image: str, network: str) -> System:
        self._world.called("system")
        file = File("http://10.9.0.1/kernel", 1, IMAGE_SHA256)
        return System(file, file, "quiet")

    def access(self, project: str, volume: str) -> Secret:
        self._world.called("access")
        return Secret(json.dumps({"protocol": "nbd", "address": "10.9.0.1"}).encode())

    def end_boot(self, project: str, node: str, marks: Collection[str], asked: str | None) -> Progress:
        self._world.called("end-boot")
        served = self._world.nodes[node].served
        said = "" if served is None else served.volume if isinstance(served, OpenBoot) else served.parameters
        if any(mark in said for mark in marks):
            self._world.nodes[node].served = None
        self._world.called("ended-boot")
        return Done()

    def end_volume(self, project: str, volume: str, *, keep: bool, asked: str | None) -> Progress:
        self._world.called("end-volume")
        if volume in self._world.volumes:
            if keep:
                self._world.volumes[volume] = None
            else:
                del self._world.volumes[volume]
        self._world.called("ended-volume")
        return Done()


class SimScales:
    """Attestation."""

    def __init__(self, world: World) -> None:
        self._world = world

    def enrol(self, project: str, node: str, terms: Enrolment) -> None:
        self._world.called("enrol")
        found = self._world.nodes[node]
        found.terms, found.standing, found.verdict = terms, Standing.ON_THE_WAY, None
        found.step, found.reports, found.share = None, False, None
        self._world.called("enrolled")

    def leave_share(self, node: str, share: Secret) -> None:
        self._world.called("leave-share")
        self._world.nodes[node].share = share
        self._world.called("left-share")

    def weigh(self, project: str, node: str) -> Weighed:
        self._world.called("weigh")
        found = self._world.nodes[node]
        why = "PCR 0: firmware is another" if found.standing is Standing.FAILED else "so far"
        return Weighed(found.standing, why, found.step, found.detail, found.reports, found.verdict)

    def holds(self, project: str, node: str) -> bool:
        self._world.called("holds")
        return self._world.nodes[node].standing in (Standing.PASSED, Standing.OVERDUE)

    def forget(self, node: str, parameters_sha256: str) -> None:
        self._world.called("forget")
        found = self._world.nodes[node]
        if found.terms is None or found.terms.parameters_sha256 != parameters_sha256:
            return
        found.terms, found.share, found.standing, found.verdict = None, None, Standing.ABSENT, None
        found.step, found.reports = None, False
        self._world.called("forgotten")


class Locked:
    """A port that one thread asks at a time."""

    def __init__(self, port: object, lock: threading.RLock) -> None:
        self._port, self._lock = port, lock

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._port, name)

        def ask(*arguments: Any, **named: Any) -> Any:
            with self._lock:
                return verb(*arguments, **named)

        return ask


def unreachable(verb: str) -> Unavailable:
    """Return the error of a service that does not answer."""
    return Unavailable(f"asking ({verb})", expected="an answer", found="none")
