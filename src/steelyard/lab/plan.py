"""What a rack of a given shape consists of: names, addresses, programs and their arguments. Pure.

The same shape gives the same plan each time, so that a second `up` finds what the first one built.
"""

import ipaddress
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from steelyard.model.errors import WrongUse

MOST_EMULATED_NODES: Final = 64
MOST_SIMULATED_NODES: Final = 4000
MOST_NICS: Final = 4
LEAST_MEMORY_MIB: Final = 192
MOST_MEMORY_MIB: Final = 65536

MANAGEMENT_NETWORK: Final = ipaddress.IPv4Network("127.77.0.0/16")
"""Loopback on purpose: the kernel drops packets for 127/8 that come in from a wire, so that no node can reach a BMC
through a service that stands on the node's VLAN."""

SWITCH_NAME: Final = "switch"
SWITCH_ADDRESS: Final = MANAGEMENT_NETWORK[2]
OVSDB_PORT: Final = 6640
IPMI_PORT: Final = 623
REDFISH_PORT: Final = 443
BRIDGE: Final = "rack"
SERVICES_PORT: Final = "services"


class Machines(StrEnum):
    """What the nodes are."""

    EMULATED = "emulated"
    SIMULATED = "simulated"
    """No processor, no firmware, no TPM, and no frames: only their BMCs and switch ports, by the thousand."""


class Firmware(StrEnum):
    """Which build of OVMF the nodes have."""

    OVMF = "ovmf"
    OVMF_SECURE_BOOT = "ovmf-secure-boot"


@dataclass(frozen=True, slots=True)
class FirmwareFiles:
    """The files of one firmware build and what of the machine they need."""

    code: Path
    variables: Path
    system_management_mode: str


FIRMWARE_FILES: Final[Mapping[Firmware, FirmwareFiles]] = {
    # The 2 MiB build is at the boot loader 3 s before the 4 MiB one.
    Firmware.OVMF: FirmwareFiles(Path("/usr/share/OVMF/OVMF_CODE.fd"), Path("/usr/share/OVMF/OVMF_VARS.fd"), "off"),
    Firmware.OVMF_SECURE_BOOT: FirmwareFiles(
        Path("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.ms.fd"), "on"
    ),
}


class NetworkBoot(StrEnum):
    """What the firmware asks the network for. With both on, each costs the other its time-outs."""

    HTTP = "http"
    PXE = "pxe"


class Accelerator(StrEnum):
    """What runs a node's instructions."""

    KVM = "kvm"
    TCG = "tcg"


class BootDevice(StrEnum):
    """Where firmware may load from."""

    NETWORK = "network"
    DISK = "disk"


@dataclass(frozen=True, slots=True)
class RackShape:
    """What the one who asks for a rack may choose. Raises WrongUse beyond the limits above."""

    machines: Machines
    nodes: int
    nics: int
    memory_mib: int
    firmware: Firmware
    network_boot: NetworkBoot

    def __post_init__(self) -> None:
        most_nodes = MOST_EMULATED_NODES if self.machines is Machines.EMULATED else MOST_SIMULATED_NODES
        for what, number, least, most in (
            (f"{self.machines} nodes", self.nodes, 1, most_nodes),
            ("NICs in a node", self.nics, 1, MOST_NICS),
            ("MiB of memory in a node", self.memory_mib, LEAST_MEMORY_MIB, MOST_MEMORY_MIB),
        ):
            if not least <= number <= most:
                raise WrongUse("shaping a rack", expected=f"{least} to {most} {what}", found=f"{number}")


@dataclass(frozen=True, slots=True)
class NicPlan:
    """A network card and the switch port that its cable ends in. `port` is the tap device's name as well."""

    name: str
    mac: str
    port: str


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One machine: who it is, before it has ever run."""

    name: str
    identity: uuid.UUID
    bmc_address: ipaddress.IPv4Address
    nics: tuple[NicPlan, ...]


def plan_nodes(shape: RackShape) -> tuple[NodePlan, ...]:
    """Return the nodes n1, n2, ... with addresses that are free of one another."""
    return tuple(_plan_node(number, shape.nics) for number in range(1, shape.nodes + 1))


def plan_cables(shape: RackShape) -> tuple[str, ...]:
    """Return the names of the tap devices between cards and switch ports; simulated nodes have none."""
    match shape.machines:
        case Machines.EMULATED:
            return tuple(nic.port for node in plan_nodes(shape) for nic in node.nics)
        case Machines.SIMULATED:
            return ()


def _plan_node(number: int, nics: int) -> NodePlan:
    name = f"n{number}"
    return NodePlan(
        name=name,
        identity=uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.lab.steelyard"),
        bmc_address=MANAGEMENT_NETWORK[256 + number],
        nics=tuple(
            # 02: locally administered, so never a real card's.
            NicPlan(f"nic{card}", f"02:73:79:{number >> 8:02x}:{number & 0xFF:02x}:{card:02x}", f"{name}-nic{card}")
            for card in range(nics)
        ),
    )


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """Where a node's parts are kept."""

    root: Path

    @property
    def variables(self) -> Path:
        """The firmware's variable store; its own per node, kept for good."""
        return self.root / "variables.fd"

    @property
    def disk(self) -> Path:
        """The local disk, raw."""
        return self.root / "disk.img"

    @property
    def tpm(self) -> Path:
        """The TPM's permanent state: seeds, endorsement certificates."""
        return self.root / "tpm"

    @property
    def other_tpm(self) -> Path:
        """The TPM that a thief would put in its place; made when that fault is first asked for."""
        return self.root / "other-tpm"

    @property
    def endorsement_certificates(self) -> Path:
        """A folder of DER files, as the maker would publish them for this node."""
        return self.root / "endorsement"

    @property
    def other_image(self) -> Path:
        """A disk with the image that the fault `other-image` boots."""
        return self.root / "other-image.img"

    @property
    def bmc_settings(self) -> Path:
        """What the BMC remembers without power: the boot order and the override."""
        return self.root / "bmc.json"

    @property
    def console_record(self) -> Path:
        """Everything that the serial port ever said."""
        return self.root / "console.log"

    @property
    def console_socket(self) -> Path:
        """Where `lab console` listens in and types."""
        return self.root / "console.sock"

    @property
    def log(self) -> Path:
        """What QEMU and swtpm complain of."""
        return self.root / "machine.log"


@dataclass(frozen=True, slots=True)
class Wires:
    """Numbers of the file descriptors that tie a machine's programs together.

    They are one end each of socket pairs that have no name: there is no way round the BMC into the machine.
    """

    console: int
    monitor: int
    tpm: int


@dataclass(frozen=True, slots=True)
class MachineStart:
    """Everything that may differ from one start of a node's machine to the next."""

    firmware: Path
    variables: Path
    boot_order: tuple[BootDevice, ...]
    held: bool
    """Whether the processor is never let go: a machine that does not boot."""
    image_forced: Path | None
    """A disk that is booted before anything the BMC asked for."""


_OFFLOADS_OFF: Final = (
    "csum=off,guest_csum=off,gso=off,host_tso4=off,host_tso6=off,guest_tso4=off,guest_tso6=off,"
    "host_ecn=off,guest_ecn=off,host_ufo=off,guest_ufo=off"
)
"""The switch's user-space datapath passes frames on as they are: with offloads, TCP checksums are never filled in."""


def qemu_arguments(
    node: NodePlan, files: NodeFiles, shape: RackShape, accelerator: Accelerator, start: MachineStart, wires: Wires
) -> list[str]:
    """Return QEMU's command line for one start of `node`.

    The processor model, memory and devices are the same for all nodes of a rack: firmware measures some of them.
    """
    kind = FIRMWARE_FILES[shape.firmware]
    first_index = 0 if start.image_forced is None else 1
    place = {device: first_index + index for index, device in enumerate(start.boot_order)}
    arguments = [
        "qemu-system-x86_64",
        *("-name", node.name, "-uuid", str(node.identity)),
        *("-machine", f"q35,smm={kind.system_management_mode},vmport=off,i8042=off,usb=off"),
        *_processor(accelerator),
        *("-smp", "1", "-m", str(shape.memory_mib)),
        # A reset ends the process: the BMC starts it again, with the boot order that is then due.
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={_escaped(start.firmware)}"),
        *("-drive", f"if=pflash,format=raw,unit=1,file={_escaped(start.variables)}"),
        *("-chardev", f"socket,id=console,fd={wires.console}", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=monitor,fd={wires.monitor}", "-mon", "chardev=monitor,mode=control"),
        *("-chardev", f"socket,id=tpm,fd={wires.tpm}", "-tpmdev", "emulator,id=tpm,chardev=tpm"),
        *("-device", "tpm-tis,tpmdev=tpm"),
        *("-drive", f"if=none,id=disk,format=raw,discard=unmap,file={_escaped(files.disk)}"),
        *("-device", "virtio-blk-pci,drive=disk" + _boot_index(place, BootDevice.DISK, 0)),
    ]
    if start.image_forced is not None:
        arguments += ["-drive", f"if=none,id=forced,format=raw,readonly=on,file={_escaped(start.image_forced)}"]
        arguments += ["-device", "virtio-blk-pci,drive=forced,bootindex=0"]
    for number, nic in enumerate(node.nics):
        arguments += ["-netdev", f"tap,id={nic.name},ifname={nic.port},script=no,downscript=no"]
        # No option ROM: firmware has its own driver, and PCR 2 then holds a separator only.
        arguments += [
            "-device",
            f"virtio-net-pci,netdev={nic.name},mac={nic.mac},romfile=,{_OFFLOADS_OFF}"
            + _boot_index(place, BootDevice.NETWORK, number),
        ]
    for family in ("IPv4", "IPv6"):
        wanted = "y" if shape.network_boot is NetworkBoot.PXE else "n"
        arguments += ["-fw_cfg", f"name=opt/org.tianocore/{family}PXESupport,string={wanted}"]
    if kind.system_management_mode == "on":
        arguments += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
    if start.held:
        arguments.append("-S")
    return arguments


def _processor(accelerator: Accelerator) -> Sequence[str]:
    match accelerator:
        case Accelerator.KVM:
            return ("-accel", "kvm", "-cpu", "host")
        case Accelerator.TCG:
            # qemu64 is the quickest to emulate; without RDRAND, which every server has, kernels would take a second
            # to gather random numbers. More than 64 MiB of translated code buys no time, only memory.
            return ("-accel", "tcg,thread=multi,tb-size=64", "-cpu", "qemu64,+rdrand")


def _boot_index(place: Mapping[BootDevice, int], device: BootDevice, number: int) -> str:
    """Return the property that puts a device into the firmware's boot order; cards of a node follow one another."""
    return f",bootindex={place[device] * 10 + number}" if device in place else ""


def _escaped(path: Path) -> str:
    """Return `path` as QEMU's option syntax wants it: a comma in it is doubled."""
    return str(path).replace(",", ",,")


def swtpm_arguments(state: Path, log: Path, control: int) -> list[str]:
    """Return swtpm's command line; it serves the machine at the other end of `control` and ends with it."""
    return [
        *("swtpm", "socket", "--tpm2", "--terminate"),
        *("--tpmstate", f"dir={state},mode=0600"),
        *("--ctrl", f"type=unixio,clientfd={control}"),
        *("--log", f"file={log},level=1"),
    ]


def memory_needed_mib(shape: RackShape) -> int:
    """Return what a rack takes with all its nodes on: guest memory, translated code, firmware and the programs."""
    match shape.machines:
        case Machines.EMULATED:
            return shape.nodes * (shape.memory_mib + 192) + 200
        case Machines.SIMULATED:
            return shape.nodes // 2 + 200
