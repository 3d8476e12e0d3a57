"""What `make learn` has measured stays in the table, wherever that is written anew."""

import json

from learn import GOALS, RESULTS


def test_every_row_that_was_measured_belongs_to_a_goal() -> None:
    assert set(json.loads(RESULTS.read_text())) <= {goal.name for goal in GOALS}
