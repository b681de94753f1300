"""One real TPM for all tests of a module."""

from collections.abc import Iterator

import pytest

from tests.tpm import SoftwareTpm


@pytest.fixture(scope="module")
def tpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftwareTpm]:
    with SoftwareTpm(tmp_path_factory.mktemp("tpm")) as running:
        yield running
