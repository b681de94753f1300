"""Attack 36: manifests unsigned, signed by too few, rolled back, expired; and whose word counts for how long."""

import pytest

from steelyard.attestation.references import manifests, signers
from steelyard.attestation.references.objects import DEFAULT, Standing
from steelyard.evidence.policy import parse_policy
from steelyard.evidence.reference.dsse import Envelope
from steelyard.evidence.reference.manifest import PAYLOAD_TYPE
from steelyard.model.errors import (
    Changed,
    MalformedReference,
    NotAllowed,
    NotFound,
    ReferenceRejected,
    WrongState,
    WrongUse,
)
from steelyard.service.database import Database
from tests.unit.attestation.references.rig import (
    ADMIN,
    AUDITOR,
    BLUE,
    DAY,
    PROVIDER,
    READER,
    RED,
    RELEASE,
    SEALER,
    SECOND,
    STRANGER,
    THIRD,
    Authority,
    policy_bytes,
    raw,
    signed,
)
from tests.unit.evidence import samples


@pytest.fixture
def authority(database: Database) -> Authority:
    return Authority(database)


def one_component(name: str = "firmware") -> bytes:
    return policy_bytes(
        "airlock", components=[samples.component(name)], pcrs=[0, 1], varying=[], runtime=None, machine_class=None
    )


# -- signatures --------------------------------------------------------------------------------------------------------


def test_a_manifest_that_nobody_signed_is_refused(authority: Authority) -> None:
    authority.signers()
    unsigned = Envelope(PAYLOAD_TYPE, authority.sample().to_bytes(), ())
    with pytest.raises(ReferenceRejected):
        manifests.add_reference(
            authority.database,
            RED,
            SEALER,
            project="red",
            component="firmware",
            content=unsigned.to_bytes(),
            standing=Standing.ACCEPTED,
        )


def test_a_manifest_that_a_stranger_signed_is_refused(authority: Authority) -> None:
    authority.signers()
    with pytest.raises(ReferenceRejected):
        authority.add(authority.sample(), STRANGER)


def test_a_manifest_that_too_few_signed_is_refused_and_enough_are_not(authority: Authority) -> None:
    authority.signers(raw(RELEASE, SECOND, THIRD), threshold=2)
    with pytest.raises(ReferenceRejected):
        authority.add(authority.sample(), RELEASE)
    with pytest.raises(ReferenceRejected):
        authority.add(authority.sample(), RELEASE, STRANGER)
    assert authority.add(authority.sample(), RELEASE, THIRD).standing is Standing.ACCEPTED


def test_a_component_has_signers_of_its_own(authority: Authority) -> None:
    authority.signers()
    authority.signers(raw(SECOND), component="firmware")
    with pytest.raises(ReferenceRejected):
        authority.add(authority.sample(), RELEASE)
    authority.add(authority.sample(), SECOND)
    authority.add(authority.sample("airlock"), RELEASE)


def test_a_manifest_cannot_choose_its_signers_by_the_component_it_is_sent_for(authority: Authority) -> None:
    authority.signers(raw(RELEASE), component="firmware")
    authority.signers(raw(SECOND), component="airlock")
    with pytest.raises(ReferenceRejected):
        authority.add(authority.sample("firmware"), SECOND, component="airlock")


def test_without_signers_nothing_is_accepted(authority: Authority) -> None:
    with pytest.raises(WrongState):
        authority.add(authority.sample())


@pytest.mark.parametrize(
    ("keys", "threshold"),
    [
        ({}, 1),
        (raw(RELEASE), 0),
        (raw(RELEASE), 2),
        ({"a": bytes(31)}, 1),
        ({**raw(RELEASE), "b": raw(RELEASE)["key1"]}, 2),
    ],
)
def test_signers_that_could_not_sign_are_refused(authority: Authority, keys: dict[str, bytes], threshold: int) -> None:
    with pytest.raises(WrongUse):
        authority.signers(keys, threshold)


def test_no_component_can_be_called_as_the_default_is(authority: Authority) -> None:
    with pytest.raises(WrongUse):
        authority.sample(DEFAULT)


# -- roll-back and freeze ----------------------------------------------------------------------------------------------


def test_a_manifest_older_than_one_that_was_seen_is_refused(authority: Authority) -> None:
    authority.signers()
    authority.add(authority.sample(serial=3, version="1.2"))
    with pytest.raises(ReferenceRejected, match="roll-back"):
        authority.add(authority.sample(serial=2, version="1.1"))


def test_a_revoked_manifest_still_tells_of_a_roll_back(authority: Authority) -> None:
    authority.signers()
    authority.revoke(authority.add(authority.sample(serial=3)).id)
    with pytest.raises(ReferenceRejected, match="roll-back"):
        authority.add(authority.sample(serial=2))


def test_one_serial_says_one_thing_about_a_version(authority: Authority) -> None:
    authority.signers()
    authority.add(authority.sample(serial=2))
    with pytest.raises(ReferenceRejected, match="again"):
        authority.add(authority.sample(serial=2, artefact="other.fd"))
    authority.add(authority.sample(serial=2, version="1.1"))


def test_machine_classes_count_apart(authority: Authority) -> None:
    authority.signers()
    authority.add(authority.sample(serial=7, machine_class="large"))
    authority.add(authority.sample(serial=1, machine_class="small"))


def test_an_expired_manifest_is_refused(authority: Authority) -> None:
    authority.signers()
    now = authority.database.clock().replace(microsecond=0)
    with pytest.raises(ReferenceRejected):
        authority.add(authority.sample(issued=now - 2 * DAY, expires=now - DAY))


def test_a_proposed_manifest_blocks_nobody_and_cannot_be_accepted_after_a_later_one(authority: Authority) -> None:
    authority.signers()
    old = authority.add(authority.sample(serial=2), standing=Standing.PROPOSED)
    authority.add(authority.sample(serial=9), standing=Standing.PROPOSED)
    authority.add(authority.sample(serial=3))
    with pytest.raises(ReferenceRejected, match="roll-back"):
        authority.accept(old.id)


# -- once more ---------------------------------------------------------------------------------------------------------


def test_the_same_manifest_once_more_changes_nothing_and_brings_new_signatures(authority: Authority) -> None:
    authority.signers(raw(RELEASE, SECOND))
    manifest = authority.sample()
    first = authority.add(manifest, RELEASE)
    assert authority.add(manifest, RELEASE) == first
    both = authority.add(manifest, SECOND)
    assert both.id == first.id
    assert len(both.key_ids) == 2


def test_a_revoked_manifest_does_not_come_back(authority: Authority) -> None:
    authority.signers()
    manifest = authority.sample()
    revoked = authority.revoke(authority.add(manifest).id, "it was wrong")
    with pytest.raises(WrongState, match="it was wrong"):
        authority.add(manifest)
    with pytest.raises(WrongState):
        authority.accept(revoked.id)


def test_what_is_no_envelope_is_refused(authority: Authority) -> None:
    authority.signers()
    with pytest.raises(MalformedReference):
        manifests.add_reference(
            authority.database,
            RED,
            SEALER,
            project="red",
            component="firmware",
            content=b"{}",
            standing=Standing.ACCEPTED,
        )


# -- what judges -------------------------------------------------------------------------------------------------------


def test_a_policy_takes_what_is_accepted_of_its_components_alone(authority: Authority) -> None:
    authority.signers()
    manifest = authority.sample()
    authority.add(authority.sample("unrelated"))
    authority.add(authority.sample(serial=2), standing=Standing.PROPOSED)
    authority.put_policy(one_component())
    authority.make_live()
    assert authority.judges() == (one_component(), [])
    authority.add(manifest)
    assert authority.judges() == (one_component(), [signed(manifest)])


def test_a_key_that_is_taken_out_takes_its_word_with_it(authority: Authority) -> None:
    authority.signers(raw(RELEASE, SECOND))
    authority.add(authority.sample(), SECOND)
    authority.put_policy(one_component())
    authority.make_live()
    assert len(authority.judges()[1]) == 1
    authority.signers(raw(RELEASE))
    assert authority.judges()[1] == []
    authority.signers(raw(RELEASE, SECOND), threshold=2)
    assert authority.judges()[1] == []


def test_a_revoked_version_is_revoked_in_what_judges_and_still_known_by_name(authority: Authority) -> None:
    authority.signers()
    authority.add(authority.sample(serial=1))
    authority.add(authority.sample(serial=2, version="1.1"))
    authority.put_policy(one_component())
    authority.make_live()
    authority.revoke_release("firmware", "1.0")
    document, envelopes = authority.judges()
    assert [version.text for version in parse_policy(document).components["firmware"].revoked] == ["1.0"]
    assert len(envelopes) == 2


def test_a_version_of_which_every_word_was_taken_back_is_revoked(authority: Authority) -> None:
    authority.signers()
    authority.put_policy(one_component())
    authority.make_live()
    wrong = authority.add(authority.sample(serial=1))
    authority.revoke(wrong.id)
    document, envelopes = authority.judges()
    assert parse_policy(document).components["firmware"].revoked
    assert len(envelopes) == 1
    authority.add(authority.sample(serial=2))
    document, envelopes = authority.judges()
    assert not parse_policy(document).components["firmware"].revoked
    assert len(envelopes) == 1


def test_a_word_that_was_taken_back_brings_no_older_one_back(authority: Authority) -> None:
    authority.signers()
    authority.put_policy(one_component())
    authority.make_live()
    authority.add(authority.sample(serial=1))
    later = authority.add(authority.sample(serial=2, artefact="later.fd"))
    authority.revoke(later.id)
    assert parse_policy(authority.judges()[0]).components["firmware"].revoked


# -- who may -----------------------------------------------------------------------------------------------------------


def test_signers_are_named_by_admins_and_the_provider(authority: Authority) -> None:
    for stranger in (BLUE,):
        with pytest.raises(NotFound):
            authority.signers(by=stranger)
    for caller in (RED, AUDITOR, READER):
        with pytest.raises(NotAllowed):
            authority.signers(by=caller)
    authority.signers(by=ADMIN)
    authority.signers(raw(SECOND), by=PROVIDER)


def test_references_are_brought_in_by_members_with_the_right(authority: Authority) -> None:
    authority.signers()
    with pytest.raises(NotFound):
        authority.add(authority.sample(), by=BLUE)
    for caller in (AUDITOR, READER):
        with pytest.raises(NotAllowed):
            authority.add(authority.sample(), by=caller)
    added = authority.add(authority.sample(), by=RED)
    for caller in (AUDITOR, READER):
        with pytest.raises(NotAllowed):
            authority.revoke(added.id, by=caller)


def test_signers_of_another_version_are_not_changed(authority: Authority) -> None:
    authority.signers()
    with pytest.raises(Changed), authority.tx() as tx:
        signers.put_signers(
            tx,
            ADMIN,
            SEALER,
            project="red",
            component=DEFAULT,
            keys=raw(SECOND),
            threshold=1,
            expected_version=0,
        )
