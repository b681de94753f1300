"""Checks the audit log without believing the service: every link computed here, and compared with what was seen before.

The service can show a log that it made up, once. Who remembers one head of it notices every later change: an entry
altered, taken out, or the end cut off.
"""

import hashlib
import json
from collections.abc import Collection
from typing import Final

from steelyard.client.objects import AuditEntry, AuditHead
from steelyard.model.errors import AuditRejected

DOING: Final = "checking the audit log"
START: Final = AuditHead(0, bytes(32).hex())
"""Before the first entry."""


class Chain:
    """The chain, as far as it was followed.

    head   the last entry that was found good.
    known  heads of the log as it was seen before, or is said to be: it must pass through each.
    """

    def __init__(self, head: AuditHead, known: Collection[AuditHead]) -> None:
        self.head = head
        self._known = known

    def follow(self, entry: AuditEntry) -> None:
        """Take the next entry. Raises AuditRejected."""
        number = self.head.number + 1
        if entry.number != number:
            raise AuditRejected(DOING, expected=f"entry {number}", found=f"entry {entry.number}")
        if entry.entry is not None:
            _check_entry(entry)
        try:
            link = bytes.fromhex(self.head.chain) + bytes.fromhex(entry.digest)
        except ValueError as cause:
            raise AuditRejected(DOING, expected="a digest in hexadecimal", found=entry.digest) from cause
        chain = hashlib.sha256(link).hexdigest()
        for known in self._known:
            if known.number == number and known.chain != chain:
                raise AuditRejected(
                    DOING, expected=f"chain {known.chain} after entry {number}, as it was shown before", found=chain
                )
        if entry.chain != chain:
            raise AuditRejected(DOING, expected=f"chain {chain} after entry {number}", found=entry.chain)
        self.head = AuditHead(number, chain)

    def must_be_whole(self) -> None:
        """Check, at its end, that nothing of what was known is missing. Raises AuditRejected."""
        last = max(known.number for known in self._known)
        if self.head.number < last:
            raise AuditRejected(DOING, expected=f"{last} entries, as there were before", found=str(self.head.number))


def _check_entry(entry: AuditEntry) -> None:
    """Check that the digest is that of the entry as shown, and the number its own. Raises AuditRejected.

    The form: JSON, keys sorted, no spaces, ASCII, as `service/journal.py` writes it.
    """
    form = json.dumps(entry.entry, sort_keys=True, separators=(",", ":")).encode("ascii")
    digest = hashlib.sha256(form).hexdigest()
    if entry.entry is None or entry.entry.get("number") != entry.number or digest != entry.digest:
        raise AuditRejected(DOING, expected=f"digest {digest} of entry {entry.number}", found=entry.digest)
