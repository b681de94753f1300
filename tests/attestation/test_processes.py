"""Several services on one database: any of them answers any node, and nothing is taken twice."""

from collections.abc import Iterator

import pytest

from steelyard.attestation import enrolling, shares
from steelyard.attestation.life import State
from steelyard.attestation.service import AttestationSettings
from steelyard.model.secret import Secret
from steelyard.service.database import Database
from tests.attestation_site import RED, SEALER, Site, site_on
from tests.simulated_nodes import Refused

pytestmark = pytest.mark.both_databases


@pytest.fixture
def both(database: Database) -> Iterator[tuple[Site, Site]]:
    with site_on(database) as one:
        beside = Database(database.url.render_as_string(hide_password=False), clock=one.clock)
        other = Site(beside, one.clock, one.policies, AttestationSettings())
        yield one, other
        other.close()
        beside.close()


def test_each_step_may_be_another_process(both: tuple[Site, Site]) -> None:
    one, other = both
    node = one.enrolled()
    turn = [one, other]

    def call(*request: object) -> tuple[int, bytes]:
        turn.reverse()
        return turn[0].call(*request)  # type: ignore[arg-type]  # as the node gives them

    node.call = call
    node.pass_airlock()
    for count in (3, 0, 5):
        node.run_more(count)
        node.report()
    assert {one.shown(), other.shown()} == {State.PASSED}
    assert [each.ima_entries for each in other.appraisals()] == [None, 4, 4, 9]


def test_evidence_and_shares_are_taken_by_one_of_them(both: tuple[Site, Site]) -> None:
    one, other = both
    node = one.enrolled()
    with one.database.writing() as tx:
        shares.deposit(tx, SEALER, RED, name="n1", share=Secret(bytes(32)))
    node.join()
    asked = node.ask_challenge()
    evidence = node.evidence(asked)
    node.submit(asked, evidence)
    node.call = other.call
    with pytest.raises(Refused, match="409"):
        node.submit(asked, evidence)
    node.fetch_share()
    node.call = one.call
    with pytest.raises(Refused, match="409"):
        node.fetch_share()


def test_what_the_owner_says_to_one_holds_for_the_other(both: tuple[Site, Site]) -> None:
    one, other = both
    node = one.enrolled()
    node.pass_airlock()
    node.report()
    with other.database.writing() as tx:
        enrolling.replace_tpm(tx, RED, name="n1", why="a test")
    with pytest.raises(Refused, match="401"):
        node.report()
