"""The native protocol's messages, as the service reads and writes them: bytes in, bytes out.

`docs/formats.md` has them. The node's side of the same is `steelyard.agent.protocol`.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from steelyard.attestation.objects import Asked, Purpose
from steelyard.attestation.registrar import Presented, Registered, Session
from steelyard.evidence.document import Fields, format_time, parse_document
from steelyard.evidence.ima.replay import ImaExcerpt
from steelyard.evidence.reader import refuse_over
from steelyard.evidence.tpm.nonce import NONCE_BYTES
from steelyard.evidence.tpm.quote import SignedQuote
from steelyard.model.errors import MalformedMessage
from steelyard.model.limits import (
    EVENT_LOG_BYTES,
    EVIDENCE_BYTES,
    IMA_ENTRIES,
    MESSAGE_BYTES,
    PARAMETERS_BYTES,
    REGISTRATION_BYTES,
    STEP_CHARACTERS,
    Limit,
)
from steelyard.model.names import check_name
from steelyard.model.pcrs import PCR_COUNT

_STEP_LETTERS: Final = 63
_PURPOSES: Final = {purpose.value: purpose for purpose in Purpose}
_OUTCOMES: Final = {outcome: outcome for outcome in ("done", "failed")}


@dataclass(frozen=True, slots=True)
class Keys:
    """What a node wants its quote in the airlock to vouch for besides PCRs."""

    transport_key: bytes
    wireguard_key: bytes | None
    parameters: bytes | None


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a node sent as evidence, unread. `keys` None: those of its pass of the airlock."""

    quote: SignedQuote
    pcrs: Mapping[int, bytes]
    event_log: bytes | None
    ima_list: ImaExcerpt | None
    keys: Keys | None


def parse_registration(data: bytes) -> Presented:
    """Return what somebody registers with. Raises MalformedMessage, TooLarge, WrongUse."""
    fields = _fields(data, "reading a registration", REGISTRATION_BYTES)
    presented = Presented(
        check_name(fields.text("node"), "node"),
        fields.base64("endorsement_key"),
        tuple(_decoded(fields, "endorsement_certificates", each) for each in fields.texts("endorsement_certificates")),
        fields.base64("attestation_key"),
    )
    fields.end()
    return presented


def parse_activation(data: bytes) -> bytes:
    """Return the proof. Raises MalformedMessage, TooLarge."""
    fields = _fields(data, "reading an activation")
    proof = fields.base64("proof")
    fields.end()
    return proof


def parse_challenge_request(data: bytes) -> Purpose:
    """Return what a node wants to be judged for. What it says that it has is not needed: the service knows better.

    Raises MalformedMessage, TooLarge.
    """
    fields = _fields(data, "reading the request for a challenge")
    purpose: Purpose = fields.choice("purpose", _PURPOSES)
    if fields.has("have"):
        have = fields.fields("have")
        if have.has("ima_entries"):
            have.integer("ima_entries", 0, IMA_ENTRIES.most)
        have.end()
    fields.end()
    return purpose


def parse_evidence(data: bytes) -> Claimed:
    """Return what a node sent as evidence. Raises MalformedMessage, TooLarge."""
    fields = _fields(data, "reading evidence", EVIDENCE_BYTES)
    quote = SignedQuote(fields.base64("quote"), fields.base64("signature"))
    by_index = fields.fields("pcrs")
    pcrs = {index: by_index.hexadecimal(str(index)) for index in range(PCR_COUNT) if by_index.has(str(index))}
    by_index.end()
    event_log = fields.base64("event_log") if _is_given(fields, "event_log") else None
    if event_log is not None:
        refuse_over(EVENT_LOG_BYTES, len(event_log), "reading evidence")
    ima_list = _parse_list(fields.fields("ima_list")) if _is_given(fields, "ima_list") else None
    keys = _parse_keys(fields) if _is_given(fields, "transport_key") else None
    fields.end()
    return Claimed(quote, pcrs, event_log, ima_list, keys)


def _parse_list(fields: Fields) -> ImaExcerpt:
    excerpt = ImaExcerpt(fields.integer("first", 0, IMA_ENTRIES.most), fields.base64("data"))
    # The kernel's text form says the same in more bytes; what is kept is one form, that can be put together again.
    if excerpt.data and excerpt.data[1:4] != bytes(3):
        raise fields.wrong("data", "binary_runtime_measurements", "another form")
    fields.end()
    return excerpt


def _parse_keys(fields: Fields) -> Keys:
    keys = Keys(
        fields.base64("transport_key"),
        fields.base64("wireguard_key") if _is_given(fields, "wireguard_key") else None,
        fields.base64("parameters") if _is_given(fields, "parameters") else None,
    )
    for name, key in (("transport_key", keys.transport_key), ("wireguard_key", keys.wireguard_key)):
        if key is not None and len(key) != NONCE_BYTES:
            raise fields.wrong(name, f"{NONCE_BYTES} bytes", f"{len(key)}")
    if keys.parameters is not None:
        refuse_over(PARAMETERS_BYTES, len(keys.parameters), "reading evidence")
    return keys


def parse_step(data: bytes) -> tuple[str, str, str]:
    """Return step, outcome and detail. Raises MalformedMessage, TooLarge."""
    fields = _fields(data, "reading a step")
    step = fields.text("step")
    if len(step) > _STEP_LETTERS or not (step.isascii() and step.isprintable()):  # words, such as "being judged"
        raise fields.wrong("step", f"at most {_STEP_LETTERS} letters of ASCII", "others")
    outcome: str = fields.choice("outcome", _OUTCOMES)
    detail = fields.words("detail")
    fields.end()
    if len(detail) > STEP_CHARACTERS.most:
        raise MalformedMessage(
            "reading a step", expected=f"a detail of at most {STEP_CHARACTERS.most} letters", found=f"{len(detail)}"
        )
    return step, outcome, detail


def registered_answer(registered: Registered) -> bytes:
    """Return the answer to a registration."""
    return _message(
        registration=registered.registration,
        credential=_encoded(registered.credential),
        expires=format_time(registered.expires),
    )


def session_answer(session: Session) -> bytes:
    """Return the answer to an activation: the one place where the token is told."""
    return _message(token=session.token.reveal().decode("ascii"), expires=format_time(session.expires))


def challenge_answer(asked: Asked) -> bytes:
    """Return the answer to the request for a challenge."""
    return _message(**_asked(asked))


def judged_answer(verdict: str, next_in: int | None, following: Asked | None) -> bytes:
    """Return the answer to evidence that passed."""
    return _message(verdict=verdict, next_in=next_in, next=None if following is None else _asked(following))


def share_answer(sealed: bytes) -> bytes:
    """Return the answer to who asks for the share."""
    return _message(share=_encoded(sealed))


def _asked(asked: Asked) -> dict[str, Any]:
    return {
        "challenge": asked.challenge,
        "nonce": _encoded(asked.nonce),
        "bank": asked.selection.bank.label,
        "pcrs": sorted(asked.selection.indices),
        "from_entry": asked.first,
        "expires": format_time(asked.until),
    }


def _is_given(fields: Fields, name: str) -> bool:
    return fields.has(name) and not fields.null(name)


def _decoded(fields: Fields, name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as cause:
        raise fields.wrong(name, "bytes in base64", text[:80]) from cause


def _fields(data: bytes, doing: str, limit: Limit = MESSAGE_BYTES) -> Fields:
    return parse_document(data, limit, doing, MalformedMessage)


def _message(**fields: Any) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
