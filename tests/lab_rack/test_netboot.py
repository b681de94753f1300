"""Everything that a node may boot, on real firmware: the airlock, a kernel of its own, a volume, its disk."""

import gzip
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from steelyard.evidence.cpio import make_archive
from steelyard.imaging.airlock.build import SECOND_STAGE_NAME, UKI_NAME, AirlockImage
from steelyard.imaging.airlock.uki import make_uki
from steelyard.imaging.exports.iscsi import iscsi_export
from steelyard.imaging.netboot.netboot import Netboot
from steelyard.imaging.netboot.plan import AirlockBoot, BootNetwork, DirectBoot, DiskBoot, IpxeBoot, NodeBoot
from steelyard.imaging.ports import IscsiAccess, RawFile
from steelyard.model.network import MacAddress
from steelyard.model.secret import Secret
from tests.lab_rack.airlock import BOOT_FOLDER, VLAN, accept, build_image, site
from tests.lab_rack.rack import Rack, bring_up, wait_until
from tests.machine import LOADER_PATH, STUB, find_kernel, make_disk
from tests.tpm import require_programs

pytestmark = pytest.mark.rack

ADDRESS: Final = "10.31.0.2"
"""Of the boot server; the services of the airlock have another one."""
NODE_ADDRESS: Final = IPv4Address("10.31.0.10")
BOOT_SECONDS: Final = 240
COMMAND_LINE: Final = "console=ttyS0 panic=-1 quiet boots"
_INIT: Final = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox echo "system: $(/bin/busybox cat /proc/cmdline)"
/bin/busybox echo "system: key $(/bin/busybox sha256sum </.steelyard/luks.key)"
/bin/busybox echo "system: modes $(/bin/busybox stat -c '%n %a %u' /.steelyard /.steelyard/*)"
/bin/busybox poweroff -f
"""
_DENIED: Final = "Could not open SAN device: Permission denied"
KEY: Final = Secret(b"a key that only this kernel sees")


@dataclass(frozen=True)
class Foot:
    """A rack with network boot on the VLAN of one node."""

    rack: Rack
    node: str
    netboot: Netboot

    def serve(self, what: AirlockBoot | DirectBoot | IpxeBoot | DiskBoot) -> None:
        """Have this booted by the node."""
        mac = MacAddress(self.rack.node(self.node).nics[0].mac)
        self.netboot.serve("boot", [NodeBoot(self.node, "boot", mac, NODE_ADDRESS, what)])
        assert self.netboot.trouble() == {}

    def start(self) -> int:
        """Power the node on, to boot from the network; return how much its console had said."""
        begin = len(self.rack.console(self.node))
        self.rack.put_on(VLAN, self.node)
        self.rack.ipmi(self.node, "chassis", "bootdev", "pxe", "options=efiboot")
        self.rack.ipmi(self.node, "power", "on")
        return begin

    def wait_until_off(self, begin: int) -> str:
        """Return what the node has said since it began, when it has switched itself off."""
        wait_until("the node switches itself off", lambda: self.rack.ipmi_power(self.node) == "off", BOOT_SECONDS)
        return self.rack.console_since(self.node, begin)


@contextmanager
def foot(rack: Rack, node: str, folder: Path, airlock: Path | None = None) -> Iterator[Foot]:
    """Give network boot for one node, from an address that is added to the VLAN's interface."""
    rack.lab("service", str(VLAN), "10.31.0.1/24")
    rack.run(["ip", "address", "replace", f"{ADDRESS}/24", "dev", f"vlan{VLAN}"])
    address = IPv4Interface(f"{ADDRESS}/24")
    network = BootNetwork("boot", "blue", f"vlan{VLAN}", address, NODE_ADDRESS, NODE_ADDRESS + 9)
    netboot = Netboot(folder / "netboot", [network], airlock)
    rack.within(netboot.start)
    try:
        yield Foot(rack, node, netboot)
    finally:
        netboot.stop()


@pytest.fixture(scope="session")
def image() -> AirlockImage:
    return build_image()


def passes_the_airlock(rack: Rack, image: AirlockImage, folder: Path) -> None:
    airlock = folder / "airlock"
    airlock.mkdir()
    (airlock / UKI_NAME).write_bytes(image.uki)
    (airlock / SECOND_STAGE_NAME).write_bytes(image.second_stage)
    with site(rack, "n1", image, accept, folder) as services, foot(rack, "n1", folder, airlock) as boot:
        _, parameters = services.boot.routes["GET", f"{BOOT_FOLDER}/parameters"](b"")
        boot.serve(AirlockBoot(parameters, {}))
        said = boot.wait_until_off(boot.start())
        assert f"boot files at http://{ADDRESS}" in said
        assert services.service.seen is not None, said[-4000:]
        assert "tenant: console=ttyS0" in said


def test_a_node_boots_the_airlock_by_http(rack: Rack, image: AirlockImage, tmp_path: Path) -> None:
    passes_the_airlock(rack, image, tmp_path)


def test_a_node_boots_the_airlock_by_pxe(place: Path, image: AirlockImage, tmp_path: Path) -> None:
    passes_the_airlock(bring_up(place, "--nodes", "1", "--network-boot", "pxe"), image, tmp_path)


def system() -> bytes:
    """Return the initramfs of a system that says what it was given, and switches off."""
    files = {"bin/busybox": Path("/bin/busybox").read_bytes(), "init": _INIT.encode(), "proc/.keep": b""}
    return gzip.compress(make_archive(files, file_mode=0o755, folder_mode=0o755), mtime=0)


def test_a_node_boots_a_kernel_of_its_own_with_what_only_it_may_see(rack: Rack, tmp_path: Path) -> None:
    initramfs = tmp_path / "initramfs"
    initramfs.write_bytes(system())
    handover = {"luks.key": KEY, "root.json": Secret(b"{}")}
    with foot(rack, "n1", tmp_path) as boot:
        boot.serve(DirectBoot(find_kernel(), initramfs, COMMAND_LINE, handover))
        said = boot.wait_until_off(boot.start())
    assert f"system: {COMMAND_LINE}" in said
    assert f"system: key {hashlib.sha256(KEY.reveal()).hexdigest()}" in said
    assert "system: modes /.steelyard 500 0\n/.steelyard/luks.key 400 0\n/.steelyard/root.json 400 0" in said


def bootable_disk(path: Path, word: str) -> Path:
    """Write a disk with a system that says a word, and switches off."""
    sections = {
        ".osrel": b"ID=steelyard-test\n",
        ".cmdline": f"{COMMAND_LINE} from={word}".encode(),
        ".initrd": system(),
        ".linux": find_kernel().read_bytes(),
    }
    path.write_bytes(make_disk({LOADER_PATH: make_uki(STUB, sections)}))
    return path


@contextmanager
def opening(rack: Rack, disk: Path) -> Iterator[IscsiAccess]:
    """Give a volume that is open for the node."""
    with TemporaryDirectory(prefix="export-") as folder:
        export = iscsi_export(Path(folder).resolve(), ip_address(ADDRESS), range(3260, 3261))
        access = rack.within(lambda: export.open("volume-1", RawFile(disk), NODE_ADDRESS))
        assert isinstance(access, IscsiAccess)
        try:
            yield access
        finally:
            export.close("volume-1")


def test_a_node_boots_a_volume_when_both_sides_have_proved_what_they_know(rack: Rack, tmp_path: Path) -> None:
    require_programs({"/usr/lib/ipxe/snponly.efi": "ipxe", "tgtd": "tgt"})
    disk = bootable_disk(tmp_path / "disk", "volume")
    with foot(rack, "n1", tmp_path) as boot, opening(rack, disk) as access:
        boot.serve(IpxeBoot(replace(access, target_password=Secret(b"AnotherPassword1"))))
        begin = boot.start()
        wait_until("it turns a false target down", lambda: _DENIED in rack.console_since("n1", begin), BOOT_SECONDS)
        assert "system:" not in rack.console_since("n1", begin)
        boot.serve(IpxeBoot(access))
        # It starts anew by itself, and is off for a moment.
        expected = f"system: {COMMAND_LINE} from=volume"
        wait_until("the system runs", lambda: expected in rack.console_since("n1", begin), BOOT_SECONDS)


def test_a_node_that_is_to_boot_its_disk_finds_nothing_on_the_network_and_goes_on(rack: Rack, tmp_path: Path) -> None:
    disk = rack.root / "nodes" / "n1" / "disk.img"
    size = disk.stat().st_size
    bootable_disk(disk, "disk")
    try:
        with foot(rack, "n1", tmp_path) as boot:
            boot.serve(DiskBoot())
            said = boot.wait_until_off(boot.start())
    finally:
        disk.write_bytes(b"")
        with disk.open("wb") as blank:
            blank.truncate(size)
    assert f"system: {COMMAND_LINE} from=disk" in said
