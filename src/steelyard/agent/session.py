"""What the airlock leaves for the system after it, so that it goes on reporting: one file, for root alone.

The session's token is a secret; what brings the attestation key back is of use in this TPM alone, and until it is
reset. The rest is what the airlock's quote vouched for, and what the verifier judged with it.
Source: docs/formats.md, "Attestation handed over".
"""

import base64
import json
from dataclasses import dataclass
from typing import Final

from steelyard.agent.parameters import Parameters, parse_parameters
from steelyard.agent.protocol import parse_token
from steelyard.evidence.document import parse_document
from steelyard.evidence.tpm.nonce import NONCE_BYTES, NonceWithKeys
from steelyard.model.errors import MalformedMessage
from steelyard.model.limits import HANDOVER_BYTES
from steelyard.model.secret import Secret

_SCHEMA: Final = "steelyard.attestation/1"
_DOING: Final = "reading what the airlock handed over"
FILE: Final = "attestation.json"
"""Its name in /.steelyard."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session with the attestation service that outlives the airlock.

    parameters       as the boot service gave them: the service's address and authority, the node's name.
    token            proves to the service who asks.
    attestation_key  what brings it back (`Tpm.load_signing_key`).
    transport_key    public keys of this boot, 32 bytes each, that every quote of it vouches for.
    wireguard_key    likewise.
    event_log        the firmware's, as the kernel after a kexec may not have it.
    ima_list         the airlock's, binary: it begins the next system's where the kernel does not carry it over.
    """

    parameters: Parameters
    token: Secret
    attestation_key: bytes
    transport_key: bytes
    wireguard_key: bytes
    event_log: bytes
    ima_list: bytes

    def bound(self, nonce: bytes) -> NonceWithKeys:
        """Return what a quote of this boot is to vouch for."""
        return NonceWithKeys(nonce, self.transport_key, self.wireguard_key, self.parameters.document)

    def to_bytes(self) -> Secret:
        """Return the file."""
        document = {
            "schema": _SCHEMA,
            "parameters": _base64(self.parameters.document),
            "token": self.token.reveal().decode("ascii"),
            "attestation_key": _base64(self.attestation_key),
            "transport_key": _base64(self.transport_key),
            "wireguard_key": _base64(self.wireguard_key),
            "event_log": _base64(self.event_log),
            "ima_list": _base64(self.ima_list),
        }
        return Secret(json.dumps(document).encode())


def parse_session_file(data: Secret) -> Session:
    """Return the session in a file. Raises MalformedMessage, TooLarge; never with a value of it in the text."""
    try:
        return _parse(data.reveal())
    except MalformedMessage as error:
        raise MalformedMessage(_DOING, expected=error.expected, found="something else") from None


def _parse(data: bytes) -> Session:
    fields = parse_document(data, HANDOVER_BYTES, _DOING, MalformedMessage)
    fields.schema(_SCHEMA)
    keys = {name: fields.base64(name) for name in ("transport_key", "wireguard_key")}
    for name, key in keys.items():
        if len(key) != NONCE_BYTES:
            raise fields.wrong(name, f"{NONCE_BYTES} bytes", f"{len(key)}")
    session = Session(
        parameters=parse_parameters(fields.base64("parameters")),
        token=parse_token(fields),
        attestation_key=fields.base64("attestation_key"),
        **keys,
        event_log=fields.base64("event_log"),
        ima_list=fields.base64("ima_list"),
    )
    fields.end()
    return session


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
