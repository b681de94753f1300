"""What an appraisal found wrong: one finding per cause, each able to stand alone in a report."""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why evidence is not good enough. The value is the stable code that programs read."""

    BAD_QUOTE = "bad-quote"
    """The quote proves nothing, so that nothing else was looked at."""
    BAD_LOG = "bad-log"
    """A log that is not the one the TPM saw, so that its entries were not looked at."""
    UNKNOWN_EVENT = "unknown-event"
    """An event that no accepted component and no rule covers."""
    MISSING_MEASUREMENT = "missing-measurement"
    """An accepted component that must be there was not measured, or only in part."""
    TOO_OFTEN = "too-often"
    """A component or a varying event measured more often than the policy allows."""
    NO_REFERENCE = "no-reference"
    """The policy wants something for which it was given no reference that it accepts."""
    OUT_OF_ORDER = "out-of-order"
    """Measurements of one component in another order than it makes them."""
    REVOKED_COMPONENT = "revoked-component"
    """A known component in a version that the policy no longer accepts."""
    BAD_SEPARATOR = "bad-separator"
    """A separator missing, doubled, or saying that firmware met an error."""
    AFTER_SEPARATOR = "after-separator"
    """An event after the separator of a PCR in which nothing may follow."""
    UNEXPLAINED_PCR = "unexplained-pcr"
    """A quoted PCR that is not at its start value and has no events to explain it."""
    MISSING_EVIDENCE = "missing-evidence"
    """A log or value that the policy needs and that did not come."""
    REBOOTED = "rebooted"
    """The TPM was reset since the last accepted evidence, and nobody expected it."""
    WRONG_PARAMETERS = "wrong-parameters"
    """The machine was given other parameters than it should have been: it may talk to somebody else's services."""
    IMA_VIOLATION = "ima-violation"
    """The kernel could not measure a file reliably: it was open for writing while it was read."""
    IMA_BOOT_AGGREGATE = "ima-boot-aggregate"
    """The list does not begin with this boot's boot_aggregate."""
    UNKNOWN_FILE = "unknown-file"
    """A file whose path no reference names."""
    WRONG_FILE = "wrong-file"
    """A known path with a digest that no accepted version has."""
    BAD_FILE_SIGNATURE = "bad-file-signature"
    """A file signature by an unknown, revoked or expired key, or that does not verify."""
    UNKNOWN_KEY_MEASURED = "unknown-key-measured"
    """A key was put on a keyring, or a buffer measured, that no reference covers."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    where     the place in the evidence, as "PCR 4, event 17" or "IMA entry 12".
    subject   the component or file it is about, or what it looks most like; printable: an attacker may have chosen it.
    expected  what would have been right.
    found     what is there.
    """

    reason: Reason
    where: str
    subject: str
    expected: str
    found: str
