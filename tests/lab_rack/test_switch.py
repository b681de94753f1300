"""The switch by its frames: who reaches whom, and what its faults do to that."""

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from struct import pack

import pytest

from tests.lab_rack.rack import Rack, Wire, wait_until, who_hears

pytestmark = pytest.mark.rack

EVERY_PROTOCOL = 0x0003
EVERY_TAG = (None, 0, 1, 100, 4094, 4095)


@pytest.fixture
def wires(rack: Rack) -> Iterator[tuple[Wire, Wire]]:
    """The cables of both nodes, which are off; both ports are on VLAN 100."""
    rack.put_on(100, "n1", "n2")
    ends = Wire(rack, "n1"), Wire(rack, "n2")
    wait_until("frames pass", lambda: who_hears(ends[0], ends[1:]) == {0})
    yield ends
    for end in ends:
        end.close()


def _passes(wires: tuple[Wire, Wire], tag: int | None = None) -> bool:
    return who_hears(wires[0], wires[1:], tag) == {0} and who_hears(wires[1], wires[:1], tag) == {0}


def _wait_for_silence(wires: tuple[Wire, Wire]) -> None:
    # A flow that the data path knows from before is gone some milliseconds after the change is called applied.
    wait_until(
        "no frame passes", lambda: not who_hears(wires[0], wires[1:]) | who_hears(wires[1], wires[:1]), seconds=5
    )


def test_nodes_on_one_vlan_reach_each_other(wires: tuple[Wire, Wire]) -> None:
    assert _passes(wires)


def test_nodes_on_two_vlans_do_not(rack: Rack, wires: tuple[Wire, Wire]) -> None:
    rack.put_on(200, "n2")
    _wait_for_silence(wires)
    for tag in (*EVERY_TAG, 200):
        assert not who_hears(wires[0], wires[1:], tag)
        assert not who_hears(wires[1], wires[:1], tag)


def test_protected_ports_on_one_vlan_do_not(rack: Rack, wires: tuple[Wire, Wire]) -> None:
    for name in ("n1", "n2"):
        rack.set_port(name, protected="true")
    _wait_for_silence(wires)
    rack.set_port("n2", protected="false")
    wait_until("a protected port reaches one that is not", lambda: _passes(wires))


def test_a_shut_port_reaches_nobody_with_any_tag(rack: Rack, wires: tuple[Wire, Wire]) -> None:
    rack.shut("n2")
    _wait_for_silence(wires)
    for tag in EVERY_TAG:
        assert not who_hears(wires[0], wires[1:], tag)
        assert not who_hears(wires[1], wires[:1], tag)


def test_two_shut_ports_do_not_reach_each_other_with_any_tag(rack: Rack, wires: tuple[Wire, Wire]) -> None:
    rack.shut("n1", "n2")
    _wait_for_silence(wires)
    for tag in EVERY_TAG:
        assert not who_hears(wires[0], wires[1:], tag)


def test_every_node_port_comes_shut(rack: Rack) -> None:
    rack.lab("fault", "switch", "forgetful", "off")
    for node in rack.inventory.nodes:
        for column, value in (("vlan_mode", "trunk"), ("trunks", "[4095]"), ("protected", "true"), ("tag", "[]")):
            assert rack.ovs_vsctl("get", "port", node.nics[0].port, column).stdout == f"{value}\n"


def test_a_service_stands_on_a_vlan(rack: Rack, wires: tuple[Wire, Wire]) -> None:
    rack.lab("service", "100", "10.100.0.1/24")
    shown = rack.run(["ip", "-brief", "address", "show", "dev", "vlan100"]).stdout
    assert "10.100.0.1/24" in shown
    # An ARP request for it is answered.
    request = (
        bytes.fromhex("0001080006040001") + wires[0].mac + bytes([10, 100, 0, 2]) + bytes(6) + bytes([10, 100, 0, 1])
    )
    frame = b"\xff" * 6 + wires[0].mac + b"\x08\x06" + request

    def answered() -> bool:
        wires[0].send_frame(frame)
        return any(bytes.fromhex("08060001080006040002") in wires[0].hear() for _ in range(20))

    wait_until("the service answers", answered)


def test_a_node_cannot_reach_a_bmc_through_a_service(rack: Rack) -> None:
    """The kernel drops what comes from a wire for a loopback address; the BMCs' addresses are such."""
    assert rack.node("n1").bmc.address.startswith("127.")
    rack.lab("service", "100", "10.100.0.1/24")
    route_localnet = rack.run(["cat", "/proc/sys/net/ipv4/conf/vlan100/route_localnet"]).stdout
    assert route_localnet == "0\n"


def test_the_services_trunk_has_the_tagged_frames_of_open_ports_and_nothing_of_shut_ones(
    rack: Rack, wires: tuple[Wire, Wire]
) -> None:
    rack.run(["ip", "link", "set", rack.inventory.switch.services_port, "up"])

    def listen() -> socket.socket:
        trunk = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERY_PROTOCOL))
        trunk.bind((rack.inventory.switch.services_port, 0))
        trunk.setblocking(False)  # noqa: FBT003  the name of the method says what it is
        return trunk

    with rack.within(listen) as trunk:

        def hears(wire: Wire, tag: int | None) -> bool:
            words = f"trunk {time.monotonic_ns()}".encode()
            wire.send(words, tag)
            limit = time.monotonic() + 0.2
            while time.monotonic() < limit:
                with suppress(BlockingIOError):
                    if words in trunk.recv(2048):
                        return True
            return False

        wait_until("the trunk has a frame of VLAN 100", lambda: hears(wires[0], None))
        rack.shut("n2")
        wait_until("a shut port is silent", lambda: not hears(wires[1], None), seconds=5)
        assert not any(hears(wires[1], tag) for tag in EVERY_TAG)


# -- faults ------------------------------------------------------------------------------------------------------------


def test_an_unreachable_switch_goes_on_forwarding(rack: Rack, wires: tuple[Wire, Wire]) -> None:
    rack.lab("fault", "switch", "unreachable")
    assert rack.ovs_vsctl("show", check=False).returncode != 0
    assert _passes(wires)
    rack.lab("fault", "switch", "unreachable", "off")
    assert rack.ovs_vsctl("show").returncode == 0


def test_a_deaf_switch_accepts_and_does_not_apply(rack: Rack, wires: tuple[Wire, Wire]) -> None:
    rack.lab("fault", "switch", "deaf")
    rack.ovs_vsctl("--no-wait", "set", "port", "n2-nic0", "tag=200")
    assert rack.ovs_vsctl("get", "port", "n2-nic0", "tag").stdout == "200\n"
    assert _passes(wires)
    # Who waits for it to be applied finds out.
    assert rack.ovs_vsctl("--timeout=2", "set", "port", "n2-nic0", "tag=201", check=False).returncode != 0
    rack.lab("fault", "switch", "deaf", "off")
    assert rack.ovs_vsctl("get", "port", "n2-nic0", "tag").stdout == "100\n"
    assert _passes(wires)


def test_a_switch_keeps_its_configuration_over_a_restart(rack: Rack, wires: tuple[Wire, Wire]) -> None:
    rack.lab("service", "100", "10.100.0.1/24")
    rack.lab("restart-switch")
    assert rack.ovs_vsctl("get", "port", "n2-nic0", "tag").stdout == "100\n"
    wait_until("frames pass again", lambda: _passes(wires))
    assert "10.100.0.1/24" in rack.run(["ip", "-brief", "address", "show", "dev", "vlan100"]).stdout


def test_a_forgetful_switch_carries_everything_after_a_restart(rack: Rack, wires: tuple[Wire, Wire]) -> None:
    rack.put_on(200, "n2")
    _wait_for_silence(wires)
    rack.lab("fault", "switch", "forgetful")
    rack.lab("restart-switch")
    assert rack.ovs_vsctl("get", "port", "n2-nic0", "tag").stdout == "[]\n"
    wait_until("frames pass that should not", lambda: _passes(wires))
    wait_until("frames of any VLAN pass", lambda: _passes(wires, 300))


def test_a_services_address_is_heard_over_its_vlan_alone(rack: Rack) -> None:
    rack.lab("service", "101", "10.101.0.1/24")
    [card] = [line.split()[2] for line in rack.run(["ip", "-br", "link", "show", "vlan101"]).stdout.splitlines()]
    rack.shut("n1")
    wire = Wire(rack, "n1")
    try:
        assert _who_has(wire, "10.101.0.1") == set()
        rack.put_on(101, "n1")
        wait_until("the service is heard", lambda: _who_has(wire, "10.101.0.1") == {card})
    finally:
        wire.close()


def _who_has(wire: Wire, address: str) -> set[str]:
    """Return the cards that say, within a fifth of a second, that they have the address."""
    question = pack("!HHBBH6s4x6x4s", 1, 0x0800, 6, 4, 1, wire.mac, socket.inet_aton(address))
    wire.send_frame(b"\xff" * 6 + wire.mac + b"\x08\x06" + question)
    answers: set[str] = set()
    limit = time.monotonic() + 0.2
    while time.monotonic() < limit:
        frame = wire.hear()
        if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2":
            answers.add(frame[22:28].hex(":"))
    return answers
