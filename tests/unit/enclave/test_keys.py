"""The tenant's keys and the verdicts that they are given by: each thing that could be another is refused."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from steelyard.enclave import keys
from steelyard.evidence.keysplit import join_shares
from steelyard.model.errors import MalformedVerdict, NotAdmitted, ServiceUnready
from tests.fakes.enclave_world import Boot, Node, World
from tests.unit.enclave.rig import SEALER, START, Clock

PARAMETERS = "what the machine was told"


def check(changed: dict[str, Any] | None = None, **how: Any) -> keys.Passed:
    clock = Clock()
    world = World(clock, 1)
    boot = Boot("airlock", START)
    verdict = world.verdict(Node(how.get("on", "n1")), boot, PARAMETERS, **(changed or {}))
    signers = (how.get("key", world.verdict_key),)
    clock.now += how.get("later", timedelta(0))
    told = how.get("told", PARAMETERS).encode()
    return keys.check_verdict(how.get("verdict", verdict), signers, "n1", told, how.get("boot"), clock.now)


def test_what_a_good_verdict_vouches_for_is_told() -> None:
    passed = check()
    assert (passed.node, len(passed.boot), len(passed.transport), passed.wireguard is None) == ("n1", 32, 32, False)


@pytest.mark.parametrize(
    "changed",
    [
        {"ear.status": "warning"},
        {"ear.status": None},
        {"steelyard.purpose": "runtime"},
        {"steelyard.parameters-sha256": "00" * 32},
        {"steelyard.parameters-sha256": None},
        {"steelyard.boot": "00"},
        {"steelyard.transport-key": None},
        {"steelyard.transport-key": "zz" * 32},
        {"steelyard.wireguard-key": 7},
    ],
)
def test_a_verdict_that_says_anything_else_gives_no_keys(changed: dict[str, Any]) -> None:
    with pytest.raises(NotAdmitted):
        check(changed)


@pytest.mark.parametrize(
    "how",
    [
        {"on": "n2"},
        {"told": "something else"},
        {"boot": "11" * 32},
        {"later": timedelta(hours=1)},
        {"later": -timedelta(hours=1)},
        {"key": World(Clock(), 0).verdict_key},
    ],
)
def test_a_verdict_on_anything_else_gives_no_keys(how: dict[str, Any]) -> None:
    with pytest.raises(NotAdmitted):
        check(**how)


def test_a_verdict_that_is_none_gives_no_keys() -> None:
    for verdict in ("", "a.b", "a.b.c", "é.b.c", "x" * 100_000):
        with pytest.raises(MalformedVerdict):
            check(verdict=verdict)


def test_one_of_several_keys_is_enough_and_no_key_is_none() -> None:
    world = World(Clock(), 0)
    verdict = world.verdict(Node("n1"), Boot("airlock", START), PARAMETERS)
    other = World(Clock(), 0).verdict_key
    told = PARAMETERS.encode()
    for signers in ((other, world.verdict_key), (world.verdict_key, other)):
        assert keys.check_verdict(verdict, signers, "n1", told, None, START).node == "n1"
    with pytest.raises(NotAdmitted):
        keys.check_verdict(verdict, (), "n1", told, None, START)


def test_secrets_open_for_their_place_alone_and_v_is_not_among_them() -> None:
    own = keys.make_secrets(None)
    sealed = keys.seal_secrets(SEALER, "one", own)
    again = keys.open_secrets(SEALER, "one", sealed)
    assert (again.key, again.u, again.disk) == (own.key, own.u, own.disk)
    assert join_shares(own.u, keys.verifier_share(own)) == own.key
    with pytest.raises(ServiceUnready):
        keys.open_secrets(SEALER, "two", sealed)
    for secret in (own.key, own.u, own.disk, keys.verifier_share(own)):
        assert secret.reveal() not in sealed
        assert secret.reveal().hex() not in repr(own)


def test_a_second_boot_has_other_keys_and_the_same_disk() -> None:
    first = keys.make_secrets(None)
    second = keys.make_secrets(first.disk)
    assert second.disk == first.disk
    assert second.key != first.key
    assert second.u != first.u


def test_peers_are_signed_by_their_enclaves_key() -> None:
    sealed = keys.make_signing_key(SEALER, "lab")
    key = keys.open_signing_key(SEALER, "lab", sealed)
    assert isinstance(key, Ed25519PrivateKey)
    assert keys.public_pem(key).startswith("-----BEGIN PUBLIC KEY-----")
    with pytest.raises(ServiceUnready):
        keys.open_signing_key(SEALER, "other", sealed)


def test_a_delivery_for_another_boot_is_another() -> None:
    own, passed = keys.make_secrets(None), check()
    payload = keys.make_payload(_system(), "quiet", None, {})
    one = keys.make_delivery(own, passed, payload)
    assert one != keys.make_delivery(own, replace(passed, boot=bytes(32)), payload)
    assert payload.reveal() not in one


def _system() -> Any:
    return World(Clock(), 0).services().disks.system("blue", "debian", "net")
