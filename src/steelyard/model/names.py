"""Names of things: short, ASCII, safe in a URL, a file name, a log and a shell.

Anything else is refused everywhere (attack 5): no slash, no dot at the start, no control character, no look-alike.
"""

import re
from typing import Final

from steelyard.model.errors import WrongUse

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
_PORT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9/.:_-]{0,62}", re.ASCII)


def check_name(name: str, what: str) -> str:
    """Return `name` when it is one: 1 to 63 of a-z 0-9 . _ -, a letter or digit first. Raises WrongUse."""
    if not _NAME.fullmatch(name):
        raise WrongUse(
            f"naming a {what}",
            expected="1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit",
            found=name or "none",
        )
    return name


def check_port_name(name: str) -> str:
    """Return `name` when it can be a switch's name for a port ("Ethernet1/1", "ge-0/0/1"). Raises WrongUse."""
    if not _PORT_NAME.fullmatch(name):
        raise WrongUse(
            "naming a port",
            expected="1 to 63 of A-Z a-z 0-9 / . : _ -, beginning with a letter or digit",
            found=name or "none",
        )
    return name
