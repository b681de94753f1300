"""First tables."""

import sqlalchemy as sa
from alembic import op

from steelyard.service.columns import UtcTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables of the version before to this one."""
    op.create_table(
        "accounts",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("office", sa.String(), nullable=True),
        sa.Column("issuer", sa.String(), nullable=True),
        sa.Column("subject", sa.String(), nullable=True),
        sa.Column("created", UtcTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_accounts")),
        sa.UniqueConstraint("issuer", "subject", name=op.f("uq_accounts_issuer")),
    )
    op.create_table(
        "journal",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", UtcTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("verb", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=True),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("chain", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_journal")),
    )
    op.create_index("ix_journal_project", "journal", ["project", "number"], unique=False)
    op.create_index("ix_journal_subject", "journal", ["subject", "number"], unique=False)
    op.create_table(
        "leases",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=True),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("expires", UtcTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "memberships",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["account"], ["accounts.name"], name=op.f("fk_memberships_account_accounts")),
        sa.PrimaryKeyConstraint("project", "account", name=op.f("pk_memberships")),
    )
    op.create_index("ix_memberships_account", "memberships", ["account"], unique=False)
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("project", sa.String(), nullable=True),
        sa.Column("rights", sa.JSON(), nullable=False),
        sa.Column("office", sa.String(), nullable=True),
        sa.Column("words", sa.String(), nullable=False),
        sa.Column("maker", sa.String(), nullable=False),
        sa.Column("created", UtcTime(timezone=True), nullable=False),
        sa.Column("expires", UtcTime(timezone=True), nullable=False),
        sa.Column("revoked", UtcTime(timezone=True), nullable=True),
        sa.Column("used", UtcTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["account"], ["accounts.name"], name=op.f("fk_tokens_account_accounts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
    )
    op.create_index("ix_tokens_account", "tokens", ["account"], unique=False)
    for statement in _APPEND_ONLY[op.get_bind().dialect.name]:
        op.execute(statement)


# What is in the journal stays as it is. SQLite replaces a row (INSERT OR REPLACE) without a word to the second trigger.
_APPEND_ONLY = {
    "sqlite": [
        f"""CREATE TRIGGER journal_no_{event.lower()} BEFORE {event} ON journal {condition}
        BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END"""
        for event, condition in (
            ("UPDATE", ""),
            ("DELETE", ""),
            ("INSERT", "WHEN EXISTS (SELECT 1 FROM journal WHERE number = NEW.number)"),
        )
    ],
    "postgresql": [
        """CREATE FUNCTION refuse_change_of_journal() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'the journal is append-only'; END $$""",
        """CREATE TRIGGER journal_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON journal
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_journal()""",
    ],
}
