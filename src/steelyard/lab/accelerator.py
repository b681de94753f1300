"""Whether this computer's KVM can run a node's firmware. Found out by trying: the device alone proves nothing."""

import selectors
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Final

from steelyard.lab.plan import FIRMWARE_FILES, Accelerator, Firmware

KVM_DEVICE: Final = Path("/dev/kvm")
TRIAL_SECONDS: Final = 15.0
"""Firmware speaks after one second under KVM that works; where it does not, QEMU says so or nothing happens at all."""


def choose_accelerator(firmware: Firmware) -> Accelerator:
    """Return KVM if the firmware gets to say something on its serial line under it, else TCG."""
    if not KVM_DEVICE.exists():
        return Accelerator.TCG
    files = FIRMWARE_FILES[firmware]
    with TemporaryDirectory(prefix="steelyard-trial-") as folder:
        variables = Path(folder) / "variables.fd"
        variables.write_bytes(files.variables.read_bytes())
        with subprocess.Popen(  # noqa: S603  a fixed command
            [
                *("qemu-system-x86_64", "-machine", f"q35,smm={files.system_management_mode}", "-m", "256"),
                *("-accel", "kvm", "-cpu", "host", "-nodefaults", "-no-user-config", "-display", "none"),
                *("-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={files.code}"),
                *("-drive", f"if=pflash,format=raw,unit=1,file={variables}"),
                *("-serial", "stdio"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as trial:
            try:
                return _listen(trial.stdout, trial.stderr)
            finally:
                trial.kill()


def _listen(serial: IO[bytes] | None, complaints: IO[bytes] | None) -> Accelerator:
    """Return KVM if the first thing heard comes over the serial line.

    A complaint first is the end of it: "KVM internal error", or no right to use the device.
    """
    with selectors.DefaultSelector() as ears:
        for stream, meaning in ((serial, Accelerator.KVM), (complaints, Accelerator.TCG)):
            if stream is not None:
                ears.register(stream, selectors.EVENT_READ, meaning)
        heard = {meaning.data for meaning, _ in ears.select(TRIAL_SECONDS)}
    return Accelerator.KVM if heard == {Accelerator.KVM} else Accelerator.TCG
