"""The tenant's image on real firmware: its root disk is on the network, and it is nobody's until it is told."""

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from steelyard.imaging.catalogue import root_document
from steelyard.imaging.contents import DirectBoot as Found
from steelyard.imaging.contents import find_boot
from steelyard.imaging.exports.iscsi import iscsi_export
from steelyard.imaging.exports.nbd import nbd_export
from steelyard.imaging.netboot.plan import DirectBoot
from steelyard.imaging.ports import UNWATCHED, Access, ImageFormat
from steelyard.imaging.stores.directory import DirectoryStore
from steelyard.lab.namespace import inside
from steelyard.model.secret import Secret
from tests.lab_rack.rack import Rack, wait_until
from tests.lab_rack.tenant import LUKS_KEY, SIZE, make_ssh_key, plain_image, sealed_image
from tests.lab_rack.test_netboot import ADDRESS, NODE_ADDRESS, Foot, foot

pytestmark = pytest.mark.rack

BOOT_SECONDS: Final = 400
"""Some 35 s on an idle machine."""
WIREGUARD_KEY: Final = Secret(b"a key that only the tenant's system has\n")
EXPORTS: Final = {"nbd": nbd_export, "iscsi": iscsi_export}


@dataclass(frozen=True)
class Tenant:
    """A tenant's images, and the key that opens what was booted of them."""

    folder: Path
    ssh_key: Path

    def seed(self) -> dict[str, Secret]:
        public = self.ssh_key.with_name("ssh.key.pub").read_text().strip()
        return {
            "meta-data": Secret(b"instance-id: i-1\nlocal-hostname: blue-1\n"),
            "user-data": Secret(f"#cloud-config\nssh_authorized_keys:\n  - {public}\n".encode()),
            "wireguard.key": WIREGUARD_KEY,
        }


@pytest.fixture(scope="session")
def tenant(tmp_path_factory: pytest.TempPathFactory) -> Tenant:
    folder = tmp_path_factory.mktemp("tenant")
    return Tenant(folder, make_ssh_key(folder))


@dataclass(frozen=True)
class Machine:
    """A node with the image's clone as its root disk."""

    boot: Foot
    tenant: Tenant
    volume: Path

    def start(self, kernel: Path, initramfs: Path, line: str, handover: dict[str, Secret]) -> int:
        self.boot.serve(DirectBoot(kernel, initramfs, line, handover))
        return self.boot.start()

    def said(self, begin: int) -> str:
        return self.boot.rack.console_since("n1", begin)

    def wait_for_sshd(self, begin: int) -> None:
        def answers() -> bool:
            assert "steelyard: failed" not in (said := self.said(begin)).replace(" 0", ""), said[-2000:]
            with suppress(OSError), self.boot.rack.within(self._connect) as connection:
                return connection.recv(4) == b"SSH-"
            return False

        wait_until("sshd answers", answers, BOOT_SECONDS)

    @staticmethod
    def _connect() -> socket.socket:
        return socket.create_connection((str(NODE_ADDRESS), 22), timeout=5)

    def ssh(self, command: str, known_hosts: Path) -> str:
        """Return what a command prints on the node, whose host key is the one in `known_hosts`."""
        options = ["-o", f"UserKnownHostsFile={known_hosts}", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"]
        login = ["ssh", "-i", str(self.tenant.ssh_key), *options, f"root@{NODE_ADDRESS}", command]
        done = subprocess.run(inside(self.boot.rack.namespace, login), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def known_hosts(self, begin: int) -> Path:
        """Return a file with the node's host key, once it is the one that its console told."""
        told = re.search(r"steelyard: blue-1 has the host key 256 (SHA256:\S+)", self.said(begin))
        assert told is not None
        scan = self.boot.rack.run(["ssh-keyscan", "-T", "60", "-t", "ed25519", str(NODE_ADDRESS)])
        known = self.tenant.folder / "known_hosts"
        known.write_text(scan.stdout)
        shown = subprocess.run(["ssh-keygen", "-l", "-f", known], capture_output=True, text=True, check=True).stdout
        assert told[1] in shown
        return known

    def power_off(self, known_hosts: Path) -> None:
        self.ssh("systemctl --no-block poweroff", known_hosts)
        wait_until("the node switches itself off", lambda: self.boot.rack.ipmi_power("n1") == "off", 120)


@contextmanager
def machine(rack: Rack, tenant: Tenant, folder: Path, protocol: str, image: Path) -> Iterator[tuple[Machine, Access]]:
    """Give a node, and how it opens a clone of the image; in the end the clone is whole."""
    store = DirectoryStore(folder / "store")
    form = ImageFormat(image.suffix.removeprefix("."))
    store.import_image("debian", image, form, None, 2 * SIZE, UNWATCHED)
    store.clone("debian", "root")
    with TemporaryDirectory(prefix="export-") as place, foot(rack, "n1", folder) as boot:
        export = EXPORTS[protocol](Path(place).resolve(), ip_address(ADDRESS), range(10809, 10810))
        disk = store.volume_disk("root")
        access = rack.within(lambda: export.open("root", disk, NODE_ADDRESS))
        try:
            yield Machine(boot, tenant, disk.path), access
        finally:
            rack.ipmi("n1", "power", "off")
            export.close("root")


@pytest.mark.parametrize("protocol", EXPORTS)
def test_a_node_runs_from_a_volume_and_is_what_its_seed_says(
    rack: Rack, tenant: Tenant, protocol: str, tmp_path: Path
) -> None:
    (tmp_path / "boot").mkdir()
    with machine(rack, tenant, tmp_path, protocol, plain_image().file) as (node, access):
        found = find_boot(DirectoryStore(tmp_path / "store").image_disk("debian"), tmp_path / "boot")
        assert isinstance(found, Found)
        assert found.initramfs is not None
        assert found.command_line is not None
        assert found.kernel.read_bytes() == plain_image().boot.kernel
        document = {"root.json": root_document(access)}
        begin = node.start(found.kernel, found.initramfs, found.command_line, tenant.seed() | document)
        node.wait_for_sshd(begin)
        known = node.known_hosts(begin)
        assert node.ssh("hostname; cat /run/steelyard/wireguard.key", known) == (
            f"blue-1\n{WIREGUARD_KEY.reveal().decode()}"
        )
        modes = node.ssh("stat -c %a /run/steelyard/wireguard.key /run/steelyard/seed /run/steelyard/seed/*", known)
        assert modes.split() == ["600", "700", "400", "400"]
        left = node.ssh("systemctl is-system-running --wait; ls -A / /run/steelyard; dmesg; ps axww", known)
        for secret in re.findall(
            r'"(?:password|target_password|key)": "([^"]+)"', document["root.json"].reveal().decode()
        ):
            assert secret[:16] not in left + node.said(begin)
        assert "root.json" not in left
        assert left.startswith("running")
        node.ssh("echo written > /root/file", known)
        node.power_off(known)
    assert "written" in on_the_volume(node.volume, "/root/file")


def test_a_node_unlocks_its_volume_with_a_key_that_it_forgets(rack: Rack, tenant: Tenant, tmp_path: Path) -> None:
    sealed = sealed_image()
    kernel, initramfs = tmp_path / "kernel", tmp_path / "initramfs"
    kernel.write_bytes(sealed.boot.kernel)
    initramfs.write_bytes(sealed.boot.initramfs)
    with machine(rack, tenant, tmp_path, "nbd", sealed.file) as (node, access):
        handover = tenant.seed() | {"root.json": root_document(access)}
        right = Secret(LUKS_KEY.encode())
        for wrong in ({}, {"luks.key": Secret(b"f" * 64)}):
            begin = node.start(kernel, initramfs, sealed.boot.command_line, handover | wrong)
            node.boot.wait_until_off(begin)
            assert re.search(r"steelyard: [0-9.]+ failed: (mounting|unlocking) the volume", node.said(begin))
        begin = node.start(kernel, initramfs, sealed.boot.command_line, handover | {"luks.key": right})
        node.wait_for_sshd(begin)
        known = node.known_hosts(begin)
        assert "/dev/mapper/root on / " in node.ssh("mount", known)
        assert node.ssh("find / -xdev -name luks.key; ls -A /run/steelyard", known).split() == [
            "resolv.conf",
            "seed",
            "wireguard.key",
        ]
        node.power_off(known)


def on_the_volume(volume: Path, path: str) -> str:
    """Return a file of the volume's file system, which is clean."""
    raw = volume.with_name("raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", volume, raw], check=True)
    subprocess.run(["e2fsck", "-f", "-n", raw], check=True, capture_output=True)
    return subprocess.run(["debugfs", "-R", f"cat {path}", raw], check=True, capture_output=True, text=True).stdout
