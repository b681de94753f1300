"""The TPM through tpm2-pytss.

The attestation key is a primary key of the endorsement hierarchy, so that its quotes tell the true reset count, and is
fresh by random bytes in its template. It is not protected against guessing (noda): there is nothing to guess, and a
node whose power is cut would in the end lock its own TPM.
Source: TCG EK Credential Profile 2.5, appendix B (templates), 2.2.1.4 (NV indices).
"""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_CAP, TPM2_SE, TPMA_OBJECT
from tpm2_pytss.types import (
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPML_DIGEST_VALUES,
    TPML_PCR_SELECTION,
    TPMS_CONTEXT,
    TPMT_SYM_DEF,
)
from tpm2_pytss.utils import NoSuchIndex, NVReadEK, create_ek_template

from steelyard.agent.protocol import NodeKeys
from steelyard.agent.tpm import Quoted
from steelyard.evidence.tpm.activation import parse_credential_file
from steelyard.evidence.tpm.attest import TpmsQuoteInfo, parse_tpms_attest
from steelyard.evidence.tpm.selection import marshal_selection
from steelyard.model.algorithms import HASH_BY_TPM_ID, HashAlgorithm
from steelyard.model.errors import MalformedTpmStructure, NodeFailed
from steelyard.model.pcrs import PcrSelection, PcrValues
from steelyard.model.secret import Secret

_ENDORSEMENT_KEYS: Final = (("EK-RSA2048", 0x01C00002), ("EK-ECC256", 0x01C0000A), ("EK-HIGH-ECC384", 0x01C00016))
"""Template, as tpm2-pytss names it, and where its certificate is. The first that has one is taken, else the first."""

_SIGNING_KEY: Final = (
    TPMA_OBJECT.FIXEDTPM
    | TPMA_OBJECT.FIXEDPARENT
    | TPMA_OBJECT.SENSITIVEDATAORIGIN
    | TPMA_OBJECT.USERWITHAUTH
    | TPMA_OBJECT.NODA
    | TPMA_OBJECT.RESTRICTED
    | TPMA_OBJECT.SIGN_ENCRYPT
)
_P256_BYTES: Final = 32
_IMA_PCR: Final = 10
_MOST_QUOTES: Final = 20
"""Tries to have one while the kernel goes on measuring; a TPM takes some 0.2 s for each."""


@contextmanager
def _refusals(doing: str) -> Iterator[None]:
    try:
        yield
    except (TSS2_Exception, NoSuchIndex) as error:
        raise NodeFailed(doing, expected="the TPM to do it", found=str(error)) from error


class TssTpm:
    """A TPM that the TCG software stack reaches. See `steelyard.agent.tpm.Tpm`."""

    def __init__(self, name: str) -> None:
        """Open a TPM by the name that tpm2-tools give it, such as device:/dev/tpm0. Raises NodeFailed."""
        with _refusals(f"opening the TPM {name}"):
            self._esys = ESAPI(name)
        self._endorsement_key = self._attestation_key = ESYS_TR.NONE
        self._by_policy = False

    def make_keys(self) -> NodeKeys:
        """Make the keys. See `Tpm.make_keys`."""
        with _refusals("making the node's keys"):
            template, certificates = self._endorsement_template()
            self._by_policy = not template.publicArea.objectAttributes & TPMA_OBJECT.USERWITHAUTH
            self._endorsement_key, endorsement = self._create(template)
            signing = TPM2B_PUBLIC.parse("ecc256:ecdsa-sha256:null", objectAttributes=_SIGNING_KEY)
            signing.publicArea.unique.ecc.x = secrets.token_bytes(_P256_BYTES)
            signing.publicArea.unique.ecc.y = bytes(_P256_BYTES)
            self._attestation_key, attestation = self._create(signing)
            name = bytes(attestation.get_name())
        return NodeKeys(endorsement.publicArea.marshal(), certificates, attestation.publicArea.marshal(), name)

    def save_signing_key(self) -> bytes:
        """Save it. See `Tpm.save_signing_key`. Source: TPM 2.0 Library Part 1, section 30 (context management)."""
        with _refusals("saving the signing key"):
            return bytes(self._esys.context_save(self._attestation_key).marshal())

    def load_signing_key(self, saved: bytes) -> None:
        """Load it. See `Tpm.load_signing_key`."""
        doing = "loading the signing key"
        try:
            context, read = TPMS_CONTEXT.unmarshal(saved)
        except TSS2_Exception as error:
            raise MalformedTpmStructure(doing, expected="a saved context", found=str(error)) from error
        if read != len(saved):
            raise MalformedTpmStructure(doing, expected=f"{read} bytes", found=f"{len(saved)}")
        with _refusals(doing):
            self._attestation_key = self._esys.context_load(context)

    def activate(self, credential: bytes) -> Secret:
        """Open a credential. See `Tpm.activate`."""
        blob = parse_credential_file(credential)
        with _refusals("activating the credential"), self._endorsement_session() as session:
            opened = self._esys.activate_credential(
                self._attestation_key,
                self._endorsement_key,
                TPM2B_ID_OBJECT.unmarshal(blob.id_object())[0],
                TPM2B_ENCRYPTED_SECRET(secret=blob.encrypted_secret),
                session1=ESYS_TR.PASSWORD,
                session2=session,
            )
        return Secret(bytes(opened))

    def quote(self, qualifying_data: bytes, selection: PcrSelection) -> Quoted:
        """Quote. See `Tpm.quote`."""
        # The one that goes on while the system runs is read last, and anew until the quote is over what was read.
        indices = sorted(selection.indices, key=lambda index: (index == _IMA_PCR, index))
        asked = TPML_PCR_SELECTION.unmarshal(marshal_selection(selection))[0]
        with _refusals("quoting"):
            values = {index: self._read_pcr(selection.bank, index) for index in indices}
            for _ in range(_MOST_QUOTES):
                attest, signature = self._esys.quote(self._attestation_key, asked, qualifying_data)
                if _is_over(bytes(attest), PcrValues(selection.bank, values)):
                    return Quoted(bytes(attest), signature.marshal(), values)
                values = {index: self._read_pcr(selection.bank, index) for index in indices}
        raise NodeFailed("quoting", expected="PCRs that hold still", found=f"others at each of {_MOST_QUOTES} quotes")

    def banks(self) -> frozenset[HashAlgorithm]:
        """Return the banks. See `Tpm.banks`."""
        with _refusals("listing the PCR banks"):
            _, capability = self._esys.get_capability(TPM2_CAP.PCRS, 0)
            listed = [(int(each.hash), bytes(each.pcrSelect)) for each in capability.data.assignedPCR]
        return frozenset(HASH_BY_TPM_ID[number] for number, chosen in listed if any(chosen))

    def extend(self, index: int, digests: Mapping[HashAlgorithm, bytes]) -> None:
        """Extend. See `Tpm.extend`."""
        values = b"".join(bank.tpm_id.to_bytes(2) + digest for bank, digest in digests.items())
        marshalled = len(digests).to_bytes(4) + values
        with _refusals(f"extending PCR {index}"):
            self._esys.pcr_extend(ESYS_TR(index), TPML_DIGEST_VALUES.unmarshal(marshalled)[0])

    def close(self) -> None:
        """Let the TPM go, without keys of ours in it."""
        with _refusals("letting the TPM go"):
            for key in (self._endorsement_key, self._attestation_key):
                if key != ESYS_TR.NONE:
                    self._esys.flush_context(key)
            self._esys.close()

    def _endorsement_template(self) -> tuple[TPM2B_PUBLIC, tuple[bytes, ...]]:
        read = NVReadEK(self._esys)
        for name, index in _ENDORSEMENT_KEYS:
            try:
                read(index)
            except NoSuchIndex:
                continue
            certificate, template = create_ek_template(name, read)
            return template, (bytes(certificate),)
        return create_ek_template(_ENDORSEMENT_KEYS[0][0], read)[1], ()

    def _create(self, template: TPM2B_PUBLIC) -> tuple[ESYS_TR, TPM2B_PUBLIC]:
        handle, public, *_ = self._esys.create_primary(TPM2B_SENSITIVE_CREATE(), template, ESYS_TR.ENDORSEMENT)
        return handle, public

    @contextmanager
    def _endorsement_session(self) -> Iterator[ESYS_TR]:
        """Give what opens the endorsement key: a policy session with the empty endorsement password, or a password."""
        if not self._by_policy:
            yield ESYS_TR.PASSWORD
            return
        session = self._esys.start_auth_session(
            ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.POLICY, TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL), TPM2_ALG.SHA256
        )
        try:
            self._esys.policy_secret(ESYS_TR.ENDORSEMENT, session, b"", b"", b"", 0)
            yield session
        finally:
            self._esys.flush_context(session)

    def _read_pcr(self, bank: HashAlgorithm, index: int) -> bytes:
        """Return one PCR: a TPM may hand out fewer values at once than are asked for."""
        asked = TPML_PCR_SELECTION.unmarshal(marshal_selection(PcrSelection(bank, frozenset({index}))))[0]
        _, _, values = self._esys.pcr_read(asked)
        return bytes(values[0])


def _is_over(attest: bytes, values: PcrValues) -> bool:
    """Tell whether a quote by a key that signs with SHA-256 is over these values."""
    attested = parse_tpms_attest(attest).attested
    digest = HashAlgorithm.SHA256.digest(values.of(values.values))
    return isinstance(attested, TpmsQuoteInfo) and attested.pcr_digest == digest
