"""A token is believed when the issuer signed it for this service, with a key that it has now, and in no other case."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey, RSAKey

from steelyard.model.errors import NotSignedIn, ServiceUnready, Unavailable
from steelyard.service import openid
from steelyard.service.openid import Issuer, OpenIdSettings
from tests.fakes.openid import FakeIssuer

NOW = datetime(2026, 7, 1, tzinfo=UTC)


@pytest.fixture
def fake() -> Iterator[FakeIssuer]:
    with FakeIssuer() as issuer:
        yield issuer


@pytest.fixture
def issuer(fake: FakeIssuer) -> Iterator[Issuer]:
    made = Issuer(OpenIdSettings(fake.url, "steelyard", "preferred_username", None))
    yield made
    made.close()


def claims(fake: FakeIssuer, **others: Any) -> dict[str, Any]:
    said = {
        "iss": fake.url,
        "aud": "steelyard",
        "sub": "17",
        "preferred_username": "ann",
        "iat": int(NOW.timestamp()),
        "exp": int(NOW.timestamp()) + 300,
        **others,
    }
    return {name: value for name, value in said.items() if value is not ...}


@pytest.mark.parametrize(("key", "algorithm"), [("ed", "Ed25519"), ("ec", "ES256"), ("rsa", "RS256")])
def test_what_the_issuer_signed_is_believed(fake: FakeIssuer, issuer: Issuer, key: str, algorithm: str) -> None:
    claimed = issuer.verify(fake.token(claims(fake), key, algorithm), NOW)
    assert (claimed.who.issuer, claimed.who.subject, claimed.name) == (fake.url, "17", "ann")
    assert claimed.expires == NOW + timedelta(seconds=300)


def test_a_token_for_several_is_for_us_too(fake: FakeIssuer, issuer: Issuer) -> None:
    assert issuer.verify(fake.token(claims(fake, aud=["other", "steelyard"])), NOW).name == "ann"


def test_without_the_claim_there_is_a_subject_and_no_name(fake: FakeIssuer, issuer: Issuer) -> None:
    assert issuer.verify(fake.token(claims(fake, preferred_username=...)), NOW).name == ""


@pytest.mark.parametrize(
    "others",
    [
        {"iss": "https://other.example"},
        {"iss": ...},
        {"aud": "other"},
        {"aud": ["other"]},
        {"aud": ...},
        {"sub": ...},
        {"sub": 17},
        {"sub": "a\0"},
        {"preferred_username": ["ann"]},
        {"exp": ...},
        {"exp": int(NOW.timestamp())},
        {"exp": int(NOW.timestamp()) - 1},
        {"exp": "tomorrow"},
        {"exp": 1e300},
        {"nbf": int(NOW.timestamp()) + 60},
        {"iat": int(NOW.timestamp()) + 60},
    ],
    ids=repr,
)
def test_claims_that_are_not_right_are_not_believed(fake: FakeIssuer, issuer: Issuer, others: dict[str, Any]) -> None:
    with pytest.raises(NotSignedIn):
        issuer.verify(fake.token(claims(fake, **others)), NOW)


def test_a_signature_by_another_key_of_the_same_name_is_not_believed(fake: FakeIssuer, issuer: Issuer) -> None:
    good = fake.token(claims(fake))
    fake.keys["ed"] = OKPKey.generate_key("Ed25519", {"kid": "ed"})
    bad = fake.token(claims(fake))
    fake.published = ["ec", "rsa"]
    fake.more_keys = [OKPKey.generate_key("Ed25519", {"kid": "ed"}).as_dict(private=False)]
    for token in (good, bad):
        with pytest.raises(NotSignedIn):
            issuer.verify(token, NOW)


def test_a_token_without_a_signature_is_not_believed(fake: FakeIssuer, issuer: Issuer) -> None:
    issuer.verify(fake.token(claims(fake)), NOW)
    _, payload, signature = fake.token(claims(fake)).split(".")
    for algorithm in ("none", "None", "NONE"):
        header = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "kid": "ed"}).encode()).rstrip(b"=").decode()
        for end in ("", signature):
            with pytest.raises(NotSignedIn):
                issuer.verify(f"{header}.{payload}.{end}", NOW)


def test_a_public_key_is_no_shared_secret(fake: FakeIssuer, issuer: Issuer) -> None:
    """Whoever takes the published key for HMAC's could sign anything. Source: RFC 8725, section 2.1."""
    header = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": "rsa"}).encode()).rstrip(b"=")
    payload = base64.urlsafe_b64encode(json.dumps(claims(fake)).encode()).rstrip(b"=")
    key = fake.keys["rsa"]
    assert isinstance(key, RSAKey)
    for secret in (key.as_pem(private=False), key.as_der(private=False)):
        mac = hmac.digest(secret, header + b"." + payload, hashlib.sha256)
        with pytest.raises(NotSignedIn):
            issuer.verify(f"{header.decode()}.{payload.decode()}.{base64.urlsafe_b64encode(mac).decode()}", NOW)


def test_a_shared_secret_among_the_issuers_keys_is_none_of_ours(fake: FakeIssuer, issuer: Issuer) -> None:
    shared = OctKey.import_key("0123456789abcdef0123456789abcdef", {"kid": "oct"})
    fake.more_keys = [shared.as_dict(private=True)]
    token = jwt.encode({"alg": "HS256", "kid": "oct"}, claims(fake), shared, algorithms=["HS256"])
    with pytest.raises(NotSignedIn):
        issuer.verify(token, NOW)


def test_a_key_for_encryption_or_one_that_is_too_short_signs_nothing(fake: FakeIssuer, issuer: Issuer) -> None:
    fake.keys["enc"] = RSAKey.generate_key(2048, {"kid": "enc"})
    with pytest.warns(Warning, match="2048"):
        fake.keys["short"] = RSAKey.generate_key(1024, {"kid": "short"})
    short = fake.token(claims(fake), "short", "RS256")
    enc = fake.token(claims(fake), "enc", "RS256")
    fake.more_keys = [
        {**fake.keys["enc"].as_dict(private=False), "use": "enc"},
        fake.keys["short"].as_dict(private=False),
    ]
    for token in (enc, short):
        with pytest.raises(NotSignedIn):
            issuer.verify(token, NOW)
    assert issuer.verify(fake.token(claims(fake)), NOW).name == "ann"


@pytest.mark.parametrize("token", ["", ".", "..", "a.b.c", "e30.e30.", "eyJhbGciOiJFZDI1NTE5In0.e30.AA", "\u00e4.b.c"])
def test_what_is_no_token_is_not_believed(issuer: Issuer, token: str) -> None:
    with pytest.raises(NotSignedIn):
        issuer.verify(token, NOW)


def test_unknown_critical_headers_are_not_passed_over(fake: FakeIssuer, issuer: Issuer) -> None:
    """Source: RFC 7515, section 4.1.11."""
    payload = base64.urlsafe_b64encode(json.dumps(claims(fake)).encode()).rstrip(b"=").decode()
    said = {"alg": "Ed25519", "kid": "ed", "crit": ["new"], "new": 1}
    header = base64.urlsafe_b64encode(json.dumps(said).encode()).rstrip(b"=").decode()
    key = fake.keys["ed"]
    assert isinstance(key, OKPKey)
    signature = key.private_key.sign(f"{header}.{payload}".encode())  # type: ignore[union-attr]  # an Ed25519 key
    token = f"{header}.{payload}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    with pytest.raises(NotSignedIn):
        issuer.verify(token, NOW)


# -- keys --------------------------------------------------------------------------------------------------------------


def test_keys_are_fetched_when_they_are_needed_and_kept(fake: FakeIssuer, issuer: Issuer) -> None:
    assert fake.asked == []
    for _ in range(5):
        issuer.verify(fake.token(claims(fake)), NOW)
    assert fake.asked == ["/realm/.well-known/openid-configuration", "/realm/keys"]


def test_a_new_key_of_the_issuer_is_found(fake: FakeIssuer, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    issuer.verify(fake.token(claims(fake)), NOW)
    fake.keys["new"] = OKPKey.generate_key("Ed25519", {"kid": "new"})
    fake.published = ["new"]
    monkeypatch.setattr(openid, "FETCH_PAUSE_SECONDS", 0.0)
    assert issuer.verify(fake.token(claims(fake), "new"), NOW).name == "ann"
    with pytest.raises(NotSignedIn):
        issuer.verify(fake.token(claims(fake), "ed"), NOW)


def test_tokens_of_unknown_keys_do_not_make_us_ask_again_and_again(fake: FakeIssuer, issuer: Issuer) -> None:
    issuer.verify(fake.token(claims(fake)), NOW)
    fake.keys["unknown"] = OKPKey.generate_key("Ed25519", {"kid": "unknown"})
    for _ in range(20):
        with pytest.raises(NotSignedIn):
            issuer.verify(fake.token(claims(fake), "unknown"), NOW)
    assert len(fake.asked) == 2


def test_a_key_that_was_taken_back_is_not_believed_for_long(
    fake: FakeIssuer, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = fake.token(claims(fake))
    issuer.verify(token, NOW)
    fake.published = ["rsa"]
    issuer.verify(token, NOW)
    monkeypatch.setattr(openid, "KEYS_GOOD_SECONDS", 0.0)
    monkeypatch.setattr(openid, "FETCH_PAUSE_SECONDS", 0.0)
    with pytest.raises(NotSignedIn):
        issuer.verify(token, NOW)


def test_an_issuer_that_does_not_answer_is_done_without_for_a_while_and_then_not(
    fake: FakeIssuer, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = fake.token(claims(fake))
    issuer.verify(token, NOW)
    fake.broken = 500
    monkeypatch.setattr(openid, "KEYS_GOOD_SECONDS", 0.0)
    monkeypatch.setattr(openid, "FETCH_PAUSE_SECONDS", 0.0)
    issuer.verify(token, NOW)
    monkeypatch.setattr(openid, "KEYS_KEPT_SECONDS", 0.0)
    with pytest.raises(Unavailable):
        issuer.verify(token, NOW)


@pytest.mark.parametrize(
    "broken",
    [404, 302, b"", b"[]", b"{", b'{"issuer": 1}', b"[" * 100_000, b" " * 300_000, b'{"keys": []}'],
    ids=["absent", "elsewhere", "empty", "list", "cut", "number", "deep", "large", "keys"],
)
def test_an_issuer_that_answers_nonsense_is_unavailable(fake: FakeIssuer, issuer: Issuer, broken: int | bytes) -> None:
    fake.broken = broken
    with pytest.raises(Unavailable):
        issuer.verify(fake.token(claims(fake)), NOW)


@pytest.mark.parametrize(
    "discovery",
    [{"issuer": "https://other.example"}, {"jwks_uri": "http://192.0.2.1/keys"}, {"jwks_uri": "file:///etc/passwd"}],
    ids=repr,
)
def test_keys_come_from_where_the_issuer_itself_says_encrypted(
    fake: FakeIssuer, issuer: Issuer, discovery: dict[str, Any]
) -> None:
    fake.discovery = discovery
    with pytest.raises(Unavailable):
        issuer.verify(fake.token(claims(fake)), NOW)
    assert fake.asked == ["/realm/.well-known/openid-configuration"]


@pytest.mark.parametrize(
    ("issuer_url", "audience", "name"),
    [
        ("http://id.example", "a", "sub"),
        ("ftp://id.example", "a", "sub"),
        ("https://", "a", "sub"),
        ("https://user@id.example", "a", "sub"),
        ("https://id.example", "", "sub"),
        ("https://id.example", "a", ""),
    ],
)
def test_an_issuer_is_configured_in_full_and_encrypted(issuer_url: str, audience: str, name: str) -> None:
    with pytest.raises(ServiceUnready):
        OpenIdSettings(issuer_url, audience, name, None)


def test_its_authority_is_read_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ServiceUnready):
        Issuer(OpenIdSettings("https://id.example", "a", "sub", tmp_path / "none.pem"))
