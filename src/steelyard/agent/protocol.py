"""The native protocol's messages, as the node writes and reads them: bytes in, bytes out. `docs/formats.md` has them.

Source: docs/formats.md, "Native protocol".
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from steelyard.evidence.document import Fields, parse_document
from steelyard.model.algorithms import HASH_BY_NAME
from steelyard.model.errors import MalformedMessage
from steelyard.model.limits import DELIVERY_BYTES, IMA_ENTRIES, MESSAGE_BYTES, Limit
from steelyard.model.names import check_name
from steelyard.model.pcrs import PCR_COUNT, PcrSelection
from steelyard.model.secret import Secret

_TOKEN_CHARACTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=")
"""Source: RFC 6750, section 2.1."""
_BANKS: Final = {name: bank for name, bank in HASH_BY_NAME.items() if bank.believed}
NONCE_BYTES: Final = 32
_LONGEST_INTERVAL_SECONDS: Final = 24 * 3600


# -- what the node says ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """The public keys that a node registers with.

    endorsement_key           TPMT_PUBLIC.
    endorsement_certificates  DER, as the TPM's maker left them; may be none.
    attestation_key           TPMT_PUBLIC.
    attestation_key_name      its Name, which the activation is for; not sent, as it follows from the key.
    """

    endorsement_key: bytes
    endorsement_certificates: tuple[bytes, ...]
    attestation_key: bytes
    attestation_key_name: bytes


@dataclass(frozen=True, slots=True)
class NodeEvidence:
    """What a node answers to a challenge.

    quote, signature  TPMS_ATTEST and TPMT_SIGNATURE.
    pcrs              claimed values of the PCRs asked for.
    event_log         binary_bios_measurements.
    transport_key     X25519 public key, 32 bytes, made for this boot.
    wireguard_key     likewise.
    parameters        the bytes that the boot service gave.
    """

    quote: bytes
    signature: bytes
    pcrs: Mapping[int, bytes]
    event_log: bytes
    transport_key: bytes
    wireguard_key: bytes
    parameters: bytes


@dataclass(frozen=True, slots=True)
class RuntimeEvidence:
    """What a node answers to a challenge after it passed the airlock. The keys it vouches for are that boot's.

    event_log  the firmware's, where the whole boot is to be judged; else None.
    first      how many entries of the list are not sent, as they were judged before.
    ima_list   binary_runtime_measurements from there on.
    """

    quote: bytes
    signature: bytes
    pcrs: Mapping[int, bytes]
    event_log: bytes | None
    first: int
    ima_list: bytes


def registration_request(node: str, keys: NodeKeys) -> bytes:
    """Return the body that registers a node."""
    return _message(
        node=node,
        endorsement_key=_base64(keys.endorsement_key),
        endorsement_certificates=[_base64(certificate) for certificate in keys.endorsement_certificates],
        attestation_key=_base64(keys.attestation_key),
    )


def activation_request(proof: bytes) -> bytes:
    """Return the body that proves that the credential was opened."""
    return _message(proof=_base64(proof))


def challenge_request() -> bytes:
    """Return the body that asks for a challenge in the airlock."""
    return _message(purpose="airlock")


def runtime_challenge_request(ima_entries: int) -> bytes:
    """Return the body that asks for a challenge at run time; the list has as many entries."""
    return _message(purpose="runtime", have={"ima_entries": ima_entries})


def evidence_request(evidence: NodeEvidence) -> bytes:
    """Return the body that answers a challenge in the airlock."""
    return _message(
        quote=_base64(evidence.quote),
        signature=_base64(evidence.signature),
        pcrs=_pcrs(evidence.pcrs),
        event_log=_base64(evidence.event_log),
        transport_key=_base64(evidence.transport_key),
        wireguard_key=_base64(evidence.wireguard_key),
        parameters=_base64(evidence.parameters),
    )


def runtime_evidence_request(evidence: RuntimeEvidence) -> bytes:
    """Return the body that answers a challenge at run time."""
    fields: dict[str, Any] = {
        "quote": _base64(evidence.quote),
        "signature": _base64(evidence.signature),
        "pcrs": _pcrs(evidence.pcrs),
        "ima_list": {"first": evidence.first, "data": _base64(evidence.ima_list)},
    }
    if evidence.event_log is not None:
        fields["event_log"] = _base64(evidence.event_log)
    return _message(**fields)


def step_report(step: str, outcome: str, detail: str) -> bytes:
    """Return the body that tells what the node is at; `detail` is for people."""
    return _message(step=step, outcome=outcome, detail=detail)


def _message(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def _pcrs(values: Mapping[int, bytes]) -> dict[str, str]:
    return {str(index): value.hex() for index, value in sorted(values.items())}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


# -- what the node hears -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Registered:
    """A registration that waits for its proof.

    registration  the name of it in addresses, and what the proof is made over.
    credential    as tpm2_makecredential writes it.
    """

    registration: str
    credential: bytes


@dataclass(frozen=True, slots=True)
class Asked:
    """A challenge.

    challenge   the name of it in addresses.
    nonce       32 bytes.
    selection   what to quote.
    from_entry  how many entries of the measurement list need not be sent; 0 when the whole boot is to be judged.
    """

    challenge: str
    nonce: bytes
    selection: PcrSelection
    from_entry: int


@dataclass(frozen=True, slots=True)
class Judged:
    """The answer to evidence that passed.

    verdict          signed; the node passes it on and does not read it.
    seconds_to_next  when the next report is due; None when none is wanted.
    next             the challenge for it, where one came along.
    """

    verdict: str
    seconds_to_next: int | None
    next: Asked | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the tenant sends, and nobody else can open.

    share    U, sealed to the transport key.
    tag      tells the right key.
    payload  the box.
    """

    share: bytes
    tag: bytes
    payload: bytes


def parse_registered(data: bytes) -> Registered:
    """Return the answer to a registration. Raises MalformedMessage, TooLarge."""
    fields = _fields(data, "reading the answer to a registration")
    registered = Registered(_name(fields, "registration"), fields.base64("credential"))
    fields.time("expires")
    fields.end()
    return registered


def parse_session(data: bytes) -> Secret:
    """Return the session's token from the answer to an activation. Raises MalformedMessage, TooLarge."""
    fields = _fields(data, "reading the answer to an activation")
    token = parse_token(fields)
    fields.time("expires")
    fields.end()
    return token


def parse_token(fields: Fields) -> Secret:
    """Return the token in the field of that name. Raises MalformedMessage."""
    token = fields.text("token")
    if not _TOKEN_CHARACTERS.issuperset(token):
        raise fields.wrong("token", "a bearer token", "other characters")
    return Secret(token.encode())


def parse_challenge(data: bytes) -> Asked:
    """Return the challenge. Raises MalformedMessage, TooLarge."""
    return _asked(_fields(data, "reading a challenge"))


def _asked(fields: Fields) -> Asked:
    challenge, nonce = _name(fields, "challenge"), fields.base64("nonce")
    if len(nonce) != NONCE_BYTES:
        raise fields.wrong("nonce", f"{NONCE_BYTES} bytes", f"{len(nonce)}")
    bank, indices = fields.choice("bank", _BANKS), fields.integers("pcrs", 0, PCR_COUNT - 1)
    if not indices:
        raise fields.wrong("pcrs", "at least one PCR", "none")
    from_entry = fields.integer("from_entry", 0, IMA_ENTRIES.most) if fields.has("from_entry") else 0
    fields.time("expires")
    fields.end()
    return Asked(challenge, nonce, PcrSelection(bank, frozenset(indices)), from_entry)


def parse_judged(data: bytes) -> Judged:
    """Return the answer to evidence. Raises MalformedMessage, TooLarge.

    An evidence that did not pass has no such answer: the service refuses it.
    """
    fields = _fields(data, "reading the verdict")
    verdict = fields.text("verdict")
    wanted = fields.has("next_in") and not fields.null("next_in")
    seconds = fields.integer("next_in", 1, _LONGEST_INTERVAL_SECONDS) if wanted else None
    follows = fields.has("next") and not fields.null("next")
    asked = _asked(fields.fields("next")) if follows else None
    fields.end()
    return Judged(verdict, seconds, asked)


def parse_share(data: bytes) -> bytes:
    """Return the verifier's share V, sealed. Raises MalformedMessage, TooLarge."""
    fields = _fields(data, "reading the verifier's share")
    share = fields.base64("share")
    fields.end()
    return share


def parse_delivery(data: bytes) -> Delivery:
    """Return what the tenant left for the node. Raises MalformedMessage, TooLarge."""
    fields = _fields(data, "reading the tenant's delivery", DELIVERY_BYTES)
    delivery = Delivery(fields.base64("share"), fields.base64("tag"), fields.base64("payload"))
    fields.end()
    return delivery


def _fields(data: bytes, doing: str, limit: Limit = MESSAGE_BYTES) -> Fields:
    return parse_document(data, limit, doing, MalformedMessage)


def _name(fields: Fields, field: str) -> str:
    return check_name(fields.text(field), field)
