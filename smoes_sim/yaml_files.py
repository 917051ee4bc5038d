"""Read the files people write: YAML with ``file:line:column`` in every error, and write files in one step.

A file is read by ruamel.yaml (safe scalars, no tags, duplicate keys refused), overridden by ``a.b=value`` arguments and
validated by a pydantic model. An error is one line: where, what with the value, the rule, what to do
(``validation_errors``).
"""

from __future__ import annotations

import copy
import math
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import orjson
from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, PlainSerializer, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedBase, CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from smoes_sim.errors import ConfigError
from smoes_sim.validation_errors import Place, explain, nearest

__all__ = [
    "Document",
    "MappingDocument",
    "NamedSection",
    "Override",
    "Place",
    "Spec",
    "assignments",
    "load",
    "named_document",
    "nearest",
    "read_text",
    "replacing",
    "write_bytes",
]


class Spec(BaseModel):
    """Base of everything read from a file: frozen, and unknown keys are errors.

    Attributes:
        also_called: Names that other programs use for a key -> what to write here; for the message about unknown keys.
    """

    also_called: ClassVar[Mapping[str, str]] = {}
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The JSON schema with defaults of quantities as they are written in files: "0 us", not 0.0."""
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, field in cls.model_fields.items():
            printed = next((part.func for part in field.metadata if isinstance(part, PlainSerializer)), None)
            if printed is not None and isinstance(field.default, float):
                properties[field.alias or name]["default"] = _short(field.default, cast("Callable[[float], str]", printed))
        return schema


def _short(value: float, printed: Callable[[float], str]) -> str:
    """A quantity as a person writes it: 5e-06 s, which is not exactly 5 us as a float, is "5 us", and 0.0 s is "0 s".

    What the serializers print must read back as the same float, and stored sweep points are found by that text.
    """
    near = (value, math.nextafter(value, 0), math.nextafter(value, math.inf))
    return min(map(printed, near), key=len).replace("0.0 ", "0 ")


S = TypeVar("S", bound=BaseModel)


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        ConfigError: If it cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start}). Is it the right file?") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}). Check the path and its rights.") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSection:
    """A key whose value may be the name of a shipped thing or a file, so that overrides can go below the name.

    Attributes:
        load: Returns the document of a name.
        note_change: Records an override in the section: called with its data, the key inside it, the override, and
            the places that earlier overrides set.
    """

    load: Callable[[str], Document]
    note_change: Callable[[dict[str, Any], str, str, Collection[Place]], None]


class Document:
    """A parsed YAML mapping that knows where each value is written.

    Args:
        text: YAML text; the top must be a mapping.
        name: Name used in errors, usually the file's path.

    Attributes:
        data: Plain dicts, lists and scalars, with overrides applied.
        overridden: Places that overrides have set, and the override of each.
        sections: Places whose value may be a name, such as ``("topology",)``.

    Raises:
        ConfigError: If the text is not YAML or its top is not a mapping.
    """

    def __init__(self, text: str, *, name: str) -> None:
        tree = _parse_yaml(text, name=name)
        if not isinstance(tree, CommentedMap):
            raise ConfigError(f"{name}:1:1: is not a mapping of keys to values. Start with a line such as `kind: star`.")
        self._start(_plain(tree), tree, name=name)

    def _start(self, data: dict[str, Any], tree: CommentedMap, *, name: str) -> None:
        self.name, self.data, self._tree = name, data, tree
        self.overridden: dict[Place, str] = {}
        self.sections: Mapping[Place, NamedSection] = {}
        self._loaded: dict[Place, Document] = {}

    def override(self, assignment: str) -> None:
        """Apply ``a.b=value``; the value is read as YAML, missing sections are created."""
        key, separator, text = assignment.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f'"{assignment}": is not key=value. Write for example workload.batch=8.')
        self.put(key.strip(), _plain(_parse_yaml(text, name=f'"{assignment}"')), assignment=assignment)

    def put(self, key: str, value: Any, *, assignment: str) -> None:
        """Set the value at ``a.b``; ``assignment`` names it in errors.

        Below a key of ``sections`` whose value is a name, the named document is loaded in its place first.

        Raises:
            ConfigError: If a part of the key is a value and not a mapping, or the named document cannot be read.
        """
        place: Place = tuple(key.split("."))
        target = self.data
        for depth, part in enumerate(place[:-1], start=1):
            child = target.setdefault(str(part), {})
            if isinstance(child, str) and place[:depth] in self.sections:
                child = target[str(part)] = self._load_section(place[:depth], child, assignment=assignment)
            if not isinstance(child, dict):
                name = ".".join(map(str, place[:depth]))
                raise ConfigError(
                    f'"{assignment}": {name} is the value {child!r}, not a mapping. Override {name} as a whole.'
                )
            target = child
            if section := self.sections.get(place[:depth]):
                section.note_change(target, ".".join(map(str, place[depth:])), assignment, self.overridden)
        target[str(place[-1])] = value
        self._loaded = {at: loaded for at, loaded in self._loaded.items() if at[: len(place)] != place}
        self.overridden[place] = assignment

    def _load_section(self, place: Place, name: str, *, assignment: str) -> dict[str, Any]:
        try:
            self._loaded[place] = self.sections[place].load(name)
        except ConfigError as error:
            raise error.at(f'"{assignment}"') from None
        return copy.deepcopy(self._loaded[place].data)

    def fork(self, *sections: str) -> Document:
        """A copy, of the document or of a mapping inside it, to change on its own; errors keep their place in the file."""
        fork = copy.copy(self)
        for section in sections:
            fork._tree = fork._tree[section]
            fork.data = fork.data[section]
        fork.data = copy.deepcopy(fork.data)
        fork.sections = {} if sections else self.sections
        fork.overridden = {} if sections else dict(self.overridden)
        fork._loaded = {} if sections else dict(self._loaded)
        return fork

    def where(self, place: Place) -> str:
        """``file:line:column`` of a value, or the override that set it or something in it."""
        for length in range(len(place), 0, -1):
            if place[:length] in self.overridden:
                return f'"{self.overridden[place[:length]]}"'
        if (section := self._section_of(place)) is not None:
            at = self._loaded[section].where(place[len(section) :])
        else:
            line, column = self._position(place)
            at = f"{self.name}:{line + 1}:{column + 1}"
        inside = [text for changed, text in self.overridden.items() if changed[: len(place)] == place]
        return at + "".join(f' with "{text}"' for text in inside)

    def _section_of(self, place: Place) -> Place | None:
        """The place of the loaded section that a value is in."""
        return next((at for at in self._loaded if len(place) > len(at) and place[: len(at)] == at), None)

    def _position(self, place: Place) -> tuple[int, int]:
        node: Any = self._tree
        position = (0, 0)
        for part in place:
            try:
                if isinstance(node, CommentedMap):
                    # a wrong quantity is shown at its value, a section at its key
                    value = node[part]
                    position = node.lc.key(part) if isinstance(value, CommentedBase) else node.lc.value(part)
                elif isinstance(node, CommentedSeq):
                    position = node.lc.item(part)
                node = node[part]
            except (KeyError, IndexError, TypeError):
                break
        return position

    def position_of_key(self, place: Place) -> str:
        """``file:line:column`` of the key itself."""
        if place in self.overridden:
            return self.where(place)
        if (section := self._section_of(place)) is not None:
            return self._loaded[section].position_of_key(place[len(section) :])
        node: Any = self._tree
        for part in place[:-1]:
            node = node[part]
        line, column = node.lc.key(place[-1])
        return f"{self.name}:{line + 1}:{column + 1}"

    def validate(self, model: type[S]) -> S:
        """The document as ``model``; the first broken rule becomes one ConfigError with its place."""
        try:
            return model.model_validate(self.data)
        except ValidationError as error:
            raise ConfigError(explain(error, model, self)) from None


class MappingDocument(Document):
    """A mapping that was not read from YAML: errors give its name and no line."""

    def __init__(self, data: dict[str, Any], *, name: str) -> None:
        self._start(data, CommentedMap(), name=name)

    def where(self, place: Place) -> str:
        """The name; places inside are not known."""
        return self.name

    def position_of_key(self, place: Place) -> str:
        """The name; places inside are not known."""
        return self.name


def _parse_yaml(text: str, *, name: str) -> Any:
    try:
        return _tree_of(text)
    except MarkedYAMLError as error:
        mark, problem = error.problem_mark or error.context_mark, str(error.problem or error.context).splitlines()[0]
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ConfigError(f"{place}: is not YAML: {problem}. Fix this line.") from None
    except YAMLError as error:
        raise ConfigError(f"{name}: is not YAML: {str(error).splitlines()[0]}. Fix the file.") from None
    except RecursionError:
        raise ConfigError(f"{name}: is nested too deeply. Fix the brackets.") from None


@lru_cache(maxsize=16)
def _tree_of(text: str) -> Any:
    """The parsed text, which nobody changes; a comparison reads the same scenario for every row."""
    return YAML(typ="rt", pure=True).load(text)


def _plain(node: Any) -> Any:
    """Plain dicts, lists and scalars of a ruamel tree; tagged nodes are refused as strings of their tag."""
    if isinstance(node, CommentedMap):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        return [_plain(value) for value in node]
    if isinstance(node, bool) or node is None:
        return node
    return next((scalar(node) for scalar in (int, float) if isinstance(node, scalar)), str(node))


def named_document(name: str, folder: Path, *, what: str) -> Document:
    """A shipped YAML file of ``folder``, by its name, or any other file, by its path.

    Raises:
        ConfigError: If there is neither, or it cannot be read.
    """
    shipped = folder / f"{name}.yaml"
    path = shipped if shipped.is_file() and "/" not in name else Path(name)
    if not path.exists() and path.suffix not in {".yaml", ".yml"}:
        known = [entry.stem for entry in folder.glob("*.yaml")]
        raise ConfigError(f'{what} "{name}" is neither shipped nor a file. {nearest(name, known)}')
    return Document(read_text(path), name=name if path == shipped else str(path))


def load(path: Path, model: type[S], *, overrides: Sequence[str] = ()) -> S:
    """Read a YAML file, apply ``a.b=value`` overrides, validate it.

    Raises:
        ConfigError: One line with file, line and column.
    """
    document = Document(read_text(path), name=str(path))
    for assignment in overrides:
        document.override(assignment)
    return document.validate(model)


Override = str | Mapping[str, object]
"""``"routing.policy=smoes"``, or ``{"routing.policy": "smoes"}``."""


def assignments(overrides: Iterable[Override], settings: Mapping[str, object]) -> list[str]:
    """Overrides as ``a.b=value``.

    Args:
        overrides: Strings and mappings, as they were given.
        settings: Keywords; two underscores stand for the dot: ``routing__policy="smoes"``.
    """
    found: list[str] = []
    for override in overrides:
        if isinstance(override, str):
            found.append(override)
        elif isinstance(override, Mapping):
            found += [assignment(key, value) for key, value in override.items()]
        else:
            raise ConfigError(
                f"{override!r} is no override. Write for example 'routing.policy=smoes' or {{'routing.policy': 'smoes'}}."
            )
    return found + [assignment(key.replace("__", "."), value) for key, value in settings.items()]


def assignment(key: str, value: object) -> str:
    """``key=value`` as the command line takes it; text that would read as something else is quoted.

    Example:
        >>> assignment("seed", 1), assignment("routing.policy", "smoes"), assignment("model", {"layers": 2})
        ('seed=1', 'routing.policy=smoes', 'model={"layers":2}')
    """
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str) and _reads_as_text(value):
        return f"{key}={value}"
    try:
        return f"{key}={orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode()}"
    except TypeError:
        raise ConfigError(f"{key} = {value!r}: is not text, a number, a list or a mapping. Give one of these.") from None


def _reads_as_text(text: str) -> bool:
    """Whether YAML reads the text as itself, not as a number, a date or a list."""
    try:
        return bool(Document(f"a: {text}", name="").data == {"a": text})
    except ConfigError:
        return False


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it when the block succeeds; no half-written file is left.

    Raises:
        ConfigError: If the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror or error}). Choose another place.") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mode = 0o666 & ~_umask()
        temporary.chmod(mode)
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror or error}). Choose another place.") from None
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file in one step."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)
