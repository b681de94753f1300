"""Who there is, who is in which project, and tokens: how somebody is known again.

A token is "sy_<id>_<secret>". Of the secret a hash alone is kept: 256 random bits need no slow one. Whatever is wrong
with a token, the answer is the same, and takes the same time. Nobody can make a token that may more than the one shown.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from sqlalchemy import Connection, Row, delete, insert, or_, select, update

from steelyard.model.errors import AlreadyThere, NotAllowed, NotSignedIn, WrongUse
from steelyard.model.limits import WORDS
from steelyard.model.names import check_name
from steelyard.model.secret import Secret
from steelyard.service.authority import Caller, Office, Right, Role, not_found
from steelyard.service.database import Transaction
from steelyard.service.journal import record
from steelyard.service.tables import accounts, memberships, tokens, webhook_dead_letters, webhooks

ID_BYTES: Final = 8
SECRET_BYTES: Final = 32
LONGEST: Final = timedelta(days=366)
"""How long a token can be good."""
USE_NOTED: Final = timedelta(hours=1)
"""How exactly it is kept when a token was last used."""
ALL_RIGHTS: Final = frozenset(Right)

_TOKEN: Final = re.compile(r"sy_([0-9a-f]{16})_[A-Za-z0-9_-]{43}", re.ASCII)
_NO_DIGEST: Final = bytes(32)


class Kind(Enum):
    """What kind of somebody an account is."""

    USER = "user"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class OpenIdName:
    """Whom of an OpenID issuer an account belongs to; `subject` None: whom the issuer calls by the account's name."""

    issuer: str
    subject: str | None


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody."""

    name: str
    kind: Kind
    office: Office | None
    openid: OpenIdName | None


@dataclass(frozen=True, slots=True)
class Member:
    """Somebody in a project."""

    project: str
    account: str
    role: Role


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token, which is all but its secret.

    project  None: it is for every project of the account's.
    office   None: it gives none, whatever the account's.
    words    what it is for, in its maker's words.
    used     the last time, to the hour; None: never.
    """

    id: str
    account: str
    project: str | None
    rights: frozenset[Right]
    office: Office | None
    words: str
    maker: str
    created: datetime
    expires: datetime
    revoked: datetime | None
    used: datetime | None


@dataclass(frozen=True, slots=True)
class Session(Caller):
    """A caller, and what the token that was shown says of itself.

    token    its id; None: of an OpenID issuer.
    project  the one it is limited to; None: it is not.
    expires  when it stops being good.
    stale    whether its use is to be noted (`note_use`).
    """

    token: str | None
    project: str | None
    expires: datetime
    stale: bool


# -- signing in --------------------------------------------------------------------------------------------------------


def sign_in(connection: Connection, bearer: str, now: datetime) -> Session:
    """Return who shows this token. Raises NotSignedIn, the same for every cause."""
    matched = _TOKEN.fullmatch(bearer)
    if matched is None:
        raise not_signed_in()
    row = _read_token(connection, matched[1])
    # An id that nobody has costs the same as a secret that is wrong.
    known = hmac.compare_digest(_NO_DIGEST if row is None else row.digest, _digest(bearer))
    if row is None or not known:
        raise not_signed_in()
    return _open(connection, row, now)


def sign_in_by_openid(connection: Connection, who: OpenIdName, name: str, expires: datetime) -> Session:
    """Return who an OpenID issuer, already believed, says it is: `who.subject`, or the one called `name`.

    Raises NotSignedIn.
    """
    found = connection.execute(
        select(accounts).where(
            accounts.c.issuer == who.issuer,
            or_(accounts.c.subject == who.subject, accounts.c.subject.is_(None) & (accounts.c.name == name)),
        )
    ).all()
    # The subject goes first: it is the issuer's own name for somebody, and never given to another.
    row = min(found, key=lambda one: one.subject is None, default=None)
    if row is None:
        raise not_signed_in()
    return Session(
        name=row.name,
        office=None if row.office is None else Office(row.office),
        roles=_read_roles(connection, row.name, None),
        rights=ALL_RIGHTS,
        token=None,
        project=None,
        expires=expires,
        stale=False,
    )


def look_again(connection: Connection, session: Session, now: datetime) -> Session:
    """Return the session as it is by now; what lasts asks this. Raises NotSignedIn when it is over."""
    if session.token is not None:
        row = _read_token(connection, session.token)
        if row is None:
            raise not_signed_in()
        return _open(connection, row, now)
    account = connection.execute(select(accounts.c.office).where(accounts.c.name == session.name)).one_or_none()
    if account is None or session.expires <= now:
        raise not_signed_in()
    return Session(
        name=session.name,
        office=None if account.office is None else Office(account.office),
        roles=_read_roles(connection, session.name, None),
        rights=session.rights,
        token=None,
        project=None,
        expires=session.expires,
        stale=False,
    )


def not_signed_in() -> NotSignedIn:
    """Return the one error that there is for whoever is not let in."""
    return NotSignedIn("signing in", expected="a token that is valid", found="none that is")


def note_use(transaction: Transaction, token: str) -> None:
    """Keep when a token was used; roughly, as that would otherwise be a write for each request."""
    transaction.connection.execute(
        update(tokens)
        .where(tokens.c.id == token, or_(tokens.c.used.is_(None), tokens.c.used <= transaction.now - USE_NOTED))
        .values(used=transaction.now)
    )


def _open(connection: Connection, row: Row[tuple[object, ...]], now: datetime) -> Session:
    if row.revoked is not None or row.expires <= now:
        raise not_signed_in()
    return Session(
        name=row.account,
        # An office that was taken from the account since is gone from its tokens too.
        office=Office(row.office) if row.office is not None and row.office == row.held_office else None,
        roles=_read_roles(connection, row.account, row.project),
        rights=frozenset(map(Right, row.rights)),
        token=row.id,
        project=row.project,
        expires=row.expires,
        stale=row.used is None or row.used <= now - USE_NOTED,
    )


def _read_token(connection: Connection, token: str) -> Row[tuple[object, ...]] | None:
    return connection.execute(
        select(tokens, accounts.c.office.label("held_office"))
        .join(accounts, accounts.c.name == tokens.c.account)
        .where(tokens.c.id == token)
    ).one_or_none()


def _read_roles(connection: Connection, account: str, project: str | None) -> dict[str, Role]:
    wanted = select(memberships.c.project, memberships.c.role).where(memberships.c.account == account)
    if project is not None:
        wanted = wanted.where(memberships.c.project == project)
    return {row.project: Role(row.role) for row in connection.execute(wanted)}


def _digest(bearer: str) -> bytes:
    return hashlib.sha256(bearer.encode("ascii")).digest()


# -- accounts ----------------------------------------------------------------------------------------------------------


def put_account(
    transaction: Transaction, caller: Caller, name: str, kind: Kind, office: Office | None, openid: OpenIdName | None
) -> Account:
    """Register somebody, or change who it is. Raises NotAllowed, WrongUse, AlreadyThere (the OpenID name is taken)."""
    doing = f"writing account {name}"
    check_name(name, "account")
    caller.must_keep_accounts(doing)
    if office is not None or openid is not None:
        # Either may come to more than this token has.
        caller.must_have_rights(ALL_RIGHTS, doing)
    connection = transaction.connection
    if openid is not None and openid.subject is not None:
        taken = connection.execute(
            select(accounts.c.name).where(
                accounts.c.issuer == openid.issuer, accounts.c.subject == openid.subject, accounts.c.name != name
            )
        ).scalar_one_or_none()
        if taken is not None:
            raise AlreadyThere(doing, expected="an OpenID subject of its own", found=f"that of account {taken}")
    account = Account(name, kind, office, openid)
    before = connection.execute(select(accounts).where(accounts.c.name == name)).one_or_none()
    if before is not None and _account(before) == account:
        return account
    values = {
        "kind": kind.value,
        "office": None if office is None else office.value,
        "issuer": None if openid is None else openid.issuer,
        "subject": None if openid is None else openid.subject,
    }
    if before is None:
        connection.execute(insert(accounts).values(name=name, created=transaction.now, **values))
    else:
        connection.execute(update(accounts).where(accounts.c.name == name).values(**values))
    verb = "account.made" if before is None else "account.changed"
    record(transaction, actor=caller.name, verb=verb, subject=f"account/{name}", project=None, detail=values)
    return account


def delete_account(transaction: Transaction, caller: Caller, name: str) -> None:
    """Forget somebody, with memberships and tokens. Raises NotAllowed, NotFound."""
    caller.must_keep_accounts(f"deleting account {name}")
    must_exist(transaction.connection, name)
    for table in (tokens, memberships):
        transaction.connection.execute(delete(table).where(table.c.account == name))
    transaction.connection.execute(delete(accounts).where(accounts.c.name == name))
    record(transaction, actor=caller.name, verb="account.deleted", subject=f"account/{name}", project=None, detail={})


def read_accounts(connection: Connection, caller: Caller, *, after: str, limit: int) -> tuple[Account, ...]:
    """Return the accounts that the caller may know of, by name: its own, or all."""
    wanted = select(accounts).where(accounts.c.name > after).order_by(accounts.c.name).limit(limit)
    if not caller.sees_all():
        wanted = wanted.where(accounts.c.name == caller.name)
    return tuple(map(_account, connection.execute(wanted)))


def must_exist(connection: Connection, name: str) -> None:
    """Pass an account that there is. Raises NotFound."""
    if connection.execute(select(accounts.c.name).where(accounts.c.name == name)).one_or_none() is None:
        raise not_found(f"account {name}")


def _account(row: Row[tuple[object, ...]]) -> Account:
    return Account(
        row.name,
        Kind(row.kind),
        None if row.office is None else Office(row.office),
        None if row.issuer is None else OpenIdName(row.issuer, row.subject),
    )


# -- members -----------------------------------------------------------------------------------------------------------


def put_member(transaction: Transaction, caller: Caller, project: str, account: str, role: Role) -> Member:
    """Take somebody into a project, or give another role. Raises NotFound, NotAllowed."""
    caller.must_see(project, f"project {project}")
    caller.must_administer(project, f"making {account} {role.value} of {project}")
    connection = transaction.connection
    must_exist(connection, account)
    before = read_member(connection, project, account)
    member = Member(project, account, role)
    if before == member:
        return member
    if before is None:
        connection.execute(insert(memberships).values(project=project, account=account, role=role.value))
    else:
        connection.execute(
            update(memberships)
            .where(memberships.c.project == project, memberships.c.account == account)
            .values(role=role.value)
        )
    record(
        transaction,
        actor=caller.name,
        verb="member.put",
        subject=f"project/{project}",
        project=project,
        detail={"account": account, "role": role.value},
    )
    return member


def delete_member(transaction: Transaction, caller: Caller, project: str, account: str) -> None:
    """Take somebody out of a project. Raises NotFound, NotAllowed."""
    caller.must_see(project, f"project {project}")
    caller.must_administer(project, f"taking {account} out of {project}")
    if read_member(transaction.connection, project, account) is None:
        raise not_found(f"{account} in project {project}")
    transaction.connection.execute(
        delete(memberships).where(memberships.c.project == project, memberships.c.account == account)
    )
    record(
        transaction,
        actor=caller.name,
        verb="member.deleted",
        subject=f"project/{project}",
        project=project,
        detail={"account": account},
    )


def forget_project(transaction: Transaction, project: str) -> None:
    """Take everybody out of a project that is being deleted, and end its tokens and webhooks.

    Else they would be those of the next one of this name. The caller has seen to it that it may go.
    """
    hooks = select(webhooks.c.id).where(webhooks.c.project == project)
    transaction.connection.execute(delete(webhook_dead_letters).where(webhook_dead_letters.c.webhook.in_(hooks)))
    transaction.connection.execute(delete(webhooks).where(webhooks.c.project == project))
    transaction.connection.execute(delete(memberships).where(memberships.c.project == project))
    transaction.connection.execute(
        update(tokens).where(tokens.c.project == project, tokens.c.revoked.is_(None)).values(revoked=transaction.now)
    )


def read_members(connection: Connection, caller: Caller, project: str, *, after: str, limit: int) -> tuple[Member, ...]:
    """Return who is in a project, by name. Raises NotFound."""
    caller.must_see(project, f"project {project}")
    found = connection.execute(
        select(memberships)
        .where(memberships.c.project == project, memberships.c.account > after)
        .order_by(memberships.c.account)
        .limit(limit)
    )
    return tuple(Member(row.project, row.account, Role(row.role)) for row in found)


def read_member(connection: Connection, project: str, account: str) -> Member | None:
    """Return what somebody is in a project; None: nothing."""
    role = connection.execute(
        select(memberships.c.role).where(memberships.c.project == project, memberships.c.account == account)
    ).scalar_one_or_none()
    return None if role is None else Member(project, account, Role(role))


# -- tokens ------------------------------------------------------------------------------------------------------------


def make_token(
    transaction: Transaction,
    maker: Session,
    account: str,
    *,
    project: str | None,
    rights: Collection[Right],
    office: Office | None,
    lasts: timedelta,
    words: str,
) -> tuple[Token, Secret]:
    """Return a new token and its text, which is told this once.

    A provider makes them for everybody, everybody else for themselves, and never with more than the token shown has:
    its rights, its project, its office, its end. Raises NotAllowed, NotFound, WrongUse.
    """
    doing = f"making a token for {account}"
    if account != maker.name:
        maker.must_keep_accounts(doing)
    maker.must_have_rights({Right.MEMBERS, *rights}, doing)
    _check_token(rights, project, office, lasts, words, doing)
    expires = transaction.now + lasts
    if maker.project is not None and project != maker.project:
        raise NotAllowed(doing, expected=f"one for project {maker.project}", found=project or "one for all projects")
    if office is not None and maker.office not in (office, Office.PROVIDER):
        raise NotAllowed(doing, expected="no office that the maker's token lacks", found=office.value)
    if expires > maker.expires:
        raise NotAllowed(
            doing, expected=f"an end by {maker.expires.isoformat()}, the maker's", found=expires.isoformat()
        )
    connection = transaction.connection
    must_exist(connection, account)
    held = connection.execute(select(accounts.c.office).where(accounts.c.name == account)).scalar_one()
    if office is not None and office.value != held:
        raise WrongUse(doing, expected=f"the account's office, {held or 'none'}", found=office.value)
    if project is not None and read_member(connection, project, account) is None:
        raise not_found(f"{account} in project {project}")
    return _write_token(
        transaction,
        Token(
            id=secrets.token_hex(ID_BYTES),
            account=account,
            project=project,
            rights=frozenset(rights),
            office=office,
            words=words,
            maker=maker.name,
            created=transaction.now,
            expires=expires,
            revoked=None,
            used=None,
        ),
    )


def make_first_token(transaction: Transaction, account: str, maker: str) -> tuple[Token, Secret]:
    """Return a provider's token with every right, for whoever has the installation's files and so everything anyway."""
    connection = transaction.connection
    if connection.execute(select(accounts.c.name).where(accounts.c.name == account)).one_or_none() is None:
        values = {"kind": Kind.USER.value, "office": Office.PROVIDER.value}
        connection.execute(insert(accounts).values(name=account, created=transaction.now, **values))
        record(transaction, actor=maker, verb="account.made", subject=f"account/{account}", project=None, detail=values)
    return _write_token(
        transaction,
        Token(
            id=secrets.token_hex(ID_BYTES),
            account=account,
            project=None,
            rights=ALL_RIGHTS,
            office=Office.PROVIDER,
            words="the first provider's",
            maker=maker,
            created=transaction.now,
            expires=transaction.now + LONGEST,
            revoked=None,
            used=None,
        ),
    )


def revoke_token(transaction: Transaction, caller: Session, token: str) -> None:
    """End a token: the one shown, another of one's own, or a provider anybody's. Raises NotFound, NotAllowed."""
    row = transaction.connection.execute(select(tokens).where(tokens.c.id == token)).one_or_none()
    if row is None or not (row.account == caller.name or caller.sees_all()):
        raise not_found(f"token {token}")
    doing = f"revoking token {token}"
    if row.account != caller.name:
        caller.must_keep_accounts(doing)
    elif row.id != caller.token:
        caller.must_have_rights({Right.MEMBERS}, doing)
    if row.revoked is not None:
        return
    transaction.connection.execute(update(tokens).where(tokens.c.id == token).values(revoked=transaction.now))
    _record_token(transaction, caller.name, "token.revoked", _token(row))


def read_tokens(connection: Connection, caller: Caller, *, after: str, limit: int) -> tuple[Token, ...]:
    """Return the tokens that the caller may know of, by id: its own, or everybody's."""
    wanted = select(tokens).where(tokens.c.id > after).order_by(tokens.c.id).limit(limit)
    if not caller.sees_all():
        wanted = wanted.where(tokens.c.account == caller.name)
    return tuple(map(_token, connection.execute(wanted)))


def _check_token(
    rights: Collection[Right], project: str | None, office: Office | None, lasts: timedelta, words: str, doing: str
) -> None:
    if not rights:
        raise WrongUse(doing, expected="at least one right", found="none")
    if project is not None and office is not None:
        raise WrongUse(doing, expected="a project, or an office in the whole service", found="both")
    if not timedelta() < lasts <= LONGEST:
        raise WrongUse(doing, expected=f"that it lasts at most {LONGEST.days} days", found=str(lasts))
    if len(words) > WORDS.most:
        raise WrongUse(doing, expected=f"at most {WORDS.most} letters of what it is for", found=str(len(words)))


def _write_token(transaction: Transaction, token: Token) -> tuple[Token, Secret]:
    bearer = f"sy_{token.id}_{secrets.token_urlsafe(SECRET_BYTES)}"
    transaction.connection.execute(
        insert(tokens).values(
            id=token.id,
            account=token.account,
            digest=_digest(bearer),
            project=token.project,
            rights=sorted(right.value for right in token.rights),
            office=None if token.office is None else token.office.value,
            words=token.words,
            maker=token.maker,
            created=token.created,
            expires=token.expires,
        )
    )
    _record_token(transaction, token.maker, "token.made", token)
    return token, Secret(bearer.encode("ascii"))


def _record_token(transaction: Transaction, actor: str, verb: str, token: Token) -> None:
    record(
        transaction,
        actor=actor,
        verb=verb,
        subject=f"token/{token.id}",
        project=token.project,
        detail={
            "account": token.account,
            "rights": sorted(right.value for right in token.rights),
            "office": None if token.office is None else token.office.value,
            "expires": token.expires.isoformat(),
            "words": token.words,
        },
    )


def _token(row: Row[tuple[object, ...]]) -> Token:
    return Token(
        id=row.id,
        account=row.account,
        project=row.project,
        rights=frozenset(map(Right, row.rights)),
        office=None if row.office is None else Office(row.office),
        words=row.words,
        maker=row.maker,
        created=row.created,
        expires=row.expires,
        revoked=row.revoked,
        used=row.used,
    )
