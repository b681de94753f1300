"""The isolation service as the enclave needs it, by its HTTP API.

What is asked of it all the time, how the machines are, is asked for a whole project at once and believed for a moment;
what decides anything (whether a card is on a network, whether a machine is gone) is asked anew.
"""

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Final

from steelyard.client import isolation
from steelyard.client.call import Call
from steelyard.client.connection import Client
from steelyard.client.objects import Node, Operation
from steelyard.enclave.ports import Done, Identity, Machine, Pending, Power, Progress, Tenure
from steelyard.enclave.services.fresh import Fresh
from steelyard.model.errors import NotEnough, NotFound, WrongState

SECONDS: Final = 120
"""How long an operation may take before it is asked for anew."""
_DARK: Final = frozenset({"ports", "holds"})


class OverIsolation:
    """Machines (see `ports.py`), by a client of the isolation service. Threads share it."""

    def __init__(self, client: Client, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._nodes = Fresh(self._list, clock)

    def take(self, project: str, allocation: str, labels: Mapping[str, str], avoid: Collection[str]) -> Machine:
        """See `Machines`."""
        there = self._allocated(project, allocation)
        if there is not None:
            return _machine(there)
        named = self._choose(labels, avoid) if avoid else None
        nodes = None if named is None else [named]
        call = isolation.allocate(project, allocation, 1, labels=None if nodes else labels, nodes=nodes)
        [node] = self._client.ask(call).nodes
        return _machine(node)

    def _choose(self, labels: Mapping[str, str], avoid: Collection[str]) -> str:
        """Return a free machine that was not tried. Raises NotEnough; somebody else may be quicker, as may be seen."""
        for node in self._client.every(isolation.list_nodes(state="free", labels=labels)):
            if node.name not in avoid:
                return node.name
        found = f"none but {', '.join(sorted(avoid))}, which did not pass"
        raise NotEnough("choosing a machine", expected="a free one", found=found)

    def _allocated(self, project: str, allocation: str) -> Node | None:
        try:
            nodes = self._client.ask(isolation.read_allocation(project, allocation)).nodes
        except NotFound:
            return None
        return nodes[0] if nodes else None

    def taken(self, project: str, allocation: str) -> str | None:
        """See `Machines`."""
        found = self._allocated(project, allocation)
        return None if found is None else found.name

    def look(self, project: str, allocation: str, node: str) -> Tenure:
        """See `Machines`."""
        found = self._nodes.get(project).get(node)
        if found is None or found.allocation != allocation or found.project != project:
            # The list may be from before the machine was taken; that it is not ours is said only when it was asked.
            try:
                found = self._client.ask(isolation.read_node(node))
            except NotFound:
                return _NOT_OURS
        if found.project != project or found.allocation != allocation:
            return _NOT_OURS
        leaving = found.state == "releasing"
        release = found.release
        dark = leaving and release is not None and release.confirmed in _DARK
        words = found.trouble or found.why
        cut = found.state == "quarantined"
        return Tenure(ours=True, cut=cut, leaving=leaving, dark=dark, words=f"{found.state}, {words}")

    def _list(self, project: str) -> Mapping[str, Node]:
        listed = self._client.every(isolation.list_nodes(project=project, limit=1000))
        return {node.name: node for node in listed}

    def hold(self, node: str, name: str, why: str) -> None:
        """See `Machines`."""
        self._client.ask(isolation.place_hold(node, name, why))

    def lift(self, node: str, name: str) -> None:
        """See `Machines`."""
        with suppress(NotFound):
            self._client.ask(isolation.lift_hold(node, name))
        self._nodes.forget()

    def power(self, node: str, wanted: Power, asked: str | None) -> Progress:
        """See `Machines`. Which way the power is, is read by isolation within the operation that is asked for."""
        return self._await(asked, isolation.power(node, wanted.value, seconds=SECONDS))

    def boot_from_network(self, node: str, asked: str | None) -> Progress:
        """See `Machines`."""
        return self._await(asked, isolation.set_boot_device(node, "network", seconds=SECONDS))

    def _await(self, asked: str | None, begin: Call[Operation]) -> Progress:
        """Return how an operation goes on; one that failed, or was never begun, is begun."""
        operation = self._operation(asked)
        words = ""
        if operation is not None:
            if operation.state == "done":
                return Done()
            failure = operation.failure or {}
            words = failure.get("found", "") or operation.progress
            if not operation.over:
                return Pending(operation.id, words)
        operation = self._client.ask(begin)
        return Done() if operation.state == "done" else Pending(operation.id, words or operation.progress)

    def _operation(self, asked: str | None) -> Operation | None:
        if asked is None:
            return None
        try:
            return self._client.ask(isolation.read_operation(asked))
        except NotFound:
            return None

    def check_airlock(self, network: str) -> None:
        """See `Machines`."""
        found = self._client.ask(isolation.read_network(network))
        if found.members != "isolated":
            doing = f"looking at the airlock {network}"
            raise WrongState(doing, expected="a network with isolated members", found=f"members {found.members}")

    def check_admission(self, network: str, verdict_keys: Collection[str]) -> None:
        """See `Machines`."""
        found = self._client.ask(isolation.read_network(network))
        doing = f"looking at the enclave's network {network}"
        if found.admission is None:
            raise WrongState(doing, expected="one that demands verdicts", found="one that admits everybody")
        if found.admission.key.strip() not in {key.strip() for key in verdict_keys}:
            raise WrongState(doing, expected="the key of this attestation service", found="another's")

    def attach(self, node: str, nic: str, network: str, *, verdict: str | None) -> Progress:
        """See `Machines`. The switch is asked by isolation; here is asked what it read."""
        for there in self._client.every(isolation.list_attachments(node=node, network=network)):
            if there.nic == nic and there.wanted and not there.tagged:
                return Pending(None, "the switch is written") if there.applied_at is None else Done()
        self._client.ask(isolation.attach(node, nic, network, verdict=verdict, seconds=SECONDS))
        return Pending(None, "the switch is written")

    def detach_all(self, node: str) -> Progress:
        """See `Machines`."""
        left = list(self._client.every(isolation.list_attachments(node=node)))
        for there in left:
            if there.wanted:
                self._client.ask(isolation.detach(node, there.nic, there.network, seconds=SECONDS))
        return Pending(None, "the switch is written") if left else Done()

    def cut(self, node: str, why: str) -> Progress:
        """See `Machines`."""
        found = self._client.ask(isolation.read_node(node))
        if found.state != "quarantined":
            self._client.ask(isolation.quarantine(node, why, seconds=SECONDS))
            self._nodes.forget()
            return Pending(None, "the switch is written")
        left = list(self._client.every(isolation.list_attachments(node=node)))
        return Pending(None, "the switch is written") if left else Done()

    def release(self, node: str, why: str) -> None:
        """See `Machines`."""
        self._client.ask(isolation.release(node, why=why, seconds=SECONDS))
        self._nodes.forget()


_NOT_OURS: Final = Tenure(ours=False, cut=False, leaving=False, dark=False, words="it is not ours")


def _machine(node: Node) -> Machine:
    cards = {nic.name: nic.mac for nic in node.nics if nic.port is not None}
    identity = Identity(dict(node.identity.endorsement_certificates), node.identity.endorsement_keys)
    return Machine(node.name, cards, identity)
