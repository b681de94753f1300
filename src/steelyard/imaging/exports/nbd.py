"""NBD over TLS, by one confined qemu-storage-daemon per opening.

The credential is a client certificate of an authority made for the opening alone: Debian's nbd-client knows
certificates, and no pre-shared keys. The daemon writes to the volume, reads its image and the opening's directory, and
has of the network just the socket that it is handed, listening.

Source: NBD protocol (nbd/doc/proto.md), section TLS; QEMU 7.2, docs/system/tls.rst.
"""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from steelyard.imaging.exports.daemons import lives
from steelyard.imaging.exports.recorded import Record, RecordedExport, listen
from steelyard.imaging.exports.storage_daemon import (
    NODE,
    Monitor,
    add_disk,
    end_storage_daemon,
    start_storage_daemon,
)
from steelyard.imaging.exports.tls import issue_credentials
from steelyard.imaging.ports import Access, NbdAccess, Overlay
from steelyard.imaging.tools import cage
from steelyard.model.errors import SteelyardError, StorageUnready

_PRIORITY: Final = ":".join(
    [
        "NONE",
        "+VERS-TLS1.3",
        "+VERS-TLS1.2",  # the nbd-client of Debian 12 can no other
        "+ECDHE-ECDSA",
        "+AES-256-GCM:+AES-128-GCM:+CHACHA20-POLY1305",
        "+AEAD",
        "+SIGN-ECDSA-SECP256R1-SHA256:+SIGN-ECDSA-SHA256",
        "+GROUP-X25519:+GROUP-SECP256R1",
        "+COMP-NULL:+CTYPE-X509",
    ]
)
"""Source: GnuTLS manual, Priority Strings."""

_UNUSED_GROUP: Final = b"""\
-----BEGIN DH PARAMETERS-----
MIIBDAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAgICAQA=
-----END DH PARAMETERS-----
"""
"""ffdhe2048 of RFC 7919. QEMU would look for a group of its own instead, up to a second, although none is ever used."""


def nbd_export(root: Path, address: IPv4Address | IPv6Address, ports: range) -> RecordedExport:
    """Return the export of volumes by NBD; see `RecordedExport`."""
    return RecordedExport(root, address, ports, _NbdServer())


class _NbdServer:
    """See `Server`."""

    def issue(self, record: Record) -> tuple[Mapping[str, bytes], Access]:
        credentials = issue_credentials(record.name, record.address)
        # Named as QEMU looks for them. The client's key is not kept: who lost it opens anew.
        files = {
            "ca-cert.pem": credentials.authority,
            "server-cert.pem": credentials.server.certificate,
            "server-key.pem": credentials.server.key.reveal(),
            "dh-params.pem": _UNUSED_GROUP,
        }
        client = credentials.client
        return files, NbdAccess(
            record.address, record.port, record.name, credentials.authority, client.certificate, client.key
        )

    def start(self, place: Path, record: Record) -> None:
        doing = f"serving the disk {record.name} by NBD"
        tls = f"tls-creds-x509,id=tls,endpoint=server,verify-peer=yes,dir={place},priority={_PRIORITY}"
        reads = [place]
        if isinstance(record.disk, Overlay) and record.disk.base is not None:
            reads.append(record.disk.base.path)
        caged = cage({str(path): path for path in reads}, {str(record.disk.path): record.disk.path})
        try:
            listener = listen(record.address, record.port)
        except OSError as error:
            raise StorageUnready(doing, expected=f"port {record.port} to be free", found=str(error)) from error
        with listener:
            # Any number of connections: what a killed node left half open must not keep it out. (Said, as the default
            # is 100 from QEMU 9.1 on.)
            server = f"addr.type=fd,addr.str={listener.fileno()},tls-creds=tls,max-connections=0"
            options = ["--object", tls, "--nbd-server", server]
            daemon = start_storage_daemon(doing, [*caged, "--"], place, options, [listener.fileno()])
        with daemon:
            try:
                monitor = Monitor(daemon)
                add_disk(monitor, record.disk)
                export = {"type": "nbd", "id": NODE, "node-name": NODE, "name": record.name, "writable": True}
                monitor.execute("block-export-add", export)
            except SteelyardError:
                daemon.kill(doing)
                raise

    def serves(self, place: Path) -> bool:
        return lives(place / "qmp")

    def end(self, place: Path) -> None:
        end_storage_daemon("closing a disk served by NBD", place)
