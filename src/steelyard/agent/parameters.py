"""What the boot service tells a node about itself, believed by nobody until a quote has vouched for it.

The bytes as they came are hashed into the quote's qualifying data, so that the verifier sees which ones the node was
given. A node that was sent to another service, under another name or authority, proves just that.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from steelyard.evidence.document import parse_document
from steelyard.model.errors import MalformedMessage
from steelyard.model.limits import PARAMETERS_BYTES
from steelyard.model.names import check_name

_SCHEMA: Final = "steelyard.parameters/1"
_DOING: Final = "reading the node's parameters"
_CERTIFICATE: Final = re.compile(
    r"-----BEGIN CERTIFICATE-----\n(?:[A-Za-z0-9+/=]{1,64}\n)+-----END CERTIFICATE-----\n", re.ASCII
)


class OnFailure(StrEnum):
    """What a node does that cannot go on."""

    POWER_OFF = "power-off"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Parameters:
    """A node's parameters.

    document     the bytes as they came: what the quote vouches for.
    node         the node's name.
    attestation  address of the attestation service, https, without a path.
    authority    the one certificate that the service's must be signed by, PEM.
    delivery     where the tenant's share and payload will be, http or https: both are sealed.
    """

    document: bytes
    node: str
    attestation: str
    authority: str
    delivery: str
    on_failure: OnFailure


def parse_parameters(document: bytes) -> Parameters:
    """Return the parameters in a JSON document. Raises MalformedMessage, TooLarge, WrongUse for an unfit name."""
    fields = parse_document(document, PARAMETERS_BYTES, _DOING, MalformedMessage)
    fields.schema(_SCHEMA)
    attestation, delivery = fields.text("attestation"), fields.text("delivery")
    authority = fields.text("authority")
    if not _CERTIFICATE.fullmatch(authority):
        raise fields.wrong("authority", "one certificate in PEM", authority)
    if not is_address(attestation, ("https",)) or urlsplit(attestation).path:
        raise fields.wrong("attestation", "an https address without a path", attestation)
    if not is_address(delivery, ("http", "https")):
        raise fields.wrong("delivery", "an http or https address", delivery)
    node = check_name(fields.text("node"), "node")
    on_failure: OnFailure = fields.choice("on_failure", {each.value: each for each in OnFailure})
    fields.end()
    return Parameters(document, node, attestation, authority, delivery, on_failure)


_ADDRESS: Final = re.compile(
    r"(?P<scheme>https?)://(?:[A-Za-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~/-]*)?", re.ASCII
)


def is_address(text: str, schemes: tuple[str, ...]) -> bool:
    """Tell whether `text` is a plain web address of one of these schemes: no user, query, fragment or escape in it."""
    match = _ADDRESS.fullmatch(text)
    return match is not None and match["scheme"] in schemes
