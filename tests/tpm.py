"""A real TPM 2.0 for tests: swtpm, provisioned as a maker would, spoken to with tpm2-tools.

Any number run side by side: each lives in a directory of its own, has its own certificate authority, listens on Unix
sockets there (named relative to it, as a socket's path may only have 107 bytes), and dies with the process that
started it, even if that is killed.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

BANKS: Final = ("sha1", "sha256", "sha384")
"""The PCR banks that are switched on where nothing else is asked for."""

_PACKAGES: Final = {
    "swtpm": "swtpm",
    "swtpm_setup": "swtpm-tools",
    "tpm2_quote": "tpm2-tools",
    "setpriv": "util-linux",
    "/usr/lib/x86_64-linux-gnu/libtss2-tcti-swtpm.so.0": "libtss2-tcti-swtpm0",
}
_SOCKET: Final = "tpm.sock"
_LONGEST_COMMAND_SECONDS: Final = 60
_LONGEST_START_SECONDS: Final = 20
_USER_WITH_AUTH: Final = 0x40
"""TPMA_OBJECT bit 6: the empty password opens the key, so that no policy session is needed."""


def require_programs(packages: Mapping[str, str]) -> None:
    """Skip the test unless every program or file is there; `packages` says which Debian package brings each."""
    missing = sorted({packages[name] for name in packages if not (shutil.which(name) or Path(name).is_file())})
    if missing:
        pytest.skip(f"needs the Debian packages {' '.join(missing)}")


class ToolFailed(Exception):
    """A tool ended with an error; its text says which."""

    def __init__(self, argv: list[str], code: int, output: bytes) -> None:
        super().__init__(f"{' '.join(argv)} ended with {code}:\n{output.decode(errors='replace')}")
        self.code = code


class EndorsementKind(Enum):
    """An endorsement key of the TCG EK Credential Profile 2.5, annex B, as tpm2_createek names its algorithm."""

    RSA_2048 = "rsa"
    """Template L-1: AES-128, opened by PolicySecret(endorsement)."""
    ECC_P256 = "ecc"
    """Template L-2: AES-128, opened by PolicySecret(endorsement)."""
    ECC_P384 = "ecc384"
    """Template H-3: AES-256, opened by the empty password."""


class SigningKind(Enum):
    """An attestation key: algorithm, scheme and hash, as tpm2_createak takes them."""

    RSA_2048_RSASSA_SHA256 = ("rsa", "rsassa", "sha256")
    RSA_2048_RSAPSS_SHA256 = ("rsa", "rsapss", "sha256")
    ECC_P256_ECDSA_SHA256 = ("ecc", "ecdsa", "sha256")
    ECC_P384_ECDSA_SHA384 = ("ecc384", "ecdsa", "sha384")

    def __init__(self, algorithm: str, scheme: str, hash_name: str) -> None:
        self.algorithm = algorithm
        self.scheme = scheme
        self.hash_name = hash_name


@dataclass(frozen=True, slots=True)
class Key:
    """A key of one TPM. It is persistent, so that it outlives restarts.

    handle  as tpm2-tools take it, such as 0x81018000.
    public  TPM2B_PUBLIC.
    name    TPM2B_NAME without its size: hash identifier and digest.
    """

    handle: str
    public: bytes
    name: bytes


@dataclass(frozen=True, slots=True)
class AttestationKey(Key):
    """A signing key and how it signs."""

    kind: SigningKind


@dataclass(frozen=True, slots=True)
class Quote:
    """What tpm2_quote writes.

    message    TPMS_ATTEST.
    signature  TPMT_SIGNATURE.
    pcrs       the PCR values in the tools' own file format, little-endian ("serialized").
    """

    message: bytes
    signature: bytes
    pcrs: bytes


def provision(directory: Path, banks: Sequence[str] = BANKS) -> None:
    """Make a TPM's state in `directory`/state, with these PCR banks and with certificates from a CA in `directory`/ca.

    NV 0x01C00002 gets the RSA-2048 certificate, 0x01C00016 the P-384 one, 0x01C08000 the platform certificate.
    """
    require_programs(_PACKAGES)
    state = directory / "state"
    authority = directory / "ca"
    state.mkdir()
    authority.mkdir()
    (directory / "ca.conf").write_text(
        f"statedir = {authority}\n"
        f"signingkey = {authority}/signkey.pem\n"
        f"issuercert = {authority}/issuercert.pem\n"
        f"certserial = {authority}/certserial\n"
    )
    (directory / "ca.options").write_text(
        "--platform-manufacturer Steelyard\n--platform-version 1\n--platform-model Rack\n"
    )
    (directory / "setup.conf").write_text(
        "create_certs_tool = /usr/bin/swtpm_localca\n"
        f"create_certs_tool_config = {directory}/ca.conf\n"
        f"create_certs_tool_options = {directory}/ca.options\n"
        "active_pcr_banks = sha256\n"
    )
    # As root swtpm_setup would become the user tss, who cannot write here.
    user = ("--runas", "root") if os.geteuid() == 0 else ()
    _complete(
        [
            *("swtpm_setup", "--tpm2", "--tpmstate", str(state), "--config", str(directory / "setup.conf"), *user),
            *("--create-ek-cert", "--create-platform-cert", "--lock-nvram", "--pcr-banks", ",".join(banks)),
        ],
        directory,
        os.environ,
    )


class SoftwareTpm:
    """A running TPM in `directory` (made and provisioned at first use), switched off when the context ends.

    Tools run with `directory` as their working directory: files are named relative to it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self._environment = {**os.environ, "TPM2TOOLS_TCTI": f"swtpm:path={_SOCKET}", "TSS2_LOG": "all+none"}
        self._process: subprocess.Popen[bytes] | None = None
        self._next_handle = 0x81018000

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        if not (self.directory / "state").exists():
            provision(self.directory)
        self._switch_on("startup-clear")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._switch_off()

    def run(self, *argv: str) -> bytes:
        """Run a tool of tpm2-tools and return its standard output. Raises ToolFailed.

        No resource manager stands between: transient objects are flushed afterwards, as a TPM holds but three.
        """
        output = _complete(list(argv), self.directory, self._environment)
        _complete(["tpm2_flushcontext", "--transient-object"], self.directory, self._environment)
        return output

    # -- power ---------------------------------------------------------------------------------------------------------

    def restart(self) -> None:
        """Shut down in order and start again: resetCount goes up, PCRs start anew, the clock stays safe."""
        self.run("tpm2_shutdown", "--clear")
        self._switch_off()
        self._switch_on("startup-clear")

    def resume(self) -> None:
        """Sleep and wake: restartCount goes up, PCRs stay."""
        self.run("tpm2_shutdown")
        self._switch_off()
        self._switch_on("startup-state")

    def cut_power(self) -> None:
        """Lose power without a shutdown and start again: resetCount goes up, the clock is not safe."""
        self._switch_off()
        self._switch_on("startup-clear")

    # -- PCRs ----------------------------------------------------------------------------------------------------------

    def read_pcrs(self, bank: str) -> dict[int, bytes]:
        """Return all 24 values of a bank."""
        self.run("tpm2_pcrread", f"{bank}:all", "--output", "pcrs.out")
        values = self._read("pcrs.out")
        size = len(values) // 24
        return {index: values[index * size : (index + 1) * size] for index in range(24)}

    def extend(self, index: int, bank: str, digest: bytes) -> None:
        """Extend one PCR of one bank."""
        self.run("tpm2_pcrextend", f"{index}:{bank}={digest.hex()}")

    # -- keys ----------------------------------------------------------------------------------------------------------

    def create_endorsement_key(self, kind: EndorsementKind) -> Key:
        """Return the endorsement key of this template; the same each time, as it is derived from the TPM's seed."""
        handle = self._new_handle()
        self.run("tpm2_createek", "-G", kind.value, "-c", handle, "-u", "ek.pub")
        return self._key(handle)

    def create_attestation_key(self, endorsement: Key, kind: SigningKind) -> AttestationKey:
        """Return a new restricted signing key under an endorsement key."""
        self.run(
            *("tpm2_createak", "-C", endorsement.handle, "-c", "ak.ctx"),
            *("-G", kind.algorithm, "-s", kind.scheme, "-g", kind.hash_name),
        )
        handle = self._new_handle()
        self.run("tpm2_evictcontrol", "-c", "ak.ctx", handle)
        return self._attestation_key(handle, kind)

    def create_signing_key(self, kind: SigningKind, attributes: str) -> AttestationKey:
        """Return the owner's primary signing key with these object attributes, such as an unrestricted one.

        attributes  as tpm2-tools name them, such as "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign".
        """
        algorithm = {"rsa": "rsa2048", "ecc": "ecc256"}.get(kind.algorithm, kind.algorithm)
        self.run(
            *("tpm2_createprimary", "-C", "o", "-g", kind.hash_name, "-c", "signing.ctx", "-a", attributes),
            *("-G", f"{algorithm}:{kind.scheme}-{kind.hash_name}:null"),
        )
        handle = self._new_handle()
        self.run("tpm2_evictcontrol", "-c", "signing.ctx", handle)
        return self._attestation_key(handle, kind)

    def read_endorsement_certificate(self, kind: EndorsementKind) -> bytes:
        """Return the certificate from NV, DER; there is none for P-256."""
        index = {EndorsementKind.RSA_2048: "0x01C00002", EndorsementKind.ECC_P384: "0x01C00016"}[kind]
        return self.run("tpm2_nvread", index)

    def read_authority(self) -> list[bytes]:
        """Return the certificates above the endorsement certificates, PEM: the issuer, then the root."""
        names = ("issuercert.pem", "swtpm-localca-rootca-cert.pem")
        return [(self.directory / "ca" / name).read_bytes() for name in names]

    # -- proofs --------------------------------------------------------------------------------------------------------

    def quote(self, key: AttestationKey, selection: str, nonce: bytes) -> Quote:
        """Return a quote over a selection such as "sha256:0,1,2" or "sha1:0+sha256:16"."""
        self.run(
            *("tpm2_quote", "-c", key.handle, "-l", selection, "-q", nonce.hex()),
            *("--scheme", key.kind.scheme, "-g", key.kind.hash_name),
            *("-m", "quote.msg", "-s", "quote.sig", "-o", "quote.pcrs"),
        )
        return Quote(self._read("quote.msg"), self._read("quote.sig"), self._read("quote.pcrs"))

    def check_quote(self, key: AttestationKey, quote: Quote, nonce: bytes) -> None:
        """Have tpm2_checkquote judge a quote. Raises ToolFailed.

        Version 5.4 cannot verify RSAPSS: have `verify_signature` do it.
        """
        self._write({"quote.msg": quote.message, "quote.sig": quote.signature, "quote.pcrs": quote.pcrs})
        self._write({"ak.pub": key.public})
        self.run(
            *("tpm2_checkquote", "-u", "ak.pub", "-q", nonce.hex(), "-g", key.kind.hash_name),
            *("-m", "quote.msg", "-s", "quote.sig", "-f", "quote.pcrs"),
        )

    def verify_signature(self, key: AttestationKey, message: bytes, signature: bytes) -> None:
        """Have the TPM itself verify a TPMT_SIGNATURE over `message`. Raises ToolFailed."""
        self._write({"ak.pub": key.public, "signed.msg": message, "signed.sig": signature})
        self.run("tpm2_loadexternal", "-C", "n", "-u", "ak.pub", "-c", "external.ctx")
        self.run(
            *("tpm2_verifysignature", "-c", "external.ctx", "-g", key.kind.hash_name),
            *("-m", "signed.msg", "-s", "signed.sig"),
        )

    def sign(self, key: AttestationKey, message: bytes) -> bytes:
        """Return the TPMT_SIGNATURE of an unrestricted key over any bytes; a restricted key refuses TPM_GENERATED."""
        self._write({"signed.msg": message})
        self.run(
            *("tpm2_sign", "-c", key.handle, "-g", key.kind.hash_name, "-s", key.kind.scheme),
            *("-o", "signed.sig", "signed.msg"),
        )
        return self._read("signed.sig")

    def certify(self, subject: Key, signer: AttestationKey) -> tuple[bytes, bytes]:
        """Return TPMS_ATTEST (certify) of `subject` and TPMT_SIGNATURE by `signer`.

        tpm2_certify 5.4 always uses 00 ff 55 aa as qualifying data.
        """
        self.run(
            *("tpm2_certify", "-c", subject.handle, "-C", signer.handle),
            *("--scheme", signer.kind.scheme, "-g", signer.kind.hash_name, "-o", "certify.msg", "-s", "certify.sig"),
        )
        return self._read("certify.msg"), self._read("certify.sig")

    def make_credential(self, endorsement_public: bytes, name: bytes, secret: bytes) -> bytes:
        """Return what tpm2_makecredential writes: magic, version, TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET."""
        self._write({"ek.pub": endorsement_public, "secret.in": secret})
        self.run("tpm2_makecredential", "-u", "ek.pub", "-n", name.hex(), "-s", "secret.in", "-o", "credential.blob")
        return self._read("credential.blob")

    def activate_credential(self, attestation: Key, endorsement: Key, credential: bytes) -> bytes:
        """Return the secret in a credential file as `make_credential` gives it. Raises ToolFailed."""
        self._write({"credential.blob": credential})
        argv = ["tpm2_activatecredential", "-c", attestation.handle, "-C", endorsement.handle]
        argv += ["-i", "credential.blob", "-o", "secret.out"]
        attributes = int.from_bytes(endorsement.public[6:10], "big")
        if attributes & _USER_WITH_AUTH:
            self.run(*argv)
        else:
            self.run("tpm2_startauthsession", "--policy-session", "-S", "session.ctx")
            try:
                self.run("tpm2_policysecret", "-S", "session.ctx", "-c", "e")
                self.run(*argv, "-P", "session:session.ctx")
            finally:
                self.run("tpm2_flushcontext", "session.ctx")
        return self._read("secret.out")

    # -- inside --------------------------------------------------------------------------------------------------------

    def _switch_on(self, startup: str) -> None:
        for name in (_SOCKET, f"{_SOCKET}.ctrl"):
            (self.directory / name).unlink(missing_ok=True)
        with (self.directory / "swtpm.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL", "swtpm", "socket", "--tpm2", "--tpmstate", "dir=state"),
                    *("--server", f"type=unixio,path={_SOCKET}", "--ctrl", f"type=unixio,path={_SOCKET}.ctrl"),
                    *("--flags", f"not-need-init,{startup}"),
                ],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _LONGEST_START_SECONDS
        while True:
            try:
                self.run("tpm2_getcap", "properties-fixed")
            except ToolFailed:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self._switch_off()
                    raise
            else:
                return

    def _switch_off(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _new_handle(self) -> str:
        self._next_handle += 1
        return f"{self._next_handle:#x}"

    def _key(self, handle: str) -> Key:
        self.run("tpm2_readpublic", "-c", handle, "-o", "key.pub", "-n", "key.name")
        return Key(handle, self._read("key.pub"), self._read("key.name"))

    def _attestation_key(self, handle: str, kind: SigningKind) -> AttestationKey:
        key = self._key(handle)
        return AttestationKey(key.handle, key.public, key.name, kind)

    def _read(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()

    def _write(self, contents: Mapping[str, bytes]) -> None:
        for name, data in contents.items():
            (self.directory / name).write_bytes(data)


def _complete(argv: list[str], directory: Path, environment: Mapping[str, str]) -> bytes:
    """Run to the end, and return standard output. Raises ToolFailed."""
    done = subprocess.run(
        argv,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_LONGEST_COMMAND_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise ToolFailed(argv, done.returncode, done.stderr + done.stdout)
    return done.stdout
