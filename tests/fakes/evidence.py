"""Evidence that was kept: bundles by node, of one policy."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from steelyard.evidence.bundle import Bundle
from steelyard.service.authority import not_found


@dataclass(slots=True)
class FakeEvidence:
    """What the archive has: policy -> node -> its newest evidence. `gone`: appraisals listed and kept no longer."""

    kept: dict[str, dict[str, Bundle]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    def put(self, policy: str, node: str, bundle: Bundle) -> None:
        """Keep evidence."""
        self.kept.setdefault(policy, {})[node] = bundle

    def newest(self, _connection: Connection, _project: str, policy: str) -> Sequence[tuple[str, str]]:
        """See `StoredEvidence`."""
        return [(node, f"{policy}/{node}") for node in sorted(self.kept.get(policy, {}))]

    def bundle(self, _connection: Connection, appraisal: str) -> Bundle:
        """See `StoredEvidence`."""
        policy, _, node = appraisal.partition("/")
        if appraisal in self.gone:
            raise not_found(f"appraisal {appraisal}")
        return self.kept[policy][node]
