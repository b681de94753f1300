"""${message}."""

import sqlalchemy as sa
from alembic import op

from steelyard.service.columns import UtcTime

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables of the version before to this one."""
    ${upgrades if upgrades else "pass"}
