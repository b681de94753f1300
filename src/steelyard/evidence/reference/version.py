"""Orders versions of components as Debian does: of packages, firmware and kernels alike.

Source: Debian Policy Manual 4.6, section 5.6.12 (epoch, upstream version, revision; `~` sorts before everything).
"""

import re
from functools import total_ordering
from typing import Final

from steelyard.model.errors import WrongUse

_LEGAL: Final = re.compile(r"(?:[0-9]{1,9}:)?[A-Za-z0-9.+~:-]{1,200}", re.ASCII)
_RUN: Final = re.compile(r"([^0-9]*)([0-9]*)")
_END_OF_PART: Final = 0
"""Sorts after `~` and before every letter and sign."""


@total_ordering
class Version:
    """A version in Debian's order. Raises WrongUse for letters that a version may not have."""

    __slots__ = ("_key", "text")

    def __init__(self, text: str) -> None:
        if not _LEGAL.fullmatch(text):
            raise WrongUse("reading a version", expected="letters, digits and . + ~ : -, at most 200", found=text)
        epoch, colon, rest = text.partition(":")
        if not (colon and epoch.isdigit()):
            epoch, rest = "0", text
        upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "")
        self.text = text
        self._key = (int(epoch), _sort_key(upstream), _sort_key(revision or "0"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self._key == other._key

    def __lt__(self, other: "Version") -> bool:
        return self._key < other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"Version({self.text!r})"


def _sort_key(part: str) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Return alternating runs of other signs and of digits; numbers compare as numbers, the rest sign by sign."""
    runs = [match.groups() for match in _RUN.finditer(part) if match.group()]
    return (*(((*map(_sign_order, signs), _END_OF_PART), int(digits or "0")) for signs, digits in runs), _NOTHING)


def _sign_order(sign: str) -> int:
    if sign == "~":
        return -1
    return ord(sign) if sign.isalpha() else ord(sign) + 256


_NOTHING: Final = ((_END_OF_PART,), 0)
"""What a part that has ended compares as, against one that goes on."""
