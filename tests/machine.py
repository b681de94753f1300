"""One real machine for tests: QEMU, Debian's OVMF firmware and kernel, and a TPM, booted to hand out what was measured.

The guest has busybox and nothing else. It runs a script of the test's, then sends its event log, its IMA lists, its PCR
values and the TPM's answer to one TPM2_Quote over the second serial port and powers off. The quote command comes to it
as an SMBIOS OEM string, which this firmware does not measure, so that a fresh nonce changes no PCR.

Always emulated (TCG), as KVM is not everywhere and the PCRs must not depend on where a test runs.
"""

import gzip
import io
import lzma
import re
import shutil
import socket
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from struct import pack, unpack_from
from typing import Final
from uuid import UUID

import pytest

from steelyard.evidence.cpio import make_archive
from steelyard.imaging.airlock.uki import make_uki
from tests.tpm import BANKS, AttestationKey, EndorsementKind, Key, SigningKind, SoftwareTpm, provision, require_programs

STUB: Final = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
LOADER_PATH: Final = "EFI/BOOT/BOOTX64.EFI"
"""What firmware starts from a disk that it has no boot entry for."""

COMMAND_LINE: Final = "console=ttyS0 panic=-1 rootfstype=ramfs ima_policy=tcb"
"""`rootfstype=ramfs`, as the initramfs would be a tmpfs else, which the policy leaves out."""

_OVMF: Final = Path("/usr/share/OVMF")
_BUSYBOX: Final = Path("/bin/busybox")
_PACKAGES: Final = {
    "qemu-system-x86_64": "qemu-system-x86",
    str(_OVMF / "OVMF_CODE.fd"): "ovmf",
    str(STUB): "systemd-boot-efi",
    str(_BUSYBOX): "busybox-static",
    "mformat": "mtools",
    "objcopy": "binutils",
    "setpriv": "util-linux",
}
_PACKAGE_CACHE: Final = Path(__file__).parents[1] / ".cache" / "packages"

_LONGEST_BOOT_SECONDS: Final = 150
"""Some 7 s on an idle machine."""

_MARK: Final = "evidence follows"
"""The line before the evidence on the second serial port: firmware uses it as a console too."""

_INIT: Final = r"""#!/bin/busybox sh
/bin/busybox mkdir /proc /sys /out
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t securityfs securityfs /sys/kernel/security
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /out
. /scenario
set -- $(strings /sys/firmware/dmi/tables/DMI | grep -o 'tpm2:[0-9a-f]*')
exec 3<>/dev/tpm0
echo "${1#tpm2:}" | xxd -r -p >&3
cat <&3 >/out/quote
exec 3>&-
for file in /sys/class/tpm/tpm0/pcr-*/*; do
    echo "${file#*/pcr-} $(cat "$file")"
done >/out/pcrs
cp /sys/kernel/security/tpm0/binary_bios_measurements /out/event_log
cp /sys/kernel/security/ima/ascii_runtime_measurements /out/ima_ascii
cp /sys/kernel/security/ima/binary_runtime_measurements /out/ima_binary
stty -F /dev/ttyS1 raw
exec >/dev/ttyS1
echo "@MARK@"
tar -c -C /out .
poweroff -f
""".replace("@MARK@", _MARK)


@dataclass(frozen=True, slots=True)
class Firmware:
    """What the machine starts from.

    code       firmware volumes as they lie in flash.
    variables  what the machine's own variable store starts as; the machine keeps it for its later boots.
    switches   what it needs of QEMU.
    """

    code: Path
    variables: Path
    switches: tuple[str, ...]


_BOARD: Final = "q35,vmport=off,i8042=off,usb=off"

OVMF: Final = Firmware(_OVMF / "OVMF_CODE.fd", _OVMF / "OVMF_VARS.fd", ("-machine", f"{_BOARD},smm=off"))

SECURE_BOOT_OVMF: Final = Firmware(
    _OVMF / "OVMF_CODE.secboot.fd",
    _OVMF / "OVMF_VARS.ms.fd",
    (
        *("-machine", f"{_BOARD},smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"),
        *("-global", "ICH9-LPC.disable_s3=1"),  # it hangs with S3
    ),
)
"""With Microsoft's keys enrolled: starts Debian's signed shim, and nothing unsigned. It needs 512 MiB of memory."""


class MachineFailed(Exception):
    """The machine did not hand out its evidence; the text ends with the end of its console."""


@dataclass(frozen=True, slots=True)
class BootedEvidence:
    """What one boot of a machine says of itself.

    event_log    the firmware's log as the kernel gives it: TCG PC Client event log, little-endian.
    ima_ascii, ima_binary  the kernel's run-time measurement list in its two forms.
    pcrs         bank -> index -> value, read in the guest after the quote.
    quote        TPMS_ATTEST.
    signature    TPMT_SIGNATURE by the machine's attestation key.
    nonce        its qualifying data.
    files        what the guest's script left in /out besides.
    """

    event_log: bytes
    ima_ascii: bytes
    ima_binary: bytes
    pcrs: Mapping[str, Mapping[int, bytes]]
    quote: bytes
    signature: bytes
    nonce: bytes
    files: Mapping[str, bytes]


class Machine:
    """A machine with its own TPM, endorsement and attestation key, in `directory`. It may be booted again and again.

    banks  the TPM's PCR banks; firmware hashes everything once for each, which takes its time when emulated.
    """

    def __init__(self, directory: Path, *, banks: Sequence[str] = BANKS) -> None:
        require_programs(_PACKAGES)
        self.directory = directory.absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        provision(self.directory, banks)
        with SoftwareTpm(self.directory) as tpm:
            kind = EndorsementKind.RSA_2048
            self.endorsement_key: Key = tpm.create_endorsement_key(kind)
            self.endorsement_certificate = tpm.read_endorsement_certificate(kind)
            self.authority = tpm.read_authority()
            self.attestation_key: AttestationKey = tpm.create_attestation_key(
                self.endorsement_key, SigningKind.ECC_P256_ECDSA_SHA256
            )
            tpm.run("tpm2_shutdown", "--clear")

    def boot(
        self,
        system_partition: Mapping[str, bytes],
        *,
        nonce: bytes,
        quoted: Collection[int] = range(15),
        firmware: Firmware = OVMF,
        memory_mib: int = 256,
    ) -> BootedEvidence:
        """Boot from a disk whose EFI system partition holds these files, and return the evidence. Raises MachineFailed.

        quoted  which PCRs of the SHA-256 bank.
        """
        (self.directory / "disk.img").write_bytes(make_disk(system_partition))
        command = _quote_command(self.attestation_key.handle, nonce, quoted)
        self._run(firmware, memory_mib, f"tpm2:{command.hex()}")
        try:
            sent = (self.directory / "evidence.log").read_bytes().partition(f"{_MARK}\n".encode())[2]
            with tarfile.open(fileobj=io.BytesIO(sent)) as archive:
                files = {
                    member.name.removeprefix("./"): opened.read()
                    for member in archive
                    if (opened := archive.extractfile(member)) is not None
                }
            quote, signature = _parse_quote_response(files.pop("quote"))
            return BootedEvidence(
                event_log=files.pop("event_log"),
                ima_ascii=files.pop("ima_ascii"),
                ima_binary=files.pop("ima_binary"),
                pcrs=_parse_pcrs(files.pop("pcrs").decode()),
                quote=quote,
                signature=signature,
                nonce=nonce,
                files=files,
            )
        except (tarfile.TarError, KeyError) as error:
            raise MachineFailed(f"{error!r}\n{self._console()}") from error

    def _run(self, firmware: Firmware, memory_mib: int, oem_string: str) -> None:
        """Run the machine until it switches itself off. It dies with this process; the TPM dies with its connection."""
        variables = self.directory / firmware.variables.name
        if not variables.exists():
            shutil.copy(firmware.variables, variables)
        machine_end, tpm_end = socket.socketpair()
        with machine_end, tpm_end, (self.directory / "qemu.log").open("wb") as log:
            tpm = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL", "swtpm", "socket", "--tpm2", "--tpmstate", "dir=state"),
                    *("--ctrl", f"type=unixio,clientfd={tpm_end.fileno()}", "--terminate"),
                ],
                cwd=self.directory,
                pass_fds=[tpm_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            tpm_end.close()
            try:
                subprocess.run(
                    [
                        *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"),
                        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
                        *("-accel", "tcg,thread=multi,tb-size=128", "-cpu", "qemu64", "-m", str(memory_mib)),
                        *firmware.switches,
                        *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={firmware.code}"),
                        *("-drive", f"if=pflash,unit=1,format=raw,file={variables}"),
                        *("-chardev", f"socket,id=tpm,fd={machine_end.fileno()}"),
                        *("-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm"),
                        *("-drive", "id=disk,if=none,format=raw,readonly=on,file=disk.img"),
                        *("-device", "virtio-blk-pci,drive=disk,bootindex=0"),
                        *("-serial", "file:console.log", "-serial", "file:evidence.log"),
                        *("-smbios", f"type=11,value={oem_string}"),
                    ],
                    cwd=self.directory,
                    pass_fds=[machine_end.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    timeout=_LONGEST_BOOT_SECONDS,
                    check=True,
                )
            except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
                raise MachineFailed(f"{error}\n{self._console()}") from error
            finally:
                tpm.kill()
                tpm.wait()

    def _console(self) -> str:
        logs = (self.directory / "qemu.log", self.directory / "console.log")
        return "\n".join(log.read_text(errors="replace")[-4000:] for log in logs if log.exists())


# -- what it boots -----------------------------------------------------------------------------------------------------


def unified_image(
    *, command_line: str = COMMAND_LINE, script: str = "", files: Mapping[str, bytes] | None = None
) -> bytes:
    """Return a unified kernel image: the same bytes for the same arguments and packages.

    script  what the guest's shell runs before it collects the evidence, with busybox's programs in /bin.
    files   path in the initramfs -> content; executable for everyone.
    """
    require_programs(_PACKAGES)
    sections = {
        ".osrel": b"ID=steelyard-test\n",
        ".cmdline": command_line.encode(),
        ".linux": find_kernel().read_bytes(),
        ".initrd": make_initramfs(script, files or {}),
    }
    return make_uki(STUB, sections)


def make_initramfs(script: str, files: Mapping[str, bytes]) -> bytes:
    """Return a gzip-compressed cpio archive ("newc"), names sorted, times zero, owned by root."""
    archive = make_archive(initramfs_files(script, files), file_mode=0o755, folder_mode=0o755)
    return gzip.compress(archive, mtime=0)


def initramfs_files(script: str, files: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """Return what is in the initramfs: path -> content."""
    return {"bin/busybox": _BUSYBOX.read_bytes(), "init": _INIT.encode(), "scenario": script.encode(), **files}


def make_disk(files: Mapping[str, bytes]) -> bytes:
    """Return a GPT disk with one partition, an EFI system partition that holds these files (path -> content)."""
    require_programs(_PACKAGES)
    start = 2048
    sectors = -(-(sum(map(len, files.values())) + 4 * 2**20) // 2**20) * 2048
    disk = bytearray((start + sectors + 2048) * 512)
    _write_partition_table(disk, start, sectors)
    with tempfile.TemporaryDirectory(prefix="steelyard-") as work:
        image = Path(work) / "disk"
        image.write_bytes(disk)
        drive = f"{image}@@{start * 512}"
        subprocess.run(
            ["mformat", "-i", drive, "-T", str(sectors), "-h", "64", "-s", "32", "-N", "0", "::"], check=True
        )
        folders = {str(parent) for name in files for parent in PurePosixPath(name).parents} - {"."}
        for folder in sorted(folders):
            subprocess.run(["mmd", "-i", drive, f"::{folder}"], check=True)
        for name, content in files.items():
            path = Path(work) / "file"
            path.write_bytes(content)
            subprocess.run(["mcopy", "-i", drive, path, f"::{name}"], check=True)
        return image.read_bytes()


def _write_partition_table(disk: bytearray, start: int, sectors: int) -> None:
    """Write both GUID partition tables and the protective MBR. Source: UEFI 2.10, section 5."""
    last = len(disk) // 512 - 1
    entries = bytearray(128 * 128)
    entries[:128] = pack(
        "<16s16sQQQ72s",
        UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b").bytes_le,  # EFI system partition
        UUID("5354ee1f-a2d0-4b0e-8000-000000000001").bytes_le,
        start,
        start + sectors - 1,
        0,
        "ESP".encode("utf-16-le"),
    )
    for own, other, table in ((1, last, 2), (last, 1, last - 32)):
        header = pack(
            "<8sIIIIQQQQ16sQIII",
            *(b"EFI PART", 0x00010000, 92, 0, 0, own, other, 34, last - 33),
            *(UUID("5354ee1f-a2d0-4b0e-8000-000000000000").bytes_le, table, 128, 128, zlib.crc32(entries)),
        )
        disk[own * 512 : own * 512 + 92] = header[:16] + pack("<I", zlib.crc32(header)) + header[20:]
        disk[table * 512 : table * 512 + len(entries)] = entries
    disk[446:462] = pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, last)
    disk[510:512] = b"\x55\xaa"


def find_kernel() -> Path:
    """Return Debian's cloud kernel."""
    return find_packaged("linux-image-cloud-amd64", "boot/vmlinuz-*-cloud-amd64")


def find_packaged(package: str, pattern: str) -> Path:
    """Return the file of a Debian package, or of one it depends on: the installed one, or else a downloaded one.

    What is downloaded stays as .cache/packages/PACKAGE/NAME_VERSION_ARCHITECTURE/PATH.

    pattern  a glob below the root folder.
    """
    cache = _PACKAGE_CACHE / package
    found = sorted([*Path("/").glob(pattern), *cache.glob(f"*/{pattern}")])
    if found:
        return found[-1]
    cache.mkdir(parents=True, exist_ok=True)
    try:
        relations = _output_of("apt-cache", "depends", "--important", package)
        for name in (package, *re.findall(r"^  Depends: (\S+)$", relations, re.MULTILINE)):
            with tempfile.TemporaryDirectory(prefix="download-", dir=_PACKAGE_CACHE) as work:
                _output_of("apt-get", "download", name, cwd=work)
                (archive,) = Path(work).glob("*.deb")
                _output_of("dpkg-deb", "--extract", str(archive), work)
                for file in Path(work).glob(pattern):
                    kept = cache / archive.stem / file.relative_to(work)
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    return file.rename(kept)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs the Debian package {package}, installed or to download: {error}")
    raise FileNotFoundError(f"{pattern} in the Debian package {package}")


def _output_of(*argv: str, cwd: str | None = None) -> str:
    return subprocess.run(argv, cwd=cwd, capture_output=True, check=True, text=True).stdout


def change_firmware(firmware: bytes) -> bytes:
    """Return the firmware with one letter changed in its DXE volume: in a message of a driver that no boot shows.

    The volume lies LZMA-compressed in a GUID-defined section: size (3 bytes, little-endian), type, GUID, offset of the
    data (2), attributes (2), data. What is compressed again is smaller and filled up, so that nothing moves.
    Source: UEFI PI 1.7, volume 3, section 3.2.5.
    """
    section = firmware.index(UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf").bytes_le) - 4
    start, end = section + 24, section + int.from_bytes(firmware[section : section + 3], "little")
    volumes = lzma.decompress(firmware[start:end], lzma.FORMAT_ALONE)
    shown_never = "Recursive HTTP server relocation".encode("utf-16-le")
    if volumes.count(shown_never) != 1:
        raise MachineFailed("the message to change is not in this firmware")
    changed = volumes.replace(shown_never, "recursive HTTP server relocation".encode("utf-16-le"))
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 9, "dict_size": 2**24}]
    stream = lzma.compress(changed, lzma.FORMAT_ALONE, filters=filters)
    # The header's 8 bytes of size: Python writes "unknown", which firmware does not take.
    stream = stream[:5] + len(changed).to_bytes(8, "little") + stream[13:]
    return firmware[:start] + stream.ljust(end - start, b"\0") + firmware[end:]


# -- what it says ------------------------------------------------------------------------------------------------------


def _quote_command(handle: str, nonce: bytes, indices: Collection[int]) -> bytes:
    """Return TPM2_Quote with the empty password, the key's own scheme, over PCRs of the SHA-256 bank."""
    selected = sum(1 << index for index in indices).to_bytes(3, "little")
    password = bytes.fromhex("40000009 0000 00 0000")
    body = (
        pack(">II", int(handle, 16), len(password))
        + password
        + pack(">H", len(nonce))
        + nonce
        + pack(">HIHB", 0x0010, 1, 0x000B, 3)
        + selected
    )
    return pack(">HII", 0x8002, 10 + len(body), 0x00000158) + body


def _parse_quote_response(response: bytes) -> tuple[bytes, bytes]:
    """Return TPMS_ATTEST and TPMT_SIGNATURE. Raises MachineFailed when the TPM refused."""
    if len(response) < 16 or unpack_from(">I", response, 6) != (0,):
        raise MachineFailed(f"the TPM's answer to the quote was {response.hex()}")
    parameters_size, attest_size = unpack_from(">IH", response, 10)
    return response[16 : 16 + attest_size], response[16 + attest_size : 14 + parameters_size]


def _parse_pcrs(lines: str) -> dict[str, dict[int, bytes]]:
    """Return the values of lines such as `sha256/10 00ab...`."""
    pcrs: dict[str, dict[int, bytes]] = {}
    for line in lines.splitlines():
        place, value = line.split()
        bank, index = place.split("/")
        pcrs.setdefault(bank, {})[int(index)] = bytes.fromhex(value)
    return pcrs
