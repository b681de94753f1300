"""Histories of a rack, at random and for as long as the hunt lasts; each of them is a test in `machines` too."""

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.machines.test_isolation_histories import Histories


def test_no_history_of_a_rack_leads_to_what_must_not_be() -> None:
    examples = min(10, settings().max_examples // 10)
    longer = settings(stateful_step_count=60, max_examples=examples, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Histories, settings=longer)
