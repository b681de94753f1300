"""The tables that the services share. `migrations/` brings a database to them."""

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

from steelyard.service.columns import NAMES, UtcTime

metadata: Final = MetaData(naming_convention=NAMES)

# -- sign-in -----------------------------------------------------------------------------------------------------------

accounts: Final = Table(
    "accounts",
    metadata,
    Column("name", String, primary_key=True),
    Column("kind", String, nullable=False),  # user, service
    Column("office", String),
    # Who may sign in as it by OpenID: this subject of the issuer; null: whom the issuer calls by the account's name.
    Column("issuer", String),
    Column("subject", String),
    Column("created", UtcTime, nullable=False),
    UniqueConstraint("issuer", "subject"),
)

memberships: Final = Table(
    "memberships",
    metadata,
    Column("project", String, primary_key=True),
    Column("account", ForeignKey("accounts.name"), primary_key=True),
    Column("role", String, nullable=False),
    Index("ix_memberships_account", "account"),
)

tokens: Final = Table(
    "tokens",
    metadata,
    Column("id", String, primary_key=True),
    Column("account", ForeignKey("accounts.name"), nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("project", String),  # null: every project of the account's
    Column("rights", JSON, nullable=False),
    Column("office", String),  # null: none, whatever the account's
    Column("words", String, nullable=False),  # what it is for, in its maker's words
    Column("maker", String, nullable=False),
    Column("created", UtcTime, nullable=False),
    Column("expires", UtcTime, nullable=False),
    Column("revoked", UtcTime),
    Column("used", UtcTime),
    Index("ix_tokens_account", "account"),
)

# -- journal -----------------------------------------------------------------------------------------------------------

journal: Final = Table(
    "journal",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at", UtcTime, nullable=False),
    Column("actor", String, nullable=False),
    Column("verb", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("project", String),
    Column("detail", JSON, nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("chain", LargeBinary, nullable=False),
    Index("ix_journal_project", "project", "number"),
    Index("ix_journal_subject", "subject", "number"),
)

# -- leases ------------------------------------------------------------------------------------------------------------

leases: Final = Table(
    "leases",
    metadata,
    Column("name", String, primary_key=True),
    Column("holder", String),  # null: given up
    Column("fence", BigInteger, nullable=False),
    Column("expires", UtcTime, nullable=False),
)
