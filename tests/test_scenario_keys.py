"""Every key of a scenario is explained by the schema: a description, and an example that is accepted."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, get_args

import pytest
from pydantic import BaseModel, TypeAdapter

from smoes_sim.cli.schemas import schema_of
from smoes_sim.scenario import Scenario


def models_below(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type is made of, and those of their fields."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from models_below(field.annotation)
    for argument in get_args(annotation):
        yield from models_below(argument)


MODELS = sorted(set(models_below(Scenario)), key=lambda model: model.__name__)
KEYS = [(model, name) for model in MODELS for name in model.model_fields]


def objects_in(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict):
            yield schema
        for value in schema.values():
            yield from objects_in(value)


@cache
def properties_of(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(by_alias=True)
    return next(found["properties"] for found in objects_in(schema) if found["title"] == model.__name__)


def test_the_walk_meets_every_section():
    names = {model.__name__ for model in MODELS}
    assert {"Scenario", "WorkloadSpec", "RoutingSpec", "Rates", "SkipShares", "PlacementSpec", "ExpertFile"} <= names
    assert {"CommunicationSpec", "ComputeSpec", "Range", "ParallelismSpec", "ModelShape", "VisionTower", "StarSpec"} <= names


@pytest.mark.parametrize(("model", "name"), KEYS, ids=[f"{model.__name__}.{name}" for model, name in KEYS])
def test_every_key_has_a_description_and_examples_that_are_accepted(model, name):
    field, shown = model.model_fields[name], properties_of(model)[model.model_fields[name].alias or name]
    assert field.description is not None
    assert field.description.endswith(".")
    assert shown["examples"]
    check = TypeAdapter(Annotated[field.annotation, None, *field.metadata])
    for example in shown["examples"]:
        check.validate_python(example)


@pytest.mark.parametrize("kind", ["scenario", "topology"])
def test_the_json_schema_shows_them(kind):
    lacking = [
        f"{found['title']}.{name}"
        for found in objects_in(schema_of(kind))
        for name, key in found["properties"].items()
        if not (key.get("description") and key.get("examples"))
    ]
    assert lacking == []


def test_defaults_are_shown_as_files_write_them():
    sections = schema_of("scenario")["$defs"]
    communication, compute = sections["CommunicationSpec"]["properties"], sections["ComputeSpec"]["properties"]
    assert (communication["per_message"]["default"], communication["send_buffer"]["default"]) == ("0 s", "0 B")
    assert (compute["launch"]["default"], compute["memory_share"]["default"]) == ("5 us", 0.9)
