"""Evidence bundles: all that one appraisal judged, in one file, so that anyone can judge it again.

A bundle is the verifier's record, not the machine's word: what the verifier knew beforehand (the key it had bound, the
challenge it had sent) stands apart from what came. It holds no secret. Judging it again needs it, the policy and the
references, and neither a service nor a network.
"""

import base64
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from steelyard.evidence.document import Fields, format_time, parse_document
from steelyard.evidence.ima.replay import ImaExcerpt
from steelyard.evidence.tpm.identifiers import TpmAlg
from steelyard.evidence.tpm.keys import (
    ActivatedBy,
    AssertedByOperator,
    BoundKey,
    CertifiedBy,
    check_attestation_key,
    parse_signing_key_pem,
)
from steelyard.evidence.tpm.nonce import Challenge, NonceWithKeys, PlainNonce
from steelyard.evidence.tpm.public import TpmtPublic, parse_tpmt_public
from steelyard.evidence.tpm.quote import SignedQuote
from steelyard.model.algorithms import HASH_BY_NAME, HashAlgorithm
from steelyard.model.errors import MalformedBundle, WrongUse
from steelyard.model.limits import BUNDLE_BYTES, IMA_ENTRIES
from steelyard.model.names import check_name
from steelyard.model.pcrs import PCR_COUNT, PcrValues

_SCHEMA: Final = "steelyard.bundle/1"
_DOING: Final = "reading an evidence bundle"
SIGNATURE_SCHEMES: Final = {scheme.name.lower(): scheme for scheme in (TpmAlg.RSASSA, TpmAlg.RSAPSS, TpmAlg.ECDSA)}
_BELIEVED: Final = {name: algorithm for name, algorithm in HASH_BY_NAME.items() if algorithm.believed}

Binding = ActivatedBy | CertifiedBy | AssertedByOperator


@dataclass(frozen=True, slots=True)
class PemKey:
    """A public key without a TPM's word about its attributes, and what it is said to sign with."""

    pem: bytes
    scheme: TpmAlg
    hash_algorithm: HashAlgorithm


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a machine sent, unread.

    event_log  the firmware's log, as in binary_bios_measurements; None when it did not come.
    ima_list   the run-time list, ASCII or binary, from some entry on; None when it did not come.
    """

    quote: SignedQuote
    claimed_pcrs: PcrValues
    event_log: bytes | None
    ima_list: ImaExcerpt | None


@dataclass(frozen=True, slots=True)
class Bundle:
    """One appraisal's inputs, but for policy and references.

    node             its name, for people.
    received         when the evidence came, in UTC: the time at which it is judged.
    attestation_key  as the verifier has it in its own store.
    binding          how the verifier knew whose key it is.
    """

    node: str
    received: datetime
    attestation_key: TpmtPublic | PemKey
    binding: Binding
    challenge: Challenge
    evidence: Evidence

    def __post_init__(self) -> None:
        check_name(self.node, "node")

    def to_bytes(self) -> bytes:
        """Return the bundle as JSON."""
        evidence = self.evidence
        document = {
            "schema": _SCHEMA,
            "node": self.node,
            "received": format_time(self.received),
            "verifier": {
                "attestation_key": _key_document(self.attestation_key),
                "binding": _binding_document(self.binding),
                "challenge": _challenge_document(self.challenge),
            },
            "evidence": {
                "quote": _base64(evidence.quote.attest),
                "signature": _base64(evidence.quote.signature),
                "bank": evidence.claimed_pcrs.bank.label,
                "pcrs": {str(index): value.hex() for index, value in sorted(evidence.claimed_pcrs.values.items())},
                "event_log": None if evidence.event_log is None else _base64(evidence.event_log),
                "ima_list": None if evidence.ima_list is None else _excerpt_document(evidence.ima_list),
            },
        }
        return json.dumps(document, indent=1).encode() + b"\n"


def bound_key(attestation_key: TpmtPublic | PemKey, binding: Binding) -> BoundKey:
    """Return a key of the verifier's own record, its properties checked. Raises KeyRejected, MalformedKey."""
    if isinstance(attestation_key, PemKey):
        signing = parse_signing_key_pem(attestation_key.pem, attestation_key.scheme, attestation_key.hash_algorithm)
    else:
        signing = check_attestation_key(attestation_key).signing
    return BoundKey(signing, binding)


def parse_bundle(data: bytes) -> Bundle:
    """Return the bundle that `data` is. Raises MalformedBundle, MalformedTpmStructure, TooLarge."""
    fields = parse_document(data, BUNDLE_BYTES, _DOING, MalformedBundle)
    fields.schema(_SCHEMA)
    verifier = fields.fields("verifier")
    try:
        bundle = Bundle(
            node=fields.text("node"),
            received=fields.time("received"),
            attestation_key=_parse_key(verifier.fields("attestation_key")),
            binding=_parse_binding(verifier.fields("binding")),
            challenge=_parse_challenge(verifier.fields("challenge")),
            evidence=_parse_evidence(fields.fields("evidence")),
        )
    except WrongUse as error:
        raise MalformedBundle(_DOING, expected=error.expected, found=error.found) from error
    verifier.end()
    fields.end()
    return bundle


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _key_document(key: TpmtPublic | PemKey) -> dict[str, Any]:
    if isinstance(key, PemKey):
        return {
            "pem": _base64(key.pem),
            "scheme": key.scheme.name.lower(),
            "hash": key.hash_algorithm.label,
        }
    return {"tpmt_public": _base64(key.to_bytes())}


def _parse_key(fields: Fields) -> TpmtPublic | PemKey:
    key: TpmtPublic | PemKey
    if fields.has("tpmt_public"):
        key = parse_tpmt_public(fields.base64("tpmt_public"))
    else:
        key = PemKey(fields.base64("pem"), fields.choice("scheme", SIGNATURE_SCHEMES), fields.choice("hash", _BELIEVED))
    fields.end()
    return key


def _binding_document(binding: Binding) -> dict[str, Any]:
    match binding:
        case ActivatedBy(endorsement_key_name):
            return {"how": "activated", "endorsement_key_name": endorsement_key_name.hex()}
        case CertifiedBy(certifying_key_name):
            return {"how": "certified", "certifying_key_name": certifying_key_name.hex()}
        case AssertedByOperator():
            return {"how": "asserted"}


def _parse_binding(fields: Fields) -> Binding:
    binding: Binding
    match fields.choice("how", {how: how for how in ("activated", "certified", "asserted")}):
        case "activated":
            binding = ActivatedBy(fields.hexadecimal("endorsement_key_name"))
        case "certified":
            binding = CertifiedBy(fields.hexadecimal("certifying_key_name"))
        case _:
            binding = AssertedByOperator()
    fields.end()
    return binding


def _challenge_document(challenge: Challenge) -> dict[str, Any]:
    match challenge:
        case PlainNonce(nonce):
            return {"nonce": nonce.hex()}
        case NonceWithKeys(nonce, transport_key, wireguard_key, parameters):
            return {
                "nonce": nonce.hex(),
                "transport_key": transport_key.hex(),
                "wireguard_key": None if wireguard_key is None else wireguard_key.hex(),
                "parameters": None if parameters is None else _base64(parameters),
            }


def _parse_challenge(fields: Fields) -> Challenge:
    nonce = fields.hexadecimal("nonce")
    challenge: Challenge
    if fields.has("transport_key"):
        challenge = NonceWithKeys(
            nonce,
            fields.hexadecimal("transport_key"),
            None if fields.null("wireguard_key") else fields.hexadecimal("wireguard_key"),
            None if fields.null("parameters") else fields.base64("parameters"),
        )
    else:
        challenge = PlainNonce(nonce)
    fields.end()
    return challenge


def _excerpt_document(excerpt: ImaExcerpt) -> dict[str, Any]:
    return {"first": excerpt.first, "data": _base64(excerpt.data)}


def _parse_excerpt(fields: Fields) -> ImaExcerpt:
    excerpt = ImaExcerpt(fields.integer("first", 0, IMA_ENTRIES.most), fields.base64("data"))
    fields.end()
    return excerpt


def _parse_evidence(fields: Fields) -> Evidence:
    quote = SignedQuote(fields.base64("quote"), fields.base64("signature"))
    bank: HashAlgorithm = fields.choice("bank", HASH_BY_NAME)
    by_index = fields.fields("pcrs")
    values = {index: by_index.hexadecimal(str(index)) for index in range(PCR_COUNT) if by_index.has(str(index))}
    by_index.end()
    event_log = None if fields.null("event_log") else fields.base64("event_log")
    ima_list = None if fields.null("ima_list") else _parse_excerpt(fields.fields("ima_list"))
    fields.end()
    return Evidence(quote, PcrValues(bank, values), event_log, ima_list)
