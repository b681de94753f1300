"""Reads the files that the agent is handed, and no more of one than it may have."""

from pathlib import Path

from steelyard.evidence.reader import refuse_over
from steelyard.model.errors import NodeFailed
from steelyard.model.limits import Limit


def read_file(path: Path, limit: Limit, doing: str) -> bytes:
    """Return what is in a file. Raises NodeFailed, TooLarge; never with a part of it in the text."""
    try:
        with path.open("rb") as file:
            data = file.read(limit.most + 1)
    except OSError as error:
        raise NodeFailed(doing, expected=f"{path}", found=str(error)) from error
    refuse_over(limit, len(data), doing)
    return data
