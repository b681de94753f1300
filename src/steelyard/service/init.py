"""Makes what a first start needs: directory, configuration, keys, certificates, database, the first provider's token.

Done twice it does nothing the second time; cut short, it goes on where it was. It never overwrites: whoever wants a
part made anew takes the old one away.
"""

import fcntl
import ipaddress
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from steelyard.model.errors import ServiceUnready
from steelyard.model.limits import CERTIFICATE_BYTES, SIGNING_KEY_BYTES
from steelyard.service.accounts import make_first_token
from steelyard.service.configuration import FILE, Configuration, check_directory, read_configuration
from steelyard.service.database import Database, utc_now
from steelyard.service.files import read_private, write_private
from steelyard.service.migrating import SERVICE, Schema, migrate
from steelyard.service.sealing import make_key_file

AUTHORITY_DAYS: Final = 3650
CERTIFICATE_DAYS: Final = 397
PROVIDER: Final = "provider"
"""The account that the first token is for."""
TOKEN_FILE: Final = "provider.token"  # noqa: S105 (a file's name)

_CONFIGURATION: Final = """\
# How this installation is set up. docs/howto/run-the-service.md says what each key means.

[database]
url = "{url}"

[http]
host = "{host}"
port = {port}
certificate = "certificate.pem"
key = "certificate.key"

[logs]
form = "json"
"""


@dataclass(frozen=True, slots=True)
class Wish:
    """How a new installation is to be; of one that is there, its configuration counts.

    url    of the database: "sqlite:///steelyard.db", "postgresql://USER@HOST/NAME".
    host   the address to listen on; `names` what else clients call it, in its certificate.
    """

    url: str
    host: str
    port: int
    names: Sequence[str]


def initialise(directory: Path, wish: Wish, services: frozenset[str], schemas: Sequence[Schema]) -> Sequence[str]:
    """Make what is missing; return what was made, in words. Raises ServiceUnready."""
    made: list[str] = []
    if not directory.exists():
        directory.mkdir(mode=0o700, parents=True)
        made.append(f"{directory}")
    check_directory(directory)
    with _alone(directory):
        for name, make in (
            (FILE, lambda path: write_private(path, _configuration(wish).encode())),
            ("sealing.key", make_key_file),
            ("authority.key", _make_key),
            ("authority.pem", _make_authority),
            ("certificate.key", _make_key),
            ("certificate.pem", lambda path: _make_certificate(path, wish)),
        ):
            path = directory / name
            if not path.exists():
                make(path)
                made.append(name)
        made += _initialise_database(read_configuration(directory, services), schemas)
    return made


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Wait until nobody else initialises this directory."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _configuration(wish: Wish) -> str:
    for value in (wish.url, wish.host):
        if not value.isprintable() or '"' in value or "\\" in value:
            raise ServiceUnready("writing the configuration", expected="a URL and an address", found=value)
    return _CONFIGURATION.format(url=wish.url, host=wish.host, port=wish.port)


def _initialise_database(configuration: Configuration, schemas: Sequence[Schema]) -> Iterator[str]:
    database = Database(configuration.database.url)
    try:
        if database.embedded and database.url.database is not None and not Path(database.url.database).exists():
            # Else SQLite would make it, with the mode that the umask gives; its other files take this one's.
            os.close(os.open(database.url.database, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            yield Path(database.url.database).name
        migrate(database, SERVICE, *schemas)
        path = configuration.directory / TOKEN_FILE
        if not path.exists():
            with database.writing() as transaction:
                _, secret = make_first_token(transaction, PROVIDER, "steelyard init")
            # Afterwards: a token that nobody ever saw does no harm, a file with none that is valid would.
            write_private(path, secret.reveal() + b"\n")
            yield TOKEN_FILE
    finally:
        database.close()


# -- certificates ------------------------------------------------------------------------------------------------------


def _make_key(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PrivateFormat.PKCS8
    write_private(path, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))


def _make_authority(path: Path) -> None:
    key = _read_key(path.with_name("authority.key"))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Steelyard at {socket.gethostname()}"[:64])])
    usage = x509.BasicConstraints(ca=True, path_length=0)
    certificate = (
        _certificate(name, name, key.public_key(), AUTHORITY_DAYS)
        .add_extension(usage, critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    write_private(path, certificate.public_bytes(serialization.Encoding.PEM))


def _make_certificate(path: Path, wish: Wish) -> None:
    key, authority_key = _read_key(path.with_name("certificate.key")), _read_key(path.with_name("authority.key"))
    authority = x509.load_pem_x509_certificate(read_private(path.with_name("authority.pem"), CERTIFICATE_BYTES))
    names = dict.fromkeys([wish.host, *wish.names, "localhost", "127.0.0.1", "::1", socket.gethostname()])
    names.pop("0.0.0.0", None)  # noqa: S104 (every address of this computer is none that it is called by)
    names.pop("::", None)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Steelyard")])
    certificate = (
        _certificate(subject, authority.subject, key.public_key(), CERTIFICATE_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    write_private(path, certificate.public_bytes(serialization.Encoding.PEM))


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = utc_now()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name.encode("idna").decode("ascii"))
    except ValueError as cause:
        raise ServiceUnready("making the certificate", expected="host names and addresses", found=name) from cause


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(read_private(path, SIGNING_KEY_BYTES), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ServiceUnready(f"reading {path}", expected="a key on a curve", found=type(key).__name__)
    return key
