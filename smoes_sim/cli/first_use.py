"""What a user is told the first time that numba compiles the network core."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MESSAGE = "compiling this model of the network, once per installation: about 10 s\n"


@contextmanager
def compilation_told(*, may_compile: bool) -> Iterator[None]:
    """Say on a terminal, once, that numba compiles; silent in a pipe and whenever numba's cache holds the code.

    numba says itself when it compiles (its event ``numba:compile``), so a cache that is stale, elsewhere or for another
    processor is told from a good one without a look at its files.

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
