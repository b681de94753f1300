"""Attack 2: endorsement certificates that no trusted maker stands behind, one thing wrong at a time."""

import base64
import subprocess
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from steelyard.evidence.tpm.certificate import Certificate, parse_certificate
from steelyard.evidence.tpm.endorsement import (
    Demand,
    MakerTrust,
    TpmMake,
    check_key_matches,
    read_tpm_make,
    verify_chain,
    verify_endorsement,
    verify_iak,
)
from steelyard.evidence.tpm.keys import check_attestation_key, check_endorsement_key
from steelyard.evidence.tpm.public import parse_tpm2b_public
from steelyard.evidence.tpm.revocation import RevocationList
from steelyard.model.errors import CertificateRejected, TooLarge
from steelyard.model.limits import CHAIN_CERTIFICATES, MAKER_CERTIFICATES
from tests.tpm import EndorsementKind, SigningKind, SoftwareTpm, require_programs
from tests.unit.evidence.tpm.authorities import (
    AUTHORITY,
    DAY,
    LEAF,
    NOW,
    YEAR,
    Authority,
    Extensions,
    having,
    key_usage,
    name,
    resigned,
    root,
    rsa_root,
    tpm_names,
    without,
)
from tests.unit.evidence.tpm.keypairs import P384, ecc_key, ecdsa, endorsement_area, rsa_key
from tests.vectors_dir import shared_vectors

ROOT: Final = root()
ISSUING: Final = ROOT.authority("Issuing", ecc_key(P384, 1))
EK: Final = ecc_key(number=9)


def trust(*anchors: Authority | Certificate, revocations: Collection[RevocationList] = ()) -> MakerTrust:
    certificates = [anchor.certificate if isinstance(anchor, Authority) else anchor for anchor in anchors]
    return MakerTrust(tuple(certificates), tuple(revocations), frozenset(Demand))


def chain(
    leaf: Certificate,
    *intermediates: Authority | Certificate,
    believing: MakerTrust | None = None,
    now: datetime = NOW,
) -> tuple[Certificate, ...]:
    along = [part.certificate if isinstance(part, Authority) else part for part in intermediates]
    return verify_endorsement(leaf, along, believing or trust(ROOT), now).chain


def endorsement_certificate(
    issuer: Authority = ISSUING, extensions: Extensions = LEAF, start: datetime = NOW - YEAR, end: datetime = NOW + YEAR
) -> Certificate:
    return issuer.issue("", EK, extensions, start=start, end=end)


# -- good ones ---------------------------------------------------------------------------------------------------------


def test_a_chain_goes_from_the_certificate_to_the_makers_root() -> None:
    leaf = endorsement_certificate()
    assert chain(leaf, ISSUING) == (leaf, ISSUING.certificate, ROOT.certificate)


def test_a_chain_ends_at_the_first_certificate_that_is_trusted_as_such() -> None:
    leaf = endorsement_certificate()
    assert chain(leaf, believing=trust(ISSUING)) == (leaf, ISSUING.certificate)
    assert chain(leaf, ISSUING, believing=trust(ROOT, ISSUING)) == (leaf, ISSUING.certificate)


@pytest.mark.parametrize("moment", [NOW - YEAR, NOW, NOW + YEAR])
def test_a_certificate_holds_from_its_first_to_its_last_second(moment: datetime) -> None:
    chain(endorsement_certificate(), ISSUING, now=moment)


def test_rsa_pss_and_rsa_makers_are_believed() -> None:
    maker = rsa_root()
    chain(endorsement_certificate(maker), believing=trust(maker))
    builder = x509.CertificateBuilder(name(maker.name), name(""), EK.public_key(), 5, NOW - DAY, NOW + DAY)
    for extension, critical in LEAF:
        builder = builder.add_extension(extension, critical)
    assert isinstance(maker.private, rsa.RSAPrivateKey)
    made = builder.sign(
        maker.private,
        hashes.SHA384(),
        rsa_padding=padding.PSS(padding.MGF1(hashes.SHA384()), padding.PSS.DIGEST_LENGTH),
    )
    chain(parse_certificate(made.public_bytes(Encoding.DER)), believing=trust(maker))


# -- real ones ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [EndorsementKind.RSA_2048, EndorsementKind.ECC_P384])
def test_a_software_tpms_certificate_leads_to_its_own_authority_and_openssl_agrees(
    tpm: SoftwareTpm, tmp_path: Path, kind: EndorsementKind
) -> None:
    leaf = parse_certificate(tpm.read_endorsement_certificate(kind))
    issuing, top = (parse_certificate(data) for data in tpm.read_authority())
    now = datetime.now(UTC)
    verified = verify_endorsement(leaf, [issuing], trust(top), now)
    assert verified.chain == (leaf, issuing, top)
    assert verified.make.manufacturer == "id:00001014"
    assert verified.make.model == "swtpm"
    key = check_endorsement_key(parse_tpm2b_public(tpm.create_endorsement_key(kind).public))
    check_key_matches(verified, key)
    other = tpm.create_endorsement_key(EndorsementKind.ECC_P256)
    with pytest.raises(CertificateRejected, match="another key"):
        check_key_matches(verified, check_endorsement_key(parse_tpm2b_public(other.public)))
    openssl_verifies(tmp_path, now, leaf, [issuing], top)


@pytest.mark.parametrize(
    ("file", "issuer", "above"),
    [
        ("stm-rsa-ek.der", "ibm-stmtpmekint05.pem", "ibm-stmtpmekroot.pem"),
        ("stm-ecc-ek.der", "ibm-stmtpmeccint01.pem", "ibm-stmtpmeccroot01.pem"),
        ("not-strict-der.der", "ibm-NuvotonTPMRootCA2111.pem", None),
    ],
)
def test_a_recorded_certificate_leads_to_its_maker_and_openssl_agrees(
    tmp_path: Path, file: str, issuer: str, above: str | None
) -> None:
    leaf = parse_certificate((shared_vectors("certs") / file).read_bytes())
    makers = {path.name: parse_certificate(path.read_bytes()) for path in shared_vectors("maker-ca").iterdir()}
    now = datetime(2022, 1, 1, tzinfo=UTC)
    everyone = trust(*makers.values())
    assert verify_endorsement(leaf, [], everyone, now).chain == (leaf, makers[issuer])
    openssl_verifies(tmp_path, now, leaf, [], makers[issuer])
    if above:
        assert verify_endorsement(leaf, [makers[issuer]], trust(makers[above]), now).chain == (
            leaf,
            makers[issuer],
            makers[above],
        )
        openssl_verifies(tmp_path, now, leaf, [makers[issuer]], makers[above])
    without_issuer = trust(*(maker for file, maker in makers.items() if file not in (issuer, above)))
    with pytest.raises(CertificateRejected):
        verify_endorsement(leaf, [], without_issuer, now)
    for moment in (leaf.fields.not_valid_before_utc - DAY, leaf.fields.not_valid_after_utc + DAY):
        with pytest.raises(CertificateRejected, match="valid"):
            verify_endorsement(leaf, [], everyone, moment)


def test_a_recorded_certificate_of_a_maker_that_is_not_trusted_is_refused() -> None:
    leaf = parse_certificate((shared_vectors("certs") / "ifx-rsa-035-a.der").read_bytes())
    assert read_tpm_make(leaf) == TpmMake("IFX", "SLB 9670 TPM2.0", "id:073f")
    makers = [parse_certificate(path.read_bytes()) for path in shared_vectors("maker-ca").iterdir()]
    with pytest.raises(CertificateRejected, match="none of that name"):
        verify_endorsement(leaf, [], trust(*makers), datetime(2022, 1, 1, tzinfo=UTC))


def openssl_verifies(
    directory: Path, now: datetime, leaf: Certificate, intermediates: list[Certificate], anchor: Certificate
) -> None:
    """Have `openssl verify` build the same chain. It does not know the critical names of a TPM, and is told so."""
    require_programs({"openssl": "openssl"})
    files = {"leaf": [leaf], "untrusted": intermediates, "anchor": [anchor]}
    for file, certificates in files.items():
        (directory / file).write_bytes(b"".join(_pem(certificate) for certificate in certificates))
    untrusted = ["-untrusted", "untrusted"] if intermediates else []
    done = subprocess.run(
        [
            *("openssl", "verify", "-partial_chain", "-ignore_critical", "-attime", str(int(now.timestamp()))),
            *(*untrusted, "-CAfile", "anchor", "leaf"),
        ],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _pem(certificate: Certificate) -> bytes:
    body = base64.encodebytes(certificate.encoded)
    return b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"


# -- attack 2: time, name, authority -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "end"), [(-2 * YEAR, -DAY), (DAY, YEAR), (-2 * YEAR, -timedelta(seconds=1))])
def test_attack_2_a_certificate_that_is_expired_or_not_yet_valid_is_refused(start: timedelta, end: timedelta) -> None:
    with pytest.raises(CertificateRejected, match="to be valid"):
        chain(endorsement_certificate(start=NOW + start, end=NOW + end), ISSUING)


@pytest.mark.parametrize(("start", "end"), [(-2 * YEAR, -DAY), (DAY, YEAR)])
def test_attack_2_an_issuer_or_root_that_is_not_valid_now_is_refused(start: timedelta, end: timedelta) -> None:
    issuer_certificate = ROOT.issue("Issuing", ISSUING.private, AUTHORITY, start=NOW + start, end=NOW + end)
    with pytest.raises(CertificateRejected, match="to be valid"):
        chain(endorsement_certificate(), issuer_certificate)
    top = root(start=NOW + start, end=NOW + end)
    with pytest.raises(CertificateRejected, match="to be valid"):
        chain(endorsement_certificate(top), believing=trust(top))


def test_attack_2_an_issuer_by_name_only_is_refused() -> None:
    impostor = root("Root", ecc_key(P384, 5))
    with pytest.raises(CertificateRejected, match="by the issuer's key"):
        chain(endorsement_certificate(impostor))
    with pytest.raises(CertificateRejected, match="by the issuer's key"):
        chain(endorsement_certificate(root("Issuing", ecc_key(P384, 5))), ISSUING)
    with pytest.raises(CertificateRejected, match="by the issuer's key"):
        chain(endorsement_certificate(root("RSA root", rsa_key(2048, 5))), believing=trust(rsa_root()))


def test_attack_2_a_key_of_another_name_is_refused() -> None:
    renamed = Authority("Other", ISSUING.private, ISSUING.certificate)
    with pytest.raises(CertificateRejected, match="none of that name"):
        chain(endorsement_certificate(renamed), ISSUING)


def test_attack_2_a_certificate_signed_by_nobody_trusted_is_refused() -> None:
    own = root("Attacker", ecc_key(P384, 5))
    for leaf, along in (
        (endorsement_certificate(own), (own,)),
        (endorsement_certificate(own.authority("Sub", ecc_key())), (own, own.authority("Sub", ecc_key()))),
    ):
        with pytest.raises(CertificateRejected):
            chain(leaf, *along)
    with pytest.raises(CertificateRejected):
        chain(endorsement_certificate(), ISSUING, believing=trust())


NOT_AUTHORITIES: Final[list[Extensions]] = [
    without(AUTHORITY, x509.BasicConstraints),
    having(AUTHORITY, x509.BasicConstraints(ca=False, path_length=None)),
    having(AUTHORITY, key_usage(sign=True, revoke=True)),
    (),
]


@pytest.mark.parametrize("extensions", NOT_AUTHORITIES)
def test_attack_2_an_issuer_that_is_no_authority_is_refused(extensions: Extensions) -> None:
    issuer = ROOT.authority("Issuing", ISSUING.private, extensions)
    with pytest.raises(CertificateRejected, match="to be a certification authority"):
        chain(endorsement_certificate(issuer), issuer)
    top = root("Root", None, extensions)
    with pytest.raises(CertificateRejected, match="to be a certification authority"):
        chain(endorsement_certificate(top), believing=trust(top))


def test_attack_2_a_chain_through_another_tpms_certificate_is_refused() -> None:
    stolen = ecc_key(P384, 6)
    other_tpm = Authority("Leaf", stolen, ROOT.issue("Leaf", stolen, LEAF))
    with pytest.raises(CertificateRejected, match="to be a certification authority"):
        chain(endorsement_certificate(other_tpm), other_tpm)


def test_an_authority_without_key_usage_may_issue() -> None:
    issuer = ROOT.authority("Issuing", ISSUING.private, without(AUTHORITY, x509.KeyUsage))
    chain(endorsement_certificate(issuer), issuer)


def test_attack_2_an_authoritys_certificate_is_no_endorsement_certificate() -> None:
    authority = having(LEAF, x509.BasicConstraints(ca=True, path_length=0))
    with pytest.raises(CertificateRejected, match="a key's certificate"):
        chain(endorsement_certificate(extensions=authority), ISSUING)


@pytest.mark.parametrize(("most", "holds"), [(None, True), (2, True), (1, True), (0, False)])
def test_attack_2_a_path_longer_than_an_authority_allows_is_refused(most: int | None, *, holds: bool) -> None:
    top = root("Root", None, having(AUTHORITY, x509.BasicConstraints(ca=True, path_length=most)))
    issuer = top.authority("Issuing", ecc_key())
    leaf = endorsement_certificate(issuer)
    chain(endorsement_certificate(top), believing=trust(top))
    if holds:
        chain(leaf, issuer, believing=trust(top))
    else:
        with pytest.raises(CertificateRejected, match="at most 0 authorities"):
            chain(leaf, issuer, believing=trust(top))


UNKNOWN: Final = x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
CONSTRAINED: Final = x509.NameConstraints([x509.DNSName("example.org")], None)


@pytest.mark.parametrize("extension", [UNKNOWN, CONSTRAINED, x509.PolicyConstraints(0, None)])
def test_attack_2_a_critical_extension_that_is_not_understood_is_refused(extension: x509.ExtensionType) -> None:
    with pytest.raises(CertificateRejected, match="critical extensions"):
        chain(endorsement_certificate(extensions=[*LEAF, (extension, True)]), ISSUING)
    issuer = ROOT.authority("Issuing", ISSUING.private, [*AUTHORITY, (extension, True)])
    with pytest.raises(CertificateRejected, match="critical extensions"):
        chain(endorsement_certificate(issuer), issuer)
    top = root("Root", None, [*AUTHORITY, (extension, True)])
    with pytest.raises(CertificateRejected, match="critical extensions"):
        chain(endorsement_certificate(top), believing=trust(top))


def test_an_extension_that_is_not_critical_need_not_be_understood() -> None:
    chain(endorsement_certificate(extensions=[*LEAF, (UNKNOWN, False)]), ISSUING)


# -- attack 2: weak signatures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("oid", "algorithm"),
    [
        ("06092a864886f70d010105", hashes.SHA1()),  # noqa: S303  what is to be refused
        ("06092a864886f70d01010e", hashes.SHA224()),
    ],
)
def test_attack_2_a_signature_over_a_weak_hash_is_refused(oid: str, algorithm: hashes.HashAlgorithm) -> None:
    maker = rsa_root()
    weak = bytes.fromhex("300d" + oid + "0500")
    data = resigned(
        endorsement_certificate(maker), maker.private, lambda fields: [*fields[:2], weak, *fields[3:]], algorithm
    )
    leaf = parse_certificate(data)
    assert isinstance(maker.certificate.key, rsa.RSAPublicKey)
    maker.certificate.key.verify(leaf.fields.signature, leaf.signed, padding.PKCS1v15(), algorithm)
    with pytest.raises(CertificateRejected, match="SHA-256"):
        chain(leaf, believing=trust(maker))


@pytest.mark.parametrize(
    "weak",
    [
        pytest.param(lambda: root("Weak", rsa_key(1024)), id="RSA-1024"),
        pytest.param(lambda: root("Weak", ec.generate_private_key(ec.SECP224R1())), id="P-224"),
        pytest.param(lambda: root("Weak", ec.generate_private_key(ec.SECP192R1())), id="P-192"),
    ],
)
def test_attack_2_an_issuer_whose_key_can_be_computed_is_refused(weak: Callable[[], Authority]) -> None:
    maker = weak()
    with pytest.raises(CertificateRejected, match="key of at least"):
        chain(endorsement_certificate(maker), believing=trust(maker))


def test_attack_2_a_signature_in_a_scheme_of_another_kind_of_key_is_refused() -> None:
    of_rsa, of_ecc = rsa_root(), root("RSA root", ecc_key(P384))
    for signer, claimed in ((of_rsa, of_ecc), (of_ecc, of_rsa)):
        with pytest.raises(CertificateRejected, match="scheme of the issuer's key"):
            chain(endorsement_certificate(signer), believing=trust(claimed))


# -- attack 2: what the certificate is for -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extensions",
    [
        having(LEAF, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False),
        having(LEAF, x509.ExtendedKeyUsage([ObjectIdentifier("2.23.133.8.3")]), critical=False),
    ],
)
def test_attack_2_a_certificate_for_another_use_is_refused_whatever_is_demanded(extensions: Extensions) -> None:
    leaf = endorsement_certificate(extensions=extensions)
    for demands in (frozenset[Demand](), frozenset(Demand)):
        with pytest.raises(CertificateRejected, match="tcg-kp-EKCertificate"):
            chain(leaf, ISSUING, believing=replace(trust(ROOT), demands=demands))


def test_attack_2_a_certificate_whose_key_may_not_decrypt_is_refused() -> None:
    for usage in (key_usage(sign=True), key_usage(issue=True)):
        with pytest.raises(CertificateRejected, match="keyEncipherment"):
            chain(endorsement_certificate(extensions=having(LEAF, usage)), ISSUING)
    for usage in (key_usage(encipher=True), key_usage(agree=True)):
        chain(endorsement_certificate(extensions=having(LEAF, usage)), ISSUING)
    chain(endorsement_certificate(extensions=without(LEAF, x509.KeyUsage)), ISSUING)


@pytest.mark.parametrize(
    ("demand", "extensions"),
    [
        (Demand.TCG_USAGE, without(LEAF, x509.ExtendedKeyUsage)),
        (Demand.TCG_NAMES, without(LEAF, x509.SubjectAlternativeName)),
        *(
            (Demand.TCG_NAMES, having(LEAF, x509.SubjectAlternativeName([x509.DirectoryName(names)])))
            for names in (tpm_names(""), tpm_names(model=""), tpm_names(version=""))
        ),
    ],
)
def test_attack_2_usage_and_names_are_missed_where_they_are_demanded_and_only_there(
    demand: Demand, extensions: Extensions
) -> None:
    leaf = endorsement_certificate(extensions=extensions)
    with pytest.raises(CertificateRejected):
        chain(leaf, ISSUING, believing=replace(trust(ROOT), demands=frozenset({demand})))
    chain(leaf, ISSUING, believing=replace(trust(ROOT), demands=frozenset(Demand) - {demand}))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("id:53544D20", "STM"),
        ("id:49465800", "IFX"),
        ("id:FFFFFFFF", "id:FFFFFFFF"),
        ("id:1B5B324A", "id:1B5B324A"),
        ("id:00000000", "id:00000000"),
        ("id:GGGGGGGG", "id:GGGGGGGG"),
        ("no:53544D20", "no:53544D20"),
        ("STM", "STM"),
        ("id:53544D2020", "id:53544D2020"),
        ("\x1b[2J", "\\x1b[2J"),
    ],
)
def test_the_makers_identifier_is_read_and_fit_to_be_shown(written: str, read: str) -> None:
    names = x509.SubjectAlternativeName([x509.DirectoryName(tpm_names(written))])
    leaf = endorsement_certificate(extensions=having(LEAF, names))
    assert read_tpm_make(leaf) == TpmMake(read, "ST33", "id:00490004")


def test_the_alternative_name_comes_before_the_subject_for_the_tpms_names() -> None:
    subject = x509.Name([*tpm_names("id:49465800", "in the subject", ""), x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateBuilder(name("Root"), subject, EK.public_key(), 5, NOW - DAY, NOW + DAY)
    plain = parse_certificate(builder.sign(ROOT.private, hashes.SHA256()).public_bytes(Encoding.DER))
    assert read_tpm_make(plain) == TpmMake("IFX", "in the subject", None)
    for extension, critical in LEAF:
        builder = builder.add_extension(extension, critical)
    both = parse_certificate(builder.sign(ROOT.private, hashes.SHA256()).public_bytes(Encoding.DER))
    assert read_tpm_make(both) == TpmMake("STM", "ST33", "id:00490004")


def test_attack_2_a_certificate_for_another_key_than_the_endorsement_key_is_refused() -> None:
    verified = verify_endorsement(endorsement_certificate(), [ISSUING.certificate], trust(ROOT), NOW)
    check_key_matches(verified, check_endorsement_key(endorsement_area(EK)))
    for other in (ecc_key(number=10), ecc_key(P384), rsa_key()):
        with pytest.raises(CertificateRejected, match="another key"):
            check_key_matches(verified, check_endorsement_key(endorsement_area(other)))


# -- chains that try the builder ---------------------------------------------------------------------------------------


def test_a_dead_end_tried_first_does_not_hide_the_good_chain() -> None:
    """The issuing authority is certified twice, by a stranger and by the maker; the stranger's comes first."""
    stranger = root("Stranger", ecc_key(P384, 5))
    cross_signed = stranger.authority("Issuing", ISSUING.private)
    leaf = endorsement_certificate()
    for along in ((cross_signed, ISSUING), (ISSUING, cross_signed), (cross_signed, stranger, ISSUING)):
        assert chain(leaf, *along) == (leaf, ISSUING.certificate, ROOT.certificate)


def test_the_wrong_authority_of_the_same_name_does_not_hide_the_right_one() -> None:
    namesake = ROOT.authority("Issuing", ecc_key(P384, 5))
    expired = ROOT.issue("Issuing", ISSUING.private, AUTHORITY, start=NOW - 2 * YEAR, end=NOW - YEAR)
    leaf = endorsement_certificate()
    assert chain(leaf, namesake, expired, ISSUING)[1] == ISSUING.certificate
    assert chain(leaf, ISSUING, believing=trust(root("Root", ecc_key(P384, 5)), ROOT))[2] == ROOT.certificate


def test_the_shortest_chain_is_found_where_a_longer_one_would_break_a_path_length() -> None:
    top = root("Root", None, having(AUTHORITY, x509.BasicConstraints(ca=True, path_length=1)))
    middle = top.authority("Middle", ecc_key(P384, 2))
    direct = top.authority("Issuing", ISSUING.private)
    detour = middle.authority("Issuing", ISSUING.private)
    leaf = endorsement_certificate(direct)
    assert chain(leaf, detour, middle, direct, believing=trust(top)) == (leaf, direct.certificate, top.certificate)


def test_attack_2_a_loop_of_authorities_is_refused() -> None:
    first = Authority("First", ecc_key(P384, 2), ISSUING.certificate)
    second = first.authority("Second", ecc_key(P384, 3))
    looped = second.authority("First", first.private)
    with pytest.raises(CertificateRejected, match="loop"):
        chain(endorsement_certificate(second), second, looped)


def test_attack_2_a_crowd_of_authorities_that_all_certify_one_another_is_refused_at_once() -> None:
    """Every one is signed by every other's key: there are 8! chains to nowhere."""
    crowd = [
        root(
            "Crowd",
            ecc_key(P384, 7),
            [*AUTHORITY, (x509.UnrecognizedExtension(ObjectIdentifier(f"1.2.3.{n}"), b""), False)],
        )
        for n in range(CHAIN_CERTIFICATES.most)
    ]
    with pytest.raises(CertificateRejected, match="loop"):
        chain(endorsement_certificate(crowd[0]), *crowd)


def test_a_chain_of_as_many_as_may_come_along_holds_and_one_more_is_refused() -> None:
    authorities = [ROOT]
    for number in range(CHAIN_CERTIFICATES.most + 1):
        authorities.append(authorities[-1].authority(f"Level {number}", ecc_key(number=20 + number)))
    longest = authorities[1:-1]
    leaf = endorsement_certificate(longest[-1])
    assert len(chain(leaf, *longest)) == CHAIN_CERTIFICATES.most + 2
    with pytest.raises(TooLarge):
        chain(endorsement_certificate(authorities[-1]), *authorities[1:])


def test_more_anchors_than_there_are_makers_are_refused() -> None:
    many = MakerTrust((ROOT.certificate,) * (MAKER_CERTIFICATES.most + 1), (), frozenset())
    with pytest.raises(TooLarge):
        verify_chain(endorsement_certificate(ROOT), [], many, NOW)


# -- initial attestation keys ------------------------------------------------------------------------------------------


IAK_EXTENSIONS: Final[Extensions] = (
    (x509.BasicConstraints(ca=False, path_length=None), True),
    (key_usage(sign=True), True),
)


def test_an_iak_certificate_by_a_trusted_maker_for_this_very_key_holds() -> None:
    iak = ecdsa(3)
    certificate = ISSUING.issue("IAK", iak.private, IAK_EXTENSIONS)
    believed = verify_iak(certificate, [ISSUING.certificate], iak.key(), trust(ROOT), NOW)
    assert believed == (certificate, ISSUING.certificate, ROOT.certificate)


def test_attack_6_an_iak_certificate_for_another_key_or_by_nobody_trusted_is_refused() -> None:
    certificate = ISSUING.issue("IAK", ecdsa(3).private, IAK_EXTENSIONS)
    with pytest.raises(CertificateRejected, match="another key"):
        verify_iak(certificate, [ISSUING.certificate], ecdsa(4).key(), trust(ROOT), NOW)
    with pytest.raises(CertificateRejected):
        verify_iak(certificate, [], ecdsa(3).key(), trust(ROOT), NOW)


def test_a_real_iak_is_matched_with_a_certificate_for_it(tpm: SoftwareTpm) -> None:
    made = tpm.create_signing_key(
        SigningKind.ECC_P256_ECDSA_SHA256, "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign|restricted"
    )
    iak = check_attestation_key(parse_tpm2b_public(made.public))
    public = iak.public.parameters.public_key()
    builder = x509.CertificateBuilder(name("Root"), name("IAK"), public, 5, NOW - DAY, NOW + DAY)
    certificate = parse_certificate(builder.sign(ROOT.private, hashes.SHA256()).public_bytes(Encoding.DER))
    assert verify_iak(certificate, [], iak, trust(ROOT), NOW) == (certificate, ROOT.certificate)
