"""What the tests of the cluster share."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run beside each other, those with Ray follow one another: each of its clusters takes every core."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))
