"""Every limit is a number with a reason."""

import pytest

from steelyard.model import limits
from steelyard.model.limits import Limit

LIMITS = {name: limit for name, limit in vars(limits).items() if isinstance(limit, Limit)}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_has_a_number_a_unit_and_a_reason(name: str) -> None:
    limit = LIMITS[name]
    assert limit.most > 0
    assert limit.unit
    assert limit.reason
    assert not limit.reason.endswith(".")
