"""An attestation service as the enclave needs it, by its HTTP API."""

import base64
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from steelyard.client import attestation
from steelyard.client.attestation_objects import AttestedNode, Endorsements
from steelyard.client.connection import Client
from steelyard.enclave.ports import Enrolment, Standing, Weighed
from steelyard.enclave.services.fresh import Fresh
from steelyard.model.errors import NotFound
from steelyard.model.secret import Secret

_STANDINGS: Final = {"passed": Standing.PASSED, "overdue": Standing.OVERDUE, "failed": Standing.FAILED}


class OverAttestation:
    """Scales (see `ports.py`), by a client of an attestation service. Threads share it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._nodes = Fresh(self._list)

    def _list(self, project: str) -> Mapping[str, AttestedNode]:
        listed = self._client.every(attestation.list_nodes(project=project, limit=1000))
        return {node.name: node for node in listed}

    def enrol(self, project: str, node: str, terms: Enrolment) -> None:
        """See `Scales`. Its parameters are of this boot alone, so that these are other terms than any before."""
        identity = Endorsements(dict(terms.identity.certificates), terms.identity.keys)
        self._client.ask(
            attestation.enrol(
                node,
                project=project,
                identity=identity,
                makers=terms.makers,
                airlock_policy=terms.airlock_policy,
                runtime_policy=terms.runtime_policy,
                parameters_sha256=terms.parameters_sha256,
                interval_seconds=terms.interval_seconds,
                grace_seconds=terms.grace_seconds,
            )
        )

    def leave_share(self, node: str, share: Secret) -> None:
        """See `Scales`."""
        self._client.ask(attestation.leave_share(node, share))

    def weigh(self, project: str, node: str) -> Weighed:
        """See `Scales`. Another project's machine of this name is none."""
        found = self._find(node)
        if found is None or found.project != project:
            return Weighed(Standing.ABSENT, "it is not enrolled", None, "", reports=False, verdict=None)
        standing = _STANDINGS.get(found.state, Standing.ON_THE_WAY)
        verdict = self._verdict(node) if standing is Standing.PASSED else None
        step = None if found.step is None else (found.step.step, found.step.outcome)
        why = self._reasons(found) if standing is Standing.FAILED else f"{found.state}, {found.why}"
        detail = "" if found.step is None else found.step.detail
        return Weighed(
            standing, why, step, detail, verdict is not None and _purpose(verdict, node) == "runtime", verdict
        )

    def holds(self, project: str, node: str) -> bool:
        """See `Scales`."""
        found = self._nodes.get(project).get(node)
        return found is not None and _STANDINGS.get(found.state) in (Standing.PASSED, Standing.OVERDUE)

    def _find(self, node: str) -> AttestedNode | None:
        try:
            return self._client.ask(attestation.read_node(node))
        except NotFound:
            return None

    def _verdict(self, node: str) -> str | None:
        try:
            return self._client.ask(attestation.read_verdict(node)).verdict
        except NotFound:
            return None

    def _reasons(self, node: AttestedNode) -> str:
        """Return what was wrong with a machine, by component."""
        if node.appraisal is None:
            return node.why
        try:
            appraisal = self._client.ask(attestation.read_appraisal(node.name, node.appraisal))
        except NotFound:
            return node.why
        named = [f"{finding.where} {finding.subject}: {finding.reason}" for finding in appraisal.findings[:5]]
        more = len(appraisal.findings) - len(named)
        return "; ".join(named + ([f"and {more} more"] if more > 0 else [])) or node.why

    def forget(self, node: str, parameters_sha256: str) -> None:
        """See `Scales`."""
        found = self._find(node)
        if found is not None and found.parameters_sha256 == parameters_sha256:
            with suppress(NotFound):
                self._client.ask(attestation.delete_node(node, version=found.version))


def _purpose(verdict: str, node: str) -> str | None:
    """Return for what a verdict says to be: whom it admits is decided by others, who check it."""
    try:
        part = verdict.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        purpose = claims["submods"][node]["steelyard.purpose"]
    except (ValueError, IndexError, KeyError, TypeError):
        return None
    return purpose if isinstance(purpose, str) else None
