"""Which TPM is which node: registration, and its proof. The verbs that anybody can call who reaches the service.

Nothing about a node changes before somebody proved to have its TPM; nothing dear is done before what is cheap.
"""

import hashlib
import hmac
import secrets
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import Connection

from steelyard.attestation import rules, store
from steelyard.attestation.life import Event, State
from steelyard.attestation.objects import DemandedMakers, MakerSet, Node, Registration
from steelyard.attestation.throttle import Buckets, Rate
from steelyard.evidence.tpm.activation import activation_proof
from steelyard.evidence.tpm.certificate import Certificate, parse_certificate
from steelyard.evidence.tpm.credential import EccEntropy, RsaEntropy, make_credential
from steelyard.evidence.tpm.endorsement import Demand, MakerTrust, check_key_matches, verify_endorsement
from steelyard.evidence.tpm.keys import (
    AttestationKey,
    EndorsementKey,
    check_attestation_key,
    check_endorsement_key,
)
from steelyard.evidence.tpm.public import parse_tpmt_public
from steelyard.evidence.tpm.revocation import parse_revocation_list
from steelyard.model.errors import BindingRejected, CertificateRejected, Malformed, SteelyardError, TooMany
from steelyard.model.limits import ENDORSEMENTS
from steelyard.model.names import check_name
from steelyard.model.secret import Secret
from steelyard.service.database import Database, Transaction

REGISTRATION: Final = timedelta(minutes=5)
"""How long a credential is waited for."""
PENDING: Final = 3
"""Registrations of one node that wait for their proof; older ones go."""
CHAINS: Final = 4
"""Certificate chains that are looked at at a time."""
CHAIN_WAIT_SECONDS: Final = 2.0
NODE_RATE: Final = Rate(burst=20, seconds=3.0)

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Presented:
    """What somebody registers with, unread. Keys are TPMT_PUBLIC, certificates DER."""

    node: str
    endorsement_key: bytes
    endorsement_certificates: tuple[bytes, ...]
    attestation_key: bytes


@dataclass(frozen=True, slots=True)
class Registered:
    """What is answered: the credential as tpm2_makecredential writes it."""

    registration: str
    credential: bytes
    expires: datetime


@dataclass(frozen=True, slots=True)
class Session:
    """What an activation gives: a token, once."""

    token: Secret
    expires: datetime


class Registrar:
    """Registers nodes. Threads share it.

    session  how long a node may take from its activation until it has passed.
    """

    def __init__(self, database: Database, *, session: timedelta) -> None:
        self._database = database
        self._session = session
        self._nodes = Buckets(NODE_RATE)
        self._chains = threading.Semaphore(CHAINS)

    def register(self, presented: Presented) -> Registered:
        """Return a credential that only the TPM published for this node opens, and only for this attestation key.

        Whether the node is not enrolled, the key is not one that was published for it, no trusted maker stands behind
        it, or the node is known by another: the refusal is the same.

        Raises TooMany, WrongUse, Malformed, KeyRejected (attack 1), BindingRejected.
        """
        check_name(presented.node, "node")
        self._nodes.take(presented.node, f"registering node {presented.node}")
        if len(presented.endorsement_certificates) > ENDORSEMENTS.most:
            expected = f"at most {ENDORSEMENTS.most} endorsement certificates"
            found = f"{len(presented.endorsement_certificates)}"
            raise Malformed("reading a registration", expected=expected, found=found)
        endorsement = check_endorsement_key(parse_tpmt_public(presented.endorsement_key))
        attestation = check_attestation_key(parse_tpmt_public(presented.attestation_key))
        with self._database.reading() as connection:
            node = store.find_node(connection, presented.node)
            makers = None if node is None else _makers(connection, node)
        published = None if node is None else node.terms.endorsements
        certificates = rules.published_certificates(published)
        is_published = rules.is_published(published, certificates, endorsement)
        if node is None or not is_published:
            _log.info("registration.refused", node=presented.node, why="no such node, or not its key")
            raise rules.not_the_nodes(presented.node)
        chained = self._check_chain(node, endorsement, certificates, presented.endorsement_certificates, makers)
        if node.endorsement_key is not None and not hmac.compare_digest(node.endorsement_key, endorsement.name):
            self._refused(node, "it is known by another TPM")
            raise rules.not_the_nodes(node.name)
        return self._offer(node, endorsement, attestation, chained=chained)

    def _check_chain(
        self,
        node: Node,
        key: EndorsementKey,
        published: tuple[Certificate, ...],
        presented: tuple[bytes, ...],
        makers: MakerSet | None,
    ) -> bool:
        """Return whether a trusted maker stands behind the key; False only where none is demanded."""
        if not isinstance(node.terms.makers, DemandedMakers):
            return False
        if makers is None:
            self._refused(node, f"there is no set of makers {node.terms.makers.name}")
            raise rules.not_the_nodes(node.name)
        if not self._chains.acquire(timeout=CHAIN_WAIT_SECONDS):
            raise TooMany(f"registering node {node.name}", expected="fewer registrations at a time", found="more")
        try:
            verify_key(node.name, key, published, presented, makers, self._database.clock())
        except SteelyardError as cause:
            self._refused(node, str(cause))
            raise rules.not_the_nodes(node.name) from cause
        finally:
            self._chains.release()
        return True

    def _refused(self, node: Node, why: str) -> None:
        """Tell the owner of an attempt with the node's own key, which is worth knowing of."""
        with self._database.writing() as tx:
            store.note(tx, node, "registration-refused", actor=f"node/{node.name}", detail={"why": why})

    def _offer(
        self, node: Node, endorsement: EndorsementKey, attestation: AttestationKey, *, chained: bool
    ) -> Registered:
        name, secret = secrets.token_hex(16), Secret(secrets.token_bytes(32))
        credential = make_credential(endorsement, attestation.name, secret, _entropy(endorsement))
        proof = activation_proof(secret, name.encode(), attestation.name)
        with self._database.writing() as tx:
            expires = tx.now + REGISTRATION
            registration = Registration(
                id=name,
                node=node.name,
                attestation_key=attestation.public.to_bytes(),
                endorsement_key=endorsement.name,
                chained=chained,
                proof=hashlib.sha256(proof).digest(),
                expires=expires,
            )
            store.add_registration(tx, registration, PENDING)
        return Registered(name, credential.to_bytes(), expires)

    def activate(self, registration: str, proof: bytes) -> Session:
        """Return a session for who opened the credential: a new boot of the node begins, and the one before is over.

        A wrong answer changes nothing, and is told nothing (attack 3).

        Raises BindingRejected; WrongState for a node that failed, until somebody lets it try again.
        """
        given = hashlib.sha256(proof).digest()
        with self._database.reading() as connection:
            _check_proof(store.find_registration(connection, registration), given, self._database.clock())
        boot = secrets.token_hex(16)
        token = f"sn_{boot}_{secrets.token_urlsafe(32)}"
        with self._database.writing() as tx:
            # Again: it may have been answered in the meantime.
            found = _check_proof(store.find_registration(tx.connection, registration), given, tx.now)
            expires = self._begin(tx, found, boot, token)
        return Session(Secret(token.encode("ascii")), expires)

    def _begin(self, tx: Transaction, found: Registration, boot: str, token: str) -> datetime:
        node = store.find_node(tx.connection, found.node)
        known = node is not None and node.endorsement_key in (None, found.endorsement_key)
        if node is None or not known:
            raise _no_proof()
        expires = tx.now + self._session
        store.move(
            tx,
            node,
            Event.ACTIVATE,
            actor=f"node/{node.name}",
            why="its TPM proved to be the one that was published for it",
            values={
                "endorsement_key": found.endorsement_key,
                "boot": boot,
                "expires": None,
                "fails": None,
                "step": None,
                **({"version": node.version + 1} if node.state is State.REGISTERED else {}),
            },
            detail={"boot": boot, "endorsement_key": found.endorsement_key.hex(), "chained": found.chained},
        )
        store.add_boot(tx, boot, found, rules.token_digest(token), expires)
        # Who registered at the same time, and was slower, does not end this boot again.
        store.forget_registrations(tx, node.name)
        return expires


def verify_key(
    node: str,
    key: EndorsementKey,
    published: tuple[Certificate, ...],
    presented: tuple[bytes, ...],
    makers: MakerSet,
    now: datetime,
) -> None:
    """Let pass an endorsement key that a maker of this set stands behind, by a certificate for this very key.

    published  the certificates that the provider published for the node.
    presented  what the node sent along: its own certificate, and such as lead to the maker's.

    Raises CertificateRejected, MalformedCertificate.
    """
    known = {each.encoded: each for each in published}
    came_along = [known.get(each) or parse_certificate(each) for each in presented]
    own = {each.encoded: each for each in (*published, *came_along) if rules.same_key(each, key.key)}
    others = [each for each in came_along if each.encoded not in own]
    failure = CertificateRejected(
        f"verifying the endorsement key of node {node}", expected="a certificate for it", found="none"
    )
    for certificate in own.values():
        try:
            check_key_matches(verify_endorsement(certificate, others, _trust(makers), now), key)
        except CertificateRejected as cause:
            failure = cause
        else:
            return
    raise failure


def _trust(makers: MakerSet) -> MakerTrust:
    return _trust_of(makers.certificates, makers.revocations, makers.demands)


@lru_cache(maxsize=64)
def _trust_of(certificates: tuple[str, ...], revocations: tuple[bytes, ...], demands: frozenset[str]) -> MakerTrust:
    anchors: list[Certificate] = [parse_certificate(each.encode()) for each in certificates]
    lists = [parse_revocation_list(each) for each in revocations]
    return MakerTrust(tuple(anchors), tuple(lists), frozenset(map(Demand, demands)))


def _makers(connection: Connection, node: Node) -> MakerSet | None:
    if not isinstance(node.terms.makers, DemandedMakers):
        return None
    return store.find_makers(connection, node.project, node.terms.makers.name)


def _entropy(key: EndorsementKey) -> RsaEntropy | EccEntropy:
    if isinstance(key.key, ec.EllipticCurvePublicKey):
        return EccEntropy(ec.generate_private_key(key.key.curve))
    return RsaEntropy(Secret(secrets.token_bytes(key.public.name_algorithm.size)))


def _check_proof(found: Registration | None, given: bytes, now: datetime) -> Registration:
    """Return the registration that this is the right answer to, in time. Raises BindingRejected, always the same."""
    right = hmac.compare_digest(rules.NO_DIGEST if found is None else found.proof, given)
    if found is None or not right or found.expires <= now:
        raise _no_proof()
    return found


def _no_proof() -> BindingRejected:
    return BindingRejected(
        "activating a registration", expected="the proof that its credential was opened, in time", found="none"
    )
