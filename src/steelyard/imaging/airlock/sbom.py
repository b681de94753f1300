"""The software list of an image: an SPDX document of every package that a file of it comes from.

Source: SPDX 2.3; package URLs by the purl specification, type deb.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from steelyard.evidence.document import format_time
from steelyard.imaging.airlock.packages import Package

_CREATOR: Final = "Tool: steelyard-airlock-build"


def make_sbom(
    name: str, version: str, artefacts: Mapping[str, bytes], packages: Collection[Package], created: datetime
) -> bytes:
    """Return the document as JSON, the same bytes for the same input.

    artefacts  file name of each part of the image -> content.
    packages   Debian's, whose files are in it.
    """
    digests = {file: hashlib.sha256(content).hexdigest() for file, content in artefacts.items()}
    own = _described(f"SPDXRef-{name}", name, version, "NOASSERTION")
    own["externalRefs"] = [_package_url(f"pkg:pypi/steelyard@{quote(version)}")]
    listed = [_debian(package) for package in packages]
    unique = hashlib.sha256("".join(digests.values()).encode()).hexdigest()
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{name}-{version}",
        "documentNamespace": f"urn:steelyard:sbom:{unique}",
        "creationInfo": {"created": format_time(created), "creators": [_CREATOR]},
        "packages": [own, *listed],
        "files": [
            {"SPDXID": f"SPDXRef-File-{file}", "fileName": f"./{file}", "checksums": [_sha256(digest)]}
            for file, digest in digests.items()
        ],
        "relationships": [
            _relationship("SPDXRef-DOCUMENT", "DESCRIBES", own["SPDXID"]),
            *(_relationship(own["SPDXID"], "CONTAINS", f"SPDXRef-File-{file}") for file in digests),
            *(_relationship(own["SPDXID"], "CONTAINS", package["SPDXID"]) for package in listed),
        ],
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def _debian(package: Package) -> dict[str, Any]:
    described = _described(
        f"SPDXRef-Package-{package.name.replace('+', '-plus-')}",
        package.name,
        package.version,
        "Organization: Debian",
    )
    described["checksums"] = [_sha256(package.sha256)]
    address = f"pkg:deb/debian/{quote(package.name)}@{quote(package.version)}?arch={package.architecture}"
    described["externalRefs"] = [_package_url(address)]
    return described


def _described(identifier: str, name: str, version: str, supplier: str) -> dict[str, Any]:
    return {
        "SPDXID": identifier,
        "name": name,
        "versionInfo": version,
        "supplier": supplier,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
    }


def _package_url(address: str) -> dict[str, str]:
    return {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": address}


def _sha256(digest: str) -> dict[str, str]:
    return {"algorithm": "SHA256", "checksumValue": digest}


def _relationship(element: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": element, "relationshipType": kind, "relatedSpdxElement": other}
