"""The tables of the reference authority. Rows become objects in `store.py` alone."""

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
)

from steelyard.attestation import tables
from steelyard.service.columns import UtcTime

metadata: Final = tables.metadata

signers: Final = Table(
    "reference_signers",
    metadata,
    Column("project", String, primary_key=True),
    Column("component", String, primary_key=True),
    Column("public_keys", JSON, nullable=False),  # name -> Ed25519 public key, hexadecimal
    Column("threshold", Integer, nullable=False),
    Column("version", Integer, nullable=False),
)

contents: Final = Table(
    "reference_contents",
    metadata,
    # Envelopes and policies, by what they are; never taken away, as verdicts name them.
    Column("sha256", LargeBinary, primary_key=True),
    Column("compressed", LargeBinary, nullable=False),
    Column("size_bytes", Integer, nullable=False),
)

manifests: Final = Table(
    "reference_manifests",
    metadata,
    Column("project", String, primary_key=True),
    Column("id", LargeBinary, primary_key=True),  # SHA-256 of the manifest
    Column("component", String, nullable=False),
    Column("release", String, nullable=False),
    Column("serial", BigInteger, nullable=False),
    Column("machine_class", String),
    Column("origin", String, nullable=False),
    Column("artefact", String, nullable=False),
    Column("issued", UtcTime, nullable=False),
    Column("expires", UtcTime, nullable=False),
    Column("standing", String, nullable=False),
    Column("key_ids", JSON, nullable=False),
    Column("envelope", LargeBinary, nullable=False),  # SHA-256
    Column("size_bytes", Integer, nullable=False),
    Column("added_by", String, nullable=False),
    Column("added_at", UtcTime, nullable=False),
    Column("why", String, nullable=False),
    Index("ix_reference_manifests_component", "project", "component"),
)

revoked_releases: Final = Table(
    "revoked_releases",
    metadata,
    Column("project", String, primary_key=True),
    Column("component", String, primary_key=True),
    Column("release", String, primary_key=True),
    Column("why", String, nullable=False),
    Column("by", String, nullable=False),
    Column("at", UtcTime, nullable=False),
)

policies: Final = Table(
    "appraisal_policies",
    metadata,
    Column("project", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("latest", Integer, nullable=False),
    Column("live", Integer),
    # What judges now, kept at hand: it is asked for with every challenge. Empty without a live version.
    Column("document", LargeBinary, nullable=False),  # SHA-256
    Column("references", JSON, nullable=False),  # SHA-256 of envelopes, hexadecimal, sorted
    Column("version", Integer, nullable=False),
)

policy_versions: Final = Table(
    "appraisal_policy_versions",
    metadata,
    Column("project", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("sha256", LargeBinary, nullable=False),
    Column("components", JSON, nullable=False),
    Column("made_by", String, nullable=False),
    Column("made_at", UtcTime, nullable=False),
    Column("live_since", UtcTime),  # null: it is not the live one
    ForeignKeyConstraint(
        ["project", "name"],
        ["appraisal_policies.project", "appraisal_policies.name"],
        name="fk_appraisal_policy_versions_policy",
    ),
)

dry_runs: Final = Table(
    "dry_runs",
    metadata,
    Column("id", String, primary_key=True),  # rises with time
    Column("project", String, nullable=False),
    Column("policy", String, nullable=False),
    Column("number", Integer),
    Column("accept", JSON, nullable=False),
    Column("revoke", JSON, nullable=False),
    Column("evidence", String, nullable=False),
    Column("actor", String, nullable=False),
    Column("state", String, nullable=False),
    Column("created", UtcTime, nullable=False),
    Column("deadline", UtcTime, nullable=False),
    Column("ended", UtcTime),
    Column("done", Integer, nullable=False),
    Column("total", Integer, nullable=False),
    Column("passing", Integer, nullable=False),
    Column("failing", Integer, nullable=False),
    Column("already", Integer, nullable=False),
    Column("cancelling", Boolean, nullable=False),
    Column("failure", JSON(none_as_null=True)),
    Index("ix_dry_runs_state", "state"),
    Index("ix_dry_runs_project", "project", "id"),
)

dry_run_results: Final = Table(
    "dry_run_results",
    metadata,
    Column("run", String, primary_key=True),
    Column("node", String, primary_key=True),
    Column("appraisal", String, nullable=False),
    Column("outcome", String, nullable=False),
    Column("today", String, nullable=False),
    Column("findings", JSON, nullable=False),
    Column("more", Integer, nullable=False),
)

repositories: Final = Table(
    "reference_repositories",
    metadata,
    Column("project", String, primary_key=True),
    Column("root", String, nullable=False),
    Column("public", Boolean, nullable=False),
    Column("role_keys", JSON, nullable=False),  # role -> id of its key
    Column("sealed", LargeBinary, nullable=False),  # the private keys: role -> PEM
    Column("root_version", Integer, nullable=False),
    Column("root_expires", UtcTime),
    Column("timestamp_version", Integer, nullable=False),
    Column("timestamp_expires", UtcTime),
    # When something of it is to be signed anew.
    Column("refresh", UtcTime),
    Column("version", Integer, nullable=False),
    Index("ix_reference_repositories_refresh", "refresh"),
)

repository_metadata: Final = Table(
    "reference_repository_metadata",
    metadata,
    Column("project", String, primary_key=True),
    Column("role", String, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)

repository_targets: Final = Table(
    "reference_repository_targets",
    metadata,
    # What is served now: an envelope, or the list of what is revoked.
    Column("project", String, primary_key=True),
    Column("file", String, primary_key=True),
    Column("sha256", LargeBinary, nullable=False),
    Column("size_bytes", Integer, nullable=False),
)
