"""Questions and answers over a serial line that others speak on as well; and a TPM at the far end of it.

A question is a line "TOKEN VERB ARGUMENT"; the answer stands between lines "begin TOKEN" and "done TOKEN". Run as a
program it is what tpm2-tools' TCTI "cmd" wants: TPM commands on standard input, responses on standard output.
"""

import re
import secrets
import socket
import sys


def ask(wire: socket.socket, verb: str, argument: str, seconds: float) -> str:
    """Return the answer. Raises TimeoutError, ConnectionError."""
    token = secrets.token_hex(4)
    wire.settimeout(seconds)
    wire.sendall(f"{token} {verb} {argument}\n".encode())
    pattern = re.compile(rf"begin {token}\r?\n(.*?)(?:\r?\n)?done {token}\r?\n", re.DOTALL)
    heard = ""
    while (match := pattern.search(heard)) is None:
        said = wire.recv(65536)
        if not said:
            raise ConnectionError(f"the line was closed; it said: {heard[-2000:]}")
        heard += said.decode(errors="replace")
    return match[1].replace("\r", "")


def carry(path: str) -> None:
    """Carry TPM commands to the guest at the console socket `path`, and its TPM's responses back.

    Commands and responses say their size in bytes 2 to 6, big-endian. Source: TPM 2.0 Library, Part 1, section 18.
    """
    with socket.socket(socket.AF_UNIX) as wire:
        wire.connect(path)
        while head := sys.stdin.buffer.read(6):
            command = head + sys.stdin.buffer.read(int.from_bytes(head[2:], "big") - 6)
            sys.stdout.buffer.write(bytes.fromhex(ask(wire, "tpm", command.hex(), 60)))
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    carry(sys.argv[1])
