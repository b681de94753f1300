"""Switches that run Open vSwitch, by their database (OVSDB): what a port carries is a row of its table Port.

A port is on one bridge, which forwards by itself: one with an OpenFlow controller does not go by these rows, and is
refused. Source: ovs-vswitchd.conf.db(5) of Open vSwitch 3.1, tables Port, Bridge, Mirror, Open_vSwitch.
"""

import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from steelyard.isolation.ports import Access, Missing, Other, PortReading
from steelyard.isolation.switches.ovsdb import (
    Columns,
    Connection,
    Endpoint,
    Json,
    Row,
    Uuid,
    map_json,
    parse_endpoint,
    set_json,
)
from steelyard.model.errors import (
    DeviceError,
    DeviceGarbled,
    DeviceRefused,
    DeviceUnreachable,
    OutcomeUnknown,
    WrongUse,
)
from steelyard.model.network import SHUT, PortVlans, Vlan

CALL_SECONDS: Final = 10.0
"""The most that a call takes. The slowest real write is some 0.1 s; a switch that just starts takes some seconds."""
SETTLE_MILLISECONDS: Final = 150
"""How long flows that the data path knows from before may live on after a change is called applied, if not said.

Open vSwitch calls a change applied when it knows it, looks all its flows over after that, and does not tell when it is
through. Measured: docs/drivers/openvswitch.md.
"""
FENCE_KEY: Final = "steelyard-fence"
"""Where a bridge remembers the highest fence it has seen, in its external_ids."""

_RESERVED_VLAN: Final = 4095
"""What a port that is shut trunks, as a trunk of nothing would be one of everything."""
_LEAKS: Final = frozenset({"mcast-snooping-flood", "mcast-snooping-flood-reports", "priority-tags"})
"""Keys of a port's other_config: the first two send it multicast of every VLAN; with the third, frames that should have
no tag leave with one."""
_PORT: Final = ("name", "vlan_mode", "tag", "trunks", "protected", "other_config")
_BRIDGE: Final = ("name", "ports", "mirrors", "controller", "fail_mode")
_MIRROR: Final = ("output_port", "output_vlan")
_WATCHED: Final = {"Port": _PORT, "Bridge": _BRIDGE, "Mirror": _MIRROR}
"""What `read` goes by."""


@dataclass(frozen=True, slots=True)
class _Setting:
    """What the columns of a row of Port say that matters."""

    vlan_mode: str | None
    tag: int | None
    trunks: frozenset[int]
    protected: bool
    leaks: frozenset[str] = frozenset()

    @property
    def vlans(self) -> frozenset[int]:
        """The VLANs whose frames come out of the port."""
        return self.trunks if self.tag is None else self.trunks | {self.tag}

    @property
    def row(self) -> Row:
        """The columns as they are written."""
        return {
            "vlan_mode": set_json([] if self.vlan_mode is None else [self.vlan_mode]),
            "tag": set_json([] if self.tag is None else [self.tag]),
            "trunks": set_json(sorted(self.trunks)),
            "protected": self.protected,
        }

    def __str__(self) -> str:
        trunks = f"{len(self.trunks)} VLANs" if len(self.trunks) > 10 else sorted(self.trunks) or "of every VLAN"
        leaks = f" {' '.join(sorted(self.leaks))}" if self.leaks else ""
        return f"vlan_mode={self.vlan_mode} tag={self.tag} trunks={trunks} protected={self.protected}{leaks}"


def _setting_for(vlans: PortVlans) -> _Setting:
    """Return how a port is told to carry this."""
    tagged = frozenset(vlan.number for vlan in vlans.tagged)
    if vlans.untagged is None:
        if not tagged:
            # Protected, so that frames tagged 4095 do not get from one shut port to another.
            return _Setting("trunk", None, frozenset({_RESERVED_VLAN}), protected=True)
        return _Setting("trunk", None, tagged, vlans.isolated)
    return _Setting("native-untagged" if tagged else "access", vlans.untagged.number, tagged, vlans.isolated)


def _meaning(setting: _Setting) -> PortVlans | Other:
    """Return what a port so set carries: what we would set so, or something other."""
    try:
        tagged = frozenset(map(Vlan, setting.trunks - {_RESERVED_VLAN}))
        untagged = None if setting.tag is None else Vlan(setting.tag)
        carries = PortVlans(untagged, tagged, setting.protected and bool(tagged or untagged))
    except WrongUse:
        return Other(str(setting))
    return carries if _setting_for(carries) == setting else Other(str(setting))


@dataclass(frozen=True, slots=True)
class _Mirror:
    """Where a mirror sends its copies of frames."""

    output_port: Uuid | None
    output_vlan: int | None

    def reaches(self, port: Uuid, vlans: Collection[int]) -> bool:
        """Say whether they come out of a port on these VLANs."""
        return self.output_port == port or self.output_vlan in vlans


@dataclass(frozen=True, slots=True)
class _Bridge:
    """A bridge as it was at one moment. ports: row and setting, by name; those on this bridge."""

    uuid: Uuid
    external_ids: Mapping[str, str]
    ports: Mapping[str, tuple[Uuid, _Setting]]
    mirrors: Mapping[Uuid, _Mirror]

    def reading(self, name: str) -> PortReading:
        """Return what a port carries."""
        if name not in self.ports:
            return Missing()
        uuid, setting = self.ports[name]
        if any(mirror.reaches(uuid, setting.vlans) for mirror in self.mirrors.values()):
            return Other(f"copies of other frames by a mirror; {setting}")
        return _meaning(setting)


class OpenVSwitch:
    """One bridge of an Open vSwitch: a `Switch`."""

    def __init__(self, endpoint: Endpoint, bridge: str, settle_seconds: float, call_seconds: float) -> None:
        self._endpoint = endpoint
        self._bridge = bridge
        self._settle_seconds = settle_seconds
        self._call_seconds = call_seconds
        self._connection: Connection | None = None
        self._changed = False
        self._written: Mapping[Uuid, _Setting] = {}
        # Whoever wrote before us may have been killed a moment ago.
        self._unsettled = True

    def read(self, ports: Collection[str]) -> Mapping[str, PortReading]:
        """Return the state of each port."""
        deadline = self._deadline()
        while True:
            bridge, told, applied = self._look(deadline)
            if applied < told:
                # Somebody has just changed something. A switch that never applies it has in force who knows what.
                self._wait_until_applied(told, deadline, DeviceGarbled)
            elif self._unsettled:
                # A change whose answer was lost, say, is not in force yet just because it reads so.
                self._settle()
            else:
                break
        if bridge is None:
            return dict.fromkeys(ports, Missing())
        return {name: bridge.reading(name) for name in ports}

    def write(self, wanted: Mapping[str, PortVlans], fence: int) -> None:
        """Let these ports carry exactly these."""
        deadline = self._deadline()
        told = None
        while told is None:
            bridge, _, _ = self._look(deadline)
            told = self._change(bridge, wanted, fence, deadline)
        self._wait_until_applied(told, deadline, OutcomeUnknown)
        if self._unsettled:
            self._settle()

    def wait_for_change(self, seconds: float) -> None:
        """Return when something changed, or may have."""
        deadline = time.monotonic() + seconds
        with self._connected(self._deadline()) as connection:
            try:
                while not self._changed:
                    connection.listen(deadline)
            except TimeoutError:
                return
            except DeviceUnreachable:
                # Lost. What happened then is told by what is there now.
                self.close()
        self._changed = False

    def close(self) -> None:
        """Give up the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- asking --

    def _deadline(self) -> float:
        return time.monotonic() + self._call_seconds + self._settle_seconds

    def _settle(self) -> None:
        """Let the flows from before the last change that was applied go."""
        time.sleep(self._settle_seconds)
        self._unsettled = False

    @contextmanager
    def _connected(self, deadline: float) -> Iterator[Connection]:
        """Give the connection, made anew if there is none; one that failed is given up."""
        try:
            if self._connection is None:
                self._changed = True
                self._connection = Connection(self._endpoint, deadline, self._take_update)
                self._connection.monitor(_WATCHED, deadline)
            yield self._connection
        except BaseException:
            self.close()
            raise

    def _look(self, deadline: float) -> tuple[_Bridge | None, int, int]:
        """Return the bridge, None if there is none; how many changes the switch was told of, and how many it applied.

        Raises DeviceUnreachable, DeviceRefused, DeviceGarbled.
        """
        used_before = self._connection is not None
        try:
            return self._look_once(deadline)
        except DeviceUnreachable:
            if not used_before:
                raise
            # A server ends a connection on which nothing was said for some seconds.
            return self._look_once(deadline)

    def _look_once(self, deadline: float) -> tuple[_Bridge | None, int, int]:
        selects: list[Row] = [
            _select("Open_vSwitch", [], ["next_cfg", "cur_cfg"]),
            _select("Bridge", [["name", "==", self._bridge]], ["_uuid", "external_ids", *_BRIDGE]),
            _select("Port", [], ["_uuid", *_PORT]),
            _select("Mirror", [], ["_uuid", *_MIRROR]),
        ]
        with self._connected(deadline) as connection:
            results = connection.transact(selects, deadline, DeviceUnreachable)
            doing = f"reading bridge {self._bridge} at {self._endpoint.shown}"
            switch = Columns(doing, results.row(0))
            told, applied = switch.one("next_cfg", int), switch.one("cur_cfg", int)
            if not results.rows(1):
                return None, told, applied
            bridge = Columns(doing, results.row(1))
            ports, mirrors = ([Columns(doing, row) for row in results.rows(index)] for index in (2, 3))
            return self._bridge_of(doing, bridge, ports, mirrors), told, applied

    def _bridge_of(
        self, doing: str, bridge: Columns, ports: Collection[Columns], mirrors: Collection[Columns]
    ) -> _Bridge:
        if bridge.several("controller", Uuid) or bridge.optional("fail_mode", str) == "secure":
            raise DeviceRefused(
                doing,
                expected="a bridge that forwards by its ports' VLANs",
                found="one that an OpenFlow controller governs, or fail_mode=secure",
            )
        its_ports, its_mirrors = bridge.several("ports", Uuid), bridge.several("mirrors", Uuid)
        return _Bridge(
            bridge.one("_uuid", Uuid),
            bridge.strings("external_ids"),
            {
                port.one("name", str): (uuid, _setting_of(port))
                for port in ports
                if (uuid := port.one("_uuid", Uuid)) in its_ports
            },
            {
                uuid: _Mirror(mirror.optional("output_port", Uuid), mirror.optional("output_vlan", int))
                for mirror in mirrors
                if (uuid := mirror.one("_uuid", Uuid)) in its_mirrors
            },
        )

    # -- changing --

    def _change(
        self, bridge: _Bridge | None, wanted: Mapping[str, PortVlans], fence: int, deadline: float
    ) -> int | None:
        """Change it all in one transaction; return which change that was, None if the bridge is no more as we saw it.

        Raises DeviceError.
        """
        doing = f"writing bridge {self._bridge} at {self._endpoint.shown}"
        if bridge is None:
            raise DeviceRefused(doing, expected="the bridge", found="none of the name")
        if missing := sorted(wanted.keys() - bridge.ports.keys()):
            raise DeviceRefused(doing, expected="ports of the bridge", found=f"others: {', '.join(missing)}")
        _check_fence(doing, bridge.external_ids.get(FENCE_KEY), fence)
        settings = {bridge.ports[name][0]: _setting_for(vlans) for name, vlans in wanted.items()}
        leaking = {uuid for uuid, setting in bridge.ports.values() if uuid in settings and setting.leaks}
        to_them = {
            uuid
            for uuid, mirror in bridge.mirrors.items()
            if any(mirror.reaches(port, setting.vlans) for port, setting in settings.items())
        }
        operations: list[Row] = [
            {
                "op": "wait",
                "timeout": 0,
                "table": "Bridge",
                # The bridge has the ports, and nobody has taken it over since.
                "where": [_is(bridge.uuid), ["ports", "includes", set_json(uuid.json for uuid in settings)]],
                "columns": ["external_ids", "mirrors"],
                "until": "==",
                "rows": [
                    {
                        "external_ids": map_json(bridge.external_ids),
                        "mirrors": set_json(uuid.json for uuid in bridge.mirrors),
                    }
                ],
            },
            _update("Bridge", bridge.uuid, {"external_ids": map_json({**bridge.external_ids, FENCE_KEY: str(fence)})}),
            _mutate("Bridge", [_is(bridge.uuid)], "mirrors", "delete", set_json(uuid.json for uuid in to_them)),
            *(_update("Port", uuid, setting.row) for uuid, setting in settings.items()),
            *(_mutate("Port", [_is(uuid)], "other_config", "delete", set_json(sorted(_LEAKS))) for uuid in leaking),
            _mutate("Open_vSwitch", [], "next_cfg", "+=", 1),
            _select("Open_vSwitch", [], ["next_cfg"]),
        ]
        with self._connected(deadline) as connection:
            self._written = settings
            # Of a port that was shut there are no flows to wait for.
            self._unsettled |= any(bridge.reading(name) not in (SHUT, vlans) for name, vlans in wanted.items())
            results = connection.transact(operations, deadline, OutcomeUnknown)
            if results.timed_out:
                return None
            for index in range(1, len(operations) - 1):
                results.check_count(index, 1)
            return Columns(doing, results.row(len(operations) - 1)).one("next_cfg", int)

    def _wait_until_applied(self, told: int, deadline: float, too_late: type[DeviceError]) -> None:
        """Return when the switch has applied a change that it was told of. Raises `too_late`."""
        wait: Row = {
            "op": "wait",
            "timeout": max(0, int((deadline - time.monotonic()) * 1000)),
            "table": "Open_vSwitch",
            "where": [["cur_cfg", ">=", told]],
            "columns": ["cur_cfg"],
            "until": "!=",
            "rows": [],
        }
        doing = f"waiting for {self._endpoint.shown}"
        with self._connected(deadline) as connection:
            try:
                results = connection.transact([wait], deadline, too_late)
            except DeviceRefused as error:
                # It has taken the change: that it refuses to tell more does not make it refused.
                raise too_late(doing, expected="that it applies what it took", found=error.found) from error
            if results.timed_out:
                raise too_late(doing, expected="that it applies what it took", found="that it did not")

    # -- changes by others --

    def _take_update(self, updates: Json) -> None:
        """Note it, unless it is what we wrote ourselves."""
        doing = f"listening to {self._endpoint.shown}"
        match updates:
            case {"Port": dict(rows), **others} if not others:
                for uuid, change in rows.items():
                    match change:
                        case {"old": dict(), "new": new}:
                            self._changed |= self._written.get(Uuid(uuid)) != _setting_of(Columns(doing, new))
                        case _:
                            self._changed = True
            case dict():
                self._changed = True
            case _:
                raise DeviceGarbled(doing, expected="rows by table", found=str(updates))


def _setting_of(port: Columns) -> _Setting:
    return _Setting(
        port.optional("vlan_mode", str),
        port.optional("tag", int),
        port.several("trunks", int),
        port.one("protected", bool),
        _LEAKS & port.strings("other_config").keys(),
    )


def _check_fence(doing: str, recorded: str | None, fence: int) -> None:
    """Return if a writer with this fence may write. Raises DeviceRefused, DeviceGarbled."""
    if recorded is None:
        return
    if not (recorded.isascii() and recorded.isdecimal() and len(recorded) < 20):
        raise DeviceGarbled(doing, expected=f"a number as {FENCE_KEY}", found=recorded)
    if fence < int(recorded):
        raise DeviceRefused(doing, expected=f"a fence of {recorded} or more", found=str(fence))


def _select(table: str, where: Json, columns: list[Json]) -> Row:
    return {"op": "select", "table": table, "where": where, "columns": columns}


def _is(row: Uuid) -> Json:
    return ["_uuid", "==", row.json]


def _update(table: str, row: Uuid, columns: Row) -> Row:
    return {"op": "update", "table": table, "where": [_is(row)], "row": columns}


def _mutate(table: str, where: Json, column: str, mutator: str, value: Json) -> Row:
    return {"op": "mutate", "table": table, "where": where, "mutations": [[column, mutator, value]]}


def open_vswitch(access: Access, *, call_seconds: float = CALL_SECONDS) -> OpenVSwitch:
    """Return the switch; does not connect: a `SwitchDriver`. Raises WrongUse.

    address      "bridge": its name; "settle_ms", if not SETTLE_MILLISECONDS: 1 to 5000; and that of `parse_endpoint`,
                 which also takes the credentials.
    call_seconds  the most that a call takes, besides settling.
    """
    doing = "reaching an Open vSwitch"
    rest = dict(access.address)
    bridge, settle = rest.pop("bridge", ""), rest.pop("settle_ms", str(SETTLE_MILLISECONDS))
    if not bridge:
        raise WrongUse(doing, expected='"bridge" in its address', found="none")
    if not re.fullmatch("[0-9]{1,4}", settle, re.ASCII) or not 1 <= int(settle) <= 5000:
        raise WrongUse(doing, expected='"settle_ms" of 1 to 5000', found=settle)
    return OpenVSwitch(parse_endpoint(Access(rest, access.credentials)), bridge, int(settle) / 1000, call_seconds)
