"""What is the most that is read of anything, and why. `docs/input-limits.md` is made from this table.

A limit is checked before the bytes it bounds are parsed or decoded. Each is several times what real machines send, and
small enough that a stranger who sends the most possible costs little.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that is accepted of something."""

    most: int
    unit: str
    reason: str


KIB: Final = 1024
MIB: Final = 1024 * KIB

TPM_STRUCTURE_BYTES: Final = Limit(4 * KIB, "bytes", "a TPM's largest response is 4 KiB")
PCR_SELECTIONS: Final = Limit(16, "banks", "TPM2_NUM_PCR_BANKS is 16 in the reference implementation")
PCR_SELECT_BYTES: Final = Limit(4, "bytes", "PC Client TPMs have 24 PCRs, 3 bytes; one more is allowed for")
PCR_FILE_BYTES: Final = Limit(20 * KIB, "bytes", "tpm2-tools hold 32 lists of 8 PCRs, 532 bytes each")
CERTIFICATE_BYTES: Final = Limit(16 * KIB, "bytes", "endorsement certificates are 0.7 to 2 KiB")
CHAIN_CERTIFICATES: Final = Limit(8, "certificates", "makers' chains have 2 to 4")
MAKER_CERTIFICATES: Final = Limit(2000, "certificates", "all makers' published roots and intermediates are some 500")
REVOCATION_LIST_BYTES: Final = Limit(16 * MIB, "bytes", "makers publish lists of some KiB; some hold 100,000 entries")
EVENT_LOG_BYTES: Final = Limit(4 * MIB, "bytes", "firmware logs are 15 to 200 KiB; their ACPI area is 64 KiB to 1 MiB")
EVENT_LOG_EVENTS: Final = Limit(16384, "events", "real logs have 20 to 300")
EVENT_DATA_BYTES: Final = Limit(MIB, "bytes", "the largest real event, a dbx variable, is some 30 KiB")
EVENT_LOG_ALGORITHMS: Final = Limit(8, "algorithms", "firmware with five active banks is the most that was seen")
DEVICE_PATH_NODES: Final = Limit(64, "nodes", "real paths have 2 to 12")
IMA_LIST_BYTES: Final = Limit(256 * MIB, "bytes", "a million entries of 200 bytes; a busy host has some 50,000")
IMA_ENTRIES: Final = Limit(2_000_000, "entries", "what the limit on bytes admits at 128 bytes an entry")
IMA_ENTRY_BYTES: Final = Limit(
    128 * KIB, "bytes", "a path is at most 4 KiB, a signature 1 KiB, a measured buffer 64 KiB"
)
BUNDLE_BYTES: Final = Limit(400 * MIB, "bytes", "the limits on its parts, in base64")
MANIFEST_BYTES: Final = Limit(256 * MIB, "bytes", "500,000 files of 150 bytes, with room, in base64")
MANIFEST_MEASUREMENTS: Final = Limit(4096, "measurements", "a firmware with its option ROMs has some 50")
MANIFEST_FILES: Final = Limit(1_000_000, "files", "a full distribution has some 500,000")
SIGNATURES: Final = Limit(64, "signatures", "more people than ever sign one manifest")
SIGNING_KEY_BYTES: Final = Limit(16 * KIB, "bytes", "a private key in PEM has 0.1 to 3 KiB")
REFERENCES: Final = Limit(10_000, "manifests", "a large site has some hundreds")
POLICY_BYTES: Final = Limit(MIB, "bytes", "a policy names components and rules; files are in manifests")
POLICY_RULES: Final = Limit(1024, "rules", "real policies have 10 to 50")
FIRMWARE_BYTES: Final = Limit(64 * MIB, "bytes", "firmware flashes are 4 to 64 MiB")
FIRMWARE_DECOMPRESSED_BYTES: Final = Limit(128 * MIB, "bytes", "volumes unpack to some 3 times their size")
FIRMWARE_UNPACKING_BYTES: Final = Limit(512 * MIB, "bytes", "EDK2's tool asks for an LZMA dictionary of 400 MiB")
FIRMWARE_DEPTH: Final = Limit(8, "levels", "volumes in sections in files nest 3 deep in EDK2's builds")
FIRMWARE_FILES: Final = Limit(8192, "files", "the largest firmware seen has some 800")
COMMAND_LINE_BYTES: Final = Limit(64 * KIB, "bytes", "Linux takes 2 to 4 KiB")
FIRMWARE_VARIABLES: Final = Limit(4096, "variables", "a store of 256 KiB has some 60, old copies counted")
SIGNATURE_DATABASE_ENTRIES: Final = Limit(1024, "entries", "a db has 1 to 20 certificates and hashes")
EFI_APPLICATION_BYTES: Final = Limit(1024 * MIB, "bytes", "a unified kernel image with a full root in its initramfs")
PE_SECTIONS: Final = Limit(96, "sections", "what the Windows loader accepts; EFI applications have 4 to 12")
PACKAGE_BYTES: Final = Limit(512 * MIB, "bytes", "kernels and firmware have 30 to 130 MiB, a few games have more")
PACKAGE_UNPACKED_BYTES: Final = Limit(1024 * MIB, "bytes", "a kernel's modules unpack to some 400 MiB")
PACKAGE_UNPACKING_BYTES: Final = Limit(128 * MIB, "bytes", "xz at its best setting takes 65 MiB of memory to unpack")
PACKAGE_MEMBERS: Final = Limit(100_000, "members", "the largest packages of icons and headers have some 50,000")
FILE_PATH_BYTES: Final = Limit(4 * KIB, "bytes", "PATH_MAX of Linux")
IMAGE_BYTES: Final = Limit(16 * MIB * MIB, "bytes", "the largest file that ext4 holds")
QCOW2_HEADER_BYTES: Final = Limit(64 * KIB, "bytes", "QEMU writes some 600 bytes before the first table")
QCOW2_L1_BYTES: Final = Limit(32 * MIB, "bytes", "QEMU takes no more")
QCOW2_REFCOUNT_TABLE_BYTES: Final = Limit(8 * MIB, "bytes", "QEMU takes no more")
PARTITIONS: Final = Limit(128, "partitions", "the entries a GPT has; images use 1 to 15")
TOOL_OUTPUT_BYTES: Final = Limit(MIB, "bytes", "answers in JSON and listings of a directory have some KiB")
KERNEL_BYTES: Final = Limit(256 * MIB, "bytes", "kernels have 5 to 70 MiB")
INITRAMFS_BYTES: Final = Limit(1024 * MIB, "bytes", "an initramfs has 10 to 500 MiB")
BOOT_FILE_BYTES: Final = Limit(256 * KIB, "bytes", "a boot loader's configuration has 1 to 20 KiB")
BOOT_ENTRIES: Final = Limit(256, "entries", "a boot directory has 4 to 40 files")
PAYLOAD_BYTES: Final = Limit(16 * MIB, "bytes", "keys, peers and a script; images travel otherwise")
PARAMETERS_BYTES: Final = Limit(64 * KIB, "bytes", "a node's parameters are two addresses, a name and a certificate")
MESSAGE_BYTES: Final = Limit(MIB, "bytes", "an answer to a node has 0.1 to 4 KiB")
DELIVERY_BYTES: Final = Limit(24 * MIB, "bytes", "a payload of the largest size, in base64")
LUKS_HEADER_BYTES: Final = Limit(32 * MIB, "bytes", "LUKS2 puts its data at 16 MiB, or where it is told")
