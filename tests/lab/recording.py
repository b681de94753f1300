"""Evidence of booted machines as a person has it: files, named as tpm2-tools and the kernel name them."""

import shutil
import struct
from collections.abc import Collection, Mapping
from pathlib import Path

from tests.machine import COMMAND_LINE, LOADER_PATH, OVMF, Machine, initramfs_files, unified_image

QUOTED = range(15)


def record_machines(directory: Path) -> None:
    """Leave the artefacts, and evidence of three boots, in `directory`.

    `reference-boot` and `boot` are two machines of one class with the same firmware and image; `other-boot` is the
    second machine, started with another command line. `root` is the image's root tree.
    """
    image = unified_image()
    (directory / "airlock.efi").write_bytes(image)
    for path in (OVMF.code, OVMF.variables):
        shutil.copy(path, directory)
    for name, content in initramfs_files("", {}).items():
        file = directory / "root" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    record_boot(Machine(directory / "machine-1"), image, directory / "reference-boot")
    machine = Machine(directory / "machine-2")
    record_boot(machine, image, directory / "boot")
    record_boot(machine, unified_image(command_line=COMMAND_LINE + " single"), directory / "other-boot")


def record_boot(machine: Machine, image: bytes, directory: Path) -> None:
    """Boot a machine from `image`, and leave its evidence in `directory`."""
    nonce = bytes(range(32))
    evidence = machine.boot({LOADER_PATH: image}, nonce=nonce, quoted=QUOTED)
    directory.mkdir()
    for name, content in {
        "ak.pub": machine.attestation_key.public,
        "quote.msg": evidence.quote,
        "quote.sig": evidence.signature,
        "quote.pcrs": pcr_file(evidence.pcrs["sha256"], QUOTED),
        "nonce": nonce.hex().encode(),
        "binary_bios_measurements": evidence.event_log,
        "ascii_runtime_measurements": evidence.ima_ascii,
    }.items():
        (directory / name).write_bytes(content)


def pcr_file(values: Mapping[int, bytes], indices: Collection[int]) -> bytes:
    """Return SHA-256 values as tpm2_quote -o writes them: the TPM's C structures as they lie in memory, little-endian.

    TPML_PCR_SELECTION with 16 places, then a count of TPML_DIGEST with 8 places each.
    """
    select = sum(1 << index for index in indices).to_bytes(4, "little")
    selection = struct.pack("<IHB4sx", 1, 0x000B, 3, select) + bytes(15 * 8)
    digests = [struct.pack("<H64s", 32, values[index]) for index in sorted(indices)]
    lists = [digests[start : start + 8] for start in range(0, len(digests), 8)]
    written = b"".join(struct.pack("<I", len(part)) + b"".join(part).ljust(8 * 66, b"\0") for part in lists)
    return selection + struct.pack("<I", len(lists)) + written
