"""How often somebody may ask: token buckets, by address and by node, as many as fit in a small memory."""

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from steelyard.model.errors import TooMany
from steelyard.service.gate import NEIGHBOURS

MOST: Final = 20_000
"""How many are remembered; those who asked the longest ago are forgotten first."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many at once, and one more every so many seconds."""

    burst: int
    seconds: float


class Buckets:
    """One bucket for each name. Threads share it."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        # By name: when its bucket will be full again.
        self._full: OrderedDict[str, float] = OrderedDict()

    def take(self, name: str, doing: str) -> None:
        """Count one more. Raises TooMany."""
        rate, now = self._rate, self._clock()
        with self._lock:
            full = max(self._full.get(name, now), now) + rate.seconds
            if full - now > rate.burst * rate.seconds:
                raise TooMany(doing, expected=f"at most {rate.burst} at a time", found="more")
            self._full[name] = full
            self._full.move_to_end(name)
            while len(self._full) > MOST:
                self._full.popitem(last=False)


def subscriber(source: str) -> str:
    """Return whom an address belongs to: of IPv6, what one subscriber cannot choose. Source: RFC 6177, section 2."""
    try:
        address = ipaddress.ip_address(source)
    except ValueError:
        return source
    if isinstance(address, ipaddress.IPv4Address):
        return source
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), NEIGHBOURS), strict=False))
