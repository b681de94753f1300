"""Leases: which process has a device for now, so that several can share the work.

A lease ends by itself. Its holder counts from before it asked, everybody else from when it was granted, so that the
holder always stops first; it needs no agreement of clocks, only that they run at about the same speed. Whoever may have
slept through the end of a lease is stopped by its fence, where the device knows of fences.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import insert, select, update

from steelyard.service.database import Transaction, local_seconds
from steelyard.service.tables import leases

SAFETY: Final = 0.99
"""The part of a lease that its holder counts on; clocks of two computers differ in speed by far less than the rest."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to a thing, for a while.

    holder    one thread of one process; never used for another.
    fence     rises with each new holder; at least the seconds since 1970 when it was taken.
    deadline  by `database.local_seconds`.
    """

    name: str
    holder: str
    fence: int
    deadline: float

    def seconds_left(self) -> float:
        """Return for how long it can still be counted on; a call to a device must fit into this. Negative: not."""
        return self.deadline - local_seconds()


def acquire(transaction: Transaction, name: str, holder: str, duration: timedelta) -> Lease | None:
    """Return the lease of `name` ("switch/s1"); None while another has it, or the same holder: that is to renew."""
    found = transaction.connection.execute(select(leases).where(leases.c.name == name)).one_or_none()
    if found is not None and found.holder is not None and transaction.now < found.expires:
        return None
    # Never below what a device was told by an installation that was here before, or before a backup was restored.
    fence = max(0 if found is None else found.fence + 1, int(transaction.now.timestamp()))
    values = {"holder": holder, "fence": fence, "expires": transaction.now + duration}
    if found is None:
        transaction.connection.execute(insert(leases).values(name=name, **values))
    else:
        transaction.connection.execute(update(leases).where(leases.c.name == name).values(**values))
    return Lease(name, holder, fence, _deadline(transaction, duration))


def renew(transaction: Transaction, lease: Lease, duration: timedelta) -> Lease | None:
    """Return the lease, longer, also if it ran out and nobody took it since; None if it was lost."""
    result = transaction.connection.execute(
        update(leases)
        .where(leases.c.name == lease.name, leases.c.fence == lease.fence, leases.c.holder == lease.holder)
        .values(expires=transaction.now + duration)
    )
    if result.rowcount == 0:
        return None
    return Lease(lease.name, lease.holder, lease.fence, _deadline(transaction, duration))


def give_up(transaction: Transaction, lease: Lease) -> None:
    """Let others have it at once. The row stays, for its fence."""
    transaction.connection.execute(
        update(leases)
        .where(leases.c.name == lease.name, leases.c.fence == lease.fence, leases.c.holder == lease.holder)
        .values(holder=None)
    )


def end_all(transaction: Transaction) -> None:
    """Let every device be had at once: by the only process there is, when it begins."""
    transaction.connection.execute(update(leases).where(leases.c.holder.is_not(None)).values(holder=None))


def _deadline(transaction: Transaction, duration: timedelta) -> float:
    return transaction.began + duration.total_seconds() * SAFETY
