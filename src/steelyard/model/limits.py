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
SEALING_KEY_FILE_BYTES: Final = Limit(4 * KIB, "bytes", "54 bytes a key; a rotation has two at a time")
ANSWER_BYTES: Final = Limit(64 * MIB, "bytes", "a page of a list has some 1 MiB, a console's whole record 4 MiB")
TOKEN_FILE_BYTES: Final = Limit(4 * KIB, "bytes", "a token of ours has some 50 letters, a provider's of OpenID 2,000")
CLIENT_SETTINGS_BYTES: Final = Limit(64 * KIB, "bytes", "a URL and two paths")
EVENT_LINE_BYTES: Final = Limit(MIB, "bytes", "an event has some 500")
OVSDB_MESSAGE_BYTES: Final = Limit(8 * MIB, "bytes", "a switch of 1,000 ports is 0.2 MiB; a trunk of all VLANs 20 KiB")
OVSDB_DEPTH: Final = Limit(32, "levels", "a row in an update is 9 levels deep")
INVENTORY_BYTES: Final = Limit(64 * MIB, "bytes", "a node with its certificates has some 4 KiB; 10,000 of them")
BEARER_BYTES: Final = Limit(8 * KIB, "bytes", "tokens of OpenID providers have 1 to 3 KiB")
OPENID_DOCUMENT_BYTES: Final = Limit(256 * KIB, "bytes", "a provider's key set has 1 to 10 KiB")
WORDS: Final = Limit(400, "letters", "a line or two of what somebody means by it")
PUBLIC_KEY_BYTES: Final = Limit(KIB, "bytes", "an Ed25519 key in PEM has 113")
VERDICT_BYTES: Final = Limit(64 * KIB, "bytes", "a signed attestation result has 1 to 4 KiB, with every reason some 20")
LABELS: Final = Limit(64, "entries", "nodes are told apart by some 10 labels, described by some 20 words")
LABEL_CHARACTERS: Final = Limit(256, "characters", "a model or a serial number has some 40")
WHY_CHARACTERS: Final = Limit(400, "characters", "a sentence or two; errors show no more either")
ENDORSEMENTS: Final = Limit(8, "keys", "a TPM has 2 to 4 endorsement keys")
NODE_REFERENCES: Final = Limit(64, "manifests", "a machine class has some 10 components")
DEVICE_SETTINGS: Final = Limit(16, "settings", "a driver asks for 2 to 6")
DEVICE_SETTING_BYTES: Final = Limit(16 * KIB, "bytes", "a certificate or key in PEM has 1 to 4 KiB")
NODE_OPERATIONS: Final = Limit(64, "operations", "what anybody waits for on one node at a time is some 10")
ALLOCATED_AT_ONCE: Final = Limit(1000, "nodes", "the largest enclave deployed in one step is some hundreds")
QUOTA: Final = Limit(1_000_000, "nodes or networks", "more than one service ever has")
ADMISSION_AGE_SECONDS: Final = Limit(24 * 3600, "seconds", "a verdict of yesterday speaks of yesterday")
OPERATION_SECONDS: Final = Limit(24 * 3600, "seconds", "the slowest firmware goes off within some minutes")
PAGE_ROWS: Final = Limit(1000, "rows", "a page of nodes with their certificates is some 4 MiB")
CONSOLE_KEYS_BYTES: Final = Limit(4 * KIB, "bytes", "what is pasted at a prompt; a serial line takes 10 KiB a second")
CONSOLE_UNSENT_BYTES: Final = Limit(16 * KIB, "bytes", "some seconds of a serial line")
CONSOLE_READ_BYTES: Final = Limit(MIB, "bytes", "a node's boot says some 100 KiB")
CREDENTIALS_FILE_BYTES: Final = Limit(64 * KIB, "bytes", "a user, a password and a key in PEM")
NODE_HOLDS: Final = Limit(64, "holds", "a node has a volume or two; each of its exports holds it once")
REDFISH_BODY_BYTES: Final = Limit(MIB, "bytes", "a BMC's ComputerSystem has 4 to 40 KiB")
IDENTITY_FILE_BYTES: Final = Limit(MIB, "bytes", "a node's endorsement certificates have some KiB")
REQUEST_BYTES: Final = Limit(MIB, "bytes", "a node with its certificates has some 10 KiB")
PAGE_ITEMS: Final = Limit(1000, "items", "a page that is made in some milliseconds")
WAIT_SECONDS: Final = Limit(60, "seconds", "what proxies on the way let an answer take")
CONFIGURATION_BYTES: Final = Limit(64 * KIB, "bytes", "a service's configuration is a page")
SHARED_PROJECTS: Final = Limit(1000, "projects", "a network for more of them is public")
