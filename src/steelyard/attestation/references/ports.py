"""What the reference authority needs of the rest of attestation."""

from collections.abc import Sequence
from typing import Protocol

from sqlalchemy import Connection

from steelyard.evidence.bundle import Bundle


class StoredEvidence(Protocol):
    """The evidence that was kept, as dry runs ask for it. Both are read in the view that `connection` is."""

    def newest(self, connection: Connection, project: str, policy: str) -> Sequence[tuple[str, str]]:
        """Return (node, appraisal) of the newest evidence of each of the project's nodes that `policy` judged, by node.

        It is such that it can be judged by itself, from the boot's beginning.
        """

    def bundle(self, connection: Connection, appraisal: str) -> Bundle:
        """Return what one appraisal judged. Raises NotFound when it is kept no longer."""
