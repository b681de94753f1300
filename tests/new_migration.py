"""Writes a migration from the difference of a part's tables and its migrations so far.

  .venv/bin/python -m tests.new_migration isolation 0002 "Nodes have a place in the rack"

Read what it wrote: it knows tables, columns and indexes, and nothing of the rows in them.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from alembic import command

from steelyard.attestation.migrations import ATTESTATION
from steelyard.enclave.migrations import ENCLAVE
from steelyard.imaging.migrations import IMAGING
from steelyard.isolation.migrations import ISOLATION
from steelyard.service.database import Database
from steelyard.service.migrating import SERVICE, migrate

SCHEMAS = {schema.name: schema for schema in (SERVICE, ISOLATION, IMAGING, ATTESTATION, ENCLAVE)}


def write_migration(part: str, revision: str, message: str) -> Path:
    """Write it, in the project's layout; return where."""
    schema = SCHEMAS[part]
    with tempfile.TemporaryDirectory() as directory:
        database = Database(f"sqlite:///{directory}/database")
        migrate(database, schema)
        config = schema.configuration()
        config.set_main_option("file_template", "r%%(rev)s_%%(slug)s")
        with database.writing() as transaction:
            config.attributes["connection"] = transaction.connection
            command.revision(config, message, autogenerate=True, rev_id=revision)
        database.close()
    [path] = (schema.migrations / "versions").glob(f"r{revision}_*.py")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "# ###" not in line))
    ruff = Path(sys.executable).with_name("ruff")
    subprocess.run([ruff, "format", "--quiet", path], check=True)
    subprocess.run([ruff, "check", "--quiet", "--fix", path], check=True)
    return path


if __name__ == "__main__":
    print(write_migration(*sys.argv[1:]))  # noqa: T201
