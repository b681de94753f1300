"""Enclaves by the other services' HTTP APIs, as a tenant who is a member of a project has them, and no more."""

import json

import httpx
import pytest

from steelyard.client import attestation, isolation
from steelyard.isolation.ports import Power
from steelyard.model.errors import NotFound
from steelyard.service import journal
from steelyard.service.database import Database
from tests.enclave.site import BOOT, WALL, Site, site_on
from tests.simulated_nodes import Lie, Refused, through
from tests.unit.isolation.rig import PROVIDER

pytestmark = pytest.mark.slow


def networks(site: Site, node: str) -> set[str]:
    return {each.network for each in site.client.every(isolation.list_attachments(node=node)) if each.applied_at}


def is_as_at_the_start(site: Site) -> bool:
    nodes = list(site.client.every(isolation.list_nodes(state="free")))
    kinds = (("boots", "node"), ("volumes", "id"), ("openings", "volume"), ("attested_nodes", "name"))
    with site.database.reading() as connection:
        left = [connection.exec_driver_sql(f"SELECT {column} FROM {table}").all() for table, column in kinds]  # noqa: S608
    return len(nodes) == len(site.tpms) and not any(left)


@pytest.mark.parametrize("trust", ["open", "attested", "sealed"])
def test_an_enclave_from_the_file_to_the_receipts(sqlite_database: Database, trust: str) -> None:
    with site_on(sqlite_database) as site:
        site.apply(site.file(trust, 2))
        site.wait(lambda: site.states() == ["running"] * 2)
        for place in site.places():
            assert place.node is not None
            assert networks(site, place.node) == ({BOOT} if trust == "open" else {BOOT, WALL})
            assert site.devices.bmcs[place.node].power is Power.ON
        assert len(site.payloads) == (0 if trust == "open" else 2)
        for payload in site.payloads.values():
            here = json.loads(payload.files["enclave.json"].reveal())
            assert here["card"] in {nic.mac for nic in site.client.ask(isolation.read_node(here["node"])).nics}
            assert ("luks.key" in payload.files) == (trust == "sealed")
        site.delete()
        site.wait(lambda: site.read().gone)
        assert is_as_at_the_start(site)
        receipts = [place.receipt for place in site.places(over=True)]
        assert [receipt and receipt["networks"] for receipt in receipts] == ["none, as read by isolation"] * 2


@pytest.mark.parametrize("lie", [Lie.CHANGED_FIRMWARE, Lie.CHANGED_COMMAND_LINE])
def test_a_machine_that_is_not_what_it_should_be_is_held_and_never_meets_the_others(
    sqlite_database: Database, lie: Lie
) -> None:
    with site_on(sqlite_database, nodes=2) as site:
        site.lies["n1"] = lie
        site.apply(site.file("sealed", 2))
        site.wait(lambda: sorted(site.states()) == ["held", "running"])
        [held] = [place for place in site.places() if place.state == "held"]
        assert held.node == "n1"
        assert "pcr" in held.why.lower()
        assert site.payloads.keys() == {"n2"}
        assert networks(site, "n1") == set()
        assert site.devices.bmcs["n1"].power is Power.OFF
        with site.database.reading() as connection:
            told = [entry.form() for entry in journal.read_entries(connection, PROVIDER, after=0, limit=1000)]
        assert [entry["subject"] for entry in told if WALL in str(entry["detail"])] == ["node/n2"]
        site.delete()
        site.wait(lambda: site.read().gone)
        assert is_as_at_the_start(site)


def test_a_machine_that_falls_while_it_runs_is_cut_off(sqlite_database: Database) -> None:
    with site_on(sqlite_database, nodes=2) as site:
        site.apply(site.file("sealed", 2))
        site.wait(lambda: site.states() == ["running"] * 2)
        node = site.machines["n1"]
        node.tell(Lie.UNKNOWN_FILE)
        with httpx.Client(base_url=site.url, timeout=30) as http:
            node.call = through(http)
            with pytest.raises(Refused):
                node.report()
        site.wait(lambda: sorted(site.states()) == ["held", "running"])
        assert networks(site, "n1") == set()
        assert site.client.ask(isolation.read_node("n1")).state == "quarantined"
        site.delete()
        site.wait(lambda: site.read().gone)
        assert is_as_at_the_start(site)


def test_an_enclave_whose_service_is_started_anew_again_and_again_comes_up(sqlite_database: Database) -> None:
    with site_on(sqlite_database, nodes=2) as site:
        site.apply(site.file("sealed", 2))
        seen: set[str] = set()
        while site.states() != ["running"] * 2:
            seen |= set(site.states())
            site.stop()
            site.start()
            before = [(place.state, place.words) for place in site.places()]
            site.wait(lambda before=before: before != [(p.state, p.words) for p in site.places()])  # type: ignore[misc]
        assert seen & {"allocated", "airlock"}
        with pytest.raises(NotFound):
            site.client.ask(attestation.read_node("n9"))
        site.delete()
        site.wait(lambda: site.read().gone)
        assert is_as_at_the_start(site)
