"""The tables of isolation. Rows become objects in `store.py` alone; `migrations/` brings a database to them."""

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

from steelyard.service.columns import UtcTime

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

projects: Final = Table(
    "projects",
    metadata,
    Column("name", String, primary_key=True),
    Column("node_quota", Integer, nullable=False),
    Column("network_quota", Integer, nullable=False),
    Column("version", Integer, nullable=False),
)

switches: Final = Table(
    "switches",
    metadata,
    Column("name", String, primary_key=True),
    Column("driver", String, nullable=False),
    Column("address", JSON, nullable=False),
    Column("sealed", LargeBinary, nullable=False),  # credentials, sealed
    Column("trouble", String),
    Column("seen_at", UtcTime),
    Column("version", Integer, nullable=False),
)

ports: Final = Table(
    "ports",
    metadata,
    Column("switch", ForeignKey("switches.name"), primary_key=True),
    Column("port", String, primary_key=True),
    # `wanted` counts the changes of what the port is to carry; `applied` is the count that was last read back true.
    Column("wanted", BigInteger, nullable=False),
    Column("applied", BigInteger, nullable=False),
    Column("urgent", Boolean, nullable=False),  # a cut: ahead of every queue
    Column(
        "carries", JSON(none_as_null=True)
    ),  # as last read: {"untagged": 10, "tagged": [], "isolated": false}; null: in doubt
    Column("read_at", UtcTime),
    Column("trouble", String),
)

nodes: Final = Table(
    "nodes",
    metadata,
    Column("name", String, primary_key=True),
    Column("state", String, nullable=False),
    Column("since", UtcTime, nullable=False),
    Column("why", String, nullable=False),
    Column("project", ForeignKey("projects.name")),
    Column("labels", JSON, nullable=False),
    Column("hardware", JSON, nullable=False),
    Column("identity", JSON, nullable=False),
    Column("bmc_driver", String, nullable=False),
    Column("bmc_address", JSON, nullable=False),
    Column("bmc_sealed", LargeBinary, nullable=False),
    Column("allocation", String),
    Column("allocated_at", UtcTime),
    Column("power", String),
    Column("power_read_at", UtcTime),
    Column("trouble", String),
    # What a release has confirmed so far ("power", "ports", "holds"), in order, and where the node goes then.
    Column("release_step", String),
    Column("release_to", String),
    Column("release_waives", JSON(none_as_null=True)),
    Column("version", Integer, nullable=False),
    Index("ix_nodes_state", "state"),
    Index("ix_nodes_project", "project"),
)

nics: Final = Table(
    "nics",
    metadata,
    Column("node", ForeignKey("nodes.name"), primary_key=True),
    Column("name", String, primary_key=True),
    Column("mac", String, nullable=False, unique=True),
    Column("switch", String),
    Column("port", String),
    ForeignKeyConstraint(["switch", "port"], ["ports.switch", "ports.port"]),
    UniqueConstraint("switch", "port"),
)

networks: Final = Table(
    "networks",
    metadata,
    Column("name", String, primary_key=True),
    Column("owner", ForeignKey("projects.name")),
    Column("sharing", String, nullable=False),  # private, shared, public
    Column("vlan", Integer, nullable=False, unique=True),
    Column("members", String, nullable=False),  # together, isolated
    Column("admission_key", String),
    Column("admission_age_seconds", Integer),
    Column("version", Integer, nullable=False),
    Index("ix_networks_owner", "owner"),
)

network_shares: Final = Table(
    "network_shares",
    metadata,
    Column("network", ForeignKey("networks.name"), primary_key=True),
    Column("project", ForeignKey("projects.name"), primary_key=True),
)

attachments: Final = Table(
    "attachments",
    metadata,
    Column("node", String, primary_key=True),
    Column("nic", String, primary_key=True),
    Column("network", ForeignKey("networks.name"), primary_key=True),
    Column("tagged", Boolean, nullable=False),
    Column("wanted", Boolean, nullable=False),
    Column("since", UtcTime, nullable=False),
    Column("applied_at", UtcTime),
    Column("verdict_at", UtcTime),
    ForeignKeyConstraint(["node", "nic"], ["nics.node", "nics.name"]),
    Index("ix_attachments_network", "network"),
)

holds: Final = Table(
    "holds",
    metadata,
    Column("node", ForeignKey("nodes.name"), primary_key=True),
    Column("name", String, primary_key=True),
    Column("placed_by", String, nullable=False),
    Column("placed_at", UtcTime, nullable=False),
    Column("why", String, nullable=False),
)

operations: Final = Table(
    "operations",
    metadata,
    Column("id", String, primary_key=True),
    Column("verb", String, nullable=False),
    Column("node", String, nullable=False),
    Column("project", String),
    Column("actor", String, nullable=False),
    Column("state", String, nullable=False),
    Column("created", UtcTime, nullable=False),
    Column("deadline", UtcTime, nullable=False),
    Column("ended", UtcTime),
    Column("parameters", JSON, nullable=False),
    Column("step", String, nullable=False),  # of a power cycle: which half is done
    Column("progress", String, nullable=False),
    Column("failure", JSON(none_as_null=True)),
    Index("ix_operations_node_state", "node", "state"),
    Index("ix_operations_state", "state"),
    Index("ix_operations_project", "project"),
)

# What an operation on ports still waits for: that the port was read back at this count or a later one.
operation_ports: Final = Table(
    "operation_ports",
    metadata,
    Column("operation", ForeignKey("operations.id"), primary_key=True),
    Column("switch", String, primary_key=True),
    Column("port", String, primary_key=True),
    Column("wanted", BigInteger, nullable=False),
    Index("ix_operation_ports_port", "switch", "port"),
)

consoles: Final = Table(
    "consoles",
    metadata,
    Column("node", ForeignKey("nodes.name"), primary_key=True),
    Column("begins", BigInteger, nullable=False),  # offset of the oldest byte kept
    Column("ends", BigInteger, nullable=False),
    Column("trouble", String),
)

console_output: Final = Table(
    "console_output",
    metadata,
    Column("node", ForeignKey("consoles.node"), primary_key=True),
    Column("offset", BigInteger, primary_key=True),
    Column("said", LargeBinary, nullable=False),
)

console_input: Final = Table(
    "console_input",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("node", ForeignKey("consoles.node"), nullable=False),
    Column("keys", LargeBinary, nullable=False),
)
