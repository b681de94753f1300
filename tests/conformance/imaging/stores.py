"""Every store that passes the conformance suite, by name."""

from pathlib import Path

from steelyard.imaging.ports import Store
from steelyard.imaging.stores.directory import DirectoryStore

STORES = {"directory": DirectoryStore}


def open_store(kind: str, place: Path) -> Store:
    """Return the store of that kind in `place`, made if it is not there."""
    return STORES[kind](place)
