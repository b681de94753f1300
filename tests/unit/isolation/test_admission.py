"""Which verdicts let a node onto a network, and that each way to forge or reuse one is shut."""

import json
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from joserfc import jws
from joserfc.jwk import OKPKey

from steelyard.evidence.verdict import SKEW, parse_key
from steelyard.isolation.admission import admit
from steelyard.model.errors import Malformed, MalformedKey, MalformedVerdict, NotAdmitted
from steelyard.model.limits import VERDICT_BYTES
from tests.unit.isolation.rig import NOW
from tests.unit.isolation.things import SIGNER, SIGNER_PEM, WEIGHED, a_network, a_node
from tests.unit.isolation.verdicts import claims, encode, sign

NETWORK = a_network(admission=WEIGHED)
BEFORE = NOW - timedelta(hours=1)
ISSUED = NOW - timedelta(minutes=1)


def admitted(verdict: str | None, **changes: Any) -> object:
    return admit(NETWORK, a_node(), verdict, **{"not_before": BEFORE, "now": NOW} | changes)


def test_a_passing_verdict_admits_and_tells_when_it_was_issued() -> None:
    assert admitted(sign(claims("n1", ISSUED))) == ISSUED


def test_a_verdict_signed_by_a_library_is_read() -> None:
    pem = SIGNER.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    key = OKPKey.import_key(pem)
    token = jws.serialize_compact(
        {"alg": "Ed25519", "kid": "k1"}, json.dumps(claims("n1", ISSUED)), key, algorithms=["Ed25519"]
    )
    assert admitted(token) == ISSUED
    assert jws.deserialize_compact(token, OKPKey.import_key(SIGNER_PEM), algorithms=["Ed25519"]).payload


def test_a_network_that_demands_none_takes_none() -> None:
    assert admit(a_network(), a_node(), None, BEFORE, NOW) is None


def test_without_a_verdict_nobody_is_admitted() -> None:
    with pytest.raises(NotAdmitted, match="found none"):
        admitted(None)


# -- the signature -----------------------------------------------------------------------------------------------------


def test_anothers_signature_does_not_admit() -> None:
    with pytest.raises(NotAdmitted, match="signed by the key that is relied on"):
        admitted(sign(claims("n1", ISSUED), key=Ed25519PrivateKey.generate()))


@pytest.mark.parametrize("part", [0, 1, 2])
def test_nothing_that_was_signed_can_be_changed(part: int) -> None:
    parts = sign(claims("n2", ISSUED)).split(".")
    parts[part] = [encode(b'{"alg":"EdDSA"}'), encode(json.dumps(claims("n1", ISSUED)).encode()), encode(bytes(64))][
        part
    ]
    with pytest.raises(NotAdmitted, match="signed by"):
        admitted(".".join(parts))


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "HS256"},
        {"alg": "ES256"},
        {"typ": "JWT"},
        {"alg": "EdDSA", "crit": ["b64"], "b64": False},
        {"alg": "EdDSA", "crit": []},
        {"alg": "EdDSA", "jwk": {"kty": "OKP"}},
        {"alg": "EdDSA", "jku": "https://attacker.example"},
        {"alg": "EdDSA", "x5c": ["MII"]},
        {"alg": "EdDSA", "zip": "DEF"},
        {"alg": ["EdDSA"]},
        {"alg": "EdDSA", "kid": 1},
        b'{"alg":"none","alg":"EdDSA"}',
        b"[]",
        b"",
        b"\xff",
    ],
)
def test_a_header_that_would_change_how_it_is_verified_is_refused(header: Any) -> None:
    with pytest.raises(MalformedVerdict):
        admitted(sign(claims("n1", ISSUED), header))


GOOD = sign(claims("n1", ISSUED))


@pytest.mark.parametrize(
    "token",
    [
        "",
        "..",
        GOOD + ".",
        GOOD.rsplit(".", 1)[0],
        GOOD + "=",
        GOOD + "\n",
        GOOD.replace(".", "+.", 1),
        GOOD.replace(".", "A.", 1),
        "\u0430" + GOOD,
        json.dumps({"payload": GOOD}),
    ],
)
def test_what_is_no_compact_token_is_refused(token: str) -> None:
    with pytest.raises(MalformedVerdict):
        admitted(token)


def test_a_token_beyond_the_limit_is_refused_unread() -> None:
    with pytest.raises(MalformedVerdict, match="at most"):
        admitted("." * (VERDICT_BYTES.most + 1))


# -- what it says ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"submods": {"n2": {"ear.status": "affirming"}}},
        {"submods": {"n1": {"ear.status": "affirming"}, "n2": {"ear.status": "affirming"}}},
        {"submods": {}},
        {"sub": "n2"},
        {"sub": "n2", "submods": {}},
        {"sub": "n1", "submods": {}},
        {"sub": "n1", "submods": {"n2": {"ear.status": "affirming"}}},
    ],
)
def test_a_verdict_on_anything_but_this_node_alone_does_not_admit(changes: dict[str, Any]) -> None:
    with pytest.raises(NotAdmitted, match="on this node alone"):
        admitted(sign(claims("n1", ISSUED, **changes)))


def test_a_subject_may_name_the_node_too() -> None:
    assert admitted(sign(claims("n1", ISSUED, sub="n1"))) == ISSUED


@pytest.mark.parametrize("status", ["affirming", 2, 31])
def test_the_tier_affirming_admits(status: object) -> None:
    assert admitted(sign(claims("n1", ISSUED, submods={"n1": {"ear.status": status}}))) == ISSUED


@pytest.mark.parametrize(
    "appraisal",
    [
        {"ear.status": "none"},
        {"ear.status": "warning"},
        {"ear.status": "contraindicated"},
        {"ear.status": "Affirming"},
        {"ear.status": 0},
        {"ear.status": 1},
        {"ear.status": 32},
        {"ear.status": 96},
        {"ear.status": -2},
        {"ear.status": True},
        {"ear.status": 2.0},
        {"ear.status": None},
        {"ear_status": "affirming"},
        {},
        "affirming",
        None,
    ],
)
def test_no_other_status_admits(appraisal: object) -> None:
    with pytest.raises(NotAdmitted, match="affirming"):
        admitted(sign(claims("n1", ISSUED, submods={"n1": appraisal})))


@pytest.mark.parametrize(
    "changes",
    [
        {"eat_profile": None},
        {"eat_profile": "tag:github.com,2023:other"},
        {"iat": None},
        {"iat": str(int(ISSUED.timestamp()))},
        {"iat": ISSUED.timestamp() + 0.5},
        {"iat": True},
        {"iat": -1},
        {"iat": 10**18},
        {"exp": "never"},
        {"nbf": "always"},
        {"submods": None},
        {"submods": ["n1"]},
        {"sub": 1},
    ],
)
def test_claims_of_another_form_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedVerdict):
        admitted(sign(claims("n1", ISSUED, **changes)))


def test_a_claim_said_twice_is_refused() -> None:
    body = json.dumps(claims("n1", ISSUED)).replace('"submods"', '"iat": 1, "submods"')
    with pytest.raises(MalformedVerdict, match="twice"):
        admitted(sign(body.encode()))


# -- when --------------------------------------------------------------------------------------------------------------


def test_a_verdict_admits_as_long_as_the_network_says() -> None:
    assert admitted(sign(claims("n1", NOW - WEIGHED.most_age)))
    with pytest.raises(NotAdmitted, match="of the last 0:10:00"):
        admitted(sign(claims("n1", NOW - WEIGHED.most_age - timedelta(seconds=1))))


def test_a_verdict_from_the_future_does_not_admit() -> None:
    assert admitted(sign(claims("n1", NOW + SKEW)))
    with pytest.raises(NotAdmitted, match="from before"):
        admitted(sign(claims("n1", NOW + SKEW + timedelta(seconds=1))))


def test_a_verdict_from_before_the_node_was_given_or_started_does_not_admit() -> None:
    verdict = sign(claims("n1", ISSUED))
    assert admitted(verdict, not_before=ISSUED)
    assert admitted(verdict, not_before=ISSUED + timedelta(microseconds=999_999))
    with pytest.raises(NotAdmitted, match="what runs since"):
        admitted(verdict, not_before=ISSUED + timedelta(seconds=1))


def test_a_verdict_that_ended_does_not_admit() -> None:
    assert admitted(sign(claims("n1", ISSUED, exp=int(NOW.timestamp()) + 1)))
    with pytest.raises(NotAdmitted, match="ended"):
        admitted(sign(claims("n1", ISSUED, exp=int(NOW.timestamp()))))


def test_a_verdict_that_does_not_hold_yet_does_not_admit() -> None:
    assert admitted(sign(claims("n1", ISSUED, nbf=int(NOW.timestamp()))))
    with pytest.raises(NotAdmitted, match="begins"):
        admitted(sign(claims("n1", ISSUED, nbf=int(NOW.timestamp()) + 61)))


# -- keys --------------------------------------------------------------------------------------------------------------


def test_only_a_public_key_of_ed25519_is_taken() -> None:
    assert parse_key(SIGNER_PEM) == SIGNER.public_key()
    other = generate_private_key(SECP256R1()).public_key()
    private = SIGNER.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    elliptic = other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for pem in (
        elliptic,
        private,
        "",
        "-----BEGIN PUBLIC KEY-----",
        "\u0430",
        SIGNER_PEM + private,
        "\n" * 2000 + SIGNER_PEM,
    ):
        with pytest.raises(MalformedKey) as refused:
            parse_key(pem)
        assert "PRIVATE" not in refused.value.found
    assert issubclass(MalformedKey, Malformed)
