"""The Open vSwitch driver on the rack's switch, judged by frames on the wires."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from steelyard.isolation.ports import Access, Other, Switch
from steelyard.isolation.switches.openvswitch import OpenVSwitch, open_vswitch
from steelyard.model.errors import DeviceGarbled, DeviceUnreachable, OutcomeUnknown
from steelyard.model.network import SHUT, PortVlans, Vlan
from tests.lab_rack.rack import Rack, Wire, bring_up, room_for_a_rack, wait_until, who_hears

pytestmark = pytest.mark.rack

ON_A, ON_B = PortVlans(Vlan(100)), PortVlans(Vlan(200))
FLOWS: Final = 2000
"""Senders' addresses, each a flow for the data path to know: a switch that is in use."""


@pytest.fixture(scope="module")
def standing_rack() -> Iterator[Rack]:
    with room_for_a_rack() as root:
        yield bring_up(root, "--nodes", "2")


@pytest.fixture
def rack(standing_rack: Rack) -> Iterator[Rack]:
    yield standing_rack
    for fault in ("unreachable", "deaf", "forgetful"):
        standing_rack.lab("fault", "switch", fault, "off")


@pytest.fixture
def ports(rack: Rack) -> tuple[str, str]:
    first, second = (rack.node(name).nics[0].port for name in ("n1", "n2"))
    return first, second


@pytest.fixture
def switch(rack: Rack) -> Iterator[Switch]:
    (endpoint,) = [endpoint for endpoint in rack.inventory.switch.ovsdb if endpoint.startswith("unix:")]
    with _connected(rack, endpoint) as switch:
        yield switch


@contextmanager
def _connected(rack: Rack, endpoint: str) -> Iterator[OpenVSwitch]:
    switch = open_vswitch(Access({"endpoint": endpoint, "bridge": rack.inventory.switch.bridge}, {}), call_seconds=2)
    yield switch
    switch.close()


@pytest.fixture
def wires(rack: Rack) -> Iterator[tuple[Wire, Wire]]:
    """The cables of both nodes, which are off."""
    ends = Wire(rack, "n1"), Wire(rack, "n2")
    yield ends
    for end in ends:
        end.close()


class Chatter:
    """Sends numbered frames without a pause, until the end of the context."""

    def __init__(self, wire: Wire) -> None:
        self.sent = 0
        self._wire = wire
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Chatter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._enough.is_set():
            # Counted before it goes: a frame of a higher number than `sent` has not gone yet.
            self.sent += 1
            source = b"\x02\x00\x00\x00" + (self.sent % FLOWS).to_bytes(2, "big")
            self._wire.send_frame(b"\xff" * 6 + source + b"\x88\xb5" + (b"number %d." % self.sent).ljust(46))


def _highest_heard(wire: Wire) -> int:
    """Return the number of the last frame that waits at a wire, 0 if there is none."""
    highest = 0
    while frame := wire.hear():
        _, found, rest = frame.partition(b"number ")
        if found:
            highest = max(highest, int(rest.partition(b".")[0]))
    return highest


@pytest.mark.parametrize(
    ("cut", "times"),
    [
        pytest.param(SHUT, 50, id="shut"),
        pytest.param(ON_B, 5, id="moved"),
        pytest.param(PortVlans(Vlan(100), isolated=True), 5, id="isolated"),
    ],
)
def test_when_a_write_returns_no_frame_passes_any_more(
    switch: Switch, ports: tuple[str, str], wires: tuple[Wire, Wire], cut: PortVlans, times: int
) -> None:
    speaker, listener = wires
    speaking = PortVlans(Vlan(100), isolated=True)  # as long as the other is not, they hear each other
    switch.write({ports[0]: speaking}, fence=1)
    with Chatter(speaker) as chatter:
        for _ in range(times):
            switch.write({ports[1]: ON_A}, fence=1)
            _highest_heard(listener)
            opened = chatter.sent
            # Every flow is known to the data path.
            wait_until("frames pass", lambda: _highest_heard(listener) > opened + FLOWS)  # noqa: B023  (called at once)
            switch.write({ports[1]: cut}, fence=1)
            last = chatter.sent
            wait_until("more frames were sent", lambda: chatter.sent > last + 100)  # noqa: B023  (called at once)
            time.sleep(0.01)  # what was let through would be at the wire by now
            assert _highest_heard(listener) <= last


def test_over_tcp_a_write_moves_a_port(rack: Rack, ports: tuple[str, str], wires: tuple[Wire, Wire]) -> None:
    (endpoint,) = [endpoint for endpoint in rack.inventory.switch.ovsdb if endpoint.startswith("tcp:")]

    def move(second: PortVlans) -> None:
        with _connected(rack, endpoint) as switch:
            switch.write({ports[0]: ON_A, ports[1]: second}, fence=1)
            assert switch.read(ports) == {ports[0]: ON_A, ports[1]: second}

    rack.within(lambda: move(ON_A))
    wait_until("frames pass", lambda: who_hears(wires[0], wires[1:]) == {0})
    rack.within(lambda: move(ON_B))
    assert not who_hears(wires[0], wires[1:])


def test_a_deaf_switch_is_never_believed(rack: Rack, switch: Switch, ports: tuple[str, str]) -> None:
    switch.write(dict.fromkeys(ports, ON_A), fence=1)
    rack.lab("fault", "switch", "deaf")
    with pytest.raises(OutcomeUnknown):
        switch.write(dict.fromkeys(ports, SHUT), fence=1)
    with pytest.raises(DeviceGarbled):
        switch.read(ports)
    rack.lab("fault", "switch", "deaf", "off")
    assert switch.read(ports) == dict.fromkeys(ports, ON_A)


def test_an_unreachable_switch_is_told_at_once(rack: Rack, switch: Switch, ports: tuple[str, str]) -> None:
    switch.read(ports)
    rack.lab("fault", "switch", "unreachable")
    begin = time.monotonic()
    with pytest.raises(DeviceUnreachable):
        switch.write(dict.fromkeys(ports, SHUT), fence=1)
    with pytest.raises(DeviceUnreachable):
        switch.wait_for_change(5)
    assert time.monotonic() - begin < 1


def test_a_forgetful_switch_is_set_right(
    rack: Rack, switch: Switch, ports: tuple[str, str], wires: tuple[Wire, Wire]
) -> None:
    switch.write({ports[0]: ON_A, ports[1]: ON_B}, fence=7)
    rack.lab("fault", "switch", "forgetful")
    rack.lab("restart-switch")
    assert all(isinstance(reading, Other) for reading in switch.read(ports).values())
    wait_until("frames pass", lambda: who_hears(wires[0], wires[1:]) == {0})
    switch.write({ports[0]: ON_A, ports[1]: ON_B}, fence=1)
    assert switch.read(ports) == {ports[0]: ON_A, ports[1]: ON_B}
    assert not who_hears(wires[0], wires[1:])
