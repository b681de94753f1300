"""The second stage: a squashfs with Python, the agent and the programs that it runs, and nothing else."""

import re
import shutil
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Final

from steelyard.imaging.airlock.libraries import LIBRARIES, with_libraries
from steelyard.imaging.airlock.modules import Modules, module_name
from steelyard.imaging.airlock.packages import Files, Link, RegularFile, run

_DOING: Final = "making the airlock's second stage"

_PROGRAMS: Final = (
    "usr/bin/busybox",
    "usr/bin/python3",
    "usr/bin/wg",
    "usr/sbin/cryptsetup",
    "usr/sbin/iscsiadm",
    "usr/sbin/iscsid",
    "usr/sbin/kexec",
    "usr/sbin/nbd-client",
)
_LOADED_LATER: Final = (
    f"{LIBRARIES}/libtss2-tcti-device.so.0",
    f"{LIBRARIES}/ossl-modules/legacy.so",  # cryptography refuses to be imported without it
    f"{LIBRARIES}/libgcc_s.so.1",  # which glibc loads to end a thread
)
_PYTHON: Final = re.compile(
    r"usr/lib/python3\.[0-9]+/(?!(?:asyncio|config-\S+|ctypes/macholib|curses|dbm|distutils|ensurepip|idlelib|lib2to3"
    r"|multiprocessing|pydoc_data|sqlite3|test|tkinter|turtledemo|unittest|venv|wsgiref|xml|xmlrpc)/)"
    r"(?!sitecustomize)[^.]+\.py"
    r"|usr/lib/python3\.[0-9]+/lib-dynload/_(?:bz2|hashlib|json|lzma|ssl|typing)\..+\.so"
    r"|usr/lib/python3/dist-packages/(?:cryptography|packaging|tpm2_pytss)/.+\.(?:py|so)"
    r"|usr/lib/python3/dist-packages/_cffi_backend\..+\.so"
)
"""What the agent imports, and of the standard library what its imports might reach."""

_DRIVERS: Final = ("dm_crypt", "iscsi_tcp", "nbd", "sd_mod", "wireguard")
_APPLETS: Final = ("mkdir", "modprobe", "mount", "poweroff", "sh", "sleep")
_OWN_PACKAGES: Final = ("agent", "evidence", "model")
_SITE_PACKAGES: Final = "usr/lib/python3/dist-packages"
_USERS: Final = "root:x:0:0:::\n"
"""iscsid looks the name of its caller up there, and serves no other."""
_MOUNT_POINTS: Final = ("dev", "proc", "run", "sys")


def make_second_stage(files: Files, modules: Modules, work: Path) -> tuple[bytes, frozenset[str]]:
    """Return the squashfs, and the paths of the packages' files in it: the same bytes for the same input.

    work  an empty directory.

    Raises BuildFailed.
    """
    chosen = _choose(files)
    root = work / "root"
    for path in sorted(chosen):
        _place(root / path, files[path])
    for path, target in _links().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(target)
    for name in _MOUNT_POINTS:
        (root / name).mkdir()
    (root / "etc/passwd").write_text(_USERS)
    init = root / "usr/sbin/init"
    init.write_bytes((resources.files("steelyard.imaging.airlock") / "init.sh").read_bytes())
    init.chmod(0o755)
    _place_agent(root / _SITE_PACKAGES)
    _place_modules(root, modules)
    _compile(root)
    _set_modes(root)
    return _squash(root, work / "second.squashfs"), frozenset(chosen)


def _choose(files: Files) -> set[str]:
    python = [path for path in files if _PYTHON.fullmatch(path)]
    return with_libraries([*_PROGRAMS, *_LOADED_LATER, *python], files)


def _links() -> Mapping[str, str]:
    """Return the links that are in no package: path -> target."""
    merged = {name: f"usr/{name}" for name in ("bin", "lib", "lib64", "sbin")}
    applets = {f"usr/bin/{name}": "busybox" for name in _APPLETS}
    # What is only known on the node is in its memory; open-iscsi looks for its settings nowhere else.
    changing = {"etc/resolv.conf": "/run/resolv.conf", "etc/iscsi": "/run/steelyard/iscsi"}
    return {**merged, **applets, **changing, "usr/sbin/modprobe": "../bin/busybox"}


def _place(place: Path, file: RegularFile | Link) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(file, Link):
        place.symlink_to(file.target)
    else:
        shutil.copyfile(file.path, place)
        place.chmod(0o755 if file.executable else 0o644)


def _place_agent(site_packages: Path) -> None:
    source = Path(str(resources.files("steelyard")))
    own = [source / "__init__.py", *(path for name in _OWN_PACKAGES for path in (source / name).rglob("*.py"))]
    for path in own:
        place = site_packages / "steelyard" / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def _place_modules(root: Path, modules: Modules) -> None:
    """Put the drivers where modprobe looks, with what it needs to know of them."""
    folder = root / "usr/lib/modules" / modules.version
    for file in modules.in_order(_DRIVERS):
        place = folder / file.relative_to(modules.folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
    (folder / "modules.dep").write_text("".join(_dependencies(modules)))


def _dependencies(modules: Modules) -> Iterator[str]:
    for file in sorted(modules.in_order(_DRIVERS)):
        *needed, own = (str(path.relative_to(modules.folder)) for path in modules.in_order([module_name(file)]))
        yield f"{own}: {' '.join(reversed(needed))}".rstrip() + "\n"


def _compile(root: Path) -> None:
    """Put compiled code in place of every Python source, by the very Python that is to run it.

    Its time is saved where it is dear; the compiled file is not compared with a source, which is not there.
    """
    folders = [str(root / name) for name in ("usr/lib/python3", *_python_folders(root))]
    libraries = root / LIBRARIES
    command = [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries), str(root / "usr/bin/python3")]
    options = ["-s", "-S", "-B", "-m", "compileall", "-q", "-b", "--invalidation-mode", "unchecked-hash"]
    placed = ["-s", str(root), "-p", "/"]
    # A fixed order of hashes, as compiled sets are written in that order.
    environment = {"PYTHONHOME": str(root / "usr"), "PYTHONHASHSEED": "0"}
    run([*command, *options, *placed, *folders], _DOING, environment)
    for source in root.rglob("*.py"):
        source.unlink()


def _set_modes(root: Path) -> None:
    """Let everyone read everything, whatever the umask was."""
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _python_folders(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in sorted((root / "usr/lib").glob("python3.*"))]


def _squash(root: Path, image: Path) -> bytes:
    """Return the file system: root's, from time 0."""
    settings = ["-comp", "zstd", "-Xcompression-level", "19", "-b", "128K", "-all-root", "-no-xattrs", "-no-exports"]
    times = ["-mkfs-time", "0", "-all-time", "0"]
    run(["mksquashfs", str(root), str(image), *settings, *times, "-noappend", "-no-progress", "-quiet"], _DOING)
    return image.read_bytes()
