"""What the tests of the cluster share."""

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def debugger_as_before() -> Iterator[None]:
    """`ray.init` makes `breakpoint()` Ray's own, which a module that calls it itself must not leave to the next."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONBREAKPOINT", "")
        patch.delenv("PYTHONBREAKPOINT")
        yield
