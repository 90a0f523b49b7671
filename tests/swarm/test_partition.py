"""Two networks of hosts, apart for a while: both go on, and end with one state."""

from __future__ import annotations

import pytest

from tests.soak.hosts import why_not
from tests.soak.partition import fall_apart_and_heal

pytestmark = pytest.mark.slow


def test_two_networks_that_were_apart_end_with_one_state(tmp_path):
    reason = why_not()
    if reason:
        pytest.skip(reason)
    found = fall_apart_and_heal(tmp_path, 6, each=1)
    assert found["records missed"] > 10
