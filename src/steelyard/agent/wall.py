"""The enclave's network, on a machine of it: `python3 -m steelyard.agent.wall FOLDER`.

FOLDER has what the airlock left: `enclave.json`, and with WireGuard `wireguard.key`. The machine's card gets its
address; who may speak to it by WireGuard is who is on the list that the enclave signs, looked at every two seconds:
whoever fell is on none any more. While there is no answer, the last list holds. A machine that is told that it is no
peer any more forgets all others. It ends with

0  when there is no encrypted network to look after,
3  when what was left is nothing to go by,

and with 1 for a card or an interface that could not be had: whoever started it starts it again.
"""

import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from steelyard.agent.files import read_file
from steelyard.agent.peers import Membership, Peers, WireGuard, parse_membership, parse_peers, wireguard_settings
from steelyard.agent.programs import run, write_private
from steelyard.agent.service import Server
from steelyard.evidence.keysplit import raw_public_key
from steelyard.model.errors import NodeFailed, SteelyardError
from steelyard.model.limits import PEERS_BYTES
from steelyard.model.secret import Secret
from steelyard.model.text import printable

INTERFACE: Final = "wall"
"""What the encrypted network is called on a machine."""
_CARDS: Final = Path("/sys/class/net")
_LOOK_SECONDS: Final = 2.0
_NOTHING_TO_GO_BY: Final = 3
_READING: Final = "reading what the airlock left"


@dataclass(slots=True)
class Wall:
    """A machine's part in its enclave's encrypted network.

    key      of this boot: the quote vouched for its public half.
    serial   of the newest list that was heard; kept in the folder, so that no restart takes it back.
    applied  what the kernel was told last.
    """

    membership: Membership
    wireguard: WireGuard
    key: Secret
    folder: Path
    serial: int
    applied: bytes = field(default=b"", repr=False)

    def look(self, server: Server) -> None:
        """Do what the newest list says. Raises SteelyardError when there is none to be had, or none to be believed."""
        answer = server.get_when_there(urlsplit(self.membership.peers).path, PEERS_BYTES)
        if answer is None:
            self.apply(Peers(self.membership.enclave, self.serial, ()))
            return
        peers = parse_peers(answer, self.membership, self.serial)
        self.apply(peers)
        self.serial = peers.serial
        _write(self.folder / "peers.serial", str(peers.serial).encode())

    def apply(self, peers: Peers) -> None:
        """Have these machines, and no others, as peers."""
        own = raw_public_key(X25519PrivateKey.from_private_bytes(self.key.reveal()))
        settings = wireguard_settings(self.wireguard, self.key, peers, own)
        if settings == self.applied:
            return
        file = self.folder / "wireguard.conf"
        _write(file, settings)
        try:
            run(["wg", "syncconf", INTERFACE, file])
        finally:
            file.unlink()
        self.applied = settings
        _say(f"peers by list {peers.serial}: {', '.join(peer.node for peer in peers.peers) or 'none'}")


def _write(path: Path, content: bytes) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
    write_private(path, content)


def bring_up_card(membership: Membership) -> None:
    """Give the card on the enclave's network its address. Raises NodeFailed."""
    if membership.address is None:
        return
    found = [card.name for card in _CARDS.iterdir() if _hardware_address(card) == membership.card]
    if len(found) != 1:
        raise NodeFailed("finding the enclave's card", expected=membership.card, found=", ".join(found) or "none")
    run(["ip", "address", "replace", str(membership.address), "dev", found[0]])
    run(["ip", "link", "set", "dev", found[0], "up"])


def _hardware_address(card: Path) -> str:
    with suppress(OSError):
        return (card / "address").read_text().strip()
    return ""


def bring_up_interface(wireguard: WireGuard) -> None:
    """Have the encrypted network's interface, with its address and no peer so far. Raises NodeFailed."""
    if not (_CARDS / INTERFACE).exists():
        run(["ip", "link", "add", "dev", INTERFACE, "type", "wireguard"])
    run(["ip", "address", "replace", str(wireguard.address), "dev", INTERFACE])
    run(["ip", "link", "set", "dev", INTERFACE, "up"])


def main(folder: Path) -> int:
    """Keep up the wall; return the process's exit code."""
    try:
        membership = parse_membership(read_file(folder / "enclave.json", PEERS_BYTES, _READING))
        wall = None
        if membership.wireguard is not None:
            key = Secret(read_file(folder / "wireguard.key", PEERS_BYTES, _READING))
            wall = Wall(membership, membership.wireguard, key, folder, _read_serial(folder))
    except (SteelyardError, ValueError) as error:
        _say(f"there is nothing to go by: {error}")
        return _NOTHING_TO_GO_BY
    try:
        bring_up_card(membership)
        if wall is not None:
            bring_up_interface(wall.wireguard)
    except NodeFailed as error:
        _say(f"failed: {error}")
        return 1
    _say(f"{membership.node} is on the network of enclave {membership.enclave}")
    if wall is None:
        return 0
    server = Server(membership.peers, None)  # what it says is signed
    trouble = ""
    while True:
        try:
            wall.look(server)
            trouble = ""
        except SteelyardError as error:
            if str(error) != trouble:
                _say(f"the last list of peers holds: {error}")
            trouble = str(error)
        time.sleep(_LOOK_SECONDS)


def _read_serial(folder: Path) -> int:
    file = folder / "peers.serial"
    return int(read_file(file, PEERS_BYTES, _READING)) if file.exists() else 0


def _say(text: str) -> None:
    print(f"enclave: {printable(text, 1000)}", file=sys.stderr, flush=True)  # noqa: T201  (the journal has it)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
