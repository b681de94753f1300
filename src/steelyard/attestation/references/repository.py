"""A TUF repository's metadata: made and checked. Pure: keys, times and what is to be published come in, bytes go out.

One targets role without delegations, consistent snapshots, one Ed25519 key for each role. The root key may be held by
somebody else, who signs root metadata that is only checked here.
Source: The Update Framework Specification 1.0.33, sections 4 (formats) and 5 (what a client checks).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.exceptions import Error as KeyLibraryError
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Role, Root, Snapshot, TargetFile, Targets, Timestamp

from steelyard.evidence.reader import refuse_over
from steelyard.model.errors import MalformedReference, ReferenceRejected
from steelyard.model.limits import ROOT_METADATA_BYTES

ONLINE_ROLES: Final = (Targets.type, Snapshot.type, Timestamp.type)
LASTS: Final[Mapping[str, timedelta]] = {
    Root.type: timedelta(days=365),
    Targets.type: timedelta(days=90),
    Snapshot.type: timedelta(days=7),
    Timestamp.type: timedelta(days=1),
}
"""How long metadata holds. A mirror that is shown nothing newer notices within a day."""
FRESH: Final = 0.5
"""Metadata is made anew when less than this part of its life is left."""

_DOING: Final = "reading root metadata"


@dataclass(frozen=True, slots=True)
class Target:
    """A file that is published."""

    size_bytes: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class RootFacts:
    """What root metadata says, once it was checked."""

    version: int
    expires: datetime


def key_of(public: Ed25519PublicKey) -> SSlibKey:
    """Return a key as TUF has it."""
    return SSlibKey.from_crypto(public)


def make_root(version: int, keys: Mapping[str, Ed25519PublicKey], expires: datetime, by: Ed25519PrivateKey) -> bytes:
    """Return root metadata in which each role has its one key; `by` is the root's."""
    named = {role: key_of(key) for role, key in keys.items()}
    root = Root(
        version=version,
        expires=expires.replace(microsecond=0),
        keys={key.keyid: key for key in named.values()},
        roles={role: Role([key.keyid], 1) for role, key in named.items()},
        consistent_snapshot=True,
    )
    return _signed(Metadata(root), by)


def make_targets(version: int, targets: Mapping[str, Target], expires: datetime, by: Ed25519PrivateKey) -> bytes:
    """Return targets metadata."""
    files = {
        path: TargetFile(target.size_bytes, {"sha256": target.sha256.hex()}, path) for path, target in targets.items()
    }
    return _signed(Metadata(Targets(version=version, expires=expires.replace(microsecond=0), targets=files)), by)


def make_snapshot(
    version: int, targets_version: int, targets: bytes, expires: datetime, by: Ed25519PrivateKey
) -> bytes:
    """Return snapshot metadata, which says which targets metadata it is."""
    meta = {"targets.json": _meta_file(targets_version, targets)}
    return _signed(Metadata(Snapshot(version=version, expires=expires.replace(microsecond=0), meta=meta)), by)


def make_timestamp(
    version: int, snapshot_version: int, snapshot: bytes, expires: datetime, by: Ed25519PrivateKey
) -> bytes:
    """Return timestamp metadata, which says which snapshot it is, and for how long."""
    made = Timestamp(
        version=version, expires=expires.replace(microsecond=0), snapshot_meta=_meta_file(snapshot_version, snapshot)
    )
    return _signed(Metadata(made), by)


def check_root(data: bytes, before: bytes | None, online: Mapping[str, Ed25519PublicKey], now: datetime) -> RootFacts:
    """Return what root metadata that somebody else signed says, once it may be published.

    before  the root metadata that it follows; None: it is the first.
    online  the keys of the roles that are signed here: it must name each for its role.

    As many of the keys that it names as it demands must have signed it, and as many of those of the one before.
    Raises MalformedReference, ReferenceRejected, TooLarge.
    """
    doing = "checking root metadata"
    refuse_over(ROOT_METADATA_BYTES, len(data), _DOING)
    made = _parse_root(data)
    root = made.signed
    follows = 1
    vouching = [root]
    if before is not None:
        last = _parse_root(before).signed
        follows = last.version + 1
        vouching.append(last)
    if root.version != follows:
        raise ReferenceRejected(doing, expected=f"version {follows}", found=f"version {root.version}")
    try:
        for one in vouching:
            one.verify_delegate(Root.type, made.signed_bytes, made.signatures)
    except RepositoryError as error:
        raise ReferenceRejected(
            doing, expected="signatures of its own and of the last root's keys", found=str(error)
        ) from error
    if root.expires <= now:
        raise ReferenceRejected(doing, expected="one that has not expired", found=root.expires.isoformat())
    if not root.consistent_snapshot:
        raise ReferenceRejected(doing, expected="consistent snapshots", found="none")
    for role, public in online.items():
        named = root.roles[role]
        if key_of(public).keyid not in named.keyids or named.threshold != 1:
            raise ReferenceRejected(
                doing,
                expected=f"key {key_of(public).keyid} for the role {role}, threshold 1",
                found=f"{', '.join(named.keyids) or 'none'}, threshold {named.threshold}",
            )
    return RootFacts(root.version, root.expires)


def sign_root(data: bytes, by: Ed25519PrivateKey) -> bytes:
    """Return root metadata with this key's signature too. Raises MalformedReference, TooLarge."""
    refuse_over(ROOT_METADATA_BYTES, len(data), _DOING)
    made = _parse_root(data)
    made.sign(CryptoSigner(by), append=True)
    return made.to_bytes()


def expires_at(data: bytes) -> datetime:
    """Return when metadata of ours ends."""
    expires: datetime = Metadata.from_bytes(data).signed.expires
    return expires


def stale(data: bytes, role: str, now: datetime) -> bool:
    """Whether metadata of ours is to be made anew."""
    return expires_at(data) - now < LASTS[role] * FRESH


def _parse_root(data: bytes) -> Metadata[Root]:
    try:
        made: Metadata[Root] = Metadata[Root].from_bytes(data)
    except (RepositoryError, KeyLibraryError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MalformedReference(_DOING, expected="TUF root metadata", found=str(error)) from error
    if not isinstance(made.signed, Root):
        raise MalformedReference(_DOING, expected="TUF root metadata", found="another role's")
    return made


def _meta_file(version: int, data: bytes) -> MetaFile:
    return MetaFile(version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})


def _signed(
    made: "Metadata[Root] | Metadata[Targets] | Metadata[Snapshot] | Metadata[Timestamp]", by: Ed25519PrivateKey
) -> bytes:
    made.sign(CryptoSigner(by))
    return made.to_bytes()
