"""Wait for something to become true, and not for longer than is sensible."""

import asyncio
from collections.abc import Callable
from typing import Final

from steelyard.model.errors import LabFailed

_LOOK_SECONDS: Final = 0.01


async def until(doing: str, condition: Callable[[], bool], limit_seconds: float) -> None:
    """Return when `condition` holds. Raises LabFailed if that takes longer than the limit."""
    loop = asyncio.get_running_loop()
    limit = loop.time() + limit_seconds
    while not condition():
        if loop.time() > limit:
            raise LabFailed(doing, expected=f"it to be done in {limit_seconds:g} s", found="it was not")
        await asyncio.sleep(_LOOK_SECONDS)
