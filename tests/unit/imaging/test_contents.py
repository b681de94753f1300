"""What boot loaders are told is read for what it says, and never run."""

import pytest

from steelyard.imaging.contents import Entry, parse_boot_entry, parse_grub_configuration

GRUB = """\
set default=0
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-1' {
    load_video
    insmod ext2
    search --no-floppy --fs-uuid --set=root 1
    echo 'Loading Linux 6.1.0-1-amd64 ...'
    linux   /boot/vmlinuz-6.1.0-1-amd64 root=UUID=1 ro  console=ttyS0 $vt_handoff
    echo 'Loading initial ramdisk ...'
    initrd  /boot/ucode.img /boot/initrd.img-6.1.0-1-amd64
}
menuentry 'Older' {
    linux /boot/vmlinuz-5 root=UUID=1
    initrd /boot/initrd.img-5
}
"""
FIRST = Entry(
    "/boot/vmlinuz-6.1.0-1-amd64",
    ("/boot/ucode.img", "/boot/initrd.img-6.1.0-1-amd64"),
    "root=UUID=1 ro console=ttyS0",
)


def test_the_first_entry_of_grub_is_read() -> None:
    assert parse_grub_configuration(GRUB) == FIRST


def test_an_initramfs_of_the_next_entry_is_not_taken() -> None:
    text = "menuentry a {\n linux /a b\n}\nmenuentry b {\n linux /c\n initrd /d\n}\n"
    assert parse_grub_configuration(text) == Entry("/a", (), "b")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "linux",
        "menuentry a {\n chainloader /EFI/x.efi\n}",
        "linux $prefix/vmlinuz quiet",
        "linux ($root)/vmlinuz",
        "linux /../etc/passwd",
        "linux /a\ninitrd /b;reboot",
        "linux '/a b'",
        'linux "/a"',
    ],
)
def test_what_grub_would_have_to_be_run_for_is_no_entry(text: str) -> None:
    assert parse_grub_configuration(text) is None


def test_an_entry_of_the_specification_is_read() -> None:
    text = "# made\ntitle Debian\nlinux /a/linux\ninitrd /a/one\ninitrd a/two\noptions root=x  ro\noptions quiet\n"
    assert parse_boot_entry(text) == Entry("/a/linux", ("/a/one", "/a/two"), "root=x ro quiet")


@pytest.mark.parametrize("text", ["", "title x", "efi /EFI/x.efi", "linux /a\nlinux /b", "linux /a b", "linux ../a"])
def test_another_entry_is_none(text: str) -> None:
    assert parse_boot_entry(text) is None
