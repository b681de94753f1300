"""What Alembic runs to apply or to write a migration; `steelyard.service.migrating` says on what."""

from alembic import context

schema = context.config.attributes["schema"]
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=schema.metadata,
    version_table=schema.version_table,
    # The tables of the other parts are none of its business.
    include_name=lambda name, kind, _parents: kind != "table" or name in schema.metadata.tables,
    user_module_prefix="",
)
context.run_migrations()
