"""Records the evidence in this folder anew, from real tools: `python -m tests.vectors.record swtpm` or `... ovmf`.

Everything comes out different each time (new keys, new seeds), so record only when the set itself must grow.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from tests.machine import (
    COMMAND_LINE,
    LOADER_PATH,
    OVMF,
    SECURE_BOOT_OVMF,
    BootedEvidence,
    Machine,
    change_firmware,
    find_kernel,
    find_packaged,
    make_initramfs,
    unified_image,
)
from tests.tpm import AttestationKey, EndorsementKind, Key, Quote, SigningKind, SoftwareTpm
from tests.vectors_dir import OWN

NONCE: Final = bytes.fromhex("5354ee1fa2d00b0e" * 4)

_RECORDED: Final = "<!-- recorded with -->"
"""In a MANIFEST.md: the line below which the versions stand."""


# -- swtpm -------------------------------------------------------------------------------------------------------------

_KEYS: Final = {
    "rsa2048-rsassa-sha256": (EndorsementKind.RSA_2048, SigningKind.RSA_2048_RSASSA_SHA256),
    "rsa2048-rsapss-sha256": (EndorsementKind.RSA_2048, SigningKind.RSA_2048_RSAPSS_SHA256),
    "p256-ecdsa-sha256": (EndorsementKind.ECC_P256, SigningKind.ECC_P256_ECDSA_SHA256),
    "p384-ecdsa-sha384": (EndorsementKind.ECC_P384, SigningKind.ECC_P384_ECDSA_SHA384),
}
_UNRESTRICTED: Final = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign"


def record_swtpm(folder: Path, work: Path) -> dict[str, str]:
    """Record keys, certificates, credentials, certify structures, and quotes over a TPM's life.

    Returns the versions of what they were recorded with.
    """
    with SoftwareTpm(work / "tpm") as tpm:
        signer = tpm.create_signing_key(SigningKind.ECC_P256_ECDSA_SHA256, f"{_UNRESTRICTED}|restricted")
        keys = {}
        for name, (endorsement_kind, signing_kind) in _KEYS.items():
            endorsement = tpm.create_endorsement_key(endorsement_kind)
            keys[name] = tpm.create_attestation_key(endorsement, signing_kind)
            _record_identity(tpm, folder / name, endorsement, keys[name], signer)
        _write(folder, {"nonce": NONCE, "signer.pub": signer.public, "signer.name": signer.name})
        _record_certificates(tpm, folder / "certificates")
        stages: dict[str, Callable[[], None]] = {
            "1-started": lambda: None,
            "2-extended": lambda: _extend(tpm),
            "3-resumed": tpm.resume,
            "4-restarted": tpm.restart,
            "5-extended": lambda: _extend(tpm),
            "6-power-cut": tpm.cut_power,
        }
        expected = {}
        for stage, change in stages.items():
            change()
            for name, key in keys.items():
                bank = key.kind.hash_name
                values = tpm.read_pcrs(bank)
                expected[f"{name}/{stage}"] = _record_quote(
                    tpm, folder / name, stage, tpm.quote(key, f"{bank}:0,1,2,3,4,5,6,7,10,16", NONCE)
                ) | {"pcrs": {str(index): values[index].hex() for index in (*range(8), 10, 16)}}
        _record_tricks(tpm, folder / "tricks", keys["rsa2048-rsassa-sha256"])
        (folder / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")
    return _versions("libtpms0", "libtss2-tcti-swtpm0", "swtpm", "swtpm-tools", "tpm2-tools")


def _record_identity(
    tpm: SoftwareTpm, folder: Path, endorsement: Key, attestation: Key, signer: AttestationKey
) -> None:
    secret = bytes(range(32))
    credential = tpm.make_credential(endorsement.public, attestation.name, secret)
    assert tpm.activate_credential(attestation, endorsement, credential) == secret
    message, signature = tpm.certify(attestation, signer)
    tpm.verify_signature(signer, message, signature)
    _write(
        folder,
        {
            "ek.pub": endorsement.public,
            "ak.pub": attestation.public,
            "ak.name": attestation.name,
            "credential.blob": credential,
            "credential.secret": secret,
            "certify.msg": message,
            "certify.sig": signature,
        },
    )


def _record_certificates(tpm: SoftwareTpm, folder: Path) -> None:
    issuer, root = tpm.read_authority()
    _write(
        folder,
        {
            "ek-rsa2048.der": tpm.read_endorsement_certificate(EndorsementKind.RSA_2048),
            "ek-p384.der": tpm.read_endorsement_certificate(EndorsementKind.ECC_P384),
            "platform.der": tpm.run("tpm2_nvread", "0x01C08000"),
            "issuer.pem": issuer,
            "root.pem": root,
        },
    )


def _record_quote(tpm: SoftwareTpm, folder: Path, stem: str, quote: Quote) -> dict[str, object]:
    """Write one quote, and return what tpm2_print reads in it."""
    _write(folder, {f"{stem}.msg": quote.message, f"{stem}.sig": quote.signature, f"{stem}.pcrs": quote.pcrs})
    printed = tpm.run("tpm2_print", "-t", "TPMS_ATTEST", "quote.msg").decode()
    fields = dict(line.strip().split(": ", 1) for line in printed.splitlines() if ": " in line)
    return {
        "clock": int(fields["clock"]),
        "reset_count": int(fields["resetCount"]),
        "restart_count": int(fields["restartCount"]),
        "safe": int(fields["safe"]),
        "firmware_version": int(fields["firmwareVersion"]),
        "qualified_signer": fields["qualifiedSigner"],
        "pcr_digest": fields["pcrDigest"],
    }


def _record_tricks(tpm: SoftwareTpm, folder: Path, key: AttestationKey) -> None:
    """Quotes that are genuine and must be refused, and one that no TPM made."""
    selections = {
        "other-pcrs": "sha256:16,23",
        "sha1-bank": "sha1:0,1,2,3,4,5,6,7,10,16",
        "two-banks": "sha1:0,1,2,3,4,5,6,7,10,16+sha256:0,1,2,3,4,5,6,7,10,16",
        "one-too-many": "sha256:0,1,2,3,4,5,6,7,10,16,17",
        "one-too-few": "sha256:0,1,2,3,4,5,6,7,16",
    }
    for stem, selection in selections.items():
        _record_quote(tpm, folder, stem, tpm.quote(key, selection, NONCE))
    _record_quote(tpm, folder, "other-nonce", tpm.quote(key, "sha256:0,1,2,3,4,5,6,7,10,16", bytes(32)))
    forger = tpm.create_signing_key(SigningKind.RSA_2048_RSASSA_SHA256, _UNRESTRICTED)
    genuine = tpm.quote(key, "sha256:0,1,2,3,4,5,6,7,10,16", NONCE)
    forged = Quote(genuine.message, tpm.sign(forger, genuine.message), genuine.pcrs)
    _record_quote(tpm, folder, "forged", forged)
    _write(folder, {"forger.pub": forger.public})
    # Honest of its key, as the bytes do not claim to be a TPM's: the magic is what a verifier must look at.
    _write(folder, {"not-generated.msg": b"\0" + genuine.message[1:]})
    _write(folder, {"not-generated.sig": tpm.sign(forger, b"\0" + genuine.message[1:])})


def _extend(tpm: SoftwareTpm) -> None:
    for bank, size in (("sha1", 20), ("sha256", 32), ("sha384", 48)):
        tpm.extend(10, bank, b"\x0a" * size)
        tpm.extend(16, bank, b"\x10" * size)


# -- ovmf --------------------------------------------------------------------------------------------------------------

_SHIM: Final = "usr/lib/shim/shimx64.efi.signed"
_GRUB: Final = "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
_CONSOLE: Final = "console=ttyS0 panic=-1 rootfstype=ramfs"

_ODD_NAMES: Final = r"""
mkdir /odd
ran() { printf '#!/bin/sh\n# %s\n' "$2" >"$1"; chmod +x "$1"; "$1"; }
ran '/odd/with space' 1
ran "$(printf '/odd/new\nline')" 2
ran '/odd/back\slash' 3
ran "$(printf '/odd/\377\376 is not UTF-8')" 4
ran '/odd/Wägestück' 5
ran '/odd/gone (deleted)' 6
ran "$(printf '/odd/tab\there\rreturn')" 7
ran "/odd/$(printf '%0250d' 0)" 8
ran '/odd/x ima-ng sha256:00 y' 9
ran "$(printf '/odd/line\n10 0000000000000000000000000000000000000000 ima-ng sha256:00')" 10
echo removed >/odd/removed; exec 5<>/odd/removed; rm /odd/removed; cat /proc/self/fd/5; exec 5<&-
echo a >/odd/read; exec 4</odd/read; echo b >>/odd/read; exec 4<&-
exec 4>>/odd/written; cat /odd/written; exec 4>&-
"""
"""Files with such names are run; then one is read and written at once in each of the ways the kernel tells apart."""

_SIGNED: Final = r"""
mkdir /signed
mount -t tmpfs tmpfs /signed
cp /payload/* /signed
printf 'measure func=BPRM_CHECK\nmeasure func=KEY_CHECK\n' >/sys/kernel/security/ima/policy
keyctl padd asymmetric '' "$(keyctl newring steelyard @u)" </signed/rsa.der
cd /signed
for signature in *.sig; do
    setfattr -n security.ima -v "0x$(xxd -p "$signature" | tr -d '\n')" "${signature%.sig}"
    "./${signature%.sig}"
done
./unsigned
"""
"""The initramfs cannot hold attributes, so that the files are copied to a tmpfs and given theirs there."""


def record_ovmf(folder: Path, work: Path) -> dict[str, str]:
    """Record what one machine's boots say: as it is, changed in one thing each, by another loader, and for IMA.

    Returns the versions of what they were recorded with.
    """
    machine = Machine(work / "machine")
    _write(
        folder,
        {
            "ak.pub": machine.attestation_key.public,
            "ak.name": machine.attestation_key.name,
            "ek.pub": machine.endorsement_key.public,
            "ek.der": machine.endorsement_certificate,
            "issuer.pem": machine.authority[0],
            "root.pem": machine.authority[1],
        },
    )
    changed_firmware = replace(OVMF, code=work / "changed.fd")
    changed_firmware.code.write_bytes(change_firmware(OVMF.code.read_bytes()))
    image = {LOADER_PATH: unified_image()}
    other_command_line = {LOADER_PATH: unified_image(command_line=f"{COMMAND_LINE} single")}
    _record_boot(folder / "boots/first", machine.boot(image, nonce=NONCE))
    _record_boot(folder / "boots/second", machine.boot(image, nonce=NONCE[::-1]))
    _record_boot(folder / "boots/more-memory", machine.boot(image, nonce=NONCE, memory_mib=320))
    _record_boot(folder / "boots/changed-firmware", machine.boot(image, nonce=NONCE, firmware=changed_firmware))
    _record_boot(folder / "boots/other-command-line", machine.boot(other_command_line, nonce=NONCE))
    _record_boot(folder / "boots/shim-grub", machine.boot(_shim_and_grub(), nonce=NONCE))
    secure_boot = machine.boot(_shim_and_grub(), nonce=NONCE, firmware=SECURE_BOOT_OVMF, memory_mib=512)
    _record_boot(folder / "boots/secure-boot", secure_boot)
    for name, (switches, script) in {
        "ima": ("ima_policy=tcb ima_template=ima ima_hash=sha1", _ODD_NAMES),
        "ima-ng": ("ima_policy=tcb ima_template=ima-ng", _ODD_NAMES),
        "ima-ngv2": ("ima_policy=tcb ima_template=ima-ngv2", _ODD_NAMES),
        "ima-sigv2": ("ima_policy=tcb ima_template=ima-sigv2", _ODD_NAMES),
        "ima-modsig": ("ima_policy=tcb ima_template=ima-modsig", _ODD_NAMES),
        "ima-buf": ("ima_policy=tcb ima_policy=critical_data", ""),
        "own-format": ("ima_policy=tcb ima_template_fmt=n-ng|d-ng|iuid|imode", ""),
    }.items():
        started = unified_image(command_line=f"{_CONSOLE} {switches}", script=script)
        _record_ima(folder / "ima" / name, machine.boot({LOADER_PATH: started}, nonce=NONCE))
    payload = _sign_files(work / "payload", folder / "ima/keys")
    programs = _with_libraries("setfattr", "keyctl")
    for name in ("ima-sig", "ima-sigv2"):
        command_line = f"{_CONSOLE} ima_policy=tcb ima_policy=critical_data ima_template={name}"
        started = unified_image(command_line=command_line, script=_SIGNED, files={**payload, **programs})
        _record_ima(folder / f"ima/signed-{name}", machine.boot({LOADER_PATH: started}, nonce=NONCE))
    return (
        _versions("attr", "binutils", "busybox-static", "ima-evm-utils", "keyutils", "libtpms0", "openssl", "ovmf")
        | _versions("qemu-system-x86", "swtpm", "systemd-boot-efi", "tpm2-tools")
        | _version_of(find_kernel())
        | _version_of(find_packaged("shim-signed", _SHIM))
        | _version_of(find_packaged("grub-efi-amd64-signed", _GRUB))
    )


def _record_boot(folder: Path, evidence: BootedEvidence) -> None:
    _write(folder, {"event_log.bin": evidence.event_log})
    _record_ima(folder, evidence)


def _record_ima(folder: Path, evidence: BootedEvidence) -> None:
    _write(
        folder,
        {
            "ima.ascii": evidence.ima_ascii,
            "ima.bin": evidence.ima_binary,
            "nonce": evidence.nonce,
            "quote.msg": evidence.quote,
            "quote.sig": evidence.signature,
        },
    )
    pcrs = {bank: {str(at): values[at].hex() for at in sorted(values)} for bank, values in evidence.pcrs.items()}
    (folder / "pcrs.json").write_text(json.dumps(pcrs, indent=1) + "\n")


def _shim_and_grub() -> dict[str, bytes]:
    """Return a system partition with Debian's signed chain; only GRUB's `linuxefi` hands the event log over."""
    return {
        LOADER_PATH: find_packaged("shim-signed", _SHIM).read_bytes(),
        "EFI/BOOT/grubx64.efi": find_packaged("grub-efi-amd64-signed", _GRUB).read_bytes(),
        "EFI/debian/grub.cfg": f"linuxefi /vmlinuz {COMMAND_LINE}\ninitrdefi /initrd.img\nboot\n".encode(),
        "vmlinuz": find_kernel().read_bytes(),
        "initrd.img": make_initramfs("", {}),
    }


def _sign_files(work: Path, keys: Path) -> dict[str, bytes]:
    """Return the guest's files with their signatures, as evmctl makes them; the certificates go to `keys`."""
    work.mkdir()
    keys.mkdir(parents=True)
    rsa, curve = ("rsa:2048",), ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    for name, algorithm in (("rsa", rsa), ("ecdsa", curve), ("unknown", rsa)):
        subprocess.run(
            [
                *("openssl", "req", "-new", "-x509", "-nodes", "-days", "36500", "-subj", f"/CN=steelyard {name}"),
                *(
                    "-newkey",
                    *algorithm,
                    "-keyout",
                    f"{work}/{name}.pem",
                    "-outform",
                    "DER",
                    "-out",
                    f"{keys}/{name}.der",
                ),
            ],
            check=True,
            capture_output=True,
        )
    signed = {
        "rsa": ("rsa", "sha256"),
        "ecdsa": ("ecdsa", "sha256"),
        "unknown": ("unknown", "sha256"),
        "weak": ("rsa", "sha1"),
        "altered": ("rsa", "sha256"),
    }
    files = {"payload/unsigned": b"#!/bin/sh\n# unsigned\n", "payload/rsa.der": (keys / "rsa.der").read_bytes()}
    for name, (key, hash_name) in signed.items():
        script = work / name
        script.write_bytes(f"#!/bin/sh\n# {name}\n".encode())
        subprocess.run(
            ["evmctl", "ima_sign", "--sigfile", "--hashalgo", hash_name, "--key", work / f"{key}.pem", script],
            check=True,
            capture_output=True,
        )
        files[f"payload/{name}"] = script.read_bytes()
        files[f"payload/{name}.sig"] = Path(f"{script}.sig").read_bytes()
    files["payload/altered"] += b"# and one line more\n"
    hash_only = b"#!/bin/sh\n# hash only\n"
    files["payload/hash-only"] = hash_only
    # IMA_XATTR_DIGEST_NG (4), HASH_ALGO_SHA256 (4): a hash in place of a signature.
    files["payload/hash-only.sig"] = b"\x04\x04" + hashlib.sha256(hash_only).digest()
    return files


def _with_libraries(*programs: str) -> dict[str, bytes]:
    """Return programs of this system and the libraries they need, where a guest finds them."""
    files = {}
    for program in programs:
        path = shutil.which(program) or program
        files[f"bin/{program}"] = Path(path).read_bytes()
        libraries = subprocess.run(["ldd", path], check=True, capture_output=True, text=True).stdout.split()
        files |= {name[1:]: Path(name).read_bytes() for name in libraries if name.startswith("/")}
    return files


# -- all ---------------------------------------------------------------------------------------------------------------


def _write(folder: Path, contents: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)


def _versions(*packages: str) -> dict[str, str]:
    """Return the versions of installed Debian packages."""
    lines = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${Package} ${Version}\n", *packages],
        capture_output=True,
        check=True,
        text=True,
    ).stdout.splitlines()
    return dict(line.split() for line in lines)


def _version_of(file: Path) -> dict[str, str]:
    """Return the package that a found file is from, and its version, whether it is installed or was downloaded."""
    for part in file.parts:
        if part.count("_") == 2:
            name, version, _ = part.split("_")
            return {name: unquote(version)}
    owner = subprocess.run(["dpkg-query", "--search", file], capture_output=True, check=True, text=True).stdout
    return _versions(owner.partition(":")[0])


_SETS: Final = {"swtpm": record_swtpm, "ovmf": record_ovmf}


def main(names: list[str]) -> None:
    """Record the sets named."""
    for name in names:
        with tempfile.TemporaryDirectory(prefix="steelyard-record-") as work:
            fresh = Path(work) / "recorded"
            versions = _SETS[name](fresh, Path(work))
            manifest = (OWN / name / "MANIFEST.md").read_text().partition(_RECORDED)[0]
            rows = "".join(f"| {package} | {versions[package]} |\n" for package in sorted(versions))
            table = f"| Debian 12 package | version |\n| --- | --- |\n{rows}"
            (fresh / "MANIFEST.md").write_text(f"{manifest}{_RECORDED}\n\n{table}")
            shutil.rmtree(OWN / name)
            shutil.copytree(fresh, OWN / name)


if __name__ == "__main__":
    main(sys.argv[1:])
