"""What it takes until a node can open its volume: clone and export of a 10 GB image, for one node and for 24 at once.

The figures of the issue are wall-clock time: run `./check bench` on an idle machine.
"""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from steelyard.imaging.ports import UNWATCHED, ImageFormat
from steelyard.imaging.stores.directory import DirectoryStore
from tests.conformance.imaging.exports import KINDS, LOOPBACK, open_export

pytestmark = pytest.mark.slow

IMAGE_BYTES = 10 * 10**9 // 512 * 512
DATA_BYTES = 64 * 2**20
TOGETHER = 24


@pytest.fixture(scope="module")
def store() -> Iterator[DirectoryStore]:
    place = Path(tempfile.mkdtemp(prefix="store-"))
    with (place / "raw").open("wb") as file:
        file.write(os.urandom(DATA_BYTES))
        file.truncate(IMAGE_BYTES)
    store = DirectoryStore(place / "store")
    store.import_image("golden", place / "raw", ImageFormat.RAW, None, IMAGE_BYTES, UNWATCHED)
    yield store
    shutil.rmtree(place)


@pytest.mark.parametrize("nodes", [1, TOGETHER])
@pytest.mark.parametrize("kind", KINDS)
def test_a_volume_cloned_and_opened(benchmark: BenchmarkFixture, store: DirectoryStore, kind: str, nodes: int) -> None:
    root = Path(tempfile.mkdtemp(prefix="export-"))
    export = open_export(kind, root)
    rounds = itertools.count()

    def serve(name: str) -> None:
        store.clone("golden", name)
        export.open(name, store.volume_disk(name), LOOPBACK)

    def clear() -> None:
        for name in export.openings():
            export.close(name)
        for name in store.volumes():
            store.delete_volume(name)

    def names() -> tuple[tuple[list[str]], dict[str, object]]:
        clear()
        number = next(rounds)
        return ([f"node-{number}-{node}" for node in range(nodes)],), {}

    with ThreadPoolExecutor(nodes) as pool:

        def serve_all(wanted: list[str]) -> int:
            return len(list(pool.map(serve, wanted)))

        served = benchmark.pedantic(serve_all, setup=names, rounds=3)  # type: ignore[no-untyped-call]  # has no types
    assert served == nodes
    clear()
    shutil.rmtree(root)
