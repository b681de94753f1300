"""Unified kernel images for one node each, with what only that node may see in the initramfs."""

import shutil
from pathlib import Path
from typing import Final

from steelyard.evidence.handover import secrets_archive
from steelyard.imaging.airlock.uki import write_uki
from steelyard.imaging.files import move, workplace
from steelyard.imaging.netboot.plan import DirectBoot
from steelyard.model.errors import StorageUnready

_STUB: Final = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
_OS_RELEASE: Final = b"ID=steelyard-direct\n"


def write_direct_image(doing: str, boot: DirectBoot, work: Path, image: Path) -> None:
    """Write the image, for its owner alone, in place of one that is there: the same bytes for the same boot.

    work  a directory for what is needed on the way.

    Raises StorageUnready when a file of it is missing, BuildFailed.
    """
    for file in (_STUB, boot.kernel, *([] if boot.initramfs is None else [boot.initramfs])):
        if not file.is_file():
            raise StorageUnready(doing, expected=f"a file {file}", found="none")
    with workplace(work) as place:
        parts = {".osrel": place / "os-release", ".cmdline": place / "command-line", ".initrd": place / "initramfs"}
        parts[".osrel"].write_bytes(_OS_RELEASE)
        parts[".cmdline"].write_bytes(boot.command_line.encode("ascii"))
        _write_initramfs(boot, parts[".initrd"])
        write_uki(_STUB, {**parts, ".linux": boot.kernel}, place / "image")
        (place / "image").chmod(0o600)
        move(place / "image", image)


def _write_initramfs(boot: DirectBoot, path: Path) -> None:
    with path.open("wb") as file:
        if boot.initramfs is not None:
            with boot.initramfs.open("rb") as own:
                shutil.copyfileobj(own, file)
        file.write(secrets_archive(file.tell(), boot.handover))
