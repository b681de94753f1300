"""Boot settings: what each start goes by, and what is left after it."""

import pytest

from steelyard.lab.bmc.boot import (
    FACTORY_SETTINGS,
    BootSettings,
    Lifetime,
    Override,
    decode_settings,
    encode_settings,
    start_with,
)
from steelyard.lab.plan import BootDevice

NETWORK, DISK = BootDevice.NETWORK, BootDevice.DISK


@pytest.mark.parametrize("order", [(NETWORK, DISK), (DISK, NETWORK)])
@pytest.mark.parametrize("device", [NETWORK, DISK])
def test_an_override_comes_first_and_the_order_follows(order: tuple[BootDevice, ...], device: BootDevice) -> None:
    other = NETWORK if device is DISK else DISK
    for lifetime in Lifetime:
        assert start_with(BootSettings(order, Override(device, lifetime)))[0] == (device, other)


def test_once_is_used_up_by_one_start() -> None:
    first, after = start_with(BootSettings((NETWORK, DISK), Override(DISK, Lifetime.ONCE)))
    assert first == (DISK, NETWORK)
    assert start_with(after) == ((NETWORK, DISK), after)


def test_persistent_holds_on() -> None:
    settings = BootSettings((NETWORK, DISK), Override(DISK, Lifetime.PERSISTENT))
    assert start_with(settings) == ((DISK, NETWORK), settings)


@pytest.mark.parametrize(
    "settings",
    [
        FACTORY_SETTINGS,
        BootSettings((DISK, NETWORK), Override(NETWORK, Lifetime.ONCE)),
        BootSettings((DISK, NETWORK), Override(DISK, Lifetime.PERSISTENT)),
    ],
)
def test_what_is_remembered_is_read_back(settings: BootSettings) -> None:
    assert decode_settings(encode_settings(settings)) == settings
