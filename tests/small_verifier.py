"""Registrar and verifier in a page, for tests of what speaks to them: honest, in memory, judging by the evidence core.

It is called as a `simulated_nodes.Call`, or served, as `otherwise` of a `WebServer`. The service proper is
`steelyard.attestation`; this one knows one node, and forgets nothing.
"""

import base64
import json
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from steelyard.evidence.appraisal import Accepted, Passed, Rejected, appraise
from steelyard.evidence.bundle import Evidence
from steelyard.evidence.compiled_policy import CompiledPolicy
from steelyard.evidence.document import format_time
from steelyard.evidence.ima.replay import ImaExcerpt
from steelyard.evidence.keysplit import NodeBoot
from steelyard.evidence.tpm.certificate import parse_certificate
from steelyard.evidence.tpm.credential import (
    EccEntropy,
    PendingActivation,
    RsaEntropy,
    make_credential,
    verify_activation,
)
from steelyard.evidence.tpm.endorsement import Demand, MakerTrust, check_key_matches, verify_endorsement
from steelyard.evidence.tpm.keys import BoundKey, check_attestation_key, check_endorsement_key
from steelyard.evidence.tpm.nonce import NonceWithKeys
from steelyard.evidence.tpm.public import parse_tpmt_public
from steelyard.evidence.tpm.quote import SignedQuote
from steelyard.model.errors import SteelyardError
from steelyard.model.pcrs import PcrValues
from steelyard.model.secret import Secret

_API: Final = "/v1/attestation"
Answer = tuple[int, bytes]


@dataclass
class SmallVerifier:
    """Judges one node.

    endorsement_key  TPMT_PUBLIC, as published for the node.
    airlock, runtime the policies; without the second nothing is asked for after the airlock.
    interval         seconds between reports; None: no more are wanted.
    gives_next       whether the next challenge comes along with each answer.
    away             answer nothing but 503.
    on_pass          called with transport key and boot when the node has passed the airlock.
    rejections       what was found wrong, per evidence that was rejected.
    passed           the purposes of what passed.
    reports          what came at run time: how many entries were passed over, how many bytes, whether with a log.
    """

    node: str
    endorsement_key: bytes
    anchors: tuple[bytes, ...]
    airlock: CompiledPolicy
    runtime: CompiledPolicy | None
    interval: int | None = 60
    gives_next: bool = True
    away: bool = False
    on_pass: Callable[[bytes, NodeBoot], None] = lambda _, __: None
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    challenges: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    rejections: list[tuple[str, ...]] = field(default_factory=list)
    reports: list[tuple[int, int, bool]] = field(default_factory=list)
    refused: int = 0
    passed: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    steps: list[tuple[str, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._pending: dict[str, PendingActivation] = {}
        self._bound: BoundKey | None = None
        self._keys: tuple[bytes, bytes | None, bytes] | None = None
        self._accepted: Accepted | None = None
        self._changed = threading.Condition()

    def await_reports(self, count: int) -> None:
        """Return when so many reports at run time have passed; fail when they do not."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.passed.count("runtime") >= count, 60), self.passed

    def await_refusals(self, count: int) -> None:
        """Return when so many requests were refused while it was away; fail when they are not."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.refused >= count, 60), self.refused

    @property
    def entries(self) -> int:
        """How many entries of the list were judged and passed."""
        ima = None if self._accepted is None else self._accepted.ima
        return 0 if ima is None else ima.entries

    def __call__(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        """Answer a request."""
        self.requests.append(f"{method} {path}")
        if self.away:
            with self._changed:
                self.refused += 1
                self._changed.notify_all()
            return _problem(503, "away")
        parts = path.removeprefix(_API).strip("/").split("/")
        asked = json.loads(body) if body else {}
        if parts == ["registrations"]:
            return self._register(asked)
        if parts[0] == "registrations":
            return self._activate(parts[1], asked)
        if headers.get("Authorization") != f"Bearer {self.token}":
            return _problem(401, "no session")
        if parts == ["nodes", self.node, "challenges"]:
            return 201, _json(**self._challenge(asked["purpose"]))
        if parts == ["nodes", self.node, "steps"]:
            self.steps.append((asked["step"], asked["outcome"], asked["detail"]))
            return 204, b""
        if parts[0] == "challenges" and parts[1] in self.challenges:
            return self._evidence(*self.challenges.pop(parts[1]), asked)
        return _problem(404, "nothing there")

    def end_session(self) -> None:
        """Forget the token that the node has."""
        self.token = secrets.token_urlsafe(32)

    def forget_challenges(self) -> None:
        """Let every challenge expire."""
        self.challenges.clear()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _register(self, asked: dict[str, Any]) -> Answer:
        if asked["node"] != self.node or _bytes(asked["endorsement_key"]) != self.endorsement_key:
            return _problem(403, "not a key of this node")
        endorsement = check_endorsement_key(parse_tpmt_public(self.endorsement_key))
        certificate = parse_certificate(_bytes(asked["endorsement_certificates"][0]))
        trust = MakerTrust(tuple(map(parse_certificate, self.anchors)), (), frozenset(Demand))
        check_key_matches(verify_endorsement(certificate, (), trust, datetime.now(UTC)), endorsement)
        attestation = check_attestation_key(parse_tpmt_public(_bytes(asked["attestation_key"])))
        name, secret = secrets.token_hex(16), Secret(secrets.token_bytes(32))
        entropy = (
            EccEntropy(ec.generate_private_key(endorsement.key.curve))
            if isinstance(endorsement.key, ec.EllipticCurvePublicKey)
            else RsaEntropy(Secret(secrets.token_bytes(endorsement.public.name_algorithm.size)))
        )
        expires = datetime.now(UTC) + timedelta(minutes=5)
        self._pending[name] = PendingActivation(name.encode(), attestation, endorsement.name, secret, expires)
        credential = make_credential(endorsement, attestation.name, secret, entropy).to_bytes()
        return 201, _json(registration=name, credential=encoded(credential), expires=format_time(expires))

    def _activate(self, name: str, asked: dict[str, Any]) -> Answer:
        pending = self._pending.pop(name, None)
        if pending is None:
            return _problem(404, "no such registration")
        try:
            self._bound = verify_activation(pending, name.encode(), _bytes(asked["proof"]), datetime.now(UTC))
        except SteelyardError as error:
            return _problem(403, str(error))
        self._accepted, self._keys = None, None
        return 200, _json(token=self.token, expires=format_time(datetime.now(UTC) + timedelta(hours=1)))

    def _challenge(self, purpose: str) -> dict[str, Any]:
        policy = self.airlock if purpose == "airlock" else self.runtime
        assert policy is not None
        name, nonce = secrets.token_hex(16), secrets.token_bytes(32)
        self.challenges[name] = (purpose, nonce)
        given: dict[str, Any] = {
            "challenge": name,
            "nonce": encoded(nonce),
            "bank": policy.policy.selection.bank.label,
            "pcrs": sorted(policy.policy.selection.indices),
            "expires": format_time(datetime.now(UTC) + timedelta(minutes=2)),
        }
        if purpose == "runtime":
            given["from_entry"] = self.entries if self._goes_on(policy) else 0
        return given

    def _goes_on(self, policy: CompiledPolicy) -> bool:
        return self._accepted is not None and self._accepted.grounds == policy.grounds

    def _evidence(self, purpose: str, nonce: bytes, asked: dict[str, Any]) -> Answer:
        policy = self.airlock if purpose == "airlock" else self.runtime
        assert policy is not None
        assert self._bound is not None
        if purpose == "airlock":
            self._keys = tuple(_bytes(asked[each]) for each in ("transport_key", "wireguard_key", "parameters"))  # type: ignore[assignment]  # three
            self._accepted = None
        else:
            ima = asked["ima_list"]
            self.reports.append((ima["first"], len(_bytes(ima["data"])), "event_log" in asked))
        if self._keys is None:
            return _problem(409, "the airlock comes first")
        bank = policy.policy.selection.bank
        excerpt = (
            ImaExcerpt(asked["ima_list"]["first"], _bytes(asked["ima_list"]["data"])) if purpose == "runtime" else None
        )
        evidence = Evidence(
            SignedQuote(_bytes(asked["quote"]), _bytes(asked["signature"])),
            PcrValues(bank, {int(at): bytes.fromhex(value) for at, value in asked["pcrs"].items()}),
            _bytes(asked["event_log"]) if "event_log" in asked else None,
            excerpt,
        )
        challenge = NonceWithKeys(nonce, *self._keys)
        now = datetime.now(UTC)
        try:
            verdict = appraise(evidence, self._bound, challenge, self._accepted, policy, now)
        except SteelyardError as error:
            self.rejections.append((str(error),))
            return _problem(422, str(error))
        match verdict:
            case Rejected(findings=findings):
                self.rejections.append(tuple(f"{each.reason}: {each.where}: {each.subject}" for each in findings))
                return _problem(422, "; ".join(self.rejections[-1]))
            case Passed():
                self._accepted = verdict.accepted()
        if purpose == "airlock":
            self.on_pass(self._keys[0], NodeBoot(self.node, nonce))
        with self._changed:
            self.passed.append(purpose)
            self._changed.notify_all()
        return 200, _json(verdict="a.signed.verdict", **self._what_next())

    def _what_next(self) -> dict[str, Any]:
        if self.runtime is None or self.interval is None:
            return {}
        return {"next_in": self.interval} | ({"next": self._challenge("runtime")} if self.gives_next else {})


def _problem(status: int, detail: str) -> Answer:
    return status, _json(title="refused", code="not-passed" if status == 422 else "refused", detail=detail)


def _json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def encoded(data: bytes) -> str:
    """Return bytes as messages have them."""
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
