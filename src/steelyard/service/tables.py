"""The tables that the services share. `migrations/` brings a database to them."""

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
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

# -- webhooks ----------------------------------------------------------------------------------------------------------

webhooks: Final = Table(
    "webhooks",
    metadata,
    Column("id", String, primary_key=True),
    Column("project", String),  # null: the provider's
    Column("name", String, nullable=False),
    Column("url", String, nullable=False),
    Column("verbs", JSON, nullable=False),
    Column("subjects", JSON, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("maker", String, nullable=False),
    Column("created", UtcTime, nullable=False),
    # Whatever is wanted of the journal up to this entry was delivered or given up.
    Column("position", BigInteger, nullable=False),
    # Of the first entry after it that is wanted.
    Column("tries", Integer, nullable=False),
    Column("first_try", UtcTime),
    # Of the receiver.
    Column("failures", Integer, nullable=False),  # in a row
    Column("not_before", UtcTime),
    Column("last_try", UtcTime),
    Column("outcome", String),
    Column("failing_since", UtcTime),  # when it was given up on an entry for the first time since it last took one
    UniqueConstraint("project", "name"),
)

webhook_dead_letters: Final = Table(
    "webhook_dead_letters",
    metadata,
    Column("webhook", ForeignKey("webhooks.id"), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),  # of the journal's entry
    Column("tries", Integer, nullable=False),
    Column("first_try", UtcTime, nullable=False),
    Column("given_up", UtcTime, nullable=False),
    Column("outcome", String, nullable=False),
    Column("wanted", UtcTime),  # when it was asked to be delivered again; null: it was not, or was tried since
)
