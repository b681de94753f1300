"""Mirrors a project's published references into a directory, by The Update Framework.

Who mirrors trusts the root metadata that it was given once, and neither the network nor the service: an older state,
one that is shown for too long, parts of two states, and a file that is another one are refused, and what was there
before stays. What is in the directory is still only what somebody published: the references' own signatures are checked
by whoever uses them.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.api.metadata import Metadata, Targets, Timestamp
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from steelyard.client.call import Call, nothing, path
from steelyard.client.connection import Client
from steelyard.model.errors import NotFound, ReferenceRejected, SteelyardError, Unavailable, WrongUse
from steelyard.model.limits import ROOT_METADATA_BYTES, TARGETS_METADATA_BYTES

Fetch = Callable[[str], Iterator[bytes]]
"""Gives a file of the repository, by "metadata/NAME" or "targets/NAME", in pieces. Raises NotFound, Unavailable."""

REVOCATIONS: Final = "revocations.json"

_DOING: Final = "mirroring references"
_BASE: Final = "repository:/"
_PATH: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,150}\.json", re.ASCII)


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What is in the directory now.

    references  file names in `references/`.
    fresh       of those, the ones that were not there before; gone: those that were, and are no longer.
    version     of the timestamp metadata; `expires`: until when this counts as current.
    """

    references: tuple[str, ...]
    fresh: tuple[str, ...]
    gone: tuple[str, ...]
    version: int
    expires: datetime


def mirror_references(fetch: Fetch, directory: Path, root: bytes | None) -> Mirrored:
    """Bring a directory to what is published now: `references/`, a file for each, and `revocations.json`.

    root  metadata to begin with, from somebody who is trusted; None: that which was trusted here before.

    Raises ReferenceRejected, and leaves what is there, when what is published cannot be believed; Unavailable,
    WrongUse.
    """
    metadata, references = directory / "metadata", directory / "references"
    incoming = directory / "incoming"
    if root is None and not (metadata / "root.json").exists():
        raise WrongUse(_DOING, expected="root metadata to begin with", found="a directory that has none yet")
    config = UpdaterConfig(root_max_length=ROOT_METADATA_BYTES.most, targets_max_length=TARGETS_METADATA_BYTES.most)
    try:
        for made in (metadata, references, incoming):
            made.mkdir(parents=True, exist_ok=True)
        updater = Updater(
            str(metadata),
            _BASE + "metadata/",
            str(incoming),
            _BASE + "targets/",
            _Fetcher(fetch),
            config,
            bootstrap=root,
        )
        updater.refresh()
        published = Metadata[Targets].from_bytes((metadata / "targets.json").read_bytes()).signed.targets
        before = {file.name for file in references.iterdir()}
        fresh = []
        for name in published:
            if not _PATH.fullmatch(name):
                raise ReferenceRejected(_DOING, expected="names of files", found=name)
            info = updater.get_targetinfo(name)
            place = directory / name if name == REVOCATIONS else references / name
            if info is None or updater.find_cached_target(info, str(place)) is not None:
                continue
            # Beside its place until it was verified, so that a file is never there in part, or another.
            Path(updater.download_target(info, str(incoming / name))).replace(place)
            if name != REVOCATIONS:
                fresh.append(name)
        names = set(published) - {REVOCATIONS}
        for name in before - names:
            (references / name).unlink()
        stamp = Metadata[Timestamp].from_bytes((metadata / "timestamp.json").read_bytes()).signed
    except RepositoryError as error:
        found = f"{type(error).__name__}: {error}"
        raise ReferenceRejected(
            _DOING, expected="what the root's keys vouch for, and not older", found=found
        ) from error
    except DownloadError as error:
        cause = error.__cause__
        if isinstance(cause, SteelyardError):
            raise cause from error
        raise Unavailable(_DOING, expected="a repository that answers", found=str(error)) from error
    except OSError as error:
        found = error.strerror or str(error)
        raise WrongUse(_DOING, expected=f"{directory} to be written to", found=found) from error
    return Mirrored(
        tuple(sorted(names)), tuple(sorted(fresh)), tuple(sorted(before - names)), stamp.version, stamp.expires
    )


def fetching(client: Client, project: str, *, public: bool) -> Fetch:
    """Return what fetches the files of a project's repository from a service; `public`: without a token."""

    def fetch(file: str) -> Iterator[bytes]:
        where = path("attestation", "public-tuf" if public else "tuf", project, *file.split("/"))
        with client.pieces(Call(f"fetching {file}", "GET", where, nothing)) as pieces:
            yield from pieces

    return fetch


class _Fetcher(FetcherInterface):
    """Lets the library fetch by `Fetch`."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch_file = fetch

    def _fetch(self, url: str) -> Iterator[bytes]:
        pieces = self._fetch_file(url.removeprefix(_BASE))
        try:
            first = next(pieces, b"")
        except NotFound as error:
            raise DownloadHTTPError(str(error), error.http_status) from error
        return _chain(first, pieces)


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest
