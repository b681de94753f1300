"""What a rack needs of this computer, looked at before anything is begun."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from steelyard.lab.plan import FIRMWARE_FILES, RackShape, memory_needed_mib
from steelyard.model.errors import LabUnready

PROGRAMS: Final[Mapping[str, str]] = {
    "qemu-system-x86_64": "qemu-system-x86",
    "swtpm": "swtpm",
    "swtpm_setup": "swtpm-tools",
    "swtpm_localca": "swtpm-tools",
    "ovsdb-server": "openvswitch-switch",
    "ovsdb-tool": "openvswitch-switch",
    "ovs-vswitchd": "openvswitch-switch",
    "ovs-vsctl": "openvswitch-switch",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "mformat": "mtools",
    "mcopy": "mtools",
}
"""Program -> the Debian package that has it."""

LIBRARIES: Final = ("aiohttp",)

OVS_SCHEMA: Final = Path("/usr/share/openvswitch/vswitch.ovsschema")
TUN_DEVICE: Final = Path("/dev/net/tun")


@dataclass(frozen=True, slots=True)
class Computer:
    """What was found of this computer.

    missing_libraries  of Python, that the extra `lab` brings.
    tun_error          why a tap device cannot be had; None if it can.
    """

    missing_libraries: frozenset[str]
    missing_packages: frozenset[str]
    administrator: bool
    tun_error: str | None
    memory_free_mib: int


def look_at_computer(shape: RackShape) -> Computer:
    """Return what this computer has of what a rack of this shape needs."""
    missing = {package for program, package in PROGRAMS.items() if shutil.which(program) is None}
    firmware = FIRMWARE_FILES[shape.firmware]
    if not (firmware.code.is_file() and firmware.variables.is_file()):
        missing.add("ovmf")
    if not OVS_SCHEMA.is_file():
        missing.add("openvswitch-common")
    libraries = frozenset(name for name in LIBRARIES if find_spec(name) is None)
    return Computer(libraries, frozenset(missing), os.geteuid() == 0, _tun_error(), _memory_free_mib())


def _tun_error() -> str | None:
    try:
        os.close(os.open(TUN_DEVICE, os.O_RDWR))
    except OSError as cause:
        return cause.strerror or "cannot be opened"
    return None


def _memory_free_mib() -> int:
    """Return what programs may still take without swapping, by the kernel's own estimate. Source: proc(5)."""
    for line in Path("/proc/meminfo").read_text("ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    raise AssertionError("every kernel since 3.14 says what memory is available")


def problems(computer: Computer, shape: RackShape) -> tuple[str, ...]:
    """Return everything that stands in the way of a rack of this shape, at once."""
    found = []
    if computer.missing_libraries:
        found.append(f"install {', '.join(sorted(computer.missing_libraries))}: pip install 'steelyard[lab]'")
    if computer.missing_packages:
        found.append(f"install the packages {' '.join(sorted(computer.missing_packages))}")
    if not computer.administrator:
        found.append("run it as root: network namespaces and tap devices are the administrator's")
    elif computer.tun_error is not None:
        # Without root the device may be there and merely not for this user: one cause, one message.
        found.append(f"{TUN_DEVICE} is of no use ({computer.tun_error}): load the kernel's module tun")
    needed = memory_needed_mib(shape)
    if computer.memory_free_mib < needed:
        found.append(f"{needed} MiB of memory are needed, {computer.memory_free_mib} are free: fewer nodes, or smaller")
    return tuple(found)


def check_computer(computer: Computer, shape: RackShape) -> None:
    """Return if a rack of this shape fits. Raises LabUnready with all that is in the way."""
    found = problems(computer, shape)
    if found:
        raise LabUnready("looking at this computer", expected="all that a rack needs", found="; ".join(found))
