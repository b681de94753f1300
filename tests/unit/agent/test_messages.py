"""The agent's codecs: what it takes from strangers, and what it sends."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest

from steelyard.agent.parameters import OnFailure, is_address, parse_parameters
from steelyard.agent.payload import IscsiVolume, LuksHeader, NbdVolume, parse_payload
from steelyard.agent.protocol import (
    Judged,
    NodeEvidence,
    NodeKeys,
    RuntimeEvidence,
    activation_request,
    challenge_request,
    evidence_request,
    parse_challenge,
    parse_delivery,
    parse_judged,
    parse_registered,
    parse_session,
    parse_share,
    registration_request,
    runtime_challenge_request,
    runtime_evidence_request,
    step_report,
)
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import MalformedMessage, SteelyardError, TooLarge, WrongUse
from steelyard.model.limits import MESSAGE_BYTES, PARAMETERS_BYTES
from steelyard.model.pcrs import PcrSelection
from steelyard.model.secret import Secret

CERTIFICATE: Final = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
EXPIRES: Final = "2026-11-24T12:00:00Z"
PARAMETERS: Final[dict[str, Any]] = {
    "schema": "steelyard.parameters/1",
    "node": "n1",
    "attestation": "https://attestation.example:8443",
    "authority": CERTIFICATE,
    "delivery": "http://10.0.0.1/boot/3f1c/delivery",
    "on_failure": "wait",
}
ARTEFACT: Final[dict[str, Any]] = {"address": "http://10.0.0.1/kernel", "size_bytes": 7, "sha256": "ab" * 32}
ROOT: Final[dict[str, Any]] = {
    "protocol": "nbd",
    "address": "10.0.0.1",
    "port": 10809,
    "export": "volume-1",
    "authority": CERTIFICATE,
    "certificate": CERTIFICATE,
    "key": "the private key",
    "luks_header": {"size_bytes": 16, "sha256": "cd" * 32},
}
ISCSI_ROOT: Final[dict[str, Any]] = {
    "protocol": "iscsi",
    "address": "10.0.0.1",
    "port": 3260,
    "target": "iqn.2026-11.internal.steelyard:0a1b",
    "lun": 1,
    "user": "node",
    "password": "abcdefghijklmnop",
    "target_user": "steelyard",
    "target_password": "ABCDEFGHIJKLMNOP",
    "luks_header": {"size_bytes": 16, "sha256": "cd" * 32},
}
PAYLOAD: Final[dict[str, Any]] = {
    "schema": "steelyard.payload/1",
    "kernel": ARTEFACT,
    "initramfs": ARTEFACT,
    "command_line": "quiet root=/dev/mapper/root",
    "root": ROOT,
    "files": {"luks.key": "c2VjcmV0"},
}


def encoded(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


def test_parameters_are_read_and_kept_as_they_came() -> None:
    document = encoded(PARAMETERS) + b"\n"
    parsed = parse_parameters(document)
    assert (parsed.document, parsed.node, parsed.on_failure) == (document, "n1", OnFailure.WAIT)
    assert (parsed.attestation, parsed.delivery) == (PARAMETERS["attestation"], PARAMETERS["delivery"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", "steelyard.parameters/2"),
        ("node", "N1"),
        ("node", "../n1"),
        ("attestation", "http://attestation.example"),
        ("attestation", "https://user@attestation.example"),
        ("attestation", "https://attestation.example/path"),
        ("attestation", "https://attestation.example\n"),
        ("authority", CERTIFICATE + CERTIFICATE),
        ("authority", "/etc/ssl/certs/ca.pem"),
        ("delivery", "file:///etc/passwd"),
        ("delivery", "http://10.0.0.1/boot?x=1"),
        ("on_failure", "go-on"),
        ("unknown", "field"),
    ],
)
def test_parameters_with_anything_else_in_them_are_refused(field: str, value: str) -> None:
    with pytest.raises((MalformedMessage, WrongUse)):
        parse_parameters(encoded(PARAMETERS | {field: value}))


@pytest.mark.parametrize("field", PARAMETERS)
def test_no_parameter_has_a_default(field: str) -> None:
    with pytest.raises(SteelyardError):
        parse_parameters(encoded({name: value for name, value in PARAMETERS.items() if name != field}))


def test_parameters_of_any_size_are_not_read() -> None:
    with pytest.raises(TooLarge):
        parse_parameters(b" " * (PARAMETERS_BYTES.most + 1))


@pytest.mark.parametrize("address", ["https://[fe80::1]:8443", "https://a.example/b/c_d.e~f-g"])
def test_a_plain_address_is_one(address: str) -> None:
    assert is_address(address, ("https",))
    assert not is_address(address, ("http",))


@pytest.mark.parametrize(
    "address", ["https://", "https://a b", "https://a/%2e", "https://a/\r\nHost: b", "https://a#b"]
)
def test_an_address_with_more_in_it_is_none(address: str) -> None:
    assert not is_address(address, ("https",))


def test_a_payload_is_read() -> None:
    payload = parse_payload(Secret(encoded(PAYLOAD)))
    assert payload.kernel.sha256 == payload.initramfs.sha256 == b"\xab" * 32
    assert payload.files == {"luks.key": Secret(b"secret")}
    header = LuksHeader(16, b"\xcd" * 32)
    key = Secret(b"the private key")
    assert payload.root == NbdVolume("10.0.0.1", 10809, "volume-1", CERTIFICATE, CERTIFICATE, key, header)
    assert payload.root_document is not None
    assert json.loads(payload.root_document.reveal()) == ROOT
    assert parse_payload(Secret(encoded(PAYLOAD | {"root": None}))).root is None
    plain = parse_payload(Secret(encoded(PAYLOAD | {"root": ROOT | {"luks_header": None}}))).root
    assert plain is not None
    assert plain.luks_header is None


def test_a_payload_whose_root_is_served_by_iscsi_is_read() -> None:
    payload = parse_payload(Secret(encoded(PAYLOAD | {"root": ISCSI_ROOT})))
    assert payload.root == IscsiVolume(
        "10.0.0.1",
        3260,
        "iqn.2026-11.internal.steelyard:0a1b",
        1,
        "node",
        Secret(b"abcdefghijklmnop"),
        "steelyard",
        Secret(b"ABCDEFGHIJKLMNOP"),
        LuksHeader(16, b"\xcd" * 32),
    )
    assert payload.root_document is not None
    assert json.loads(payload.root_document.reveal()) == ISCSI_ROOT


@pytest.mark.parametrize(
    "changed",
    [
        {"kernel": ARTEFACT | {"sha256": "ab" * 31}},
        {"kernel": ARTEFACT | {"more": 1}},
        {"kernel": ARTEFACT | {"address": "ftp://10.0.0.1/kernel"}},
        {"initramfs": ARTEFACT | {"size_bytes": 0}},
        {"initramfs": ARTEFACT | {"size_bytes": 2**40}},
        {"command_line": "quiet\ninit=/bin/sh"},
        {"root": ROOT | {"export": "-d"}},
        {"root": ROOT | {"address": "--help"}},
        {"root": ROOT | {"address": "fe80::1%.."}},
        {"root": ROOT | {"port": 0}},
        {"root": ROOT | {"port": 65536}},
        {"root": ROOT | {"protocol": "ftp"}},
        {"root": ROOT | {"protocol": "iscsi"}},
        {"root": ISCSI_ROOT | {"protocol": "nbd"}},
        {"root": ROOT | {"luks_header": {"size_bytes": 0, "sha256": "cd" * 32}}},
        {"root": ROOT | {"luks_header": {"size_bytes": 16, "sha256": "cd" * 32, "more": 1}}},
        {"root": ROOT | {"luks_header": {"size_bytes": 16, "sha256": ""}}},
        {"files": {"../../init": "c2VjcmV0"}},
        {"files": {"wireguard.key": "c2VjcmV0"}},
        {"files": {"root.json": "c2VjcmV0"}},
        {"more": "c2VjcmV0"},
        *(
            {"root": ISCSI_ROOT | changed}
            for changed in (
                {"target": "../../iqn.2026-11.a"},
                {"target": "iqn.2026-11.a/b"},
                {"target": "--logout"},
                {"target": "iqn.2026-11." + "a" * 212},
                {"address": "fe80::1%.."},
                {"lun": -1},
                {"lun": 256},
                {"user": "node\nnode.session.auth.authmethod = None"},
                {"target_user": ""},
                {"password": "eleven-char"},
                {"password": "abcdefghijklmnop\nnode.session.auth.authmethod = None"},
                {"password": "a" * 129},
                {"target_password": "ABCDEFGH IJKLMNOP"},
                {"target_password": ISCSI_ROOT["password"]},
                {"more": "fields"},
            )
        ),
    ],
)
def test_a_payload_with_anything_else_in_it_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(SteelyardError):
        parse_payload(Secret(encoded(PAYLOAD | changed)))


def test_an_error_about_a_payload_tells_nothing_of_it() -> None:
    with pytest.raises(MalformedMessage) as refused:
        parse_payload(Secret(encoded(PAYLOAD | {"files": {"luks.key": "not base64, and a secret"}})))
    assert "secret" not in str(refused.value)
    assert "luks.key" in str(refused.value)
    assert refused.value.__suppress_context__


def test_what_the_node_sends_is_what_the_format_says() -> None:
    keys = NodeKeys(b"ek", (b"certificate",), b"ak", b"name")
    assert json.loads(registration_request("n1", keys)) == {
        "node": "n1",
        "endorsement_key": "ZWs=",
        "endorsement_certificates": ["Y2VydGlmaWNhdGU="],
        "attestation_key": "YWs=",
    }
    assert json.loads(activation_request(b"proof")) == {"proof": "cHJvb2Y="}
    assert json.loads(challenge_request()) == {"purpose": "airlock"}
    evidence = NodeEvidence(b"q", b"s", {11: b"\x11", 4: b"\x04"}, b"log", b"t", b"w", b"p")
    assert json.loads(evidence_request(evidence)) == {
        "quote": "cQ==",
        "signature": "cw==",
        "pcrs": {"4": "04", "11": "11"},
        "event_log": "bG9n",
        "transport_key": "dA==",
        "wireguard_key": "dw==",
        "parameters": "cA==",
    }
    assert json.loads(runtime_challenge_request(7)) == {"purpose": "runtime", "have": {"ima_entries": 7}}
    later = RuntimeEvidence(b"q", b"s", {10: b"\x10"}, None, 3, b"entries")
    increment = {"quote": "cQ==", "signature": "cw==", "pcrs": {"10": "10"}}
    increment |= {"ima_list": {"first": 3, "data": "ZW50cmllcw=="}}
    assert json.loads(runtime_evidence_request(later)) == increment
    assert json.loads(runtime_evidence_request(replace(later, event_log=b"log"))) == increment | {"event_log": "bG9n"}
    assert json.loads(step_report("quoting", "done", "")) == {"step": "quoting", "outcome": "done", "detail": ""}


def test_what_the_node_hears_is_read() -> None:
    registered = parse_registered(encoded({"registration": "r1", "credential": "Yg==", "expires": EXPIRES}))
    assert (registered.registration, registered.credential) == ("r1", b"b")
    assert parse_session(encoded({"token": "abc", "expires": EXPIRES})) == Secret(b"abc")
    asked = parse_challenge(encoded(CHALLENGE))
    assert (asked.challenge, asked.nonce) == ("c1", bytes(32))
    assert asked.selection == PcrSelection(HashAlgorithm.SHA256, frozenset({0, 4}))
    assert parse_judged(encoded({"verdict": "token"})) == Judged("token", None, None)
    assert parse_judged(encoded({"verdict": "token", "next_in": None, "next": None})) == Judged("token", None, None)
    told = {"verdict": "token", "next_in": 60, "next": CHALLENGE | {"from_entry": 7}}
    assert parse_judged(encoded(told)) == Judged("token", 60, replace(asked, from_entry=7))
    assert parse_share(encoded({"share": "Yg=="})) == b"b"
    delivery = parse_delivery(encoded({"share": "Yg==", "tag": "Yw==", "payload": "ZA=="}))
    assert (delivery.share, delivery.tag, delivery.payload) == (b"b", b"c", b"d")


CHALLENGE: Final[dict[str, Any]] = {
    "challenge": "c1",
    "nonce": base64.b64encode(bytes(32)).decode(),
    "bank": "sha256",
    "pcrs": [0, 4],
    "expires": EXPIRES,
}


@pytest.mark.parametrize(
    "changed",
    [
        {"nonce": base64.b64encode(bytes(31)).decode()},
        {"bank": "sha1"},
        {"pcrs": []},
        {"pcrs": [24]},
        {"challenge": "../steps"},
        {"expires": "tomorrow"},
        {"from_entry": -1},
        {"from_entry": 2**40},
    ],
)
def test_a_challenge_that_asks_for_less_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises((MalformedMessage, WrongUse)):
        parse_challenge(encoded(CHALLENGE | changed))
    with pytest.raises((MalformedMessage, WrongUse)):
        parse_judged(encoded({"verdict": "token", "next_in": 60, "next": CHALLENGE | changed}))


@pytest.mark.parametrize("seconds", [0, -1, 10**6, "60", True, 0.5])
def test_a_time_to_the_next_report_that_makes_no_sense_is_refused(seconds: object) -> None:
    with pytest.raises(MalformedMessage):
        parse_judged(encoded({"verdict": "token", "next_in": seconds}))


@pytest.mark.parametrize(
    ("parse", "document"),
    [
        (parse_registered, {"registration": "r1", "credential": "Yg==", "expires": EXPIRES}),
        (parse_session, {"token": "abc", "expires": EXPIRES}),
        (parse_challenge, CHALLENGE),
        (parse_judged, {"verdict": "token"}),
        (parse_share, {"share": "Yg=="}),
        (parse_delivery, {"share": "Yg==", "tag": "Yw==", "payload": "ZA=="}),
    ],
)
def test_an_answer_with_more_in_it_is_refused(parse: Callable[[bytes], object], document: dict[str, Any]) -> None:
    parse(encoded(document))
    with pytest.raises(MalformedMessage):
        parse(encoded(document | {"more": 1}))


def test_a_token_that_would_break_the_header_is_refused() -> None:
    with pytest.raises(MalformedMessage):
        parse_session(encoded({"token": "abc\r\nHost: other", "expires": EXPIRES}))


def test_an_answer_of_any_size_is_not_read() -> None:
    with pytest.raises(TooLarge):
        parse_judged(b" " * (MESSAGE_BYTES.most + 1))
