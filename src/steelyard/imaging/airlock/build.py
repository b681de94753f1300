"""Builds the airlock image from Debian packages: both stages, what they must measure to, and what is in them."""

import hashlib
import re
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from steelyard.evidence.reference.manifest import Manifest, Origin
from steelyard.evidence.reference.uki import measurements_of_uki
from steelyard.evidence.reference.version import Version
from steelyard.imaging.airlock.first_stage import make_first_stage
from steelyard.imaging.airlock.modules import read_modules
from steelyard.imaging.airlock.packages import Files, Link, Package, RegularFile, get_packages, unpack
from steelyard.imaging.airlock.sbom import make_sbom
from steelyard.imaging.airlock.second_stage import make_second_stage
from steelyard.imaging.airlock.uki import make_uki
from steelyard.model.errors import BuildFailed

COMPONENT: Final = "airlock"
"""Name of the component, in its manifest and in policies."""

_DOING: Final = "building the airlock image"
_PACKAGES: Final = (
    "busybox-static",
    "cryptsetup-bin",
    "kexec-tools",
    "nbd-client",
    "open-iscsi",
    "python3-minimal",
    "python3-tpm2-pytss",
    "systemd-boot-efi",
    "wireguard-tools",
)
_WANTED: Final = re.compile(
    r"boot/vmlinuz-|usr/lib/modules/|usr/s?bin/[^/]+$|usr/lib64/|usr/lib/python3"
    r"|usr/lib/systemd/boot/efi/linuxx64\.efi\.stub$|usr/lib/x86_64-linux-gnu/([^/]+\.so[^/]*|ossl-modules/[^/]+)$"
)
"""What is unpacked; less of it is used."""

_STUB: Final = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"
_KERNEL: Final = re.compile(r"boot/vmlinuz-(?P<version>.+)")
_COMMAND_LINE: Final = "console=tty0 console=ttyS0,115200 quiet cryptomgr.notests=1 steelyard.second="
"""The kernel's tests of its own ciphers take a third of a second on slow processors; nothing here uses them."""


@dataclass(frozen=True, slots=True)
class Edition:
    """What an airlock image is made for, and what its manifest says of itself.

    kernel   Debian package of the kernel: linux-image-cloud-amd64, or linux-image-amd64 for physical machines.
    drivers  kernel modules of the network cards that it can boot through, at least one.
    version  of Steelyard; that of the kernel's package is added.
    serial   counts up with every issue.
    """

    kernel: str
    drivers: tuple[str, ...]
    version: str
    serial: int
    issued: datetime
    expires: datetime


@dataclass(frozen=True, slots=True)
class AirlockImage:
    """What a build makes.

    uki           the unified kernel image that firmware starts.
    second_stage  the squashfs that it fetches, served beside it as `airlock.squashfs`.
    manifest      what a boot of it measures, as a reference manifest to be signed.
    sbom          the packages that its files come from, SPDX in JSON.
    """

    uki: bytes
    second_stage: bytes
    manifest: Manifest
    sbom: bytes


def build_airlock(edition: Edition, cache: Path) -> AirlockImage:
    """Return the image: the same bytes for the same edition and packages. Raises BuildFailed.

    cache  directory of downloaded packages.
    """
    packages = get_packages([edition.kernel, *_PACKAGES], cache)
    with tempfile.TemporaryDirectory(prefix="steelyard-airlock-") as folder:
        work = Path(folder)
        files: dict[str, RegularFile | Link] = {}
        for package in packages:
            files.update(unpack(package, work / "unpacked", _WANTED))
        kernel, kernel_version = _find_kernel(files)
        modules = read_modules(work / "unpacked", kernel_version)
        second_stage, chosen = make_second_stage(files, modules, work)
        command_line = _COMMAND_LINE + hashlib.sha256(second_stage).hexdigest()
        version = f"{edition.version}+{kernel.package.version}"
        sections = {
            ".osrel": f"ID=steelyard-airlock\nVERSION_ID={version}\n".encode(),
            ".cmdline": command_line.encode(),
            ".initrd": make_first_stage(_file(files, "usr/bin/busybox").path, modules, edition.drivers),
            ".linux": kernel.path.read_bytes(),
        }
        stub = _file(files, _STUB)
        uki = make_uki(stub.path, sections)
    manifest = Manifest(
        component=COMPONENT,
        version=Version(version),
        serial=edition.serial,
        issued=edition.issued,
        expires=edition.expires,
        machine_class=None,
        origin=Origin.UKI,
        artefact=UKI_NAME,
        artefact_sha256=hashlib.sha256(uki).digest(),
        measurements=measurements_of_uki(uki),
        files={},
    )
    used = {files[path].package for path in chosen} | {kernel.package, stub.package}
    artefacts = {UKI_NAME: uki, SECOND_STAGE_NAME: second_stage}
    sbom = make_sbom(COMPONENT, version, artefacts, _by_name(used), edition.issued)
    return AirlockImage(uki, second_stage, manifest, sbom)


UKI_NAME: Final = "airlock.efi"
SECOND_STAGE_NAME: Final = "airlock.squashfs"
"""The first stage asks for it by this name, where the first came from."""


def _by_name(packages: Collection[Package]) -> list[Package]:
    return sorted(packages, key=lambda package: package.name)


def _find_kernel(files: Files) -> tuple[RegularFile, str]:
    kernels = [(path, match["version"]) for path in files if (match := _KERNEL.fullmatch(path))]
    if len(kernels) != 1:
        raise BuildFailed(_DOING, expected="one kernel in the packages", found=f"{len(kernels)}")
    path, version = kernels[0]
    return _file(files, path), version


def _file(files: Files, path: str) -> RegularFile:
    file = files.get(path)
    if not isinstance(file, RegularFile):
        raise BuildFailed(_DOING, expected=f"{path} in the packages", found="no such file")
    return file
