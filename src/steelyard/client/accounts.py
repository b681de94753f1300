"""Each call about who there is and what they may, said once; every service answers these."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta

from steelyard.client.call import Call, Page, listing, nothing, path, reading
from steelyard.client.codec import Json
from steelyard.client.objects import Account, Member, NewToken, OpenIdName, Session, Token


def list_accounts() -> Call[Page[Account]]:
    """Ask who there is; who is neither provider nor auditor sees itself."""
    return listing("listing accounts", path("accounts"), Account)


def put_account(name: str, *, kind: str, office: str | None, openid: OpenIdName | None = None) -> Call[Account]:
    """Register somebody, or change who it is."""
    doing = f"writing account {name}"
    body: Json = {"kind": kind, "office": office, "openid": None if openid is None else asdict(openid)}
    return Call(doing, "PUT", path("accounts", name), reading(Account, doing), body=body)


def delete_account(name: str) -> Call[None]:
    """Forget somebody, with memberships and tokens."""
    return Call(f"deleting account {name}", "DELETE", path("accounts", name), nothing, repeatable=False)


def list_members(project: str) -> Call[Page[Member]]:
    """Ask who is in a project."""
    return listing(f"listing the members of {project}", path("projects", project, "members"), Member)


def put_member(project: str, account: str, role: str) -> Call[Member]:
    """Take somebody into a project, or give another role: "admin", "member"."""
    doing = f"making {account} {role} of {project}"
    where = path("projects", project, "members", account)
    return Call(doing, "PUT", where, reading(Member, doing), body={"role": role})


def delete_member(project: str, account: str) -> Call[None]:
    """Take somebody out of a project."""
    doing = f"taking {account} out of {project}"
    return Call(doing, "DELETE", path("projects", project, "members", account), nothing, repeatable=False)


def list_tokens() -> Call[Page[Token]]:
    """Ask for one's own tokens; providers and auditors see everybody's."""
    return listing("listing tokens", path("tokens"), Token)


def make_token(
    account: str,
    *,
    project: str | None,
    rights: Sequence[str],
    office: str | None,
    lasts: timedelta,
    words: str,
) -> Call[NewToken]:
    """Ask for a new token; never one that may more than the one shown."""
    doing = f"making a token for {account}"
    body: Json = {
        "account": account,
        "project": project,
        "rights": list(rights),
        "office": office,
        "seconds": int(lasts.total_seconds()),
        "words": words,
    }
    return Call(doing, "POST", path("tokens"), reading(NewToken, doing), body=body, repeatable=False)


def revoke_token(identifier: str) -> Call[None]:
    """End a token."""
    # Ending an ended one is no error.
    return Call(f"revoking token {identifier}", "DELETE", path("tokens", identifier), nothing)


def read_session() -> Call[Session]:
    """Ask who one is to the service."""
    doing = "asking who I am"
    return Call(doing, "GET", path("tokens", "current"), reading(Session, doing))
