"""Who may do what. Every verb asks here, with words for what it is about to do.

What the caller may not know of and what does not exist look the same: NotFound.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from steelyard.model.errors import NotAllowed, NotFound


class Role(Enum):
    """What somebody is in a project."""

    ADMIN = "admin"
    """Everything in the project, its members included."""
    MEMBER = "member"
    """Nodes, networks, power, console."""


class Office(Enum):
    """What somebody is in the whole service."""

    PROVIDER = "provider"
    """Runs it: registers devices and projects, and may do what every project may."""
    AUDITOR = "auditor"
    """Reads everything but secrets, changes nothing."""


class Right(Enum):
    """What a token can be limited to. A token never gives more than its holder has."""

    READ = "read"
    NODES = "nodes"
    """Allocate, release, quarantine."""
    NETWORKS = "networks"
    """Make and share networks, attach and detach."""
    POWER = "power"
    """Power and boot device."""
    CONSOLE = "console"
    """Read and write serial lines."""
    IMAGES = "images"
    """Images and volumes, and what nodes boot."""
    ATTEST = "attest"
    """Which nodes are weighed, by what, and what they are given once they pass."""
    ENCLAVES = "enclaves"
    """Enclaves: what is allocated, booted and joined on the project's behalf."""
    MEMBERS = "members"
    """Who is in a project, and tokens."""
    RACK = "rack"
    """Register switches, nodes, cables, projects (providers alone)."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who signed in, and what the token that was shown leaves of their authority.

    name      of the user or service account.
    office    in the whole service; None for the most.
    roles     project -> role; only the token's project where it is limited to one.
    rights    what the token is for.
    """

    name: str
    office: Office | None
    roles: Mapping[str, Role]
    rights: frozenset[Right]

    def sees_all(self) -> bool:
        """Whether nothing is hidden from this caller."""
        return self.office is not None and Right.READ in self.rights

    def sees(self, project: str | None) -> bool:
        """Whether this caller may know what belongs to `project`; None is the provider's own."""
        return self.sees_all() or (project is not None and project in self.roles and Right.READ in self.rights)

    def must_see(self, project: str | None, what: str) -> None:
        """Raises NotFound, the same as for what does not exist."""
        if not self.sees(project):
            raise not_found(what)

    def must_act_for(self, project: str | None, right: Right, doing: str) -> None:
        """Pass a provider, or a member of the project, whose token has the right. Raises NotAllowed."""
        if right in self.rights and (self.office is Office.PROVIDER or (project is not None and project in self.roles)):
            return
        raise NotAllowed(
            doing,
            expected=f"the right {right.value!r} for project {project or '(provider)'}",
            found=self._has(),
        )

    def must_administer(self, project: str, doing: str) -> None:
        """Pass a provider, or an admin of the project, whose token may change members. Raises NotAllowed."""
        if Right.MEMBERS in self.rights and (self.office is Office.PROVIDER or self.roles.get(project) is Role.ADMIN):
            return
        raise NotAllowed(doing, expected=f"an admin of project {project}", found=self._has())

    def must_provide(self, doing: str) -> None:
        """Pass a provider whose token may change the rack. Raises NotAllowed."""
        if self.office is not Office.PROVIDER or Right.RACK not in self.rights:
            raise NotAllowed(doing, expected="a provider, with the right 'rack'", found=self._has())

    def must_keep_accounts(self, doing: str) -> None:
        """Pass a provider whose token may change who there is. Raises NotAllowed."""
        if self.office is not Office.PROVIDER or Right.MEMBERS not in self.rights:
            raise NotAllowed(doing, expected="a provider, with the right 'members'", found=self._has())

    def must_have_rights(self, rights: Collection[Right], doing: str) -> None:
        """Pass a token that has all of these rights. Raises NotAllowed."""
        if not self.rights.issuperset(rights):
            wanted = ", ".join(sorted(right.value for right in rights))
            raise NotAllowed(doing, expected=f"a token with the rights {wanted}", found=self._has())

    def _has(self) -> str:
        roles = [f"{role.value} of {project}" for project, role in sorted(self.roles.items())]
        offices = [self.office.value] if self.office is not None else []
        rights = ", ".join(sorted(right.value for right in self.rights)) or "no rights"
        return f"{self.name}: {', '.join(offices + roles) or 'no role'}; token for {rights}"


def not_found(what: str) -> NotFound:
    """Return the error for `what` ("node n1"), whether it does not exist or may not be known of."""
    return NotFound(f"looking for {what}", expected="one that exists and is yours to see", found="none")
