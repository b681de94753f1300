"""What an event's digest covers: the one part of an event, besides its PCR, that can be believed.

A digest commits to the bytes that were hashed and to nothing else: not to the event's type, not to a description beside
them, not to data that is merely logged. So the type plays no part here (but that an EV_NO_ACTION was never extended):
what counts is that bytes found in the event hash to its digest, and what those very bytes are. Which bytes firmware and
boot loaders hash differs; the conventions that were seen in real logs are the ones tried, and each is a hash away from
being right or wrong.

A rule may rest on the types below and on no other part of an event.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Final

from steelyard.evidence.eventlog.events import Event, EventType
from steelyard.evidence.eventlog.texts import read_text
from steelyard.evidence.eventlog.variables import UefiVariable, split_variable
from steelyard.model.algorithms import HashAlgorithm
from steelyard.model.errors import MalformedEventLog


@dataclass(frozen=True, slots=True)
class CommittedData:
    """Bytes that no narrower type below fits.

    covered  here and below: the bytes whose hash is the event's digest.
    """

    covered: bytes


@dataclass(frozen=True, slots=True)
class CommittedText:
    """ASCII, UTF-8 or UTF-16 of printable characters and white space: an action, a command line, a section's name.

    What kind of text it is was a word in front of it or the type of the event, so is not covered: GRUB's command and
    the kernel's command line look the same. Tell them by PCR and by the text itself.
    """

    covered: bytes
    text: str


@dataclass(frozen=True, slots=True)
class CommittedVariable:
    """A whole UEFI_VARIABLE_DATA: vendor, name and value are covered."""

    covered: bytes
    variable: UefiVariable


@dataclass(frozen=True, slots=True)
class CommittedVariableValue:
    """The value of a variable alone, as EDK2 measures boot entries and their order.

    Neither the name nor the vendor is covered, and so neither is in here: a value that was measured for one variable
    may be shown under the name of another.
    """

    covered: bytes


@dataclass(frozen=True, slots=True)
class CommittedSeparator:
    """Four bytes that firmware extends where it hands over: 0 or 0xffffffff, or 1 when it met an error."""

    covered: bytes

    @property
    def value(self) -> int:
        """The number that the four bytes are, little-endian."""
        return int.from_bytes(self.covered, "little")


Committed = CommittedData | CommittedText | CommittedVariable | CommittedVariableValue | CommittedSeparator

NORMAL_SEPARATORS: Final = frozenset({0x00000000, 0xFFFFFFFF})
ERROR_SEPARATOR: Final = 0x00000001
"""Source for both: TCG PC Client Platform Firmware Profile 1.06, EV_SEPARATOR."""

_SEPARATORS: Final[Mapping[HashAlgorithm, Mapping[bytes, bytes]]] = {
    bank: {
        bank.digest(data): data
        for data in (value.to_bytes(4, "little") for value in (*NORMAL_SEPARATORS, ERROR_SEPARATOR))
    }
    for bank in HashAlgorithm
    if bank.believed
}
"""Per bank: digest -> the separator it is the hash of. Known from the digest alone, whatever the event's data says:
OpenPOWER firmware logs a description in its place."""


def committed_content(event: Event, bank: HashAlgorithm) -> Committed | None:
    """Return what the event's digest of `bank` covers, or nothing: then no part of its data may be believed.

    Nothing for an EV_NO_ACTION, which is never extended, and for a bank that is not believed.
    Costs one hash of the data for most events; at most five, all of bytes no longer than the data and one.
    """
    digest = event.digests.get(bank)
    if digest is None or event.claimed_type == EventType.EV_NO_ACTION or not bank.believed:
        return None
    separator = _SEPARATORS[bank].get(digest)
    if separator is not None:
        return CommittedSeparator(separator)
    if bank.digest(event.data) == digest:
        return _read_whole(event.data)
    for candidates in _CONVENTIONS:
        for candidate in candidates(event.data):
            if bank.digest(candidate.covered) == digest:
                return candidate
    return None


def separator_value(digest: bytes, bank: HashAlgorithm) -> int | None:
    """Return the separator that `digest` is the hash of, or nothing; `bank` is a believed one."""
    data = _SEPARATORS[bank].get(digest)
    return None if data is None else int.from_bytes(data, "little")


def covers_data(event: Event, bank: HashAlgorithm) -> bool:
    """Say whether the digest of `bank` covers the event's data, every byte of it: what is shown as trusted.

    A NUL after the data may be covered too (`_nul_left_out`). Data of which a part is not covered is not trusted as
    a whole, though `committed_content` returns the part that is.
    """
    committed = committed_content(event, bank)
    return committed is not None and committed.covered in (event.data, event.data + b"\0")


# -- the whole data is what was hashed ---------------------------------------------------------------------------------

_LENGTHS: Final = Struct("<16xQQ")
"""Of a UEFI_VARIABLE_DATA: the vendor passed over, characters of the name, bytes of the value."""


def _read_whole(data: bytes) -> Committed:
    if _place_of_value(data).stop == len(data):
        try:
            return CommittedVariable(data, split_variable(data)[0])
        except MalformedEventLog:
            return CommittedData(data)
    return _as_text(data, data)


def _place_of_value(data: bytes) -> slice:
    """Return where the value stands if `data` begins with a UEFI_VARIABLE_DATA; it may stop past the end of `data`."""
    if len(data) < _LENGTHS.size:
        return slice(_LENGTHS.size, _LENGTHS.size)
    characters, value_bytes = _LENGTHS.unpack_from(data)
    start = _LENGTHS.size + 2 * characters
    return slice(start, start + value_bytes)


def _as_text(covered: bytes, encoded: bytes) -> CommittedText | CommittedData:
    text = read_text(encoded)
    return CommittedData(covered) if text is None else CommittedText(covered, text)


# -- a part of the data, or the data and a little more, is what was hashed ---------------------------------------------

_SHIM_15_FILLING: Final = bytes(5)
_SHIM_15_AFTER: Final = 6
_GRUB_LABELS: Final = (b"grub_cmd: ", b"kernel_cmdline: ", b"module_cmdline: ", b"grub_cmd ", b"grub_kernel_cmdline ")
"""The last two: GRUB of RHEL 8."""


def _variable_value(data: bytes) -> Iterable[Committed]:
    """EDK2 of any age, EV_EFI_VARIABLE_BOOT: the value without vendor and name."""
    place = _place_of_value(data)
    if place.stop == len(data):
        yield CommittedVariableValue(data[place])


def _shim_15_variable(data: bytes) -> Iterable[Committed]:
    """shim 15 counts its padded structure: five zeros after the variable are hashed, one more byte only logged."""
    if _place_of_value(data).stop == len(data) - _SHIM_15_AFTER and data[-_SHIM_15_AFTER:-1] == _SHIM_15_FILLING:
        try:
            yield CommittedVariable(data[:-1], split_variable(data)[0])
        except MalformedEventLog:
            return


def _grub_string(data: bytes) -> Iterable[Committed]:
    """GRUB: the string after a label that is not hashed; its NUL is hashed by none but RHEL 8's (grub_cmd)."""
    for label in _GRUB_LABELS:
        if data.startswith(label):
            string = data[len(label) :]
            yield _as_text(string.removesuffix(b"\0"), string)
            if string.endswith(b"\0"):
                yield _as_text(string, string)
            return


def _nul_left_out(data: bytes) -> Iterable[Committed]:
    """systemd-boot before 250: the last byte of the UTF-16 NUL is hashed, not logged."""
    if len(data) % 2 and data.endswith(b"\0"):
        yield _as_text(data + b"\0", data + b"\0")


def _section_name(data: bytes) -> Iterable[Committed]:
    """systemd-stub, PCR 11: the ASCII name of a PE section with its NUL is hashed, the name in UTF-16 is logged."""
    if len(data) % 2 == 0 and data.endswith(b"\0\0") and not any(data[1::2]):
        yield _as_text(data[::2], data[::2])


_CONVENTIONS: Final[tuple[Callable[[bytes], Iterable[Committed]], ...]] = (
    _variable_value,
    _shim_15_variable,
    _grub_string,
    _nul_left_out,
    _section_name,
)
