"""TPM makers that a project trusts, in named sets: certificates to end a chain in, lists of what was revoked."""

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, delete, insert, select, update

from steelyard.attestation.references import rules, store
from steelyard.attestation.references.objects import MakerSet
from steelyard.attestation.tables import identities, maker_sets, nodes
from steelyard.evidence.reader import refuse_over
from steelyard.evidence.tpm.certificate import parse_certificate
from steelyard.evidence.tpm.endorsement import Demand, MakerTrust
from steelyard.evidence.tpm.revocation import parse_revocation_list
from steelyard.model.errors import InUse, WrongUse
from steelyard.model.limits import MAKER_CERTIFICATES
from steelyard.model.names import check_name
from steelyard.service.authority import Caller, Right, not_found
from steelyard.service.database import Transaction

PROVIDER: Final = ""
