"""The tables of the enclave service. Rows become objects in `store.py` alone; `migrations/` makes the tables."""

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
)

from steelyard.service.columns import NAMES, UtcTime

metadata: Final = MetaData(naming_convention=NAMES)

enclaves: Final = Table(
    "enclaves",
    metadata,
    Column("id", String, primary_key=True),
    Column("project", String, nullable=False),
    Column("name", String, nullable=False),
    Column("file", JSON, nullable=False),  # the newest, as a plain document
    Column("made_by", String, nullable=False),
    Column("since", UtcTime, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("ending", Boolean, nullable=False),
    Column("gone", Boolean, nullable=False),  # its name is free again
    Column("sealed", LargeBinary, nullable=False),  # the key that signs who its peers are
    Column("peers_serial", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Index("ix_enclaves_name", "project", "name"),
)

places: Final = Table(
    "enclave_places",
    metadata,
    Column("id", String, primary_key=True),
    Column("enclave", ForeignKey("enclaves.id"), nullable=False),
    Column("project", String, nullable=False),
    Column("number", Integer, nullable=False),
    Column("makeup", String, nullable=False),
    # The file as it was when the place was made: what is under way is finished by it.
    Column("file", JSON, nullable=False),
    Column("node", String),
    Column("avoid", JSON, nullable=False),
    Column("state", String, nullable=False),
    Column("since", UtcTime, nullable=False),
    Column("why", String, nullable=False),
    Column("step", Integer, nullable=False),
    Column("words", String, nullable=False),
    Column("deadline", UtcTime),
    Column("due", UtcTime),  # null: nothing is to be done until something happens
    Column("facts", JSON, nullable=False),
    Column("sealed", LargeBinary),  # its secrets
    Column("delivery", LargeBinary),  # what it may fetch, all of it sealed to this boot
    Column("delivery_path", String),
    Column("receipt", JSON(none_as_null=True)),
    Column("failed", Boolean, nullable=False),
    Column("version", Integer, nullable=False),
    Index("ix_enclave_places_enclave", "enclave", "state"),
    Index("ix_enclave_places_due", "due"),
    Index("ix_enclave_places_delivery", "delivery_path"),
)
