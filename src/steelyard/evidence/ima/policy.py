"""What may run, compiled once into what every check looks up.

Owns the tables; what they mean for an entry is for `judge`. The set of allowed files holds the very bytes that the
kernel hashes for each (see `records.file_claim`), so that an entry costs one look into a set, whatever its size.
"""

from binascii import unhexlify
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from steelyard.evidence.ima.path_globs import PathGlob, path_glob
from steelyard.evidence.ima.records import size_bytes
from steelyard.evidence.ima.signatures import FileSigningKey, KeyId
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import MalformedPolicy, MalformedReference

FileDigests = Mapping[HashAlgorithm, Mapping[str, str]]
"""Algorithm -> path -> digest in lower-case hexadecimal. Paths as on disk, decoded as UTF-8 with surrogate escapes."""

_DOING: Final = "compiling a run-time policy"


@dataclass(frozen=True, slots=True)
class AllowedBuffer:
    """A buffer that may be measured: its name in the list (".ima", "kexec-cmdline") and the digest of its bytes."""

    name: str
    algorithm: HashAlgorithm
    digest: bytes


@dataclass(frozen=True, slots=True)
class RuntimePolicy:
    """What may run. Only `compile_runtime_policy` makes it.

    allowed       digest and path of each file, as `ima-ng` hashes them.
    digests       path as the kernel records it -> hexadecimal digests, to tell what was expected.
    revoked       hexadecimal digest of a file that only versions no longer accepted have -> such a version.
    signing_keys  by key id; several may share one.
    excluded      paths of files that may be anything.
    tolerated_violations  paths. A violation's path is the sender's claim and nothing proves it: to tolerate one is to
                  tolerate any, from a sender that edits its list.
    buffers       what may be measured under each name.
    """

    allowed: frozenset[bytes]
    digests: Mapping[bytes, str]
    revoked: Mapping[str, str]
    signing_keys: Mapping[KeyId, tuple[FileSigningKey, ...]]
    excluded: tuple[PathGlob, ...]
    tolerated_violations: tuple[PathGlob, ...]
    buffers: Mapping[bytes, tuple[AllowedBuffer, ...]]


def compile_runtime_policy(
    *,
    files: Collection[FileDigests],
    revoked: Collection[tuple[str, FileDigests]],
    signing_keys: Iterable[FileSigningKey],
    excluded: Iterable[str],
    tolerated_violations: Iterable[str],
    buffers: Iterable[AllowedBuffer],
) -> RuntimePolicy:
    """Return the policy, ready for use.

    files    one for each accepted component; the same path may have other digests in another.
    revoked  a version, for people, and its files; those that an accepted component has too stay allowed.

    Raises MalformedReference for a path or digest that is none, or an algorithm that is not believed; MalformedPolicy
    for a bad glob or buffer, or a policy under which nothing may run. Takes some 0.7 microseconds for each file.
    """
    allowed: list[bytes] = []
    digests: dict[bytes, str] = {}
    for component in files:
        for algorithm, column in component.items():
            names = _recorded_names(column)
            allowed += _claims(algorithm, names, column.values())
            _add(digests, dict(zip(names, column.values(), strict=True)))
    keys: dict[KeyId, tuple[FileSigningKey, ...]] = {}
    for key in signing_keys:
        keys[key.key_id] = (*keys.get(key.key_id, ()), key)
    if not allowed and not keys:
        raise MalformedPolicy(_DOING, expected="files or keys to allow them by", found="neither: nothing may run")
    return RuntimePolicy(
        allowed=frozenset(allowed),
        digests=digests,
        revoked=_only_revoked(revoked, files),
        signing_keys=keys,
        excluded=tuple(map(path_glob, excluded)),
        tolerated_violations=tuple(map(path_glob, tolerated_violations)),
        buffers=_by_name(buffers),
    )


def _recorded_names(column: Mapping[str, str]) -> list[bytes]:
    """Return the paths as the kernel records them. All in one go: there may be half a million."""
    text = "\0".join(column)
    try:
        names = text.encode("utf-8", "surrogateescape").replace(b" ", b"_").split(b"\0")
    except UnicodeEncodeError as error:
        raise MalformedReference(_DOING, expected="paths as UTF-8 with surrogate escapes", found=str(error)) from error
    if not column:
        return []
    if len(names) != len(column) or text.count("\0/") != len(column) - 1 or not text.startswith("/"):
        wrong = next(path for path in column if "\0" in path or not path.startswith("/"))
        raise MalformedReference(_DOING, expected="whole paths without NUL", found=wrong)
    return names


def _claims(algorithm: HashAlgorithm, names: list[bytes], digests: Collection[str]) -> list[bytes]:
    """Return what `records.file_claim` gives for files of these names and digests."""
    if not algorithm.believed:
        raise MalformedReference(_DOING, expected="digests of SHA-256 or better", found=algorithm.label)
    head = size_bytes(len(algorithm.label) + 2 + algorithm.size) + algorithm.label.encode() + b":\0"
    text = "".join(digests)
    if set(map(len, digests)) - {2 * algorithm.size} or text != text.lower():
        raise MalformedReference(_DOING, expected=f"{2 * algorithm.size} lower-case digits each", found=text)
    try:
        return [
            head + unhexlify(digest) + size_bytes(len(name) + 1) + name + b"\0"
            for name, digest in zip(names, digests, strict=True)
        ]
    except ValueError as error:
        raise MalformedReference(_DOING, expected="digests in hexadecimal", found=str(error)) from error


def _add(known: dict[bytes, str], more: dict[bytes, str]) -> None:
    """Put `more` digests to those `known`, with a space between where a path has several."""
    for name in known.keys() & more.keys():
        more[name] = known[name] if more[name] in known[name] else f"{known[name]} {more[name]}"
    known |= more


def _only_revoked(revoked: Collection[tuple[str, FileDigests]], files: Collection[FileDigests]) -> Mapping[str, str]:
    gone = {
        digest: version for version, component in revoked for column in component.values() for digest in column.values()
    }
    if gone:
        for component in files:
            for column in component.values():
                for digest in gone.keys() & set(column.values()):
                    del gone[digest]
    return gone


def _by_name(buffers: Iterable[AllowedBuffer]) -> Mapping[bytes, tuple[AllowedBuffer, ...]]:
    by_name: dict[bytes, tuple[AllowedBuffer, ...]] = {}
    for buffer in buffers:
        if not buffer.algorithm.believed or len(buffer.digest) != buffer.algorithm.size:
            raise MalformedPolicy(
                _DOING,
                expected=f"a digest of SHA-256 or better for the buffer {buffer.name}",
                found=f"{buffer.algorithm.label}, {len(buffer.digest)} bytes",
            )
        name = buffer.name.encode("utf-8", "surrogateescape").replace(b" ", b"_")
        by_name[name] = (*by_name.get(name, ()), buffer)
    return by_name
