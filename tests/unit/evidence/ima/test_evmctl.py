"""The kernel developers' own tool agrees: on what a list does to PCR 10, and on who signed a file."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from steelyard.evidence.ima.parse import FileDigest, parse_ima_list
from steelyard.evidence.ima.records import DigestKind
from steelyard.evidence.ima.replay import pcr10_values
from steelyard.evidence.ima.signatures import file_signing_key, verify_file_signature
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import FileSignatureRejected
from tests.unit.evidence.ima.lists import Entry, one_of_each, write
from tests.unit.evidence.ima.signing import LATER, NOW, PrivateKey, public_der
from tests.vectors_dir import OWN, shared_vectors

EVMCTL = shutil.which("evmctl")
pytestmark = pytest.mark.skipif(EVMCTL is None, reason="needs evmctl: install the package ima-evm-utils")

BANKS = (HashAlgorithm.SHA1, HashAlgorithm.SHA256)
OLDEST = [entry for entry in one_of_each() if entry.template == "ima"]
NEWER = [entry for entry in one_of_each() if entry.template != "ima"]


def evmctl(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    assert EVMCTL is not None
    return subprocess.run([EVMCTL, *arguments], capture_output=True, check=False)


def evmctl_agrees(data: bytes, folder: Path) -> bool:
    """Return whether evmctl replays a list to the PCR 10 that we replay it to, in both banks."""
    values = pcr10_values(parse_ima_list(data))
    options: list[str | Path] = ["--ignore-violations"]
    for bank in BANKS:
        file = folder / bank.label
        contents = {index: values[bank] if index == 10 else bytes(bank.size) for index in range(24)}
        file.write_text("".join(f"PCR-{index:02}: {value.hex(' ')}\n" for index, value in contents.items()))
        options += ["--pcrs", f"{bank.label},{file}"]
    (folder / "list").write_bytes(data)
    result = evmctl("ima_measurement", *options, folder / "list")
    return result.returncode == 0 and b"Matched per TPM bank" in result.stdout + result.stderr


@pytest.mark.parametrize("entries", [OLDEST, NEWER], ids=["the oldest template", "the others"])
def test_evmctl_replays_our_lists_to_the_same_values(entries: Sequence[Entry], tmp_path: Path) -> None:
    assert evmctl_agrees(write(entries), tmp_path)


def test_evmctl_replays_a_recorded_list_to_the_same_values(tmp_path: Path) -> None:
    assert evmctl_agrees((shared_vectors("ima") / "ibm-sha1.log").read_bytes(), tmp_path)


@pytest.mark.parametrize("name", ["ima", "ima-buf", "ima-modsig", "ima-ng", "ima-ngv2", "ima-sigv2", "signed-ima-sig"])
def test_evmctl_replays_our_recorded_lists_to_the_same_values(name: str, tmp_path: Path) -> None:
    assert evmctl_agrees((OWN / "ovmf" / "ima" / name / "ima.bin").read_bytes(), tmp_path)


def test_evmctl_would_tell_if_it_did_not_agree(tmp_path: Path) -> None:
    data = write(NEWER)
    assert evmctl_agrees(data, tmp_path)
    (tmp_path / "list").write_bytes(data[: -len(write(NEWER[-1:]))])
    options = [option for bank in BANKS for option in ("--pcrs", f"{bank.label},{tmp_path / bank.label}")]
    assert evmctl("ima_measurement", "--ignore-violations", *options, tmp_path / "list").returncode != 0


@pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())])
@pytest.mark.parametrize("algorithm", [HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512])
def test_a_signature_by_evmctl_is_verified(key: PrivateKey, algorithm: HashAlgorithm, tmp_path: Path) -> None:
    private, file = tmp_path / "key", tmp_path / "file"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    file.write_bytes(b"content")
    signed = evmctl("ima_sign", "--sigfile", "--hashalgo", algorithm.label, "--key", private, file)
    assert signed.returncode == 0, signed.stderr
    signature = (tmp_path / "file.sig").read_bytes()
    known = file_signing_key("ours", public_der(key), not_after=LATER, revoked=False, paths=["/**"])
    keys = {known.key_id: (known,)}
    digest = FileDigest(DigestKind.IMA, algorithm, algorithm.digest(b"content"))
    assert verify_file_signature(signature, digest, b"/file", keys, NOW) is known
    other = FileDigest(DigestKind.IMA, algorithm, algorithm.digest(b"other"))
    with pytest.raises(FileSignatureRejected):
        verify_file_signature(signature, other, b"/file", keys, NOW)
