"""`steelyard reference`: make reference manifests from the artefacts themselves, sign them, verify them."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from steelyard.cli import explain
from steelyard.cli.files import read_file, write_file, write_secret_file
from steelyard.cli.output import show_json, show_lines
from steelyard.evidence.appraisal import verify_reference_boot
from steelyard.evidence.bundle import parse_bundle
from steelyard.evidence.document import parse_document, parse_time
from steelyard.evidence.reference.debian import files_of_package, files_of_tree
from steelyard.evidence.reference.dsse import Envelope, Signers, add_signature, parse_envelope
from steelyard.evidence.reference.firmware import measurements_from_reference_boot, measurements_of_firmware
from steelyard.evidence.reference.manifest import (
    PAYLOAD_TYPE,
    Manifest,
    Origin,
    parse_manifest,
    verify_manifest,
)
from steelyard.evidence.reference.measurement import Measurement
from steelyard.evidence.reference.pe import measurements_of_efi_application
from steelyard.evidence.reference.secureboot import (
    measurements_of_authorities,
    measurements_of_secure_boot,
    secure_boot_variables,
)
from steelyard.evidence.reference.uki import measurements_of_uki
from steelyard.evidence.reference.variables import variables_of_firmware_store
from steelyard.evidence.reference.version import Version
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import MalformedKey, MalformedReference, WrongUse
from steelyard.model.limits import (
    BUNDLE_BYTES,
    EFI_APPLICATION_BYTES,
    FIRMWARE_BYTES,
    MANIFEST_BYTES,
    PACKAGE_BYTES,
    SIGNING_KEY_BYTES,
)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help=(
        "Make reference manifests from artefacts, and vouch for them: make, look, sign, and put the signed file into "
        "the directory that `evidence appraise --references` reads."
    ),
)

File = Annotated[Path, typer.Argument(help="The file.", show_default=False)]
Component = Annotated[str, typer.Option(help="Name of the component, as policies have it.")]
Release = Annotated[str, typer.Option("--version", help="Its version, ordered as Debian orders versions.")]
Serial = Annotated[int, typer.Option(help="Counts up with every issue about this component.", min=1)]
Days = Annotated[int, typer.Option("--valid-days", help="How long the statement holds.", min=1, max=3660)]
MachineClass = Annotated[str | None, typer.Option(help="The only machine class it holds for, if it does.")]
Issued = Annotated[str | None, typer.Option(help="When it is issued; now, if not given.", metavar="TIME")]
Out = Annotated[Path, typer.Option(help="Where to write the manifest; `-` is standard output.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


@dataclass(frozen=True, slots=True)
class _About:
    """What every manifest says of itself."""

    component: str
    version: str
    serial: int
    valid_days: int
    machine_class: str | None
    issued: str | None
    out: Path

    def write(
        self,
        origin: Origin,
        artefact: Path,
        content: bytes,
        measurements: tuple[Measurement, ...] = (),
        files: Mapping[bytes, bytes] | None = None,
    ) -> None:
        """Write the manifest of an artefact and its content."""
        issued = parse_time(self.issued) if self.issued else datetime.now(UTC).replace(microsecond=0)
        try:
            expires = issued + timedelta(days=self.valid_days)
        except OverflowError as error:
            raise WrongUse("making a manifest", expected="an end before the year 10000", found="a later") from error
        named = {path.decode("utf-8", "surrogateescape"): digest.hex() for path, digest in (files or {}).items()}
        manifest = Manifest(
            component=self.component,
            version=Version(self.version),
            serial=self.serial,
            issued=issued,
            expires=expires,
            machine_class=self.machine_class,
            origin=origin,
            artefact=artefact.name or str(artefact),
            artefact_sha256=hashlib.sha256(content).digest(),
            measurements=measurements,
            files={HashAlgorithm.SHA256: named} if named else {},
        )
        write_file(self.out, manifest.to_bytes())


@app.command("from-firmware")
def from_firmware(
    file: File,
    component: Component,
    version: Release,
    serial: Serial,
    valid_days: Days,
    out: Out,
    firmware_version: Annotated[
        str, typer.Option(help="What the firmware was built to call itself; nothing in Debian 12's.")
    ] = "",
    machine_class: MachineClass = None,
    issued: Issued = None,
) -> None:
    """From an EDK2 (OVMF) firmware file: what it measures of itself into PCR 0, as far as the file tells.

    The volume that firmware patches in memory before it measures it is not in there: its value depends on the shape of
    the machine, and comes from a boot that you run (`from-reference-boot`).
    """
    image = read_file(file, FIRMWARE_BYTES)
    measured = measurements_of_firmware(image, firmware_version)
    about = _About(component, version, serial, valid_days, machine_class, issued, out)
    about.write(Origin.FIRMWARE, file, image, measured.computed)


@app.command("from-reference-boot")
def from_reference_boot(
    bundle: Annotated[
        Path, typer.Argument(help="Evidence of the boot, made with `evidence bundle`.", show_default=False)
    ],
    firmware: Annotated[Path, typer.Option(help="The firmware file that was booted.")],
    component: Component,
    version: Release,
    serial: Serial,
    valid_days: Days,
    out: Out,
    machine_class: Annotated[str, typer.Option(help="The machine class the boot was of.")],
    firmware_version: Annotated[
        str, typer.Option(help="What the firmware was built to call itself; nothing in Debian 12's.")
    ] = "",
    issued: Issued = None,
) -> None:
    """From a boot of the machine class that you ran yourself: the one value of PCR 0 that the file cannot tell.

    Run it on a machine of yours with this very firmware, never on the machine that is to be judged. The quote and the
    log are verified, and everything else in PCR 0 must be what the file says; the manifest is marked as what it is.
    """
    image = read_file(firmware, FIRMWARE_BYTES)
    content = read_file(bundle, BUNDLE_BYTES)
    log = verify_reference_boot(parse_bundle(content))
    measured = measurements_from_reference_boot(log, measurements_of_firmware(image, firmware_version))
    about = _About(component, version, serial, valid_days, machine_class, issued, out)
    about.write(Origin.REFERENCE_BOOT, bundle, content, measured)


@app.command("from-uki")
def from_uki(
    file: File,
    component: Component,
    version: Release,
    serial: Serial,
    valid_days: Days,
    out: Out,
    machine_class: MachineClass = None,
    issued: Issued = None,
) -> None:
    """From a unified kernel image: all that its boot measures in PCR 4, 9 and 11.

    The image and the kernel in it (Authenticode digests), its sections, its command line and initramfs.
    """
    image = read_file(file, EFI_APPLICATION_BYTES)
    about = _About(component, version, serial, valid_days, machine_class, issued, out)
    about.write(Origin.UKI, file, image, measurements_of_uki(image))


@app.command("from-efi")
def from_efi(
    file: File,
    component: Component,
    version: Release,
    serial: Serial,
    valid_days: Days,
    out: Out,
    machine_class: MachineClass = None,
    issued: Issued = None,
) -> None:
    """From any EFI application (PCR 4) or driver (PCR 2): a boot loader, shim, an option ROM's driver."""
    image = read_file(file, EFI_APPLICATION_BYTES)
    about = _About(component, version, serial, valid_days, machine_class, issued, out)
    about.write(Origin.EFI_APPLICATION, file, image, measurements_of_efi_application(image))


@app.command("from-secure-boot")
def from_secure_boot(
    file: Annotated[Path, typer.Argument(help="Variable store of the firmware, as OVMF_VARS.fd.", show_default=False)],
    component: Component,
    version: Release,
    serial: Serial,
    valid_days: Days,
    out: Out,
    machine_class: MachineClass = None,
    issued: Issued = None,
) -> None:
    """From a firmware's variable store: the Secure Boot state and keys in PCR 7, and what they may let pass."""
    image = read_file(file, FIRMWARE_BYTES)
    variables = secure_boot_variables(variables_of_firmware_store(image))
    authorities = measurements_of_authorities(variables.db) if variables.db else ()
    about = _About(component, version, serial, valid_days, machine_class, issued, out)
    about.write(Origin.SECURE_BOOT, file, image, (*measurements_of_secure_boot(variables), *authorities))


@app.command("from-rootfs")
def from_rootfs(
    tree: Annotated[Path, typer.Argument(help="Root of an unpacked system.", show_default=False)],
    component: Component,
    version: Release,
    serial: Serial,
    valid_days: Days,
    out: Out,
    machine_class: MachineClass = None,
    issued: Issued = None,
) -> None:
    """From a root tree: the digest of every regular file at the path where it runs, for the run-time list.

    Symbolic links are not followed: the kernel records the file they lead to. The digest of the artefact is that of the
    list of paths and digests.
    """
    files = files_of_tree(_walk(tree))
    listed = b"".join(digest + path + b"\0" for path, digest in sorted(files.items()))
    about = _About(component, version, serial, valid_days, machine_class, issued, out)
    about.write(Origin.ROOT_TREE, tree.resolve(), listed, files=files)


@app.command("from-package")
def from_package(
    file: Annotated[Path, typer.Argument(help="A Debian package (.deb).", show_default=False)],
    component: Component,
    version: Release,
    serial: Serial,
    valid_days: Days,
    out: Out,
    machine_class: MachineClass = None,
    issued: Issued = None,
) -> None:
    """From a Debian package: the digest of every file in it at the path where it runs, for the run-time list."""
    package = read_file(file, PACKAGE_BYTES)
    about = _About(component, version, serial, valid_days, machine_class, issued, out)
    about.write(Origin.PACKAGE, file, package, files=files_of_package(package))


@app.command()
def keygen(
    out: Annotated[Path, typer.Option(help="Where to write the private key; it must not exist yet.")],
) -> None:
    """Make an Ed25519 key to sign references with; print the public half as policies name it.

    The private key is written unencrypted, readable by you alone: keep it off the machines that are judged.
    """
    key = Ed25519PrivateKey.generate()
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_secret_file(out, encoded)
    show_lines(explain.public_key_text(key.public_key()))


@app.command()
def sign(
    file: Annotated[Path, typer.Argument(help="A manifest, or one that others signed already.", show_default=False)],
    key: Annotated[Path, typer.Option(help="Private Ed25519 key, PEM (`reference keygen`).")],
    out: Annotated[Path, typer.Option(help="Where to write the signed manifest; `-` is standard output.")],
) -> None:
    """Sign a manifest: you vouch that a good component measures to this. Signatures of others stay."""
    data = read_file(file, MANIFEST_BYTES)
    signed = parse_document(data, MANIFEST_BYTES, "reading a manifest to sign", MalformedReference).has("payload")
    envelope = parse_envelope(data) if signed else Envelope(PAYLOAD_TYPE, data, ())
    parse_manifest(envelope.payload)
    write_file(out, add_signature(envelope, read_signing_key(key)).to_bytes())


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="A signed manifest.", show_default=False)],
    key: Annotated[list[str], typer.Option(help="A trusted signer, as `name=base64`; may be given several times.")],
    threshold: Annotated[int, typer.Option(help="How many of them must have signed.", min=1)],
    *,
    json: Json = False,
) -> None:
    """Verify a signed manifest, and show what it says."""
    signers = Signers(dict(_parse_signer(text) for text in key), threshold)
    reference = verify_manifest(parse_envelope(read_file(file, MANIFEST_BYTES)), signers)
    if json:
        show_json(explain.reference_document(reference))
    else:
        explain.show_reference(reference)


def _parse_signer(text: str) -> tuple[str, Ed25519PublicKey]:
    name, _, encoded = text.partition("=")
    return name, explain.parse_public_key_text(encoded)


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """Return the private key in a file. Raises MalformedKey, WrongUse."""
    doing = f"reading the private key {path}"
    try:
        key = serialization.load_pem_private_key(read_file(path, SIGNING_KEY_BYTES), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedKey(doing, expected="an unencrypted Ed25519 key in PEM", found=type(error).__name__) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise MalformedKey(doing, expected="an Ed25519 key", found=type(key).__name__)
    return key


def _walk(tree: Path) -> Iterator[tuple[bytes, Iterator[bytes]]]:
    """Yield path and content of every regular file below `tree`, in order; other file systems are not entered."""
    if not tree.is_dir():
        raise WrongUse(f"listing {tree}", expected="a directory", found="none")
    device = tree.stat().st_dev

    def refuse(error: OSError) -> None:
        raise WrongUse(f"listing {tree}", expected="directories that can be read", found=str(error)) from error

    for name, below, names in os.walk(tree, onerror=refuse):
        directory = Path(name)
        below[:] = sorted(child for child in below if (directory / child).lstat().st_dev == device)
        for path in (directory / child for child in sorted(names)):
            if path.is_file() and not path.is_symlink():
                yield b"/" + os.fsencode(path.relative_to(tree)), _pieces(path)


def _pieces(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                yield piece
    except OSError as error:
        raise WrongUse(f"reading {path}", expected="a file that can be read", found=str(error)) from error
