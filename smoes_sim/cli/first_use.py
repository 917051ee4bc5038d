"""The message on the first use, when numba compiles the network core."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MESSAGE = "compiling this model of the network, once per installation: about 10 s\n"


@contextmanager
def compilation_told(*, may_compile: bool) -> Iterator[None]:
    """Say on a terminal, once, that numba compiles; silent in a pipe and whenever numba's cache holds the code.

    numba reports when it compiles (its event ``numba:compile``), so no file of its cache has to be inspected, which may be
    stale, in another place or for another processor.

    Args:
        may_compile: Whether the case is large enough for compiled code; if not, numba is not even imported.
    """
    if not (may_compile and sys.stderr.isatty()):
        yield
        return
    from numba.core import event

    class Teller(event.Listener):
        has_told = False

        def on_start(self, event: Any) -> None:
            del event
            if not self.has_told:
                self.has_told = True
                sys.stderr.write(_MESSAGE)
                sys.stderr.flush()

        def on_end(self, event: Any) -> None:
            del event

    with event.install_listener("numba:compile", Teller()):
        yield
