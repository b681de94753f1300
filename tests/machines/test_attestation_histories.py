"""A node's life as attestation sees it: every state with every event, random histories, and a kill at every step.

What must hold at every instant: nobody has passed without evidence of this boot that was accepted, no share is given
out twice in a boot, and whatever happened, an honest node that starts again passes, unless it failed.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from steelyard.attestation import enrolling, shares
from steelyard.attestation.life import TRANSITIONS, Event, State, after
from steelyard.attestation.tables import appraisals, boots
from steelyard.model.errors import SteelyardError, WrongState
from steelyard.model.secret import Secret
from steelyard.service.database import Database, Transaction
from tests.attestation_site import GRACE, INTERVAL, RED, SEALER, Site, site_on
from tests.simulated_nodes import Lie, Refused, SimulatedNode

V: Final = Secret(bytes(range(32)))


class Killed(BaseException):
    """The process ends here."""


# -- the table ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_what_is_not_in_the_table_is_refused(state: State, event: Event) -> None:
    if (state, event) in TRANSITIONS:
        assert after(state, event, "n1") is TRANSITIONS[state, event]
    else:
        with pytest.raises(WrongState):
            after(state, event, "n1")


def test_only_good_evidence_of_a_challenged_node_leads_to_passed() -> None:
    leading = {(before, event) for (before, event), then in TRANSITIONS.items() if then is State.PASSED}
    assert leading == {
        (State.CHALLENGED, Event.PASS),
        (State.PASSED, Event.PASS),
        (State.OVERDUE, Event.PASS),
        (State.PASSED, Event.CHALLENGE),
    }


def test_out_of_failed_leads_only_what_somebody_says() -> None:
    leaving = {event for (before, event), then in TRANSITIONS.items() if before is State.FAILED and then is not before}
    assert leaving == {Event.RETRY, Event.REPLACE}


# -- histories ---------------------------------------------------------------------------------------------------------


class History:
    """A site, an honest node and a spare TPM; each step is something that can happen, and may be refused."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.node = site.enrolled()
        self.released: list[str] = []

    def step(self, name: str) -> None:
        """Do one thing."""
        with suppress(Refused, SteelyardError):
            getattr(self, f"_{name}")()

    def _join(self) -> None:
        self.node.join()

    def _airlock(self) -> None:
        asked = self.node.ask_challenge()
        self.node.submit(asked, self.node.evidence(asked))

    def _report(self) -> None:
        self.node.report()

    def _run(self) -> None:
        self.node.run_more(1)

    def _reset(self) -> None:
        self.node.switch_on_again()

    def _lie(self) -> None:
        self.node.tell(Lie.CHANGED_COMMAND_LINE)

    def _unknown_file(self) -> None:
        self.node.tell(Lie.UNKNOWN_FILE)

    def _honest(self) -> None:
        if self.node.lies:
            self.node.tell()
            self.node.switch_on_again()

    def _wait(self) -> None:
        self.site.clock.forward(INTERVAL)

    def _wait_long(self) -> None:
        self.site.clock.forward(INTERVAL + GRACE)

    def _look(self) -> None:
        self.site.keeping.look()

    def _retry(self) -> None:
        with self.site.database.writing() as tx:
            enrolling.retry(tx, RED, name="n1", why="a history")

    def _replace(self) -> None:
        with self.site.database.writing() as tx:
            enrolling.replace_tpm(tx, RED, name="n1", why="a history")

    def _leave(self) -> None:
        with self.site.database.writing() as tx:
            shares.deposit(tx, SEALER, RED, name="n1", share=V)

    def _fetch(self) -> None:
        boot = self.site.node().boot
        assert self.node.fetch_share() == V
        assert boot is not None
        self.released.append(boot)

    def check(self) -> None:
        """See that what must hold does."""
        node = self.site.node()
        assert len(self.released) == len(set(self.released)), "a share twice in one boot"
        if self.site.shown() is not State.PASSED:
            return
        with self.site.database.reading() as connection:
            good = connection.execute(
                select(appraisals.c.passed, appraisals.c.at)
                .where(appraisals.c.boot == node.boot)
                .order_by(appraisals.c.id.desc())
            ).first()
        assert good is not None, "passed without evidence of this boot"
        assert good.passed, "passed though the last evidence was not good"
        assert node.expires is not None
        assert good.at + timedelta(seconds=900) >= self.site.clock()
        assert self.node.lies <= {Lie.UNKNOWN_FILE} or node.boot is None or self.site.appraisals()


STEPS: Final = sorted(name[1:] for name in vars(History) if name.startswith("_") and not name.startswith("__"))


@settings(max_examples=settings().max_examples // 4, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(st.sampled_from(STEPS), min_size=5, max_size=25))
def test_whatever_happens_nobody_passes_without_good_evidence_of_this_boot(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    path = tmp_path_factory.mktemp("history") / "steelyard.db"
    path.write_bytes(sqlite_template.read_bytes())
    database = Database(f"sqlite:///{path}")
    with site_on(database) as site:
        history = History(site)
        # Or most histories would never get far.
        for step in ("join", "airlock", *steps):
            history.step(step)
            history.check()
    database.close()


# -- kills -------------------------------------------------------------------------------------------------------------


@contextmanager
def dying(database: Database, monkeypatch: pytest.MonkeyPatch, at: int, moment: str) -> Iterator[None]:
    """Let the process die at its transaction number `at`: before it commits, or just after."""
    count = 0
    writing = database.writing

    @contextmanager
    def mortal() -> Iterator[Transaction]:
        nonlocal count
        count += 1
        if count > at:
            raise Killed  # it is dead already
        with writing() as tx:
            yield tx
            if count == at and moment == "before":
                raise Killed
        if count == at:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(database, "writing", mortal)
        yield


def whole_life(node: SimulatedNode) -> None:
    """Register, pass, take the share, report twice."""
    node.pass_airlock()
    node.fetch_share()
    node.run_more(2)
    node.report()
    node.report()


@pytest.mark.slow
@pytest.mark.both_databases
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_any_transaction_nobody_passes_falsely_and_the_node_can_try_again(
    database: Database, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    with site_on(database) as site:
        for at in range(1, 100):
            name = f"n{at}"
            node = site.enrolled(name)
            with site.database.writing() as tx:
                shares.deposit(tx, SEALER, RED, name=name, share=V)
            died = True
            with dying(site.database, monkeypatch, at, moment), suppress(Refused, Killed):
                whole_life(node)
                died = False
            _check_after_a_kill(site, node)
            if not died:
                assert at > 8, "a life has more transactions than that"
                return
    pytest.fail("it never came to an end")


def _check_after_a_kill(site: Site, node: SimulatedNode) -> None:
    name = node.name
    known = site.node(name)
    judged = site.appraisals(name)
    if site.shown(name) is State.PASSED:
        assert [each for each in judged if each.boot == known.boot and not each.findings]
    assert known.state is not State.FAILED, "to die fails no honest node"
    with site.database.reading() as connection:
        left = connection.execute(select(boots.c.released).where(boots.c.id == known.boot)).scalar()
    # It starts anew, and the tenant leaves another share.
    node._next = None
    node.switch_on_again()
    with site.database.writing() as tx:
        shares.deposit(tx, SEALER, RED, name=name, share=V)
    node.pass_airlock()
    assert node.fetch_share() == V
    node.report()
    assert site.shown(name) is State.PASSED
    assert left is None or left <= site.clock()
