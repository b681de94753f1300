"""Brings a database to the tables that this code expects, whatever older code left there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData

from steelyard.model.errors import ServiceUnready
from steelyard.service import tables
from steelyard.service.database import Database


@dataclass(frozen=True, slots=True)
class Schema:
    """The tables of one part. Parts share a database, and each counts its own versions.

    migrations  the directory of its Alembic scripts.
    """

    name: str
    metadata: MetaData
    migrations: Path

    @property
    def version_table(self) -> str:
        """Where a database says which version it has."""
        return f"{self.name}_version"

    def configuration(self) -> Config:
        """Return what Alembic needs."""
        config = Config()
        config.set_main_option("script_location", str(self.migrations).replace("%", "%%"))
        config.attributes["schema"] = self
        return config


SERVICE: Final = Schema("service", tables.metadata, Path(__file__).parent / "migrations")


def migrate(database: Database, *schemas: Schema) -> None:
    """Bring the database up to date, in one transaction: done, or nothing done. Raises ServiceUnready if it is newer.

    Processes that start at the same time take turns: the second finds it done.
    """
    with database.writing() as transaction:
        for schema in schemas:
            config = schema.configuration()
            context = MigrationContext.configure(transaction.connection, opts={"version_table": schema.version_table})
            scripts = ScriptDirectory.from_config(config)
            known = {script.revision for script in scripts.walk_revisions()}
            newer = set(context.get_current_heads()) - known
            if newer:
                raise ServiceUnready(
                    f"opening the database's {schema.name} tables",
                    expected=f"version {scripts.get_current_head()} or older",
                    found=f"version {', '.join(sorted(newer))}: a newer Steelyard was here",
                )
            config.attributes["connection"] = transaction.connection
            command.upgrade(config, "head")
