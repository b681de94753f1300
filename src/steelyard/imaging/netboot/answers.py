"""What each node may fetch, decided beforehand: the servers only look it up. Pure."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from steelyard.imaging.netboot.plan import (
    BOOT_FILE,
    PARAMETERS,
    SCRIPT,
    SECOND_STAGE,
    AirlockBoot,
    BootNetwork,
    NodeBoot,
)
from steelyard.imaging.ports import IscsiAccess
from steelyard.model.errors import WrongUse
from steelyard.model.network import MacAddress
from steelyard.model.secret import Secret

Content = Path | Secret
"""What is served: a file, or bytes that are written nowhere."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the node with this card may fetch, by name; nothing is its own disk's turn."""

    mac: MacAddress
    files: Mapping[str, Content]

    @property
    def boots(self) -> bool:
        """Whether it is told of a boot file."""
        return BOOT_FILE in self.files


Answers = Mapping[IPv4Address, Answer]
"""By the address that the node has."""


def check_boots(network: BootNetwork, boots: Collection[NodeBoot]) -> None:
    """Raise WrongUse unless these boots can all be served on that network at once."""
    doing = f"saying what boots on {network.name}"
    for boot in boots:
        if boot.network != network.name:
            raise WrongUse(doing, expected="boots of this network", found=f"{boot.node} on {boot.network}")
        if not network.first <= boot.address <= network.last:
            expected = f"an address from {network.first} to {network.last}"
            raise WrongUse(doing, expected=expected, found=f"{boot.node} at {boot.address}")
    for what in ("mac", "address"):
        if len({getattr(boot, what) for boot in boots}) != len(boots):
            raise WrongUse(doing, expected="one node for each card and each address", found=f"two of one {what}")


def airlock_files(boot: AirlockBoot, image: Path, second_stage: Path) -> dict[str, Content]:
    """Return what a node in the airlock may fetch."""
    own: dict[str, Content] = {
        BOOT_FILE: image,
        SECOND_STAGE: second_stage,
        PARAMETERS: Secret(boot.parameters),
        SCRIPT: _CHAIN,
    }
    return {**boot.files, **own}


def direct_files(image: Path) -> dict[str, Content]:
    """Return what a node may fetch for which this unified kernel image was made."""
    return {BOOT_FILE: image, SCRIPT: _CHAIN}


def ipxe_files(access: IscsiAccess, ipxe: Path) -> dict[str, Content]:
    """Return what a node may fetch that boots from a volume. Raises WrongUse."""
    return {BOOT_FILE: ipxe, SCRIPT: Secret(_iscsi_script(access).encode("ascii"))}


_CHAIN: Final = Secret(f"#!ipxe\nchain {BOOT_FILE} || reboot\n".encode("ascii"))
"""For a card that has iPXE in its own memory."""

_WORD: Final = re.compile(r"[A-Za-z0-9._:-]{1,223}", re.ASCII)
"""What means nothing in a script; the length is that of an iSCSI name. Source: RFC 7143, section 4.2.7.1."""


def _iscsi_script(access: IscsiAccess) -> str:
    """Return the script: both sides prove what they know, and who fails tries again rather than its own disk."""
    words = {
        "username": access.user,
        "password": access.password.reveal().decode("ascii"),
        "reverse-username": access.target_user,
        "reverse-password": access.target_password.reveal().decode("ascii"),
    }
    for word in (*words.values(), access.target):
        if not _WORD.fullmatch(word):
            raise WrongUse("writing an iPXE script", expected="words of letters, digits and ._:-", found="another")
    settings = "".join(f"set {name} {word}\n" for name, word in words.items())
    # Port in decimal, LUN in hexadecimal. Source: RFC 4173, section 5; iPXE, net/tcp/iscsi.c.
    return f"#!ipxe\n{settings}sanboot iscsi:{access.address}::{access.port}:{access.lun:x}:{access.target} || reboot\n"
