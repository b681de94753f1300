"""Bring a rack up, take it down, and say how it is."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from steelyard.lab import control
from steelyard.lab.accelerator import choose_accelerator
from steelyard.lab.build import build_rack, take_inventory
from steelyard.lab.namespace import check_namespace_free, create_namespace, delete_namespace, inside
from steelyard.lab.plan import Accelerator, Firmware, Machines, NetworkBoot, RackShape, plan_cables, plan_nodes
from steelyard.lab.preflight import check_computer, look_at_computer
from steelyard.lab.processes import end_processes, identify, lives
from steelyard.lab.state import Rack, RackDirectory, write_private
from steelyard.model.errors import LabFailed, WrongUse
from steelyard.model.inventory import Inventory, encode_inventory

Progress = Callable[[str], None]

STANDARD_SHAPE: Final = RackShape(
    machines=Machines.EMULATED, nodes=2, nics=1, memory_mib=512, firmware=Firmware.OVMF, network_boot=NetworkBoot.HTTP
)


@dataclass(frozen=True, slots=True)
class ShapeWish:
    """What the one who asks for a rack says of its shape; None: nothing."""

    machines: Machines | None
    nodes: int | None
    nics: int | None
    memory_mib: int | None
    firmware: Firmware | None
    network_boot: NetworkBoot | None


def settle_shape(wish: ShapeWish, built: RackShape | None) -> RackShape:
    """Return the shape that follows the wish. Raises WrongUse if a rack is built already and is another."""
    ground = built or STANDARD_SHAPE
    shape = RackShape(
        machines=wish.machines or ground.machines,
        nodes=wish.nodes if wish.nodes is not None else ground.nodes,
        nics=wish.nics if wish.nics is not None else ground.nics,
        memory_mib=wish.memory_mib if wish.memory_mib is not None else ground.memory_mib,
        firmware=wish.firmware or ground.firmware,
        network_boot=wish.network_boot or ground.network_boot,
    )
    if built is not None and shape != built:
        raise WrongUse(
            "bringing the rack up", expected=f"the rack that is there: {built}", found=f"a wish for another: {shape}"
        )
    return shape


def up(directory: RackDirectory, wish: ShapeWish, say: Progress) -> Inventory:
    """Return the inventory of a rack that runs, all nodes off. What is there is left as it is.

    If it cannot be had, nothing is left running. Raises WrongUse, LabUnready, LabFailed.
    """
    directory.prepare()
    with directory.locked():
        built = directory.read_rack()
        shape = settle_shape(wish, built.shape if built else None)
        nodes = plan_nodes(shape)
        if _runs(directory):
            say("the rack is up already")
            return take_inventory(directory, nodes)
        _take_down(directory, shape, say)
        check_computer(look_at_computer(shape), shape)
        check_namespace_free(directory.namespace)
        if built is None:
            directory.write_rack(Rack(shape, _choose_accelerator(shape, say)))
        build_rack(directory, shape, nodes, say)
        inventory = take_inventory(directory, nodes)
        write_private(directory.inventory, encode_inventory(inventory))
        try:
            _start(directory, shape, say)
        except BaseException:
            _take_down(directory, shape, say)
            raise
        return inventory


def _choose_accelerator(shape: RackShape, say: Progress) -> Accelerator:
    match shape.machines:
        case Machines.EMULATED:
            accelerator = choose_accelerator(shape.firmware)
            say(f"processors: {accelerator}")
            return accelerator
        case Machines.SIMULATED:
            return Accelerator.TCG


def down(directory: RackDirectory, say: Progress) -> None:
    """Return when nothing of the rack runs any more, whatever state it was in. What it is made of stays."""
    if not directory.root.is_dir():
        raise WrongUse("taking the rack down", expected="a rack", found=f"no directory {directory.root}")
    with directory.locked():
        rack = directory.read_rack()
        _take_down(directory, rack.shape if rack else None, say)


def status(directory: RackDirectory) -> Mapping[str, Any]:
    """Return what the rack says of itself. Raises LabFailed if it does not run."""
    return control.ask(directory.control_socket, "status")


def _runs(directory: RackDirectory) -> bool:
    """Say whether every process on record lives and the rack answers."""
    running = directory.read_running()
    if running is None or not running.processes or not all(lives(process) for process in running.processes):
        return False
    try:
        control.ask(directory.control_socket, "status")
    except LabFailed:
        return False
    return True


def _start(directory: RackDirectory, shape: RackShape, say: Progress) -> None:
    # On record before it is there: whatever happens from here on, `down` knows what to look for.
    directory.write_running(())
    create_namespace(directory.namespace, plan_cables(shape))
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as reports:
        try:
            with directory.supervisor_log.open("ab") as log:
                supervisor = subprocess.Popen(  # noqa: S603  ourselves
                    inside(
                        directory.namespace,
                        [sys.executable, "-m", "steelyard.lab.supervisor", str(directory.root), str(writing)],
                    ),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[writing],
                    # It outlives this command and its terminal.
                    start_new_session=True,
                )
        finally:
            os.close(writing)
        try:
            _hear_out(reports, say, directory)
        except BaseException:
            if (identity := identify("supervisor", supervisor.pid)) is not None:
                end_processes([identity])
            raise


def _hear_out(reports: Iterable[str], say: Progress, directory: RackDirectory) -> None:
    """Return when the supervisor is ready. Raises what it met."""
    for line in reports:
        match json.loads(line):
            case {"progress": str(words)}:
                say(words)
            case {"ready": True}:
                return
            case {"error": dict(error)}:
                raise control.decode_error(error)
    raise LabFailed(
        "starting the rack",
        expected="its supervisor to come up",
        found=f"that it ended; see {directory.supervisor_log}",
    )


def _take_down(directory: RackDirectory, shape: RackShape | None, say: Progress) -> None:
    """End what is on record, and nothing else."""
    running = directory.read_running()
    if running is None:
        return
    # The supervisor comes first on the record, and ends the rest in good order; what it leaves is ended after it.
    end_processes(running.processes[:1])
    end_processes(running.processes[1:])
    delete_namespace(running.namespace, plan_cables(shape) if shape else ())
    directory.forget_running()
    say("the rack is down")
