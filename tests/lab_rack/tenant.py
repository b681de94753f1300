"""The tenant's image for the tests: built once for all of them, as a tenant builds it."""

import fcntl
import hashlib
import subprocess
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from steelyard.imaging.ports import ImageFormat
from steelyard.imaging.tenant.debian import AGENT_PARTS, BootFiles, OnRejection, Recipe, build_debian, seal_text
from tests.tpm import require_programs

CACHE: Final = (Path(__file__).parents[2] / ".cache").absolute()
SIZE: Final = 1 << 30
RECIPE: Final = Recipe("bookworm", "linux-image-cloud-amd64", (), SIZE, OnRejection.STOP)
LUKS_KEY: Final = "0123456789abcdef" * 4


@dataclass(frozen=True)
class TenantImage:
    """The file of an image, what it boots, and what an enclave file pins it by; nothing, if it is encrypted."""

    file: Path
    boot: BootFiles
    seal: str


def plain_image() -> TenantImage:
    """Return an image that is not encrypted, with the agent in it, qcow2."""
    return _image("plain.qcow2", ImageFormat.QCOW2, None)


def sealed_image() -> TenantImage:
    """Return an image that LUKS_KEY unlocks, raw."""
    return _image("sealed.raw", ImageFormat.RAW, LUKS_KEY)


def _image(name: str, form: ImageFormat, luks_key: str | None) -> TenantImage:
    require_programs({"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "qemu-img": "qemu-utils"})
    require_programs({"veritysetup": "cryptsetup-bin"})
    folder = CACHE / "tenant" / _state()
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / name
    kernel, initramfs, seal, line = (image.with_suffix(f".{part}") for part in ("kernel", "initramfs", "seal", "line"))
    key = folder / "luks.key"
    with (folder / "lock").open("w") as lock:
        # Processes of tests that need it at once wait for one that makes it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not line.exists():
            key.write_text(LUKS_KEY)
            built = build_debian(RECIPE, image, form, None if luks_key is None else key, CACHE / "debian")
            kernel.write_bytes(built.kernel)
            initramfs.write_bytes(built.initramfs)
            seal.write_text("" if built.seal is None else seal_text(built, built.seal))
            line.write_text(built.command_line)
    return TenantImage(
        image, BootFiles(kernel.read_bytes(), initramfs.read_bytes(), line.read_text(), None), seal.read_text()
    )


def _state() -> str:
    """Return a name for what the images are made of by us; Debian's packages change seldom, and to the same end."""
    package = resources.files("steelyard.imaging.tenant")
    parts = [package / "debian.py", *sorted((package / "files").iterdir(), key=lambda part: part.name)]
    source = Path(str(resources.files("steelyard")))
    parts += [path for part in AGENT_PARTS for path in sorted((source / part).rglob("*.py"))]
    return hashlib.sha256(b"\0".join([part.read_bytes() for part in parts] + [repr(RECIPE).encode()])).hexdigest()[:16]


def make_ssh_key(folder: Path) -> Path:
    """Return a private key; the public one is beside it."""
    key = folder / "ssh.key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    return key
