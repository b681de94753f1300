"""Text as firmware and boot loaders record it, in two encodings that nothing tells apart but the text itself."""

from typing import Final

_WHITE_SPACE: Final = dict.fromkeys(map(ord, "\t\n\r"))


def read_text(data: bytes) -> str | None:
    """Return the text that all of `data` is, or nothing: UTF-16 with a NUL at its end, else UTF-8 with or without one.

    Text is at least one character, all of them printable or white space: a number of some bytes is no text by accident
    of its value more often than must be, but may be.
    """
    wide = len(data) % 2 == 0 and data.endswith(b"\0\0")
    try:
        text = data[:-2].decode("utf-16-le") if wide else data.removesuffix(b"\0").decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if text and text.translate(_WHITE_SPACE).isprintable() else None
