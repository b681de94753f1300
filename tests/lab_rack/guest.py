"""A Linux for the rack's nodes that does what it is told over the serial line, and what it is told in answer.

The TPM is driven from outside: `tpm2-tools` run on this computer, and the commands go over the serial line to the
node's TPM and back.
"""

import base64
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from tests.lab_rack import serial_line
from tests.lab_rack.rack import Rack
from tests.machine import find_packaged, unified_image
from tests.tpm import require_programs

UP: Final = "guest: up"
_MODULES: Final = (
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
    "drivers/acpi/button",
    "drivers/input/evdev",
)
"""In the order in which they need one another. Seen in Debian's 6.1 cloud kernel."""

_SCRIPT: Final = """
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo
for module in @MODULES@; do insmod /modules/$module.ko; done
ip link set lo up
ip link set eth0 up
echo "@UP@"
while read -r token verb argument; do
    echo "begin $token"
    case $verb in
    tpm) exec 3<>/dev/tpm0; echo "$argument" | xxd -r -p >&3; xxd -p <&3; exec 3>&- ;;
    read) base64 "$argument" ;;
    run) eval "$argument" ;;
    esac
    echo "done $token"
done
"""


def guest_image(kind: str = "one") -> bytes:
    """Return the image; `kind` is in its command line, so that another kind measures otherwise."""
    modules = {
        f"modules/{Path(module).name}.ko": find_packaged(
            "linux-image-cloud-amd64", f"lib/modules/*/kernel/{module}.ko"
        ).read_bytes()
        for module in _MODULES
    }
    script = _SCRIPT.replace("@MODULES@", " ".join(Path(module).name for module in _MODULES)).replace("@UP@", UP)
    return unified_image(command_line=f"console=ttyS0 panic=-1 quiet kind={kind}", script=script, files=modules)


class Guest:
    """The Linux that runs on a node. `root` is the rack's directory."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire = wire

    @classmethod
    def await_up(cls, rack: Rack, name: str, begin: int, seconds: float = 240) -> "Guest":
        """Return the guest when it is up; `begin` is how much the console had said before."""
        limit = time.monotonic() + seconds
        while UP not in rack.console_since(name, begin):
            if time.monotonic() > limit:
                pytest.fail(f"{name} did not come up; it said: {rack.console_since(name, begin)[-2000:]}")
            time.sleep(0.05)
        return cls(rack.open_console(name))

    def ask(self, verb: str, argument: str, seconds: float = 60) -> str:
        """Return what the guest says to a verb."""
        return serial_line.ask(self._wire, verb, argument, seconds)

    def tell(self, verb: str, argument: str) -> None:
        """Tell it something that it does not live to answer."""
        self._wire.sendall(f"last {verb} {argument}\n".encode())

    def read(self, path: str) -> bytes:
        """Return a file's content."""
        return base64.b64decode(self.ask("read", path))

    def close(self) -> None:
        self._wire.close()


# -- the node's TPM ----------------------------------------------------------------------------------------------------


class NodeTpm:
    """The TPM of a node on which a guest runs, for tpm2-tools on this computer."""

    def __init__(self, rack: Rack, name: str, folder: Path) -> None:
        require_programs({"tpm2_quote": "tpm2-tools"})
        self._folder = folder
        socket_path = rack.root / "nodes" / name / "console.sock"
        self._tcti = f"cmd:{sys.executable} {serial_line.__file__} {socket_path}"

    def run(self, *command: str) -> bytes:
        """Run one of tpm2-tools in the folder; return what it printed."""
        tool, *arguments = command
        done = subprocess.run([tool, "-T", self._tcti, *arguments], cwd=self._folder, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout
