"""What a switch and a cable know: VLANs, hardware addresses, what a port carries."""

import re
from dataclasses import dataclass, field
from typing import Final

from steelyard.model.errors import WrongUse

_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Vlan:
    """A VLAN that networks may have: 2 to 4094. Raises WrongUse.

    1 is every switch's default and so carries whatever nobody thought of; 0 and 4095 are reserved.
    Source: IEEE 802.1Q-2022, table 9-2.
    """

    number: int

    def __post_init__(self) -> None:
        if not 2 <= self.number <= 4094:
            raise WrongUse("choosing a VLAN", expected="2 to 4094", found=str(self.number))

    def __str__(self) -> str:
        return str(self.number)


@dataclass(frozen=True, slots=True, order=True)
class MacAddress:
    """A hardware address, kept as aa:bb:cc:dd:ee:ff; of one card, not of a group. Raises WrongUse."""

    text: str

    def __post_init__(self) -> None:
        if not _MAC.fullmatch(self.text) or int(self.text[:2], 16) & 1 or self.text == "00:00:00:00:00:00":
            raise WrongUse(
                "naming a hardware address", expected="aa:bb:cc:dd:ee:ff in lower case, of one card", found=self.text
            )

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class PortVlans:
    """What a switch port carries, exactly.

    untagged   the VLAN of frames without a tag, both ways; None: such frames are dropped.
    tagged     VLANs carried with their tag.
    isolated   this port and every other isolated port of the switch do not hear each other; only of one with a VLAN.
    """

    untagged: Vlan | None = None
    tagged: frozenset[Vlan] = field(default_factory=frozenset)
    isolated: bool = False

    def __post_init__(self) -> None:
        if self.untagged in self.tagged:
            raise WrongUse(
                "setting a port", expected="a VLAN with or without its tag", found=f"both for {self.untagged}"
            )
        if self.isolated and not self.vlans:
            # It would say nothing, and there is one way only to say SHUT.
            raise WrongUse("setting a port", expected="a VLAN on a port that is isolated", found="none")

    @property
    def vlans(self) -> frozenset[Vlan]:
        """Every VLAN on the port."""
        return self.tagged if self.untagged is None else self.tagged | {self.untagged}


SHUT: Final = PortVlans()
"""Carries nothing, on no VLAN; administratively down where the device can be."""
