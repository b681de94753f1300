"""Somebody to test with: accounts, memberships and tokens, made by the verbs themselves."""

from collections.abc import Collection, Mapping
from datetime import timedelta

from steelyard.service.accounts import (
    ALL_RIGHTS,
    Kind,
    Session,
    make_first_token,
    make_token,
    put_account,
    put_member,
    sign_in,
)
from steelyard.service.authority import Office, Right, Role
from steelyard.service.database import Database

DAY = timedelta(days=1)


class People:
    """Who there is in a database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        with database.writing() as transaction:
            _, secret = make_first_token(transaction, "provider", "test")
        self.provider_bearer = secret.reveal().decode()
        self.provider = self.session(self.provider_bearer)

    def session(self, bearer: str) -> Session:
        """Sign in."""
        with self.database.reading() as connection:
            return sign_in(connection, bearer, self.database.clock())

    def bearer(
        self,
        name: str,
        roles: Mapping[str, Role] | None = None,
        *,
        office: Office | None = None,
        project: str | None = None,
        rights: Collection[Right] = ALL_RIGHTS,
        lasts: timedelta = DAY,
    ) -> str:
        """Return a token of an account that has these roles, made if need be."""
        with self.database.writing() as transaction:
            put_account(transaction, self.provider, name, Kind.USER, office, None)
            for where, role in (roles or {}).items():
                put_member(transaction, self.provider, where, name, role)
            _, secret = make_token(
                transaction,
                self.provider,
                name,
                project=project,
                rights=rights,
                office=None if project else office,
                lasts=lasts,
                words="",
            )
        return secret.reveal().decode()

    def somebody(
        self,
        name: str,
        roles: Mapping[str, Role] | None = None,
        *,
        office: Office | None = None,
        project: str | None = None,
        rights: Collection[Right] = ALL_RIGHTS,
    ) -> Session:
        """Return such an account, signed in."""
        return self.session(self.bearer(name, roles, office=office, project=project, rights=rights))
