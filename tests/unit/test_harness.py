"""The TPM that other tests stand on does what they take for granted."""

import contextlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from struct import unpack_from

import pytest

from tests.tpm import AttestationKey, EndorsementKind, Key, SigningKind, SoftwareTpm, ToolFailed

ROOT = Path(__file__).parents[2]
UNRESTRICTED = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign"
NONCE = bytes(range(32))

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("endorsement_kind", EndorsementKind)
def test_a_credential_for_every_endorsement_template_is_activated(
    tmp_path: Path, endorsement_kind: EndorsementKind
) -> None:
    with SoftwareTpm(tmp_path) as tpm:
        endorsement, attestation = _keys(tpm, endorsement_kind, SigningKind.ECC_P256_ECDSA_SHA256)
        credential = tpm.make_credential(endorsement.public, attestation.name, b"secret")
        assert tpm.activate_credential(attestation, endorsement, credential) == b"secret"


@pytest.mark.parametrize("kind", SigningKind)
def test_every_attestation_key_quotes_and_the_tpm_verifies_it(tmp_path: Path, kind: SigningKind) -> None:
    with SoftwareTpm(tmp_path) as tpm:
        _, attestation = _keys(tpm, EndorsementKind.ECC_P256, kind)
        quote = tpm.quote(attestation, "sha256:0,16", NONCE)
        tpm.verify_signature(attestation, quote.message, quote.signature)
        with pytest.raises(ToolFailed):
            tpm.verify_signature(attestation, quote.message + b"!", quote.signature)
        if kind is not SigningKind.RSA_2048_RSAPSS_SHA256:
            tpm.check_quote(attestation, quote, NONCE)
            with pytest.raises(ToolFailed):
                tpm.check_quote(attestation, quote, b"another")


def test_a_restart_clears_the_pcrs_and_keeps_the_keys(tmp_path: Path) -> None:
    with SoftwareTpm(tmp_path) as tpm:
        _, attestation = _keys(tpm, EndorsementKind.RSA_2048, SigningKind.RSA_2048_RSASSA_SHA256)
        tpm.extend(10, "sha256", b"\1" * 32)
        assert tpm.read_pcrs("sha256")[10] != bytes(32)
        first = _reset_and_restart_count(tpm, attestation)
        tpm.resume()
        assert tpm.read_pcrs("sha256")[10] != bytes(32)
        assert _reset_and_restart_count(tpm, attestation) == (first[0], first[1] + 1)
        tpm.restart()
        assert tpm.read_pcrs("sha256")[10] == bytes(32)
        assert _reset_and_restart_count(tpm, attestation) == (first[0] + 1, 0)
        tpm.cut_power()
        assert _reset_and_restart_count(tpm, attestation) == (first[0] + 2, 0)


def test_the_certificates_in_nv_are_for_the_endorsement_keys(tmp_path: Path) -> None:
    with SoftwareTpm(tmp_path) as tpm:
        for kind in (EndorsementKind.RSA_2048, EndorsementKind.ECC_P384):
            public = tpm.create_endorsement_key(kind).public
            assert public[-40:] in tpm.read_endorsement_certificate(kind)
        assert all(certificate.startswith(b"-----BEGIN CERTIFICATE-----") for certificate in tpm.read_authority())


def test_keys_certify_keys_and_only_an_unrestricted_one_signs_what_claims_to_be_from_a_tpm(tmp_path: Path) -> None:
    with SoftwareTpm(tmp_path) as tpm:
        _, attestation = _keys(tpm, EndorsementKind.ECC_P256, SigningKind.ECC_P256_ECDSA_SHA256)
        signer = tpm.create_signing_key(SigningKind.RSA_2048_RSAPSS_SHA256, f"{UNRESTRICTED}|restricted")
        message, signature = tpm.certify(attestation, signer)
        tpm.verify_signature(signer, message, signature)
        software = tpm.create_signing_key(SigningKind.RSA_2048_RSASSA_SHA256, UNRESTRICTED)
        tpm.verify_signature(software, message, tpm.sign(software, message))
        with pytest.raises(ToolFailed):
            tpm.sign(attestation, message)


def test_a_tpm_does_not_outlive_the_process_that_started_it(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, signal, sys, tests.tpm\n"
        "with tests.tpm.SoftwareTpm(pathlib.Path(sys.argv[1])) as tpm:\n"
        "    print(tpm._process.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, tmp_path], cwd=ROOT, capture_output=True, check=False, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with contextlib.suppress(ProcessLookupError):  # gone already
        left = os.pidfd_open(int(killed.stdout))
        try:
            ended, _, _ = select.select([left], [], [], 10)
        finally:
            os.close(left)
        assert ended


def _keys(tpm: SoftwareTpm, endorsement: EndorsementKind, kind: SigningKind) -> tuple[Key, AttestationKey]:
    parent = tpm.create_endorsement_key(endorsement)
    return parent, tpm.create_attestation_key(parent, kind)


def _reset_and_restart_count(tpm: SoftwareTpm, key: AttestationKey) -> tuple[int, int]:
    """Read TPMS_CLOCK_INFO at its place behind magic, type, qualifiedSigner and extraData."""
    message = tpm.quote(key, "sha256:16", NONCE).message
    clock_info = 6
    for _ in range(2):
        clock_info += 2 + int.from_bytes(message[clock_info : clock_info + 2], "big")
    reset_count, restart_count = unpack_from(">II", message, clock_info + 8)
    return reset_count, restart_count
