"""Patterns with `*` that match the whole of a text and cost no more than its length times their own.

Regular expressions match more than people mean, and some take for ever (attack 26).
"""


def matches_text(pattern: str, text: str) -> bool:
    """Tell whether `pattern` is all of `text`; `*` stands for any run of letters, and nothing else is special."""
    first, *rest = pattern.split("*")
    if not rest:
        return text == pattern
    *middle, last = rest
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    position, end = len(first), len(text) - len(last)
    for part in middle:
        # The earliest place is as good as any later one: what follows can only have more room.
        position = text.find(part, position, end)
        if position < 0:
            return False
        position += len(part)
    return position <= end
