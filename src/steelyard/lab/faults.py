"""What can be made to go wrong on request, so that tests can see what Steelyard does about it."""

from enum import StrEnum


class BmcFault(StrEnum):
    """Of a BMC. Each takes effect at once."""

    UNREACHABLE = "unreachable"
    """Nothing answers at its address."""
    DEAF = "deaf"
    """It says yes to every command and does none."""
    LYING = "lying"
    """It says on when the machine is off, and off when it is on."""
    SLOW = "slow"
    """Each answer comes five seconds late."""


class NodeFault(StrEnum):
    """Of a machine. Each takes effect when it is next started."""

    NEVER_BOOTS = "never-boots"
    """It has power, and its processor does nothing."""
    HANGS = "hangs"
    """Firmware runs, and the machine stops dead when it has loaded an image."""
    MODIFIED_FIRMWARE = "modified-firmware"
    """One byte of a measured volume is another."""
    OTHER_TPM = "other-tpm"
    """Its TPM was replaced by another of the same maker."""
    OTHER_IMAGE = "other-image"
    """It boots an image of somebody else's choice, whatever the boot order says."""


class SwitchFault(StrEnum):
    """Of the switch. The first two take effect at once."""

    UNREACHABLE = "unreachable"
    """Nothing answers at its management address; frames go on as before."""
    DEAF = "deaf"
    """It accepts every change and applies none; frames go on as before."""
    FORGETFUL = "forgetful"
    """When it restarts, its configuration is gone, and every port carries every VLAN."""


Fault = BmcFault | NodeFault | SwitchFault
