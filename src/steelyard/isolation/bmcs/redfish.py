"""A BMC that speaks Redfish, by the library sushy; its serial line by IPMI's serial over LAN.

What goes over the wire passes `_Wire`, which holds to one host, one set of authorities, and a time limit, and says
whether anything was sent. Sushy knows the resources and their makers' oddities.

Source: DMTF DSP0266 1.20 (protocol), DSP0268 2024.1 (ComputerSystem); sections are named where they apply.
"""

import io
import re
import ssl
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

import requests
import sushy
import urllib3
from requests.adapters import HTTPAdapter
from sushy import auth, connector
from sushy import exceptions as said

from steelyard.isolation.bmcs.ipmi import IpmiBmc, is_host
from steelyard.isolation.ports import BMC_CALL_SECONDS, Access, Bmc, BootDevice, Console, Power
from steelyard.model.errors import (
    DeviceError,
    DeviceGarbled,
    DeviceRefused,
    DeviceUnreachable,
    OutcomeUnknown,
    WrongUse,
)
from steelyard.model.limits import REDFISH_BODY_BYTES

LIMIT_SECONDS: Final = BMC_CALL_SECONDS - 1
"""For one call, which is 2 requests, and 5 with a session that is opened first. Real BMCs take up to 2 s for each."""
CONNECT_SECONDS: Final = 5.0
_TRIES_WHEN_CHANGED: Final = 2
"""A BMC's own doings change a resource between our read and our write of it (412): it is read and written once more."""

# -- what BMCs are known for; of each list, the first that the BMC says it can is taken --------------------------------

_RESETS: Final[Mapping[Power, Sequence[sushy.ResetType]]] = {
    Power.ON: (sushy.ResetType.ON, sushy.ResetType.FORCE_ON),
    Power.OFF: (sushy.ResetType.FORCE_OFF,),
}
_SHUT_DOWN: Final = (sushy.ResetType.GRACEFUL_SHUTDOWN, sushy.ResetType.PUSH_POWER_BUTTON)
"""The second is only sent to a node that is on: pushed on one that is off, the button switches on."""
_TARGETS: Final[Mapping[BootDevice, Sequence[sushy.BootSource]]] = {
    BootDevice.NETWORK: (sushy.BootSource.PXE, sushy.BootSource.UEFI_HTTP),
    BootDevice.DISK: (sushy.BootSource.HDD,),
}
_POWER_STATES: Final[Mapping[sushy.PowerState, Power]] = {
    sushy.PowerState.ON: Power.ON,
    sushy.PowerState.OFF: Power.OFF,
    # On the way, or standing still: not off until it says so.
    sushy.PowerState.POWERING_ON: Power.ON,
    sushy.PowerState.POWERING_OFF: Power.ON,
    sushy.PowerState.PAUSED: Power.ON,
}
_BUSY: Final = frozenset({429, 503})
"""Not taken; to be tried again. Source: DSP0266, section 8.5."""

T = TypeVar("T")

_URL: Final = re.compile(r"https://(?:\[([0-9A-Fa-f:.]+)\]|([^/:@\[\]]+))(?::([1-9][0-9]{0,4}))?/?", re.ASCII)
_SYSTEM_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class RedfishBmc:
    """A `Bmc`. Keeps a session between calls, and opens another when the BMC has forgotten it."""

    def __init__(self, access: Access) -> None:
        """Raises WrongUse for an access that cannot be."""
        address = access.address
        known = {"url", "ca", "system", "sol_host", "sol_port"}
        _check("its address", 'just "url" and perhaps ' + ", ".join(sorted(known - {"url"})), known >= set(address))
        credentials = {name: secret.reveal() for name, secret in access.credentials.items()}
        _check("its credentials", 'just "username", "password"', set(credentials) == {"username", "password"})
        _check("its credentials", "1 to 128 bytes each", all(0 < len(words) <= 128 for words in credentials.values()))
        self._origin = _parse_origin(address.get("url", ""))
        self._system_id = address.get("system")
        _check("its system", "an identifier", self._system_id is None or bool(_SYSTEM_ID.fullmatch(self._system_id)))
        self._serial_line = _serial_line(access)
        self._wire = _Wire(_trust(address.get("ca")), credentials["password"])
        try:
            self._username, self._password = (credentials[name].decode() for name in ("username", "password"))
        except UnicodeDecodeError as cause:
            raise WrongUse("reaching a BMC by Redfish: its credentials", expected="UTF-8", found="other") from cause
        self._session: Any = None
        self._root: Any = None
        self._system_path: str | None = None

    def read_power(self) -> Power:
        """Return whether the node has power; one on its way off still has."""
        with self._speak("reading its power"):
            return self._power_of(self._get_system())

    def set_power(self, wanted: Power) -> None:
        """Ask for power on or off."""
        with self._speak(f"switching it {wanted.value}"):
            system = self._get_system()
            self._reset(system, _choose(_RESETS[wanted], system.get_allowed_reset_system_values()), wanted)

    def shut_down(self) -> None:
        """Ask its system to go off, or press its power button."""
        with self._speak("shutting it down"):
            system = self._get_system()
            way = _choose(_SHUT_DOWN, system.get_allowed_reset_system_values())
            if way is not sushy.ResetType.PUSH_POWER_BUTTON or self._power_of(system) is Power.ON:
                self._reset(system, way, Power.OFF)

    def _reset(self, system: Any, way: sushy.ResetType, end: Power) -> None:
        self._wire.unanswered = OutcomeUnknown
        try:
            system.reset_system(way)
        except said.HTTPError as cause:
            # How some refuse to switch on what is on, or off what is off. Then it is fine.
            if cause.status_code not in (400, 409) or self._power_of(self._get_system()) is not end:
                raise

    def _power_of(self, system: Any) -> Power:
        power = _POWER_STATES.get(system.power_state)
        if power is None:
            raise DeviceGarbled("reading its power", expected="On or Off", found=str(system.json.get("PowerState")))
        return power

    def set_boot_device(self, device: BootDevice, *, once: bool) -> None:
        """Set the boot override, for UEFI, and read it back. Raises DeviceGarbled if it is another."""
        with self._speak(f"having it boot from {device.value}"):
            wanted = self._override_boot(device, once=once, tries=_TRIES_WHEN_CHANGED)
            boot = self._get_system().boot
            found = {name: getattr(boot, name) for name in wanted}
            lapsed = device is BootDevice.DEFAULT and found["enabled"] is wanted["enabled"]
            if found != wanted and not lapsed:
                raise DeviceGarbled("setting its boot device", expected=str(wanted), found=str(found))

    def _override_boot(self, device: BootDevice, *, once: bool, tries: int) -> Mapping[str, object]:
        """Return what the override was set to."""
        system = self._get_system()
        wanted = _override(system, device, once=once)
        self._wire.unanswered = OutcomeUnknown
        try:
            system.set_system_boot_options(**wanted)
        except said.HTTPError as cause:
            if cause.status_code == 412 and tries > 1:
                return self._override_boot(device, once=once, tries=tries - 1)
            raise
        return wanted

    def open_console(self) -> Console:
        """Take the node's serial line, by IPMI. Raises DeviceRefused if its access names no place for that."""
        if self._serial_line is None:
            raise DeviceRefused(
                f"opening the console of the BMC at {self._origin}",
                expected='a "sol_host" in its address: Redfish has no serial line',
                found="none",
            )
        return self._serial_line.open_console()

    def close(self) -> None:
        """Sign out, if that can be; else the session lapses by itself."""
        if self._root is not None:
            self._root = None
            self._wire.begin()
            with suppress(DeviceError, said.SushyError):
                self._session.close()
            # Else sushy would try again when it is collected.
            self._session.reset_session_attrs()
        self._wire.close()

    def _get_system(self) -> Any:
        """Return the node's ComputerSystem, read now; sign in first, if need be."""
        if self._root is None:
            self._session = auth.SessionAuth(self._username, self._password)
            link = connector.Connector(self._origin)
            self._wire.be_all_of(link._session, self._origin)  # noqa: SLF001  sushy offers no other way to say who is spoken to
            self._root = sushy.Sushy(self._origin, auth=self._session, connector=link)
        if self._system_path is None:
            self._system_path = self._find_system()
        return self._root.get_system(self._system_path)

    def _find_system(self) -> str:
        paths = {str(path).rstrip("/").rpartition("/")[2]: str(path) for path in self._list_systems()}
        if self._system_id is None and len(paths) == 1:
            return next(iter(paths.values()))
        if self._system_id is None or self._system_id not in paths:
            wanted = "one system" if self._system_id is None else f"the system {self._system_id}"
            raise DeviceRefused("choosing its system", expected=wanted, found=", ".join(paths) or "none")
        return paths[self._system_id]

    def _list_systems(self) -> Sequence[object]:
        paths: Sequence[object] = self._root.get_system_collection().members_identities
        return paths

    @contextmanager
    def _speak(self, doing: str) -> Iterator[None]:
        """Have what is done within end in time, and fail with a DeviceError."""
        self._wire.begin()
        doing = f"{doing}, of the BMC at {self._origin}"
        try:
            yield
        except said.HTTPError as cause:
            kind: type[DeviceError] = DeviceRefused
            if cause.status_code in _BUSY:
                kind = DeviceUnreachable
            elif cause.status_code >= 500:
                kind = self._wire.unanswered
            raise kind(doing, expected="it done", found=f"{cause.status_code} {cause.code} {cause.detail}") from cause
        except (said.UnknownDefaultError, said.MissingActionError, said.InvalidParameterValueError) as cause:
            raise DeviceRefused(doing, expected="a BMC that can", found=str(cause)) from cause
        except (said.SushyError, ValueError, LookupError, TypeError, AttributeError) as cause:
            # Sushy takes a BMC's JSON to have the right form; where it has not, it raises any of the last four.
            raise DeviceGarbled(doing, expected="an answer that makes sense", found=repr(cause)) from cause


class _Wire(HTTPAdapter):
    """The only way out of this driver: one host, trusted by `context`, each call within its time.

    unanswered  what it means that a request, from now on, is sent and gets no answer.

    Raises DeviceError itself, which sushy passes on: its own retries would do a thing twice after a lost answer.
    """

    def __init__(self, context: ssl.SSLContext, password: bytes) -> None:
        self._context = context
        self._password = password
        self._deadline = 0.0
        self.unanswered: type[DeviceError] = DeviceUnreachable
        # What it calls needs the context.
        super().__init__()

    def be_all_of(self, session: requests.Session, origin: str) -> None:
        """Let `session` speak to `origin` alone, through this.

        For any other URL, that a redirect or a link of the BMC's leads to, it then has no adapter: the session's token
        goes nowhere else. Nor does it look for proxies and passwords in the environment.
        """
        session.trust_env = False
        session.adapters.clear()
        session.mount(f"{origin}/", self)

    def begin(self) -> None:
        """Begin a call: its time runs, and nothing was changed yet."""
        self._deadline = time.monotonic() + LIMIT_SECONDS
        self.unanswered = DeviceUnreachable

    def init_poolmanager(self, *arguments: Any, **more: Any) -> None:
        """Use the context's authorities..."""
        super().init_poolmanager(*arguments, **more, ssl_context=self._context)

    def cert_verify(self, *_: object, **__: object) -> None:
        """...and no others: the library would add those of its own bundle to them."""

    def send(self, request: requests.PreparedRequest, *_: object, **__: object) -> requests.Response:
        """Return the answer, read to its end. Raises DeviceError."""
        doing = f"{request.method} {request.url}"
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise DeviceUnreachable(doing, expected=f"it done within {LIMIT_SECONDS:g} s", found="no time left to ask")
        try:
            response = super().send(request, stream=True, timeout=(min(CONNECT_SECONDS, left), left), verify=True)
            body = self._read(doing, response)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as cause:
            reasons = tuple(_reasons(cause))
            if any(isinstance(reason, ssl.SSLCertVerificationError) for reason in reasons):
                raise DeviceRefused(doing, expected="a certificate of its authority", found=str(reasons[-1])) from cause
            never_sent = any(isinstance(reason, _NEVER_SENT) for reason in reasons)
            kind = DeviceUnreachable if never_sent else self.unanswered
            raise kind(doing, expected="an answer", found=str(reasons[-1])) from cause
        if response.status_code >= 400:
            # What a BMC says to explain itself ends in errors and logs, sushy's as well as ours.
            body = body.replace(self._password, b"<secret>")
        response.raw = io.BytesIO(body)
        return response

    def _read(self, doing: str, response: requests.Response) -> bytes:
        body = bytearray()
        with response:
            while said := response.raw.read1(REDFISH_BODY_BYTES.most, decode_content=True):
                body += said
                if len(body) > REDFISH_BODY_BYTES.most:
                    raise DeviceGarbled(doing, expected=f"at most {REDFISH_BODY_BYTES.most} bytes", found="more")
                if time.monotonic() > self._deadline:
                    raise self.unanswered(doing, expected="an answer in time", found=f"{len(body)} bytes of it")
        return bytes(body)


_NEVER_SENT: Final = (
    requests.ConnectTimeout,
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.NameResolutionError,
    ConnectionRefusedError,
)


def _reasons(error: BaseException | None) -> Iterator[BaseException]:
    """Give an error and what led to it, the first cause last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _override(system: Any, device: BootDevice, *, once: bool) -> Mapping[str, object]:
    """Return what to set a boot override to."""
    if device is BootDevice.DEFAULT:
        return {"target": sushy.BootSource.NONE, "enabled": sushy.BootSourceOverrideEnabled.DISABLED}
    lifetimes = sushy.BootSourceOverrideEnabled
    return {
        "target": _choose(_TARGETS[device], system.get_allowed_system_boot_source_values()),
        "enabled": lifetimes.ONCE if once else lifetimes.CONTINUOUS,
        "mode": sushy.BootSourceOverrideMode.UEFI,
    }


def _choose(ways: Sequence[T], allowed: Collection[T]) -> T:
    """Return the first of `ways` that is allowed. Raises DeviceRefused."""
    for way in ways:
        if way in allowed:
            return way
    raise DeviceRefused("choosing how to do it", expected=" or ".join(map(str, ways)), found=f"only {allowed}")


def _parse_origin(url: str) -> str:
    """Return scheme, host and port of `url`, which has nothing else. Raises WrongUse."""
    match = _URL.fullmatch(url)
    fits = match is not None and is_host(match[1] or match[2]) and int(match[3] or 443) < 65536
    _check("its url", "https://HOST or https://HOST:PORT", fits)
    return url.rstrip("/").lower()


def _trust(authority: str | None) -> ssl.SSLContext:
    """Return what trusts this authority (PEM), without one the system's. Raises WrongUse."""
    # To the library "" is the same as none, and who gave it means another thing.
    _check("its ca", "certificates in PEM, or no word of it", authority != "")
    try:
        return ssl.create_default_context(cadata=authority)
    except ssl.SSLError as cause:
        raise WrongUse("reaching a BMC by Redfish: its ca", expected="certificates in PEM", found=str(cause)) from cause


def _serial_line(access: Access) -> IpmiBmc | None:
    """Return the same BMC by IPMI, if its access says where. Raises WrongUse."""
    address = access.address
    if "sol_host" not in address:
        _check("its address", 'a "sol_host" for the "sol_port"', "sol_port" not in address)
        return None
    place = {"host": address["sol_host"]} | ({"port": address["sol_port"]} if "sol_port" in address else {})
    return IpmiBmc(Access(place, access.credentials))


def connect(access: Access) -> Bmc:
    """Return the BMC. Raises WrongUse, ServiceUnready."""
    return RedfishBmc(access)


def _check(what: str, expected: str, fits: bool) -> None:  # noqa: FBT001  what was found must not be shown
    if not fits:
        raise WrongUse(f"reaching a BMC by Redfish: {what}", expected=expected, found="another")
