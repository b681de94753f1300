"""What a rack of a given shape consists of."""

import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from steelyard.lab.plan import (
    Accelerator,
    BootDevice,
    Firmware,
    Machines,
    MachineStart,
    NetworkBoot,
    NodeFiles,
    RackShape,
    Wires,
    memory_needed_mib,
    plan_cables,
    plan_nodes,
    qemu_arguments,
)
from steelyard.lab.rack import STANDARD_SHAPE, ShapeWish, settle_shape
from steelyard.model.errors import WrongUse

SHAPE = RackShape(Machines.EMULATED, 2, 2, 512, Firmware.OVMF, NetworkBoot.HTTP)
START = MachineStart(Path("/f.fd"), Path("/v.fd"), (BootDevice.NETWORK, BootDevice.DISK), False, None)  # noqa: FBT003
NO_WISH = ShapeWish(None, None, None, None, None, None)


def _arguments(start: MachineStart = START, shape: RackShape = SHAPE) -> list[str]:
    return qemu_arguments(plan_nodes(shape)[0], NodeFiles(Path("/n")), shape, Accelerator.TCG, start, Wires(3, 4, 5))


def _boot_indices(arguments: list[str]) -> dict[str, int]:
    """Return device -> its place in the boot order."""
    return {
        argument.split(",")[1]: int(argument.rpartition("bootindex=")[2])
        for argument in arguments
        if "bootindex=" in argument
    }


def test_names_and_addresses_of_thousands_of_nodes_are_each_unique() -> None:
    nodes = plan_nodes(replace(SHAPE, machines=Machines.SIMULATED, nodes=4000))
    assert len({node.bmc_address for node in nodes}) == 4000
    assert len({nic.mac for node in nodes for nic in node.nics}) == 8000
    assert len({node.identity for node in nodes}) == 4000


def test_the_same_shape_gives_the_same_plan() -> None:
    assert plan_nodes(SHAPE) == plan_nodes(SHAPE)


def test_a_bmcs_address_is_one_that_no_wire_leads_to() -> None:
    assert all(node.bmc_address.is_loopback for node in plan_nodes(SHAPE))


def test_cards_addresses_are_nobody_elses() -> None:
    first = int(plan_nodes(SHAPE)[0].nics[0].mac[:2], 16)
    assert first & 0b11 == 0b10  # locally administered, and of one card


def test_ports_names_fit_a_network_device() -> None:
    assert all(len(name) <= 15 for name in plan_cables(replace(SHAPE, nodes=64, nics=4)))


def test_simulated_nodes_have_no_cables() -> None:
    assert plan_cables(replace(SHAPE, machines=Machines.SIMULATED)) == ()


@pytest.mark.parametrize(
    "wrong", [{"nodes": 0}, {"nodes": 65}, {"nics": 0}, {"nics": 5}, {"memory_mib": 191}, {"memory_mib": 65537}]
)
def test_a_shape_beyond_the_limits_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(WrongUse):
        replace(SHAPE, **wrong)  # type: ignore[arg-type]  # mypy does not see which fields are numbers


def test_four_nodes_fit_in_4_gib() -> None:
    assert memory_needed_mib(replace(STANDARD_SHAPE, nodes=4)) < 4096


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ((BootDevice.NETWORK, BootDevice.DISK), ["netdev=nic0", "netdev=nic1", "drive=disk"]),
        ((BootDevice.DISK, BootDevice.NETWORK), ["drive=disk", "netdev=nic0", "netdev=nic1"]),
    ],
)
def test_the_boot_order_is_the_firmwares(order: tuple[BootDevice, ...], expected: list[str]) -> None:
    indices = _boot_indices(_arguments(replace(START, boot_order=order)))
    assert sorted(indices, key=indices.__getitem__) == expected


def test_a_forced_image_comes_before_everything() -> None:
    indices = _boot_indices(_arguments(replace(START, image_forced=Path("/image"))))
    assert min(indices, key=indices.__getitem__) == "drive=forced"


def test_a_comma_in_a_path_does_not_become_an_option() -> None:
    arguments = _arguments(replace(START, firmware=Path("/a,readonly=off")))
    assert "if=pflash,format=raw,unit=0,readonly=on,file=/a,,readonly=off" in arguments


def test_a_machine_has_no_way_in_but_its_wires() -> None:
    words = " ".join(_arguments())
    assert words.count("-chardev socket,") == words.count(",fd=") == 3
    for way_in in ("-qmp", "-monitor", "-gdb", "-vnc", "server=", "path="):
        assert way_in not in words


def test_a_reset_ends_the_process_so_that_the_next_boot_order_is_carried_out() -> None:
    assert "-no-reboot" in _arguments()


def test_a_held_machine_is_not_let_go() -> None:
    assert "-S" in _arguments(replace(START, held=True))
    assert "-S" not in _arguments()


def test_a_nodes_identity_does_not_depend_on_the_rack() -> None:
    assert plan_nodes(SHAPE)[0].identity == uuid.UUID("c7ec671f-d666-52ff-bb70-34ede001c1c1")


def test_without_a_wish_the_rack_that_is_there_is_meant() -> None:
    assert settle_shape(NO_WISH, SHAPE) == SHAPE
    assert settle_shape(NO_WISH, None) == STANDARD_SHAPE


def test_a_wish_for_another_rack_than_is_there_is_refused() -> None:
    with pytest.raises(WrongUse, match="a wish for another"):
        settle_shape(replace(NO_WISH, nodes=3), SHAPE)
