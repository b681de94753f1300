"""What boots is found on disks that the usual tools made, and hostile ones harm nobody."""

import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from steelyard.evidence.reference.measurement import Measurement
from steelyard.evidence.reference.uki import measurements_of_uki
from steelyard.imaging.contents import Boot, DirectBoot, UnifiedBoot, find_boot
from steelyard.imaging.ports import ImageFile
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import MalformedImage, TooLarge
from tests.artefacts import kernel_image, unified_image
from tests.disks import run

MIB = 2**20
KERNEL, INITRAMFS = b"kernel" * 1000, b"initramfs" * 1001
UNIFIED = unified_image({".linux": kernel_image(), ".osrel": b"ID=x", ".cmdline": b"quiet\n", ".initrd": b"abc"})
GRUB = b"menuentry x {\n linux /boot/vmlinuz-6.1 root=/dev/vda2 ro\n initrd /boot/initrd.img-6.1\n}\n"

Files = Mapping[str, bytes]


def ext(path: Path, files: Files, size: int = 8 * MIB) -> None:
    tree = path.with_suffix(".tree")
    tree.mkdir()
    for name, data in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(data)
    run("mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(path), str(size // 1024))


def fat(path: Path, files: Files, size: int = 8 * MIB) -> None:
    run("mkfs.vfat", "-C", str(path), str(size // 1024))
    for name, data in files.items():
        folders = list(Path(name).parents)[:-1]
        for folder in reversed(folders):
            subprocess.run(["mmd", "-i", str(path), f"::/{folder}"], capture_output=True, stdin=subprocess.DEVNULL)
        subprocess.run(["mcopy", "-i", str(path), "-", f"::/{name}"], input=data, check=True)


def disk_of(scratch: Path, esp: Files, root: Files, label: str = "gpt") -> ImageFile:
    """Return a disk with an EFI system partition and a root, 8 MiB each."""
    disk = scratch / "disk"
    fat(scratch / "esp", esp)
    ext(scratch / "root", root)
    with disk.open("wb") as file:
        file.truncate(18 * MIB)
    kinds = ("uefi", "linux") if label == "gpt" else ("ef", "83")
    table = f"label: {label}\nstart=1MiB, size=8MiB, type={kinds[0]}\nstart=9MiB, size=8MiB, type={kinds[1]}\n"
    subprocess.run(["sfdisk", "--quiet", str(disk)], input=table, check=True, text=True)
    with disk.open("r+b") as file:
        for part, start in (("esp", MIB), ("root", 9 * MIB)):
            file.seek(start)
            file.write((scratch / part).read_bytes())
    return ImageFile(disk)


def found(disk: ImageFile, scratch: Path) -> Boot | None:
    place = scratch / "found"
    place.mkdir()
    return find_boot(disk, place)


def digests(measurements: tuple[Measurement, ...]) -> dict[str, bytes]:
    assert {measurement.pcr for measurement in measurements} == {13}
    return {measurement.what: measurement.digests[HashAlgorithm.SHA256] for measurement in measurements}


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


INSTALLED = {"boot/vmlinuz-6.1": KERNEL, "boot/initrd.img-6.1": INITRAMFS, "boot/vmlinuz-5.10": b"old"}


@pytest.mark.parametrize("label", ["gpt", "dos"])
def test_what_grub_boots_is_found_and_measured(tmp_path: Path, label: str) -> None:
    boot = found(disk_of(tmp_path, {}, {**INSTALLED, "boot/grub/grub.cfg": GRUB}, label), tmp_path)
    assert isinstance(boot, DirectBoot)
    assert boot.kernel.read_bytes() == KERNEL
    assert boot.initramfs is not None
    assert boot.initramfs.read_bytes() == INITRAMFS
    assert boot.command_line == "root=/dev/vda2 ro"
    assert digests(boot.measurements) == {
        "kernel": sha256(KERNEL),
        "initramfs": sha256(INITRAMFS),
        "command line": sha256(b"root=/dev/vda2 ro"),
    }


def test_the_newest_kernel_that_is_installed_is_found_without_a_boot_loader(tmp_path: Path) -> None:
    ext(tmp_path / "disk", {**INSTALLED, "etc/kernel/cmdline": b"root=LABEL=root  ro\n"})
    boot = found(ImageFile(tmp_path / "disk"), tmp_path)
    assert isinstance(boot, DirectBoot)
    assert boot.kernel.read_bytes() == KERNEL
    assert boot.command_line == "root=LABEL=root ro"


def test_a_kernel_alone_is_found(tmp_path: Path) -> None:
    ext(tmp_path / "disk", {"vmlinuz-6": KERNEL})
    boot = found(ImageFile(tmp_path / "disk"), tmp_path)
    assert isinstance(boot, DirectBoot)
    assert (boot.initramfs, boot.command_line) == (None, None)
    assert digests(boot.measurements) == {"kernel": sha256(KERNEL)}


def test_a_unified_image_comes_first_and_measures_as_it_does(tmp_path: Path) -> None:
    esp = {"EFI/Linux/debian-6.9.efi": b"old", "EFI/Linux/debian-6.10.efi": UNIFIED}
    boot = found(disk_of(tmp_path, esp, {**INSTALLED, "boot/grub/grub.cfg": GRUB}), tmp_path)
    assert isinstance(boot, UnifiedBoot)
    assert boot.image.read_bytes() == UNIFIED
    assert boot.measurements == measurements_of_uki(UNIFIED)


def test_entries_of_the_specification_are_found_with_all_that_is_given_to_the_kernel(tmp_path: Path) -> None:
    entry = b"title Debian\nlinux /debian/linux\ninitrd /debian/ucode\ninitrd /debian/initrd\noptions root=x\n"
    esp = {"loader/entries/a.conf": entry, "debian/linux": KERNEL, "debian/ucode": b"12345", "debian/initrd": INITRAMFS}
    boot = found(disk_of(tmp_path, esp, {}), tmp_path)
    assert isinstance(boot, DirectBoot)
    assert boot.initramfs is not None
    assert boot.initramfs.read_bytes() == b"12345\0\0\0" + INITRAMFS
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == ["initramfs", "kernel"]


def test_a_disk_with_nothing_that_boots_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(MIB))
    assert found(ImageFile(tmp_path / "disk"), tmp_path) is None


def test_a_disk_of_files_alone_is_no_error(tmp_path: Path) -> None:
    assert found(disk_of(tmp_path, {"a": b"a"}, {"b": b"b"}), tmp_path) is None


@pytest.mark.parametrize(
    ("esp", "root"),
    [
        ({}, {"boot/grub/grub.cfg": GRUB}),
        ({}, {"boot/vmlinuz-6.1": KERNEL, "boot/grub/grub.cfg": GRUB}),
        ({"EFI/Linux/a.efi": b"MZ"}, {}),
        ({}, {"boot/vmlinuz-6.1": KERNEL, "etc/kernel/cmdline": "root=\u202e".encode()}),
    ],
)
def test_a_disk_that_is_not_what_it_says_is_refused(tmp_path: Path, esp: Files, root: Files) -> None:
    with pytest.raises(MalformedImage):
        found(disk_of(tmp_path, esp, root), tmp_path)


def test_more_than_is_reasonable_is_refused(tmp_path: Path) -> None:
    ext(tmp_path / "disk", {"boot/grub/grub.cfg": b"#" * 300_000})
    with pytest.raises(TooLarge):
        found(ImageFile(tmp_path / "disk"), tmp_path)


def test_names_that_tools_take_for_more_are_passed_over(tmp_path: Path) -> None:
    odd = {f"boot/vmlinuz-9{name}": b"odd" for name in (" x", "\n", '"', ";", "*", "\\", "|sh")}
    ext(tmp_path / "disk", {**INSTALLED, **odd})
    boot = found(ImageFile(tmp_path / "disk"), tmp_path)
    assert isinstance(boot, DirectBoot)
    assert boot.kernel.read_bytes() == KERNEL


def test_links_to_files_of_this_computer_are_not_followed(tmp_path: Path) -> None:
    tree = tmp_path / "disk.tree"
    (tree / "boot").mkdir(parents=True)
    (tree / "boot" / "vmlinuz-6").symlink_to("/etc/passwd")
    run("mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(tmp_path / "disk"), "8192")
    assert found(ImageFile(tmp_path / "disk"), tmp_path) is None


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_a_damaged_file_system_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    disk = disk_of(tmp_path, {"loader/x": b"x"}, {**INSTALLED, "boot/grub/grub.cfg": GRUB})
    noise = hashlib.shake_256(bytes([seed]))
    with disk.path.open("r+b") as file:
        for number in range(64):
            at = int.from_bytes(hashlib.sha256(bytes([seed, number])).digest()[:4]) % (16 * MIB)
            # The partition table, and what tells the kind of file system, are read by others.
            os.pwrite(file.fileno(), noise.digest(512), MIB + 2048 + at)
    try:
        boot = found(disk, tmp_path)
    except (MalformedImage, TooLarge):
        return
    assert boot is None or isinstance(boot, DirectBoot)
