"""The tables of imaging. Rows become objects in `catalogue.py` alone; `migrations/` brings a database to them."""

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
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

images: Final = Table(
    "images",
    metadata,
    Column("id", String, primary_key=True),
    Column("project", String, nullable=False),
    Column("name", String, nullable=False),
    Column("visibility", String, nullable=False),  # private, shared, public
    Column("source", String, nullable=False),
    # Null until it is ready, all three.
    Column("digest", LargeBinary),
    Column("size_bytes", BigInteger),
    Column("real_bytes", BigInteger),
    Column("boot", JSON(none_as_null=True)),
    Column("boot_trouble", String),
    # What the quota counts while it is being made.
    Column("expected_bytes", BigInteger, nullable=False),
    Column("signed_by", String),
    Column("made_by", String, nullable=False),
    Column("made_at", UtcTime, nullable=False),
    Column("version", Integer, nullable=False),
    UniqueConstraint("project", "name"),
)

image_shares: Final = Table(
    "image_shares",
    metadata,
    Column("image", ForeignKey("images.id"), primary_key=True),
    Column("project", String, primary_key=True),
    Index("ix_image_shares_project", "project"),
)

volumes: Final = Table(
    "volumes",
    metadata,
    Column("id", String, primary_key=True),
    Column("project", String, nullable=False),
    Column("name", String, nullable=False),
    Column("keeping", String, nullable=False),
    Column("image", ForeignKey("images.id")),
    Column("size_bytes", BigInteger, nullable=False),
    Column("ready", Boolean, nullable=False),
    Column("made_by", String, nullable=False),
    Column("made_at", UtcTime, nullable=False),
    Column("version", Integer, nullable=False),
    UniqueConstraint("project", "name"),
    Index("ix_volumes_image", "image"),
)

openings: Final = Table(
    "openings",
    metadata,
    Column("volume", ForeignKey("volumes.id"), primary_key=True),
    Column("network", String, nullable=False),
    Column("protocol", String, nullable=False),
    Column("address", String, nullable=False),
    Column("node", String),
    Column("state", String, nullable=False),
    Column("sealed", LargeBinary),  # what the node needs to open it, sealed; null until it is open
)

boots: Final = Table(
    "boots",
    metadata,
    Column("project", String, primary_key=True),
    Column("node", String, primary_key=True),
    Column("network", String, nullable=False),
    Column("mac", String, nullable=False),
    Column("address", String, nullable=False),
    Column("what", JSON, nullable=False),
    # The image and the volume that `what` names: neither goes away while it does.
    Column("image", ForeignKey("images.id")),
    Column("volume", ForeignKey("volumes.id")),
    Column("state", String, nullable=False),
    Column("version", Integer, nullable=False),
    UniqueConstraint("network", "mac", name="uq_boots_mac"),
    UniqueConstraint("network", "address", name="uq_boots_address"),
)

uploads: Final = Table(
    "uploads",
    metadata,
    Column("id", String, primary_key=True),
    Column("project", String, nullable=False),
    Column("name", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("received_bytes", BigInteger, nullable=False),
    Column("made_by", String, nullable=False),
    Column("used_at", UtcTime, nullable=False),
    UniqueConstraint("project", "name"),
)

quotas: Final = Table(
    "imaging_quotas",
    metadata,
    Column("project", String, primary_key=True),
    Column("images", Integer, nullable=False),
    Column("volumes", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("version", Integer, nullable=False),
)

discarded: Final = Table(
    "imaging_discarded",
    metadata,
    # What nobody has a name for any more, and the store may still have.
    Column("id", String, primary_key=True),
    Column("since", UtcTime, nullable=False),
)

stores: Final = Table(
    "imaging_stores",
    metadata,
    # The one store that the images and volumes here are in.
    Column("id", String, primary_key=True),
)

operations: Final = Table(
    "imaging_operations",
    metadata,
    Column("id", String, primary_key=True),  # rises with time
    Column("verb", String, nullable=False),
    Column("project", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("target", String, nullable=False),
    Column("actor", String, nullable=False),
    Column("state", String, nullable=False),
    Column("created", UtcTime, nullable=False),
    Column("deadline", UtcTime, nullable=False),
    Column("ended", UtcTime),
    Column("parameters", JSON, nullable=False),
    Column("progress", String, nullable=False),
    Column("done_bytes", BigInteger),
    Column("total_bytes", BigInteger),
    Column("cancelling", Boolean, nullable=False),
    Column("failure", JSON(none_as_null=True)),
    Index("ix_imaging_operations_state", "state"),
    Index("ix_imaging_operations_target", "target"),
    Index("ix_imaging_operations_project", "project"),
)
