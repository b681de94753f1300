"""Sizes as people write and read them: 10G, 512M; powers of 1024."""

import re
from typing import Final

from steelyard.model.errors import WrongUse

UNITS: Final = ("", "K", "M", "G", "T")
_SIZE: Final = re.compile(r"([0-9]{1,19})([KMGT]?)(?:iB|B)?", re.ASCII)


def parse_size(text: str) -> int:
    """Return bytes: 10G is 10 x 1024^3. Raises WrongUse."""
    matched = _SIZE.fullmatch(text)
    if matched is None:
        raise WrongUse("reading a size", expected="bytes, or a number with K, M, G or T", found=text)
    factor: int = 1024 ** UNITS.index(matched[2])
    return int(matched[1]) * factor


def size_words(size_bytes: int) -> str:
    """Return a size in the largest unit of which it has one: 1536 is "1.5 KiB"."""
    power = max((power for power in range(len(UNITS)) if size_bytes >= 1024**power), default=0)
    return f"{size_bytes} B" if power == 0 else f"{size_bytes / 1024**power:.1f} {UNITS[power]}iB"
