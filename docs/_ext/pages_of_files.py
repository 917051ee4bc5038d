"""Pages of the file reference, one for each kind of file, from the JSON schemas and ``keys.yaml``."""

from __future__ import annotations

import re
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
UNITS = (
    ("bandwidth", r"[bB](it)?/s|[bB]ps"),
    ("rate", "/s"),
    ("duration", "[num]?s"),
    ("size", "[kMGT]?i?B"),
    ("FLOPS", "[GTP]FLOPS"),
)
"""Quantities, and the units by which an example of one is recognised."""
SCALES = {"duration": (1e6, "us"), "size": (1.0, "B")}
"""Factor and unit of a default that the schema gives in SI units."""
SPELLINGS = {
    "FLOPS": "`TFLOPS`, `PFLOPS`",
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


def quantity_of(option: Schema) -> str:
    """The quantity that a text with a unit stands for, by its first example; nothing for other texts."""
    example = next((text for text in option.get("examples", []) if isinstance(text, str)), "")
    if option.get("type") != "string":
        return ""
    return next((name for name, unit in UNITS if re.fullmatch(rf"[\d.]+ ?[kMGT]?i?({unit})", example)), "")


def value_text(spec: Schema, titles: dict[str, str]) -> str:
    """What a key accepts, with its unit and limits, in words; models are links to their section."""
    texts: list[str] = []
    for option in options(spec):
        if model := name_of(option):
            texts.append(f"[{titles[model]}](#{anchor(model)})")
        elif "enum" in option or "const" in option:
            texts.append(", ".join(f"`{value}`" for value in option.get("enum", [option.get("const")])))
        elif option.get("type") == "array":
            texts.append(f"list of {value_text(option.get('items', {}), titles) or 'values'}")
        elif option.get("type") == "object":
            inner = option.get("additionalProperties")
            texts.append(f"mapping to {value_text(inner, titles)}" if isinstance(inner, dict) and inner else "mapping")
        elif quantity := quantity_of(option):
            texts.append(f"{quantity} ({SPELLINGS[quantity]})")
        elif option:
            words = {"integer": "integer", "number": "number", "string": "text", "boolean": "`true`, `false`"}
            texts.append(words.get(str(option.get("type")), "any value") + _limits(option))
    return " or ".join(dict.fromkeys(texts))


def anchor(model: str) -> str:
    """The target of a model's section; one page per kind of file, so the page puts its name in front."""
    return f"{{page}}-{model.lower()}"


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
    quantity = next(filter(None, map(quantity_of, options(spec))), "")
    if isinstance(default, float) and quantity in SCALES:
        factor, unit = SCALES[quantity]
        return code(f"{default * factor:g} {unit}")
    return code(str(default).lower() if isinstance(default, bool) else default)


def described(model: str, key: str, spec: Schema) -> tuple[str, str]:
    """Description and example of a key.

    Raises:
        KeyError: If the schema has no description and keys.yaml has none either.
    """
    meaning, example = known_keys().get(model, {}).get(key, ["", ""])
    meaning = spec.get("description") or meaning
    if not meaning:
        raise KeyError(f"{model}.{key} has no description. Add one to its Field, or to docs/_ext/keys.yaml.")
    return meaning, shown(spec["examples"][0]) if spec.get("examples") else example


def shown(example: Any) -> str:
    """An example as YAML in one line."""
    if isinstance(example, str):
        return example
    if isinstance(example, dict):
        return "{" + ", ".join(f"{key}: {shown(value)}" for key, value in example.items()) + "}"
    if isinstance(example, list):
        return "[" + ", ".join(map(shown, example)) + "]"
    return str(example).lower() if isinstance(example, bool) else str(example)


def rows_of(model: str, spec: Schema, titles: dict[str, str]) -> Iterator[list[str]]:
    """The rows of a model's table."""
    for key, inner in spec["properties"].items():
        meaning, example = described(model, key, inner)
        value, default = value_text(inner, titles), default_text(inner, is_required=key in spec.get("required", []))
        text = f"{cell(meaning)}<br>*Value:* {cell(value)}." + (f" *Example:* {code(example)}" if example else "")
        yield [f"`{key}`", default, text]


def file_page(kind: str) -> str:
    """The page of a kind of file."""
    schema = schema_of(kind)
    models: dict[str, Schema] = schema.get("$defs", {})
    titles = section_titles(kind, schema, models)
    schema_note = f"Your editor can check such files: `smoes-sim schema {kind}` prints the JSON schema."
    parts = [f"# {TITLES[kind]}", INTRODUCTIONS[kind], schema_note]
    header = ["key", "default", "meaning"]
    if "properties" in schema:
        top = "Measurement" if kind == "measurements" else kind
        parts.append(table(header, list(rows_of(top, schema, titles))))
    for name, title in titles.items():
        text = prose(models[name].get("description", ""))
        parts += [f"({anchor(name)})=\n## {title}", text, table(header, list(rows_of(name, models[name], titles)))]
    return "\n\n".join(part for part in parts if part).replace("{page}", f"file-{kind}") + "\n"


def section_titles(kind: str, schema: Schema, models: dict[str, Schema]) -> dict[str, str]:
    """A title for each model, in the order in which a reader meets them: the keys that lead to it, and its own kind."""
    found: dict[str, str] = {}

    def visit(part: Any, keys: tuple[str, ...]) -> None:
        if isinstance(part, list):
            for value in part:
                visit(value, keys)
        elif isinstance(part, dict):
            name = name_of(part)
            if name in models and name not in found:
                own = models[name]["properties"].get("kind", {}).get("const", "")
                title = ".".join(keys) or kind
                taken = f"{title}: {own}" if own else title
                found[name] = taken if taken not in found.values() else f"{taken} ({name.removesuffix('Spec')})"
                below = () if own and not keys else keys
                for key, value in models[name]["properties"].items():
                    visit(value, (*below, key))
            for key, value in part.items():
                if key in {"anyOf", "oneOf", "items", "additionalProperties"}:
                    visit(value, keys)

    long = ("topology", "model")  # have many sections, and pages of their own: last
    for key, value in sorted(schema.get("properties", {}).items(), key=lambda item: item[0] in long):
        visit(value, (key,))
    visit({key: value for key, value in schema.items() if key in {"anyOf", "oneOf"}}, ())
    return found


def file_pages() -> dict[str, str]:
    """All pages by file name."""
    return {f"file-{kind}.md": file_page(kind) for kind in KINDS}
