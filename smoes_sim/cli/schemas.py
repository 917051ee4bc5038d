"""JSON Schemas of the files people write, for editors."""

from __future__ import annotations

from typing import Any

from smoes_sim.errors import ConfigError
from smoes_sim.measurements import COLUMNS, MEANINGS, NUMBERS
from smoes_sim.planning import PlanFile
from smoes_sim.prediction.constants import Calibration
from smoes_sim.scenario import Scenario
from smoes_sim.sweeps import SweepFile
from smoes_sim.topology.shipped import TopologyFile
from smoes_sim.yaml_files import nearest

KINDS = ("scenario", "topology", "calibration", "measurements", "sweep", "plan")


def schema_of(kind: str) -> dict[str, Any]:
    """The JSON Schema of a file kind; for a measurements table that of one row.

    Raises:
        ConfigError: If there is no such kind.
    """
    if kind == "scenario":
        found = Scenario.model_json_schema(by_alias=True)
    elif kind == "topology":
        found = TopologyFile.model_json_schema(by_alias=True)
    elif kind == "calibration":
        found = Calibration.model_json_schema()
    elif kind == "sweep":
        found = SweepFile.model_json_schema(by_alias=True)
    elif kind == "plan":
        found = PlanFile.model_json_schema(by_alias=True)
    elif kind == "measurements":
        properties = {
            name: {"description": MEANINGS[name], "type": "number" if name in NUMBERS else "string"} for name in COLUMNS
        }
        found = {"title": "Measurement", "type": "object", "properties": properties, "additionalProperties": False}
    else:
        raise ConfigError(f'"{kind}" is not a kind of file. {nearest(kind, KINDS)}')
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | found
