"""Lists that are believed for a moment."""

from collections.abc import Mapping

import pytest

from steelyard.enclave.services.fresh import FRESH_SECONDS, OLDEST_SECONDS, Fresh
from steelyard.model.errors import Unavailable


class Lists:
    """Lists that take `cost` seconds to be read."""

    def __init__(self, cost: float) -> None:
        self.now, self.reads, self.cost = 0.0, 0, cost

    def read(self, key: str) -> Mapping[str, int]:
        self.reads += 1
        self.now += self.cost
        return {key: self.reads}

    def clock(self) -> float:
        return self.now


@pytest.mark.parametrize(("cost", "believed"), [(0.0, FRESH_SECONDS), (0.2, 2.0), (3.0, OLDEST_SECONDS)])
def test_a_list_is_believed_by_what_it_cost_to_read_it_but_never_for_long(cost: float, believed: float) -> None:
    lists = Lists(cost)
    fresh = Fresh(lists.read, lists.clock)
    assert fresh.get("a") == {"a": 1}
    lists.now += believed
    assert fresh.get("a") == {"a": 1}
    lists.now += 0.01
    assert fresh.get("a") == {"a": 2}


def test_nothing_is_believed_from_before_a_change_or_of_another_key() -> None:
    lists = Lists(0.0)
    fresh = Fresh(lists.read, lists.clock)
    fresh.get("a")
    assert fresh.get("b") == {"b": 2}
    fresh.forget()
    assert fresh.get("a") == {"a": 3}


def test_a_list_that_could_not_be_read_is_not_taken_for_an_empty_one() -> None:
    def refuse(key: str) -> Mapping[str, int]:
        raise Unavailable("asking", expected="an answer", found=key)

    fresh = Fresh(refuse)
    for _ in range(2):
        with pytest.raises(Unavailable):
            fresh.get("a")
