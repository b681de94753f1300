"""Make what a rack is made of, once: firmware copies, disks, TPMs with certificates, keys and passwords."""

import datetime
import ipaddress
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from steelyard.lab.commands import run
from steelyard.lab.firmware import change_one_measured_byte
from steelyard.lab.plan import (
    BRIDGE,
    FIRMWARE_FILES,
    IPMI_PORT,
    OVSDB_PORT,
    REDFISH_PORT,
    SERVICES_PORT,
    SWITCH_ADDRESS,
    SWITCH_NAME,
    Firmware,
    Machines,
    NodeFiles,
    NodePlan,
    RackShape,
)
from steelyard.lab.state import RackDirectory, write_private
from steelyard.model import inventory
from steelyard.model.secret import Secret

BMC_USER: Final = "admin"
DISK_BYTES: Final = 2 * 1024**3
"""Sparse: takes no room until it is written."""
_EFI_PATH: Final = "::/EFI/BOOT/BOOTX64.EFI"
"""What firmware looks for on a disk that it knows nothing of. Source: UEFI Specification 2.10, section 3.5.1.1."""

Progress = Callable[[str], None]


def build_rack(directory: RackDirectory, shape: RackShape, nodes: Iterable[NodePlan], say: Progress) -> None:
    """Make what is missing of the rack. Anything half made by a build that was broken off is made again."""
    nodes = tuple(nodes)
    _build_credentials(directory, nodes)
    _build_bmc_keys(directory, nodes)
    for node in nodes:
        directory.node(node.name).root.mkdir(parents=True, exist_ok=True)
    if shape.machines is Machines.EMULATED:
        _build_machines(directory, shape, nodes, say)


def _build_machines(directory: RackDirectory, shape: RackShape, nodes: Iterable[NodePlan], say: Progress) -> None:
    # A copy, so that a package's update does not change what the nodes measure.
    _copy(FIRMWARE_FILES[shape.firmware].code, directory.firmware)
    for node in nodes:
        _build_disk(directory.node(node.name), shape.firmware)
    lacking = [files for node in nodes if not (files := directory.node(node.name)).tpm.exists()]
    if not lacking:
        return
    configuration = _build_maker(directory)
    # The first one alone: the maker's authority comes into being with it.
    build_tpm(configuration, lacking[0].tpm, lacking[0].endorsement_certificates)
    say(f"TPM 1 of {len(lacking)} made")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = pool.map(lambda files: build_tpm(configuration, files.tpm, files.endorsement_certificates), lacking[1:])
        for number, _ in enumerate(made, start=2):
            say(f"TPM {number} of {len(lacking)} made")


def build_modified_firmware(directory: RackDirectory) -> None:
    """Make the firmware that the fault `modified-firmware` boots, if it is not there."""
    if not directory.modified_firmware.exists():
        _put(directory.modified_firmware, change_one_measured_byte(directory.firmware.read_bytes()))


def build_other_tpm(directory: RackDirectory, files: NodeFiles) -> None:
    """Make the TPM that the fault `other-tpm` puts in, if it is not there: same maker, another one."""
    if not files.other_tpm.exists():
        build_tpm(_build_maker(directory), files.other_tpm, None)


def build_other_image(files: NodeFiles, image: Path) -> None:
    """Make the disk that the fault `other-image` boots: the EFI application `image` where firmware looks for one."""
    build_boot_disk(files.other_image, image)


def build_boot_disk(disk: Path, image: Path) -> None:
    """Write a disk that holds one FAT file system with the EFI application `image` in it."""
    draft = disk.with_name(f".{disk.name}.draft")
    draft.unlink(missing_ok=True)
    sectors = (image.stat().st_size + 8 * 1024**2) // 512
    doing = "making a disk to boot from"
    run(doing, ["mformat", "-i", str(draft), "-C", "-T", str(sectors), "::"])
    run(doing, ["mmd", "-i", str(draft), "::/EFI", "::/EFI/BOOT"])
    run(doing, ["mcopy", "-i", str(draft), str(image), _EFI_PATH])
    draft.replace(disk)


def _build_disk(files: NodeFiles, firmware: Firmware) -> None:
    _copy(FIRMWARE_FILES[firmware].variables, files.variables)
    if not files.disk.exists():
        with files.disk.open("wb") as disk:
            disk.truncate(DISK_BYTES)


def _copy(source: Path, target: Path) -> None:
    if not target.exists():
        _put(target, source.read_bytes())


def _put(target: Path, content: bytes) -> None:
    draft = target.with_name(f".{target.name}.draft")
    draft.write_bytes(content)
    draft.replace(target)


def _build_maker(directory: RackDirectory) -> Path:
    """Write the maker's configuration of its own; return the file for swtpm_setup. Keys come with the first TPM."""
    maker = directory.maker
    maker.mkdir(exist_ok=True)
    authority = maker / "localca.conf"
    keys = {"signingkey": "signkey.pem", "issuercert": "issuercert.pem", "certserial": "certserial"}
    authority.write_text("".join([f"statedir = {maker}\n", *(f"{key} = {maker / to}\n" for key, to in keys.items())]))
    options = maker / "localca.options"
    options.write_text(
        "--platform-manufacturer Steelyard\n--platform-model EmulatedRack\n--platform-version 1\n", "ascii"
    )
    setup = maker / "setup.conf"
    setup.write_text(
        f"create_certs_tool = {shutil.which('swtpm_localca')}\n"
        f"create_certs_tool_config = {authority}\n"
        f"create_certs_tool_options = {options}\n"
    )
    return setup


def build_tpm(configuration: Path, state: Path, certificates: Path | None) -> None:
    """Manufacture a TPM: seeds, endorsement keys, and certificates for them in its NV memory.

    certificates  also gets them as files, as a maker would publish them; None: nobody is told of this TPM.
    """
    draft = state.with_name(f".{state.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    published = draft / "published"
    published.mkdir(parents=True)
    run(
        "manufacturing a TPM",
        [
            *("swtpm_setup", "--tpm2", "--tpmstate", str(draft), "--config", str(configuration)),
            *("--create-ek-cert", "--create-platform-cert", "--lock-nvram", "--pcr-banks", "sha256"),
            *("--write-ek-cert-files", str(published)),
        ],
    )
    if certificates is None:
        shutil.rmtree(published)
    else:
        shutil.rmtree(certificates, ignore_errors=True)
        published.replace(certificates)
    # Last: a TPM that is there is whole.
    draft.replace(state)


# -- BMC access --------------------------------------------------------------------------------------------------------


def _build_credentials(directory: RackDirectory, nodes: Iterable[NodePlan]) -> None:
    if not directory.credentials.exists():
        # 16 characters: the longest that every IPMI client can send.
        write_private(directory.credentials, json.dumps({node.name: secrets.token_hex(8) for node in nodes}))


def read_credentials(directory: RackDirectory) -> Mapping[str, Secret]:
    """Return node -> BMC password."""
    return {name: Secret(password.encode()) for name, password in json.loads(directory.credentials.read_text()).items()}


def _build_bmc_keys(directory: RackDirectory, nodes: Iterable[NodePlan]) -> None:
    authority = directory.bmc_keys / "ca.pem"
    if authority.exists():
        return
    directory.bmc_keys.mkdir(mode=0o700, exist_ok=True)
    ca_certificate, key_pairs = issue_bmc_certificates({node.name: node.bmc_address for node in nodes})
    for name, key_and_certificate in key_pairs.items():
        write_private(directory.bmc_keys / f"{name}.pem", key_and_certificate)
    write_private(authority, ca_certificate)


def issue_bmc_certificates(addresses: Mapping[str, ipaddress.IPv4Address]) -> tuple[str, Mapping[str, str]]:
    """Return a new authority's certificate, and for each name a key with a certificate for its address; all PEM.

    The authority's key is forgotten: it will never sign for another address.
    """
    now = datetime.datetime.now(datetime.UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Emulated rack BMCs")])
    ca_certificate = (
        _certificate(ca_name, ca_name, ca_key, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    pairs = {}
    for name, address in addresses.items():
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} BMC")]), ca_name, key, now)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(address)]), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        pairs[name] = (
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        ).decode()
    return ca_certificate.public_bytes(serialization.Encoding.PEM).decode(), pairs


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=3650))
    )


# -- inventory ---------------------------------------------------------------------------------------------------------


def take_inventory(directory: RackDirectory, nodes: Iterable[NodePlan]) -> inventory.Inventory:
    """Return what the rack holds."""
    passwords = read_credentials(directory)
    ca_certificate = (directory.bmc_keys / "ca.pem").read_text("ascii")
    return inventory.Inventory(
        namespace=directory.namespace,
        switch=inventory.Switch(
            SWITCH_NAME,
            BRIDGE,
            (f"tcp:{SWITCH_ADDRESS}:{OVSDB_PORT}", f"unix:{directory.switch / 'management.sock'}"),
            SERVICES_PORT,
        ),
        maker_certificates=tuple(
            certificate.read_text("ascii")
            for name in ("swtpm-localca-rootca-cert.pem", "issuercert.pem")
            if (certificate := directory.maker / name).exists()
        ),
        nodes=tuple(
            inventory_node(
                node,
                passwords[node.name],
                ca_certificate,
                _published_certificates(directory.node(node.name).endorsement_certificates),
            )
            for node in nodes
        ),
    )


def inventory_node(
    node: NodePlan, password: Secret, ca_certificate: str, certificates: Mapping[str, str]
) -> inventory.Node:
    """Return a node's entry."""
    return inventory.Node(
        name=node.name,
        uuid=str(node.identity),
        bmc=inventory.BmcAccess(
            address=str(node.bmc_address),
            ipmi_port=IPMI_PORT,
            redfish_url=f"https://{node.bmc_address}:{REDFISH_PORT}",
            username=BMC_USER,
            password=password,
            ca_certificate=ca_certificate,
        ),
        nics=tuple(inventory.Nic(nic.name, nic.mac, SWITCH_NAME, nic.port) for nic in node.nics),
        endorsement_certificates=certificates,
    )


def _published_certificates(folder: Path) -> Mapping[str, str]:
    """Return kind of key -> PEM. swtpm_setup names the files ek-KIND.crt."""
    return {
        file.stem.removeprefix("ek-"): x509.load_der_x509_certificate(file.read_bytes())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
        for file in sorted(folder.glob("ek-*.crt"))
    }
