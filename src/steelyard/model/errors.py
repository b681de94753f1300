"""Every error of Steelyard, sorted by whose fault it is.

Each has a stable `code`, the exit code of the command line, the HTTP status of the services, and a `remedy`: what the
reader can do next. The table in `docs/errors.md` is made from this file. A bug is not in here: it rises as whatever
Python raises.
"""

from enum import IntEnum
from typing import ClassVar

from steelyard.model.text import printable


class ExitCode(IntEnum):
    """What every command ends with."""

    GOOD = 0
    WRONG_USE = 2
    MALFORMED = 3
    REJECTED = 4
    UNREADY = 5
    FAILED = 6
    REFUSED = 7
    DEVICE = 8


class SteelyardError(Exception):
    """Something went wrong that is not a bug in Steelyard.

    doing     what was being done, in the words of the one who asked.
    expected  what would have been right.
    found     what came instead; shown escaped and shortened, as it may be an attacker's choice.
    """

    code: ClassVar[str]
    exit_code: ClassVar[ExitCode]
    http_status: ClassVar[int]
    remedy: ClassVar[str]

    def __init__(self, doing: str, *, expected: str, found: str) -> None:
        super().__init__(doing, expected, found)
        self.doing = printable(doing, 400)
        self.expected = printable(expected, 400)
        self.found = printable(found, 400)

    def __str__(self) -> str:
        return f"{self.doing}: expected {self.expected}; found {self.found}"


# -- the caller's fault ------------------------------------------------------------------------------------------------


class WrongUse(SteelyardError):
    """The request itself makes no sense: a missing file, an impossible argument."""

    code = "wrong-use"
    exit_code = ExitCode.WRONG_USE
    http_status = 400
    remedy = "Correct the command or the argument named; `--help` shows what it takes."


# -- the sender's fault: bytes that do not follow their format ---------------------------------------------------------


class Malformed(SteelyardError):
    """Bytes that do not follow the format they should be in."""

    code = "malformed"
    exit_code = ExitCode.MALFORMED
    http_status = 422
    remedy = "Get the file again from its source; if it was made by a current tool, report it with the file."


class TooLarge(Malformed):
    """An input beyond its limit (`docs/input-limits.md`), refused before it is read."""

    code = "too-large"
    http_status = 413
    remedy = "Look at what made an input of this size; the limits and their reasons are in docs/input-limits.md."


class MalformedAnswer(Malformed):
    """A service answered what is not in its API."""

    code = "malformed-answer"
    http_status = 502
    remedy = "See whether the URL is the service's, and whether its version fits this one's."


class MalformedTpmStructure(Malformed):
    """Bytes that are not the TPM structure they should be."""

    code = "malformed-tpm-structure"


class MalformedEventLog(Malformed):
    """Bytes that are not a measured-boot event log."""

    code = "malformed-event-log"


class MalformedImaList(Malformed):
    """Bytes that are not an IMA measurement list."""

    code = "malformed-ima-list"


class MalformedCertificate(Malformed):
    """Bytes that are not an X.509 certificate, even read leniently."""

    code = "malformed-certificate"


class MalformedArtefact(Malformed):
    """A firmware file, EFI application or package from which no reference can be made."""

    code = "malformed-artefact"


class MalformedReference(Malformed):
    """A reference manifest or its envelope that does not follow its schema."""

    code = "malformed-reference"
    remedy = "Make the manifest again with `steelyard reference`; unknown fields are refused on purpose."


class MalformedPolicy(Malformed):
    """A policy that does not follow its schema, or says nothing."""

    code = "malformed-policy"
    remedy = "Correct the field named; docs/policy.md describes each, and what is not described is refused."


class MalformedBundle(Malformed):
    """An evidence bundle that does not follow its schema."""

    code = "malformed-bundle"
    remedy = "Make the bundle again with `steelyard evidence bundle`."


class MalformedKey(Malformed):
    """A key that is in none of the forms that are read."""

    code = "malformed-key"
    remedy = "Give the key as PEM or as TPM2B_PUBLIC, as tpm2_readpublic writes it."


class MalformedVerdict(Malformed):
    """Bytes that are not a signed attestation result."""

    code = "malformed-verdict"
    remedy = "Hand in the verdict as the verifier signed it; docs/formats.md has its form."


class MalformedEnclave(Malformed):
    """An enclave file that is none, or whose parts do not agree."""

    code = "malformed-enclave"
    remedy = "Correct the line; `steelyard enclave schema` shows what a file may have."


class MalformedPayload(Malformed):
    """A sealed share or payload box that is not in its format."""

    code = "malformed-payload"


class MalformedImage(Malformed):
    """Bytes that are not the disk image they are said to be, or that are so in a way that is not taken."""

    code = "malformed-image"
    remedy = "Say the format it is in; of qcow2, take in a plain one: `qemu-img convert -O qcow2` makes it."


class WrongDigest(Malformed):
    """Bytes that are not the ones that were announced."""

    code = "wrong-digest"
    remedy = "Fetch the file again, and its digest from its publisher; nothing of it was kept."


class MalformedMessage(Malformed):
    """A message between a node and a service that does not follow its format (docs/formats.md)."""

    code = "malformed-message"
    remedy = "Have node and service of versions that know each other; what is not described is refused on purpose."


class MalformedNotice(Malformed):
    """A request to a webhook's receiver that is no notice (docs/formats.md)."""

    code = "malformed-notice"
    remedy = "Answer 400 and do nothing: whoever sent it is not this service, or something on the way changed it."


class MalformedDatagram(Malformed):
    """A datagram that is not of the protocol spoken at its port; the emulated BMCs drop it."""

    code = "malformed-datagram"


# -- the evidence's fault: well formed, and not good enough ------------------------------------------------------------


class EvidenceRejected(SteelyardError):
    """Well-formed evidence that does not prove what it should."""

    code = "rejected"
    exit_code = ExitCode.REJECTED
    http_status = 403
    remedy = "Treat the machine as untrusted until the cause is known."


class NotPassed(EvidenceRejected):
    """A node's evidence was judged, and is not good enough."""

    code = "not-passed"
    http_status = 422
    remedy = "Read the reasons; the node's owner sees them with what was expected. Only its owner can let it try again."


class KeyRejected(EvidenceRejected):
    """A key whose kind, size or attributes do not carry the trust it is meant for."""

    code = "key-rejected"
    remedy = "Make the attestation key anew: restricted, signing only, fixed to its TPM, made inside it."


class BindingRejected(EvidenceRejected):
    """An attestation key that was not shown to live in the TPM it should live in."""

    code = "binding-rejected"
    remedy = "Register the node again: a fresh credential, activated by the same TPM."


class CertificateRejected(EvidenceRejected):
    """An endorsement certificate that no trusted maker stands behind."""

    code = "certificate-rejected"
    remedy = "Add the maker's certificates if you trust it; else the TPM cannot be told from a made-up one."


class AuditRejected(EvidenceRejected):
    """An audit log that was altered, cut short, or begun anew."""

    code = "audit-rejected"
    remedy = "Keep what you have, and ask the provider: the log that the service shows is not the one it had."


class NoticeRejected(EvidenceRejected):
    """A notice that the service did not sign with this webhook's secret, or not lately."""

    code = "notice-rejected"
    remedy = "Answer 401 and do nothing; if it comes from the service itself, compare the secret and the clocks."


class NoticeRepeated(NoticeRejected):
    """A notice that was taken before: sent again because its answer was lost, or by somebody who overheard it."""

    code = "notice-repeated"
    remedy = "Answer 204 and do nothing: it was dealt with."


class QuoteRejected(EvidenceRejected):
    """A quote that does not prove the state it claims."""

    code = "quote-rejected"


class BadSignature(QuoteRejected):
    """The signature is not this key's over these bytes, or in a scheme that the key does not have."""

    code = "bad-signature"


class NotAQuote(QuoteRejected):
    """Signed bytes that no TPM made, or that are another kind of attestation."""

    code = "not-a-quote"


class WrongNonce(QuoteRejected):
    """A quote for another challenge, or that vouches for other keys."""

    code = "wrong-nonce"


class WrongSelection(QuoteRejected):
    """A quote over other PCRs, or another bank, than were asked for."""

    code = "wrong-selection"


class PcrMismatch(QuoteRejected):
    """PCR values that do not hash to the signed digest."""

    code = "pcr-mismatch"


class ClockWentBack(QuoteRejected):
    """A quote from before one already accepted."""

    code = "clock-went-back"


class LogRejected(EvidenceRejected):
    """A log that does not replay to the quoted values, or breaks the rules of its kind."""

    code = "log-rejected"


class FileSignatureRejected(EvidenceRejected):
    """A file's signature that no key which may sign for it stands behind."""

    code = "file-signature-rejected"


class ReferenceRejected(EvidenceRejected):
    """A manifest that too few trusted keys signed, that is expired, older than one seen, or for other machines."""

    code = "reference-rejected"
    remedy = "Get the current manifest from its publisher, or have it signed by the keys the policy names."


class PayloadRejected(EvidenceRejected):
    """A share, tag or payload box that does not open with the key given."""

    code = "payload-rejected"
    remedy = "The key or the box is another one's; ask for both again, never try keys in turn."


# -- this computer's fault: the emulated rack does not fit on it, or a part of it broke --------------------------------


class LabUnready(SteelyardError):
    """This computer cannot hold the rack as it is: a package, a right, memory or a port is missing."""

    code = "lab-unready"
    exit_code = ExitCode.UNREADY
    http_status = 503
    remedy = "Put right what is named and start again; nothing was left running. docs/lab.md lists what a rack needs."


class LabFailed(SteelyardError):
    """A part of the rack did not start, or did not answer."""

    code = "lab-failed"
    exit_code = ExitCode.FAILED
    http_status = 500
    remedy = "`steelyard lab logs` shows what each part said; `steelyard lab down` and `up` start afresh."


# -- this computer's fault: images and volumes cannot be kept or served ------------------------------------------------


class StorageUnready(SteelyardError):
    """A program, a right, a free port or space is missing; nothing was changed."""

    code = "storage-unready"
    exit_code = ExitCode.UNREADY
    http_status = 503
    remedy = "Put right what is named and ask again; what was asked for was not begun."


class StorageFailed(SteelyardError):
    """A program that keeps or serves volumes failed or did not answer; what was begun can be asked for again."""

    code = "storage-failed"
    exit_code = ExitCode.FAILED
    http_status = 500
    remedy = "Look at what the program said and ask again: every verb may be repeated."


# -- the node that is being weighed ------------------------------------------------------------------------------------


class NodeFailed(SteelyardError):
    """A part of the node, or a program on it, did not do what the next step needs."""

    code = "node-failed"
    exit_code = ExitCode.FAILED
    http_status = 500
    remedy = "Look at the node's console; what it was at is named. It stopped there and did not go on."


class ServiceRefused(SteelyardError):
    """A service answered a node with no, or not at all."""

    code = "service-refused"
    exit_code = ExitCode.FAILED
    http_status = 502
    remedy = "Look at what the service says about this node; a node that was refused must boot again."


# -- building ----------------------------------------------------------------------------------------------------------


class BuildFailed(SteelyardError):
    """An image could not be built: a program of the build is missing or failed, or a package is not as expected."""

    code = "build-failed"
    exit_code = ExitCode.FAILED
    http_status = 500
    remedy = "Install what is named, or put right what the program said; nothing half-made was left."


# -- a service said no -------------------------------------------------------------------------------------------------


class Refused(SteelyardError):
    """A service understood the request and will not do it; nothing was changed."""

    code = "refused"
    exit_code = ExitCode.REFUSED
    http_status = 409
    remedy = "What stands in the way is named; change that first."


class NotSignedIn(Refused):
    """No token, or none that is valid; which of these it is, is not told."""

    code = "not-signed-in"
    http_status = 401
    remedy = "Sign in with a valid token: `steelyard login`; a provider makes one with `steelyard token create`."


class NotFound(Refused):
    """No such thing, or none that the caller may know of: the two look the same."""

    code = "not-found"
    http_status = 404
    remedy = "Check the name; what belongs to other projects is not shown."


class NotAllowed(Refused):
    """The caller may see this, and not do that to it."""

    code = "not-allowed"
    http_status = 403
    remedy = "Ask one whose role or token allows it; `steelyard token show` tells what yours does."


class AlreadyThere(Refused):
    """The name, address or number is taken."""

    code = "already-there"


class InUse(Refused):
    """Something else stands on it or works with it at this moment."""

    code = "in-use"
    remedy = "Detach or delete what uses it, or wait for the work on it to end; then ask again."


class WrongState(Refused):
    """Not from the state it is in."""

    code = "wrong-state"


class OverQuota(Refused):
    """The project has all that it may have."""

    code = "over-quota"
    remedy = "Give something back, or ask the provider for a larger quota."


class NotEnough(Refused):
    """Fewer free and healthy nodes, or VLANs, than were asked for; none was taken."""

    code = "not-enough"
    remedy = "Ask for fewer or for other labels, or wait until some are released."


class NotAdmitted(Refused):
    """A network that demands a verdict, and no verdict that is good enough."""

    code = "not-admitted"
    http_status = 403
    remedy = "Have the node weighed again, and hand in the new verdict while it is fresh."


class AddressRefused(Refused):
    """An address that is not called from here: private, this computer's, or not by https."""

    code = "address-refused"
    remedy = "Name a host of the open internet, by https; the provider's configuration says what else is called."


class Changed(Refused):
    """It is not as the caller last saw it (If-Match)."""

    code = "changed"
    http_status = 412
    remedy = "Read it again and repeat the change on what it is now."


class TooMany(Refused):
    """More requests than are served to one caller."""

    code = "too-many"
    http_status = 429
    remedy = "Wait a little and ask again."


class Unavailable(SteelyardError):
    """A service cannot be reached, or cannot reach what it stands on; asked again later it may answer."""

    code = "unavailable"
    exit_code = ExitCode.FAILED
    http_status = 503
    remedy = "See whether the service runs and its database answers, and ask again."


class OutOfTime(SteelyardError):
    """An operation that did not end in its time. What it wanted stays wanted, and is still being tried."""

    code = "out-of-time"
    exit_code = ExitCode.FAILED
    http_status = 504
    remedy = "Look at what it waited for; the service goes on trying. Ask again for another operation to wait for."


class Cancelled(SteelyardError):
    """Work that was ended because somebody asked for that; nothing of it is left."""

    code = "cancelled"
    exit_code = ExitCode.FAILED
    http_status = 409
    remedy = "Ask for it again if it is still wanted."


class ServiceUnready(SteelyardError):
    """A service that cannot start as it is set up: configuration, key, database or file modes."""

    code = "service-unready"
    exit_code = ExitCode.UNREADY
    http_status = 503
    remedy = "Put right what is named and start again; `steelyard init` makes what a first start needs."


# -- a device's fault: the only four ways a driver fails ---------------------------------------------------------------


class DeviceError(SteelyardError):
    """A switch or BMC failed."""

    code = "device"
    exit_code = ExitCode.DEVICE
    http_status = 502
    remedy = "Look at the device; the service goes on trying and says what it waits for."


class DeviceUnreachable(DeviceError):
    """Nothing was sent, as the device does not take a connection; trying again is safe."""

    code = "device-unreachable"


class DeviceRefused(DeviceError):
    """The device understood and said no; asking again gives the same."""

    code = "device-refused"
    remedy = "Check the device's credentials and settings; it answered, and refused."


class DeviceGarbled(DeviceError):
    """The device answered what cannot be, or not what was just written: nothing is believed until read anew."""

    code = "device-garbled"


class OutcomeUnknown(DeviceError):
    """Sent, and no answer: it may have happened. The device is read before anything else is done."""

    code = "outcome-unknown"
