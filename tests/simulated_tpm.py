"""TPMs of software keys that make the real structures, as many as a test wants; and a real one that does the same.

Both are a `NodeTpm`: what the simulated node does with one it does with the other, so that what a software key signs
and what a TPM signs are judged alike (`tests/test_simulated_nodes.py`).
"""

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import cache
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from steelyard.agent.protocol import NodeKeys
from steelyard.agent.tpm import Quoted
from steelyard.evidence.tpm.activation import parse_credential_file
from steelyard.evidence.tpm.attest import TpmsAttest, TpmsClockInfo, TpmsQuoteInfo
from steelyard.evidence.tpm.identifiers import TpmAlg
from steelyard.evidence.tpm.keys import check_endorsement_key
from steelyard.evidence.tpm.public import TpmtPublic
from steelyard.evidence.tpm.selection import TpmlPcrSelection, TpmsPcrSelection
from steelyard.evidence.tpm.signature import parse_tpmt_signature
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.pcrs import PCR_COUNT, PcrSelection, start_value
from tests.tpm import AttestationKey, EndorsementKind, Key, SigningKind, SoftwareTpm
from tests.unit.evidence.tpm.authorities import EK_USAGE, key_usage, name, tpm_names
from tests.unit.evidence.tpm.keypairs import (
    P256,
    P384,
    SHA256,
    SHA384,
    PrivateKey,
    Signer,
    endorsement_area,
    open_credential,
    rsa_key,
)

BANKS: Final = (SHA256, SHA384)
"""The banks of a simulated TPM. It has no SHA-1: nobody asks for it."""
_CURVES: Final = {P256: ec.SECP256R1(), P384: ec.SECP384R1()}
_FIRMWARE_VERSION: Final = 0x2023_0101_0001_0002
_serials = itertools.count(1000)


class NodeTpm(Protocol):
    """What a simulated node needs of its TPM."""

    def keys(self) -> NodeKeys:
        """Return the public keys; the same each time."""

    def activate(self, credential: bytes) -> bytes:
        """Return the secret in a credential, as tpm2_makecredential writes it."""

    def quote(self, qualifying_data: bytes, selection: PcrSelection) -> Quoted:
        """Return a quote by the attestation key."""

    def extend(self, index: int, digests: Mapping[HashAlgorithm, bytes]) -> None:
        """Extend a PCR in each bank."""

    def reboot(self) -> None:
        """Reset it: the reset count goes up, PCRs start anew, the attestation key stays the same."""

    def new_attestation_key(self) -> None:
        """Forget the attestation key, and make another."""


# -- makers ------------------------------------------------------------------------------------------------------------


class Maker:
    """A maker of TPMs: a root and an issuer below it. Its certificates hold from ten years ago on, for ten more."""

    def __init__(self, common_name: str = "Test TPM maker") -> None:
        now = datetime.now(UTC).replace(microsecond=0)
        self._start, self._end = now - timedelta(days=3650), now + timedelta(days=3650)
        self._issuer_name = f"{common_name} issuer"
        root, self._issuer = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        root_name = f"{common_name} root"
        self.root = self._authority(root_name, root, root_name, root, 1)
        """DER."""
        self.issuer = self._authority(self._issuer_name, self._issuer, root_name, root, 0)
        """DER."""

    def anchors_pem(self) -> tuple[str, ...]:
        """Return what an operator trusts: issuer and root, PEM."""
        made = (x509.load_der_x509_certificate(each) for each in (self.issuer, self.root))
        return tuple(each.public_bytes(Encoding.PEM).decode() for each in made)

    def certify(self, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
        """Return an endorsement certificate, DER. Source: TCG EK Credential Profile 2.5, section 3.2."""
        encipher = isinstance(key, rsa.RSAPublicKey)
        builder = x509.CertificateBuilder(
            name(self._issuer_name), name(""), key, next(_serials), self._start, self._end
        )
        usage = key_usage(encipher=encipher, agree=not encipher)
        for extension, critical in (
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (usage, True),
            (x509.ExtendedKeyUsage([EK_USAGE]), False),
            (x509.SubjectAlternativeName([x509.DirectoryName(tpm_names())]), True),
        ):
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._issuer, hashes.SHA256()).public_bytes(Encoding.DER)

    def _authority(
        self,
        subject: str,
        key: ec.EllipticCurvePrivateKey,
        issuer: str,
        issuer_key: ec.EllipticCurvePrivateKey,
        path_length: int,
    ) -> bytes:
        builder = x509.CertificateBuilder(
            name(issuer), name(subject), key.public_key(), next(_serials), self._start, self._end
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        builder = builder.add_extension(key_usage(issue=True, revoke=True), critical=True)
        return builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.DER)


@cache
def maker() -> Maker:
    """Return the maker whose TPMs most tests use."""
    return Maker()


# -- software keys -----------------------------------------------------------------------------------------------------


class Endorsement(Enum):
    """A kind of endorsement key. Source: TCG EK Credential Profile 2.5, annex B.

    RSA keys take a tenth of a second to make: all nodes of one test run share four, and are told apart by the rest.
    """

    RSA_2048 = "rsa2048"
    """Template L-1."""
    P256 = "p256"
    """Template L-2."""
    P384 = "p384"
    """Template H-3."""


_RSA_KEYS: Final = 4
_rsa_numbers = itertools.cycle(range(_RSA_KEYS))


def make_endorsement_key(kind: Endorsement) -> tuple[PrivateKey, TpmtPublic]:
    """Return a key and its public area."""
    private: PrivateKey
    match kind:
        case Endorsement.RSA_2048:
            private = rsa_key(2048, 100 + next(_rsa_numbers))
            return private, endorsement_area(private)
        case Endorsement.P256:
            private = ec.generate_private_key(_CURVES[P256])
            return private, endorsement_area(private)
        case Endorsement.P384:
            private = ec.generate_private_key(_CURVES[P384])
            return private, endorsement_area(private, 256, SHA384)


def start_values() -> dict[HashAlgorithm, dict[int, bytes]]:
    """Return what the PCRs hold before anything extends them."""
    return {bank: {index: start_value(index, bank) for index in range(PCR_COUNT)} for bank in BANKS}


@dataclass
class SimulatedTpm:
    """A TPM of software keys: what it says has the form of what TPMs say, and nothing keeps it from lying.

    certificates  of the endorsement key, DER.
    clock         its time; it goes on by 7 ms with each quote.
    """

    endorsement: PrivateKey
    endorsement_public: TpmtPublic
    certificates: tuple[bytes, ...]
    signer: Signer = field(default_factory=lambda: Signer(ec.generate_private_key(_CURVES[P256]), TpmAlg.ECDSA))
    clock: TpmsClockInfo = field(default_factory=lambda: TpmsClockInfo(3_600_000, 7, 0, safe=True))
    pcrs: dict[HashAlgorithm, dict[int, bytes]] = field(default_factory=start_values)

    def keys(self) -> NodeKeys:
        """Return the public keys."""
        public = self.signer.public()
        return NodeKeys(self.endorsement_public.to_bytes(), self.certificates, public.to_bytes(), public.name())

    def activate(self, credential: bytes) -> bytes:
        """Open a credential, by a construction that shares nothing with the one that made it."""
        key = check_endorsement_key(self.endorsement_public)
        return open_credential(self.endorsement, key, self.signer.public().name(), parse_credential_file(credential))

    def quote(self, qualifying_data: bytes, selection: PcrSelection) -> Quoted:
        """Quote what was asked for."""
        return self.quote_at(self.clock, qualifying_data, selection)

    def quote_at(self, clock: TpmsClockInfo, qualifying_data: bytes, selection: PcrSelection) -> Quoted:
        """Quote as if the time were another."""
        values = {index: self.pcrs[selection.bank][index] for index in sorted(selection.indices)}
        bits = sum(1 << index for index in values)
        signed = TpmlPcrSelection((TpmsPcrSelection(selection.bank, bits.to_bytes(3, "little")),))
        digest = hashlib.new(self.signer.hash_algorithm.label, b"".join(values.values())).digest()
        name = self.signer.public().name()
        qualified = name[:2] + hashlib.sha256(b"\x40\x00\x00\x0b" + name).digest()  # a primary key's
        attest = TpmsAttest(qualified, qualifying_data, clock, _FIRMWARE_VERSION, TpmsQuoteInfo(signed, digest))
        self.clock = replace(self.clock, clock=self.clock.clock + 7)
        message = attest.to_bytes()
        return Quoted(message, self.signer.sign(message), values)

    def extend(self, index: int, digests: Mapping[HashAlgorithm, bytes]) -> None:
        """Extend a PCR."""
        for bank, digest in digests.items():
            values = self.pcrs[bank]
            values[index] = hashlib.new(bank.label, values[index] + digest).digest()

    def reboot(self) -> None:
        """Reset it."""
        self.clock = TpmsClockInfo(self.clock.clock + 20_000, self.clock.reset_count + 1, 0, safe=True)
        self.pcrs = start_values()

    def new_attestation_key(self) -> None:
        """Make another key."""
        self.signer = Signer(ec.generate_private_key(_CURVES[P256]), TpmAlg.ECDSA)


def make_tpm(kind: Endorsement = Endorsement.P256, made_by: Maker | None = None) -> SimulatedTpm:
    """Return a new TPM with a certificate by a maker, that of most tests where nothing else is said."""
    private, public = make_endorsement_key(kind)
    return SimulatedTpm(private, public, ((made_by or maker()).certify(private.public_key()),))


# -- the real thing ----------------------------------------------------------------------------------------------------


class RealTpm:
    """A TPM that swtpm emulates and tpm2-tools drive. Its own authority (`read_authority`) certified it."""

    def __init__(self, tpm: SoftwareTpm, kind: EndorsementKind = EndorsementKind.RSA_2048) -> None:
        self.tpm = tpm
        self._endorsement: Key = tpm.create_endorsement_key(kind)
        self._certificate = tpm.read_endorsement_certificate(kind)
        self.attestation: AttestationKey
        self.new_attestation_key()

    def keys(self) -> NodeKeys:
        """Return the public keys, as TPMT_PUBLIC."""
        endorsement, attestation = self._endorsement.public[2:], self.attestation.public[2:]
        return NodeKeys(endorsement, (self._certificate,), attestation, self.attestation.name)

    def activate(self, credential: bytes) -> bytes:
        """Open a credential."""
        return self.tpm.activate_credential(self.attestation, self._endorsement, credential)

    def quote(self, qualifying_data: bytes, selection: PcrSelection) -> Quoted:
        """Quote."""
        indices = sorted(selection.indices)
        listed = f"{selection.bank.label}:{','.join(map(str, indices))}"
        quote = self.tpm.quote(self.attestation, listed, qualifying_data)
        parse_tpmt_signature(quote.signature)
        values = self.tpm.read_pcrs(selection.bank.label)
        return Quoted(quote.message, quote.signature, {index: values[index] for index in indices})

    def extend(self, index: int, digests: Mapping[HashAlgorithm, bytes]) -> None:
        """Extend a PCR."""
        listed = ",".join(f"{bank.label}={digest.hex()}" for bank, digest in digests.items())
        self.tpm.run("tpm2_pcrextend", f"{index}:{listed}")

    def reboot(self) -> None:
        """Reset it."""
        self.tpm.restart()

    def new_attestation_key(self) -> None:
        """Make another key."""
        self.attestation = self.tpm.create_attestation_key(self._endorsement, SigningKind.ECC_P256_ECDSA_SHA256)
