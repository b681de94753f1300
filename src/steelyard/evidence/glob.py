"""Patterns with `*` that match the whole of a text and cost no more than its length times their own.

Regular expressions match more than people mean, and some take for ever (attack 26).
"""

import re
from typing import Final

_WHITE_SPACE: Final = re.compile(r"(\s)")


def matches_text(pattern: str, text: str) -> bool:
    """Tell whether `pattern` is all of `text`; `*` stands for any run of signs but white space, all else for itself.

    So a word may vary, and none can be put beside it: `root=* ro` does not let `root=/dev/sda1 init=/bin/sh ro` pass.
    """
    patterns, words = _WHITE_SPACE.split(pattern), _WHITE_SPACE.split(text)
    return len(patterns) == len(words) and all(map(_matches_word, patterns, words))


def _matches_word(pattern: str, text: str) -> bool:
    first, *rest = pattern.split("*")
    if not rest:
        return text == pattern
    *middle, last = rest
    if not text.startswith(first) or not text.endswith(last):
        return False
    position, end = len(first), len(text) - len(last)
    for part in middle:
        # The earliest place is as good as any later one: what follows can only have more room.
        position = text.find(part, position, end)
        if position < 0:
            return False
        position += len(part)
    return position <= end
