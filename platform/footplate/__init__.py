"""Footplate: one recipe trains the same in a debugger, on one GPU and on a Ray cluster.

The names below are all that a notebook needs; they load on first use, so that `import footplate` is instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from footplate.context import Context as Context
    from footplate.execution import run as run
    from footplate.job import Job as Job
    from footplate.job import load_job as load_job
    from footplate.step import Step as Step
    from footplate.step import metric_value as metric_value

__version__ = "0.1.0"

_HOME = {
    "Context": "footplate.context",
    "Job": "footplate.job",
    "Step": "footplate.step",
    "load_job": "footplate.job",
    "metric_value": "footplate.step",
    "run": "footplate.execution",
}
__all__ = ["Context", "Job", "Step", "load_job", "metric_value", "run"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'footplate' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
