"""What nodes boot over the network: pure types, made valid on construction. All of them raise WrongUse."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Final

from steelyard.imaging.ports import IscsiAccess
from steelyard.model.errors import WrongUse
from steelyard.model.limits import COMMAND_LINE_BYTES
from steelyard.model.names import check_name
from steelyard.model.network import MacAddress
from steelyard.model.secret import Secret

BOOT_FILE: Final = "boot.efi"
"""What firmware starts."""
SECOND_STAGE: Final = "airlock.squashfs"
PARAMETERS: Final = "parameters"
SCRIPT: Final = "boot.ipxe"
"""What an iPXE fetches in place of the boot file."""

_OWN_NAMES: Final = frozenset({BOOT_FILE, SECOND_STAGE, PARAMETERS, SCRIPT})
_INTERFACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}", re.ASCII)
"""Of what Linux allows, what means nothing else to dnsmasq: no alias (:) and no pattern (*)."""


@dataclass(frozen=True, slots=True)
class BootNetwork:
    """A layer-2 network on which imaging has a foot. It belongs to one project.

    interface    of this computer, which has `address` there.
    first, last  the addresses that nodes may be given, both included.
    """

    name: str
    project: str
    interface: str
    address: IPv4Interface
    first: IPv4Address
    last: IPv4Address

    def __post_init__(self) -> None:
        doing = f"describing the boot network {check_name(self.name, 'boot network')}"
        check_name(self.project, "project")
        if not _INTERFACE.fullmatch(self.interface):
            raise WrongUse(doing, expected="a network interface's name", found=self.interface)
        network = self.address.network
        hosts = (network.network_address + 1, network.broadcast_address - 1)
        if not hosts[0] <= self.first <= self.last <= hosts[1]:
            raise WrongUse(doing, expected=f"nodes' addresses of {network}", found=f"{self.first} to {self.last}")
        if self.first <= self.address.ip <= self.last:
            raise WrongUse(doing, expected="an address of its own for the service", found=f"{self.address.ip}")


@dataclass(frozen=True, slots=True)
class AirlockBoot:
    """The airlock image, with the node's `parameters`.

    files  what else this node may fetch: name -> file, as "kernel" and "initramfs" of its tenant's system.
    """

    parameters: bytes
    files: Mapping[str, Path]

    def __post_init__(self) -> None:
        for name in self.files:
            if check_name(name, "boot file") in _OWN_NAMES:
                raise WrongUse("naming a boot file", expected="a name that has no meaning yet", found=name)


@dataclass(frozen=True, slots=True)
class DirectBoot:
    """A kernel of the tenant's, unweighed, in a unified image that is put together for this node.

    handover  what the system finds in /.steelyard: name -> content.
    """

    kernel: Path
    initramfs: Path | None
    command_line: str
    handover: Mapping[str, Secret]

    def __post_init__(self) -> None:
        for name in self.handover:
            check_name(name, "file to hand over")
        line = self.command_line
        if not (line.isascii() and line.isprintable() and line.strip() and len(line) <= COMMAND_LINE_BYTES.most):
            expected = f"1 to {COMMAND_LINE_BYTES.most} printable characters of ASCII"
            raise WrongUse("writing a kernel's command line", expected=expected, found=line)


@dataclass(frozen=True, slots=True)
class IpxeBoot:
    """A volume with a boot loader of its own, opened over iSCSI by iPXE."""

    access: IscsiAccess


@dataclass(frozen=True, slots=True)
class DiskBoot:
    """The node's own disk: it gets an address, and nothing to boot."""


@dataclass(frozen=True, slots=True)
class NodeBoot:
    """What `node` boots on `network`, and the address that it has there."""

    node: str
    network: str
    mac: MacAddress
    address: IPv4Address
    what: AirlockBoot | DirectBoot | IpxeBoot | DiskBoot
