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
        "operations",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("verb", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=True),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("created", UtcTime(timezone=True), nullable=False),
        sa.Column("deadline", UtcTime(timezone=True), nullable=False),
        sa.Column("ended", UtcTime(timezone=True), nullable=True),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("progress", sa.String(), nullable=False),
        sa.Column("failure", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations")),
    )
    op.create_index("ix_operations_node_state", "operations", ["node", "state"], unique=False)
    op.create_index("ix_operations_project", "operations", ["project"], unique=False)
    op.create_index("ix_operations_state", "operations", ["state"], unique=False)
    op.create_table(
        "projects",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("node_quota", sa.Integer(), nullable=False),
        sa.Column("network_quota", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_projects")),
    )
    op.create_table(
        "switches",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("driver", sa.String(), nullable=False),
        sa.Column("address", sa.JSON(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("trouble", sa.String(), nullable=True),
        sa.Column("seen_at", UtcTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_switches")),
    )
    op.create_table(
        "networks",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=True),
        sa.Column("sharing", sa.String(), nullable=False),
        sa.Column("vlan", sa.Integer(), nullable=False),
        sa.Column("members", sa.String(), nullable=False),
        sa.Column("admission_key", sa.String(), nullable=True),
        sa.Column("admission_age_seconds", sa.Integer(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["owner"], ["projects.name"], name=op.f("fk_networks_owner_projects")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_networks")),
        sa.UniqueConstraint("vlan", name=op.f("uq_networks_vlan")),
    )
    op.create_index("ix_networks_owner", "networks", ["owner"], unique=False)
    op.create_table(
        "nodes",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("since", UtcTime(timezone=True), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=True),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("hardware", sa.JSON(), nullable=False),
        sa.Column("identity", sa.JSON(), nullable=False),
        sa.Column("bmc_driver", sa.String(), nullable=False),
        sa.Column("bmc_address", sa.JSON(), nullable=False),
        sa.Column("bmc_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("allocation", sa.String(), nullable=True),
        sa.Column("allocated_at", UtcTime(timezone=True), nullable=True),
        sa.Column("power", sa.String(), nullable=True),
        sa.Column("power_read_at", UtcTime(timezone=True), nullable=True),
        sa.Column("trouble", sa.String(), nullable=True),
        sa.Column("release_step", sa.String(), nullable=True),
        sa.Column("release_to", sa.String(), nullable=True),
        sa.Column("release_waives", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.name"], name=op.f("fk_nodes_project_projects")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_nodes")),
    )
    op.create_index("ix_nodes_project", "nodes", ["project"], unique=False)
    op.create_index("ix_nodes_state", "nodes", ["state"], unique=False)
    op.create_table(
        "operation_ports",
        sa.Column("operation", sa.String(), nullable=False),
        sa.Column("switch", sa.String(), nullable=False),
        sa.Column("port", sa.String(), nullable=False),
        sa.Column("wanted", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["operation"], ["operations.id"], name=op.f("fk_operation_ports_operation_operations")),
        sa.PrimaryKeyConstraint("operation", "switch", "port", name=op.f("pk_operation_ports")),
    )
    op.create_index("ix_operation_ports_port", "operation_ports", ["switch", "port"], unique=False)
    op.create_table(
        "ports",
        sa.Column("switch", sa.String(), nullable=False),
        sa.Column("port", sa.String(), nullable=False),
        sa.Column("wanted", sa.BigInteger(), nullable=False),
        sa.Column("applied", sa.BigInteger(), nullable=False),
        sa.Column("urgent", sa.Boolean(), nullable=False),
        sa.Column("carries", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("read_at", UtcTime(timezone=True), nullable=True),
        sa.Column("trouble", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["switch"], ["switches.name"], name=op.f("fk_ports_switch_switches")),
        sa.PrimaryKeyConstraint("switch", "port", name=op.f("pk_ports")),
    )
    op.create_table(
        "consoles",
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("begins", sa.BigInteger(), nullable=False),
        sa.Column("ends", sa.BigInteger(), nullable=False),
        sa.Column("trouble", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["node"], ["nodes.name"], name=op.f("fk_consoles_node_nodes")),
        sa.PrimaryKeyConstraint("node", name=op.f("pk_consoles")),
    )
    op.create_table(
        "holds",
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("placed_by", sa.String(), nullable=False),
        sa.Column("placed_at", UtcTime(timezone=True), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["node"], ["nodes.name"], name=op.f("fk_holds_node_nodes")),
        sa.PrimaryKeyConstraint("node", "name", name=op.f("pk_holds")),
    )
    op.create_table(
        "network_shares",
        sa.Column("network", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["network"], ["networks.name"], name=op.f("fk_network_shares_network_networks")),
        sa.ForeignKeyConstraint(["project"], ["projects.name"], name=op.f("fk_network_shares_project_projects")),
        sa.PrimaryKeyConstraint("network", "project", name=op.f("pk_network_shares")),
    )
    op.create_table(
        "nics",
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("mac", sa.String(), nullable=False),
        sa.Column("switch", sa.String(), nullable=True),
        sa.Column("port", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["node"], ["nodes.name"], name=op.f("fk_nics_node_nodes")),
        sa.ForeignKeyConstraint(["switch", "port"], ["ports.switch", "ports.port"], name=op.f("fk_nics_switch_ports")),
        sa.PrimaryKeyConstraint("node", "name", name=op.f("pk_nics")),
        sa.UniqueConstraint("mac", name=op.f("uq_nics_mac")),
        sa.UniqueConstraint("switch", "port", name=op.f("uq_nics_switch")),
    )
    op.create_table(
        "attachments",
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("nic", sa.String(), nullable=False),
        sa.Column("network", sa.String(), nullable=False),
        sa.Column("tagged", sa.Boolean(), nullable=False),
        sa.Column("wanted", sa.Boolean(), nullable=False),
        sa.Column("since", UtcTime(timezone=True), nullable=False),
        sa.Column("applied_at", UtcTime(timezone=True), nullable=True),
        sa.Column("verdict_at", UtcTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["network"], ["networks.name"], name=op.f("fk_attachments_network_networks")),
        sa.ForeignKeyConstraint(["node", "nic"], ["nics.node", "nics.name"], name=op.f("fk_attachments_node_nics")),
        sa.PrimaryKeyConstraint("node", "nic", "network", name=op.f("pk_attachments")),
    )
    op.create_index("ix_attachments_network", "attachments", ["network"], unique=False)
    op.create_table(
        "console_input",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("keys", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["node"], ["consoles.node"], name=op.f("fk_console_input_node_consoles")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_console_input")),
    )
    op.create_table(
        "console_output",
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("said", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["node"], ["consoles.node"], name=op.f("fk_console_output_node_consoles")),
        sa.PrimaryKeyConstraint("node", "offset", name=op.f("pk_console_output")),
    )
