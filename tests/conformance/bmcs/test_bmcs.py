"""What every driver of a BMC has to do, whatever it speaks: over the drivers, with the lab's BMC, and over the fake."""

import threading
import time
from collections.abc import Callable

import pytest

from steelyard.isolation.ports import Access, Bmc, BootDevice, Console, Power
from steelyard.lab.bmc import ipmi as lab_ipmi
from steelyard.lab.bmc import redfish as lab_redfish
from steelyard.model.errors import (
    DeviceError,
    DeviceGarbled,
    DeviceRefused,
    DeviceUnreachable,
    OutcomeUnknown,
    WrongUse,
)
from tests.conformance.bmcs.subjects import Subject, Trouble

VERBS: dict[str, Callable[[Bmc], object]] = {
    "read_power": lambda bmc: bmc.read_power(),
    "set_power": lambda bmc: bmc.set_power(Power.ON),
    "shut_down": lambda bmc: bmc.shut_down(),
    "set_boot_device": lambda bmc: bmc.set_boot_device(BootDevice.DISK, once=False),
    "open_console": lambda bmc: bmc.open_console(),
}
every_verb = pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
every_verb_in_vain = pytest.mark.parametrize(
    "verb",
    [
        pytest.param(verb, id=name, marks=() if name == "set_power" else pytest.mark.slow)
        for name, verb in VERBS.items()
    ],
)
"""Each takes as long as a driver waits for an answer."""


# -- power -------------------------------------------------------------------------------------------------------------


def test_power_is_asked_of_the_node_each_time(subject: Subject, bmc: Bmc) -> None:
    for power in (Power.OFF, Power.ON, Power.OFF):
        subject.switch(power)
        assert bmc.read_power() is power


def test_a_node_is_switched_on_and_off_and_twice_is_harmless(subject: Subject, bmc: Bmc) -> None:
    for power in (Power.ON, Power.ON, Power.OFF, Power.OFF):
        bmc.set_power(power)
        assert subject.power is power
    assert len(subject.starts) == 1


def test_a_system_is_asked_to_go_off_and_twice_is_harmless(subject: Subject, bmc: Bmc) -> None:
    subject.switch(Power.ON)
    bmc.shut_down()
    assert subject.power is Power.OFF
    bmc.shut_down()
    assert subject.power is Power.OFF
    assert len(subject.starts) == 1


# -- boot device -------------------------------------------------------------------------------------------------------


def start(subject: Subject, bmc: Bmc) -> BootDevice:
    """Start the node anew; return what from."""
    subject.switch(Power.OFF)
    bmc.set_power(Power.ON)
    return subject.starts[-1]


def test_a_device_for_once_holds_for_one_start(subject: Subject, bmc: Bmc) -> None:
    bmc.set_boot_device(BootDevice.DISK, once=True)
    assert [start(subject, bmc) for _ in range(2)] == [BootDevice.DISK, BootDevice.DEFAULT]


def test_a_device_for_good_holds_until_another_is_set(subject: Subject, bmc: Bmc) -> None:
    bmc.set_boot_device(BootDevice.DISK, once=False)
    assert [start(subject, bmc) for _ in range(2)] == [BootDevice.DISK] * 2
    bmc.set_boot_device(BootDevice.NETWORK, once=True)
    assert start(subject, bmc) is not BootDevice.DISK


@pytest.mark.parametrize("once", [True, False])
def test_the_default_takes_back_what_was_set(subject: Subject, bmc: Bmc, *, once: bool) -> None:
    bmc.set_boot_device(BootDevice.DISK, once=once)
    bmc.set_boot_device(BootDevice.DEFAULT, once=once)
    assert start(subject, bmc) is BootDevice.DEFAULT


def test_every_device_can_be_set_again_and_again(bmc: Bmc) -> None:
    for device in BootDevice:
        for once in (True, True, False, False):
            bmc.set_boot_device(device, once=once)


# -- console -----------------------------------------------------------------------------------------------------------


def read_all(console: Console, size: int) -> bytes:
    """Return the next `size` bytes that the node says."""
    said = b""
    while len(said) < size:
        more = console.read(10)
        assert more, f"silence after {said!r}"
        said += more
    return said


def test_a_console_carries_every_byte_both_ways(subject: Subject, bmc: Bmc) -> None:
    subject.switch(Power.ON)
    console = bmc.open_console()
    try:
        assert console.read(0.05) == b""
        every_byte = bytes(range(256)) * 4
        subject.say(every_byte)
        assert read_all(console, len(every_byte)) == every_byte
        console.write(every_byte)
        assert subject.hear(len(every_byte)) == every_byte
    finally:
        console.close()


@pytest.mark.parametrize(
    "keys",
    [b"~.", b"\r~.", b"\n~.~?", b"\r~~.", b"~\x1a", b"\r~B\r~\x18.", b"~", b"\r~", b"\x1d\x03\x04\x1c\x1a\x11\x13"],
)
def test_no_keys_are_commands_to_a_program_of_ours(subject: Subject, bmc: Bmc, keys: bytes) -> None:
    subject.switch(Power.ON)
    console = bmc.open_console()
    try:
        for key in keys:
            console.write(bytes([key]))
        console.write(b"|" + keys + b"\r" + keys + b"|")
        expected = keys + b"|" + keys + b"\r" + keys + b"|"
        assert subject.hear(len(expected)) == expected
        subject.say(b"still here")
        assert read_all(console, 10) == b"still here"
    finally:
        console.close()


def test_a_read_that_waits_does_not_hold_up_a_write(subject: Subject, bmc: Bmc) -> None:
    subject.switch(Power.ON)
    console = bmc.open_console()
    try:
        said: list[bytes] = []
        reader = threading.Thread(target=lambda: said.append(console.read(10)))
        reader.start()
        console.write(b"keys")
        assert subject.hear(4) == b"keys"
        assert not said
        subject.say(b"words")
        reader.join()
        assert b"words".startswith(said[0])
    finally:
        console.close()


def test_closing_a_console_ends_a_read_that_waits(subject: Subject, bmc: Bmc) -> None:
    subject.switch(Power.ON)
    console = bmc.open_console()
    ended = threading.Event()
    waiting = threading.Event()

    def read() -> None:
        waiting.set()
        try:
            while True:
                console.read(10)
        except DeviceError:
            ended.set()

    reader = threading.Thread(target=read)
    reader.start()
    waiting.wait()
    begin = time.monotonic()
    console.close()
    assert ended.wait(5)
    assert time.monotonic() - begin < 5
    reader.join()
    console.close()
    for use in (lambda: console.read(1), lambda: console.write(b"keys")):
        with pytest.raises(DeviceUnreachable):
            use()


def test_a_console_that_ends_says_so(subject: Subject, bmc: Bmc) -> None:
    subject.switch(Power.ON)
    console = bmc.open_console()
    try:
        subject.end_console()
        with pytest.raises(DeviceUnreachable):
            console.read(10)
        with pytest.raises(DeviceUnreachable):
            console.write(b"keys")
    finally:
        console.close()


def test_a_console_that_was_left_behind_is_taken_over(subject: Subject, bmc: Bmc) -> None:
    subject.switch(Power.ON)
    left_behind = bmc.open_console()
    console = bmc.open_console()
    try:
        subject.say(b"who hears?")
        assert read_all(console, 10) == b"who hears?"
    finally:
        console.close()
        left_behind.close()


def test_a_console_outlives_the_nodes_power(subject: Subject, bmc: Bmc) -> None:
    console = bmc.open_console()
    try:
        for _ in range(2):
            bmc.set_power(Power.ON)
            subject.say(b"up")
            assert read_all(console, 2) == b"up"
            bmc.set_power(Power.OFF)
            assert console.read(0.05) == b""
    finally:
        console.close()


# -- what can go wrong -------------------------------------------------------------------------------------------------


@every_verb_in_vain
def test_a_bmc_that_nobody_reaches_has_done_nothing_and_comes_back(
    subject: Subject, bmc: Bmc, verb: Callable[[Bmc], object]
) -> None:
    subject.trouble(Trouble.UNREACHABLE)
    with pytest.raises(DeviceUnreachable):
        verb(bmc)
    subject.trouble()
    assert bmc.read_power() is Power.OFF
    assert start(subject, bmc) is BootDevice.DEFAULT


@every_verb
def test_a_wrong_password_is_refused_and_changes_nothing(subject: Subject, verb: Callable[[Bmc], object]) -> None:
    subject.trouble(Trouble.STRANGER)
    stranger = subject.driver(subject.access)
    with pytest.raises(DeviceRefused):
        verb(stranger)
    stranger.close()
    subject.trouble()
    assert subject.power is Power.OFF


def test_a_deaf_bmc_is_found_out_by_reading(subject: Subject, bmc: Bmc) -> None:
    subject.trouble(Trouble.DEAF)
    bmc.set_power(Power.ON)
    assert bmc.read_power() is Power.OFF
    with pytest.raises(DeviceGarbled):
        bmc.set_boot_device(BootDevice.DISK, once=True)


def test_a_lying_bmc_acts_and_says_the_contrary(subject: Subject, bmc: Bmc) -> None:
    subject.trouble(Trouble.LYING)
    assert bmc.read_power() is Power.ON
    bmc.set_power(Power.ON)
    assert subject.power is Power.ON
    assert bmc.read_power() is Power.OFF


def test_a_slow_bmc_is_waited_for(subject: Subject, bmc: Bmc, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (lab_ipmi, lab_redfish):
        monkeypatch.setattr(module, "SLOWNESS_SECONDS", 0.05)
    subject.trouble(Trouble.SLOW)
    bmc.set_boot_device(BootDevice.DISK, once=True)
    assert start(subject, bmc) is BootDevice.DISK


def test_what_was_sent_and_not_answered_may_have_happened(subject: Subject) -> None:
    with subject.losing_answers() as access:
        bmc = subject.driver(access)
        with pytest.raises(OutcomeUnknown):
            bmc.set_power(Power.ON)
        assert subject.power is Power.ON
        with pytest.raises(DeviceUnreachable):
            bmc.read_power()
        bmc.close()


def test_an_address_with_a_word_too_many_is_refused(subject: Subject) -> None:
    with pytest.raises(WrongUse):
        subject.driver(Access({**subject.access.address, "colour": "blue"}, subject.access.credentials))


def test_a_bmc_is_not_connected_to_before_it_is_needed(subject: Subject) -> None:
    subject.trouble(Trouble.UNREACHABLE)
    subject.driver(subject.access).close()


def test_closing_twice_is_harmless(subject: Subject) -> None:
    bmc = subject.driver(subject.access)
    bmc.read_power()
    bmc.close()
    bmc.close()
