"""Every export that passes the conformance suite, and how a node opens what it serves: by QEMU's own clients."""

import fcntl
import itertools
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest

from steelyard.imaging.exports.iscsi import iscsi_export
from steelyard.imaging.exports.nbd import nbd_export
from steelyard.imaging.exports.recorded import RecordedExport
from steelyard.imaging.ports import Access, Export, IscsiAccess, NbdAccess
from steelyard.model.secret import Secret
from tests.disks import BLOCK

LOOPBACK = ip_address("127.0.0.1")
ELSEWHERE = ip_address("127.0.0.9")
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="tgtd and the mount it serves need root")
EXPORTS: dict[str, Callable[..., RecordedExport]] = {"nbd": nbd_export, "iscsi": iscsi_export}

KINDS = ["nbd", pytest.param("iscsi", marks=NEEDS_ROOT)]

_CLIENTS = itertools.count()
PATIENCE_SECONDS = 20.0


def open_export(kind: str, root: Path, address: IPv4Address | IPv6Address = LOOPBACK) -> Export:
    """Return the export of that kind, its ports below those that the system gives out, apart from other runs'."""
    return EXPORTS[kind](root, address, _ports())


_PORTS = "STEELYARD_TEST_PORTS"
"""Tells the programs that a run starts which ports are its."""


def _ports() -> range:
    if _PORTS not in os.environ:
        os.environ[_PORTS] = str(_first_port())
    first = int(os.environ[_PORTS])
    return range(first, first + 64)


def _first_port() -> int:
    """Return the first of 64 ports that no other run has as long as this one lives."""
    for first in range(20000, 32000, 64):
        place = Path(tempfile.gettempdir()) / f"steelyard-test-ports-{first}"
        lock = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return first
    raise AssertionError("no ports are left")


def wrong_credentials(access: Access, other: Access) -> Iterator[Access]:
    """Yield what a node could try that has not been given `access`, but `other`."""
    match access, other:
        case NbdAccess(), NbdAccess():
            yield replace(access, certificate=other.certificate, key=other.key)
            yield replace(access, key=other.key)
            yield replace(access, certificate=b"", key=Secret(b""))
        case IscsiAccess(), IscsiAccess():
            yield replace(access, password=other.password)
            yield replace(access, user=other.target_user, password=other.target_password)
            yield replace(access, user="", password=Secret(b""))
            yield replace(access, user=access.target_user, password=access.target_password)
        case _:
            raise TypeError


def secrets_of(access: Access) -> list[bytes]:
    match access:
        case NbdAccess():
            return [access.key.reveal()]
        case IscsiAccess():
            return [access.password.reveal(), access.target_password.reveal()]


def client_arguments(access: Access, scratch: Path) -> list[str]:
    """Return how QEMU's programs are told to open it."""
    match access:
        case NbdAccess():
            directory = scratch / f"client-{next(_CLIENTS)}"
            directory.mkdir()
            (directory / "ca-cert.pem").write_bytes(access.authority)
            if access.certificate:
                (directory / "client-cert.pem").write_bytes(access.certificate)
                (directory / "client-key.pem").write_bytes(access.key.reveal())
            place = f"file.server.type=inet,file.server.host={access.address},file.server.port={access.port}"
            return [
                *("--object", f"tls-creds-x509,id=tls,endpoint=client,dir={directory}"),
                *("--image-opts", f"driver=raw,file.driver=nbd,{place},file.export={access.export},file.tls-creds=tls"),
            ]
        case IscsiAccess():
            host = f"[{access.address}]" if access.address.version == 6 else str(access.address)
            place = f"file.transport=tcp,file.portal={host}:{access.port},file.target={access.target}"
            user = f",file.user={access.user},file.password-secret=secret" if access.user else ""
            return [
                *("--object", f"secret,id=secret,data={access.password.reveal().decode() or '-'}"),
                *("--image-opts", f"driver=raw,file.driver=iscsi,{place},file.lun={access.lun}{user}"),
            ]


def can_open(access: Access, scratch: Path) -> bool:
    """Say whether a node gets in."""
    command = ["qemu-io", *client_arguments(access, scratch)]
    command[1:1] = ["-c", f"read 0 {BLOCK}"]
    ended = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30)
    sys.stderr.write(ended.stderr)  # shown if the test fails: why it did not get in
    return ended.returncode == 0 and f"read {BLOCK}/{BLOCK}" in ended.stdout


@dataclass
class Session:
    """A node that has its disk open."""

    process: subprocess.Popen[bytes]

    def do(self, command: str, seconds: float = PATIENCE_SECONDS) -> bool:
        """Say whether the disk does what is asked. One that answers nothing for so long does not."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(command.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return False
        return b"failed" not in (answer := self.hear(seconds)) and b"bytes at offset" in answer

    def hear(self, seconds: float = PATIENCE_SECONDS) -> bytes:
        assert self.process.stdout is not None
        heard = b""
        while not heard.endswith(b"qemu-io> "):
            if not select.select([self.process.stdout], [], [], seconds)[0]:
                return b""
            more = os.read(self.process.stdout.fileno(), 4096)
            if not more:
                return b""
            heard += more
        return heard

    def stop(self) -> None:
        """Have the node hang, its connections open."""
        self.process.send_signal(signal.SIGSTOP)


@contextmanager
def session(access: Access, scratch: Path) -> Iterator[Session]:
    """Have a node open its disk, until done."""
    command = ["qemu-io", *client_arguments(access, scratch)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT) as process:
        try:
            node = Session(process)
            assert node.hear()
            yield node
        finally:
            process.kill()


def living(words: Sequence[str]) -> list[int]:
    """Return the processes that have any of the words among their arguments."""
    return [pid for pid in _others() if any(word in _arguments(pid) for word in words)]


def serving(root: Path) -> list[int]:
    """Return the processes that an export has started: they have its directory in their arguments, or a lock open."""
    return [pid for pid in _others() if str(root) in _arguments(pid) or _has_open(pid, root)]


def none_serves(root: Path) -> bool:
    """Say whether they are all gone: what confines a daemon ends a moment after it."""
    limit = time.monotonic() + PATIENCE_SECONDS
    while serving(root):
        if time.monotonic() > limit:
            return False
        time.sleep(0.01)
    return True


def _others() -> Iterator[int]:
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and int(process.name) != os.getpid():
            yield int(process.name)


def _arguments(pid: int) -> str:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    return ""


def _has_open(pid: int, root: Path) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                if str(root) in str(descriptor.readlink()):
                    return True
    return False
