"""The enclave file: what a tenant writes, read strictly. docs/formats.md describes it, docs/enclave.schema.json is made
from the table here.

YAML, or JSON, which is YAML: mappings, texts, whole numbers, true and false, null; nothing of YAML that makes
one thing of another (anchors, aliases, tags, merges), no list, no field twice, none that is not in the table. Errors
name the line.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Network
from typing import Any, Final, NoReturn

import yaml

from steelyard.enclave.objects import AfterUse, Limits, OnRejection, Seal, Spec, Trust, Weighing, WireGuard
from steelyard.model.errors import MalformedEnclave, WrongUse
from steelyard.model.limits import (
    COMMAND_LINE_BYTES,
    ENCLAVE_FILE_BYTES,
    ENCLAVE_NODES,
    IMAGE_BYTES,
    REPORT_SECONDS,
    SEED_BYTES,
    STAGE_SECONDS,
)
from steelyard.model.names import check_name

DOING: Final = "reading an enclave file"
_DEEPEST: Final = 9
_MOST_EVENTS: Final = 10_000
_SCHEMA_ADDRESS: Final = "https://json-schema.org/draft/2020-12/schema"


# -- the table ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Text:
    """A text. name: it is a name; digest: SHA-256, hexadecimal; words: it is one of these."""

    about: str
    most: int = 127
    name: bool = False
    digest: bool = False
    words: tuple[str, ...] = ()

    @property
    def pattern(self) -> str | None:
        """What it looks like; None: any text."""
        return _NAME if self.name else _DIGEST if self.digest else None


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number."""

    about: str
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Labels:
    """Texts by name."""

    about: str


@dataclass(frozen=True, slots=True)
class Part:
    """Fields. `needed`: those that must be there; what is left out of the others is as `SPARE` says."""

    about: str
    fields: Mapping[str, "Kind"]
    needed: tuple[str, ...]


Kind = Text | Number | Labels | Part

_NAME: Final = "^[a-z0-9][a-z0-9._-]{0,62}$"
_DIGEST: Final = "^[0-9a-f]{64}$"
_SECONDS: Final = Number("seconds", 1, STAGE_SECONDS.most)

FORM: Final = Part(
    "An enclave: machines that run one image behind one wall.",
    {
        "name": Text("the enclave's", name=True),
        "trust": Text(
            "open: nothing is weighed; attested: weighed before it joins; sealed: and keys are given to no other",
            words=tuple(each.value for each in Trust),
        ),
        "nodes": Part(
            "The machines.",
            {
                "count": Number("how many", 0, ENCLAVE_NODES.most),
                "labels": Labels("that each must have, as the provider gave them"),
            },
            ("count",),
        ),
        "image": Text("what they run: NAME of the project's own, or PROJECT/NAME"),
        "networks": Part(
            "Where they are.",
            {
                "boot": Text(
                    "where they boot and reach their disks; to be weighed, the airlock: its members are isolated",
                    name=True,
                ),
                "enclave": Text(
                    "where they meet, by another card of each; may be the boot network if nothing is weighed", name=True
                ),
                "addresses": Text("an IPv4 network; each machine has one address of it there", most=18),
            },
            ("boot", "enclave"),
        ),
        "disk": Part(
            "The disk of each, over the network.",
            {
                "after": Text("what becomes of it when the machine is given back", words=("destroy", "keep")),
                "size_bytes": Number(
                    "at least the image's; left out: as large as it, and with `trust: sealed` 2 GiB more",
                    512,
                    IMAGE_BYTES.most,
                ),
            },
            ("after",),
        ),
        "attestation": Part(
            "By whom and by what they are weighed.",
            {
                "service": Text("one that the enclave service knows by this name", name=True),
                "airlock_policy": Text("what must have booted", name=True),
                "runtime_policy": Text("what may run; left out: nobody asks again", name=True),
                "makers": Text("whose TPMs are believed; left out: the provider publishes keys alone", name=True),
                "interval_seconds": Number("how often a machine reports", 1, REPORT_SECONDS.most),
                "grace_seconds": Number("how much later a report may be", 1, REPORT_SECONDS.most),
            },
            ("service", "airlock_policy"),
        ),
        "wireguard": Part(
            "The encrypted network among them.",
            {
                "port": Number("of UDP", 1, 65535),
                "addresses": Text("an IPv4 network; each machine has one address of it", most=18),
            },
            ("port", "addresses"),
        ),
        "seal": Part(
            "With `trust: sealed`: what the image must be, whoever keeps it. `steelyard image build` writes it.",
            {
                "kernel": Text("SHA-256 of the kernel", digest=True),
                "initramfs": Text("SHA-256 of the initramfs", digest=True),
                "command_line": Text("the kernel's", most=COMMAND_LINE_BYTES.most),
                "root_hash": Text("of its file system (dm-verity)", digest=True),
                "data_bytes": Number("of the file system", 4096, IMAGE_BYTES.most),
                "image_bytes": Number("of the file system and its hashes", 4096, IMAGE_BYTES.most),
            },
            ("kernel", "initramfs", "command_line", "root_hash", "data_bytes", "image_bytes"),
        ),
        "user_data": Text("for cloud-init; it is in the clear unless `trust: sealed`", most=SEED_BYTES.most),
        "command_line": Text("the kernel's; left out: the image's", most=COMMAND_LINE_BYTES.most),
        "limits": Part(
            "For how many seconds a machine may be in each state before it is given back.",
            dict.fromkeys(("wanted", "allocated", "airlock", "weighed", "admitted"), _SECONDS),
            (),
        ),
        "rejected": Part(
            "What is done about a machine that does not pass.",
            {
                "then": Text("hold it to be looked at, or give it back and try another", words=("hold", "retry")),
                "attempts": Number("how many are tried for each that is wanted", 1, 100),
            },
            ("then",),
        ),
    },
    ("name", "trust", "nodes", "image", "networks", "disk"),
)

SPARE: Final[Mapping[str, int]] = {"wanted": 3600, "allocated": 900, "airlock": 900, "weighed": 120, "admitted": 900}
"""Seconds, where the file has none."""
SPARE_ATTEMPTS: Final = 3
LEAST_LAYER_BYTES: Final = 32 << 20
"""What a sealed machine writes goes beside its image."""
SPARE_INTERVAL: Final = 60


def schema() -> dict[str, Any]:
    """Return the JSON schema of an enclave file."""
    return {"$schema": _SCHEMA_ADDRESS, "title": "Steelyard enclave file", **_schema(FORM)}


def _schema(kind: Kind) -> dict[str, Any]:
    about = {"description": kind.about}
    match kind:
        case Text():
            if kind.words:
                return {**about, "enum": list(kind.words)}
            shape = {"maxLength": kind.most} if kind.pattern is None else {"pattern": kind.pattern}
            return {**about, "type": "string", **shape}
        case Number(_, least, most):
            return {**about, "type": "integer", "minimum": least, "maximum": most}
        case Labels():
            return {**about, "type": "object", "additionalProperties": {"type": "string"}}
        case Part(_, fields, needed):
            inside = {name: _schema(inner) for name, inner in fields.items()}
            base = {**about, "type": "object", "additionalProperties": False}
            return {**base, "properties": inside, "required": list(needed)}


# -- YAML --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """A value, and the line that it is on."""

    value: Any
    line: int


def _wrong(line: int, expected: str, found: str) -> MalformedEnclave:
    return MalformedEnclave(f"{DOING}, line {line}", expected=expected, found=found)


def _parse(text: str) -> _Found:
    """Return a document's values with their lines. Raises MalformedEnclave, TooLarge."""
    if len(text.encode(errors="surrogatepass")) > ENCLAVE_FILE_BYTES.most:
        raise MalformedEnclave(DOING, expected=f"at most {ENCLAVE_FILE_BYTES.most} bytes", found="more")
    try:
        events = []
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            events.append(event)
            if len(events) > _MOST_EVENTS:
                raise MalformedEnclave(DOING, expected=f"at most {_MOST_EVENTS} values", found="more")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:  # now, as each level makes every further letter cost more
                raise _wrong(event.start_mark.line + 1, "values nested a few levels deep", "deeper ones")
    except yaml.YAMLError as cause:
        mark = getattr(cause, "problem_mark", None)
        line = 1 if mark is None else mark.line + 1
        raise _wrong(line, "YAML", getattr(cause, "problem", None) or "something else") from cause
    reader = _Events([each for each in events if not isinstance(each, _OUTER)])
    if sum(isinstance(each, yaml.DocumentStartEvent) for each in events) != 1:
        raise MalformedEnclave(DOING, expected="one document", found="none, or several")
    return reader.value()


_OUTER: Final = (yaml.StreamStartEvent, yaml.StreamEndEvent, yaml.DocumentStartEvent, yaml.DocumentEndEvent)


class _Events:
    def __init__(self, events: list[Any]) -> None:
        self._events = iter(events)

    def value(self) -> _Found:
        event = next(self._events)
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _wrong(line, "no anchors and aliases", "one")
        if event.tag is not None and event.tag != "!":  # of a quoted text, PyYAML says "!" in some versions
            raise _wrong(line, "no tags", "one")
        if isinstance(event, yaml.ScalarEvent):
            return _Found(_scalar(event), line)
        if isinstance(event, yaml.SequenceStartEvent):
            raise _wrong(line, "a mapping or a single value", "a list")
        return self._mapping(line)

    def _mapping(self, line: int) -> _Found:
        found: dict[str, _Found] = {}
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                return _Found(found, line)
            at = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent) or event.anchor is not None or event.tag is not None:
                raise _wrong(at, "a field's name", "something else")
            if event.value in found:
                raise _wrong(at, "each field once", f"{event.value} twice")
            found[event.value] = self.value()
        raise _wrong(line, "the end of a mapping", "none")


def _scalar(event: Any) -> str | int | bool | None:
    """Return what a value means. Source: YAML 1.2.2, section 10.3.2, without floating-point numbers."""
    text: str = event.value
    if event.style is not None:
        return text
    if text in ("", "~", "null"):
        return None
    if text in ("true", "false"):
        return text == "true"
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdecimal() and len(digits) < 20:
        return int(text)
    return text


# -- values to a Spec --------------------------------------------------------------------------------------------------


def parse_file(text: str) -> tuple[Spec, dict[str, Any]]:
    """Return what an enclave file wants, and the same as a plain document, to be stored. Raises MalformedEnclave."""
    document = _plain(FORM, _parse(text), "")
    return spec_of(document), document


def _plain(kind: Kind, found: _Found, where: str) -> Any:
    """Return a value that is of its kind, without lines. Raises MalformedEnclave."""
    value, line = found.value, found.line

    def refuse(expected: str) -> NoReturn:
        shown = "a mapping" if isinstance(value, dict) else str(value) if value is not None else "nothing"
        raise _wrong(line, f"{where or 'the file'} to be {expected}", shown)

    match kind:
        case Text():
            if not isinstance(value, str) or len(value.encode(errors="surrogatepass")) > kind.most:
                refuse(" or ".join(kind.words) if kind.words else f"a text of at most {kind.most} bytes")
            if kind.words and value not in kind.words:
                refuse(" or ".join(kind.words))
            if not value.isprintable() and kind.most < SEED_BYTES.most:
                refuse("printable")
            if kind.digest and re.fullmatch(_DIGEST, value, re.ASCII) is None:
                refuse("a SHA-256 in hexadecimal")
            if kind.name:
                _named(value, line, where)
            return value
        case Number(_, least, most):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                refuse(f"a whole number from {least} to {most}")
            return value
        case Labels():
            return _labels(found, where, refuse)
        case Part():
            if not isinstance(value, dict):
                refuse("a mapping")
            return _part(kind, found, where)


def _labels(found: _Found, where: str, refuse: Callable[[str], NoReturn]) -> dict[str, str]:
    if not isinstance(found.value, dict):
        refuse("a mapping")
    text = Text("", most=127)
    return {name: _plain(text, inner, f"{where}.{name}") for name, inner in found.value.items()}


def _part(part: Part, found: _Found, where: str) -> dict[str, Any]:
    values: dict[str, _Found] = found.value
    for name, inner in values.items():
        if name not in part.fields:
            raise _wrong(inner.line, f"a field of {where or 'an enclave file'}: {', '.join(part.fields)}", name)
    for name in part.needed:
        if name not in values:
            raise _wrong(found.line, f"a field {name}" + (f" of {where}" if where else ""), "none")
    return {
        name: _plain(part.fields[name], inner, f"{where}.{name}".strip("."))
        for name, inner in values.items()
        if inner.value is not None or name in part.needed
    }


def _named(value: str, line: int, where: str) -> None:
    try:
        check_name(value, where)
    except WrongUse as cause:
        raise _wrong(line, f"{where} to be a name: {cause.expected}", cause.found) from cause


def spec_of(document: Mapping[str, Any]) -> Spec:
    """Return what a document wants whose values are of their kinds. Raises MalformedEnclave where they do not agree."""
    trust = Trust(document["trust"])
    networks, disk, rejected = document["networks"], document["disk"], document.get("rejected", {"then": "hold"})
    boot_network, network = networks["boot"], networks["enclave"]
    limits = {name: timedelta(seconds=seconds) for name, seconds in {**SPARE, **document.get("limits", {})}.items()}
    spec = Spec(
        name=document["name"],
        trust=trust,
        count=document["nodes"]["count"],
        labels=document["nodes"].get("labels", {}),
        image=document["image"],
        boot_network=boot_network,
        network=network,
        addresses=_addresses(networks["addresses"], "networks.addresses") if "addresses" in networks else None,
        disk_bytes=disk.get("size_bytes"),
        after_use=AfterUse(disk["after"]),
        weighing=_weighing(document.get("attestation")),
        wireguard=_wireguard(document.get("wireguard")),
        seal=Seal(**document["seal"]) if "seal" in document else None,
        user_data=document.get("user_data"),
        command_line=document.get("command_line"),
        limits=Limits(**limits),
        on_rejection=OnRejection(rejected["then"]),
        attempts=rejected.get("attempts", SPARE_ATTEMPTS),
    )
    _check_together(spec)
    return spec


def _weighing(document: Mapping[str, Any] | None) -> Weighing | None:
    if document is None:
        return None
    return Weighing(
        service=document["service"],
        airlock_policy=document["airlock_policy"],
        runtime_policy=document.get("runtime_policy"),
        makers=document.get("makers"),
        interval_seconds=document.get("interval_seconds", SPARE_INTERVAL),
        grace_seconds=document.get("grace_seconds", SPARE_INTERVAL),
    )


def _wireguard(document: Mapping[str, Any] | None) -> WireGuard | None:
    if document is None:
        return None
    return WireGuard(document["port"], _addresses(document["addresses"], "wireguard.addresses"))


def _addresses(text: str, where: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except ValueError as cause:
        raise MalformedEnclave(DOING, expected=f"{where} to be an IPv4 network", found=text) from cause


def _check_together(spec: Spec) -> None:
    """Let pass what agrees. A file that says less than its trust demands is refused, never completed."""

    def demand(holds: bool, expected: str, found: str) -> None:  # noqa: FBT001 (of one file, read at once)
        if not holds:
            raise MalformedEnclave(DOING, expected=expected, found=found)

    word = spec.trust.value
    weighing = spec.weighing
    demand(
        (weighing is not None) == spec.trust.weighs, "`attestation` where machines are weighed, and only there", word
    )
    demand(spec.walled or not spec.trust.weighs, "an enclave network that is not the airlock", spec.network)
    sealed = spec.trust is Trust.SEALED
    demand((spec.wireguard is not None) == sealed, "`wireguard` with `trust: sealed`, and only there", word)
    demand((spec.seal is not None) == sealed, "`seal` with `trust: sealed`, and only there", word)
    demand(spec.seal is None or spec.command_line is None, "`command_line` in `seal` alone", "another beside it")
    if spec.seal is not None and spec.disk_bytes is not None:
        least = spec.seal.image_bytes + LEAST_LAYER_BYTES
        demand(spec.disk_bytes >= least, f"disk.size_bytes of {least} or more, beside the image", f"{spec.disk_bytes}")
    if sealed and weighing is not None:
        demand(weighing.runtime_policy is not None, "attestation.runtime_policy with `trust: sealed`", "none")
    demand(not sealed or spec.addresses is not None, "networks.addresses with `trust: sealed`", "none")
    for networks in (spec.addresses, None if spec.wireguard is None else spec.wireguard.addresses):
        if networks is not None:
            # A machine that is on its way out still has its address while another takes its place.
            room = networks.num_addresses - 2
            demand(room >= 2 * spec.count, f"an address for each of {2 * spec.count} machines", f"{networks}")
