"""What a BMC remembers about booting, and what that means for the next start. Pure."""

import json
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from steelyard.lab.plan import BootDevice


class Lifetime(StrEnum):
    """How long an override holds."""

    ONCE = "once"
    PERSISTENT = "persistent"


@dataclass(frozen=True, slots=True)
class Override:
    """A device to boot from, put before the boot order."""

    device: BootDevice
    lifetime: Lifetime


@dataclass(frozen=True, slots=True)
class BootSettings:
    """The boot order, each device in it once, and what is put before it."""

    order: tuple[BootDevice, ...]
    override: Override | None


FACTORY_SETTINGS: Final = BootSettings((BootDevice.NETWORK, BootDevice.DISK), None)


def start_with(settings: BootSettings) -> tuple[tuple[BootDevice, ...], BootSettings]:
    """Return the order for the start that is due, and the settings after it: what held once is used up."""
    if settings.override is None:
        return settings.order, settings
    first = settings.override.device
    order = (first, *(device for device in settings.order if device is not first))
    match settings.override.lifetime:
        case Lifetime.ONCE:
            return order, replace(settings, override=None)
        case Lifetime.PERSISTENT:
            return order, settings


def encode_settings(settings: BootSettings) -> str:
    """Return the settings as JSON."""
    override = settings.override
    return json.dumps(
        {
            "order": list(settings.order),
            "override": override and {"device": override.device, "lifetime": override.lifetime},
        }
    )


def decode_settings(text: str) -> BootSettings:
    """Return what `encode_settings` wrote."""
    document = json.loads(text)
    override = document["override"]
    return BootSettings(
        tuple(BootDevice(device) for device in document["order"]),
        override and Override(BootDevice(override["device"]), Lifetime(override["lifetime"])),
    )
