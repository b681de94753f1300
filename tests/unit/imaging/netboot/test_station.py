"""Whose a file is."""

import asyncio
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from steelyard.imaging.netboot import station
from steelyard.imaging.netboot.answers import Answer
from steelyard.imaging.netboot.plan import BootNetwork
from steelyard.imaging.netboot.station import Station
from steelyard.model.network import MacAddress

NODE = IPv4Address("10.8.0.100")
CARD, OTHER_CARD = "02:00:00:00:00:01", "02:00:00:00:00:02"
NETWORK = BootNetwork("boot", "blue", "svc0", IPv4Interface("10.8.0.1/24"), NODE, NODE)


@pytest.mark.parametrize(
    ("tied", "found"), [({NODE: CARD}, Path("image")), ({NODE: OTHER_CARD}, None), ({}, None)], ids=str
)
def test_a_file_is_found_for_a_caller_whose_address_is_tied_to_the_nodes_card(
    tied: Mapping[IPv4Address, str], found: Path | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def ask() -> None:
        asked = Station(NETWORK, tmp_path)
        serving = asyncio.create_task(asked.serve({NODE: Answer(MacAddress(CARD), {"boot.efi": Path("image")})}))
        await asyncio.sleep(0)
        assert asked.find(NODE, "boot.efi") == found
        assert asked.find(NODE, "other") is None
        assert asked.find(IPv4Address("10.8.0.101"), "boot.efi") is None
        serving.cancel()

    monkeypatch.setattr(station, "tied", lambda interface: tied if interface == "svc0" else {})
    asyncio.run(ask())
