"""A boot network with the airlock image for one node of a rack, and the services that weigh the node."""

import base64
import gzip
import hashlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial, reduce
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from steelyard.evidence.cpio import make_archive
from steelyard.evidence.reference.manifest import Manifest
from steelyard.imaging.airlock.build import AirlockImage, Edition, build_airlock
from steelyard.imaging.exports.iscsi import iscsi_export
from steelyard.imaging.exports.nbd import nbd_export
from steelyard.imaging.ports import IscsiAccess, NbdAccess, Overlay
from steelyard.lab.namespace import inside
from steelyard.model.algorithms import HashAlgorithm
from tests.airlock_service import (
    Authority,
    HonestService,
    Seen,
    WebServer,
    artefact,
    parameters,
    payload_document,
    serve,
)
from tests.lab_rack.rack import Rack
from tests.machine import find_kernel
from tests.tpm import require_programs

CACHE: Final = Path(__file__).parents[2] / ".cache" / "airlock"
VLAN: Final = 31
SERVICE: Final = "10.31.0.1"
NODE: Final = "10.31.0.10"
"""Of the first node of a rack."""
BOOT_FOLDER: Final = "/boot/3f1c"
LUKS_KEY: Final = b"a key that only the next kernel sees"
COMMAND_LINE: Final = "console=ttyS0 panic=-1 quiet tenant=blue"
_TENANT: Final = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox echo "tenant: $(/bin/busybox cat /proc/cmdline)"
/bin/busybox echo "tenant: key $(/bin/busybox sha256sum </.steelyard/luks.key)"
/bin/busybox echo "tenant: files $(/bin/busybox echo /.steelyard/*)"
/bin/busybox poweroff -f
"""


def edition() -> Edition:
    issued = datetime(2026, 11, 24, tzinfo=UTC)
    drivers = ("virtio_net", "virtio_pci")
    return Edition("linux-image-cloud-amd64", drivers, "0.1.0", 1, issued, issued + timedelta(days=30))


def build_image() -> AirlockImage:
    """Return the image, made of packages that are downloaded once."""
    programs = {"mksquashfs": "squashfs-tools", "depmod": "kmod", "objcopy": "binutils", "dpkg-deb": "dpkg"}
    require_programs(programs)
    return build_airlock(edition(), CACHE)


@dataclass
class Site:
    """What a node finds on its boot network."""

    rack: Rack
    boot: WebServer
    service: HonestService
    folder: Path

    def start(self, node: str) -> int:
        """Power the node on; return how much its console had said."""
        begin = len(self.rack.console(node))
        self.rack.put_on(VLAN, node)
        self.rack.ipmi(node, "chassis", "bootdev", "pxe", "options=efiboot")
        self.rack.ipmi(node, "power", "on")
        return begin

    @contextmanager
    def dhcp(self, *options: str) -> Iterator[None]:
        """Answer DHCP as a boot network does; `options` are dnsmasq's."""
        dnsmasq = [
            *("dnsmasq", "--keep-in-foreground", "--port=0", "--conf-file=/dev/null", "--log-facility=-"),
            *(f"--interface=vlan{VLAN}", "--bind-interfaces", "--dhcp-range=10.31.0.10,10.31.0.99,1h"),
            *(f"--dhcp-leasefile={self.folder / 'leases'}", f"--pid-file={self.folder / 'pid'}", "--user=root"),
            *("--no-ping", "--dhcp-match=set:efihttp,option:client-arch,16"),
            "--dhcp-option-force=tag:efihttp,60,HTTPClient",
            f"--dhcp-boot=tag:efihttp,http://{SERVICE}{BOOT_FOLDER}/airlock.efi",
            f"--dhcp-host={self.rack.inventory.nodes[0].nics[0].mac},{NODE}",
            *options,
        ]
        with (self.folder / "log").open("wb") as log:
            process = subprocess.Popen(inside(self.rack.namespace, dnsmasq), stdout=log, stderr=log)
            try:
                yield
            finally:
                process.kill()
                process.wait()


LUKS_HEADER: Final = b"LUKS\xba\xbe" + bytes(range(250)) * 64


RootVolume = Callable[[Rack, Path], AbstractContextManager[dict[str, Any]]]
"""Gives a volume that is served to the node, as a payload describes it."""


def _disk(folder: Path) -> Overlay:
    raw, disk = folder / "volume.raw", folder / "volume.qcow2"
    raw.write_bytes(LUKS_HEADER.ljust(1 << 20, b"\0"))
    subprocess.run(["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", raw, disk], check=True)
    return Overlay(disk, None)


def _header() -> dict[str, Any]:
    return {"size_bytes": len(LUKS_HEADER), "sha256": hashlib.sha256(LUKS_HEADER).hexdigest()}


@contextmanager
def root_volume(rack: Rack, folder: Path) -> Iterator[dict[str, Any]]:
    """Give a volume that is served by NBD over TLS."""
    with TemporaryDirectory(prefix="export-") as place:
        export = nbd_export(Path(place).resolve(), ip_address(SERVICE), range(10809, 10810))
        access = rack.within(lambda: export.open("volume-1", _disk(folder), ip_address(NODE)))
        assert isinstance(access, NbdAccess)
        try:
            yield {
                "protocol": "nbd",
                "address": str(access.address),
                "port": access.port,
                "export": access.export,
                "authority": access.authority.decode(),
                "certificate": access.certificate.decode(),
                "key": access.key.reveal().decode(),
                "luks_header": _header(),
            }
        finally:
            export.close("volume-1")


@contextmanager
def iscsi_root_volume(rack: Rack, folder: Path) -> Iterator[dict[str, Any]]:
    """Give a volume that is served by iSCSI; a session that is left in the end fails the test."""
    with TemporaryDirectory(prefix="export-") as place:
        root = Path(place).resolve()
        export = iscsi_export(root, ip_address(SERVICE), range(3260, 3261))
        access = rack.within(lambda: export.open("volume-1", _disk(folder), ip_address(NODE)))
        assert isinstance(access, IscsiAccess)
        try:
            yield {
                "protocol": "iscsi",
                "address": str(access.address),
                "port": access.port,
                "target": access.target,
                "lun": access.lun,
                "user": access.user,
                "password": access.password.reveal().decode(),
                "target_user": access.target_user,
                "target_password": access.target_password.reveal().decode(),
                "luks_header": _header(),
            }
            [control] = root.glob("open/*/tgtd.0")
            shown = subprocess.run(
                ["tgtadm", "--lld", "iscsi", "--mode", "target", "--op", "show"],
                env={**os.environ, "TGT_IPC_SOCKET": str(control.with_suffix(""))},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            assert access.target in shown
            assert "I_T nexus:" not in shown, shown
        finally:
            export.close("volume-1")


@contextmanager
def site(
    rack: Rack,
    node: str,
    image: AirlockImage,
    judge: Callable[[Seen], None],
    folder: Path,
    root: RootVolume = root_volume,
    ballast: bytes = b"",
    **changed: str,
) -> Iterator[Site]:
    """Give a boot network with the image for one node, and the services that judge it.

    ballast  what else is in the tenant's initramfs.
    changed  what is not as usual in the node's parameters.
    """
    rack.lab("service", str(VLAN), f"{SERVICE}/24")
    kernel, initramfs = find_kernel().read_bytes(), tenant_initramfs(ballast)
    with ExitStack() as stack:
        authority = Authority(SERVICE)
        sockets = [rack.within(partial(socket.create_server, (SERVICE, port))) for port in (443, 80)]
        web = stack.enter_context(WebServer(sockets[0], authority.context))
        boot = stack.enter_context(WebServer(sockets[1]))
        files = f"http://{SERVICE}{BOOT_FOLDER}"
        payload = payload_document(
            artefact(f"{files}/kernel", kernel),
            artefact(f"{files}/initramfs", initramfs),
            command_line=COMMAND_LINE,
            root=stack.enter_context(root(rack, folder)),
            files={"luks.key": base64.b64encode(LUKS_KEY).decode()},
        )
        document = parameters(
            node=node,
            attestation=f"https://{SERVICE}",
            authority=authority.pem,
            delivery=f"{files}/delivery",
            **changed,
        )
        for name, content in {
            "airlock.efi": image.uki,
            "airlock.squashfs": image.second_stage,
            "parameters": document,
            "kernel": kernel,
            "initramfs": initramfs,
        }.items():
            boot.routes["GET", f"{BOOT_FOLDER}/{name}"] = serve(content)
        service = HonestService(web, boot, node, f"{BOOT_FOLDER}/delivery", judge, payload)
        yield Site(rack, boot, service, folder)


def tenant_initramfs(ballast: bytes) -> bytes:
    """Return a system that says on its console what it was given, and switches off."""
    busybox = Path("/bin/busybox").read_bytes()
    files = {"bin/busybox": busybox, "init": _TENANT.encode(), "proc/.keep": b"", "ballast": ballast}
    return gzip.compress(make_archive(files, file_mode=0o755, folder_mode=0o755), mtime=0)


def accept(_: Seen) -> None:
    """Let every node pass: the test looks itself."""


def extended(digests: Iterable[bytes]) -> bytes:
    """Return what a PCR holds that began as zeros."""
    return reduce(lambda value, digest: hashlib.sha256(value + digest).digest(), digests, bytes(32))


def expected_pcrs(manifest: Manifest) -> dict[int, bytes]:
    """Return what PCR 4, 9, 11, 12 and 13 hold in the airlock, by the manifest and what every firmware says itself."""
    image = {
        pcr: [each.digests[HashAlgorithm.SHA256] for each in manifest.measurements if each.pcr == pcr]
        for pcr in (4, 9, 11, 12, 13)
    }
    own_words = (b"Calling EFI Application from Boot Option", bytes(4))
    image[4] = [hashlib.sha256(words).digest() for words in own_words] + image[4]
    return {pcr: extended(digests) for pcr, digests in image.items()}
