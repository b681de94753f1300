"""One dnsmasq for one boot network: DHCP for the cards it was told of, each with its address; nothing else.

It runs as a user of its own, in a file system that has the system's programs and its list of cards, with the rights to
use port 67 and to set up networks (which it insists on), and dies with the thread that started it. A lock is held by
its cage: while anything of it lives, no other is started.

It keeps no file of leases. Addresses are given by the list alone and never run out, so that a node whose disk is behind
the network keeps its own while nobody is there to renew it.

Source: dnsmasq(8), 2.90.
"""

import asyncio
import fcntl
import os
import pwd
import shutil
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final, cast

from steelyard.imaging.files import make_directory
from steelyard.imaging.netboot.answers import Answers
from steelyard.imaging.netboot.plan import BOOT_FILE, SCRIPT, BootNetwork
from steelyard.model.errors import StorageFailed, StorageUnready
from steelyard.model.text import printable

_USER: Final = "dnsmasq"
"""Debian's package makes it."""
_CARDS: Final = "/cards"
"""The list in its cage: a file for each address."""
_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
_RIGHTS: Final = ("net_admin", "net_bind_service")
_RIGHTS_TO_BECOME_ANOTHER: Final = ("setgid", "setpcap", "setuid")
_ANSWER_SECONDS: Final = 10.0
"""Within which it starts, reads what is new, and ends; most of it is for a busy machine."""
_LOOK_SECONDS: Final = 0.01


class Dnsmasq:
    """One that runs."""

    def __init__(self, cards: Path, group: int, stderr: asyncio.StreamReader, ended: Callable[[], None]) -> None:
        self._cards, self._group = cards, group
        self._told: dict[IPv4Address, str] = {}
        self._heard: set[str] = set()
        self._said: deque[str] = deque(maxlen=3)
        self._news = asyncio.Event()
        self._over = False
        self._listening = asyncio.create_task(self._listen(stderr, ended))

    def can_be_told(self, answers: Answers) -> bool:
        """Say whether it can come to answer these nodes and no others: what it was told it does not forget."""
        return self._told.items() <= _lines(answers).items()

    async def tell(self, answers: Answers) -> None:
        """Have it answer these nodes. Raises StorageFailed, also if it has ended."""
        lines = _lines(answers)
        new = {address: line for address, line in lines.items() if address not in self._told}
        for address, line in new.items():
            _write_card(self._cards, self._group, address, line)
        await self.hear(*(f"read {_CARDS}/{address}" for address in new))
        self._told = lines

    async def hear(self, *lines: str) -> None:
        """Return when it has said these lines. Raises StorageFailed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                while not self._heard.issuperset(lines) and not self._over:
                    self._news.clear()
                    await self._news.wait()
        if self._over:
            raise StorageFailed("running dnsmasq", expected="it to go on", found=self._last_words())
        if not self._heard.issuperset(lines):
            raise StorageFailed("telling dnsmasq of a node", expected="it to listen", found=self._last_words())

    async def ends(self) -> None:
        """Return when nothing of it is left."""
        await self._listening

    async def _listen(self, stderr: asyncio.StreamReader, ended: Callable[[], None]) -> None:
        while line := await stderr.readline():
            said = printable(line.decode("ascii", "backslashreplace").strip().partition(": ")[2])
            self._said.append(said)
            if said.startswith((f"read {_CARDS}/", "started, ")):
                self._heard.add(said.partition(", ")[0])
            self._news.set()
        self._over = True
        self._news.set()
        ended()

    def _last_words(self) -> str:
        return " / ".join(self._said) or "not a word"


@asynccontextmanager
async def running(place: Path, network: BootNetwork, ended: Callable[[], None]) -> AsyncIterator[Dnsmasq]:
    """Have a dnsmasq that answers nobody so far; one that was left of a process that died ends first.

    place  a directory of its own, on nobody's way.
    ended  is called when it has ended by itself.

    Raises StorageUnready, StorageFailed.
    """
    programs = {name: _find(name) for name in ("bwrap", "setpriv", "dnsmasq")}
    user, group = _account()
    cards = place / "cards"
    make_directory(place)
    lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        await _lock_alone(lock)
        shutil.rmtree(cards, ignore_errors=True)
        make_directory(cards)
        os.chown(cards, -1, group)
        cards.chmod(0o750)
        process = await asyncio.create_subprocess_exec(
            *_cage(programs, cards, lock, user, group),
            *(programs["dnsmasq"], *plan_options(network)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": _PATH, "LC_ALL": "C"},
            cwd="/",
            pass_fds=(lock,),
        )
        stderr = cast("asyncio.StreamReader", process.stderr)  # as it is a pipe
        dnsmasq = Dnsmasq(cards, group, stderr, ended)
        try:
            await dnsmasq.hear("started")
            yield dnsmasq
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await dnsmasq.ends()
            await process.wait()
    finally:
        os.close(lock)


def plan_options(network: BootNetwork) -> list[str]:
    """Return what dnsmasq is told for this network."""
    address, within = network.address.ip, network.address.network
    files = f"http://{address}"
    return [
        *(
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--log-facility=-",
            "--quiet-dhcp",
            "--pid-file=",
            "--user=",
        ),
        *("--port=0", f"--interface={network.interface}", "--except-interface=lo", "--bind-interfaces"),
        f"--dhcp-range={within.network_address},static,{within.netmask},infinite",
        f"--dhcp-lease-max={int(network.last) - int(network.first) + 1}",
        *("--leasefile-ro", "--no-ping", f"--dhcp-hostsdir={_CARDS}"),
        # Nothing is said to a card that is not listed, not even no.
        "--dhcp-ignore=tag:!known",
        # What it knows of leases begins anew with it; it answers for all addresses all the same.
        "--dhcp-authoritative",
        # Else it writes into the neighbour table, where addresses are tied to cards.
        "--dhcp-broadcast",
        *("--dhcp-userclass=set:ipxe,iPXE", "--dhcp-match=set:http,option:client-arch,16"),
        *("--dhcp-match=set:pxe,option:client-arch,7", "--dhcp-match=set:pxe,option:client-arch,9"),
        "--dhcp-option-force=tag:boot,tag:http,60,HTTPClient",
        f"--dhcp-boot=tag:boot,tag:http,tag:!ipxe,{files}/{BOOT_FILE}",
        f"--dhcp-boot=tag:boot,tag:pxe,tag:!ipxe,{BOOT_FILE},,{address}",
        f"--dhcp-boot=tag:boot,tag:ipxe,{files}/{SCRIPT}",
    ]


def _lines(answers: Answers) -> dict[IPv4Address, str]:
    """Return what the list says of each address."""
    return {
        address: f"{answer.mac}{',set:boot' if answer.boots else ''},{address}\n" for address, answer in answers.items()
    }


def _write_card(cards: Path, group: int, address: IPv4Address, line: str) -> None:
    """Put a card on the list, in one piece: a name with a dot before it is not looked at."""
    unfinished = cards / f".{address}"
    unfinished.write_text(line, "ascii")
    os.chown(unfinished, -1, group)
    unfinished.chmod(0o640)
    unfinished.rename(cards / str(address))


def _cage(programs: dict[str, str], cards: Path, lock: int, user: int, group: int) -> list[str]:
    """Return the beginning of a command that confines the rest of it."""
    kept = [word for right in (*_RIGHTS, *_RIGHTS_TO_BECOME_ANOTHER) for word in ("--cap-add", f"CAP_{right.upper()}")]
    rights = ",".join(("-all", *(f"+{right}" for right in _RIGHTS)))
    return [
        *(programs["bwrap"], "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--new-session", "--die-with-parent"),
        *("--cap-drop", "ALL", *kept, "--sync-fd", str(lock)),
        *("--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64"),
        *("--dev", "/dev", "--ro-bind", str(cards), _CARDS, "--"),
        *(programs["setpriv"], f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs"),
        *(f"--inh-caps={rights}", f"--ambient-caps={rights}", f"--bounding-set={rights}", "--"),
    ]


async def _lock_alone(lock: int) -> None:
    """Return when the lock is ours; whoever has it is ended. Raises StorageFailed."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_ANSWER_SECONDS):
            while not _try_lock(lock):
                _kill_holders(lock)
                await asyncio.sleep(_LOOK_SECONDS)
            return
    raise StorageFailed("ending a dnsmasq that was left", expected="it to end", found="it did not")


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _kill_holders(lock: int) -> None:
    """Kill the processes that have the file open, but for this one."""
    for process in Path("/proc").glob("[0-9]*"):
        pid = int(process.name)
        if pid == os.getpid():
            continue
        with suppress(ProcessLookupError, FileNotFoundError, PermissionError):
            handle = os.pidfd_open(pid)
            try:
                # After the handle was made: so it is the handle's process that has it open.
                if any(os.path.samestat(file.stat(), os.fstat(lock)) for file in _open_files(process)):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)


def _open_files(process: Path) -> list[Path]:
    return [file for file in (process / "fd").iterdir() if file.exists()]


def _account() -> tuple[int, int]:
    try:
        entry = pwd.getpwnam(_USER)
    except KeyError as error:
        found = "none; Debian's dnsmasq-base makes it"
        raise StorageUnready("starting dnsmasq", expected=f"a user {_USER}", found=found) from error
    return entry.pw_uid, entry.pw_gid


def _find(program: str) -> str:
    found = shutil.which(program, path=_PATH)
    if found is None:
        raise StorageUnready("starting dnsmasq", expected=f"the program {program}", found="it is not installed")
    return found
