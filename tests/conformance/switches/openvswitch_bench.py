"""An Open vSwitch with a data path that carries no frames: the real database, the real forwarder, nothing to install.

What would become of a frame is asked of the forwarder (ofproto/trace), which works it out as for a real one.
"""

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from steelyard.isolation.ports import Access, Switch
from steelyard.isolation.switches.openvswitch import OpenVSwitch, open_vswitch
from tests.conformance.switches.bench import LIMIT_SECONDS, PORTS, Broken

BRIDGE: Final = "rack"
SCHEMA: Final = "/usr/share/openvswitch/vswitch.ovsschema"
PROGRAMS: Final = dict.fromkeys(
    ("ovsdb-server", "ovs-vswitchd", "ovsdb-tool", "ovs-vsctl", "ovs-appctl"), "openvswitch-switch"
)
SETTLE: Final = {"settle_ms": "1"}
"""There is no data path whose flows one would wait for."""
SHUT_COLUMNS: Final = ("vlan_mode=trunk", "trunks=4095", "protected=true", "tag=[]", "other_config={}")
START_SECONDS: Final = 20.0
GARBAGE: Final = b"HTTP/1.1 400 Bad Request\r\n\r\n"


class OpenVSwitchBench:
    """The two processes, in a directory whose path is short enough for a socket."""

    def __init__(self, folder: Path, ports: tuple[str, ...] = PORTS) -> None:
        self.folder = folder
        self.endpoint = f"unix:{folder / 'db.sock'}"
        self._inner = f"unix:{folder / 'inner.sock'}"
        self._ports = ports
        self._processes: list[subprocess.Popen[bytes]] = []

    # -- its life --

    def start(self, *database_options: str) -> None:
        """Start it with no memory; every port carries every VLAN."""
        self._run("ovsdb-tool", "create", str(self.folder / "conf.db"), SCHEMA)
        remotes = [f"--remote=p{remote}" for remote in (self.endpoint, self._inner)]
        self._launch("ovsdb-server", str(self.folder / "conf.db"), *remotes, *database_options)
        self.vsctl("--no-wait", "init")
        self._launch("ovs-vswitchd", self._inner, "--disable-system", "--enable-dummy=override")
        command = ["add-br", BRIDGE, "--", "set", "bridge", BRIDGE, "datapath_type=dummy", "fail_mode=standalone"]
        for port in self._ports:
            command += ["--", "add-port", BRIDGE, port, "--", "set", "interface", port, "type=dummy"]
        self.vsctl(*command)

    def stop(self) -> None:
        """End it."""
        for process in reversed(self._processes):
            process.kill()
            process.wait()
        self._processes.clear()
        for file in self.folder.iterdir():
            file.unlink()

    def reset(self) -> None:
        """Have every port, and the bridge's own, shut; nothing else set; no fence."""
        command = ["clear", "bridge", BRIDGE, "mirrors", "controller", "external_ids", "other_config"]
        command += ["--", "set", "bridge", BRIDGE, "fail_mode=standalone", "mcast_snooping_enable=false"]
        for port in self._ports:
            command += ["--", "--may-exist", "add-port", BRIDGE, port, "--", "set", "interface", port, "type=dummy"]
        for port in (BRIDGE, *self._ports):
            command += ["--", "set", "port", port, *SHUT_COLUMNS]
        self.vsctl(*command)

    def vsctl(self, *command: str) -> str:
        """Change or ask as an operator does; return when it is applied."""
        return self._run("ovs-vsctl", f"--db={self._inner}", "--timeout=20", *command)

    def _launch(self, program: str, *arguments: str) -> None:
        control = self._control(program)
        self._processes.append(
            subprocess.Popen(
                [program, *arguments, f"--unixctl={control}", "-vconsole:off", "-vsyslog:off"],
                env={**os.environ, "OVS_RUNDIR": str(self.folder)},
                stdin=subprocess.DEVNULL,
            )
        )
        _wait_until(f"{program} runs", control.exists)

    def control(self, program: str, *command: str) -> str:
        """Give one of the two programs a command at run time."""
        return self._run("ovs-appctl", "-t", str(self._control(program)), *command)

    def listen(self, remote: str, family: socket.AddressFamily, where: str | tuple[str, int]) -> None:
        """Have the database listen at one more place; return when it does."""

        def takes_connections() -> bool:
            with socket.socket(family) as probe:
                return probe.connect_ex(where) == 0

        self.control("ovsdb-server", "ovsdb-server/add-remote", remote)
        _wait_until(f"it listens at {remote}", takes_connections)

    def _control(self, program: str) -> Path:
        return self.folder / f"{program}.ctl"

    def _run(self, *command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout

    # -- a bench --

    def access(self) -> Access:
        """Return how it is reached."""
        return Access({"endpoint": self.endpoint, "bridge": BRIDGE, **SETTLE}, {})

    def reach(self, endpoint: str) -> OpenVSwitch:
        """Return a connection to an endpoint that is not worth waiting for."""
        return open_vswitch(Access({"endpoint": endpoint, "bridge": BRIDGE, **SETTLE}, {}), call_seconds=LIMIT_SECONDS)

    @contextmanager
    def connect(self) -> Iterator[Switch]:
        switch = open_vswitch(self.access())
        yield switch
        switch.close()

    @contextmanager
    def impatient(self) -> Iterator[Switch]:
        switch = self.reach(self.endpoint)
        yield switch
        switch.close()

    def trace(self, speaker: str, frame: str) -> list[str]:
        """Return the ports out of which a frame would come."""
        flow = f"in_port={speaker},dl_src=02:00:00:00:00:01,{frame}"
        answer = self.control("ovs-vswitchd", "ofproto/trace", BRIDGE, flow, "--names")
        (actions,) = re.findall("^Datapath actions: (.*)$", answer, re.MULTILINE)
        return [action for action in actions.split(",") if action in self._ports]

    def reaches(self, speaker: str, listener: str) -> bool:
        broadcast = "dl_dst=ff:ff:ff:ff:ff:ff,dl_type=0x88b5"
        frames = [broadcast, *(f"{broadcast},dl_vlan={tag}" for tag in (0, 1, 100, 200, 4094, 4095))]
        return any(listener in self.trace(speaker, frame) for frame in frames)

    def open(self, port: str) -> None:
        self.vsctl("clear", "port", port, "vlan_mode", "tag", "trunks", "--", "set", "port", port, "protected=false")

    def remove(self, port: str) -> None:
        self.vsctl("del-port", BRIDGE, port)

    def lose_configuration(self) -> None:
        self.stop()
        self.start()

    def stop_applying(self) -> None:
        self._processes[1].send_signal(signal.SIGSTOP)

    def apply_again(self) -> None:
        self._processes[1].send_signal(signal.SIGCONT)

    def hang_up(self) -> None:
        self.control("ovsdb-server", "ovsdb-server/remove-remote", f"p{self.endpoint}")
        self.listen(f"p{self.endpoint}", socket.AF_UNIX, self.endpoint.removeprefix("unix:"))

    @contextmanager
    def broken(self, how: Broken) -> Iterator[Switch]:
        def behave(connection: socket.socket) -> None:
            match how:
                case Broken.GARBAGE:
                    connection.sendall(GARBAGE)
                case Broken.ENDLESS:
                    connection.sendall(b'{"')
                    while True:
                        connection.sendall(b"a" * 65536)
                case Broken.SILENT:
                    pass
                case _:
                    return
            connection.recv(1)
            while connection.recv(65536):
                pass

        if how is Broken.DEAD:
            with socket.socket() as unheard:
                unheard.bind(("127.0.0.1", 0))
                yield self.reach(f"tcp:127.0.0.1:{unheard.getsockname()[1]}")
            return
        with served(behave) as endpoint:
            switch = self.reach(endpoint)
            yield switch
            switch.close()

    @contextmanager
    def losing(self, *, done: bool) -> Iterator[Switch]:
        with self.between(lambda request: b'"next_cfg","+="' in request, pass_on=done) as endpoint:
            switch = self.reach(endpoint)
            yield switch
            switch.close()

    @contextmanager
    def between(self, cut_at: Callable[[bytes], bool], *, pass_on: bool) -> Iterator[str]:
        """Give an endpoint that leads to the switch, and ends the connection at a request; once."""
        cut = threading.Event()

        def behave(near: socket.socket) -> None:
            with socket.socket(socket.AF_UNIX) as far:
                far.connect(self.endpoint.removeprefix("unix:"))
                back = threading.Thread(target=_pump, args=(far, near))
                back.start()
                while request := near.recv(1 << 20):
                    if not cut.is_set() and cut_at(request):
                        cut.set()
                        near.shutdown(socket.SHUT_RDWR)
                        if pass_on:
                            far.sendall(request)
                            # It ends when it cannot hand on what the switch answers.
                            back.join()
                        break
                    far.sendall(request)
                far.shutdown(socket.SHUT_RDWR)
                back.join()

        with served(behave) as endpoint:
            yield endpoint


def _wait_until(what: str, condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < limit, f"not in time: {what}"
        time.sleep(0.01)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)


@contextmanager
def served(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """Give an endpoint at which `behave` has each connection to itself; all ends with the context."""
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def handle(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            behave(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connections.append(connection)
                threads.append(threading.Thread(target=handle, args=(connection,)))
                threads[-1].start()

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"tcp:127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for connection in connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()
