"""The imaging service as the enclave needs it, by its HTTP API."""

from collections.abc import Collection
from contextlib import suppress
from typing import Final

from steelyard.client import imaging
from steelyard.client.call import Call
from steelyard.client.connection import Client
from steelyard.client.imaging import WhatToBoot
from steelyard.client.imaging_objects import Boot, BootFile, ImagingOperation, Volume
from steelyard.enclave.ports import AirlockBoot, Done, File, OpenBoot, Pending, Progress, System
from steelyard.model.errors import NotFound, StorageFailed, WrongState
from steelyard.model.secret import Secret

SECONDS: Final = 300


class OverImaging:
    """Disks (see `ports.py`), by a client of the imaging service. Threads share it."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def make_volume(self, project: str, volume: str, image: str, size_bytes: int | None, asked: str | None) -> Progress:
        """See `Disks`."""
        found = self._volume(project, volume)
        if found is not None and found.state == "ready":
            return Done()
        call = imaging.make_volume(project, volume, image=image, size_bytes=size_bytes, seconds=SECONDS)
        return self._await(asked, call)

    def boot_open(self, project: str, node: str, what: OpenBoot, asked: str | None) -> Progress:
        """See `Disks`."""
        direct = imaging.DirectBoot(what.volume, "nbd", what.command_line, what.seed)
        return self._boot(project, node, what.network, what.mac, direct, what.volume, asked)

    def boot_airlock(self, project: str, node: str, what: AirlockBoot, asked: str | None) -> Progress:
        """See `Disks`."""
        airlock = imaging.AirlockBoot(what.parameters, what.image)
        return self._boot(project, node, what.network, what.mac, airlock, what.parameters, asked)

    def _boot(
        self, project: str, node: str, network: str, mac: str, what: WhatToBoot, mark: str, asked: str | None
    ) -> Progress:
        """Have it said once: said again it would be another boot, that takes the disk from the first."""
        found = self._find_boot(project, node)
        if found is not None and mark in (found.boot.volume, found.boot.parameters):
            if found.state == "ready":
                return Done()
            if found.state == "preparing":
                return Pending(asked, "imaging prepares it")
        return self._await(asked, imaging.put_boot(project, node, network=network, mac=mac, what=what, seconds=SECONDS))

    def address(self, project: str, node: str) -> str | None:
        """See `Disks`."""
        found = self._find_boot(project, node)
        return None if found is None else found.address

    def open_volume(self, project: str, volume: str, network: str, address: str, asked: str | None) -> Progress:
        """See `Disks`."""
        found = self._volume(project, volume)
        if found is not None and found.opening is not None and found.opening.address == address:
            if found.opening.state == "open":
                return Done()
            if found.opening.state == "opening":
                return Pending(asked, "imaging opens it")
        call = imaging.open_volume(project, volume, network=network, protocol="nbd", address=address, seconds=SECONDS)
        return self._await(asked, call)

    def system(self, project: str, image: str, network: str) -> System:
        """See `Disks`."""
        owner, slash, name = image.rpartition("/")
        found = self._client.ask(imaging.read_image(owner if slash else project, name))
        networks = {each.name: each.address for each in self._client.every(imaging.list_boot_networks())}
        doing = f"looking what boots of image {image}"
        if found.boot is None or found.boot.kernel is None or found.boot.initramfs is None:
            raise WrongState(doing, expected="an image with kernel and initramfs", found=found.boot_trouble or "none")
        if network not in networks:
            raise NotFound(doing, expected=f"a boot network {network}", found="none")
        server = networks[network].partition("/")[0]
        return System(
            _file(server, "kernel", found.boot.kernel),
            _file(server, "initramfs", found.boot.initramfs),
            found.boot.command_line or "",
        )

    def access(self, project: str, volume: str) -> Secret:
        """See `Disks`."""
        return self._client.ask(imaging.read_access(project, volume))

    def end_boot(self, project: str, node: str, marks: Collection[str], asked: str | None) -> Progress:
        """See `Disks`."""
        found = self._find_boot(project, node)
        if found is None or not _is_marked(found, marks):
            return Done()
        return self._await(asked, imaging.end_boot(project, node, seconds=SECONDS), done=False)

    def end_volume(self, project: str, volume: str, *, keep: bool, asked: str | None) -> Progress:
        """See `Disks`."""
        found = self._volume(project, volume)
        if found is None:
            return Done()
        if found.opening is not None:
            return self._await(asked, imaging.close_volume(project, volume, seconds=SECONDS), done=False)
        if found.state != "ready":
            return Pending(asked, "imaging is at work on it")
        if keep:
            return Done()
        with suppress(NotFound):
            self._client.ask(imaging.delete_volume(project, volume))
        return Done()

    def _await(self, asked: str | None, call: Call[ImagingOperation], *, done: bool = True) -> Progress:
        """Return how an operation goes on; one that was never begun is begun. Raises StorageFailed.

        done  whether it is enough that the operation is; else what it was to bring about is looked at again.
        """
        operation = self._operation(asked)
        if operation is not None and not operation.over:
            return Pending(operation.id, operation.progress)
        if operation is not None and operation.state == "done" and done:
            return Done()
        words = ""
        if operation is not None and operation.state == "failed":
            failure = operation.failure or {}
            words = failure.get("found", operation.progress)
        begun = self._client.ask(call)
        if begun.state == "failed":
            found = (begun.failure or {}).get("found", begun.progress)
            raise StorageFailed(call.doing, expected="it done", found=found)
        return Done() if begun.state == "done" and done else Pending(begun.id, words or begun.progress)

    def _operation(self, asked: str | None) -> ImagingOperation | None:
        if asked is None:
            return None
        try:
            return self._client.ask(imaging.read_operation(asked))
        except NotFound:
            return None

    def _volume(self, project: str, volume: str) -> Volume | None:
        try:
            return self._client.ask(imaging.read_volume(project, volume))
        except NotFound:
            return None

    def _find_boot(self, project: str, node: str) -> Boot | None:
        try:
            return self._client.ask(imaging.read_boot(project, node))
        except NotFound:
            return None


def _is_marked(boot: Boot, marks: Collection[str]) -> bool:
    parameters = boot.boot.parameters or ""
    return any(mark == boot.boot.volume or mark in parameters for mark in marks)


def _file(server: str, name: str, file: BootFile) -> File:
    return File(f"http://{server}/{name}", file.size_bytes, file.sha256)
