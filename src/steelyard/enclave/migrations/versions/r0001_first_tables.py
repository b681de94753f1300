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
        "enclaves",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("file", sa.JSON(), nullable=False),
        sa.Column("made_by", sa.String(), nullable=False),
        sa.Column("since", UtcTime(timezone=True), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("ending", sa.Boolean(), nullable=False),
        sa.Column("gone", sa.Boolean(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("peers_serial", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_enclaves")),
    )
    op.create_index("ix_enclaves_name", "enclaves", ["project", "name"], unique=False)
    op.create_table(
        "enclave_places",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("enclave", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("makeup", sa.String(), nullable=False),
        sa.Column("file", sa.JSON(), nullable=False),
        sa.Column("node", sa.String(), nullable=True),
        sa.Column("avoid", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("since", UtcTime(timezone=True), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("words", sa.String(), nullable=False),
        sa.Column("deadline", UtcTime(timezone=True), nullable=True),
        sa.Column("due", UtcTime(timezone=True), nullable=True),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.Column("delivery", sa.LargeBinary(), nullable=True),
        sa.Column("delivery_path", sa.String(), nullable=True),
        sa.Column("receipt", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("failed", sa.Boolean(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["enclave"], ["enclaves.id"], name=op.f("fk_enclave_places_enclave_enclaves")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_enclave_places")),
    )
    op.create_index("ix_enclave_places_delivery", "enclave_places", ["delivery_path"], unique=False)
    op.create_index("ix_enclave_places_due", "enclave_places", ["due"], unique=False)
    op.create_index("ix_enclave_places_enclave", "enclave_places", ["enclave", "state"], unique=False)
