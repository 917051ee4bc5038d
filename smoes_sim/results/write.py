"""A folder of results: tidy Parquet, one JSON document, the resolved scenarios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from ruamel.yaml import YAML

from smoes_sim.display.result import flat
from smoes_sim.version import __version__
from smoes_sim.yaml_files import write_bytes

if TYPE_CHECKING:
    from smoes_sim.scenario import Scenario


def to_json(document: Any) -> bytes:
    """One JSON document, indented; NaN becomes null."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def write_results(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    scenarios: Sequence[tuple[str, Scenario]],
    *,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write ``runs.parquet``, ``summary.json`` and ``scenario.resolved.yaml`` into a folder; ``about`` is of all rows.

    Raises:
        ConfigError: If the folder cannot be written.
    """
    write_tables(folder, rows, {**(about or {}), "rows": rows})
    write_bytes(folder / "scenario.resolved.yaml", resolved_yaml(scenarios))


def write_tables(folder: Path, rows: Sequence[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Write rows as ``runs.parquet`` and a document as ``summary.json``.

    Raises:
        ConfigError: If the folder cannot be written.
    """
    import polars as pl  # noqa: PLC0415 - 0.2 s to import, and only this needs it

    stream = BytesIO()
    metadata = {"smoes_sim.version": __version__, "smoes_sim.schema": "runs/1", "units": "in the column names"}
    pl.DataFrame([flat(row) for row in rows], infer_schema_length=None).write_parquet(stream, metadata=metadata)
    write_bytes(folder / "runs.parquet", stream.getvalue())
    write_bytes(folder / "summary.json", to_json(summary))


def resolved_yaml(scenarios: Sequence[tuple[str, Scenario]]) -> bytes:
    """The scenarios with every default filled in, as YAML documents one after the other."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    stream = BytesIO()
    yaml.dump_all([scenario.model_dump(mode="json", by_alias=True) for _, scenario in scenarios], stream)
    return stream.getvalue()
