"""Builds a small Debian system whose initramfs opens its root volume by NBD or iSCSI, as it was told at its start.

Nothing in it is a secret, or tells one machine from another: host key and machine id are made by the machine itself.

The image is one file system without partitions, so that it grows with its volume. After it come the hashes of its
blocks (dm-verity): who knows the hash of them all can have each block checked that is read, by whoever serves it.
"""

import hashlib
import io
import json
import re
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Final
from uuid import UUID

from steelyard.imaging.airlock.packages import run
from steelyard.imaging.ports import ImageFormat
from steelyard.model.errors import BuildFailed, TooLarge, WrongUse
from steelyard.model.limits import IMAGE_LUKS_KEY_BYTES

_DOING: Final = "building a Debian image"
_PACKAGE: Final = re.compile(r"[a-z0-9][a-z0-9+.-]+", re.ASCII)
_SUITE: Final = re.compile(r"[a-z][a-z0-9-]*", re.ASCII)
_BLOCK: Final = 4096
_ALIGNED: Final = 1 << 20
_TIME: Final = 1_767_225_600
"""2026-01-01. No file seems younger, so that the day of the build does not show."""

_PACKAGES: Final = (
    *("busybox", "cryptsetup-bin", "dbus", "dmsetup", "e2fsprogs", "initramfs-tools", "iproute2", "jq", "kmod"),
    *("nbd-client", "open-iscsi", "openssh-server", "systemd-sysv", "udev", "wireguard-tools", "zstd"),
)
_COMMAND_LINE: Final = "console=tty0 console=ttyS0,115200 quiet cryptomgr.notests=1"
_LEFT_OUT: Final = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")
_KEPT: Final = ("/usr/share/doc/*/copyright", "/usr/share/locale/locale.alias")

_FILES: Final = {
    "etc/cloud/cloud.cfg.d/90-steelyard.cfg": ("cloud.cfg", 0o644),
    "etc/initramfs-tools/conf.d/steelyard": ("initramfs.conf", 0o644),
    "etc/initramfs-tools/hooks/steelyard": ("initramfs-hook.sh", 0o755),
    "etc/systemd/system/systemd-logind.service.d/steelyard.conf": ("after-ssh.conf", 0o644),
    "etc/ssh/sshd_config.d/steelyard.conf": ("sshd.conf", 0o644),
    "etc/systemd/system/iscsid.service.d/steelyard.conf": ("iscsid.conf", 0o644),
    "etc/systemd/system/ssh.service.d/steelyard.conf": ("ssh.conf", 0o644),
    "etc/systemd/system/steelyard-grow.service": ("grow.service", 0o644),
    "etc/systemd/system/steelyard-seed.service": ("seed.service", 0o644),
    "usr/lib/steelyard/apply-seed": ("apply-seed.sh", 0o755),
    "usr/lib/steelyard/init": ("init.sh", 0o755),
    "usr/lib/steelyard/lease": ("lease.sh", 0o755),
    "usr/lib/steelyard/root.jq": ("root.jq", 0o644),
    "usr/lib/steelyard/seal.jq": ("seal.jq", 0o644),
}
"""Where the image has which file of ours; they are there before the kernel, whose package makes the initramfs."""
_AGENT_UNITS: Final = {
    "etc/systemd/system/steelyard-agent.service": "agent.service",
    "etc/systemd/system/steelyard-wall.service": "wall.service",
}
_AGENT_CONFIGURATION: Final = "etc/steelyard/agent.conf"
_AGENT_FOLDER: Final = "usr/lib/steelyard/python"
AGENT_PARTS: Final = ("agent", "evidence", "model")
"""Of this package, what is in an image with the agent."""
_AGENT_PACKAGES: Final = ("libtss2-tcti-device0", "python3", "python3-tpm2-pytss")
_MEASURED: Final = "ima_policy=tcb"
"""What the kernel is told, so that it measures what root runs and reads."""
_LINES: Final = {
    "etc/default/locale": "LANG=C.UTF-8",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost",
    "etc/hostname": "debian",
    "etc/fstab": "# The initramfs mounts the root file system.",
}
_LINKS: Final = {
    # A card that is in use cannot be renamed, and the one that carries the root disk always is.
    "etc/systemd/network/99-default.link": "/dev/null",
    "etc/iscsi/initiatorname.iscsi": "/run/steelyard/initiatorname.iscsi",
    "etc/resolv.conf": "/run/steelyard/resolv.conf",
}

_ENABLED: Final = ("iscsid.service", "steelyard-grow.service", "steelyard-seed.service", "systemd-networkd.service")
_DISABLED: Final = (
    *("apt-daily-upgrade.timer", "apt-daily.timer", "dpkg-db-backup.timer", "e2scrub_all.timer"),
    *("e2scrub_reap.service", "iscsid.socket", "open-iscsi.service", "remote-fs.target"),
    *("systemd-network-generator.service", "systemd-networkd-wait-online.service", "systemd-pstore.service"),
)
_MASKED: Final = (
    # Drivers that are loaded when they are wanted, and mounts that few want.
    *(f"modprobe@{driver}.service" for driver in ("configfs", "dm_mod", "drm", "fuse", "loop")),
    *("dev-hugepages.mount", "dev-mqueue.mount", "sys-fs-fuse-connections.mount", "sys-kernel-config.mount"),
    *("sys-kernel-debug.mount", "sys-kernel-tracing.mount", "systemd-repart.service"),
    # They need a library that is not there, and fail.
    *("systemd-pcrphase-sysinit.service", "systemd-pcrphase.service"),
)
"""What would cost a start on the network a second or two, for nothing."""


class OnRejection(StrEnum):
    """What the agent does on a machine that the verifier rejected, besides to report no more."""

    STOP = "stop"
    POWER_OFF = "power-off"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is built.

    kernel      Debian package of the kernel: linux-image-cloud-amd64, or linux-image-amd64 for physical machines.
    packages    more packages.
    size_bytes  of the file system, a multiple of 4096; a volume made of the image can be larger.
    agent       the agent that reports to the verifier what runs, and a kernel that measures it; None: neither.
    """

    suite: str
    kernel: str
    packages: tuple[str, ...]
    size_bytes: int
    agent: OnRejection | None

    def __post_init__(self) -> None:
        if not _SUITE.fullmatch(self.suite):
            raise WrongUse(_DOING, expected="a name of a Debian release", found=self.suite)
        for package in (self.kernel, *self.packages):
            if not _PACKAGE.fullmatch(package):
                raise WrongUse(_DOING, expected="a name of a package", found=package)
        if self.size_bytes <= 0 or self.size_bytes % _BLOCK:
            raise WrongUse(_DOING, expected=f"a size of a multiple of {_BLOCK} bytes", found=f"{self.size_bytes}")

    @property
    def command_line(self) -> str:
        """What the kernel is told."""
        return _COMMAND_LINE if self.agent is None else f"{_COMMAND_LINE} {_MEASURED}"


@dataclass(frozen=True, slots=True)
class Seal:
    """What pins an image whatever becomes of it on the way: docs/formats.md, Enclave file, `seal`.

    root_hash    of the hashes of all blocks of its file system, hexadecimal (dm-verity).
    data_bytes   of the file system; the hashes come after it.
    image_bytes  of the whole.
    """

    root_hash: str
    data_bytes: int
    image_bytes: int


@dataclass(frozen=True, slots=True)
class BootFiles:
    """What the image boots; it is in the image as well, where it can be read unless that is encrypted.

    seal  None: the image is encrypted, and nothing of it can be checked before it is open.
    """

    kernel: bytes
    initramfs: bytes
    command_line: str
    seal: Seal | None


def seal_text(boot: BootFiles, seal: Seal) -> str:
    """Return what an enclave file pins the image by, YAML: docs/formats.md, Enclave file, `seal`."""
    said = {
        "kernel": hashlib.sha256(boot.kernel).hexdigest(),
        "initramfs": hashlib.sha256(boot.initramfs).hexdigest(),
        "command_line": boot.command_line,
        "root_hash": seal.root_hash,
        "data_bytes": seal.data_bytes,
        "image_bytes": seal.image_bytes,
    }
    return "seal:\n" + "".join(f"  {name}: {json.dumps(value)}\n" for name, value in said.items())


def build_debian(recipe: Recipe, image: Path, form: ImageFormat, luks_key: Path | None, cache: Path) -> BootFiles:
    """Write the image to the file `image`, which is replaced only by a whole one. For root.

    luks_key  a file with what unlocks the disk, 32 characters of ASCII at least; None: it is not encrypted.
    cache     directory of downloaded packages.

    Raises WrongUse, TooLarge, BuildFailed.
    """
    if luks_key is not None:
        _check_key(luks_key)
    with tempfile.TemporaryDirectory(prefix=".steelyard-image-", dir=image.resolve().parent) as folder:
        work = Path(folder)
        system = _install(recipe, work, cache)
        disk, identity = _make_file_system(system, recipe.size_bytes, work)
        seal = None
        if luks_key is None:
            seal = _append_hashes(disk, identity, work)
        else:
            disk = _encrypt(disk, luks_key, work)
        if form is ImageFormat.QCOW2:
            disk = _convert(disk, work)
        disk.replace(image)
        return _boot_files(system, recipe.command_line, seal)


def _check_key(path: Path) -> None:
    with path.open("rb") as file:
        key = file.read(IMAGE_LUKS_KEY_BYTES.most + 1)
    if len(key) > IMAGE_LUKS_KEY_BYTES.most:
        raise TooLarge(_DOING, expected=f"a key of at most {IMAGE_LUKS_KEY_BYTES.most} bytes", found="a larger one")
    if len(key) < _LEAST_KEY_CHARACTERS or not key.isascii():  # QEMU takes text alone
        raise WrongUse(
            _DOING, expected=f"a key of {_LEAST_KEY_CHARACTERS} characters of ASCII or more", found="another"
        )


_LEAST_KEY_CHARACTERS: Final = 32
"""A key is random: 128 bits in hexadecimal. Making it slow to try would make each boot slow instead."""
_KEY_MILLISECONDS: Final = 10


def _install(recipe: Recipe, work: Path, cache: Path) -> Path:
    """Return a directory with the system in it, installed and cleaned; its archive lies beside it."""
    cache.mkdir(parents=True, exist_ok=True)
    ours, archive, system = work / "ours.tar", work / "system.tar", work / "system"
    ours.write_bytes(_our_files(recipe.agent))
    packages, enabled, agent = [*_PACKAGES, *recipe.packages], [*_ENABLED], list[str]()
    if recipe.agent is not None:
        packages += _AGENT_PACKAGES
        enabled += [Path(unit).name for unit in _AGENT_UNITS]
        # Now, and by the Python that runs it: compiled files that are made later are in nobody's references.
        options = "-q --invalidation-mode unchecked-hash"
        agent.append(f'PYTHONHASHSEED=0 chroot "$1" python3 -m compileall {options} /{_AGENT_FOLDER}')
    lines = {**_LINES, "etc/kernel/cmdline": recipe.command_line}
    units = 'systemctl --quiet --root="$1"'
    hooks = {
        "setup": ['mkdir -p "$1/var/cache/apt/archives"', f"sync-in {_quoted(cache)} /var/cache/apt/archives"],
        "essential": [f'tar -x -C "$1" -f {_quoted(ours)}'],
        "customize": [
            f"sync-out /var/cache/apt/archives {_quoted(cache)}",
            *agent,
            f"{units} enable {' '.join(enabled)}",
            f"{units} disable {' '.join(_DISABLED)}",
            f"{units} mask {' '.join(_MASKED)}",
            # What the packages' scripts made: keys, names, logs of the build.
            'rm -rf "$1"/etc/ssh/ssh_host_* "$1"/var/lib/dbus/machine-id "$1"/var/lib/systemd/random-seed',
            'find "$1"/var/log "$1"/var/cache/apt "$1"/var/cache/debconf "$1"/var/cache/ldconfig -type f -delete',
            'rm -f "$1"/etc/*- "$1"/var/lib/dpkg/*-old "$1"/boot/System.map-*',
            *(f'ln -sf {target} "$1"/{path}' for path, target in _LINKS.items()),
            *(f"printf '%s\\n' {_quoted(text)} >\"$1\"/{path}" for path, text in lines.items()),
            ': >"$1"/etc/machine-id',
            # As old as what is installed: nothing is to be brought up to date at the first start.
            'touch "$1"/etc/.updated "$1"/var/.updated',
        ],
    }
    command = [
        *("mmdebstrap", "--mode=root", "--variant=minbase", "--format=tar", "--quiet"),
        *("--skip=download/empty,essential/unlink", "--aptopt=APT::Install-Recommends false"),
        "--dpkgopt=force-unsafe-io",  # what a power cut leaves of it is not used
        *(f"--dpkgopt=path-exclude={path}" for path in _LEFT_OUT),
        *(f"--dpkgopt=path-include={path}" for path in _KEPT),
        f"--include={','.join((recipe.kernel, *packages))}",
        *(f"--{when}-hook={hook}" for when, those in hooks.items() for hook in those),
        *("--", recipe.suite, str(archive)),
    ]
    run(command, _DOING, {"PATH": _PATH, "LC_ALL": "C.UTF-8", "SOURCE_DATE_EPOCH": str(_TIME), "TMPDIR": str(work)})
    system.mkdir()
    unpack = ["tar", "--extract", "--numeric-owner", "--preserve-permissions", "--xattrs", "--xattrs-include=*"]
    run([*unpack, "--exclude=./dev/*", f"--directory={system}", f"--file={archive}"], _DOING)
    return system


_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"


def _quoted(word: Path | str) -> str:
    """Return a word as a shell takes it for one."""
    return "'" + str(word).replace("'", "'\\''") + "'"


def _our_files(agent: OnRejection | None) -> bytes:
    """Return an archive of our files, all of them root's."""
    output = io.BytesIO()
    sources = resources.files("steelyard.imaging.tenant") / "files"
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        contents = {path: ((sources / name).read_bytes(), mode) for path, (name, mode) in _FILES.items()}
        if agent is not None:
            contents |= {path: (content, 0o644) for path, content in _agent_files(agent).items()}
        for folder in _folders(contents):
            member = tarfile.TarInfo(folder)
            member.type, member.mode, member.mtime = tarfile.DIRTYPE, 0o755, _TIME
            archive.addfile(member)
        for path, (content, mode) in contents.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode, member.mtime = len(content), mode, _TIME
            archive.addfile(member, io.BytesIO(content))
    return output.getvalue()


def _agent_files(agent: OnRejection) -> dict[str, bytes]:
    """Return the agent's files: its units, what they are told, and its source, which is this very package's."""
    source = Path(str(resources.files("steelyard")))
    own = [source / "__init__.py", *(path for part in AGENT_PARTS for path in sorted((source / part).rglob("*.py")))]
    return {
        **{unit: (source / "imaging/tenant/files" / name).read_bytes() for unit, name in _AGENT_UNITS.items()},
        _AGENT_CONFIGURATION: f"ON_REJECTION={agent}\n".encode(),
        **{f"{_AGENT_FOLDER}/steelyard/{path.relative_to(source)}": path.read_bytes() for path in own},
    }


def _folders(paths: Iterable[str]) -> list[str]:
    return sorted({str(folder) for path in paths for folder in Path(path).parents} - {"."})


def _make_file_system(system: Path, size_bytes: int, work: Path) -> tuple[Path, UUID]:
    """Return a disk, and the UUID of the file system on it, which follows from what is in that."""
    disk = work / "disk"
    with disk.open("wb") as file:
        file.truncate(size_bytes)
    with (work / "system.tar").open("rb") as archive:
        digest = hashlib.file_digest(archive, "sha256").digest()
    identity = UUID(bytes=digest[:16], version=4)
    # Else the first start would write them, into each node's own volume. (As holes, they take no room.)
    options = f"hash_seed={identity},lazy_itable_init=0,root_owner=0:0"
    make = ["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-m", "1", "-J", "size=16", "-L", "root"]
    run([*make, "-U", str(identity), "-E", options, "-d", str(system), str(disk)], _DOING)
    return disk, identity


def _append_hashes(disk: Path, identity: UUID, work: Path) -> Seal:
    size_bytes = disk.stat().st_size
    root_hash = work / "root-hash"
    options = [
        *(f"--data-block-size={_BLOCK}", f"--hash-block-size={_BLOCK}", f"--data-blocks={size_bytes // _BLOCK}"),
        *(f"--hash-offset={size_bytes}", f"--uuid={identity}", f"--root-hash-file={root_hash}"),
        f"--salt={hashlib.sha256(identity.bytes).hexdigest()}",  # of an image its own, and no other of each build
    ]
    run(["veritysetup", "format", *options, str(disk), str(disk)], _DOING)
    image_bytes = -(-disk.stat().st_size // _ALIGNED) * _ALIGNED
    with disk.open("r+b") as file:
        file.truncate(image_bytes)
    return Seal(root_hash.read_text().strip(), size_bytes, image_bytes)


def _encrypt(disk: Path, luks_key: Path, work: Path) -> Path:
    encrypted = work / "encrypted"
    secret = f"secret,id=key,format=raw,file={luks_key.absolute()}"
    options = f"key-secret=key,iter-time={_KEY_MILLISECONDS}"
    command = ["qemu-img", "convert", "-f", "raw", "-O", "luks", "--object", secret, "-o", options]
    run([*command, str(disk), str(encrypted)], _DOING)
    return encrypted


def _convert(disk: Path, work: Path) -> Path:
    converted = work / "qcow2"
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(disk), str(converted)], _DOING)
    return converted


def _boot_files(system: Path, command_line: str, seal: Seal | None) -> BootFiles:
    kernels = sorted((system / "boot").glob("vmlinuz-*"))
    if len(kernels) != 1:
        raise BuildFailed(_DOING, expected="one kernel in the image", found=f"{len(kernels)}")
    initramfs = system / "boot" / kernels[0].name.replace("vmlinuz-", "initrd.img-", 1)
    return BootFiles(kernels[0].read_bytes(), initramfs.read_bytes(), command_line, seal)
