"""Does what imaging's API is asked for, in words and in files of the test's own: no store, no export, no network."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from steelyard.imaging import catalogue, outcomes
from steelyard.imaging.objects import ImageContents, Operation, Verb
from steelyard.model.errors import WrongDigest
from tests.api import Api
from tests.unit.imaging import rig

LOOK_SECONDS: Final = 0.2


@contextmanager
def working(api: Api) -> Iterator[None]:
    """Have a worker beside the service."""
    ended = threading.Event()

    def work() -> None:
        with api.database.wakeups.subscribe(catalogue.WORK) as alarm:
            while not ended.is_set():
                for operation in api.imaging.live():
                    do(api, operation)
                alarm.wait(LOOK_SECONDS)

    thread = threading.Thread(target=work, name="imaging worker")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def do(api: Api, operation: Operation) -> None:
    """Do one operation: an image is what was uploaded, or 1024 zeros."""
    if operation.verb is not Verb.MAKE_IMAGE:
        api.imaging.do(operation)
        return
    disk = bytes(api.storage.uploads.get(operation.parameters.get("upload", ""), bytes(1024)))
    digest = hashlib.sha256(disk).digest()
    wanted = operation.parameters.get("sha256", "")
    if wanted not in ("", digest.hex()):
        with api.imaging.tx() as tx:
            outcomes.failed(tx, operation, WrongDigest("importing", expected=wanted, found=digest.hex()))
        return
    with api.imaging.tx() as tx:
        outcomes.progress(tx, operation, "reading", len(disk) // 2, len(disk))
    api.storage.put_image(operation.target, disk)
    api.imaging.do(operation, ImageContents(digest, len(disk), len(disk) // 2, rig.KERNEL, None))
