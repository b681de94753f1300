"""Reading certificates: the odd encodings that makers ship, and nothing odder."""

from pathlib import Path
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from steelyard.evidence.tpm.certificate import Certificate, parse_certificate
from steelyard.model.errors import CertificateRejected, MalformedCertificate, TooLarge
from steelyard.model.limits import CERTIFICATE_BYTES
from tests.unit.evidence.tpm.authorities import (
    LEAF,
    NOW,
    children,
    element,
    resigned,
    root,
    rsa_root,
)
from tests.unit.evidence.tpm.keypairs import ecc_key, rsa_key
from tests.vectors_dir import shared_vectors

MAKER: Final = root("Maker")
CERTIFICATE: Final = MAKER.issue("", ecc_key(), LEAF)
RSA_CERTIFICATE: Final = MAKER.issue("", rsa_key(), LEAF)
OID_RSA: Final = bytes.fromhex("06092a864886f70d010101")
OID_OAEP: Final = bytes.fromhex("06092a864886f70d010107")


def pem(data: bytes) -> bytes:
    return x509.load_der_x509_certificate(data).public_bytes(Encoding.PEM)


def resigned_by_maker(certificate: Certificate, place: int, field: bytes) -> bytes:
    """Return a certificate with one field changed, and signed by the maker as it now is."""
    return resigned(certificate, MAKER.private, lambda fields: [*fields[:place], field, *fields[place + 1 :]])


VERSION, SERIAL, ALGORITHM, ISSUER, VALIDITY, SUBJECT, KEY, EXTENSIONS = range(8)


# -- what makers ship --------------------------------------------------------------------------------------------------


def recorded(folder: str) -> list[Path]:
    return sorted(shared_vectors(folder).iterdir())


def test_every_recorded_certificate_is_read() -> None:
    oddities = {path.name: parse_certificate(path.read_bytes()).oddities for path in recorded("certs")}
    assert len(oddities) == 4
    assert [file for file, odd in oddities.items() if odd] == ["not-strict-der.der"]


def test_every_recorded_makers_certificate_is_read() -> None:
    read = [parse_certificate(path.read_bytes()) for path in recorded("maker-ca")]
    assert len(read) == 13
    assert all(certificate.extension(x509.BasicConstraints) for certificate in read)


def test_the_recorded_certificates_say_whose_they_are() -> None:
    folder = shared_vectors("certs")
    assert parse_certificate((folder / "stm-rsa-ek.der").read_bytes()).issuer() == (
        "CN=STM TPM EK Intermediate CA 05,O=STMicroelectronics NV,C=CH"
    )
    infineon = parse_certificate((folder / "ifx-rsa-035-a.der").read_bytes())
    assert infineon.subject() == "an empty name"
    assert infineon.extension(x509.NameConstraints) is None


COUNTRY: Final = element(0x30, bytes.fromhex("0603550406") + element(0x13, b"CH"))


def organization(size: int) -> bytes:
    return element(0x30, bytes.fromhex("060355040a") + element(0x0C, b"M" * size))


def with_subject(subject: bytes) -> bytes:
    return resigned_by_maker(CERTIFICATE, SUBJECT, subject)


@pytest.mark.parametrize("size", [3, 107, 108, 109, 234, 300])
def test_names_in_the_wrong_order_are_read_and_the_signature_is_over_the_bytes_as_they_came(size: int) -> None:
    """A maker writes the parts of a name in the order it likes: not DER, and signed like that."""
    assert organization(size) > COUNTRY, "DER would have the country first"
    data = with_subject(element(0x30, element(0x31, organization(size) + COUNTRY)))
    with pytest.raises(ValueError, match="InvalidSetOrdering"):
        _ = x509.load_der_x509_certificate(data).subject
    certificate = parse_certificate(data)
    assert certificate.oddities
    assert certificate.signed in data
    alphabetical = certificate.fields.subject.rfc4514_string()
    assert alphabetical == f"C=CH+O={'M' * size}"
    certificate.verify_issued_by(MAKER.certificate, NOW)


@pytest.mark.parametrize("size", [b"\x80", b"\x82\x00\x80", b"\x83\x00\x00\x80", b"\x81\x81"])
def test_a_size_that_is_not_ders_is_not_mended(size: bytes) -> None:
    """What would be read is not what was signed, when a part may end elsewhere than it says."""
    content = organization(108) + COUNTRY
    assert len(content) == 128
    assert parse_certificate(with_subject(element(0x30, element(0x31, content)))).oddities
    with pytest.raises(MalformedCertificate):
        parse_certificate(with_subject(element(0x30, b"\x31" + size + content)))


def test_a_short_size_written_long_is_not_mended() -> None:
    content = organization(3) + COUNTRY
    for size in (bytes([0x81, len(content)]), bytes([len(content) + 1])):
        with pytest.raises(MalformedCertificate):
            parse_certificate(with_subject(element(0x30, b"\x31" + size + content)))


def test_names_in_the_wrong_order_inside_the_alternative_name_are_read() -> None:
    pairs = [(oid, value) for oid, value in (("060567810502 01", b"id:53544D20"), ("060567810502 02", b"ST33"))]
    attributes = [element(0x30, bytes.fromhex(oid) + element(0x0C, value)) for oid, value in pairs]
    assert attributes != sorted(attributes)
    directory_name = element(0xA4, element(0x30, element(0x31, b"".join(attributes))))
    value = element(0x04, element(0x30, directory_name))
    extension = element(0x30, bytes.fromhex("0603551d11") + value)
    data = resigned_by_maker(CERTIFICATE, EXTENSIONS, element(0xA3, element(0x30, extension)))
    certificate = parse_certificate(data)
    assert certificate.oddities
    alternative = certificate.extension(x509.SubjectAlternativeName)
    assert alternative is not None
    assert len(alternative.get_values_for_type(x509.DirectoryName)) == 1
    certificate.verify_issued_by(MAKER.certificate, NOW)


@pytest.mark.parametrize("parameters", [b"\x05\x00", b"", element(0x30, b"")], ids=["null", "absent", "empty"])
def test_a_key_marked_for_oaep_is_read_as_the_rsa_key_it_is(parameters: bytes) -> None:
    bits = children(children(RSA_CERTIFICATE.signed)[KEY])[1]
    data = resigned_by_maker(RSA_CERTIFICATE, KEY, element(0x30, element(0x30, OID_OAEP + parameters) + bits))
    certificate = parse_certificate(data)
    assert certificate.key.public_numbers() == rsa_key().public_key().public_numbers()
    assert OID_OAEP in certificate.signed
    certificate.verify_issued_by(MAKER.certificate, NOW)


@pytest.mark.parametrize("fill", [b"\x00", b"\xff"])
def test_padding_up_to_the_size_of_the_nv_index_is_not_part_of_the_certificate(fill: bytes) -> None:
    certificate = parse_certificate(CERTIFICATE.encoded + fill * 700)
    assert certificate.encoded == CERTIFICATE.encoded
    assert certificate.oddities == ("700 bytes of padding",)


def test_pem_is_read_as_the_same_certificate() -> None:
    for data in (pem(CERTIFICATE.encoded), b"\n\n" + pem(CERTIFICATE.encoded).replace(b"\n", b"\r\n") + b"\n"):
        assert parse_certificate(data).encoded == CERTIFICATE.encoded


def test_a_serial_number_of_zero_is_malformed_where_warnings_are_errors() -> None:
    data = resigned_by_maker(CERTIFICATE, SERIAL, b"\x02\x01\x00")
    with pytest.raises(MalformedCertificate):
        parse_certificate(data)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_serial_number_of_zero_is_read() -> None:
    assert parse_certificate(resigned_by_maker(CERTIFICATE, SERIAL, b"\x02\x01\x00")).fields.serial_number == 0


@pytest.mark.filterwarnings("ignore:Attribute's length")
def test_a_country_of_three_letters_is_read() -> None:
    attribute = element(0x30, bytes.fromhex("0603550406") + element(0x13, b"CHE"))
    data = resigned_by_maker(CERTIFICATE, SUBJECT, element(0x30, element(0x31, attribute)))
    assert parse_certificate(data).subject() == "C=CHE"


# -- what nobody ships -------------------------------------------------------------------------------------------------


def test_a_certificate_cut_anywhere_is_refused() -> None:
    for data in (CERTIFICATE.encoded, RSA_CERTIFICATE.encoded):
        for end in range(len(data)):
            with pytest.raises(MalformedCertificate):
                parse_certificate(data[:end])


@pytest.mark.parametrize("more", [b"\x01", b"\x00\x01", b"\x00\xff", b"\xff\x00", CERTIFICATE.encoded])
def test_anything_but_padding_behind_a_certificate_is_refused(more: bytes) -> None:
    with pytest.raises(MalformedCertificate, match="padding"):
        parse_certificate(CERTIFICATE.encoded + more)


def test_a_pem_with_a_second_certificate_is_refused_rather_than_half_read() -> None:
    one = pem(CERTIFICATE.encoded)
    for data in (one + one, one + b"and more"):
        with pytest.raises(MalformedCertificate, match="behind"):
            parse_certificate(data)
    with pytest.raises(MalformedCertificate, match="no line that ends it"):
        parse_certificate(one[: one.index(b"-----END")])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x30\x00",
        b"\x30\x80\x00\x00",
        b"\x31\x03\x02\x01\x01",
        b"\x30\x81\x03\x02\x01\x01",
        b"\x30\x82\x00\x03\x02\x01\x01",
        b"\x30\x84\x00\x00\x00\x03\x02\x01\x01",
        b"\x30\xff" + b"\xff" * 127,
        b"\x1f\x81\x01\x00",
        b"-----BEGIN CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n",
        b"-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n",
    ],
)
def test_what_is_no_certificate_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedCertificate):
        parse_certificate(data)


def test_a_huge_certificate_is_refused_unread() -> None:
    with pytest.raises(TooLarge):
        parse_certificate(CERTIFICATE.encoded.ljust(CERTIFICATE_BYTES.most + 1, b"\x00"))


def test_nesting_deeper_than_certificates_go_is_refused() -> None:
    deep = b""
    for _ in range(1000):
        deep = element(0x30, deep)
    assert len(deep) < CERTIFICATE_BYTES.most
    with pytest.raises(MalformedCertificate):
        parse_certificate(resigned_by_maker(CERTIFICATE, EXTENSIONS, element(0xA3, deep)))


def test_the_algorithm_beside_the_signature_must_be_the_one_that_was_signed() -> None:
    content, algorithm, signature = children(CERTIFICATE.encoded)
    sha384 = algorithm.replace(bytes.fromhex("2a8648ce3d040302"), bytes.fromhex("2a8648ce3d040303"))
    assert sha384 != algorithm
    with pytest.raises(MalformedCertificate, match="same algorithm"):
        parse_certificate(element(0x30, content + sha384 + signature))


def test_a_certificate_of_four_parts_is_refused() -> None:
    with pytest.raises(MalformedCertificate, match="parts"):
        parse_certificate(element(0x30, b"".join(children(CERTIFICATE.encoded)) + b"\x05\x00"))


def test_bytes_behind_the_alternative_name_are_refused() -> None:
    """A mended copy must not lose what was signed."""
    directory_name = element(0x30, element(0xA4, element(0x30, b"")))
    extension = element(0x30, bytes.fromhex("0603551d11") + element(0x04, directory_name + b"\x05\x00"))
    data = resigned_by_maker(CERTIFICATE, EXTENSIONS, element(0xA3, element(0x30, extension)))
    with pytest.raises(MalformedCertificate):
        parse_certificate(data)


def test_an_extension_that_comes_twice_is_refused() -> None:
    extensions = children(children(children(CERTIFICATE.signed)[EXTENSIONS])[0])
    twice = element(0xA3, element(0x30, b"".join([*extensions, extensions[0]])))
    with pytest.raises(MalformedCertificate, match="Duplicate"):
        parse_certificate(resigned_by_maker(CERTIFICATE, EXTENSIONS, twice))


def test_names_of_kinds_that_no_maker_uses_are_refused() -> None:
    for general_name in (element(0xA3, b"\x05\x00"), element(0xA5, b"\x05\x00")):
        extension = element(0x30, bytes.fromhex("0603551d11") + element(0x04, element(0x30, general_name)))
        with pytest.raises(MalformedCertificate):
            parse_certificate(resigned_by_maker(CERTIFICATE, EXTENSIONS, element(0xA3, element(0x30, extension))))


@pytest.mark.parametrize("date", [b"\x17\x0d491331000000Z", b"\x17\x0d500101000000+", b"\x18\x0f00000000000000Z"])
def test_a_date_that_is_none_is_refused(date: bytes) -> None:
    with pytest.raises(MalformedCertificate):
        parse_certificate(resigned_by_maker(CERTIFICATE, VALIDITY, element(0x30, date + date)))


def test_a_key_that_no_tpm_has_is_refused() -> None:
    other = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    key = element(0x30, element(0x30, bytes.fromhex("06032b6570")) + element(0x03, b"\x00" + other))
    with pytest.raises(MalformedCertificate, match="RSA or ECC"):
        parse_certificate(resigned_by_maker(CERTIFICATE, KEY, key))


# -- whether one issued the other --------------------------------------------------------------------------------------


def test_a_certificate_with_any_signed_byte_changed_is_refused() -> None:
    start = CERTIFICATE.encoded.index(CERTIFICATE.signed)
    for place in range(start, start + len(CERTIFICATE.signed)):
        data = CERTIFICATE.encoded
        with pytest.raises((MalformedCertificate, CertificateRejected)):
            parse_certificate(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]).verify_issued_by(
                MAKER.certificate, NOW
            )


def test_attack_2_an_issuer_of_another_name_is_refused_though_its_key_signed() -> None:
    renamed = root("Another", MAKER.private)
    with pytest.raises(CertificateRejected, match="issuer CN=Maker"):
        CERTIFICATE.verify_issued_by(renamed.certificate, NOW)


def test_attack_2_a_signature_without_a_hash_of_its_own_is_refused() -> None:
    ed25519_signature = element(0x30, bytes.fromhex("06032b6570"))
    data = resigned_by_maker(CERTIFICATE, ALGORITHM, ed25519_signature)
    with pytest.raises(CertificateRejected, match="found none"):
        parse_certificate(data).verify_issued_by(MAKER.certificate, NOW)


def test_an_rsa_maker_signs_too() -> None:
    maker = rsa_root()
    maker.issue("", ecc_key(), LEAF).verify_issued_by(maker.certificate, NOW)
    maker.certificate.verify_issued_by(maker.certificate, NOW)
