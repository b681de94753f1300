"""Random histories of imaging: tenants and strangers, a store that fails, a worker that is killed at any step.

Safety is checked after every step and at every kill; when all trouble has ended, every operation comes to its end, and
nothing is left over.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from ipaddress import IPv4Address
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from steelyard.imaging import boots, images, operations, quotas, uploads, volumes
from steelyard.imaging.objects import (
    BootAirlock,
    BootDirect,
    BootDisk,
    BootIpxe,
    BootWhat,
    FromImage,
    FromUpload,
    FromUrl,
    FromVolume,
    Keeping,
    Name,
    Private,
    Protocol,
    Public,
    SharedWith,
    Source,
)
from steelyard.imaging.ports import ImageFormat
from steelyard.model.errors import SteelyardError, StorageFailed, StorageUnready
from steelyard.model.network import MacAddress
from steelyard.service.authority import Caller
from steelyard.service.database import Transaction
from tests.machines.histories import Killed
from tests.machines.imaging_histories import BLOCK, DEFAULT, PROJECTS, Imaging, an_imaging
from tests.unit.imaging.rig import AUDITOR, BLUE, NETWORKS, PROVIDER, READER, RED, STRANGER

LONG: Final = timedelta(minutes=20)
LIMIT: Final = st.sampled_from([timedelta(seconds=5), LONG, LONG])
WHO: Final = st.sampled_from([*["holder"] * 8, "provider", "other", "auditor", "reader", "stranger"])
PROJECT: Final = st.sampled_from([*["red"] * 3, "blue"])
IMAGE: Final = st.sampled_from(["debian", "debian", "snap"])
VOLUME: Final = st.sampled_from(["root", "root", "data"])
NODE: Final = st.sampled_from(["n1", "n1", "n2"])
NETWORK: Final = st.sampled_from(["red-net", "red-net", "red-more", "blue-net"])
ADDRESS: Final = st.sampled_from([10, 11, 100])
MAC: Final = st.sampled_from([MacAddress("02:00:00:00:00:01"), MacAddress("02:00:00:00:00:02")])
SIZE: Final = st.sampled_from([BLOCK, 2 * BLOCK, 5 * BLOCK, 30 * BLOCK])
EVENTS: Final = st.integers(0, 9)

Step = tuple[str, dict[str, Any]]
Verb = Callable[[Transaction, Caller], object]


def _steps(weight: int, step: str, /, **arguments: st.SearchStrategy[Any]) -> list[st.SearchStrategy[Step]]:
    """Return what draws such a step, as often as its weight says."""
    return [st.tuples(st.just(step), st.fixed_dictionaries(arguments))] * weight


def _any_of(*kinds: list[st.SearchStrategy[Step]]) -> st.SearchStrategy[Step]:
    return st.one_of([strategy for kind in kinds for strategy in kind])


WORKER: Final = _any_of(
    _steps(2, "work", which=st.integers(0, 5)),
    _steps(5, "do_all"),
    _steps(1, "time_passes", seconds=st.sampled_from([1, 6, 1300])),
    _steps(1, "restart"),
)
TENANTS: Final = _any_of(
    _steps(
        4,
        "make_image",
        who=WHO,
        project=PROJECT,
        name=IMAGE,
        kind=st.sampled_from(["url", "url", "upload", "volume", "image"]),
        source=st.sampled_from(["root", "debian"]),
        owner=PROJECT,
        visibility=st.sampled_from([Private(), Private(), SharedWith(frozenset(PROJECTS)), Public()]),
        limit=LIMIT,
    ),
    _steps(
        2,
        "change_image",
        who=WHO,
        project=PROJECT,
        name=IMAGE,
        what=st.sampled_from(["delete", "delete", "rename", "share", "hide"]),
    ),
    _steps(
        5,
        "make_volume",
        who=WHO,
        project=PROJECT,
        name=VOLUME,
        image=st.sampled_from(["debian", "debian", "snap", None]),
        owner=PROJECT,
        size=SIZE,
        keeping=st.sampled_from(Keeping),
        limit=LIMIT,
    ),
    _steps(
        4,
        "change_volume",
        who=WHO,
        project=PROJECT,
        name=VOLUME,
        what=st.sampled_from(["resize", "roll back", "roll back to", "flatten", "rename", "keep", "delete"]),
        size=SIZE,
        limit=LIMIT,
    ),
    _steps(
        3,
        "open",
        who=WHO,
        project=PROJECT,
        name=VOLUME,
        network=NETWORK,
        protocol=st.sampled_from(Protocol),
        address=ADDRESS,
        limit=LIMIT,
    ),
    _steps(2, "close", who=WHO, project=PROJECT, name=VOLUME, limit=LIMIT),
    _steps(
        5,
        "boot",
        who=WHO,
        project=PROJECT,
        node=NODE,
        network=NETWORK,
        mac=MAC,
        kind=st.sampled_from(["direct", "direct", "ipxe", "airlock", "disk"]),
        volume=VOLUME,
        limit=LIMIT,
    ),
    _steps(2, "end_boot", who=WHO, project=PROJECT, node=NODE, limit=LIMIT),
    _steps(1, "upload", who=WHO, project=PROJECT, size=SIZE),
    _steps(1, "forget_upload", who=WHO, project=PROJECT, expires=st.booleans()),
    _steps(2, "cancel", who=WHO, which=st.integers(0, 3)),
    _steps(1, "set_quota", who=st.sampled_from(["provider", "holder"]), project=PROJECT, most=st.integers(0, 3)),
)
TROUBLE: Final = _any_of(
    _steps(3, "kill_soon", count=EVENTS),
    _steps(2, "fail_soon", count=EVENTS, error=st.sampled_from([StorageFailed, StorageFailed, StorageUnready])),
)


class ImagingHistories(RuleBasedStateMachine):
    """What may happen to imaging."""

    def __init__(self) -> None:
        super().__init__()
        self._context = an_imaging()
        self.imaging: Imaging = self._context.__enter__()

    def teardown(self) -> None:
        try:
            self.imaging.settle()
        finally:
            self._context.__exit__(None, None, None)

    @invariant()
    def nothing_is_unsafe(self) -> None:
        self.imaging.check()

    @rule(what=WORKER)
    def the_worker_goes_on(self, what: Step) -> None:
        self._take(what)

    @rule(what=TENANTS, then=TENANTS)
    def somebody_asks(self, what: Step, then: Step) -> None:
        self._take(what, then)

    @rule(what=TENANTS, then=WORKER)
    def somebody_asks_and_the_worker_goes_on(self, what: Step, then: Step) -> None:
        self._take(what, then)

    @rule(what=TROUBLE, ask=TENANTS, then=WORKER)
    def something_goes_wrong(self, what: Step, ask: Step, then: Step) -> None:
        self._take(ask, what, then)

    @rule(count=EVENTS, ask=TENANTS, meanwhile=TENANTS, then=WORKER)
    def somebody_asks_while_the_worker_is_at_it(self, count: int, ask: Step, meanwhile: Step, then: Step) -> None:
        def interfere(event: str) -> None:
            if event != "before commit":
                self._take(meanwhile)

        self._take(ask)
        self.imaging.arm(count, interfere)
        self._take(then)

    def _take(self, *steps: Step) -> None:
        for name, arguments in steps:
            getattr(self, name)(**arguments)

    # -- the worker --

    def work(self, which: int) -> None:
        live = self.imaging.live()
        if live:
            self._run(lambda: self.imaging.work(live[which % len(live)]))

    def do_all(self) -> None:
        self._run(self.imaging.do_all)

    def time_passes(self, seconds: float) -> None:
        self.imaging.clock.advance(seconds)
        self._run(self.imaging.round)

    def restart(self) -> None:
        self._run(self.imaging.start)

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Killed:
            self.imaging.check()
        except (StorageFailed, StorageUnready):
            pass  # of what nobody waits for: it is tried again

    # -- the tenants --

    def make_image(
        self,
        who: str,
        project: str,
        name: str,
        kind: str,
        source: str,
        owner: str,
        visibility: Private | SharedWith | Public,
        limit: timedelta,
    ) -> None:
        sources: dict[str, Source] = {
            "url": FromUrl("https://example.org/disk", ImageFormat.RAW),
            "upload": FromUpload("file", ImageFormat.RAW),
            "volume": FromVolume(Name(project, source)),
            "image": FromImage(Name(owner, source)),
        }
        self._ask(
            who,
            project,
            lambda tx, caller: images.make_image(
                tx,
                caller,
                DEFAULT,
                name=Name(project, name),
                source=sources[kind],
                sha256=None,
                signed_by=None,
                visibility=visibility,
                limit=limit,
            ),
        )

    def change_image(self, who: str, project: str, name: str, what: str) -> None:
        its = Name(project, name)
        all_projects = SharedWith(frozenset(PROJECTS))
        verbs: dict[str, Verb] = {
            "delete": lambda tx, caller: images.delete_image(tx, caller, name=its, expected_version=None),
            "rename": lambda tx, caller: images.rename_image(
                tx, caller, name=its, new_name="old", expected_version=None
            ),
            "share": lambda tx, caller: images.set_visibility(
                tx, caller, name=its, visibility=all_projects, expected_version=None
            ),
            "hide": lambda tx, caller: images.set_visibility(
                tx, caller, name=its, visibility=Private(), expected_version=None
            ),
        }
        self._ask(who, project, verbs[what])

    def make_volume(
        self,
        who: str,
        project: str,
        name: str,
        image: str | None,
        owner: str,
        size: int,
        keeping: Keeping,
        limit: timedelta,
    ) -> None:
        self._ask(
            who,
            project,
            lambda tx, caller: volumes.make_volume(
                tx,
                caller,
                DEFAULT,
                name=Name(project, name),
                image=None if image is None else Name(owner, image),
                keeping=keeping,
                size_bytes=size if image is None else None,
                limit=limit,
            ),
        )

    def change_volume(self, who: str, project: str, name: str, what: str, size: int, limit: timedelta) -> None:
        its = Name(project, name)
        verbs: dict[str, Verb] = {
            "resize": lambda tx, caller: volumes.resize_volume(
                tx, caller, DEFAULT, name=its, size_bytes=size, limit=limit
            ),
            "roll back": lambda tx, caller: volumes.roll_back_volume(
                tx, caller, DEFAULT, name=its, image=None, limit=limit
            ),
            "roll back to": lambda tx, caller: volumes.roll_back_volume(
                tx, caller, DEFAULT, name=its, image=Name(project, "snap"), limit=limit
            ),
            "flatten": lambda tx, caller: volumes.flatten_volume(tx, caller, name=its, limit=limit),
            "rename": lambda tx, caller: volumes.rename_volume(
                tx, caller, name=its, new_name="data", expected_version=None
            ),
            "keep": lambda tx, caller: volumes.set_keeping(
                tx, caller, name=its, keeping=Keeping.KEPT, expected_version=None
            ),
            "delete": lambda tx, caller: volumes.delete_volume(tx, caller, name=its, expected_version=None),
        }
        self._ask(who, project, verbs[what])

    def open(
        self, who: str, project: str, name: str, network: str, protocol: Protocol, address: int, limit: timedelta
    ) -> None:
        self._ask(
            who,
            project,
            lambda tx, caller: volumes.open_volume(
                tx,
                caller,
                NETWORKS,
                name=Name(project, name),
                network=network,
                protocol=protocol,
                address=IPv4Address(int(NETWORKS[network].address.network.network_address) + address),
                limit=limit,
            ),
        )

    def close(self, who: str, project: str, name: str, limit: timedelta) -> None:
        self._ask(
            who, project, lambda tx, caller: volumes.close_volume(tx, caller, name=Name(project, name), limit=limit)
        )

    def boot(
        self,
        who: str,
        project: str,
        node: str,
        network: str,
        mac: MacAddress,
        kind: str,
        volume: str,
        limit: timedelta,
    ) -> None:
        whats: dict[str, BootWhat] = {
            "direct": BootDirect(volume, Protocol.NBD, None, {}),
            "ipxe": BootIpxe(volume),
            "airlock": BootAirlock("", "debian"),
            "disk": BootDisk(),
        }
        self._ask(
            who,
            project,
            lambda tx, caller: boots.put_boot(
                tx,
                caller,
                NETWORKS,
                project=project,
                node=node,
                network=network,
                mac=mac,
                what=whats[kind],
                limit=limit,
            ),
        )

    def end_boot(self, who: str, project: str, node: str, limit: timedelta) -> None:
        self._ask(who, project, lambda tx, caller: boots.end_boot(tx, caller, project=project, node=node, limit=limit))

    def upload(self, who: str, project: str, size: int) -> None:
        """Upload all of a file at once; the bytes come before the row says that they are there."""

        def put(tx: Transaction, caller: Caller) -> None:
            name = Name(project, "file")
            begun = uploads.put_upload(tx, caller, DEFAULT, name=name, size_bytes=size, sha256=bytes(32))
            self.imaging.world.files[begun.id] = size
            uploads.note_received(tx, begun, size)

        self._ask(who, project, put)
        self.imaging.forget_files_without_rows()

    def forget_upload(self, who: str, project: str, *, expires: bool) -> None:
        name = Name(project, "file")
        if expires:
            with suppress(Killed), self.imaging.database.writing() as tx:
                uploads.expire(tx, tx.now - timedelta(seconds=600))
        else:
            self._ask(who, project, lambda tx, caller: uploads.delete_upload(tx, caller, name=name))

    def cancel(self, who: str, which: int) -> None:
        live = self.imaging.live()
        if live:
            chosen = live[which % len(live)]
            self._ask(who, chosen.project, lambda tx, caller: operations.cancel(tx, caller, operation=chosen.id))

    def set_quota(self, who: str, project: str, most: int) -> None:
        caller = self._caller(who, project)
        with suppress(SteelyardError, Killed), self.imaging.database.writing() as tx:
            quotas.put_quota(
                tx,
                caller,
                DEFAULT,
                project=project,
                images=most,
                volumes=most,
                size_bytes=10 * most * BLOCK,
                expected_version=None,
            )
            assert caller is PROVIDER

    # -- what goes wrong --

    def kill_soon(self, count: int) -> None:
        """Kill whoever is at work then."""

        def kill(_event: str) -> None:
            raise Killed

        self.imaging.arm(count, kill)

    def fail_soon(self, count: int, error: type[StorageFailed | StorageUnready]) -> None:
        """Have the store or an export say that it failed, before or after it did what it was to do."""

        def fail(event: str) -> None:
            if not event.endswith("commit"):
                raise error(event, expected="no smoke", found="smoke")

        self.imaging.arm(count, fail)

    # -- doing it --

    def _caller(self, who: str, project: str) -> Caller:
        """Return who asks: mostly somebody of the project, else somebody who may do other things, or nothing."""
        holder, other = (RED, BLUE) if project == "red" else (BLUE, RED)
        callers = {"holder": holder, "other": other, "provider": PROVIDER, "auditor": AUDITOR, "reader": READER}
        return callers.get(who, STRANGER)

    def _ask(self, who: str, project: str, verb: Verb) -> None:
        """Have a verb asked for: what is refused changes nothing, what is granted was the caller's to ask for."""
        caller = self._caller(who, project)
        with suppress(SteelyardError, Killed):
            with self.imaging.database.writing() as tx:
                verb(tx, caller)
            assert caller is PROVIDER or project in caller.roles
            assert caller not in (STRANGER, AUDITOR, READER)


TestHistories = pytest.mark.slow(ImagingHistories.TestCase)  # a few histories are in `fuzz`
TestHistories.settings = settings(stateful_step_count=40, suppress_health_check=list(HealthCheck), max_examples=60)
