"""`breakpoint()` in a usable terminal: whatever draws on the screen steps aside for the debugger."""

import atexit
import os
import pdb
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any


class StepAside:
    """While installed, calls `step_aside` before a debugger opens, a traceback is printed, or the process ends.

    `breakpoint()` is taken over only from Python itself: a hook that an IDE, a notebook or pytest has set stays. What
    PYTHONBREAKPOINT says is done; pdb, the default, opens in the frame that called `breakpoint()`, and leaves Ctrl-C to
    the run.
    """

    def __init__(self, step_aside: Callable[[], None]) -> None:
        self._step_aside = step_aside
        self._excepthook = sys.excepthook
        # A bound method is a new object at each access: kept, to be recognised by `uninstall`.
        self._own_breakpointhook = self._on_breakpoint
        self._own_excepthook = self._on_exception

    def install(self) -> None:
        """Set the hooks."""
        self._excepthook, sys.excepthook = sys.excepthook, self._own_excepthook
        if sys.breakpointhook is sys.__breakpointhook__:
            sys.breakpointhook = self._own_breakpointhook
        atexit.register(self._step_aside)

    def uninstall(self) -> None:
        """Set back the hooks that nobody has replaced since."""
        if sys.excepthook is self._own_excepthook:
            sys.excepthook = self._excepthook
        if sys.breakpointhook is self._own_breakpointhook:
            sys.breakpointhook = sys.__breakpointhook__
        atexit.unregister(self._step_aside)

    def _on_exception(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        self._step_aside()
        self._excepthook(kind, error, trace)

    def _on_breakpoint(self, *arguments: Any, **keywords: Any) -> Any:
        debugger = os.environ.get("PYTHONBREAKPOINT", "")
        if debugger == "0":
            return None
        self._step_aside()
        # pytest and others put themselves in pdb's place without setting the hook.
        if debugger not in ("", "pdb.set_trace") or pdb.set_trace.__module__ != "pdb":
            return sys.__breakpointhook__(*arguments, **keywords)
        # nosigint: else pdb replaces the handler by which Ctrl-C saves the run. It must be the last call of this frame,
        # for tracing begins with the next line of the caller's.
        return pdb.Pdb(nosigint=True).set_trace(sys._getframe(1))
