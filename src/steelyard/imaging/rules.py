"""What may happen. Pure: from what is, to what is to be done, or to the reason why not."""

from collections.abc import Collection, Mapping
from datetime import timedelta
from ipaddress import IPv4Address
from typing import Final

from steelyard.imaging.netboot.plan import BootNetwork
from steelyard.imaging.objects import (
    Image,
    ImageContents,
    Name,
    Opening,
    Operation,
    Public,
    Quota,
    SharedWith,
    Verb,
    Visibility,
    Volume,
)
from steelyard.model.errors import (
    AlreadyThere,
    Changed,
    InUse,
    NotAllowed,
    NotEnough,
    OverQuota,
    TooLarge,
    WrongState,
    WrongUse,
)
from steelyard.model.limits import (
    COMMAND_LINE_BYTES,
    IMAGE_BYTES,
    OPERATION_SECONDS,
    PAGE_ROWS,
    PARAMETERS_BYTES,
    SEED_BYTES,
    SHARED_PROJECTS,
)
from steelyard.model.names import check_name
from steelyard.service.authority import Caller, Office, Right, not_found

SEED_FILES: Final = frozenset({"meta-data", "user-data"})
"""What a NoCloud seed is made of. Source: cloud-init, datasource NoCloud."""
UNSTOPPABLE: Final = frozenset({Verb.CLOSE, Verb.END_BOOT})
"""Work that cuts a node off is not to be talked out of."""
SECTOR_BYTES: Final = 512


# -- who, and which version --------------------------------------------------------------------------------------------


def check_change(caller: Caller, name: Name, what: str, doing: str) -> None:
    """Let pass who may change what is a project's. Raises NotAllowed, WrongUse; NotFound for who may not know of it."""
    check_name(name.project, "project")
    if caller.office is None and name.project not in caller.roles:
        raise not_found(f"{what} {name}")
    caller.must_act_for(name.project, Right.IMAGES, doing)


def may_use(caller: Caller, image: Image) -> bool:
    """Whether this caller may read an image, and make volumes of it."""
    if Right.READ not in caller.rights:
        return False
    if isinstance(image.visibility, Public) or caller.sees(image.name.project):
        return True
    return isinstance(image.visibility, SharedWith) and not image.visibility.projects.isdisjoint(caller.roles)


def check_visibility(caller: Caller, visibility: Visibility, doing: str) -> None:
    """Let pass who may show an image to these. What every project sees, the provider answers for.

    Raises NotAllowed, WrongUse, TooLarge.
    """
    if isinstance(visibility, Public) and caller.office is not Office.PROVIDER:
        raise NotAllowed(doing, expected="a provider, to make it public", found=caller.name)
    if isinstance(visibility, SharedWith):
        for project in visibility.projects:
            check_name(project, "project")
        if len(visibility.projects) > SHARED_PROJECTS.most:
            expected = f"at most {SHARED_PROJECTS.most} projects ({SHARED_PROJECTS.reason})"
            raise TooLarge(doing, expected=expected, found=f"{len(visibility.projects)}")


def check_version(what: str, version: int, expected: int | None) -> None:
    """Let pass a change of what the caller last saw; None: whatever it is. Raises Changed."""
    if expected is not None and expected != version:
        raise Changed(f"changing {what}", expected=f"version {expected}", found=f"{version}")


def check_rows(limit: int) -> int:
    """Let pass the length of a page. Raises WrongUse."""
    if not 1 <= limit <= PAGE_ROWS.most:
        raise WrongUse("asking for a page", expected=f"1 to {PAGE_ROWS.most} rows", found=f"{limit}")
    return limit


def check_limit(limit: timedelta) -> timedelta:
    """Let pass how long an operation may take. Raises WrongUse."""
    if not timedelta(seconds=1) <= limit <= timedelta(seconds=OPERATION_SECONDS.most):
        expected = f"1 to {OPERATION_SECONDS.most} seconds"
        raise WrongUse("limiting an operation", expected=expected, found=f"{limit.total_seconds():g}")
    return limit


# -- quotas ------------------------------------------------------------------------------------------------------------


def check_quota(project: str, quota: Quota, held: Quota, asked: Quota) -> None:
    """Let pass what stays within a quota. Raises OverQuota."""
    for what, most, now, more in (
        ("images", quota.images, held.images, asked.images),
        ("volumes", quota.volumes, held.volumes, asked.volumes),
        ("bytes", quota.size_bytes, held.size_bytes, asked.size_bytes),
    ):
        if more > 0 and now + more > most:
            doing = f"giving {more} {what} to project {project}"
            raise OverQuota(doing, expected=f"at most {most} in all", found=f"{now} held")


# -- images and volumes ------------------------------------------------------------------------------------------------


def ready(image: Image, doing: str) -> ImageContents:
    """Return what is in an image. Raises WrongState while it is being made."""
    if not isinstance(image.contents, ImageContents):
        raise WrongState(doing, expected=f"the image {image.name} to be ready", found="it is being made")
    return image.contents


def check_at_rest(volume: Volume, opening: Opening | None, work: Operation | None, doing: str) -> None:
    """Let pass work on a volume that nobody uses or works on. Raises WrongState, InUse."""
    check_free(work, doing)
    if not volume.ready:
        raise WrongState(doing, expected=f"the volume {volume.name} to be ready", found="it is being made")
    if opening is not None:
        found = f"open by {opening.protocol.value} for {opening.node or opening.address}"
        raise InUse(doing, expected="a volume that is not open", found=found)


def check_free(work: Operation | None, doing: str) -> None:
    """Let pass what nobody works on. Raises InUse."""
    if work is not None:
        raise InUse(doing, expected="nothing under way", found=f"{work.verb.value}, operation {work.id}")


def check_size(size_bytes: int, doing: str) -> None:
    """Let pass the size of a volume. Raises WrongUse, TooLarge."""
    if size_bytes <= 0 or size_bytes % SECTOR_BYTES:
        raise WrongUse(doing, expected=f"a multiple of {SECTOR_BYTES} bytes, at least one", found=f"{size_bytes}")
    if size_bytes > IMAGE_BYTES.most:
        raise TooLarge(doing, expected=f"at most {IMAGE_BYTES.most} bytes", found=f"{size_bytes}")


def check_growth(volume: Volume, size_bytes: int, doing: str) -> None:
    """Let pass a size that loses nothing. Raises WrongUse, TooLarge."""
    check_size(size_bytes, doing)
    if size_bytes < volume.size_bytes:
        raise WrongUse(doing, expected=f"at least the {volume.size_bytes} bytes that it has", found=f"{size_bytes}")


def check_no_file(sha256: bytes | None, what: str, doing: str) -> None:
    """Let pass a source that is no file if no file's digest was announced for it. Raises WrongUse."""
    if sha256 is not None:
        raise WrongUse(doing, expected=f"no digest of a file, as {what} is none", found="one")


def check_name_free(taken: object, name: Name, what: str) -> None:
    """Let pass a name that nothing of its kind has in its project. Raises AlreadyThere."""
    if taken is not None:
        raise AlreadyThere(f"naming {what} {name}", expected="a name that is not taken", found=str(name))


# -- networks and boots ------------------------------------------------------------------------------------------------


def find_network(networks: Mapping[str, BootNetwork], name: str, project: str) -> BootNetwork:
    """Return a boot network of the project's. Raises NotFound, also for what is another project's."""
    network = networks.get(name)
    if network is None or network.project != project:
        raise not_found(f"boot network {name}")
    return network


def check_address(network: BootNetwork, address: IPv4Address, doing: str) -> None:
    """Let pass an address that a node can have there. Raises WrongUse."""
    if address not in network.address.network or address == network.address.ip:
        raise WrongUse(doing, expected=f"a node's address in {network.address.network}", found=str(address))


def pick_address(network: BootNetwork, taken: Collection[IPv4Address]) -> IPv4Address:
    """Return the lowest address of a network that no node has. Raises NotEnough."""
    for number in range(int(network.first), int(network.last) + 1):
        if (address := IPv4Address(number)) not in taken:
            return address
    doing = f"choosing an address on {network.name}"
    raise NotEnough(doing, expected="a free one", found=f"all from {network.first} to {network.last} are taken")


def check_parameters(text: str) -> None:
    """Let pass what a node in the airlock is told; whether it is any good is for the agent. Raises TooLarge."""
    if len(text.encode()) > PARAMETERS_BYTES.most:
        raise TooLarge("saying what a node boots", expected=f"at most {PARAMETERS_BYTES.most} bytes", found="more")


def check_command_line(line: str | None) -> None:
    """Let pass a kernel's command line. Raises WrongUse."""
    if line is not None and not (line.isascii() and line.isprintable() and len(line) <= COMMAND_LINE_BYTES.most):
        expected = f"at most {COMMAND_LINE_BYTES.most} printable characters of ASCII"
        raise WrongUse("saying what a node boots", expected=expected, found="another command line")


def check_seed(seed: Mapping[str, str]) -> None:
    """Let pass a NoCloud seed. Raises WrongUse, TooLarge."""
    doing = "saying what a node boots"
    if unknown := set(seed) - SEED_FILES:
        raise WrongUse(doing, expected=" and ".join(sorted(SEED_FILES)), found=", ".join(sorted(unknown)))
    if sum(len(text.encode()) for text in seed.values()) > SEED_BYTES.most:
        raise TooLarge(doing, expected=f"a seed of at most {SEED_BYTES.most} bytes", found="more")
