"""Where recorded evidence lies: ours in the checkout, other people's beside it."""

from pathlib import Path

import pytest

OWN = Path(__file__).parent / "vectors"
_SHARED = Path(__file__).parents[2] / "shared" / "vectors"


def shared_vectors(name: str) -> Path:
    """Return the folder `name` of the shared vectors; skip the test where they are not beside the checkout."""
    folder = _SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs recorded vectors in ../shared/vectors/{name}, beside the checkout")
    return folder
