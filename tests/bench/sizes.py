"""How large a benchmark is: as told for its figures by `./check bench`; in `./check` small, to show that it works."""

import os
from typing import Final, TypeVar

T = TypeVar("T")

FULL: Final = os.environ.get("STEELYARD_BENCH") == "full"


def size(full: T, small: T) -> T:
    """Return the one that counts now."""
    return full if FULL else small
