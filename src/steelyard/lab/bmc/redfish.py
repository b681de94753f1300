"""A BMC's Redfish service: systems with power, boot override and boot options, managers, sessions; over TLS.

Source: DMTF DSP0266 1.20 (protocol), DSP0268 2024.1 (ComputerSystem, BootOption, EthernetInterface, Manager, Session).
"""

import asyncio
import base64
import hmac
import json
import logging
import secrets
import ssl
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from steelyard.lab.bmc.boot import Lifetime, Override
from steelyard.lab.bmc.controller import SLOWNESS_SECONDS, Controller, NotNow, Power
from steelyard.lab.faults import BmcFault
from steelyard.lab.plan import BootDevice
from steelyard.model.errors import SteelyardError
from steelyard.model.secret import Secret

log = logging.getLogger(__name__)

MOST_SESSIONS: Final = 32
BODY_BYTES: Final = 16 * 1024
ROOT: Final = "/redfish/v1"
SYSTEM: Final = f"{ROOT}/Systems/1"
MANAGER: Final = f"{ROOT}/Managers/1"
SESSIONS: Final = f"{ROOT}/SessionService/Sessions"
RESET_ACTION: Final = f"{SYSTEM}/Actions/ComputerSystem.Reset"

_RESET_TYPES: Final = ("On", "ForceOff", "GracefulShutdown", "PushPowerButton", "ForceRestart", "PowerCycle")
_TARGETS: Final[Mapping[str, BootDevice]] = {
    "Pxe": BootDevice.NETWORK,
    "UefiHttp": BootDevice.NETWORK,
    "Hdd": BootDevice.DISK,
}
_LIFETIMES: Final[Mapping[str, Lifetime]] = {"Once": Lifetime.ONCE, "Continuous": Lifetime.PERSISTENT}
_OPTIONS: Final[Mapping[str, BootDevice]] = {"Boot0001": BootDevice.NETWORK, "Boot0002": BootDevice.DISK}
"""Boot option -> what it loads from; the order of them is the boot order."""
_OPEN_PATHS: Final = frozenset({("GET", "/redfish"), ("GET", ROOT), ("GET", f"{ROOT}/"), ("POST", SESSIONS)})
"""What is answered to a stranger. Source: DSP0266, section 13.3.2."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RedfishService:
    """One BMC's service. `start` it on an address, `close` it."""

    def __init__(self, controller: Controller, user: str, password: Secret) -> None:
        self._controller = controller
        self._user = user
        self._password = password
        self._sessions: OrderedDict[str, bytes] = OrderedDict()
        self._runner: web.AppRunner | None = None

    async def start(self, address: str, port: int, key_and_certificate: Path) -> None:
        """Answer at `address`, with the key and certificate in a PEM file. Raises OSError if the port is taken.

        May be called again after `close`: sessions then go on.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(key_and_certificate)
        application = web.Application(middlewares=[self._guard], client_max_size=BODY_BYTES)
        application.add_routes(
            [
                web.get("/redfish", self._get_versions),
                web.get(ROOT, self._get_root),
                web.get(f"{ROOT}/", self._get_root),
                web.get(f"{ROOT}/Systems", self._collection(f"{ROOT}/Systems", "ComputerSystem", [SYSTEM])),
                web.get(SYSTEM, self._get_system),
                web.patch(SYSTEM, self._patch_system),
                web.post(RESET_ACTION, self._reset),
                web.get(
                    f"{SYSTEM}/BootOptions",
                    self._collection(
                        f"{SYSTEM}/BootOptions", "BootOption", [f"{SYSTEM}/BootOptions/{name}" for name in _OPTIONS]
                    ),
                ),
                web.get(f"{SYSTEM}/BootOptions/{{name}}", self._get_boot_option),
                web.get(
                    f"{SYSTEM}/EthernetInterfaces",
                    self._collection(
                        f"{SYSTEM}/EthernetInterfaces",
                        "EthernetInterface",
                        [f"{SYSTEM}/EthernetInterfaces/{nic.name}" for nic in self._controller.node.nics],
                    ),
                ),
                web.get(f"{SYSTEM}/EthernetInterfaces/{{name}}", self._get_nic),
                web.get(f"{ROOT}/Managers", self._collection(f"{ROOT}/Managers", "Manager", [MANAGER])),
                web.get(MANAGER, self._get_manager),
                web.get(f"{ROOT}/SessionService", self._get_session_service),
                web.get(SESSIONS, self._get_sessions),
                web.post(SESSIONS, self._open_session),
                web.get(f"{SESSIONS}/{{name}}", self._get_session),
                web.delete(f"{SESSIONS}/{{name}}", self._close_session),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, address, port, ssl_context=context).start()

    async def close(self) -> None:
        """Stop answering."""
        if self._runner is not None:
            await self._runner.cleanup()

    # -- who may, and faults --

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let through whoever signed in, and turn every failure into a Redfish error."""
        if BmcFault.SLOW in self._controller.faults:
            await asyncio.sleep(SLOWNESS_SECONDS)
        try:
            if (request.method, request.path) not in _OPEN_PATHS and not self._signed_in(request):
                return _error(401, "Base.1.18.NoValidSession", "Sign in first.")
            response = await handler(request)
        except web.HTTPException as refused:
            return _error(refused.status, "Base.1.18.GeneralError", refused.text or refused.reason)
        except NotNow:
            return _error(409, "Base.1.18.ActionNotSupported", "The system is off.")
        except SteelyardError as cause:
            log.error("%s: %s", self._controller.node.name, cause)
            return _error(500, "Base.1.18.InternalError", "The BMC could not do it.")
        response.headers["OData-Version"] = "4.0"
        return response

    def _signed_in(self, request: web.Request) -> bool:
        token = request.headers.get("X-Auth-Token", "").encode()
        if any(hmac.compare_digest(token, known) for known in self._sessions.values()):
            return True
        kind, _, credentials = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "basic":
            return False
        try:
            user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
        except ValueError:
            return False
        return self._is_password(user, password)

    def _is_password(self, user: str, password: str) -> bool:
        right = hmac.compare_digest(password.encode(), self._password.reveal())
        return hmac.compare_digest(user.encode(), self._user.encode()) and right

    # -- the service and its sessions --

    async def _get_versions(self, _: web.Request) -> web.Response:
        return _resource({"v1": f"{ROOT}/"})

    async def _get_root(self, _: web.Request) -> web.Response:
        return _resource(
            {
                "@odata.id": ROOT,
                "@odata.type": "#ServiceRoot.v1_16_1.ServiceRoot",
                "Id": "RootService",
                "Name": "Emulated rack BMC",
                "RedfishVersion": "1.20.0",
                "UUID": str(self._controller.node.identity),
                "Systems": _link(f"{ROOT}/Systems"),
                "Managers": _link(f"{ROOT}/Managers"),
                "SessionService": _link(f"{ROOT}/SessionService"),
                "Links": {"Sessions": _link(SESSIONS)},
            }
        )

    def _collection(self, path: str, kind: str, members: list[str]) -> Handler:
        async def get(_: web.Request) -> web.Response:
            return _collection(path, kind, members)

        return get

    async def _get_session_service(self, _: web.Request) -> web.Response:
        return _resource(
            {
                "@odata.id": f"{ROOT}/SessionService",
                "@odata.type": "#SessionService.v1_1_9.SessionService",
                "Id": "SessionService",
                "Name": "Sessions",
                "ServiceEnabled": True,
                "Sessions": _link(SESSIONS),
            }
        )

    async def _get_sessions(self, _: web.Request) -> web.Response:
        return _collection(SESSIONS, "Session", [f"{SESSIONS}/{name}" for name in self._sessions])

    async def _open_session(self, request: web.Request) -> web.Response:
        body = await _body(request)
        user, password = body.get("UserName"), body.get("Password")
        if not (isinstance(user, str) and isinstance(password, str) and self._is_password(user, password)):
            return _error(401, "Base.1.18.ResourceAtUriUnauthorized", "Not that name with that password.")
        name, token = secrets.token_hex(8), secrets.token_hex(16)
        self._sessions[name] = token.encode()
        while len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        response = _resource(self._session(name), status=201)
        response.headers.update({"X-Auth-Token": token, "Location": f"{SESSIONS}/{name}"})
        return response

    def _session(self, name: str) -> dict[str, Any]:
        return {
            "@odata.id": f"{SESSIONS}/{name}",
            "@odata.type": "#Session.v1_7_2.Session",
            "Id": name,
            "Name": "Session",
            "UserName": self._user,
        }

    async def _get_session(self, request: web.Request) -> web.Response:
        return _resource(self._session(_known(request, self._sessions)))

    async def _close_session(self, request: web.Request) -> web.Response:
        del self._sessions[_known(request, self._sessions)]
        return web.Response(status=204)

    async def _get_manager(self, _: web.Request) -> web.Response:
        return _resource(
            {
                "@odata.id": MANAGER,
                "@odata.type": "#Manager.v1_19_2.Manager",
                "Id": "1",
                "Name": f"BMC of {self._controller.node.name}",
                "ManagerType": "BMC",
                "FirmwareVersion": "1.00",
                "Links": {"ManagerForServers": [_link(SYSTEM)]},
            }
        )

    # -- the system --

    async def _get_system(self, _: web.Request) -> web.Response:
        boot = self._controller.boot
        override = boot.override
        return _resource(
            {
                "@odata.id": SYSTEM,
                "@odata.type": "#ComputerSystem.v1_23_1.ComputerSystem",
                "Id": "1",
                "Name": self._controller.node.name,
                "SystemType": "Physical",
                "UUID": str(self._controller.node.identity),
                "PowerState": {Power.ON: "On", Power.OFF: "Off"}[self._controller.power],
                "Boot": {
                    "BootSourceOverrideEnabled": "Disabled"
                    if override is None
                    else _name(_LIFETIMES, override.lifetime),
                    "BootSourceOverrideTarget": "None" if override is None else _name(_TARGETS, override.device),
                    "BootSourceOverrideTarget@Redfish.AllowableValues": ["None", *_TARGETS],
                    "BootSourceOverrideMode": "UEFI",
                    "BootOrder": [_name(_OPTIONS, device) for device in boot.order],
                    "BootOptions": _link(f"{SYSTEM}/BootOptions"),
                },
                "EthernetInterfaces": _link(f"{SYSTEM}/EthernetInterfaces"),
                "Links": {"ManagedBy": [_link(MANAGER)]},
                "Actions": {
                    "#ComputerSystem.Reset": {
                        "target": RESET_ACTION,
                        "ResetType@Redfish.AllowableValues": list(_RESET_TYPES),
                    }
                },
            }
        )

    async def _patch_system(self, request: web.Request) -> web.Response:
        """Change the override, the boot order, or both; all of it or nothing."""
        wanted = (await _body(request)).pop("Boot", None)
        if not isinstance(wanted, dict):
            raise web.HTTPBadRequest(text="Only Boot can be changed.")
        settings = self._controller.boot
        if (order := wanted.pop("BootOrder", None)) is not None:
            if not isinstance(order, list) or sorted(map(str, order)) != sorted(_OPTIONS):
                raise web.HTTPBadRequest(text=f"BootOrder: each of {', '.join(_OPTIONS)} once.")
            settings = replace(settings, order=tuple(_OPTIONS[name] for name in order))
        if wanted.pop("BootSourceOverrideMode", "UEFI") != "UEFI":
            raise web.HTTPBadRequest(text="BootSourceOverrideMode: UEFI alone.")
        if wanted:
            settings = replace(settings, override=_override(wanted, settings.override))
        self._controller.set_boot(settings)
        return web.Response(status=204)

    async def _reset(self, request: web.Request) -> web.Response:
        match (await _body(request)).get("ResetType"):
            case "On":
                await self._controller.power_on()
            case "ForceOff":
                await self._controller.power_off()
            case "GracefulShutdown" | "PushPowerButton":
                await self._controller.shut_down()
            case "ForceRestart" | "PowerCycle":
                await self._controller.restart()
            case _:
                raise web.HTTPBadRequest(text=f"ResetType: one of {', '.join(_RESET_TYPES)}.")
        return web.Response(status=204)

    async def _get_boot_option(self, request: web.Request) -> web.Response:
        name = _known(request, _OPTIONS)
        return _resource(
            {
                "@odata.id": f"{SYSTEM}/BootOptions/{name}",
                "@odata.type": "#BootOption.v1_0_6.BootOption",
                "Id": name,
                "Name": name,
                "BootOptionReference": name,
                "BootOptionEnabled": True,
                "DisplayName": _OPTIONS[name].value,
            }
        )

    async def _get_nic(self, request: web.Request) -> web.Response:
        nics = {nic.name: nic for nic in self._controller.node.nics}
        nic = nics[_known(request, nics)]
        return _resource(
            {
                "@odata.id": f"{SYSTEM}/EthernetInterfaces/{nic.name}",
                "@odata.type": "#EthernetInterface.v1_12_2.EthernetInterface",
                "Id": nic.name,
                "Name": nic.name,
                "MACAddress": nic.mac,
                "PermanentMACAddress": nic.mac,
                "Status": {"State": "Enabled", "Health": "OK"},
            }
        )


def _override(wanted: dict[str, Any], present: Override | None) -> Override | None:
    """Return the override that `wanted` makes of the `present` one; what it leaves out stays."""
    enabled = wanted.pop("BootSourceOverrideEnabled", None)
    target = wanted.pop("BootSourceOverrideTarget", None)
    if wanted:
        raise web.HTTPBadRequest(text=f"Boot: {min(wanted)} cannot be changed.")
    if enabled == "Disabled" or target == "None":
        return None
    standing = present or Override(BootDevice.NETWORK, Lifetime.ONCE)
    device = standing.device if target is None else _TARGETS.get(target)
    lifetime = standing.lifetime if enabled is None else _LIFETIMES.get(enabled)
    if device is None or lifetime is None or (target is None and present is None):
        raise web.HTTPBadRequest(text=f"Boot override: {', '.join(_TARGETS)}; {', '.join(_LIFETIMES)} or Disabled.")
    return Override(device, lifetime)


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError) as cause:
        raise web.HTTPBadRequest(text="The body is not JSON.") from cause
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="The body is not a JSON object.")
    return body


def _known(request: web.Request, names: Mapping[str, object]) -> str:
    name = request.match_info["name"]
    if name not in names:
        raise web.HTTPNotFound
    return name


def _name(names: Mapping[str, StrEnum], value: StrEnum) -> str:
    """Return the first name of `value`."""
    return next(name for name, known in names.items() if known is value)


def _link(path: str) -> dict[str, str]:
    return {"@odata.id": path}


def _resource(content: dict[str, Any], status: int = 200) -> web.Response:
    return web.json_response(content, status=status)


def _collection(path: str, kind: str, members: list[str]) -> web.Response:
    return _resource(
        {
            "@odata.id": path,
            "@odata.type": f"#{kind}Collection.{kind}Collection",
            "Name": f"{kind} collection",
            "Members": [_link(member) for member in members],
            "Members@odata.count": len(members),
        }
    )


def _error(status: int, code: str, message: str) -> web.Response:
    """Source: DSP0266, section 8.6."""
    return web.json_response(
        {
            "error": {
                "code": code,
                "message": message,
                "@Message.ExtendedInfo": [{"MessageId": code, "Message": message}],
            }
        },
        status=status,
        headers={"OData-Version": "4.0"},
    )
