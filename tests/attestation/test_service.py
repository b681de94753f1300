"""The whole of it, from registration to silence, by machines that are not there."""

from steelyard.attestation.life import State
from tests.attestation_site import Site


def test_an_honest_node_passes_the_airlock_and_every_report(site: Site) -> None:
    node = site.enrolled()
    assert site.shown() is State.UNKNOWN
    node.join()
    assert site.shown() is State.REGISTERED
    asked = node.ask_challenge()
    assert site.shown() is State.CHALLENGED
    node.submit(asked, node.evidence(asked))
    assert site.shown() is State.PASSED
    for count in (0, 3, 100):
        node.run_more(count)
        assert node.report().seconds_to_next == 60
        assert site.shown() is State.PASSED
    assert [each.ima_entries for each in site.appraisals()] == [None, 1, 4, 104]
