"""Which paths a policy means, written as a glob over the whole path.

`*` is any number of bytes but "/", as the whole or a part of one component; `**`, alone in its component, is any number
of components, at the end at least one. All else is itself: there is nothing to escape, and nothing that backtracks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from steelyard.model.errors import MalformedPolicy

_PATH_BYTES: Final = 4096
"""PATH_MAX: a longer name did not come from a kernel, and no glob means it."""

_ANY: Final = ord("*")
_ANY_COMPONENTS: Final = b"**"

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class PathGlob:
    """A glob, anchored at both ends. Made by `path_glob`, so that it is always one that means what it looks like."""

    text: str
    components: tuple[bytes, ...]

    def matches(self, path: bytes) -> bool:
        """Return whether `path`, as the kernel recorded it, is meant. A path with a second reading never is.

        That is one with an empty component, "." or "..", which stand for another file than they seem to, or a NUL.
        """
        if not path.startswith(b"/") or b"\0" in path or len(path) > _PATH_BYTES:
            return False
        components = path[1:].split(b"/")
        return not any(map(_MISLEADING.__contains__, components)) and _fits(
            self.components, components, _ANY_COMPONENTS, _component_fits
        )


_MISLEADING: Final = frozenset({b"", b".", b".."})


def path_glob(text: str) -> PathGlob:
    """Return the glob that `text` writes; " " in it is "_", as the kernel records names. Raises MalformedPolicy."""
    doing = "reading a path glob"
    try:
        written = text.encode("utf-8", "surrogateescape").replace(b" ", b"_")
    except UnicodeEncodeError:
        raise MalformedPolicy(doing, expected="bytes, as UTF-8 or escaped by surrogates", found=text) from None
    components = written[1:].split(b"/")
    for component in components:
        if component in _MISLEADING or b"\0" in component or (b"**" in component and component != _ANY_COMPONENTS):
            expected = "components without `.`, `..` and NUL, `**` alone in its own"
            raise MalformedPolicy(doing, expected=expected, found=text)
    if not written.startswith(b"/"):
        raise MalformedPolicy(doing, expected="a whole path, from / on", found=text)
    if components[-1] == _ANY_COMPONENTS:
        components.append(b"*")
    return PathGlob(text, tuple(components))


def _component_fits(pattern: bytes, component: bytes) -> bool:
    return pattern == component or (_ANY in pattern and _fits(pattern, component, _ANY, int.__eq__))


def _fits(pattern: Sequence[_Item], items: Sequence[_Item], wild: _Item, fits: Callable[[_Item, _Item], bool]) -> bool:
    """Return whether `pattern`, in which `wild` is any number of items, fits all of `items`.

    Where an item does not fit, only the last `wild` is made longer: what an earlier one would gain, a later one covers.
    So the cost is at most the product of the lengths.
    """
    at = item = 0
    resume_at = resume_item = -1
    while item < len(items):
        if at < len(pattern) and pattern[at] == wild:
            at += 1
            resume_at, resume_item = at, item
        elif at < len(pattern) and fits(pattern[at], items[item]):
            at += 1
            item += 1
        elif resume_at >= 0:
            resume_item += 1
            at, item = resume_at, resume_item
        else:
            return False
    return all(left == wild for left in pattern[at:])
