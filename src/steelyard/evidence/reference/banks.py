"""The banks that references are made for: every one that is believed, as the verifier chooses later which to quote."""

import hashlib
from collections.abc import Mapping
from typing import Final

from steelyard.model.algorithms import HashAlgorithm

BANKS: Final = tuple(algorithm for algorithm in HashAlgorithm if algorithm.believed)


def digests_of(*parts: bytes | memoryview) -> Mapping[HashAlgorithm, bytes]:
    """Return the hash of the joined `parts` per bank: what extends a PCR when they are measured as one event."""
    digests = {}
    for bank in BANKS:
        state = hashlib.new(bank.label)
        for part in parts:
            state.update(part)
        digests[bank] = state.digest()
    return digests
