"""Room for a rack's files."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory with a name short enough for sockets in it, as those of pytest are not where it runs in parallel."""
    with TemporaryDirectory(prefix="lab-") as folder:
        yield Path(folder).resolve()
