"""The life of one machine, step by step: for each state what is to be made so, in this order, and what moves it then.

Each step states an end of another service's and finds out whether it is so: taken again after a crash, it does no harm.
Nothing is written here; what a step came to is written by the keeper, together with that it was taken.
"""

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from steelyard.enclave import keys
from steelyard.enclave.life import ON_THE_WAY, Event, State
from steelyard.enclave.objects import AfterUse, BootSecrets, Facts, OnRejection, Place, Seal, Trust, Weighing
from steelyard.enclave.ports import (
    AirlockBoot,
    Done,
    Enrolment,
    OpenBoot,
    Pending,
    Power,
    Progress,
    ScalesAt,
    Services,
    Standing,
    System,
    Tenure,
    Weighed,
)
from steelyard.model.errors import (
    Malformed,
    MalformedAnswer,
    NotAdmitted,
    NotAllowed,
    NotFound,
    OverQuota,
    PayloadRejected,
    SteelyardError,
    WrongUse,
)
from steelyard.model.secret import Secret
from steelyard.service.sealing import Sealer

STARTED: Final = ("loading the tenant's system", "done")
"""The last that a machine says in the airlock, when all went well."""
NEIGHBOURS: Final = ("looking for neighbours", "failed")
"""What it says when it hears somebody there who is none of the services."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a step is given.

    enclave    its name.
    peers_key  tells who signs who the peers are, PEM.
    """

    place: Place
    enclave: str
    services: Services
    sealer: Sealer
    now: datetime
    peers_key: Callable[[], str]

    @property
    def node(self) -> str:
        """The machine's name; there is one."""
        if self.place.node is None:
            raise ValueError(f"place {self.place.id} has no machine")
        return self.place.node

    @property
    def weighing(self) -> Weighing:
        """By what it is weighed; it is."""
        if self.place.spec.weighing is None:
            raise ValueError(f"place {self.place.id} is not weighed")
        return self.place.spec.weighing

    @property
    def scales(self) -> ScalesAt:
        """By whom. Raises WrongUse."""
        found = self.services.scales.get(self.weighing.service)
        if found is None:
            known = ", ".join(sorted(self.services.scales)) or "none"
            raise WrongUse("finding an attestation service", expected=f"one of {known}", found=self.weighing.service)
        return found

    def fact(self, name: str) -> str:
        """Return what an earlier step has found out."""
        value = getattr(self.place.facts, name)
        if not isinstance(value, str):
            raise ValueError(f"place {self.place.id} knows no {name}")
        return value


@dataclass(frozen=True, slots=True)
class Next:
    """The step is done; what it found out."""

    facts: Facts | None = None
    node: str | None = None
    sealed: bytes | None = None
    delivery: bytes | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """It is not done yet. asked: what the service is working at; seconds: when to look again, None: as usual."""

    words: str
    asked: str | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Rest:
    """There is nothing to do until something happens to the place."""

    words: str


@dataclass(frozen=True, slots=True)
class Move:
    """The state is over. failed: it ends otherwise than it should."""

    event: Event
    why: str
    failed: bool = False
    facts: Facts | None = None
    receipt: Mapping[str, Any] | None = None


Result = Next | Wait | Rest | Move


@dataclass(frozen=True, slots=True)
class Step:
    """words: what is being done, for people."""

    words: str
    take: Callable[[Work], Result]


def _after(progress: Progress) -> Result:
    match progress:
        case Done():
            return Next()
        case Pending(asked, words):
            return Wait(words, asked)


# -- wanted, allocated -------------------------------------------------------------------------------------------------


def _take(work: Work) -> Result:
    place = work.place
    machine = work.services.machines.take(place.project, place.id, place.spec.labels, place.avoid)
    cards = sorted(machine.cards)
    needed = 2 if place.spec.walled else 1
    if len(cards) < needed:
        doing = f"choosing network cards of {machine.name}"
        raise WrongUse(doing, expected=f"{needed} with a cable", found=", ".join(cards) or "none")
    boot, wall = cards[0], cards[needed - 1]
    facts = Facts(
        nic=boot,
        mac=machine.cards[boot],
        wall_nic=wall,
        wall_mac=machine.cards[wall],
        delivery=secrets.token_hex(16),
    )
    return Next(node=machine.name, facts=facts)


def _hold(work: Work) -> Result:
    _place_hold(work, work.node)
    return Next()


def _place_hold(work: Work, node: str) -> None:
    # Of a name of its own: who lets it go twice lets nothing of another go.
    work.services.machines.hold(node, work.place.volume, f"enclave {work.enclave} has its disk and boot")


def _off(work: Work) -> Result:
    return _after(work.services.machines.power(work.node, Power.OFF, work.place.facts.asked))


def _check_networks(work: Work) -> Result:
    machines, spec = work.services.machines, work.place.spec
    machines.check_airlock(spec.boot_network)
    machines.check_admission(spec.network, work.scales.verdict_keys)
    return Next()


def _volume(work: Work) -> Result:
    place = work.place
    disks, spec = work.services.disks, place.spec
    size_bytes = spec.disk_bytes
    if spec.seal is not None:
        _check_sealed(disks.system(place.project, spec.image, spec.boot_network), spec.seal)
        size_bytes = size_bytes or spec.seal.image_bytes + LAYER_BYTES
    return _after(disks.make_volume(place.project, place.volume, spec.image, size_bytes, place.facts.asked))


LAYER_BYTES: Final = 2 << 30
"""For what a sealed machine writes, if the file says nothing. Of a sparse disk it takes none."""


def _check_sealed(system: System, seal: Seal) -> None:
    """Let pass what boots of an image when it is what was sealed. Raises WrongUse: nothing makes another one good."""
    for what, found, sealed in (
        ("kernel", system.kernel.sha256, seal.kernel),
        ("initramfs", system.initramfs.sha256, seal.initramfs),
    ):
        if found != sealed:
            raise WrongUse("comparing the image with its seal", expected=f"{what} {sealed}", found=found)


def _boot_network(work: Work) -> Result:
    network = work.place.spec.boot_network
    return _after(work.services.machines.attach(work.node, work.fact("nic"), network, verdict=None))


def _open_network(work: Work) -> Result:
    spec = work.place.spec
    if not spec.walled:
        return Next()
    return _after(work.services.machines.attach(work.node, work.fact("wall_nic"), spec.network, verdict=None))


def _boot_open(work: Work) -> Result:
    place, spec = work.place, work.place.spec
    seed = {"meta-data": _meta_data(work)}
    seed["user-data"] = spec.user_data if spec.user_data is not None else "#cloud-config\n"
    what = OpenBoot(spec.boot_network, work.fact("mac"), place.volume, spec.command_line, seed)
    return _after(work.services.disks.boot_open(place.project, work.node, what, place.facts.asked))


def _meta_data(work: Work) -> str:
    return f"instance-id: {work.place.id}\nlocal-hostname: {work.node}\n"


def _boot_device(work: Work) -> Result:
    return _after(work.services.machines.boot_from_network(work.node, work.place.facts.asked))


def parameters(work: Work) -> str:
    """Return what the machine is told in the airlock: docs/formats.md, A node's parameters."""
    return json.dumps(
        {
            "schema": "steelyard.parameters/1",
            "node": work.node,
            "attestation": work.scales.address,
            "authority": work.scales.authority,
            "delivery": f"{work.services.deliveries}/delivery/{work.fact('delivery')}",
            "on_failure": "power-off",
        },
        sort_keys=True,
    )


def _enrol(work: Work) -> Result:
    place, weighing = work.place, work.weighing
    machine = work.services.machines.take(place.project, place.id, place.spec.labels, place.avoid)
    terms = Enrolment(
        machine.identity,
        hashlib.sha256(parameters(work).encode()).hexdigest(),
        weighing.airlock_policy,
        weighing.runtime_policy,
        weighing.makers,
        weighing.interval_seconds,
        weighing.grace_seconds,
    )
    work.scales.scales.enrol(place.project, work.node, terms)
    return Next()


def _leave_share(work: Work) -> Result:
    """Leave V. If nobody hears that it was left, fresh keys are made, and the last V is worth nothing."""
    place = work.place
    before = None if place.sealed is None else keys.open_secrets(work.sealer, place.id, place.sealed).disk
    own = keys.make_secrets(before)
    work.scales.scales.leave_share(work.node, keys.verifier_share(own))
    return Next(sealed=keys.seal_secrets(work.sealer, place.id, own))


def _boot_airlock(work: Work) -> Result:
    place, spec = work.place, work.place.spec
    what = AirlockBoot(spec.boot_network, work.fact("mac"), parameters(work), spec.image)
    return _after(work.services.disks.boot_airlock(place.project, work.node, what, place.facts.asked))


# -- airlock, weighed --------------------------------------------------------------------------------------------------


def _on(work: Work) -> Result:
    return _after(work.services.machines.power(work.node, Power.ON, work.place.facts.asked))


def _weigh(work: Work) -> Result:
    weighed = work.scales.scales.weigh(work.place.project, work.node)
    match weighed.standing:
        case Standing.FAILED | Standing.ABSENT:
            return Move(Event.REJECT, _words(weighed), failed=True)
        case Standing.PASSED if weighed.verdict is not None:
            passed = _checked(work, weighed.verdict, None)
            facts = replace(
                work.place.facts,
                verdict=weighed.verdict,
                boot=passed.boot.hex(),
                transport=passed.transport.hex(),
                wireguard=None if passed.wireguard is None else passed.wireguard.hex(),
            )
            return Move(Event.PASS, "its verdict is good", facts=facts)
    if weighed.step == NEIGHBOURS:
        return Move(Event.REJECT, f"in its airlock: {weighed.detail}", failed=True)
    if weighed.step is not None and weighed.step[1] == "failed":
        return Move(Event.RELEASE, f"the machine gave up at {weighed.step[0]}: {weighed.detail}", failed=True)
    return Wait(_words(weighed))


def _words(weighed: Weighed) -> str:
    at = "" if weighed.step is None else f"; it says: {weighed.step[0]}, {weighed.step[1]}"
    return f"attestation: {weighed.standing.value}, {weighed.why}{at}"


def _checked(work: Work, verdict: str, boot: str | None) -> keys.Passed:
    document = parameters(work).encode()
    passed = keys.check_verdict(verdict, work.scales.verdict_keys, work.node, document, boot, work.now)
    if work.place.spec.wireguard is not None and passed.wireguard is None:
        doing = f"checking the verdict on node {work.node}"
        raise NotAdmitted(doing, expected="a WireGuard key that the quote vouches for", found="none")
    return passed


def _still(work: Work) -> Move | None:
    """Return what becomes of a machine that passed and does not any more; None: it still does, or is a little late."""
    weighed = work.scales.scales.weigh(work.place.project, work.node)
    if weighed.standing in (Standing.PASSED, Standing.OVERDUE):
        return None
    return Move(Event.FALL, _words(weighed), failed=True)


def _join(work: Work) -> Result:
    fallen = _still(work)
    if fallen is not None:
        return fallen
    verdict = work.fact("verdict")
    _checked(work, verdict, work.fact("boot"))
    spec = work.place.spec
    return _after(work.services.machines.attach(work.node, work.fact("wall_nic"), spec.network, verdict=verdict))


# -- admitted ----------------------------------------------------------------------------------------------------------


def _open_volume(work: Work) -> Result:
    place, disks = work.place, work.services.disks
    address = disks.address(place.project, work.node)
    if address is None:
        raise NotFound(f"looking for the boot of {work.node}", expected="one", found="none")
    progress = disks.open_volume(place.project, place.volume, place.spec.boot_network, address, place.facts.asked)
    result = _after(progress)
    return Next(facts=replace(place.facts, address=address)) if isinstance(result, Next) else result


def _deliver(work: Work) -> Result:
    """Put the delivery where the machine looks for it: sealed to what passed, and only while that verdict holds."""
    fallen = _still(work)
    if fallen is not None:
        return fallen
    place, spec, disks = work.place, work.place.spec, work.services.disks
    passed = _checked(work, work.fact("verdict"), work.fact("boot"))
    if place.sealed is None:
        raise ValueError(f"place {place.id} has no secrets")
    own = keys.open_secrets(work.sealer, place.id, place.sealed)
    system = disks.system(place.project, spec.image, spec.boot_network)
    if spec.seal is not None:
        _check_sealed(system, spec.seal)
        command_line = spec.seal.command_line
    else:
        command_line = spec.command_line if spec.command_line is not None else system.command_line
    root = disks.access(place.project, place.volume)
    payload = keys.make_payload(system, command_line, root, _files(work, own))
    return Next(delivery=keys.make_delivery(own, passed, payload))


def _files(work: Work, own: BootSecrets) -> dict[str, Secret]:
    place, spec = work.place, work.place.spec
    wireguard = spec.wireguard
    here = {
        "schema": "steelyard.enclave/1",
        "enclave": work.enclave,
        "node": work.node,
        "number": place.number,
        "card": work.fact("wall_mac"),
        "address": None if spec.addresses is None else f"{spec.addresses[place.number]}/{spec.addresses.prefixlen}",
        "wireguard": None
        if wireguard is None
        else {
            "port": wireguard.port,
            "address": f"{wireguard.address(place.number)}/{wireguard.addresses.prefixlen}",
        },
        "peers": f"{work.services.deliveries}/peers/{work.fact('delivery')}",
        "peers_key": work.peers_key(),
    }
    files = {"enclave.json": Secret(json.dumps(here).encode()), "meta-data": Secret(_meta_data(work).encode())}
    if spec.user_data is not None:
        files["user-data"] = Secret(spec.user_data.encode())
    if spec.trust is Trust.SEALED:
        files["luks.key"] = own.disk
    if spec.seal is not None:
        names = ("root_hash", "data_bytes", "image_bytes")
        files["seal.json"] = Secret(json.dumps({name: getattr(spec.seal, name) for name in names}).encode())
    return files


def _await_start(work: Work) -> Result:
    weighed = work.scales.scales.weigh(work.place.project, work.node)
    if weighed.standing in (Standing.FAILED, Standing.ABSENT):
        return Move(Event.FALL, _words(weighed), failed=True)
    if work.weighing.runtime_policy is not None:
        if weighed.reports:
            return Move(Event.START, "it runs, and reports what it runs")
    elif weighed.step == STARTED:
        return Move(Event.START, "it has started the tenant's system")
    if weighed.step is not None and weighed.step[1] == "failed":
        return Move(Event.RELEASE, f"the machine gave up at {weighed.step[0]}", failed=True)
    return Wait(_words(weighed))


def _on_and_started(work: Work) -> Result:
    result = _on(work)
    return Move(Event.START, "it was switched on") if isinstance(result, Next) else result


# -- running -----------------------------------------------------------------------------------------------------------


def _watch(work: Work) -> Result:
    place = work.place
    watched = place.spec.weighing is not None and work.weighing.runtime_policy is not None
    if watched and not work.scales.scales.holds(place.project, work.node):
        fallen = _still(work)
        if fallen is not None:
            return fallen
    return Wait("it is watched", seconds=WATCH_SECONDS)


WATCH_SECONDS: Final = 5.0
"""How often is looked at a machine that runs."""


# -- rejected, quarantined, held ---------------------------------------------------------------------------------------


def _cut(work: Work) -> Result:
    return _after(work.services.machines.cut(work.node, work.place.why[:200]))


def _dark(work: Work) -> Result:
    return _after(work.services.machines.detach_all(work.node))


def _end_boot(work: Work) -> Result:
    place = work.place
    marks = [place.volume, *([] if place.facts.delivery is None else [place.facts.delivery])]
    return _after(work.services.disks.end_boot(place.project, work.node, marks, place.facts.asked))


def _close_volume(work: Work) -> Result:
    place = work.place
    return _after(work.services.disks.end_volume(place.project, place.volume, keep=True, asked=place.facts.asked))


def _decide(work: Work) -> Result:
    if work.place.spec.on_rejection is OnRejection.HOLD:
        return Move(Event.HOLD, work.place.why)
    return Rest("another machine is tried in its place")


def _rest(_work: Work) -> Result:
    return Rest("it waits to be looked at")


# -- releasing ---------------------------------------------------------------------------------------------------------


def _release(work: Work) -> Result:
    place, machines = work.place, work.services.machines
    node = place.node
    if node is None:
        # The answer to the allocation may have been lost.
        node = machines.taken(place.project, place.id)
        if node is None:
            return Move(Event.CONFIRM, place.why, receipt={"node": None, "confirmed": "no machine was taken"})
    tenure = machines.look(place.project, place.id, node)
    if tenure.ours and not tenure.leaving:
        # Before it is released, or it might be another place's while things of this one are still with it.
        _place_hold(work, node)
        machines.release(node, place.why[:200])
    return Next(node=node)


def _tenure(work: Work) -> Tenure:
    return work.services.machines.look(work.place.project, work.place.id, work.node)


def _gone_dark(work: Work) -> Result:
    tenure = _tenure(work)
    if tenure.ours and not tenure.leaving:
        work.services.machines.release(work.node, work.place.why[:200])
        return Wait("it is given back")
    return Next() if not tenure.ours or tenure.dark else Wait(f"isolation: {tenure.words}")


def _end_volume(work: Work) -> Result:
    place = work.place
    keep = place.spec.after_use is AfterUse.KEEP
    return _after(work.services.disks.end_volume(place.project, place.volume, keep=keep, asked=place.facts.asked))


def _forget(work: Work) -> Result:
    if work.place.spec.weighing is not None and work.weighing.service in work.services.scales:
        facts = work.place.facts
        if facts.delivery is not None:
            work.scales.scales.forget(work.node, hashlib.sha256(parameters(work).encode()).hexdigest())
    return Next()


def _lift(work: Work) -> Result:
    work.services.machines.lift(work.node, work.place.volume)
    return Next()


def _confirm(work: Work) -> Result:
    place, spec = work.place, work.place.spec
    tenure = _tenure(work)
    if tenure.ours:
        return Wait(f"isolation: {tenure.words}")
    kept = spec.after_use is AfterUse.KEEP
    receipt = {
        "node": work.node,
        "allocation": place.id,
        "power": "off, as read by isolation",
        "networks": "none, as read by isolation",
        "boot": "ended",
        "volume": f"kept: {place.volume}" if kept else f"destroyed: {place.volume}",
        "attestation": "ended" if spec.weighing is not None else "none",
        "confirmed": work.now.isoformat(timespec="seconds"),
    }
    return Move(Event.CONFIRM, place.why, receipt=receipt)


# -- the table ---------------------------------------------------------------------------------------------------------

OPEN: Final[Mapping[State, tuple[tuple[Step, ...], Event | None]]] = {
    State.ALLOCATED: (
        (
            Step("holding the machine", _hold),
            Step("switching it off", _off),
            Step("making its disk", _volume),
            Step("putting it on the boot network", _boot_network),
            Step("putting it on the enclave's network", _open_network),
            Step("saying what it boots", _boot_open),
            Step("having it boot from the network", _boot_device),
        ),
        Event.JOIN,
    ),
    State.ADMITTED: ((Step("switching it on", _on_and_started),), None),
}

WEIGHING: Final[Mapping[State, tuple[tuple[Step, ...], Event | None]]] = {
    State.ALLOCATED: (
        (
            Step("holding the machine", _hold),
            Step("switching it off", _off),
            Step("looking at the networks", _check_networks),
            Step("making its disk", _volume),
            Step("putting it in the airlock", _boot_network),
            Step("enrolling it", _enrol),
            Step("leaving the verifier's share", _leave_share),
            Step("saying what it boots", _boot_airlock),
            Step("having it boot from the network", _boot_device),
        ),
        Event.WEIGH,
    ),
    State.AIRLOCK: ((Step("switching it on", _on), Step("weighing it", _weigh)), None),
    State.WEIGHED: ((Step("letting it onto the enclave's network", _join),), Event.JOIN),
    State.ADMITTED: (
        (
            Step("opening its disk", _open_volume),
            Step("giving it its keys", _deliver),
            Step("waiting for the tenant's system", _await_start),
        ),
        None,
    ),
}

BOTH: Final[Mapping[State, tuple[tuple[Step, ...], Event | None]]] = {
    State.WANTED: ((Step("taking a machine", _take),), Event.TAKE),
    State.RUNNING: ((Step("watching it", _watch),), None),
    State.REJECTED: (
        (
            Step("switching it off", _off),
            Step("taking it off every network", _dark),
            Step("ending its boot", _end_boot),
            Step("closing its disk", _close_volume),
            Step("deciding", _decide),
        ),
        None,
    ),
    State.QUARANTINED: (
        (
            Step("cutting it off", _cut),
            Step("ending its boot", _end_boot),
            Step("closing its disk", _close_volume),
        ),
        Event.HOLD,
    ),
    State.HELD: ((Step("waiting to be looked at", _rest),), None),
    State.RELEASING: (
        (
            Step("giving it back", _release),
            Step("waiting until it is off and on no network", _gone_dark),
            Step("ending its boot", _end_boot),
            Step("ending its disk", _end_volume),
            Step("ending its attestation", _forget),
            Step("letting it go", _lift),
            Step("asking whether it is gone", _confirm),
        ),
        None,
    ),
    State.RELEASED: ((), None),
}


def steps_of(state: State, *, weighs: bool) -> tuple[tuple[Step, ...], Event | None]:
    """Return the steps of a state, and what moves the place when all are done; None: the last one says."""
    found = BOTH.get(state) or (WEIGHING if weighs else OPEN).get(state)
    return ((), None) if found is None else found


def done_share(place: Place) -> float:
    """Return how much of the way to running a place has come, from 0 to 1."""
    weighs = place.spec.trust.weighs
    way = ON_THE_WAY
    counts = [len(steps_of(state, weighs=weighs)[0]) for state in way]
    if place.state is State.RUNNING:
        return 1.0
    if place.state not in way:
        return 0.0
    index = way.index(place.state)
    return (sum(counts[:index]) + min(place.step, counts[index])) / sum(counts)


# -- what an error means -----------------------------------------------------------------------------------------------

HOPELESS: Final = (WrongUse, NotAllowed, OverQuota, NotFound, Malformed)
"""What does not come right by itself, on the way to running."""


def take_step(work: Work) -> Result:
    """Take the next step; what it came to. An error is a reason to wait, to give up or to reject, never to go on."""
    place = work.place
    steps, _event = steps_of(place.state, weighs=place.spec.trust.weighs)
    step = steps[min(place.step, len(steps) - 1)]
    try:
        return _lost(work) or step.take(work)
    except (NotAdmitted, PayloadRejected) as error:
        if place.state in (State.AIRLOCK, State.WEIGHED):
            return Move(Event.REJECT, str(error), failed=True)
        if place.state is State.ADMITTED:
            return Move(Event.FALL, str(error), failed=True)
        return Wait(str(error))
    except Malformed as error:
        if place.state in (State.AIRLOCK, State.WEIGHED) and not isinstance(error, MalformedAnswer):
            return Move(Event.REJECT, str(error), failed=True)
        return _failed(place, step, error)
    except SteelyardError as error:
        return _failed(place, step, error)


def _lost(work: Work) -> Move | None:
    """Return what becomes of a machine that somebody else has taken from us or cut off; None: nobody has."""
    place = work.place
    if place.node is None or place.state is State.RELEASING:
        return None
    tenure = _tenure(work)
    if not tenure.ours or tenure.leaving:
        return Move(Event.RELEASE, "isolation does not have it as ours any more", failed=True)
    if tenure.cut and place.state in (State.WEIGHED, State.ADMITTED, State.RUNNING):
        return Move(Event.FALL, "it was cut off by somebody", failed=True)
    if tenure.cut and place.state not in (State.QUARANTINED, State.HELD):
        return Move(Event.RELEASE, "it was cut off by somebody", failed=True)
    return None


def _failed(place: Place, step: Step, error: SteelyardError) -> Result:
    hopeless = isinstance(error, HOPELESS) and not isinstance(error, MalformedAnswer)
    if hopeless and place.state in (State.WANTED, State.ALLOCATED, State.ADMITTED):
        return Move(Event.RELEASE, f"{step.words}: {error}", failed=True)
    return Wait(f"{step.words}: {error}")
