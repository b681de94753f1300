"""Attaches a root volume for a look at it: by NBD over TLS, or by iSCSI with CHAP both ways.

What proves the node to the server reaches the programs in files in memory that root alone can read: arguments are
there for every process to see. The session ends after the look, as an export may serve one at a time, and the next
system is to find it free.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from steelyard.agent.payload import IscsiVolume, NbdVolume, Volume
from steelyard.agent.programs import run, write_private
from steelyard.model.errors import NodeFailed

_NBD_DEVICE: Final = Path("/dev/nbd0")
_INITIATOR: Final = "iqn.2026-11.internal.steelyard:airlock"
_SESSIONS: Final = Path("/sys/class/iscsi_session")
_DEVICES: Final = Path("/dev")
_LONGEST_SCAN_SECONDS: Final = 10
_SCAN_PAUSE_SECONDS: Final = 0.02


def attached(volume: Volume, work: Path) -> AbstractContextManager[Path]:
    """Give the volume as a block device to read, for as long as the context lasts. Raises NodeFailed.

    work  a directory in memory. The image's /etc/iscsi is a link to `iscsi` in it, as open-iscsi looks nowhere else.
    """
    match volume:
        case NbdVolume():
            return _by_nbd(volume, work)
        case IscsiVolume():
            return _by_iscsi(volume, work)


@contextmanager
def _by_nbd(volume: NbdVolume, work: Path) -> Iterator[Path]:
    files = {"authority": volume.authority.encode(), "certificate": volume.certificate.encode()}
    paths = {name: write_private(work / f"nbd.{name}", content) for name, content in files.items()}
    key = write_private(work / "nbd.key", volume.key.reveal())
    run(["modprobe", "nbd"])
    try:
        tls: list[str | Path] = ["-cacertfile", paths["authority"], "-certfile", paths["certificate"], "-keyfile", key]
        run(["nbd-client", volume.address, str(volume.port), _NBD_DEVICE, "-N", volume.export, "-readonly", *tls])
    finally:
        key.unlink()
    try:
        yield _NBD_DEVICE
    finally:
        run(["nbd-client", "-d", _NBD_DEVICE])


@contextmanager
def _by_iscsi(volume: IscsiVolume, work: Path) -> Iterator[Path]:
    folder = work / "iscsi"
    folder.mkdir(mode=0o700)
    shown = f"[{volume.address}]" if ip_address(volume.address).version == 6 else volume.address
    node = ["iscsiadm", "--mode", "node", "--targetname", volume.target, "--portal", f"{shown}:{volume.port}"]
    try:
        write_private(folder / "initiatorname.iscsi", f"InitiatorName={_INITIATOR}\n".encode())
        write_private(folder / "iscsid.conf", _settings(volume))
        run(["modprobe", "-a", "iscsi_tcp", "sd_mod"])
        run(["iscsid"])  # it goes on by itself, as soon as it listens
        run([*node, "--op", "new"])  # of the settings, as iscsid says where they are
        run([*node, "--login"])
        try:
            yield _await_disk(volume.lun)
        finally:
            run([*node, "--logout"])
            run(["iscsiadm", "--killiscsid", "0"])
    finally:
        shutil.rmtree(folder)


def _settings(volume: IscsiVolume) -> bytes:
    """Return iscsid.conf. Source: the one that open-iscsi 2.1.8 comes with; it says what each setting is."""
    settings = {
        "node.session.auth.authmethod": "CHAP",
        "node.session.auth.username": volume.user,
        "node.session.auth.password": volume.password.reveal().decode(),
        "node.session.auth.username_in": volume.target_user,
        "node.session.auth.password_in": volume.target_password.reveal().decode(),
        # A server that is not there is not waited for longer than any program.
        "node.conn[0].timeo.login_timeout": "10",
        "node.session.initial_login_retry_max": "3",
    }
    return "".join(f"{name} = {value}\n" for name, value in settings.items()).encode()


def _await_disk(lun: int) -> Path:
    """Return the disk of the one session, as soon as the kernel has it."""
    limit = time.monotonic() + _LONGEST_SCAN_SECONDS
    while True:
        for disk in _SESSIONS.glob(f"session*/device/target*/*:{lun}/block/*"):
            if (device := _DEVICES / disk.name).exists():
                return device
        if time.monotonic() > limit:
            expected = f"a disk of LUN {lun} within {_LONGEST_SCAN_SECONDS} s"
            raise NodeFailed("attaching the root volume", expected=expected, found="none")
        time.sleep(_SCAN_PAUSE_SECONDS)
