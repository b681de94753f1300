"""Up and down: idempotent, side by side, after crashes, and with nothing left."""

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from steelyard.lab.namespace import inside
from steelyard.lab.processes import ProcessIdentity, lives
from steelyard.lab.state import RackDirectory
from steelyard.model.errors import LabFailed, LabUnready
from steelyard.model.inventory import decode_inventory
from tests.lab_rack.rack import SIMULATED, Rack, bring_up, lab, leftovers, wait_until

pytestmark = pytest.mark.rack

NOBODY = 65534


def _processes(rack: Rack) -> tuple[ProcessIdentity, ...]:
    running = RackDirectory(rack.root).read_running()
    assert running is not None
    return running.processes


def test_the_inventory_names_everything_and_is_for_its_owner_alone(rack: Rack) -> None:
    file = rack.root / "inventory.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert decode_inventory(file.read_text()) == rack.inventory
    first, second = rack.inventory.nodes
    assert first.nics[0].port == "n1-nic0"
    assert first.bmc.address != second.bmc.address
    assert first.bmc.password != second.bmc.password
    assert first.endorsement_certificates.keys() == {"rsa2048", "secp384r1"}
    assert first.endorsement_certificates != second.endorsement_certificates


def test_no_password_is_on_a_command_line_or_in_a_log(rack: Rack) -> None:
    rack.ipmi("n1", "power", "on")
    rack.redfish("n1", lambda system: system.power_state)
    shown = subprocess.run(["ps", "-e", "-o", "args"], capture_output=True, check=True, text=True).stdout
    shown += "".join(file.read_text(errors="replace") for file in rack.root.glob("**/*.log"))
    for node in rack.inventory.nodes:
        assert node.bmc.password.reveal().decode() not in shown


def test_a_second_up_changes_nothing(rack: Rack) -> None:
    rack.ipmi("n1", "power", "on")
    before = _processes(rack)
    assert bring_up(rack.root) == rack
    assert _processes(rack) == before


def test_up_with_another_shape_is_refused_and_harms_nothing(rack: Rack) -> None:
    before = _processes(rack)
    refused = rack.lab("up", "--nodes", "3", check=False)
    assert refused.returncode == 2
    assert "a wish for another" in refused.stderr
    assert _processes(rack) == before


def test_down_leaves_nothing_and_a_rack_keeps_its_identity(place: Path) -> None:
    rack = bring_up(place, "--nodes", "1")
    rack.ipmi("n1", "power", "on")
    assert leftovers(place, rack.namespace)
    lab(place, "down")
    assert leftovers(place, rack.namespace) == []
    assert not list(place.glob("**/*.sock"))
    assert bring_up(place).inventory == rack.inventory


def test_down_twice_is_harmless(place: Path) -> None:
    rack = bring_up(place, "--nodes", "3", *SIMULATED)
    lab(place, "down")
    lab(place, "down")
    assert leftovers(place, rack.namespace) == []


def test_down_after_the_supervisor_was_killed_leaves_nothing(place: Path) -> None:
    rack = bring_up(place, "--nodes", "1")
    rack.ipmi("n1", "power", "on")
    os.kill(_processes(rack)[0].pid, signal.SIGKILL)
    lab(place, "down")
    assert leftovers(place, rack.namespace) == []


def test_no_machine_outlives_its_supervisor(place: Path) -> None:
    rack = bring_up(place, "--nodes", "1")
    rack.ipmi("n1", "power", "on")
    processes = _processes(rack)
    assert len(processes) == 5
    os.kill(processes[0].pid, signal.SIGKILL)
    wait_until("all processes of the rack end", lambda: not any(lives(process) for process in processes))


def test_up_after_a_crash_brings_the_same_rack_back(place: Path) -> None:
    rack = bring_up(place, "--nodes", "1")
    os.kill(_processes(rack)[0].pid, signal.SIGKILL)
    assert bring_up(place).inventory == rack.inventory
    assert rack.ipmi_power("n1") == "off"


def test_two_racks_stand_side_by_side(rack: Rack, place: Path) -> None:
    other = bring_up(place, "--nodes", "2", *SIMULATED)
    other.ipmi("n1", "power", "on")
    assert other.ipmi_power("n1") == "on"
    assert rack.ipmi_power("n1") == "off"
    lab(place, "down")
    assert rack.ipmi_power("n1") == "off"


def test_down_spares_a_stranger_in_the_namespace(place: Path) -> None:
    rack = bring_up(place, "--nodes", "1", *SIMULATED)
    with subprocess.Popen(inside(rack.namespace, ["sleep", "60"])) as stranger:
        lab(place, "down")
        assert stranger.poll() is None
        stranger.kill()


def test_a_taken_port_is_named_and_the_bmc_is_not_half_started(rack: Rack) -> None:
    """The namespace is the rack's own: a port can only be taken by who was let in, while its BMC did not answer."""
    address = rack.node("n1").bmc.address
    rack.lab("fault", "n1/bmc", "unreachable")
    taken = rack.within(lambda: socket.create_server((address, 443)))
    with taken:
        refused = rack.lab("fault", "n1/bmc", "unreachable", "off", check=False)
        assert refused.returncode == LabUnready.exit_code
        assert f"TCP port 443 free at {address}" in refused.stderr
        assert "unable to establish" in rack.ipmi("n1", "power", "status", check=False).stderr.lower()
    rack.lab("fault", "n1/bmc", "unreachable", "off")
    assert rack.ipmi_power("n1") == "off"


def test_the_namespace_of_a_stranger_is_not_touched(place: Path) -> None:
    name = RackDirectory(place).namespace
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        refused = lab(place, "up", "--nodes", "1", *SIMULATED, check=False)
        assert refused.returncode == LabUnready.exit_code
        assert f"ip netns del {name}" in refused.stderr
        lab(place, "down")
        assert leftovers(place, name) == [f"namespace {name}"]
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def test_a_directory_with_something_else_in_it_is_refused(place: Path) -> None:
    place.mkdir(mode=0o700)
    (place / "thesis.tex").touch()
    refused = lab(place, "up", check=False)
    assert refused.returncode == 2
    assert "thesis.tex" in refused.stderr


def test_a_rack_that_does_not_run_says_so(place: Path) -> None:
    place.mkdir(mode=0o700)
    refused = lab(place, "status", check=False)
    assert refused.returncode == LabFailed.exit_code
    assert "a rack that runs" in refused.stderr


# -- a computer that cannot hold a rack --------------------------------------------------------------------------------


def _refused(place: Path, words: str, *command: str | Path, path: str = os.environ["PATH"]) -> None:
    """Check that `lab up`, run with `command` before it, says `words` and begins nothing."""
    steelyard = Path(sys.executable).with_name("steelyard")
    done = subprocess.run(
        [*command, steelyard, "lab", "up", "--dir", place, "--nodes", "2"],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == LabUnready.exit_code
    assert words in " ".join(done.stderr.split())
    assert leftovers(place, RackDirectory(place).namespace) == []
    assert [file.name for file in place.iterdir()] == ["lock"]


def test_missing_packages_are_named_and_nothing_is_begun(place: Path) -> None:
    _refused(place, "install the packages iproute2 mtools openvswitch-switch", path="/nowhere")


def test_a_missing_tun_device_is_named_and_nothing_is_begun(place: Path) -> None:
    hide = 'mount -t tmpfs none /dev/net && exec "$@"'
    _refused(place, "/dev/net/tun is of no use", "unshare", "--mount", "sh", "-c", hide, "sh")


def test_short_memory_is_named_and_nothing_is_begun(place: Path, tmp_path: Path) -> None:
    little = tmp_path / "meminfo"
    little.write_text("MemTotal: 1048576 kB\nMemAvailable: 524288 kB\n")
    pretend = f'mount --bind {little} /proc/meminfo && exec "$@"'
    _refused(place, "512 are free", "unshare", "--mount", "sh", "-c", pretend, "sh")


def test_without_root_that_is_said_and_nothing_is_begun(place: Path) -> None:
    place.mkdir(mode=0o700)
    if subprocess.run(["unshare", "--user", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs user namespaces, which the kernel does not give to a chroot")
    alone = 'exec "$@"'
    # A user namespace in which one is nobody, with one's own files.
    _refused(place, "run it as root", "unshare", "--user", f"--map-user={NOBODY}", "sh", "-c", alone, "sh")
