"""How a notice is signed, for who signs and who checks. Source: Standard Webhooks 1.0.0, "Signature scheme".

A secret is told as "whsec_" and 24 to 64 bytes in base64; its bytes are the key of HMAC-SHA-256.
"""

import hashlib
import hmac
from base64 import b64decode, b64encode
from typing import Final

from steelyard.model.errors import WrongUse
from steelyard.model.secret import Secret

ID: Final = "webhook-id"
TIMESTAMP: Final = "webhook-timestamp"
SIGNATURE: Final = "webhook-signature"
"""Names of headers."""
CONTENT_TYPE: Final = "application/cloudevents+json"
"""What a notice is: CloudEvents 1.0, in structured mode."""
VERSION: Final = "v1"
"""Of the signature: HMAC-SHA-256."""
SECRET_BYTES: Final = 32

_PREFIX: Final = "whsec_"
_LEAST_BYTES: Final = 24
_MOST_BYTES: Final = 64


def write_secret(secret: Secret) -> Secret:
    """Return a secret as it is told."""
    return Secret((_PREFIX + b64encode(secret.reveal()).decode("ascii")).encode("ascii"))


def parse_secret(told: Secret) -> Secret:
    """Return the secret that was told. Raises WrongUse."""
    # Never shown, as it is one.
    wrong = WrongUse("reading a webhook's secret", expected="whsec_ and base64, as it was told", found="another")
    text = told.reveal()
    if not text.startswith(_PREFIX.encode()):
        raise wrong
    try:
        secret = b64decode(text.removeprefix(_PREFIX.encode()), validate=True)
    except ValueError as cause:
        raise wrong from cause
    if not _LEAST_BYTES <= len(secret) <= _MOST_BYTES:
        raise wrong
    return Secret(secret)


def sign_notice(secret: Secret, identifier: str, timestamp: int, body: bytes) -> str:
    """Return the signature of one try: "v1,<base64>" of HMAC-SHA-256 of id, seconds since 1970 and body, with dots."""
    signed = f"{identifier}.{timestamp}.".encode() + body
    code = hmac.new(secret.reveal(), signed, hashlib.sha256).digest()
    return f"{VERSION},{b64encode(code).decode('ascii')}"
