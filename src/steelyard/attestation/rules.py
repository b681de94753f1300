"""What may happen, by when, and who may. Pure: from what is, to what is to be done, or to the reason why not."""

import hashlib
import hmac
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from steelyard.attestation.life import State
from steelyard.attestation.objects import (
    AnyParameters,
    Asked,
    DemandedMakers,
    Endorsements,
    Entered,
    ExactParameters,
    Node,
    NoMakers,
    Parameters,
    Purpose,
    Terms,
)
from steelyard.evidence.findings import Finding, Reason
from steelyard.evidence.tpm.certificate import Certificate, parse_certificate
from steelyard.evidence.tpm.keys import EndorsementKey
from steelyard.model.errors import BindingRejected, Changed, Refused, WrongState, WrongUse
from steelyard.model.limits import (
    ENDORSEMENTS,
    EXPECTED_REBOOTS,
    REPORT_SECONDS,
    WHY_CHARACTERS,
)
from steelyard.model.names import check_name
from steelyard.service.authority import Caller, Right, not_found

LEAST_INTERVAL: Final = timedelta(seconds=1)


# -- who, and which version --------------------------------------------------------------------------------------------


def check_change(caller: Caller, project: str, what: str, doing: str) -> None:
    """Let pass who may change what is a project's. Raises NotAllowed; NotFound for who may not know of it."""
    if caller.office is None and project not in caller.roles:
        raise not_found(what)
    caller.must_act_for(project, Right.ATTEST, doing)


def check_version(what: str, version: int, expected: int | None) -> None:
    """Let pass a change of what the caller last saw; None: whatever it is. Raises Changed."""
    if expected is not None and expected != version:
        raise Changed(f"changing {what}", expected=f"version {expected}", found=f"{version}")


def check_why(why: str) -> None:
    """Let pass a reason that somebody can read later. Raises WrongUse."""
    if not 1 <= len(why) <= WHY_CHARACTERS.most:
        expected = f"1 to {WHY_CHARACTERS.most} letters of why"
        raise WrongUse("saying why", expected=expected, found=f"{len(why)}")


# -- enrolling ---------------------------------------------------------------------------------------------------------


def check_terms(terms: Terms) -> None:
    """Let pass terms on which a node can be told from every other.

    A chain may go undemanded only where there is no certificate, and the key itself was published (attack 2).

    Raises WrongUse, TooLarge, MalformedCertificate.
    """
    doing = "enrolling a node"
    published = terms.endorsements
    count = len(published.certificates) + len(published.keys)
    if not 1 <= count <= ENDORSEMENTS.most:
        expected = f"1 to {ENDORSEMENTS.most} endorsement certificates and keys"
        raise WrongUse(doing, expected=expected, found=f"{count}")
    for kind, certificate in published.certificates.items():
        check_name(kind, "kind of endorsement key")
        parse_certificate(certificate.encode())
    if isinstance(terms.makers, NoMakers) and published.certificates:
        raise WrongUse(doing, expected="a set of makers that the certificates' chains end in", found="none")
    if isinstance(terms.makers, DemandedMakers):
        check_name(terms.makers.name, "set of makers")
    for policy in (terms.airlock, terms.runtime):
        if policy is not None:
            check_name(policy, "policy")
    for what, span, least in (("interval", terms.interval, LEAST_INTERVAL), ("grace", terms.grace, LEAST_INTERVAL)):
        if not least <= span <= timedelta(seconds=REPORT_SECONDS.most):
            expected = f"an {what} of 1 to {REPORT_SECONDS.most} seconds"
            raise WrongUse(doing, expected=expected, found=f"{span.total_seconds():g}")
    if isinstance(terms.parameters, ExactParameters) and len(terms.parameters.sha256) != hashlib.sha256().digest_size:
        raise WrongUse(doing, expected="the SHA-256 of the parameters", found=f"{len(terms.parameters.sha256)} bytes")


def check_reboots(count: int) -> None:
    """Let pass a number of reboots to expect. Raises WrongUse."""
    if not 0 <= count <= EXPECTED_REBOOTS.most:
        raise WrongUse("expecting reboots", expected=f"0 to {EXPECTED_REBOOTS.most}", found=f"{count}")


def ends_the_boot(before: Terms, then: Terms) -> bool:
    """Whether on the new terms nothing of what was proven or judged stands: who the node is, or what it was given."""
    return (before.endorsements, before.makers, before.parameters, before.airlock) != (
        then.endorsements,
        then.makers,
        then.parameters,
        then.airlock,
    )


# -- registering -------------------------------------------------------------------------------------------------------


def not_the_nodes(node: str) -> BindingRejected:
    """Return the one refusal of a registration: whether there is such a node at all, it does not tell."""
    expected = "a node that is enrolled, by a TPM that was published for it"
    return BindingRejected(f"registering node {node}", expected=expected, found="another")


def published_certificates(endorsements: Endorsements | None) -> tuple[Certificate, ...]:
    """Return the certificates that the provider published for the node; None: there is no such node."""
    certificates = () if endorsements is None else endorsements.certificates.values()
    return tuple(parse_certificate(certificate.encode()) for certificate in certificates)


def is_published(endorsements: Endorsements | None, certificates: Iterable[Certificate], key: EndorsementKey) -> bool:
    """Whether this is a key that the provider published for the node: by its digest, or by a certificate."""
    known = () if endorsements is None else endorsements.keys
    digest = hashlib.sha256(key.public.to_bytes()).digest()
    found = [hmac.compare_digest(digest, one) for one in known]
    found += [same_key(certificate, key.key) for certificate in certificates]
    return any(found)


def same_key(certificate: Certificate, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bool:
    """Whether a certificate is about this key; numbers are compared, as encodings of one key differ."""
    return certificate.key.public_numbers() == key.public_numbers()


# -- asking and judging ------------------------------------------------------------------------------------------------


def check_may_be_asked(node: Node, purpose: Purpose, passed_airlock: bool) -> str:  # noqa: FBT001 (a fact, no switch)
    """Return the name of the policy for what a node wants to be judged for. Raises WrongState."""
    doing = f"challenging node {node.name} for {purpose.value}"
    if purpose is Purpose.AIRLOCK:
        if passed_airlock or node.state not in (State.REGISTERED, State.CHALLENGED):
            expected = "a node that has registered and not passed since"
            raise WrongState(doing, expected=expected, found=node.state.value)
        return node.terms.airlock
    if not passed_airlock or node.state not in (State.PASSED, State.OVERDUE):
        raise WrongState(doing, expected="a node that has passed the airlock in this boot", found=node.state.value)
    if node.terms.runtime is None:
        raise WrongState(doing, expected="a node with a policy for what runs", found="one without")
    return node.terms.runtime


def check_answers(asked: Asked | None, challenge: str, now: datetime) -> Asked:
    """Return what was asked, when this is the challenge and it still holds. Raises WrongState (attack 7)."""
    doing = "taking evidence"
    expected = "the challenge that was given out last, not answered before"
    if asked is None or not hmac.compare_digest(asked.challenge.encode(), challenge.encode()):
        raise WrongState(doing, expected=expected, found="another")
    if asked.until <= now:
        raise WrongState(doing, expected=expected, found="one that has expired")
    return asked


def judge_parameters(wanted: Parameters, given: bytes | None) -> tuple[Finding, ...]:
    """Return what is wrong with the parameters that the quote vouches for."""
    if isinstance(wanted, AnyParameters):
        return ()
    found = None if given is None else hashlib.sha256(given).digest()
    if found is not None and hmac.compare_digest(found, wanted.sha256):
        return ()
    shown = "none" if found is None else f"SHA-256 {found.hex()}"
    return (Finding(Reason.WRONG_PARAMETERS, "the quote", "the parameters", f"SHA-256 {wanted.sha256.hex()}", shown),)


def pass_until(terms: Terms, purpose: Purpose, first_report: timedelta, now: datetime) -> datetime:
    """Return until when a pass holds: until the next report may be late by the grace, or the first one come."""
    return now + (first_report if purpose is Purpose.AIRLOCK else terms.interval + terms.grace)


def shown_state(node: Node, now: datetime) -> State:
    """Return what a node is, at this moment: a pass that has expired is none, whoever died before writing so."""
    if node.state is State.PASSED and (node.expires is None or node.expires <= now):
        return State.OVERDUE
    return node.state


def check_releasable(node: Node, entered: Entered | None, now: datetime) -> Entered:
    """Let pass who may have the share: a node that has passed, once a boot (attack 34). Raises WrongState, Refused."""
    doing = f"giving node {node.name} its share"
    state = shown_state(node, now)
    if state is not State.PASSED or entered is None:
        raise WrongState(doing, expected="a node that has passed", found=state.value)
    if entered.released is not None:
        raise Refused(doing, expected="the first time in this boot", found="that it was given out already")
    return entered


# -- sessions ----------------------------------------------------------------------------------------------------------

_SESSION: Final = re.compile(r"sn_([0-9a-f]{32})_[A-Za-z0-9_-]{43}", re.ASCII)
NO_DIGEST: Final = bytes(32)


def boot_of_token(bearer: str) -> str | None:
    """Return the boot that a session's token is for; None when it is no such token."""
    matched = _SESSION.fullmatch(bearer)
    return None if matched is None else matched[1]


def token_digest(bearer: str) -> bytes:
    """Return what is kept of a token: 256 random bits need no slow hash."""
    return hashlib.sha256(bearer.encode("ascii")).digest()
