"""Quotes: from signed bytes to PCR values that can be believed, and what the TPM's clock says between two of them."""

import hmac
from dataclasses import dataclass
from typing import Final

from steelyard.evidence.reader import refuse_over
from steelyard.evidence.tpm.attest import TpmsClockInfo, TpmsQuoteInfo, parse_tpms_attest
from steelyard.evidence.tpm.keys import BoundKey
from steelyard.evidence.tpm.nonce import Challenge
from steelyard.evidence.tpm.selection import TpmlPcrSelection, marshal_selection
from steelyard.model.errors import (
    ClockWentBack,
    Malformed,
    NotAQuote,
    PcrMismatch,
    WrongNonce,
    WrongSelection,
)
from steelyard.model.limits import TPM_STRUCTURE_BYTES
from steelyard.model.pcrs import PcrSelection, PcrValues

_DOING: Final = "verifying a quote"


@dataclass(frozen=True, slots=True)
class SignedQuote:
    """A quote as it came: `attest` a TPMS_ATTEST, `signature` a TPMT_SIGNATURE, both unread."""

    attest: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class QuotedPcrs:
    """PCR values that the TPM of a bound key vouched for. Only `verify_quote` makes it."""

    pcrs: PcrValues
    clock: TpmsClockInfo
    firmware_version: int
    key: BoundKey


def verify_quote(
    quote: SignedQuote, key: BoundKey, challenge: Challenge, asked: PcrSelection, claimed_pcrs: PcrValues
) -> QuotedPcrs:
    """Return the PCR values this TPM vouched for, now trusted.

    quote         TPMS_ATTEST and TPMT_SIGNATURE as the TPM sent them, big-endian.
    key           a restricted signing key bound to this node's TPM, from our own store, never from the message.
    challenge     our nonce, never used before, and the keys the quote is to vouch for.
    asked         one bank and the PCRs we asked for.
    claimed_pcrs  index -> digest; exactly the indices asked for, of the bank asked for.

    The order, each step on what the one before left:
    0. sizes within limits;
    1. scheme and hash are the key's own, never SHA-1, and the signature is over exactly these bytes;
    2. magic, type, every field, nothing after the last;
    3. extraData equals the challenge's qualifying data;
    4. the signed selection is byte for byte the one asked for, and the claimed values are of just those PCRs;
    5. the values hash to the signed digest, in index order, with the hash of the signature.
    The clock is compared by `compare_clock`, with what was accepted before.

    Raises MalformedTpmStructure, TooLarge; BadSignature, NotAQuote, WrongNonce, WrongSelection, PcrMismatch (each a
    QuoteRejected).
    Source: TPM 2.0 Library Part 2, TPMS_ATTEST and TPMS_QUOTE_INFO; Part 3, TPM2_Quote; Part 1, section 17.5.
    """
    refuse_over(TPM_STRUCTURE_BYTES, len(quote.attest), _DOING)
    key.signing.verify(quote.signature, quote.attest, _DOING)
    try:
        attest = parse_tpms_attest(quote.attest)
    except Malformed as error:
        # Its signature is good, so these are not bytes that went wrong on the way: the key signs other things too.
        raise NotAQuote(_DOING, expected=error.expected, found=error.found) from error
    attested = attest.attested
    if not isinstance(attested, TpmsQuoteInfo):
        raise NotAQuote(_DOING, expected="an attestation of PCRs", found="an attestation of a key")
    qualifying_data = challenge.qualifying_data()
    if not hmac.compare_digest(attest.extra_data, qualifying_data):
        raise WrongNonce(
            _DOING, expected=f"qualifying data {qualifying_data.hex()}", found=attest.extra_data.hex() or "none"
        )
    _check_selection(attested.pcr_select, asked, claimed_pcrs)
    digest = key.signing.hash_algorithm.digest(claimed_pcrs.of(asked.indices))
    if not hmac.compare_digest(attested.pcr_digest, digest):
        raise PcrMismatch(
            _DOING,
            expected=f"PCR values that hash to {attested.pcr_digest.hex()}",
            found=f"ones that hash to {digest.hex()}",
        )
    return QuotedPcrs(claimed_pcrs, attest.clock_info, attest.firmware_version, key)


def _check_selection(signed: TpmlPcrSelection, asked: PcrSelection, claimed: PcrValues) -> None:
    if not asked.bank.believed:
        raise WrongSelection(_DOING, expected="a bank of SHA-256 or better", found=asked.bank.label)
    if signed.to_bytes() != marshal_selection(asked):
        raise WrongSelection(
            _DOING, expected=f"PCRs {asked.bank.label}:{_listed(asked.indices)}", found=describe_selection(signed)
        )
    if claimed.bank is not asked.bank or claimed.values.keys() != asked.indices:
        raise WrongSelection(
            _DOING,
            expected=f"values of {asked.bank.label}:{_listed(asked.indices)}",
            found=f"values of {claimed.bank.label}:{_listed(frozenset(claimed.values))}",
        )


def describe_selection(selection: TpmlPcrSelection) -> str:
    """Return a selection as tpm2-tools write it: "sha256:0,1,7+sha1:10"."""
    return (
        "+".join(
            f"{part.hash_algorithm.label}:{_listed(part.indices())} in {len(part.select)} bytes"
            for part in selection.selections
        )
        or "no selection"
    )


def _listed(indices: frozenset[int]) -> str:
    return ",".join(str(index) for index in sorted(indices)) or "none"


@dataclass(frozen=True, slots=True)
class SameBoot:
    """No reset since the last accepted quote: what was judged of this boot stands; only what is new is to be judged."""


@dataclass(frozen=True, slots=True)
class Rebooted:
    """The TPM was reset: nothing judged before stands, and logs from before belong to another boot (attack 13).

    resets  how many since the last accepted quote, at least 1.
    """

    resets: int


def compare_clock(accepted: QuotedPcrs, now: QuotedPcrs) -> SameBoot | Rebooted:
    """Return what happened between the last accepted quote and this one, by the TPM's own counters.

    Raises ClockWentBack when the counters ran backwards: the quote is older than one already accepted, or the TPM was
    cleared, which removes the key as well. A restart within a boot (resume) raises `restart_count` and keeps PCRs.
    `clock` may fall back only across a reset or restart after which the TPM itself says that it is not `safe`: a power
    cut loses what was not yet saved, and is no fault. The two quotes must be of one key: to keys outside the
    endorsement hierarchy a TPM tells its counters shifted, each by an amount of its own.
    Source: TPM 2.0 Library Part 1, section 36.
    """
    if accepted.key.signing.fingerprint != now.key.signing.fingerprint:
        raise ClockWentBack("comparing two quotes", expected="two quotes by one key", found="two keys")
    before, after = accepted.clock, now.clock
    counted = (after.reset_count, after.restart_count)
    counted_before = (before.reset_count, before.restart_count)
    may_lose_time = counted > counted_before and not after.safe
    went_back = counted < counted_before or (after.clock < before.clock and not may_lose_time)
    if went_back:
        raise ClockWentBack(
            "comparing a quote's clock with the last accepted one",
            expected=f"no earlier than {_clock(before)}",
            found=_clock(after),
        )
    return Rebooted(after.reset_count - before.reset_count) if after.reset_count > before.reset_count else SameBoot()


def _clock(clock: TpmsClockInfo) -> str:
    return f"reset {clock.reset_count}, restart {clock.restart_count}, clock {clock.clock} ms"
