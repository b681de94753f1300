"""The machine's part in the enclave's encrypted network, with the server that tells it who the peers are.

What `wg` does with what it is told is seen on the rack (tests/lab_rack/test_story.py); here a script keeps it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from steelyard.agent.peers import parse_membership
from steelyard.agent.service import Server
from steelyard.agent.wall import Wall, main
from steelyard.enclave.delivery import DeliveryServer
from steelyard.enclave.keys import sign_peers
from steelyard.model.errors import SteelyardError
from steelyard.model.secret import Secret
from tests.unit.agent.test_peers import KEY, here, peer, said

NAME: Final = "0" * 32
_WG: Final = """#!/bin/sh
[ "$1 $2" = "syncconf wall" ] && stat -c %a "$3" >"$0.mode" && cat "$3" >"$0.told"
"""


@pytest.fixture
def lists() -> dict[str, bytes | None]:
    """What is told at the machine's address; nothing so far."""
    return {NAME: None}


@pytest.fixture
def wg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin" / "wg"
    program.parent.mkdir()
    program.write_text(_WG)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return program


@pytest.fixture
def wall(lists: dict[str, bytes | None], tmp_path: Path, wg: Path) -> Iterator[tuple[Wall, Server]]:
    del wg
    deliveries = DeliveryServer("127.0.0.1", 0, lambda kind, name: lists.get(name) if kind == "peers" else None)
    deliveries.start()
    membership = parse_membership(here(peers=f"http://127.0.0.1:{deliveries.port}/peers/{NAME}"))
    assert membership.wireguard is not None
    key = X25519PrivateKey.from_private_bytes(b"\2" * 32)
    server = Server(membership.peers, None)
    yield Wall(membership, membership.wireguard, Secret(key.private_bytes_raw()), tmp_path, 0), server
    server.close()
    deliveries.stop()


def told(wg: Path) -> str:
    return wg.with_name("wg.told").read_text()


def test_the_kernel_is_told_of_the_newest_list_and_of_nothing_that_did_not_change(
    wall: tuple[Wall, Server], lists: dict[str, bytes | None], wg: Path, tmp_path: Path
) -> None:
    found, server = wall
    lists[NAME] = sign_peers(KEY, said())
    found.look(server)
    assert "Endpoint = 10.60.0.2:51820" in told(wg)
    assert wg.with_name("wg.mode").read_text().strip() == "600"
    assert not (tmp_path / "wireguard.conf").exists()  # the private key was in it
    wg.with_name("wg.told").unlink()
    lists[NAME] = sign_peers(KEY, said(serial=8))
    found.look(server)
    assert not wg.with_name("wg.told").exists()
    assert (tmp_path / "peers.serial").read_text() == "8"


def test_an_older_list_brings_nobody_back_and_a_list_that_is_gone_takes_all_away(
    wall: tuple[Wall, Server], lists: dict[str, bytes | None], wg: Path
) -> None:
    found, server = wall
    lists[NAME] = sign_peers(KEY, said(serial=8, peers=[]))
    found.look(server)
    lists[NAME] = sign_peers(KEY, said(serial=7, peers=[peer()]))
    with pytest.raises(SteelyardError):
        found.look(server)
    assert "[Peer]" not in told(wg)
    lists[NAME] = sign_peers(KEY, said(serial=9))
    found.look(server)
    assert "[Peer]" in told(wg)
    lists[NAME] = None
    found.look(server)
    assert "[Peer]" not in told(wg)


def test_what_is_nothing_to_go_by_ends_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(tmp_path) == 3
    (tmp_path / "enclave.json").write_bytes(here(card="none"))
    assert main(tmp_path) == 3
    (tmp_path / "enclave.json").write_bytes(here(card="02:00:00:00:0f:ff"))
    (tmp_path / "wireguard.key").write_bytes(b"\2" * 32)
    assert main(tmp_path) == 1
    assert "finding the enclave's card" in capfd.readouterr().err
