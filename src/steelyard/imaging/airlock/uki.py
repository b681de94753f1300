"""Unified kernel images: kernel, initramfs and command line in one EFI application, behind systemd's stub."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from steelyard.imaging.airlock.packages import run

_DOING: Final = "making a unified kernel image"
_PAGE: Final = 0x1000


def make_uki(stub: Path, sections: Mapping[str, bytes]) -> bytes:
    """Return the image: the stub with these sections behind its own, the same bytes for the same input.

    stub      linuxx64.efi.stub of Debian's systemd-boot-efi.
    sections  name -> content, in the order in which they come; .linux, .initrd, .cmdline and .osrel at least.

    Raises BuildFailed.
    """
    with tempfile.TemporaryDirectory(prefix="steelyard-") as work:
        files = {name: Path(work) / name.lstrip(".") for name in sections}
        for name, content in sections.items():
            files[name].write_bytes(content)
        image = Path(work) / "image.efi"
        write_uki(stub, files, image)
        return image.read_bytes()


def write_uki(stub: Path, sections: Mapping[str, Path], image: Path) -> None:
    """Write the image that `make_uki` returns, its parts being files, to the file `image`. Raises BuildFailed."""
    table = run(["objdump", "--section-headers", "--wide", str(stub)], _DOING).decode()
    rows = [row for line in table.splitlines() if (row := line.split()) and row[0].isdigit()]
    address = max(int(size, 16) + int(start, 16) for _, _, size, start, *_ in rows)
    command = ["objcopy", "--preserve-dates"]  # the stub's own time in the header, not the time of the build
    for name, file in sections.items():
        address = -(-address // _PAGE) * _PAGE
        command += ["--add-section", f"{name}={file}", "--change-section-vma", f"{name}={address:#x}"]
        address += file.stat().st_size
    run([*command, str(stub), str(image)], _DOING)
