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
        "images",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("visibility", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("real_bytes", sa.BigInteger(), nullable=True),
        sa.Column("boot", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("boot_trouble", sa.String(), nullable=True),
        sa.Column("expected_bytes", sa.BigInteger(), nullable=False),
        sa.Column("signed_by", sa.String(), nullable=True),
        sa.Column("made_by", sa.String(), nullable=False),
        sa.Column("made_at", UtcTime(timezone=True), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_images")),
        sa.UniqueConstraint("project", "name", name=op.f("uq_images_project")),
    )
    op.create_table(
        "imaging_discarded",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("since", UtcTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imaging_discarded")),
    )
    op.create_table(
        "imaging_stores",
        sa.Column("id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imaging_stores")),
    )
    op.create_table(
        "imaging_operations",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("verb", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("created", UtcTime(timezone=True), nullable=False),
        sa.Column("deadline", UtcTime(timezone=True), nullable=False),
        sa.Column("ended", UtcTime(timezone=True), nullable=True),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("progress", sa.String(), nullable=False),
        sa.Column("done_bytes", sa.BigInteger(), nullable=True),
        sa.Column("total_bytes", sa.BigInteger(), nullable=True),
        sa.Column("cancelling", sa.Boolean(), nullable=False),
        sa.Column("failure", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imaging_operations")),
    )
    op.create_index("ix_imaging_operations_project", "imaging_operations", ["project"], unique=False)
    op.create_index("ix_imaging_operations_state", "imaging_operations", ["state"], unique=False)
    op.create_index("ix_imaging_operations_target", "imaging_operations", ["target"], unique=False)
    op.create_table(
        "imaging_quotas",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("volumes", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("project", name=op.f("pk_imaging_quotas")),
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("received_bytes", sa.BigInteger(), nullable=False),
        sa.Column("made_by", sa.String(), nullable=False),
        sa.Column("used_at", UtcTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
        sa.UniqueConstraint("project", "name", name=op.f("uq_uploads_project")),
    )
    op.create_table(
        "image_shares",
        sa.Column("image", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["image"], ["images.id"], name=op.f("fk_image_shares_image_images")),
        sa.PrimaryKeyConstraint("image", "project", name=op.f("pk_image_shares")),
    )
    op.create_index("ix_image_shares_project", "image_shares", ["project"], unique=False)
    op.create_table(
        "volumes",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("keeping", sa.String(), nullable=False),
        sa.Column("image", sa.String(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("ready", sa.Boolean(), nullable=False),
        sa.Column("made_by", sa.String(), nullable=False),
        sa.Column("made_at", UtcTime(timezone=True), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["image"], ["images.id"], name=op.f("fk_volumes_image_images")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_volumes")),
        sa.UniqueConstraint("project", "name", name=op.f("uq_volumes_project")),
    )
    op.create_index("ix_volumes_image", "volumes", ["image"], unique=False)
    op.create_table(
        "boots",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("network", sa.String(), nullable=False),
        sa.Column("mac", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("what", sa.JSON(), nullable=False),
        sa.Column("image", sa.String(), nullable=True),
        sa.Column("volume", sa.String(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["image"], ["images.id"], name=op.f("fk_boots_image_images")),
        sa.ForeignKeyConstraint(["volume"], ["volumes.id"], name=op.f("fk_boots_volume_volumes")),
        sa.PrimaryKeyConstraint("project", "node", name=op.f("pk_boots")),
        sa.UniqueConstraint("network", "address", name=op.f("uq_boots_address")),
        sa.UniqueConstraint("network", "mac", name=op.f("uq_boots_mac")),
    )
    op.create_table(
        "openings",
        sa.Column("volume", sa.String(), nullable=False),
        sa.Column("network", sa.String(), nullable=False),
        sa.Column("protocol", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["volume"], ["volumes.id"], name=op.f("fk_openings_volume_volumes")),
        sa.PrimaryKeyConstraint("volume", name=op.f("pk_openings")),
    )
