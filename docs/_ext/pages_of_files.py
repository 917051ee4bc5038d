"""Pages of the file reference, one for each kind of file, from the JSON schemas and ``keys.yaml``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from markdown import cell, code, prose, table
from ruamel.yaml import YAML

from smoes_sim.cli.schemas import KINDS, schema_of

Schema = dict[str, Any]

INTRODUCTIONS = {
    "scenario": "A scenario (YAML) describes one deployment, all that a prediction depends on. `simulate`, `compare`, "
    "`serve`, `adapt` and `run` take it by name or path; `KEY=VALUE` arguments replace its values, "
    "`topology.link.bandwidth=25 Gb/s` those of nested keys.",
    "topology": "A topology (YAML) says what is wired to what. `kind` chooses a generator or an explicit `graph`. "
    "It is used by name or path, or written in place under `topology:` of a scenario.",
    "sweep": "A sweep study (YAML) is a grid or a list of scenarios. See [Sweeps](../../how-to/sweep.md).",
    "plan": "A plan (YAML) is a price list of topologies, a workload and an SLO. See [Plans](../../how-to/plan.md).",
    "measurements": "A measurements table (CSV or Parquet) has one row per measured operation. Most columns are optional. "
    "See [Own measurements](../../how-to/measurements.md).",
    "calibration": "A calibration (JSON) is written by `calibrate` and read by every prediction. "
    "See [Calibration](../../explanation/calibration.md).",
}
TITLES = {
    "scenario": "Scenario file",
    "topology": "Topology file",
    "sweep": "Sweep study",
    "plan": "Plan file",
    "measurements": "Measurements table",
    "calibration": "Calibration file",
}
UNITS = {"400 Gb/s": "bandwidth", "64 MiB": "size", "3 us": "duration", "2/s": "rate"}
"""First example of a quantity in the schema, and what the quantity is."""
SPELLINGS = {
    "bandwidth": "`Gb/s`, `GB/s`, ...",
    "size": "`B`, `kB`, `MiB`, ...",
    "duration": "`ns`, `us`, `ms`, `s`",
    "rate": "`/s`",
}


@cache
def known_keys() -> dict[str, dict[str, list[str]]]:
    """Descriptions and examples beside those of the schemas."""
    return YAML(typ="safe").load((Path(__file__).parent / "keys.yaml").read_text(encoding="utf-8"))


def options(spec: Schema) -> list[Schema]:
    """The types that a key accepts, without null."""
    found = spec.get("anyOf") or spec.get("oneOf") or [spec]
    return [
        inner
        for outer in found
        for inner in (options(outer) if "oneOf" in outer else [outer])
        if inner.get("type") != "null"
    ]


def name_of(spec: Schema) -> str:
    """The model that a reference points to, or nothing."""
    return spec.get("$ref", "").rpartition("/")[2]


def value_text(spec: Schema) -> str:
    """What a key accepts, with its unit and limits, in words."""
    texts: list[str] = []
    for option in options(spec):
        if model := name_of(option):
            texts.append(f"[{model}](#{model.lower()})")
        elif "enum" in option or "const" in option:
            texts.append(" ".join(f"`{value}`" for value in option.get("enum", [option.get("const")])))
        elif option.get("type") == "array":
            texts.append(f"list of {value_text(option.get('items', {})) or 'values'}")
        elif option.get("type") == "object":
            inner = option.get("additionalProperties")
            texts.append(f"mapping to {value_text(inner)}" if isinstance(inner, dict) and value_text(inner) else "mapping")
        elif quantity := next((UNITS[example] for example in option.get("examples", []) if example in UNITS), None):
            texts.append(f"{quantity}: {SPELLINGS[quantity]}")
        elif option:
            words = {"integer": "integer", "number": "number", "string": "text", "boolean": "`true` `false`"}
            texts.append(words.get(str(option.get("type")), "any value") + _limits(option))
    return " or ".join(dict.fromkeys(texts))


def _limits(option: Schema) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    found = [f"{sign} {option[key]:g}" for key, sign in signs.items() if key in option]
    return f" {', '.join(found)}" if found else ""


def default_text(spec: Schema, *, is_required: bool) -> str:
    """The default of a key."""
    if is_required:
        return "required"
    default = spec.get("default")
    if default in (None, "", {}, []) or isinstance(default, dict):
        return "-"
    quantity = next(
        (UNITS[example] for option in options(spec) for example in option.get("examples", []) if example in UNITS), ""
    )
    if quantity == "duration" and isinstance(default, float):
        return f"`{default * 1e6:g} us`"
    if quantity == "size" and isinstance(default, float):
        return f"`{default:g} B`"
    return code({True: "true", False: "false"}.get(default, default) if isinstance(default, bool) else default)


def described(model: str, key: str, spec: Schema) -> tuple[str, str]:
    """Description and example of a key.

    Raises:
        KeyError: If the schema has no description and keys.yaml has none either.
    """
    known = known_keys()
    meaning, example = known.get(model, {}).get(key) or known["any"].get(key) or ["", ""]
    meaning = spec.get("description") or meaning
    if not meaning:
        raise KeyError(f"{model}.{key} has no description. Add one to its Field, or to docs/_ext/keys.yaml.")
    from_schema = next((text for text in spec.get("examples", []) if isinstance(text, str)), "")
    return meaning, example or from_schema


def rows_of(model: str, spec: Schema) -> Iterator[list[str]]:
    """The rows of a model's table."""
    for key, inner in spec["properties"].items():
        meaning, example = described(model, key, inner)
        default = default_text(inner, is_required=key in spec.get("required", []))
        yield [f"`{key}`", cell(meaning), cell(value_text(inner)), default, code(example)]


def file_page(kind: str) -> str:
    """The page of a kind of file."""
    schema = schema_of(kind)
    models: dict[str, Schema] = schema.get("$defs", {})
    schema_note = f"Your editor can check such files: `smoes-sim schema {kind}` prints the JSON schema."
    parts = [f"# {TITLES[kind]}", INTRODUCTIONS[kind], schema_note]
    header = ["key", "meaning", "value", "default", "example"]
    if "properties" in schema:
        top = "Measurement" if kind == "measurements" else kind
        parts.append(table(header, list(rows_of(top, schema))))
    for name in _in_order(schema, models):
        parts += [f"## {name}", prose(models[name].get("description", "")), table(header, list(rows_of(name, models[name])))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _in_order(schema: Schema, models: dict[str, Schema]) -> list[str]:
    """The models in the order in which a reader meets them."""
    found: list[str] = []

    def visit(part: Any) -> None:
        if isinstance(part, dict):
            name = name_of(part)
            if name in models and name not in found:
                found.append(name)
                visit(models[name]["properties"])
            for key, value in part.items():
                if key != "$defs":
                    visit(value)
        elif isinstance(part, list):
            for value in part:
                visit(value)

    visit({key: value for key, value in schema.items() if key != "$defs"})
    return found


def file_pages() -> dict[str, str]:
    """All pages by file name."""
    return {f"file-{kind}.md": file_page(kind) for kind in KINDS}
