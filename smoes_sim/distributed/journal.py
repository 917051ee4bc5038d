"""Rows of one rank, written as they are measured: one JSON object per line, so that a failed run keeps its rows."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from smoes_sim.errors import ConfigError
from smoes_sim.yaml_files import read_text


class Journal:
    """The file of a rank, overwritten; use it as a context manager.

    Args:
        folder: Folder of the run; made if need be.
        rank: Names the file: ``rank-0003.jsonl``.

    Raises:
        ConfigError: If it cannot be written.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        path = folder / f"rank-{rank:04d}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written ({error.strerror or error}). Choose another place.") from None

    def write(self, row: dict[str, Any]) -> None:
        """Append a row; it has been written when this returns."""
        self._file.write(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


def read_journals(folder: Path) -> list[dict[str, Any]]:
    """The rows of all ranks, rank by rank; a last line that was cut off in the middle is left out.

    Raises:
        ConfigError: If there is no journal, or a line before the last is not JSON, with its place.
    """
    paths = sorted(folder.glob("rank-*.jsonl"))
    if not paths:
        raise ConfigError(f"{folder}: holds no rank-*.jsonl. Name the folder that a run wrote.")
    rows = []
    for path in paths:
        *lines, _ = read_text(path).split("\n")
        for number, line in enumerate(lines, start=1):
            try:
                rows.append(orjson.loads(line))
            except orjson.JSONDecodeError as error:
                raise ConfigError(f"{path}:{number}: is not JSON: {error}. Was it edited?") from None
    return rows
