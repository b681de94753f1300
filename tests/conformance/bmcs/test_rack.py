"""The drivers on racks: what firmware makes of a boot device and says on a serial line, and nodes by the dozen."""

import time
from collections.abc import Callable, Iterator

import pytest

from steelyard.isolation.bmcs import ipmi, redfish
from steelyard.isolation.ports import Access, Bmc, BmcDriver, BootDevice, Console, Power
from steelyard.lab.build import build_boot_disk
from steelyard.model.secret import Secret
from tests.lab_rack.rack import SIMULATED, Rack, bring_up, room_for_a_rack
from tests.lab_rack.test_bmc import BOOT_LOADER, FROM_DISK, FROM_NETWORK
from tests.machine import find_packaged
from tests.namespaces import threads_within

pytestmark = pytest.mark.rack


def ipmi_access(rack: Rack, name: str) -> Access:
    bmc = rack.node(name).bmc
    credentials = {"username": Secret(bmc.username.encode()), "password": bmc.password}
    return Access({"host": bmc.address, "port": str(bmc.ipmi_port)}, credentials)


def redfish_access(rack: Rack, name: str) -> Access:
    bmc = rack.node(name).bmc
    address = {"url": bmc.redfish_url, "ca": bmc.ca_certificate, "sol_host": bmc.address}
    return Access(address, ipmi_access(rack, name).credentials)


AccessOf = Callable[[Rack, str], Access]
both_drivers = pytest.mark.parametrize(
    ("driver", "access"), [(ipmi.connect, ipmi_access), (redfish.connect, redfish_access)], ids=["ipmi", "redfish"]
)


@pytest.fixture(scope="module")
def machine() -> Iterator[Rack]:
    """A rack of one real machine, with a disk that something can be booted from."""
    with room_for_a_rack() as root:
        rack = bring_up(root, "--nodes", "1")
        build_boot_disk(root / "nodes" / "n1" / "disk.img", find_packaged(*BOOT_LOADER))
        yield rack


@pytest.fixture(scope="module")
def dozen() -> Iterator[Rack]:
    """A rack of a dozen simulated nodes."""
    with room_for_a_rack() as root:
        yield bring_up(root, "--nodes", "12", *SIMULATED)


def read_until(console: Console, *words: bytes) -> bytes:
    """Return the one of `words` that the console says first."""
    said = b""
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        said += console.read(1)
        if found := [word for word in words if word in said]:
            return min(found, key=said.index)
    pytest.fail(f"the console said {said[-2000:]!r}")


@both_drivers
def test_firmware_boots_from_the_device_set_and_its_words_come_by_the_console(
    machine: Rack, driver: BmcDriver, access: AccessOf
) -> None:
    def boot() -> None:
        bmc = driver(access(machine, "n1"))
        console = bmc.open_console()
        try:
            for device, once, words in (
                (BootDevice.DISK, True, FROM_DISK),
                (BootDevice.NETWORK, False, FROM_NETWORK),
            ):
                bmc.set_boot_device(device, once=once)
                bmc.set_power(Power.ON)
                assert bmc.read_power() is Power.ON
                assert machine.true_power("n1") == "on"
                assert read_until(console, FROM_DISK.encode(), FROM_NETWORK.encode()).decode() == words
                bmc.set_power(Power.OFF)
                assert machine.true_power("n1") == "off"
            bmc.set_boot_device(BootDevice.DEFAULT, once=False)
        finally:
            console.close()
            bmc.close()

    machine.within(boot)


@both_drivers
def test_keys_reach_the_firmware(machine: Rack, driver: BmcDriver, access: AccessOf) -> None:
    def choose() -> None:
        bmc = driver(access(machine, "n1"))
        bmc.set_boot_device(BootDevice.DISK, once=True)
        console = bmc.open_console()
        try:
            bmc.set_power(Power.ON)
            read_until(console, b"Reboot Into Firmware")
            # The boot loader's only choice leads to firmware's own menu.
            console.write(b"\r")
            read_until(console, b"Standard PC")
        finally:
            console.close()
            bmc.set_power(Power.OFF)
            bmc.close()

    machine.within(choose)


@both_drivers
def test_a_dozen_nodes_are_switched_at_the_same_time(dozen: Rack, driver: BmcDriver, access: AccessOf) -> None:
    names = [node.name for node in dozen.inventory.nodes]

    def connect_and_cycle(name: str) -> list[Power]:
        bmc: Bmc = driver(access(dozen, name))
        seen = []
        for power in (Power.ON, Power.OFF):
            bmc.set_power(power)
            seen.append(bmc.read_power())
        bmc.close()
        return seen

    with threads_within(dozen.namespace, 6) as threads:
        assert list(threads.map(connect_and_cycle, names)) == [[Power.ON, Power.OFF]] * 12


@both_drivers
def test_an_unreachable_bmc_delays_nobody_else_and_comes_back(dozen: Rack, driver: BmcDriver, access: AccessOf) -> None:
    def read(name: str) -> Power:
        bmc = driver(access(dozen, name))
        try:
            return bmc.read_power()
        finally:
            bmc.close()

    dozen.lab("fault", "n1/bmc", "unreachable")
    with threads_within(dozen.namespace, 2) as threads:
        lost = threads.submit(read, "n1")
        assert threads.submit(read, "n2").result() is Power.OFF
        assert lost.exception() is not None
        dozen.lab("fault", "n1/bmc", "unreachable", "off")
        assert threads.submit(read, "n1").result() is Power.OFF
