"""Imaging on a rack, as a provider and its tenants use it: real firmware boots what the service gives it."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from steelyard.lab.namespace import inside
from tests.conformance.imaging.test_service import end_servers, servers
from tests.lab_rack.rack import Rack, wait_until
from tests.lab_rack.site import Site, site_of
from tests.lab_rack.tenant import make_ssh_key, plain_image

pytestmark = pytest.mark.rack

VLAN: Final = 40
SERVICE: Final = "10.40.0.1"
BOOT_SECONDS: Final = 400
"""Some 35 s on an idle machine."""

CONFIGURATION: Final = f"""
[imaging]
nbd_ports = "24000-24019"
iscsi_ports = "24020-24039"

[[imaging.networks]]
name = "boot"
project = "blue"
interface = "vlan{VLAN}"
address = "{SERVICE}/24"
nodes = "10.40.0.100-10.40.0.119"
"""


class Blue:
    """The tenant of both nodes, with a golden image."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.key = site, make_ssh_key(folder)

    def run(self, *command: str) -> None:
        self.site.run(command, "blue")

    def ask(self, *command: str) -> dict[str, Any]:
        return self.site.ask(*command, who="blue")

    def boot(self, node: str, protocol: str) -> None:
        """Have a node boot a volume of its own, and switch it on."""
        self.run("volume", "create", f"{node}-root", "--image", "debian", "--ephemeral")
        how = ["--volume", f"{node}-root", "--protocol", protocol, "--ssh-key", f"{self.key}.pub"]
        self.run("boot", "direct", node, "--network", "boot", "--nic", "nic0", *how)
        self.run("node", "boot-device", "network", node)
        self.run("node", "power", "on", node)

    def address(self, node: str) -> str:
        return str(self.ask("boot", "show", node)["address"])

    def wait_for_sshd(self, node: str) -> None:
        address = self.address(node)

        def answers() -> bool:
            with suppress(OSError):
                wire = self.site.rack.within(lambda: socket.create_connection((address, 22), timeout=5))
                with wire:
                    return wire.recv(4) == b"SSH-"
            return False

        wait_until(f"sshd of {node} answers", answers, BOOT_SECONDS)

    def ssh(self, node: str, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on a node, whose host key its console told: here anything is taken for it."""
        return self.ssh_at(self.address(node), command)

    def ssh_at(self, address: str, command: str) -> subprocess.CompletedProcess[str]:
        options = ["UserKnownHostsFile=/dev/null", "StrictHostKeyChecking=no", "BatchMode=yes", "LogLevel=ERROR"]
        login = ["ssh", "-i", str(self.key), *(f"-o{option}" for option in options), f"root@{address}"]
        return subprocess.run(
            inside(self.site.rack.namespace, [*login, command]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )


@pytest.fixture
def blue(rack: Rack, tmp_path: Path) -> Iterator[Blue]:
    with blue_on(rack, tmp_path) as blue:
        yield blue


@contextmanager
def blue_on(rack: Rack, folder: Path) -> Iterator[Blue]:
    """Give a site with a boot network of blue's, and both nodes on it."""
    rack.lab("service", str(VLAN), f"{SERVICE}/24")
    with site_of(rack, more=CONFIGURATION) as site:
        site.run(["network", "create", "boot", "--project", "blue", "--vlan", str(VLAN)])
        blue = Blue(site, folder)
        blue.run("node", "allocate", "all", "--project", "blue", "--node", "n1", "--node", "n2")
        for node in ("n1", "n2"):
            blue.run("node", "attach", node, "nic0", "boot")
        blue.run("image", "import", "debian", str(plain_image().file), "--format", "qcow2")
        try:
            yield blue
        finally:
            site.run(["node", "release", "n1", "n2"])
            end_servers(site.directory)


def left_over(site: Site) -> list[str]:
    """Return what is in the store and beside it besides the image."""
    imaging = site.directory / "imaging"
    places = ["store/volumes", "store/work", "shelf/work", "shelf/uploads", "shelf/fetched", "netboot/work"]
    there = [path for place in places for path in (imaging / place).iterdir()]
    there += [path for path in imaging.glob("open/*/*/*/*") if path.name != "lock"]
    return [str(path) for path in there]


def test_two_nodes_run_from_one_image_outlive_the_service_and_leave_nothing(blue: Blue) -> None:
    site = blue.site
    protocols = {"n1": "nbd", "n2": "iscsi"}
    for node, protocol in protocols.items():
        blue.boot(node, protocol)
    for node, protocol in protocols.items():
        blue.wait_for_sshd(node)
        assert blue.ssh(node, "hostname").stdout == f"{node}\n"
        root = blue.ssh(node, "cat /proc/mounts").stdout
        assert ("/dev/nbd0 / ext4" in root) == (protocol == "nbd"), root
        blue.ssh(node, f"echo {node} >/root/mine; sync")

    addresses = {node: blue.address(node) for node in protocols}
    site.kill()
    for node, address in addresses.items():
        # What serves their disks does not need the service.
        wrote = blue.ssh_at(address, "dd if=/dev/zero of=/root/more bs=1M count=4 conv=fsync && cat /root/mine")
        assert wrote.stdout == f"{node}\n"
    site.start()
    opened = {volume["name"]: volume["opening"]["state"] for volume in blue.ask("volume", "list")["items"]}
    assert opened == {"n1-root": "open", "n2-root": "open"}

    blue.run("boot", "end", "n1")
    # The node is cut off from its disk, the other is not.
    assert blue.ssh("n2", "cat /root/mine").stdout == "n2\n"
    assert [volume["name"] for volume in blue.ask("volume", "list")["items"]] == ["n2-root"]
    blue.run("node", "power", "off", "n1", "n2")
    blue.run("boot", "end", "n2")
    wait_until("nothing is left", lambda: not servers(site.directory) and not left_over(site))
    assert blue.ask("volume", "list")["items"] == []
    assert [image["name"] for image in blue.ask("image", "list")["items"]] == ["debian"]
