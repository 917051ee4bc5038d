"""Settings of all tests; being here also puts this folder on the path, for ``reference`` and ``build_from``."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("core", deadline=None, max_examples=50, database=None)
settings.load_profile("core")
