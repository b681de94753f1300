"""One qemu-storage-daemon per opening, steered over its monitor.

One each, as QEMU has one NBD server per process, with one list of who may come in, which lists every disk to whoever
comes in. So a node that breaks the program that it speaks to has broken into its own disk.

Source: QEMU Storage Daemon QMP Reference Manual 7.2.
"""

import json
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from steelyard.imaging.exports.daemons import ANSWER_SECONDS, Daemon, end_daemon, start_daemon
from steelyard.imaging.ports import ImageFile, Overlay, RawFile, VolumeDisk
from steelyard.imaging.tools import parse_json
from steelyard.model.errors import StorageFailed
from steelyard.model.limits import TOOL_OUTPUT_BYTES

NODE: Final = "volume"
"""What the disk is called within its daemon."""

_READ_BYTES: Final = 64 * 1024

Json = Mapping[str, object]


class Monitor:
    """The monitor of a daemon: commands are answered in order; events are passed over.

    Whoever comes while QEMU sets its monitor up may be greeted a second time, whatever was said meanwhile: what of a
    command had come by then is lost, and capabilities are to be negotiated anew.
    Source: QEMU 7.2, chardev/char-fe.c, qemu_chr_fe_set_handlers_full; monitor/qmp.c, monitor_qmp_event.
    """

    def __init__(self, daemon: Daemon) -> None:
        daemon.wire.settimeout(ANSWER_SECONDS)
        self._wire = daemon.wire
        self._heard = b""
        self._said = 0
        self._hear("greeting QEMU")
        # An error says that they are negotiated already.
        self._ask("greeting QEMU", "qmp_capabilities", {})

    def execute(self, command: str, arguments: Json) -> None:
        """Have it do `command`. Raises StorageFailed."""
        doing = f"telling QEMU {command}"
        answer = self._ask(doing, command, arguments)
        if "return" not in answer:
            reason = answer.get("error")
            raise StorageFailed(doing, expected="it to be done", found=str(reason.get("desc") if reason else answer))

    def _ask(self, doing: str, command: str, arguments: Json) -> dict[str, Any]:
        while (answer := self._answer_to(self._say(doing, command, arguments), doing)) is None:
            pass
        return answer

    def _say(self, doing: str, command: str, arguments: Json) -> int:
        """Say a command; return the number that its answer will have."""
        self._said += 1
        request = json.dumps({"execute": command, "arguments": arguments, "id": self._said}).encode() + b"\n"
        try:
            self._wire.sendall(request)
        except OSError as error:
            raise StorageFailed(doing, expected="it to listen", found=str(error)) from error
        return self._said

    def _answer_to(self, number: int, doing: str) -> dict[str, Any] | None:
        """Return the answer to a command; None: a greeting came in between, and it was not done."""
        answer = self._hear(doing)
        while "event" in answer:
            answer = self._hear(doing)
        if "QMP" not in answer:
            return answer
        negotiating = self._say(doing, "qmp_capabilities", {})
        done: dict[str, Any] | None = None
        # What is left of a command that was cut in two is answered by errors without a number.
        while (answer := self._hear(doing)).get("id") != negotiating:
            if answer.get("id") == number and answer.get("error", {}).get("class") != "CommandNotFound":
                done = answer
        return done

    def _hear(self, doing: str) -> dict[str, Any]:
        while b"\n" not in self._heard:
            try:
                more = self._wire.recv(_READ_BYTES)
            except OSError as error:
                raise StorageFailed(doing, expected="an answer", found=str(error)) from error
            if not more or len(self._heard) > TOOL_OUTPUT_BYTES.most:
                raise StorageFailed(doing, expected="an answer", found="the end" if not more else "no end of it")
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return parse_json(doing, line)


def start_storage_daemon(
    doing: str, cage: Sequence[str], place: Path, options: Sequence[str], wires: Sequence[int] = ()
) -> Daemon:
    """Start a daemon in a `cage`, its monitor in `place`. Raises StorageFailed."""
    (place / "qmp").unlink(missing_ok=True)
    # Bound for it, so that it need not write to the place, which says what is to be served. It does listen itself:
    # whoever does is who the kernel says is there.
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.bind(os.fspath(place / "qmp"))
        # QEMU hands the socket from one of its threads to another while it starts: both may see one connection come,
        # and who is late would wait for the next with all of QEMU.
        monitor.settimeout(0)
        chardev = f"socket,id=monitor,fd={monitor.fileno()},server=on,wait=off"
        command = ["qemu-storage-daemon", "--chardev", chardev, "--monitor", "chardev=monitor", *options]
        return start_daemon(doing, [*cage, *command], place / "qmp", place / "log", [*wires, monitor.fileno()])


def add_disk(monitor: Monitor, disk: VolumeDisk) -> None:
    """Have a daemon open the disk, and what it stands on, and no file but these whatever the disk says of itself."""
    file: Json = {"driver": "file", "filename": str(disk.path), "discard": "unmap"}
    node: Json
    match disk:
        case RawFile():
            node = {"driver": "raw", "file": file}
        case Overlay(base=None):
            node = {"driver": "qcow2", "file": file, "backing": None}
        case Overlay(base=ImageFile(image)):
            under = {"driver": "file", "filename": str(image), "read-only": True}
            node = {"driver": "qcow2", "file": file, "backing": {"driver": "raw", "read-only": True, "file": under}}
    monitor.execute("blockdev-add", {"node-name": NODE, "discard": "unmap", **node})


def end_storage_daemon(doing: str, place: Path) -> None:
    """Return when the daemon of that place has ended, sessions cut and what it held in memory written."""

    def ask(daemon: Daemon) -> None:
        try:
            Monitor(daemon).execute("quit", {})
        except StorageFailed:
            daemon.kill(doing)

    end_daemon(doing, place / "qmp", ask)
