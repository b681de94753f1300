"""Reference manifests: what one version of one component measures to, in a document that its publisher signs.

A manifest is JSON inside a DSSE envelope. Reading one proves nothing; `verify_manifest` makes a `Reference` of it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from steelyard.evidence.document import Fields, format_time, parse_document
from steelyard.evidence.reader import refuse_over
from steelyard.evidence.reference.dsse import Envelope, Signers, verify
from steelyard.evidence.reference.measurement import Measurement, Presence
from steelyard.evidence.reference.version import Version
from steelyard.model.algorithms import HASH_BY_NAME, HashAlgorithm
from steelyard.model.errors import MalformedReference, WrongUse
from steelyard.model.limits import MANIFEST_BYTES, MANIFEST_FILES, MANIFEST_MEASUREMENTS
from steelyard.model.names import check_name
from steelyard.model.pcrs import PCR_COUNT

PAYLOAD_TYPE: Final = "application/vnd.steelyard.reference+json"
_SCHEMA: Final = "steelyard.reference/1"
_DOING: Final = "reading a reference manifest"
_MOST_SERIAL: Final = 2**53
"""What every JSON reader keeps exact."""


class Origin(StrEnum):
    """How the values came to be known: computed from an artefact, or (the last) seen in a boot that somebody ran."""

    FIRMWARE = "from-firmware"
    UKI = "from-uki"
    EFI_APPLICATION = "from-efi-application"
    SECURE_BOOT = "from-secure-boot"
    ROOT_TREE = "from-rootfs"
    PACKAGE = "from-package"
    REFERENCE_BOOT = "from-reference-boot"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one version of a component measures to.

    serial         counts up with every issue of this component's manifests; a lower one than was seen is a roll-back.
    machine_class  the class it holds for, None for all; values from a reference boot always name one.
    artefact       file name of what it was made from, for people.
    artefact_sha256  of that file's bytes, 32 bytes; of the boot's event log for a reference boot.
    files          digests of files per algorithm and path, for the run-time list. Paths are bytes decoded as UTF-8 with
                   surrogate escapes; digests are lower-case hexadecimal, as checking 500,000 of them is for the one who
                   compiles them.
    """

    component: str
    version: Version
    serial: int
    issued: datetime
    expires: datetime
    machine_class: str | None
    origin: Origin
    artefact: str
    artefact_sha256: bytes
    measurements: tuple[Measurement, ...]
    files: Mapping[HashAlgorithm, Mapping[str, str]]

    def __post_init__(self) -> None:
        doing = f"making a manifest of {self.component}"
        check_name(self.component, "component")
        if self.machine_class is not None:
            check_name(self.machine_class, "machine class")
        if self.origin is Origin.REFERENCE_BOOT and self.machine_class is None:
            raise WrongUse(doing, expected="a machine class for values from a reference boot", found="none")
        if not 1 <= self.serial <= _MOST_SERIAL:
            raise WrongUse(doing, expected=f"a serial from 1 to {_MOST_SERIAL}", found=f"{self.serial}")
        if not self.artefact:
            raise WrongUse(doing, expected="the artefact's name", found="none")
        if self.expires <= self.issued:
            raise WrongUse(doing, expected="an end after the issue", found=format_time(self.expires))
        if not self.measurements and not any(self.files.values()):
            raise WrongUse(doing, expected="at least one measurement or file", found="none")

    def to_bytes(self) -> bytes:
        """Return the manifest as JSON, the payload of its envelope."""
        document = {
            "schema": _SCHEMA,
            "component": self.component,
            "version": self.version.text,
            "serial": self.serial,
            "issued": format_time(self.issued),
            "expires": format_time(self.expires),
            "machine_class": self.machine_class,
            "origin": self.origin.value,
            "artefact": self.artefact,
            "artefact_sha256": self.artefact_sha256.hex(),
            "measurements": [
                {
                    "pcr": measurement.pcr,
                    "what": measurement.what,
                    "presence": measurement.presence.value,
                    "digests": {bank.label: digest.hex() for bank, digest in measurement.digests.items()},
                }
                for measurement in self.measurements
            ],
            "files": {bank.label: dict(paths) for bank, paths in self.files.items()},
        }
        return json.dumps(document, indent=1).encode() + b"\n"


def parse_manifest(payload: bytes) -> Manifest:
    """Return the manifest in an envelope's payload. Raises MalformedReference, TooLarge."""
    fields = parse_document(payload, MANIFEST_BYTES, _DOING, MalformedReference)
    fields.schema(_SCHEMA)
    machine_class = None if fields.null("machine_class") else fields.text("machine_class")
    try:
        manifest = Manifest(
            component=fields.text("component"),
            version=Version(fields.text("version")),
            serial=fields.integer("serial", 1, _MOST_SERIAL),
            issued=fields.time("issued"),
            expires=fields.time("expires"),
            machine_class=machine_class,
            origin=fields.choice("origin", {origin.value: origin for origin in Origin}),
            artefact=fields.text("artefact"),
            artefact_sha256=fields.hexadecimal("artefact_sha256"),
            measurements=tuple(
                _parse_measurement(entry) for entry in fields.list_of_fields("measurements", MANIFEST_MEASUREMENTS)
            ),
            files=_parse_files(fields),
        )
    except WrongUse as error:
        raise MalformedReference(_DOING, expected=error.expected, found=error.found) from error
    fields.end()
    return manifest


def _parse_measurement(fields: Fields) -> Measurement:
    digests = _parse_digests(fields.fields("digests"))
    measurement = Measurement(
        fields.integer("pcr", 0, PCR_COUNT - 1),
        fields.text("what"),
        fields.choice("presence", {presence.value: presence for presence in Presence}),
        digests,
    )
    fields.end()
    return measurement


def _parse_digests(fields: Fields) -> dict[HashAlgorithm, bytes]:
    digests = {}
    for name, algorithm in HASH_BY_NAME.items():
        if algorithm.believed and fields.has(name):
            digests[algorithm] = fields.hexadecimal(name)
            if len(digests[algorithm]) != algorithm.size:
                raise fields.wrong(name, f"{algorithm.size} bytes", f"{len(digests[algorithm])} bytes")
    fields.end()
    if not digests:
        raise fields.wrong("", "a digest of SHA-256 or better", "none")
    return digests


def _parse_files(fields: Fields) -> dict[HashAlgorithm, Mapping[str, str]]:
    by_bank = fields.fields("files")
    files: dict[HashAlgorithm, Mapping[str, str]] = {}
    for name, algorithm in HASH_BY_NAME.items():
        if algorithm.believed and by_bank.has(name):
            paths = by_bank.mapping(name)
            refuse_over(MANIFEST_FILES, len(paths), _DOING)
            if set(map(type, paths.values())) - {str}:
                raise by_bank.wrong(name, "paths and digests in hexadecimal", "a digest that is no text")
            files[algorithm] = paths
    by_bank.end()
    return files


@dataclass(frozen=True, slots=True)
class Reference:
    """A manifest that enough trusted keys signed. Only `verify_manifest` makes it."""

    manifest: Manifest
    signed_by: frozenset[str]


def verify_manifest(envelope: Envelope, signers: Signers) -> Reference:
    """Return the manifest in `envelope`, once enough of `signers` vouch for it; nothing is read before they do.

    Whether it is current, and what it holds for, is decided where it is used: see `policy.py`.
    Raises ReferenceRejected, MalformedReference, TooLarge.
    """
    signed_by = verify(envelope, PAYLOAD_TYPE, signers)
    return Reference(parse_manifest(envelope.payload), signed_by)
