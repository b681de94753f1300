"""What the airlock hands over: read as it was written, and nothing else; its secret never in a text."""

import base64
import json
from typing import Any, Final

import pytest

from steelyard.agent.parameters import parse_parameters
from steelyard.agent.session import Session, parse_session_file
from steelyard.evidence.tpm.nonce import NonceWithKeys
from steelyard.model.errors import MalformedMessage, SteelyardError, TooLarge
from steelyard.model.limits import HANDOVER_BYTES
from steelyard.model.secret import Secret
from tests.unit.agent.test_messages import PARAMETERS, encoded

WORDS: Final = "words-of-this-session"
SESSION: Final = Session(
    parse_parameters(encoded(PARAMETERS)), Secret(WORDS.encode()), b"context", b"t" * 32, b"w" * 32, b"log", b"list"
)
DOCUMENT: Final[dict[str, Any]] = json.loads(SESSION.to_bytes().reveal())


def test_a_session_is_read_as_it_was_written() -> None:
    assert parse_session_file(SESSION.to_bytes()) == SESSION


def test_a_quote_of_it_vouches_for_what_the_airlocks_did() -> None:
    nonce = bytes(range(32))
    assert SESSION.bound(nonce) == NonceWithKeys(nonce, b"t" * 32, b"w" * 32, encoded(PARAMETERS))


@pytest.mark.parametrize("field", DOCUMENT)
def test_no_field_has_a_default(field: str) -> None:
    left = {name: value for name, value in DOCUMENT.items() if name != field}
    with pytest.raises(MalformedMessage):
        parse_session_file(Secret(encoded(left)))


@pytest.mark.parametrize(
    "changed",
    [
        {"schema": "steelyard.attestation/2"},
        {"token": "a token\r\nHost: other"},
        {"transport_key": base64.b64encode(bytes(31)).decode()},
        {"wireguard_key": base64.b64encode(bytes(33)).decode()},
        {"parameters": "not base64"},
        {"parameters": base64.b64encode(b"{}").decode()},
        {"event_log": None},
        {"more": "fields"},
    ],
)
def test_a_session_with_anything_else_in_it_is_refused_without_a_word_of_it(changed: dict[str, Any]) -> None:
    with pytest.raises(SteelyardError) as refused:
        parse_session_file(Secret(encoded(DOCUMENT | changed)))
    assert WORDS not in str(refused.value)
    assert refused.value.__cause__ is None


def test_its_secret_is_not_shown() -> None:
    assert WORDS not in repr(SESSION)


def test_a_session_of_any_size_is_not_read() -> None:
    with pytest.raises(TooLarge):
        parse_session_file(Secret(b" " * (HANDOVER_BYTES.most + 1)))
