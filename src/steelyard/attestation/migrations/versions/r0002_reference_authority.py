"""Reference authority."""

import sqlalchemy as sa
from alembic import op

from steelyard.service.columns import UtcTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables of the version before to this one."""
    op.create_table(
        "appraisal_policies",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("latest", sa.Integer(), nullable=False),
        sa.Column("live", sa.Integer(), nullable=True),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("references", sa.JSON(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("project", "name", name=op.f("pk_appraisal_policies")),
    )
    op.create_table(
        "dry_run_results",
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("appraisal", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("today", sa.String(), nullable=False),
        sa.Column("findings", sa.JSON(), nullable=False),
        sa.Column("more", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("run", "node", name=op.f("pk_dry_run_results")),
    )
    op.create_table(
        "dry_runs",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("policy", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=True),
        sa.Column("accept", sa.JSON(), nullable=False),
        sa.Column("revoke", sa.JSON(), nullable=False),
        sa.Column("evidence", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("created", UtcTime(timezone=True), nullable=False),
        sa.Column("deadline", UtcTime(timezone=True), nullable=False),
        sa.Column("ended", UtcTime(timezone=True), nullable=True),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("passing", sa.Integer(), nullable=False),
        sa.Column("failing", sa.Integer(), nullable=False),
        sa.Column("already", sa.Integer(), nullable=False),
        sa.Column("cancelling", sa.Boolean(), nullable=False),
        sa.Column("failure", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dry_runs")),
    )
    op.create_index("ix_dry_runs_project", "dry_runs", ["project", "id"], unique=False)
    op.create_index("ix_dry_runs_state", "dry_runs", ["state"], unique=False)
    op.create_table(
        "reference_contents",
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("compressed", sa.LargeBinary(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_reference_contents")),
    )
    op.create_table(
        "reference_manifests",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("component", sa.String(), nullable=False),
        sa.Column("release", sa.String(), nullable=False),
        sa.Column("serial", sa.BigInteger(), nullable=False),
        sa.Column("machine_class", sa.String(), nullable=True),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("artefact", sa.String(), nullable=False),
        sa.Column("issued", UtcTime(timezone=True), nullable=False),
        sa.Column("expires", UtcTime(timezone=True), nullable=False),
        sa.Column("standing", sa.String(), nullable=False),
        sa.Column("key_ids", sa.JSON(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("added_by", sa.String(), nullable=False),
        sa.Column("added_at", UtcTime(timezone=True), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("project", "id", name=op.f("pk_reference_manifests")),
    )
    op.create_index("ix_reference_manifests_component", "reference_manifests", ["project", "component"], unique=False)
    op.create_table(
        "reference_repositories",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("root", sa.String(), nullable=False),
        sa.Column("public", sa.Boolean(), nullable=False),
        sa.Column("role_keys", sa.JSON(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("root_version", sa.Integer(), nullable=False),
        sa.Column("root_expires", UtcTime(timezone=True), nullable=True),
        sa.Column("timestamp_version", sa.Integer(), nullable=False),
        sa.Column("timestamp_expires", UtcTime(timezone=True), nullable=True),
        sa.Column("refresh", UtcTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("project", name=op.f("pk_reference_repositories")),
    )
    op.create_index("ix_reference_repositories_refresh", "reference_repositories", ["refresh"], unique=False)
    op.create_table(
        "reference_repository_metadata",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("project", "role", "number", name=op.f("pk_reference_repository_metadata")),
    )
    op.create_table(
        "reference_repository_targets",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("file", sa.String(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("project", "file", name=op.f("pk_reference_repository_targets")),
    )
    op.create_table(
        "reference_signers",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("component", sa.String(), nullable=False),
        sa.Column("public_keys", sa.JSON(), nullable=False),
        sa.Column("threshold", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("project", "component", name=op.f("pk_reference_signers")),
    )
    op.create_table(
        "revoked_releases",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("component", sa.String(), nullable=False),
        sa.Column("release", sa.String(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("at", UtcTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("project", "component", "release", name=op.f("pk_revoked_releases")),
    )
    op.create_table(
        "appraisal_policy_versions",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("components", sa.JSON(), nullable=False),
        sa.Column("made_by", sa.String(), nullable=False),
        sa.Column("made_at", UtcTime(timezone=True), nullable=False),
        sa.Column("live_since", UtcTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["project", "name"],
            ["appraisal_policies.project", "appraisal_policies.name"],
            name="fk_appraisal_policy_versions_policy",
        ),
        sa.PrimaryKeyConstraint("project", "name", "number", name=op.f("pk_appraisal_policy_versions")),
    )
