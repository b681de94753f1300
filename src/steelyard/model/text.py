"""How a stranger's words are shown: on one line, without control characters, no longer than they deserve."""

from typing import Final

SHOWN_CHARACTERS: Final = 200
"""A path, a subject name and a digest fit; a flooded log does not."""


def printable(words: str | bytes, limit: int = SHOWN_CHARACTERS) -> str:
    """Return `words` fit for a terminal and a log: printable ASCII, the rest as escapes, cut at `limit`.

    Stops log and terminal injection, and look-alike characters that pass for a name one knows.
    """
    if isinstance(words, bytes):
        words = words[: limit + 1].decode("utf-8", "backslashreplace")
    cut = words[:limit]
    if cut.isascii() and cut.isprintable():
        return cut + "..." if len(words) > limit else cut
    shown = "".join(
        letter if " " <= letter <= "~" else letter.encode("unicode_escape", "backslashreplace").decode("ascii")
        for letter in cut
    )
    return shown + "..." if len(words) > limit else shown
