"""Signatures on files, as the kernel measured them with `ima-sig` and its like.

A signature counts when its kind fits the digest in the same entry, and a key made it that may sign for this path and
is in force. Signatures of other kinds count for nothing: over a file's metadata (EVM), which the list does not hold;
appended to a file (modsig, PKCS #7), which is carried and not read, so that such files are allowed by their digests.

Source: struct signature_v2_hdr and struct ima_file_id in security/integrity/integrity.h, digsig_asymmetric.c,
calc_file_id_hash in ima_appraise.c (Linux 6.12; for version 3 over a file's own digest Linux 7.1).
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import load_der_public_key

from steelyard.evidence.ima.parse import FileDigest
from steelyard.evidence.ima.path_globs import PathGlob, path_glob
from steelyard.evidence.ima.records import DigestKind
from steelyard.evidence.reader import refuse_over
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import FileSignatureRejected, KeyRejected, MalformedKey, MalformedPolicy
from steelyard.model.limits import CERTIFICATE_BYTES

KeyId = bytes
"""The last 4 bytes of the subject key identifier. Too few to trust, enough to choose by."""

_LEAST_RSA_BITS: Final = 2048
_LEAST_RSA_EXPONENT: Final = 65537
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)

_HEADER: Final = struct.Struct(">BBB4sH")
"""Type of the attribute, version, number of the hash, key id, size of the signature."""
_FILE_SIGNATURE: Final = 0x03  # EVM_IMA_XATTR_DIGSIG
_VERITY_SIGNATURE: Final = 0x06  # IMA_VERITY_DIGSIG
_OVER_DIGEST: Final = 2
_OVER_FILE_ID: Final = 3
_DIGEST_KINDS: Final = {
    (_FILE_SIGNATURE, _OVER_DIGEST): DigestKind.IMA,
    (_FILE_SIGNATURE, _OVER_FILE_ID): DigestKind.IMA,
    (_VERITY_SIGNATURE, _OVER_FILE_ID): DigestKind.VERITY,
}
"""What a signature of each kind is over; no other kind is read (attack 28). Version 1 rests on SHA-1."""
_HASHES: Final[Mapping[int, tuple[HashAlgorithm, Prehashed]]] = {
    4: (HashAlgorithm.SHA256, Prehashed(hashes.SHA256())),
    5: (HashAlgorithm.SHA384, Prehashed(hashes.SHA384())),
    6: (HashAlgorithm.SHA512, Prehashed(hashes.SHA512())),
}
"""Those of enum hash_algo (include/uapi/linux/hash_info.h) that a proof may rest on."""


@dataclass(frozen=True, slots=True)
class FileSigningKey:
    """A key whose signature stands for a file. Made by `file_signing_key`.

    not_before  from the certificate; None for a bare key.
    not_after   the policy's end, or the certificate's when that is sooner.
    revoked     kept so that its signatures are known for what they are.
    paths       of the files it may sign for.
    """

    name: str
    key_id: KeyId
    public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    not_before: datetime | None
    not_after: datetime
    revoked: bool
    paths: tuple[PathGlob, ...]

    def made(self, signature: bytes, digest: bytes, prehashed: Prehashed) -> bool:
        """Return whether `signature` is this key's over `digest`: PKCS #1 v1.5 or ECDSA, as the key is."""
        try:
            if isinstance(self.public_key, rsa.RSAPublicKey):
                self.public_key.verify(signature, digest, padding.PKCS1v15(), prehashed)
            else:
                self.public_key.verify(signature, digest, ec.ECDSA(prehashed))
        except InvalidSignature:
            return False
        return True

    def may_sign(self, path: bytes, time: datetime) -> bool:
        """Return whether the key is in force at `time` and `path` is one it signs for."""
        in_force = time < self.not_after and (self.not_before is None or self.not_before <= time)
        return in_force and any(glob.matches(path) for glob in self.paths)


def file_signing_key(
    name: str, der: bytes, *, not_after: datetime, revoked: bool, paths: Iterable[str]
) -> FileSigningKey:
    """Return the key in `der`, an X.509 certificate or a SubjectPublicKeyInfo.

    name       for people.
    not_after  when its signatures cease to count; a certificate may end them sooner.
    paths      globs, at least one; "/**" is everywhere.

    It is the policy that vouches for a certificate: only key, key identifier and dates are read.
    Raises TooLarge, MalformedKey, KeyRejected, MalformedPolicy.
    """
    doing = f"taking the file signing key {name}"
    refuse_over(CERTIFICATE_BYTES, len(der), doing)
    globs = tuple(path_glob(path) for path in paths)
    if not globs:
        raise MalformedPolicy(doing, expected="at least one path it may sign for", found="none")
    not_before = None
    try:
        certificate = _certificate(der)
        public_key = _sound(certificate.public_key() if certificate else load_der_public_key(der), doing)
        key_id = x509.SubjectKeyIdentifier.from_public_key(public_key).digest
        if certificate:
            key_id = _key_identifier(certificate) or key_id
            not_before = certificate.not_valid_before_utc
            not_after = min(not_after, certificate.not_valid_after_utc)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedKey(doing, expected="a certificate or a public key, DER", found=str(error)) from error
    return FileSigningKey(name, key_id[-4:], public_key, not_before, not_after, revoked, globs)


def _certificate(der: bytes) -> x509.Certificate | None:
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError:
        return None


def _key_identifier(certificate: x509.Certificate) -> bytes | None:
    """Return what the certificate says its key is known by; where it says nothing, that is the SHA-1 of the key."""
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return None


def _sound(key: PublicKeyTypes, doing: str) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    if isinstance(key, rsa.RSAPublicKey):
        exponent = key.public_numbers().e
        if key.key_size >= _LEAST_RSA_BITS and exponent >= _LEAST_RSA_EXPONENT:
            return key
        found = f"RSA of {key.key_size} bits, exponent {exponent}"
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if isinstance(key.curve, _CURVES):
            return key
        found = key.curve.name
    else:
        found = type(key).__name__
    raise KeyRejected(doing, expected="RSA of 2048 bits or more, P-256, P-384 or P-521", found=found)


def verify_file_signature(
    signature: bytes, digest: FileDigest, path: bytes, keys: Mapping[KeyId, tuple[FileSigningKey, ...]], time: datetime
) -> FileSigningKey:
    """Return the key that signed for the file at `path` with `digest`.

    signature  the attribute, from its type on: 1 byte type, 1 version, 1 number of the hash, 4 key id, 2 size
               (big-endian), and as many bytes of PKCS #1 v1.5 or DER-encoded ECDSA signature.
    keys       by key id; several may share one.

    Raises FileSignatureRejected, also for one that is not well formed: anybody who may write a file's attributes chose
    these bytes, and that must not stop the appraisal of the rest.
    """
    doing = "verifying a file signature"
    if len(signature) < _HEADER.size:
        raise FileSignatureRejected(doing, expected=f"{_HEADER.size} bytes of header", found=signature.hex())
    kind, version, number, key_id, size = _HEADER.unpack_from(signature)
    value = signature[_HEADER.size :]
    if _DIGEST_KINDS.get((kind, version)) is not digest.kind or len(value) != size:
        raise FileSignatureRejected(
            doing,
            expected=f"one over {digest.kind.value.decode()} digests, {size} bytes",
            found=f"type {kind}, version {version}, {len(value)} bytes",
        )
    algorithm, prehashed = _HASHES.get(number, (None, None))
    if prehashed is None or algorithm is not digest.algorithm:
        expected = f"one over a {digest.algorithm.label} digest, of SHA-256 or better"
        raise FileSignatureRejected(doing, expected=expected, found=f"hash number {number}")
    signed = digest.value
    if version == _OVER_FILE_ID:
        signed = digest.algorithm.digest(bytes((kind, number)) + signed)
    candidates = keys.get(key_id, ())
    signers = [key for key in candidates if key.made(value, signed, prehashed)]
    if not signers:
        found = f"key id {key_id.hex()}, " + ("over something else" if candidates else "which no key has")
        raise FileSignatureRejected(doing, expected="a signature over this digest by a key that is known", found=found)
    for signer in signers:
        # Before all else: a key that came again, under another name or in a new certificate, stays revoked.
        if signer.revoked:
            raise FileSignatureRejected(doing, expected="a key that is not revoked", found=signer.name)
    for signer in signers:
        if signer.may_sign(path, time):
            return signer
    expected = f"a key in force at {time} that signs for this path"
    found = "; ".join(
        f"{signer.name}, from {signer.not_before or 'ever'} to {signer.not_after}, for "
        + ", ".join(glob.text for glob in signer.paths)
        for signer in signers
    )
    raise FileSignatureRejected(doing, expected=expected, found=found)
