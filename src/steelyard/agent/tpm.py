"""What the agent needs of a TPM. `tss.py` has it from a real one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from steelyard.agent.protocol import NodeKeys
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.pcrs import PcrSelection
from steelyard.model.secret import Secret


@dataclass(frozen=True, slots=True)
class Quoted:
    """A quote and the PCR values that it was made over: TPMS_ATTEST, TPMT_SIGNATURE, index -> value."""

    attest: bytes
    signature: bytes
    pcrs: Mapping[int, bytes]


class Tpm(Protocol):
    """One TPM with the keys that `make_keys` made in it, or `load_signing_key` brought back.

    Each verb raises NodeFailed when the TPM refuses it.
    """

    def make_keys(self) -> NodeKeys:
        """Make the endorsement key that a certificate is there for, and a fresh restricted signing key."""

    def save_signing_key(self) -> bytes:
        """Return what brings the signing key back, to this TPM alone and until it is reset."""

    def load_signing_key(self, saved: bytes) -> None:
        """Bring the signing key back, in place of `make_keys`. Raises MalformedTpmStructure as well."""

    def activate(self, credential: bytes) -> Secret:
        """Return what is in a credential, as tpm2_makecredential writes it. Raises MalformedTpmStructure as well."""

    def quote(self, qualifying_data: bytes, selection: PcrSelection) -> Quoted:
        """Return a quote by the signing key, over the very values that come with it."""

    def banks(self) -> frozenset[HashAlgorithm]:
        """Return the PCR banks that are in use."""

    def extend(self, index: int, digests: Mapping[HashAlgorithm, bytes]) -> None:
        """Extend a PCR; `digests` has one for each bank in use, as one left out would look as if nothing had run."""

    def close(self) -> None:
        """Let the TPM go, without keys of ours in it."""
