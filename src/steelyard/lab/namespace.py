"""The network namespace that a rack has to itself: its cables and addresses are nobody else's."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from steelyard.lab.commands import run
from steelyard.model.errors import LabUnready

NAMESPACES: Final = Path("/run/netns")


def exists(name: str) -> bool:
    """Say whether there is a namespace of this name."""
    return (NAMESPACES / name).exists()


def check_namespace_free(name: str) -> None:
    """Return if no namespace has this name. Raises LabUnready: one that is there is not ours to use or to delete."""
    if exists(name):
        raise LabUnready(
            "making the rack's network namespace",
            expected=f"no namespace {name} yet",
            found=f"one that this rack has no record of; if nobody uses it: ip netns del {name}",
        )


def create_namespace(name: str, taps: Iterable[str]) -> None:
    """Make the namespace with a tap device for each cable of a node. Raises LabFailed."""
    run("making the rack's network namespace", ["ip", "netns", "add", name])
    lines = ["link set lo up"]
    for tap in taps:
        # A cable ends at the switch: the kernel, which hears it too, is not to answer for the services' addresses, nor
        # to have one of its own there.
        lines += [f"tuntap add dev {tap} mode tap", f"link set {tap} arp off addrgenmode none up"]
    run("laying the rack's cables", inside(name, ["ip", "-batch", "-"]), "\n".join(lines))


def delete_namespace(name: str, taps: Iterable[str]) -> None:
    """Take the namespace away, if it is there. The cables go by name, as a stranger in there could keep it alive."""
    if not exists(name):
        return
    doing = "taking the rack's network namespace away"
    there = {link["ifname"] for link in json.loads(run(doing, inside(name, ["ip", "-json", "link"])))}
    run(doing, inside(name, ["ip", "-batch", "-"]), "".join(f"link del {tap}\n" for tap in there.intersection(taps)))
    run(doing, ["ip", "netns", "del", name])


def inside(name: str, command: Sequence[str]) -> list[str]:
    """Return `command` as it is run within the namespace; it keeps its process number.

    Not by `ip -netns`, which changes mounts besides, and cannot where the root directory is no mount point.
    """
    return ["nsenter", f"--net={NAMESPACES / name}", "--", *command]
