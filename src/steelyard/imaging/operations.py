"""Operations as they are asked about: list, look, cancel."""

from typing import Any

from sqlalchemy import Connection, Select, select, update

from steelyard.imaging import catalogue, outcomes, rules
from steelyard.imaging.objects import Operation, OperationState, Verb
from steelyard.imaging.tables import operations
from steelyard.model.errors import WrongState
from steelyard.service.authority import Caller, Right, not_found
from steelyard.service.database import Transaction


def get_operation(connection: Connection, caller: Caller, operation: str) -> Operation:
    """Return an operation. Raises NotFound."""
    found = catalogue.load_operation(connection, operation)
    if not caller.sees(found.project):
        raise not_found(f"operation {operation}")
    return found


def list_operations(
    connection: Connection,
    caller: Caller,
    *,
    project: str | None,
    verb: Verb | None,
    state: OperationState | None,
    after: str,
    limit: int,
) -> tuple[Operation, ...]:
    """Return the operations that the caller may know of, the oldest first."""
    query: Select[Any] = select(operations).where(operations.c.id > after).order_by(operations.c.id)
    for column, value in (
        (operations.c.project, project),
        (operations.c.verb, verb and verb.value),
        (operations.c.state, state and state.value),
    ):
        if value is not None:
            query = query.where(column == value)
    if not caller.sees_all():
        query = query.where(operations.c.project.in_([each for each in caller.roles if caller.sees(each)]))
    rows = connection.execute(query.limit(rules.check_rows(limit)))
    return tuple(catalogue.operation_of(row) for row in rows)


def cancel(tx: Transaction, caller: Caller, *, operation: str) -> Operation:
    """Give work up: at once if it was not begun, else as soon as the worker hears of it. Once more: nothing.

    Raises NotAllowed, NotFound, WrongState (it ended otherwise, or cuts a node off).
    """
    found = get_operation(tx.connection, caller, operation)
    doing = f"cancelling the {found.verb.value} of {found.subject}"
    caller.must_act_for(found.project, Right.IMAGES, doing)
    if found.state is OperationState.CANCELLED or (found.cancelling and not found.state.ended):
        return found
    if found.state.ended or found.verb in rules.UNSTOPPABLE:
        expected = "work that has not ended" if found.state.ended else "work that can be given up"
        raise WrongState(doing, expected=expected, found=f"{found.verb.value}, {found.state.value}")
    if found.state is OperationState.PENDING:
        outcomes.cancelled(tx, found, actor=caller.name)
    else:
        tx.connection.execute(update(operations).where(operations.c.id == found.id).values(cancelling=True))
        tx.wake(catalogue.WORK)
    return catalogue.load_operation(tx.connection, operation)
