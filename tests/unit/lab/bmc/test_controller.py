"""The logic that both protocols drive."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from steelyard.lab.bmc.boot import Lifetime, Override
from steelyard.lab.bmc.controller import Controller, NotNow, Power
from steelyard.lab.faults import BmcFault
from steelyard.lab.plan import BootDevice
from steelyard.model.errors import LabFailed
from tests.unit.lab.bmc.machines import NotedMachine, controller_of

ONCE_FROM_DISK = Override(BootDevice.DISK, Lifetime.ONCE)


def _run(story: Callable[[NotedMachine, Controller], Awaitable[None]]) -> NotedMachine:
    machine = NotedMachine()

    async def play() -> None:
        await story(machine, controller_of(machine))

    asyncio.run(play())
    return machine


def test_on_twice_starts_once() -> None:
    async def story(_: NotedMachine, bmc: Controller) -> None:
        await bmc.power_on()
        await bmc.power_on()
        assert bmc.power is Power.ON

    assert _run(story).notes == ["start network"]


def test_off_twice_is_harmless() -> None:
    async def story(_: NotedMachine, bmc: Controller) -> None:
        await bmc.power_off()
        assert bmc.power is Power.OFF

    assert _run(story).notes == []


def test_what_is_off_is_neither_restarted_nor_shut_down() -> None:
    async def story(_: NotedMachine, bmc: Controller) -> None:
        for act in (bmc.restart, bmc.shut_down):
            with pytest.raises(NotNow):
                await act()

    assert _run(story).notes == []


def test_a_restart_is_an_end_and_a_start() -> None:
    async def story(_: NotedMachine, bmc: Controller) -> None:
        await bmc.power_on()
        await bmc.restart()

    assert _run(story).notes == ["start network", "kill", "start network"]


def test_once_holds_for_one_start_also_when_the_machine_resets_itself() -> None:
    async def story(machine: NotedMachine, bmc: Controller) -> None:
        bmc.set_boot(replace(bmc.boot, override=ONCE_FROM_DISK))
        await bmc.power_on()
        machine.reset_itself()
        await asyncio.sleep(0)
        await bmc.power_on()

    assert _run(story).notes == ["start disk", "start network"]


def test_a_start_that_fails_does_not_use_up_what_holds_once() -> None:
    async def story(machine: NotedMachine, bmc: Controller) -> None:
        bmc.set_boot(replace(bmc.boot, override=ONCE_FROM_DISK))
        machine.broken = True
        with pytest.raises(LabFailed):
            await bmc.power_on()
        assert bmc.boot.override == ONCE_FROM_DISK

    _run(story)


def test_off_that_comes_while_the_machine_resets_has_the_last_word() -> None:
    async def story(machine: NotedMachine, bmc: Controller) -> None:
        await bmc.power_on()
        machine.reset_itself()
        await bmc.power_off()
        await asyncio.sleep(0)
        assert bmc.power is Power.OFF

    assert _run(story).notes == ["start network"]


def test_a_machine_that_resets_itself_is_started_again() -> None:
    async def story(machine: NotedMachine, bmc: Controller) -> None:
        await bmc.power_on()
        machine.reset_itself()
        for _ in range(3):
            await asyncio.sleep(0)
        assert bmc.power is Power.ON

    assert _run(story).notes == ["start network", "start network"]


def test_a_deaf_bmc_says_yes_to_everything_and_does_nothing() -> None:
    async def story(_: NotedMachine, bmc: Controller) -> None:
        bmc.faults = {BmcFault.DEAF}
        await bmc.power_on()
        await bmc.restart()
        await bmc.shut_down()
        bmc.set_boot(replace(bmc.boot, override=ONCE_FROM_DISK))
        assert bmc.boot.override is None
        assert bmc.power is Power.OFF

    assert _run(story).notes == []


def test_a_lying_bmc_says_the_contrary_and_the_truth_to_those_before_the_rack() -> None:
    async def story(_: NotedMachine, bmc: Controller) -> None:
        bmc.faults = {BmcFault.LYING}
        assert (bmc.power, bmc.true_power) == (Power.ON, Power.OFF)
        await bmc.power_on()
        assert (bmc.power, bmc.true_power) == (Power.OFF, Power.ON)

    _run(story)


def test_a_rack_that_is_taken_down_ends_the_machine_of_a_deaf_bmc_too() -> None:
    async def story(_: NotedMachine, bmc: Controller) -> None:
        await bmc.power_on()
        bmc.faults = {BmcFault.DEAF}
        await bmc.power_off()
        await bmc.close()

    assert _run(story).notes == ["start network", "kill"]
