"""The BMCs as clients of the field see them: power, boot device, console, refusals, and faults."""

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sushy
from sushy.exceptions import AccessError, HTTPError, SushyError

from steelyard.cli.lab import LEAVE_KEY
from steelyard.lab.build import build_boot_disk
from steelyard.lab.control import ask
from steelyard.lab.namespace import inside
from steelyard.model.errors import WrongUse
from tests.lab_rack.rack import SIMULATED, Rack, bring_up, wait_until
from tests.machine import find_packaged

pytestmark = pytest.mark.rack

BOOT_LOADER = ("systemd-boot-efi", "usr/lib/systemd/boot/efi/systemd-bootx64.efi")
"""Something to boot from a disk, that shows a menu."""
FROM_NETWORK = ">>Start HTTP Boot"
FROM_DISK = "BdsDxe: starting Boot"
ENTER = b"\r"


def _boots(rack: Rack, name: str, since: int) -> str:
    """Return what the machine booted from, first: "network" or "disk"."""
    wait_until(
        "the machine boots from something",
        lambda: any(words in rack.console_since(name, since) for words in (FROM_NETWORK, FROM_DISK)),
        seconds=120,
    )
    said = rack.console_since(name, since)
    places = {said.find(words): what for words, what in ((FROM_NETWORK, "network"), (FROM_DISK, "disk"))}
    return places[min(place for place in places if place >= 0)]


@pytest.fixture
def bootable(rack: Rack) -> Rack:
    """The rack, n1 with a disk that something can be booted from."""
    build_boot_disk(rack.root / "nodes" / "n1" / "disk.img", find_packaged(*BOOT_LOADER))
    return rack


def test_ipmi_switches_a_real_machine_on_and_off(rack: Rack) -> None:
    assert (rack.ipmi_power("n1"), rack.true_power("n1")) == ("off", "off")
    rack.ipmi("n1", "power", "on")
    assert (rack.ipmi_power("n1"), rack.true_power("n1")) == ("on", "on")
    rack.ipmi("n1", "power", "on")
    rack.ipmi("n1", "power", "off")
    assert (rack.ipmi_power("n1"), rack.true_power("n1")) == ("off", "off")
    assert rack.true_power("n2") == "off"


def test_redfish_switches_a_real_machine_on_and_off(rack: Rack) -> None:
    rack.redfish("n1", lambda system: system.reset_system(sushy.ResetType.ON))
    assert rack.redfish("n1", lambda system: system.power_state) is sushy.PowerState.ON
    assert rack.true_power("n1") == "on"
    assert rack.ipmi_power("n1") == "on"
    rack.redfish("n1", lambda system: system.reset_system(sushy.ResetType.FORCE_OFF))
    assert rack.true_power("n1") == "off"


@pytest.mark.parametrize("suite", ["3", "17"])
def test_both_cipher_suites_open_a_session(rack: Rack, suite: str) -> None:
    assert rack.ipmi("n1", "-C", suite, "power", "status").stdout == "Chassis Power is off\n"


def test_the_rack_itself_has_no_word_for_power(rack: Rack) -> None:
    with pytest.raises(WrongUse, match="expected one of status, fault, restart, leg;"):
        ask(rack.root / "control.sock", "power", target="n1")


def test_a_wrong_password_is_refused(rack: Rack) -> None:
    assert rack.ipmi("n1", "power", "on", password="wrong", check=False).returncode != 0  # noqa: S106
    with pytest.raises(AccessError):
        rack.redfish("n1", lambda system: system.reset_system(sushy.ResetType.ON), password="wrong")  # noqa: S106
    assert rack.true_power("n1") == "off"


def test_another_nodes_password_is_refused(rack: Rack) -> None:
    other = rack.node("n2").bmc.password.reveal().decode()
    assert rack.ipmi("n1", "power", "on", password=other, check=False).returncode != 0
    assert rack.true_power("n1") == "off"


def test_a_session_without_the_privilege_may_look_and_not_touch(rack: Rack) -> None:
    assert "is off" in rack.ipmi("n1", "-L", "USER", "power", "status").stdout
    refused = rack.ipmi("n1", "-L", "USER", "power", "on", check=False)
    assert "Insufficient privilege" in refused.stderr
    assert rack.true_power("n1") == "off"


def test_a_machine_that_is_off_cannot_be_cycled(rack: Rack) -> None:
    assert "not supported in present state" in rack.ipmi("n1", "power", "cycle", check=False).stderr
    with pytest.raises(HTTPError, match="The system is off"):
        rack.redfish("n1", lambda system: system.reset_system(sushy.ResetType.FORCE_RESTART))
    assert rack.true_power("n1") == "off"


def test_redfish_names_the_nodes_cards(rack: Rack) -> None:
    def macs(system: sushy.resources.system.system.System) -> list[str]:
        return [nic.mac_address for nic in system.ethernet_interfaces.get_members()]

    assert rack.redfish("n1", macs) == [nic.mac for nic in rack.node("n1").nics]


def test_firmware_boots_from_the_network_unless_told_otherwise(bootable: Rack) -> None:
    begin = len(bootable.console("n1"))
    bootable.ipmi("n1", "power", "on")
    assert _boots(bootable, "n1", begin) == "network"


def test_a_boot_device_for_once_holds_for_one_start(bootable: Rack) -> None:
    bootable.ipmi("n1", "chassis", "bootdev", "disk", "options=efiboot")
    begin = len(bootable.console("n1"))
    bootable.ipmi("n1", "power", "on")
    assert _boots(bootable, "n1", begin) == "disk"
    assert "Boot Flag Invalid" in bootable.ipmi("n1", "chassis", "bootparam", "get", "5").stdout
    begin = len(bootable.console("n1"))
    bootable.ipmi("n1", "power", "cycle")
    assert _boots(bootable, "n1", begin) == "network"


def test_a_persistent_boot_device_set_by_redfish_holds_on(bootable: Rack) -> None:
    def boot_from_disk(system: sushy.resources.system.system.System) -> None:
        system.set_system_boot_options(
            sushy.BootSource.HDD,
            enabled=sushy.BootSourceOverrideEnabled.CONTINUOUS,
            mode=sushy.BootSourceOverrideMode.UEFI,
        )
        system.reset_system(sushy.ResetType.ON)

    begin = len(bootable.console("n1"))
    bootable.redfish("n1", boot_from_disk)
    assert _boots(bootable, "n1", begin) == "disk"
    assert "all future boots" in bootable.ipmi("n1", "chassis", "bootparam", "get", "5").stdout
    begin = len(bootable.console("n1"))
    bootable.ipmi("n1", "power", "reset")
    assert _boots(bootable, "n1", begin) == "disk"


def test_serial_over_lan_and_the_labs_console_share_the_line(bootable: Rack) -> None:
    bmc = bootable.node("n1").bmc
    ours, theirs = pty.openpty()
    bootable.ipmi("n1", "chassis", "bootdev", "disk", "options=efiboot")
    with subprocess.Popen(
        inside(
            bootable.namespace,
            ["ipmitool", "-I", "lanplus", "-H", bmc.address, "-U", bmc.username, "-E", "sol", "activate"],
        ),
        env={**os.environ, "IPMI_PASSWORD": bmc.password.reveal().decode()},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as client:
        os.close(theirs)
        try:
            seen = _read_until(ours, b"SOL Session operational")
            with bootable.open_console("n1") as listener:
                listener.settimeout(60)
                bootable.ipmi("n1", "power", "on")
                seen = _read_until(ours, b"Reboot Into Firmware")
                assert FROM_DISK.encode() in seen
                heard = b""
                while b"Reboot Into Firmware" not in heard:
                    heard += listener.recv(4096)
                begin = len(bootable.console("n1"))
                # What is typed over the LAN reaches the machine: the menu's only choice leads to firmware's own.
                os.write(ours, ENTER)
                wait_until("firmware's menu", lambda: "UiApp" in bootable.console_since("n1", begin))
            second = bootable.ipmi("n1", "sol", "activate", check=False)
            assert "already active" in second.stdout + second.stderr
        finally:
            client.terminate()
            os.close(ours)


def test_the_labs_console_shows_what_the_machine_says(rack: Rack) -> None:
    steelyard = Path(sys.executable).with_name("steelyard")
    with subprocess.Popen(
        [steelyard, "lab", "console", "n1", "--dir", rack.root], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        rack.ipmi("n1", "power", "on")
        seen = b""
        while FROM_NETWORK.encode() not in seen:
            seen += os.read(client.stdout.fileno(), 4096)
        client.stdin.write(LEAVE_KEY)
        client.stdin.flush()
        assert client.wait(30) == 0


def _read_until(terminal: int, words: bytes, seconds: float = 120) -> bytes:
    os.set_blocking(terminal, False)
    seen = b""

    def read() -> bool:
        nonlocal seen
        try:
            seen += os.read(terminal, 4096)
        except BlockingIOError:
            return False
        return words in seen

    wait_until(f"{words!r} on the terminal", read, seconds)
    return seen


# -- faults ------------------------------------------------------------------------------------------------------------


def test_an_unreachable_bmc_answers_nobody(rack: Rack) -> None:
    rack.lab("fault", "n1/bmc", "unreachable")
    assert rack.ipmi("n1", "-N", "1", "-R", "1", "power", "status", check=False).returncode != 0
    with pytest.raises(SushyError):
        rack.redfish("n1", lambda system: system.power_state)
    assert rack.ipmi_power("n2") == "off"
    rack.lab("fault", "n1/bmc", "unreachable", "off")
    assert rack.ipmi_power("n1") == "off"


def test_a_deaf_bmc_says_yes_and_does_nothing(rack: Rack) -> None:
    rack.lab("fault", "n1/bmc", "deaf")
    assert "Up/On" in rack.ipmi("n1", "power", "on").stdout
    rack.redfish("n1", lambda system: system.reset_system(sushy.ResetType.ON))
    rack.ipmi("n1", "chassis", "bootdev", "disk")
    assert rack.true_power("n1") == "off"
    assert rack.ipmi_power("n1") == "off"
    assert "Boot Flag Invalid" in rack.ipmi("n1", "chassis", "bootparam", "get", "5").stdout


def test_a_lying_bmc_acts_and_says_the_contrary(rack: Rack) -> None:
    rack.lab("fault", "n1/bmc", "lying")
    assert rack.ipmi_power("n1") == "on"
    rack.ipmi("n1", "power", "on")
    assert rack.true_power("n1") == "on"
    assert rack.ipmi_power("n1") == "off"
    assert rack.redfish("n1", lambda system: system.power_state) is sushy.PowerState.OFF


def test_a_slow_bmc_answers_in_the_end(rack: Rack) -> None:
    rack.lab("fault", "n1/bmc", "slow")
    begin = time.monotonic()
    assert rack.redfish("n1", lambda system: system.power_state) is sushy.PowerState.OFF
    assert time.monotonic() - begin > 5


def test_a_fault_that_there_is_not_is_refused_with_those_that_there_are(rack: Rack) -> None:
    refused = rack.lab("fault", "n1/bmc", "haunted", check=False)
    assert refused.returncode == 2
    assert "unreachable, deaf, lying, slow" in refused.stderr


# -- by the thousand ---------------------------------------------------------------------------------------------------


def test_a_thousand_bmcs_and_their_ports_answer_from_one_process(place: Path) -> None:
    rack = bring_up(place, "--nodes", "1000", *SIMULATED)
    names = [f"n{number}" for number in (1, 500, 1000)]
    for name in names:
        rack.ipmi(name, "power", "on")
        rack.put_on(100, name)
    assert [rack.redfish(name, lambda system: system.power_state) for name in names] == [sushy.PowerState.ON] * 3
    assert rack.ipmi_power("n2") == "off"
    ports = rack.ovs_vsctl("list-ports", rack.inventory.switch.bridge).stdout.split()
    assert len(ports) == 1001
    assert rack.ovs_vsctl("get", "port", "n1000-nic0", "tag").stdout == "100\n"
    assert rack.ovs_vsctl("get", "port", "n999-nic0", "trunks").stdout == "[4095]\n"
