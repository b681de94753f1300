"""Migrations lead to the tables that the code has, from nothing, once, whoever starts them."""

import threading

import pytest
from sqlalchemy import MetaData, inspect, text
from sqlalchemy.engine.interfaces import ReflectedColumn

from steelyard.isolation.migrations import ISOLATION
from steelyard.model.errors import ServiceUnready
from steelyard.service.database import Database
from steelyard.service.migrating import SERVICE, Schema, migrate

SCHEMAS = pytest.mark.parametrize("schema", [SERVICE, ISOLATION], ids=lambda schema: schema.name)


def describe(database: Database, metadata: MetaData) -> dict[str, object]:
    """Return all that the database says of these tables."""
    found = inspect(database.engine)

    def column(one: ReflectedColumn) -> dict[str, object]:
        return {**one, "type": repr(one["type"])}

    def ordered(things: object) -> list[str]:
        assert isinstance(things, list)
        return sorted(map(repr, things))

    return {
        table: {
            "columns": {one["name"]: column(one) for one in found.get_columns(table)},
            "key": found.get_pk_constraint(table),
            "references": ordered(found.get_foreign_keys(table)),
            "unique": ordered(found.get_unique_constraints(table)),
            "checks": ordered(found.get_check_constraints(table)),
            "indexes": ordered(found.get_indexes(table)),
        }
        for table in sorted(metadata.tables)
    }


@SCHEMAS
def test_migrations_lead_to_exactly_the_tables_of_the_code(empty_database: Database, schema: Schema) -> None:
    """If not: `python -m tests.new_migration` writes what is missing (anew, for a revision that was never released)."""
    migrate(empty_database, schema)
    migrated = describe(empty_database, schema.metadata)
    with empty_database.engine.begin() as connection:
        schema.metadata.drop_all(connection)
        schema.metadata.create_all(connection)
    assert migrated == describe(empty_database, schema.metadata)


def test_parts_share_a_database_and_a_second_time_changes_nothing(empty_database: Database) -> None:
    migrate(empty_database, SERVICE)
    migrate(empty_database, SERVICE, ISOLATION)
    before = sorted(inspect(empty_database.engine).get_table_names())
    assert set(before) == {*SERVICE.metadata.tables, *ISOLATION.metadata.tables, "service_version", "isolation_version"}
    migrate(empty_database, ISOLATION, SERVICE)
    assert sorted(inspect(empty_database.engine).get_table_names()) == before


def test_two_processes_that_start_at_once_both_find_the_tables(empty_database: Database) -> None:
    places = [Database(empty_database.url.render_as_string(hide_password=False)) for _ in range(4)]
    failures: list[Exception] = []

    def start(place: Database) -> None:
        try:
            migrate(place, SERVICE, ISOLATION)
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=start, args=(place,)) for place in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place in places:
        place.close()
    assert failures == []
    assert "journal" in inspect(empty_database.engine).get_table_names()


def test_a_database_of_a_newer_version_is_refused(empty_database: Database) -> None:
    migrate(empty_database, SERVICE)
    with empty_database.writing() as transaction:
        transaction.connection.execute(text("UPDATE service_version SET version_num = '9999'"))
    with pytest.raises(ServiceUnready, match="9999"):
        migrate(empty_database, SERVICE)


def test_a_migration_that_fails_leaves_nothing_behind(empty_database: Database) -> None:
    with empty_database.writing() as transaction:
        transaction.connection.execute(text("CREATE TABLE tokens (id integer)"))
    with pytest.raises(Exception, match="tokens"):
        migrate(empty_database, SERVICE)
    assert inspect(empty_database.engine).get_table_names() == ["tokens"]
