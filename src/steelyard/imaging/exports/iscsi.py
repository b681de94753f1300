"""iSCSI with CHAP both ways, by one tgtd per opening, over a FUSE file of a qemu-storage-daemon.

tgtd serves plain files; the storage daemon makes one of the volume. The two share a mount namespace that nobody else
is in: no other program sees the file, and no mount is left when they have died. tgtd answers root alone and needs to
mount, so that both run with our rights; for a node that is trusted little, NBD is confined.

Who may come in: the node's address, and whoever knows the password. tgtd would also look at the name that an initiator
gives itself, but takes that *instead* of the address: it is never given a name. The target's name is a secret only as
far as the network goes: it is told, by discovery, to the node's address.

The opening's directory holds both passwords, mode 0600, as tgtd must be told them anew when it is restarted.
"""

import secrets
import string
from collections.abc import Mapping
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from steelyard.imaging.exports.daemons import Daemon, end_daemon, lives, start_daemon
from steelyard.imaging.exports.recorded import Record, RecordedExport
from steelyard.imaging.exports.storage_daemon import (
    NODE,
    Monitor,
    add_disk,
    end_storage_daemon,
    start_storage_daemon,
)
from steelyard.imaging.exports.tgt import LUN, Direction, Mode, Operation, ask, ask_daemon, pack_request
from steelyard.imaging.ports import Access, IscsiAccess
from steelyard.model.errors import SteelyardError, StorageUnready
from steelyard.model.secret import Secret

_AUTHORITY: Final = "iqn.2026-11.internal.steelyard"
"""Of a domain that nobody can own. Source: RFC 7143, section 4.2.7.4; .internal by a resolution of ICANN, 2024."""
_PASSWORD_CHARACTERS: Final = 16
"""The most that all initiators take, those in hardware included; 95 bits of letters and digits."""
_ALPHABET: Final = string.ascii_letters + string.digits
_USER: Final = "node"
_TARGET_USER: Final = "steelyard"
_THREADS: Final = 4
"""That read and write for the one node; by default they are 16."""


def iscsi_export(root: Path, address: IPv4Address | IPv6Address, ports: range) -> RecordedExport:
    """Return the export of volumes by iSCSI; see `RecordedExport`. For root."""
    return RecordedExport(root, address, ports, _IscsiServer())


class _IscsiServer:
    """See `Server`."""

    def issue(self, record: Record) -> tuple[Mapping[str, bytes], Access]:
        target, password, target_password = f"{_AUTHORITY}:{secrets.token_hex(16)}", _password(), _password()
        kept = "\n".join([target, password, target_password]).encode("ascii")
        return {"secrets": kept, "disk": b""}, IscsiAccess(
            record.address,
            record.port,
            target,
            LUN,
            _USER,
            Secret(password.encode("ascii")),
            _TARGET_USER,
            Secret(target_password.encode("ascii")),
        )

    def start(self, place: Path, record: Record) -> None:
        doing = f"serving the disk {record.name} by iSCSI"
        own_mounts = ["unshare", "--mount", "--propagation", "slave", "--"]
        try:
            with start_storage_daemon(doing, own_mounts, place, []) as storage:
                monitor = Monitor(storage)
                add_disk(monitor, record.disk)
                export = {"type": "fuse", "id": NODE, "node-name": NODE, "mountpoint": str(place / "disk")}
                monitor.execute("block-export-add", {**export, "writable": True, "allow-other": "off"})
                _start_tgtd(doing, place, record, storage)
            _configure(doing, place, record)
        except SteelyardError:
            self.end(place)
            raise

    def serves(self, place: Path) -> bool:
        return all(lives(place / name) for name in ("qmp", "tgtd.0"))

    def end(self, place: Path) -> None:
        doing = "closing a disk served by iSCSI"
        # First the one that has the sessions. It holds nothing back, so that it can be killed.
        end_daemon(doing, place / "tgtd.0", partial(Daemon.kill, doing=doing))
        end_storage_daemon(doing, place)


def _start_tgtd(doing: str, place: Path, record: Record, storage: Daemon) -> None:
    shown = f"[{record.address}]" if record.address.version == 6 else str(record.address)
    command = ["nsenter", f"--mount=/proc/{storage.pid}/ns/mnt", "--", "env", f"TGT_IPC_SOCKET={place / 'tgtd'}"]
    command += ["tgtd", "-f", "-C", "0", "-t", str(_THREADS), "--iscsi", f"portal={shown}:{record.port}"]
    (place / "tgtd.0").unlink(missing_ok=True)
    with start_daemon(doing, command, place / "tgtd.0", place / "log") as daemon:
        # It goes on, serving nobody, when it cannot have its port.
        if b"Portal:" not in ask_daemon(daemon, doing, pack_request(Mode.PORTAL, Operation.SHOW, {})):
            raise StorageUnready(doing, expected=f"port {record.port} to be free", found="tgtd could not listen there")


def _configure(doing: str, place: Path, record: Record) -> None:
    """Tell tgtd what to serve, and at last to whom: before that, it lets nobody in."""
    control = place / "tgtd.0"
    target, password, target_password = (place / "secrets").read_text("ascii").split("\n")
    file = {"path": str(place / "disk"), "bstype": "rdwr"}
    for request in (
        pack_request(Mode.TARGET, Operation.NEW, {"targetname": target}),
        pack_request(Mode.DEVICE, Operation.NEW, file, lun=LUN),
        pack_request(Mode.DEVICE, Operation.UPDATE, {"thin_provisioning": "1"}, lun=LUN),
        pack_request(Mode.ACCOUNT, Operation.NEW, {"user": _USER, "password": password}),
        pack_request(Mode.ACCOUNT, Operation.NEW, {"user": _TARGET_USER, "password": target_password}),
        pack_request(Mode.ACCOUNT, Operation.BIND, {"user": _USER}, direction=Direction.INCOMING),
        pack_request(Mode.ACCOUNT, Operation.BIND, {"user": _TARGET_USER}, direction=Direction.OUTGOING),
        pack_request(Mode.TARGET, Operation.BIND, {"initiator-address": str(record.node)}),
    ):
        ask(control, doing, request)


def _password() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(_PASSWORD_CHARACTERS))
