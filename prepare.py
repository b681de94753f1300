"""What `./check` and `./demo` begin with: the Debian packages and the Python environment that they need."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
PROGRAM = Path(sys.argv[0]).name

# Debian packages, each with a program of it, by which other systems tell whether they have it.
SERVICES = {
    "binutils": "objcopy",
    "bubblewrap": "bwrap",
    "dnsmasq-base": "dnsmasq",
    "e2fsprogs": "debugfs",
    "ipmitool": "ipmitool",
    "ipxe": None,
    "mtools": "mcopy",
    "openssh-client": "ssh",
    "openvswitch-switch": "ovs-vswitchd",
    "qemu-block-extra": None,
    "qemu-system-common": None,
    "qemu-utils": "qemu-img",
    "swtpm": "swtpm",
    "swtpm-tools": "swtpm_setup",
    "tgt": "tgtd",
    "util-linux": None,
}
"""What the services run, and the parts of a rack that need no machine."""
RACK = {
    "busybox-static": None,
    "cryptsetup-bin": "veritysetup",
    "iproute2": "ip",
    "jq": "jq",
    "kmod": "depmod",
    "mmdebstrap": "mmdebstrap",
    "ovmf": None,
    "qemu-system-x86": "qemu-system-x86_64",
    "squashfs-tools": "mksquashfs",
    "systemd-boot-efi": None,
}
"""For machines that are booted, and to build what they boot, whose own packages are only unpacked."""


def say(text: str) -> None:
    """Print a line that stands out."""
    print(f"\n== {text}", flush=True)


def fail(text: str) -> None:
    """Print what is wrong and what to do, and end."""
    print(f"{PROGRAM}: {text}", file=sys.stderr)
    sys.exit(2)


def install_packages(wanted: dict[str, str | None]) -> None:
    """Install the Debian packages that are not there."""
    if shutil.which("dpkg-query") is None:
        absent = sorted(package for package, program in wanted.items() if program and not shutil.which(program))
        if absent:
            print(f"{PROGRAM}: not a Debian system; what needs {', '.join(absent)} is left out, or fails")
        return
    missing = sorted(package for package in wanted if not is_installed(package))
    if not missing:
        return
    say(f"installing the Debian packages {' '.join(missing)}")
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
    if os.geteuid() != 0 and shutil.which("sudo") is None:
        fail(f"needs root to install packages; as root: {' '.join(install)}")
    install = [*as_root(), "env", "DEBIAN_FRONTEND=noninteractive", *install]
    if subprocess.run(install, stdin=subprocess.DEVNULL).returncode != 0:
        subprocess.run([*as_root(), "apt-get", "update", "-q"], stdin=subprocess.DEVNULL)
        if subprocess.run(install, stdin=subprocess.DEVNULL).returncode != 0:
            fail(f"could not install {' '.join(missing)}; install them by hand and run again")


def as_root() -> list[str]:
    """Return what to put before a command that root must run."""
    return [] if os.geteuid() == 0 else ["sudo"]


def is_installed(package: str) -> bool:
    """Tell whether a Debian package is installed."""
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status}", package]
    return subprocess.run(query, capture_output=True, text=True).stdout == "installed"


def read_package_lists() -> None:
    """See to it that the tests can download the packages that they only unpack."""
    if shutil.which("apt-cache") is None:
        return
    known = ["apt-cache", "show", "linux-image-cloud-amd64"]
    if subprocess.run(known, capture_output=True).returncode != 0:
        subprocess.run([*as_root(), "apt-get", "update", "-q"], stdin=subprocess.DEVNULL)


def make_environment() -> None:
    """Make the virtual environment from the lock file, unless it is there and current."""
    wanted = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()
    stamp = VENV / "made-from"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    if importlib.util.find_spec("ensurepip") is None:
        install_packages({"python3-venv": None})
    say("making the virtual environment from requirements.lock")
    shutil.rmtree(VENV, ignore_errors=True)
    run([sys.executable, "-m", "venv", str(VENV)])
    pip = [str(VENV / "bin" / "pip"), "--quiet", "--disable-pip-version-check", "install"]
    run([*pip, "--require-hashes", "-r", str(LOCK)])
    run([*pip, "--no-deps", "--no-build-isolation", "-e", str(ROOT)])
    stamp.write_text(wanted)


def run(command: list[str], **environment: str) -> None:
    """Run a step; end here when it fails."""
    begin = time.monotonic()
    environment = {**os.environ, **environment}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # or each process that a test starts would compile everything anew
    status = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL).returncode
    if status != 0:
        print(f"\n{PROGRAM}: failed: {' '.join(command)}", file=sys.stderr)
        sys.exit(1)
    if time.monotonic() - begin > 5:
        print(f"   {time.monotonic() - begin:.0f} s", flush=True)


def tool(name: str) -> str:
    """Return a program of the virtual environment."""
    return str(VENV / "bin" / name)
