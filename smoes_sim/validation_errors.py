"""One line for what a pydantic model refuses: where, what with the value, the rule, what to do.

Only the kind and the place of a problem come from pydantic. The names that are allowed there are read from the model, so
that its English may change.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Protocol, Union, get_args, get_origin

from pydantic import BaseModel, RootModel, ValidationError
from pydantic_core import ErrorDetails

Place = tuple[str | int, ...]
"""Keys and indices from the top of a document to a value."""
DISCRIMINATOR = "kind"
"""The key that tells the members of a union apart, in every file."""


class Located(Protocol):
    """A document that knows where its values are."""

    data: dict[str, Any]

    def where(self, place: Place) -> str:
        """``file:line:column`` of a value, or the override that set it."""

    def position_of_key(self, place: Place) -> str:
        """``file:line:column`` of a key."""


def nearest(name: str, known: Iterable[str], *, also: Iterable[str] = ()) -> str:
    """A sentence that offers the nearest known name, or lists them all; names in ``also`` are offered, but not listed.

    Example:
        >>> nearest("rank", ["ranks", "nodes"]), nearest("xyz", ["ranks", "nodes"])
        ('Did you mean "ranks"?', 'Known: nodes, ranks.')
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, [*names, *also], n=1, cutoff=0.6)
    return f'Did you mean "{close[0]}"?' if close else f"Known: {', '.join(names)}."


def explain(error: ValidationError, model: type[BaseModel], document: Located) -> str:
    """The first problem of ``error`` as one line; all unknown keys of one section are one problem."""
    problems = error.errors(include_url=False)
    # a mapping that fits no member of a union: report its keys, not that a word was expected; misspelt keys before missing
    problem = min(
        problems,
        key=lambda item: (
            isinstance(item["input"], dict) and item["type"] in {"string_type", "float_type", "literal_error"},
            item["type"] != "extra_forbidden",
        ),
    )
    place = _place_in(document.data, problem["loc"])
    where = document.where(place)
    kind = problem["type"]
    if kind == "extra_forbidden":
        unknown = {_place_in(document.data, item["loc"]) for item in problems if item["type"] == kind}
        together = sorted((other for other in unknown if other[:-1] == place[:-1]), key=_order_in(document.data))
        return _unknown_keys(together, model, document)
    if kind == "missing":
        return f'{where}: the key "{problem["loc"][-1]}" is missing{_within(place)}. Add it.'
    if kind == "union_tag_not_found":
        return f'{where}: the key "{DISCRIMINATOR}" is missing{_within(place)}. Add it.'
    if kind == "union_tag_invalid":
        tag = problem["input"][DISCRIMINATOR]
        where = document.where((*place, DISCRIMINATOR))
        return f'{where}: {DISCRIMINATOR} = "{tag}" is unknown. {nearest(str(tag), _tags_at(model, document.data, place))}'
    if kind == "literal_error":
        value = str(problem["input"])
        return f'{where}: {_dotted(place)} = "{value}" is unknown. {nearest(value, _words_at(model, document.data, place))}'
    return f"{where}: {_rule(problem, _dotted(place))}"


def _rule(problem: ErrorDetails, name: str) -> str:
    """A broken rule of a value or a section, with its name."""
    if problem["type"] != "value_error":
        message = problem["msg"]
        if problem["type"] in {"model_type", "dict_type"}:
            return f"{name} = {problem['input']!r}: is a section, not a value. Write its keys, as in {name}.KEY=VALUE."
        return f"{name and f'{name} = '}{problem['input']!r}: {message[0].lower()}{message[1:]}."
    message = str(problem["ctx"]["error"])
    if isinstance(problem["input"], dict):
        return f"{name and f'{name}: '}{message}"  # a rule about a section names its keys itself
    return f"{name and f'{name} = '}{message}"


def _unknown_keys(places: Sequence[Place], model: type[BaseModel], document: Located) -> str:
    """All unknown keys of one section, each with the name that it should have."""
    parent = places[0][:-1]
    models = list(_models(_annotations_at(model, document.data, parent), document.data, parent))
    known = {name for found in models for name in _fields(found)}
    also_called = {wrong: right for found in models for wrong, right in getattr(found, "also_called", {}).items()}
    where = _key_position(places[0], document)
    names = [str(place[-1]) for place in places]
    if len(names) == 1:
        (name,) = names
        hint = f"Write {also_called[name]}." if name in also_called else nearest(name, known)
        return f'{where}: unknown key "{name}". {hint}'
    listed = ", ".join(f'"{name}"{_right_name(name, known, also_called)}' for name in names)
    section = f" in {_dotted(parent)}" if parent else ""
    unused = known - set(_value_at(document.data, parent))
    return f"{where}: unknown keys{section}: {listed}. Known: {', '.join(sorted(unused))}."


def _right_name(name: str, known: set[str], also_called: Mapping[str, str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    right = also_called.get(name, close[0] if close else None)
    return f" (write {right})" if right else ""


def _key_position(place: Place, document: Located) -> str:
    try:
        return document.position_of_key(place)
    except (KeyError, TypeError, AttributeError):
        return document.where(place)


def _order_in(data: Any) -> Any:
    """Sort key of places of one section: the order of its keys in the data."""

    def order(place: Place) -> int:
        return list(_value_at(data, place[:-1])).index(place[-1])

    return order


def _dotted(place: Place) -> str:
    return ".".join(str(part) for part in place)


def _within(place: Place) -> str:
    return f" in {_dotted(place)}" if place else ""


def _place_in(data: Any, location: Sequence[str | int]) -> Place:
    """The part of a pydantic location that exists in the data (union tags and missing keys do not)."""
    place: list[str | int] = []
    node = data
    for part in location:
        if (isinstance(node, dict) and part in node) or (isinstance(node, list) and isinstance(part, int)):
            node = node[part]  # type: ignore[index]
            place.append(part)
    return tuple(place)


def _value_at(data: Any, place: Place) -> Any:
    for part in place:
        data = data[part]
    return data


def _annotations_at(model: type[BaseModel], data: Any, place: Place) -> list[Any]:
    """Types that a value may have at a place of the data, unions taken apart."""
    found = list(_members(model))
    for depth, part in enumerate(place):
        children: list[Any] = []
        for annotation in found:
            children += _children(annotation, part)
        chosen = [child for annotation in children for child in _members(annotation)]
        found = list(_chosen(chosen, _value_at(data, place[: depth + 1])))
    return found


def _children(annotation: Any, part: str | int) -> Iterator[Any]:
    """Types of the values at one key or index below a type."""
    arguments = get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = _fields(annotation)
        if part in fields:
            yield fields[str(part)]
    elif get_origin(annotation) is dict:
        yield arguments[1]
    elif isinstance(part, int):
        yield from (argument for argument in arguments if argument is not Ellipsis)


def _chosen(annotations: Sequence[Any], value: Any) -> Iterator[Any]:
    """Of models that a ``kind`` tells apart the one that the value names, or all."""
    tag = value.get(DISCRIMINATOR) if isinstance(value, dict) else None
    matching = [annotation for annotation in annotations if tag in _tags(annotation)]
    yield from matching or annotations


def _members(annotation: Any) -> Iterator[Any]:
    """A type without ``Annotated``, root models and unions around it."""
    if get_origin(annotation) is Annotated:
        yield from _members(get_args(annotation)[0])
    elif get_origin(annotation) in {Union, UnionType}:
        for argument in get_args(annotation):
            yield from _members(argument)
    elif isinstance(annotation, type) and issubclass(annotation, RootModel):
        yield from _members(annotation.model_fields["root"].annotation)
    else:
        yield annotation


def _models(annotations: Iterable[Any], data: Any, place: Place) -> Iterator[type[BaseModel]]:
    models = [found for found in annotations if isinstance(found, type) and issubclass(found, BaseModel)]
    yield from _chosen(models, _value_at(data, place))


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    """Types of the fields of a model by the names that files use."""
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _tags(annotation: Any) -> tuple[Any, ...]:
    """Values of ``kind`` that a model takes; none of another type."""
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return ()
    field = annotation.model_fields.get(DISCRIMINATOR)
    return get_args(field.annotation) if field is not None and get_origin(field.annotation) is Literal else ()


def _tags_at(model: type[BaseModel], data: Any, place: Place) -> set[str]:
    return {str(tag) for annotation in _annotations_at(model, data, place) for tag in _tags(annotation)}


def _words_at(model: type[BaseModel], data: Any, place: Place) -> set[str]:
    """Words that a value may be at a place."""
    found = _annotations_at(model, data, place)
    return {str(word) for annotation in found if get_origin(annotation) is Literal for word in get_args(annotation)}
