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
        "appraisal_grounds",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("policy", sa.LargeBinary(), nullable=False),
        sa.Column("since", UtcTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_appraisal_grounds")),
    )
    op.create_table(
        "appraisals",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("boot", sa.String(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("at", UtcTime(timezone=True), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("policy", sa.String(), nullable=False),
        sa.Column("policy_version", sa.Integer(), nullable=False),
        sa.Column("grounds", sa.LargeBinary(), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("quote", sa.LargeBinary(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("pcrs", sa.LargeBinary(), nullable=False),
        sa.Column("event_log", sa.LargeBinary(), nullable=True),
        sa.Column("ima_list", sa.LargeBinary(), nullable=True),
        sa.Column("ima_first", sa.Integer(), nullable=True),
        sa.Column("ima_entries", sa.Integer(), nullable=True),
        sa.Column("transport_key", sa.LargeBinary(), nullable=False),
        sa.Column("wireguard_key", sa.LargeBinary(), nullable=True),
        sa.Column("parameters", sa.LargeBinary(), nullable=True),
        sa.Column("findings", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_appraisals")),
    )
    op.create_index("ix_appraisals_at", "appraisals", ["at"], unique=False)
    op.create_index("ix_appraisals_boot", "appraisals", ["boot"], unique=False)
    op.create_index("ix_appraisals_node", "appraisals", ["node", "id"], unique=False)
    op.create_table(
        "attested_boots",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("token", sa.LargeBinary(), nullable=False),
        sa.Column("attestation_key", sa.LargeBinary(), nullable=False),
        sa.Column("endorsement_key", sa.LargeBinary(), nullable=False),
        sa.Column("chained", sa.Boolean(), nullable=False),
        sa.Column("began", UtcTime(timezone=True), nullable=False),
        sa.Column("session_ends", UtcTime(timezone=True), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=True),
        sa.Column("transport_key", sa.LargeBinary(), nullable=True),
        sa.Column("wireguard_key", sa.LargeBinary(), nullable=True),
        sa.Column("parameters", sa.LargeBinary(), nullable=True),
        sa.Column("event_log", sa.LargeBinary(), nullable=True),
        sa.Column("released", UtcTime(timezone=True), nullable=True),
        sa.Column("quote", sa.LargeBinary(), nullable=True),
        sa.Column("pcrs", sa.LargeBinary(), nullable=True),
        sa.Column("grounds", sa.LargeBinary(), nullable=True),
        sa.Column("ima_entries", sa.Integer(), nullable=True),
        sa.Column("ima_pcr", sa.LargeBinary(), nullable=True),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("challenge", sa.String(), nullable=True),
        sa.Column("asked_nonce", sa.LargeBinary(), nullable=True),
        sa.Column("asked_purpose", sa.String(), nullable=True),
        sa.Column("asked_policy", sa.String(), nullable=True),
        sa.Column("asked_grounds", sa.LargeBinary(), nullable=True),
        sa.Column("asked_pcrs", sa.LargeBinary(), nullable=True),
        sa.Column("asked_first", sa.Integer(), nullable=True),
        sa.Column("asked_until", UtcTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attested_boots")),
    )
    op.create_index("ix_attested_boots_challenge", "attested_boots", ["challenge"], unique=True)
    op.create_index("ix_attested_boots_node", "attested_boots", ["node"], unique=False)
    op.create_table(
        "attested_nodes",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("airlock_policy", sa.String(), nullable=False),
        sa.Column("runtime_policy", sa.String(), nullable=True),
        sa.Column("parameters", sa.LargeBinary(), nullable=True),
        sa.Column("interval_seconds", sa.Integer(), nullable=False),
        sa.Column("grace_seconds", sa.Integer(), nullable=False),
        sa.Column("expected_reboots", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("since", UtcTime(timezone=True), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.Column("endorsement_key", sa.LargeBinary(), nullable=True),
        sa.Column("boot", sa.String(), nullable=True),
        sa.Column("expires", UtcTime(timezone=True), nullable=True),
        sa.Column("fails", UtcTime(timezone=True), nullable=True),
        sa.Column("reported", UtcTime(timezone=True), nullable=True),
        sa.Column("appraisal", sa.String(), nullable=True),
        sa.Column("step", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_attested_nodes")),
    )
    op.create_index("ix_attested_nodes_expires", "attested_nodes", ["state", "expires"], unique=False)
    op.create_index("ix_attested_nodes_project", "attested_nodes", ["project"], unique=False)
    op.create_table(
        "attested_registrations",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("attestation_key", sa.LargeBinary(), nullable=False),
        sa.Column("endorsement_key", sa.LargeBinary(), nullable=False),
        sa.Column("chained", sa.Boolean(), nullable=False),
        sa.Column("proof", sa.LargeBinary(), nullable=False),
        sa.Column("made", UtcTime(timezone=True), nullable=False),
        sa.Column("expires", UtcTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attested_registrations")),
    )
    op.create_index("ix_attested_registrations_expires", "attested_registrations", ["expires"], unique=False)
    op.create_index("ix_attested_registrations_node", "attested_registrations", ["node"], unique=False)
    op.create_table(
        "kept_evidence",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("compressed", sa.LargeBinary(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("since", UtcTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_kept_evidence")),
    )
    op.create_table(
        "maker_sets",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("certificates", sa.JSON(), nullable=False),
        sa.Column("revocations", sa.JSON(), nullable=False),
        sa.Column("demands", sa.JSON(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("project", "name", name=op.f("pk_maker_sets")),
    )
    op.create_table(
        "verdict_keys",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("public", sa.LargeBinary(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("made", UtcTime(timezone=True), nullable=False),
        sa.Column("published_until", UtcTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_verdict_keys")),
    )
    op.create_table(
        "attested_identities",
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("certificates", sa.JSON(), nullable=False),
        sa.Column("key_digests", sa.JSON(), nullable=False),
        sa.Column("makers", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["node"], ["attested_nodes.name"], name=op.f("fk_attested_identities_node_attested_nodes")
        ),
        sa.PrimaryKeyConstraint("node", name=op.f("pk_attested_identities")),
    )
    op.create_table(
        "attested_shares",
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("deposited", UtcTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["node"], ["attested_nodes.name"], name=op.f("fk_attested_shares_node_attested_nodes")),
        sa.PrimaryKeyConstraint("node", name=op.f("pk_attested_shares")),
    )
    op.create_table(
        "grounds_references",
        sa.Column("grounds", sa.LargeBinary(), nullable=False),
        sa.Column("reference", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["grounds"], ["appraisal_grounds.digest"], name=op.f("fk_grounds_references_grounds_appraisal_grounds")
        ),
        sa.PrimaryKeyConstraint("grounds", "reference", name=op.f("pk_grounds_references")),
    )
