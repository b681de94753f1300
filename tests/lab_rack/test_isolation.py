"""Isolation on a rack, as a provider and its tenants use it: who reaches whom by frames, what becomes of every fault.

The nodes are off while their cables are used by the tests; what power is, the kernel's list of processes tells.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from tests.databases import Cluster
from tests.lab_rack.rack import Rack, Wire, wait_until, who_hears
from tests.lab_rack.site import Site, site_of

pytestmark = pytest.mark.rack

N1, N2 = ("n1", "nic0"), ("n2", "nic0")


@pytest.fixture
def site(rack: Rack) -> Iterator[Site]:
    with site_of(rack) as site:
        yield site


@contextmanager
def cables(rack: Rack) -> Iterator[tuple[Wire, Wire]]:
    """Give the ends of both nodes' cables."""
    with ExitStack() as ending:
        wires = Wire(rack, "n1"), Wire(rack, "n2")
        for wire in wires:
            ending.callback(wire.close)
        yield wires


def reach(wires: tuple[Wire, Wire]) -> bool:
    """Tell whether each hears the other."""
    return who_hears(wires[0], wires[1:]) == {0} and who_hears(wires[1], wires[:1]) == {0}


def silent(wires: tuple[Wire, Wire]) -> bool:
    """Tell whether neither hears the other, with any tag that is used here."""
    return not any(
        who_hears(wires[0], wires[1:], tag) | who_hears(wires[1], wires[:1], tag) for tag in (None, 1, 100, 101, 4095)
    )


def take(site: Site, project: str, *nodes: str) -> None:
    """Allocate these nodes."""
    named = [word for node in nodes for word in ("--node", node)]
    site.ask("node", "allocate", f"for-{project}-{'-'.join(nodes)}", "--project", project, *named, who=project)


def both_on_lab(site: Site) -> None:
    """Give both nodes to blue, on its network `lab`."""
    take(site, "blue", "n1", "n2")
    site.ask("network", "create", "lab", "--project", "blue", who="blue")
    for node in (N1, N2):
        site.ask("node", "attach", *node, "lab", who="blue")


def trouble_of_the_switch(site: Site) -> str | None:
    """Return what the service says is wrong with the one switch."""
    [switch] = site.ask("switch", "list")["items"]
    trouble: str | None = switch["trouble"]
    return trouble


def _is_done(site: Site, operation: str) -> bool:
    return bool(site.operation(operation)["state"] == "done")


def free_and_clean(site: Site, node: str) -> bool:
    """Tell whether a node is free, truly off, and its port carries nothing."""
    shown = site.node(node)
    port = site.rack.node(node).nics[0].port
    columns = site.rack.ovs_vsctl("get", "port", port, "vlan_mode", "trunks", "tag", "protected").stdout.split()
    return (
        shown["state"] == "free"
        and shown["project"] is None
        and site.rack.true_power(node) == "off"
        and columns == ["trunk", "[4095]", "[]", "true"]
    )


def test_nodes_reach_each_other_only_where_their_projects_put_them_on_one_network(site: Site) -> None:
    with cables(site.rack) as wires:
        assert silent(wires)
        both_on_lab(site)
        assert reach(wires)
        # Moved to a network of its own, one hears the other no more.
        site.ask("network", "create", "apart", "--project", "blue", who="blue")
        site.ask("node", "detach", *N2, "lab", who="blue")
        assert silent(wires)
        site.ask("node", "attach", *N2, "apart", who="blue")
        assert silent(wires)
        site.ask("node", "detach", *N2, "apart", who="blue")
        site.ask("node", "attach", *N2, "lab", who="blue")
        assert reach(wires)


def test_two_tenants_meet_only_where_one_shares_its_network(site: Site) -> None:
    take(site, "blue", "n1")
    take(site, "green", "n2")
    site.ask("network", "create", "lab", "--project", "blue", who="blue")
    site.ask("node", "attach", *N1, "lab", who="blue")
    refused = site.run(["node", "attach", *N2, "lab", "--json"], "green", check=False)
    assert refused.exit_code == 7
    assert "not-found" in refused.stderr  # for green there is no such network
    with cables(site.rack) as wires:
        assert silent(wires)
        site.ask("network", "share", "lab", "green", who="blue")
        site.ask("node", "attach", *N2, "lab", who="green")
        assert reach(wires)
        # It cannot be taken away under a node that is on it.
        assert site.run(["network", "unshare", "lab", "green"], "blue", check=False).exit_code == 7
        assert reach(wires)


def test_in_an_airlock_nodes_reach_the_services_and_not_each_other(site: Site) -> None:
    site.ask("network", "create", "airlock", "--vlan", "100", "--public", "--isolated")
    take(site, "blue", "n1")
    take(site, "green", "n2")
    site.ask("node", "attach", *N1, "airlock", who="blue")
    site.ask("node", "attach", *N2, "airlock", who="green")
    site.rack.lab("service", "100", "10.100.0.1/24")
    with cables(site.rack) as wires:
        assert silent(wires)
        for wire in wires:
            question = bytes.fromhex("0001080006040001") + wire.mac + bytes([10, 100, 0, 2, *bytes(6), 10, 100, 0, 1])
            frame = b"\xff" * 6 + wire.mac + b"\x08\x06" + question

            def answered(wire: Wire = wire, frame: bytes = frame) -> bool:
                wire.send_frame(frame)
                return any(bytes.fromhex("08060001080006040002") in wire.hear() for _ in range(20))

            wait_until("the service on the airlock answers", answered)


def test_a_quarantined_node_is_cut_off_when_the_command_returns(site: Site) -> None:
    both_on_lab(site)
    with cables(site.rack) as wires:
        assert reach(wires)
        site.ask("node", "quarantine", "n2", "--why", "it failed its weighing", who="blue")
        assert silent(wires)
        for command in (["node", "attach", *N2, "lab"], ["node", "power", "on", "n2"]):
            assert site.run(command, "blue", check=False).exit_code == 7
    site.ask("node", "release", "n2", who="blue")
    assert free_and_clean(site, "n2")


def test_a_released_node_is_off_and_on_no_network(site: Site) -> None:
    both_on_lab(site)
    site.ask("node", "power", "on", "n1", "n2", who="blue")
    assert site.rack.true_power("n1") == "on"
    site.ask("node", "release", "n1", "n2", who="blue")
    assert free_and_clean(site, "n1")
    assert free_and_clean(site, "n2")
    with cables(site.rack) as wires:
        assert silent(wires)
    site.run(["network", "delete", "lab"], "blue")


def test_a_console_is_read_by_several_and_gone_with_the_release(site: Site) -> None:
    take(site, "blue", "n1")
    site.run(["node", "console", "n1", "--record"], "blue")
    site.ask("node", "boot-device", "disk", "n1", "--once", who="blue")
    site.ask("node", "power", "on", "n1", who="blue")

    def said() -> str:
        return site.run(["node", "console", "n1", "--dump"], "blue").stdout

    wait_until("firmware is heard", lambda: "BdsDxe" in said(), seconds=60)
    assert "BdsDxe" in site.run(["node", "console", "n1", "--dump"]).stdout
    assert site.run(["node", "console", "n1", "--dump"], "green", check=False).exit_code == 7
    site.ask("node", "release", "n1", who="blue")
    take(site, "green", "n1")
    site.run(["node", "console", "n1", "--record"], "green")
    assert site.run(["node", "console", "n1", "--dump"], "green").stdout == ""


def test_a_switch_that_forgot_everything_is_repaired(site: Site) -> None:
    both_on_lab(site)
    site.ask("node", "detach", *N2, "lab", who="blue")
    with cables(site.rack) as wires:
        site.rack.lab("fault", "switch", "forgetful")
        site.rack.lab("restart-switch")
        # Every port now carries every VLAN: the service has to see that by itself.
        wait_until("the cut is there again", lambda: silent(wires), seconds=20)
        site.rack.lab("fault", "switch", "forgetful", "off")
        site.ask("node", "attach", *N2, "lab", who="blue")
        assert reach(wires)
    entries = site.ask("audit", "list")["items"]
    assert any(entry["entry"] and entry["entry"]["verb"] == "port.drift" for entry in entries)


def test_a_port_that_somebody_changed_by_hand_is_put_right(site: Site) -> None:
    both_on_lab(site)
    site.ask("node", "quarantine", "n2", "--why", "a test", who="blue")
    vlan = site.ask("network", "show", "lab")["vlan"]
    with cables(site.rack) as wires:
        site.rack.put_on(vlan, "n2")
        wait_until("it is cut again", lambda: silent(wires), seconds=10)


@pytest.mark.parametrize("fault", ["unreachable", "deaf"])
def test_a_switch_that_fails_holds_a_change_up_and_loses_nothing(site: Site, fault: str) -> None:
    take(site, "blue", "n1", "n2")
    site.ask("network", "create", "lab", "--project", "blue", who="blue")
    site.ask("node", "attach", *N1, "lab", who="blue")
    with cables(site.rack) as wires:
        site.rack.lab("fault", "switch", fault)
        operation = site.begin("node", "attach", *N2, "lab", "--seconds", "300", who="blue")
        wait_until("the switch is in trouble", lambda: bool(trouble_of_the_switch(site)), seconds=60)
        assert site.operation(operation)["state"] in ("pending", "running")
        assert silent(wires)
        site.rack.lab("fault", "switch", fault, "off")
        if fault == "deaf":
            site.rack.lab("restart-switch")
        wait_until("the change is applied", lambda: site.operation(operation)["state"] == "done", seconds=60)
        assert reach(wires)
    wait_until("the trouble is over", lambda: not trouble_of_the_switch(site))


def test_an_operation_on_a_dead_switch_ends_and_what_is_wanted_comes_true_later(site: Site) -> None:
    take(site, "blue", "n1")
    site.ask("network", "create", "lab", "--project", "blue", who="blue")
    site.rack.lab("fault", "switch", "unreachable")
    operation = site.begin("node", "attach", *N1, "lab", "--seconds", "3", who="blue")
    wait_until("it ends", lambda: site.operation(operation)["state"] == "failed", seconds=30)
    site.rack.lab("fault", "switch", "unreachable", "off")
    wait_until(
        "it is attached all the same",
        lambda: bool(site.ask("node", "attachments", "n1")["items"][0]["applied_at"]),
        seconds=60,
    )


@pytest.mark.parametrize("fault", ["unreachable", "deaf", "lying", "slow"])
def test_a_node_is_not_free_before_a_bmc_that_fails_has_shown_it_off(site: Site, fault: str) -> None:
    take(site, "blue", "n1")
    site.ask("node", "power", "on", "n1", who="blue")
    site.rack.lab("fault", "n1/bmc", fault)
    operation = site.begin("node", "release", "n1", "--seconds", "300", who="blue")
    limit = time.monotonic() + 8
    while time.monotonic() < limit:
        # Whatever the BMC says meanwhile: a node that is called free is off.
        if site.node("n1")["state"] == "free":
            assert site.rack.true_power("n1") == "off"
            break
    if fault != "slow":  # which comes to an end by itself, late
        assert site.node("n1")["state"] == "releasing"
        assert site.node("n1")["project"] == "blue"
        assert site.node("n1")["why"]
    site.rack.lab("fault", "n1/bmc", fault, "off")
    wait_until("it is released", lambda: site.operation(operation)["state"] == "done", seconds=90)
    assert free_and_clean(site, "n1")


def test_a_free_node_that_was_switched_on_behind_our_back_is_switched_off(site: Site) -> None:
    site.rack.ipmi("n1", "power", "on")
    wait_until("it was noticed", lambda: site.rack.true_power("n1") == "off", seconds=60)
    wait_until("it is free again", lambda: free_and_clean(site, "n1"), seconds=60)


def test_a_service_that_is_killed_goes_on_where_it_was(site: Site) -> None:
    both_on_lab(site)
    site.ask("node", "power", "on", "n1", who="blue")
    site.rack.lab("fault", "switch", "unreachable")
    detach = site.begin("node", "detach", *N2, "lab", "--seconds", "300", who="blue")
    release = site.begin("node", "release", "n1", "--seconds", "300", who="blue")
    site.kill()
    site.rack.lab("fault", "switch", "unreachable", "off")
    site.start()
    for operation in (detach, release):
        wait_until("it ends well", partial(_is_done, site, operation), seconds=120)
    assert free_and_clean(site, "n1")
    assert site.ask("node", "attachments", "n2")["items"] == []
    site.run(["audit", "check"])


def test_of_two_services_on_one_database_one_goes_on_when_the_other_is_killed(rack: Rack, postgresql: Cluster) -> None:
    """The one that is killed has the switch and is in the middle of a release."""
    postgresql.execute("CREATE DATABASE two_services")
    try:
        with site_of(rack, postgresql.url("two_services")) as first, first.beside() as second:
            both_on_lab(first)
            second.ask("node", "power", "on", "n1", who="blue")
            rack.lab("fault", "n1/bmc", "deaf")
            release = first.begin("node", "release", "n1", "--seconds", "300", who="blue")
            first.kill()
            rack.lab("fault", "n1/bmc", "deaf", "off")
            wait_until("the other has released it", partial(_is_done, second, release), seconds=200)
            assert free_and_clean(second, "n1")
            second.ask("node", "quarantine", "n2", "--why", "a test", "--seconds", "200", who="blue")
            with cables(rack) as wires:
                assert silent(wires)
            second.run(["audit", "check"])
    finally:
        postgresql.execute("DROP DATABASE two_services WITH (FORCE)")
