"""The tables of attestation. Rows become objects in `store.py` alone; `migrations/` brings a database to them.

What moves with every report (`attested_nodes`, `attested_boots`) is kept apart from what does not and may be large.
"""

from typing import Final

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

from steelyard.service.columns import NAMES, UtcTime

metadata: Final = MetaData(naming_convention=NAMES)

nodes: Final = Table(
    "attested_nodes",
    metadata,
    Column("name", String, primary_key=True),
    Column("project", String, nullable=False),
    Column("airlock_policy", String, nullable=False),
    Column("runtime_policy", String),  # null: nothing is asked of it once it has passed the airlock
    Column("parameters", LargeBinary),  # SHA-256 of what it must have been given; null: anything
    Column("interval_seconds", Integer, nullable=False),
    Column("grace_seconds", Integer, nullable=False),
    Column("expected_reboots", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("since", UtcTime, nullable=False),
    Column("why", String, nullable=False),
    # Name of the endorsement key that it proved to have; null until it did.
    Column("endorsement_key", LargeBinary),
    Column("boot", String),  # the current one
    Column("expires", UtcTime),  # until when it has passed; then it is overdue, whatever the state says
    Column("fails", UtcTime),  # when it fails for having been silent; null: never
    Column("reported", UtcTime),
    Column("appraisal", String),  # the last
    Column("step", JSON(none_as_null=True)),
    Column("version", Integer, nullable=False),
    Index("ix_attested_nodes_project", "project"),
    Index("ix_attested_nodes_expires", "state", "expires"),
)

identities: Final = Table(
    "attested_identities",
    metadata,
    Column("node", ForeignKey("attested_nodes.name"), primary_key=True),
    # Kind of key -> certificate, PEM; and digests of TPMT_PUBLIC, where there is no certificate.
    Column("certificates", JSON, nullable=False),
    Column("key_digests", JSON, nullable=False),
    Column("makers", String),  # the set that a certificate's chain must end in; null: none is demanded
)

shares: Final = Table(
    "attested_shares",
    metadata,
    # V as the tenant left it, sealed; gone as soon as it is given out.
    Column("node", ForeignKey("attested_nodes.name"), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("deposited", UtcTime, nullable=False),
)

registrations: Final = Table(
    "attested_registrations",
    metadata,
    Column("id", String, primary_key=True),
    Column("node", String, nullable=False),
    Column("attestation_key", LargeBinary, nullable=False),
    Column("endorsement_key", LargeBinary, nullable=False),
    Column("chained", Boolean, nullable=False),
    Column("proof", LargeBinary, nullable=False),  # SHA-256 of the right answer
    Column("made", UtcTime, nullable=False),
    Column("expires", UtcTime, nullable=False),
    Index("ix_attested_registrations_node", "node"),
    Index("ix_attested_registrations_expires", "expires"),
)

boots: Final = Table(
    "attested_boots",
    metadata,
    # Since an activation: one attestation key, one session.
    Column("id", String, primary_key=True),
    Column("node", String, nullable=False),
    Column("token", LargeBinary, nullable=False),  # SHA-256
    Column("attestation_key", LargeBinary, nullable=False),
    Column("endorsement_key", LargeBinary, nullable=False),
    Column("chained", Boolean, nullable=False),  # a trusted maker stands behind the endorsement key
    Column("began", UtcTime, nullable=False),
    Column("session_ends", UtcTime, nullable=False),
    # Since it passed the airlock; null until then.
    Column("nonce", LargeBinary),
    Column("transport_key", LargeBinary),
    Column("wireguard_key", LargeBinary),
    Column("parameters", LargeBinary),  # digest of what is kept
    Column("event_log", LargeBinary),  # digest of what is kept
    Column("released", UtcTime),  # when the share was given out
    # The last evidence that passed.
    Column("quote", LargeBinary),
    Column("pcrs", LargeBinary),
    Column("grounds", LargeBinary),
    Column("ima_entries", Integer),
    Column("ima_pcr", LargeBinary),
    Column("verdict", Text),
    # What it was asked for last; null once it was answered.
    Column("challenge", String),
    Column("asked_nonce", LargeBinary),
    Column("asked_purpose", String),
    Column("asked_policy", String),
    Column("asked_grounds", LargeBinary),
    Column("asked_pcrs", LargeBinary),
    Column("asked_first", Integer),
    Column("asked_until", UtcTime),
    Index("ix_attested_boots_node", "node"),
    Index("ix_attested_boots_challenge", "challenge", unique=True),
)

appraisals: Final = Table(
    "appraisals",
    metadata,
    Column("id", String, primary_key=True),  # rises with time
    Column("node", String, nullable=False),
    Column("project", String, nullable=False),
    Column("boot", String, nullable=False),
    Column("purpose", String, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("passed", Boolean, nullable=False),
    Column("policy", String, nullable=False),
    Column("policy_version", Integer, nullable=False),
    Column("grounds", LargeBinary, nullable=False),
    Column("nonce", LargeBinary, nullable=False),
    Column("quote", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("pcrs", LargeBinary, nullable=False),
    # Digests of what is kept; of the list, the entries from `ima_first` on, up to `ima_entries`.
    Column("event_log", LargeBinary),
    Column("ima_list", LargeBinary),
    Column("ima_first", Integer),
    Column("ima_entries", Integer),
    Column("transport_key", LargeBinary, nullable=False),
    Column("wireguard_key", LargeBinary),
    Column("parameters", LargeBinary),  # digest of what is kept
    Column("findings", JSON(none_as_null=True)),
    Index("ix_appraisals_node", "node", "id"),
    Index("ix_appraisals_boot", "boot"),
    Index("ix_appraisals_at", "at"),
)

kept: Final = Table(
    "kept_evidence",
    metadata,
    # By what it is: the same log, list, policy or manifest is kept once.
    Column("digest", LargeBinary, primary_key=True),
    Column("compressed", LargeBinary, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("since", UtcTime, nullable=False),
)

grounds: Final = Table(
    "appraisal_grounds",
    metadata,
    # A version of a policy with the references that were there: what a verdict rests on.
    Column("digest", LargeBinary, primary_key=True),
    Column("policy", LargeBinary, nullable=False),  # digest of what is kept, as are the references
    Column("since", UtcTime, nullable=False),
)

grounds_references: Final = Table(
    "grounds_references",
    metadata,
    Column("grounds", ForeignKey("appraisal_grounds.digest"), primary_key=True),
    Column("reference", LargeBinary, primary_key=True),
)

verdict_keys: Final = Table(
    "verdict_keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("public", LargeBinary, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("made", UtcTime, nullable=False),
    Column("published_until", UtcTime),  # null: it signs
)

maker_sets: Final = Table(
    "maker_sets",
    metadata,
    Column("project", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("certificates", JSON, nullable=False),
    Column("revocations", JSON, nullable=False),
    Column("demands", JSON, nullable=False),
    Column("version", Integer, nullable=False),
)
