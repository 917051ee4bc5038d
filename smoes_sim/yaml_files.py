"""Read the files people write: YAML with ``file:line:column`` in every error, nearest names, no half-written output.

A file is read by ruamel.yaml (safe scalars, no tags, duplicate keys refused), overridden by ``a.b=value`` arguments and
validated by a pydantic model. Whatever goes wrong becomes one line: where, what with the value, the rule, what to do.
"""

from __future__ import annotations

import copy
import difflib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, RootModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedBase, CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from smoes_sim.errors import ConfigError

Place = tuple[str | int, ...]
"""Keys and indices from the top of a document to a value."""


class Spec(BaseModel):
    """Base of everything read from a file: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


S = TypeVar("S", bound=BaseModel)


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the nearest known name, or lists them all."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f'Did you mean "{close[0]}"?' if close else f"Known: {', '.join(names)}."


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


class Document:
    """A parsed YAML mapping that knows where each value stands.

    Args:
        text: YAML text; the top must be a mapping.
        name: Name used in errors, usually the file's path.

    Raises:
        ConfigError: If the text is not YAML or its top is not a mapping.
    """

    def __init__(self, text: str, *, name: str) -> None:
        self.name = name
        self.overridden: dict[Place, str] = {}
        tree = _parse_yaml(text, name=name)
        if not isinstance(tree, CommentedMap):
            raise ConfigError(f"{name}:1:1: is not a mapping of keys to values. Start with a line such as `kind: star`.")
        self._tree = tree
        self.data: dict[str, Any] = _plain(tree)

    def override(self, assignment: str) -> None:
        """Apply ``a.b=value``; the value is read as YAML, intermediate mappings are made when missing."""
        key, separator, text = assignment.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f'"{assignment}": is not key=value. Write for example workload.batch=8.')
        self.put(key.strip(), _plain(_parse_yaml(text, name=f'"{assignment}"')), said=assignment)

    def put(self, key: str, value: Any, *, said: str) -> None:
        """Set the value at ``a.b``; ``said`` is how errors name it."""
        place: Place = tuple(key.split("."))
        target = self.data
        for part in place[:-1]:
            child = target.setdefault(str(part), {})
            if not isinstance(child, dict):
                raise ConfigError(f'"{said}": {part} is the value {child!r}, not a mapping.')
            target = child
        target[str(place[-1])] = value
        self.overridden[place] = said

    def fork(self, *sections: str) -> Document:
        """A copy, of the document or of a mapping inside it, to change on its own; errors keep their place in the file."""
        fork = copy.copy(self)
        for section in sections:
            fork._tree = fork._tree[section]
            fork.data = fork.data[section]
        fork.data = copy.deepcopy(fork.data)
        fork.overridden = {} if sections else dict(self.overridden)
        return fork

    def where(self, place: Place) -> str:
        """``file:line:column`` of a value, or the override that set it or something in it."""
        for length in range(len(place), 0, -1):
            if place[:length] in self.overridden:
                return f'"{self.overridden[place[:length]]}"'
        line, column = self._position(place)
        inside = [text for changed, text in self.overridden.items() if changed[: len(place)] == place]
        return f"{self.name}:{line + 1}:{column + 1}" + "".join(f' with "{text}"' for text in inside)

    def _position(self, place: Place) -> tuple[int, int]:
        node: Any = self._tree
        position = (0, 0)
        for part in place:
            try:
                if isinstance(node, CommentedMap):
                    # a quantity that is wrong is shown where the value stands, a section where its key stands
                    value = node[part]
                    position = node.lc.key(part) if isinstance(value, CommentedBase) else node.lc.value(part)
                elif isinstance(node, CommentedSeq):
                    position = node.lc.item(part)
                node = node[part]
            except (KeyError, IndexError, TypeError):
                break
        return position

    def position_of_key(self, place: Place) -> str:
        """``file:line:column`` where the key itself stands."""
        if place in self.overridden:
            return self.where(place)
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
            raise ConfigError(self._explain(error, model)) from None

    def _explain(self, error: ValidationError, model: type[BaseModel]) -> str:
        # of a union, a mapping is not told that it should have been a word or number; a slip explains what seems missing
        problem = min(
            error.errors(include_url=False),
            key=lambda item: (
                isinstance(item["input"], dict) and item["type"] in {"string_type", "float_type", "literal_error"},
                item["type"] != "extra_forbidden",
            ),
        )
        place = _place_in(self.data, problem["loc"])
        name = ".".join(str(part) for part in place)
        if problem["type"] == "extra_forbidden":
            known = _names_at(model, problem["loc"][:-1])
            try:
                where = self.position_of_key(place)
            except (KeyError, TypeError, AttributeError):
                where = self.where(place)
            return f'{where}: unknown key "{place[-1]}". {nearest(str(place[-1]), known)}'
        if problem["type"] == "missing":
            return f'{self.where(place)}: the key "{problem["loc"][-1]}" is missing{_within(place)}. Add it.'
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "union_tag_invalid":
            context = problem["ctx"]
            discriminator = str(context["discriminator"]).strip("'")
            known = {name.strip("'") for name in str(context["expected_tags"]).split(", ")}
            where = self.where((*place, discriminator))
            return f'{where}: {discriminator} = "{context["tag"]}" is unknown. {nearest(str(context["tag"]), known)}'
        if problem["type"] == "union_tag_not_found":
            return f'{self.where(place)}: the key "kind" is missing{_within(place)}. Add it.'
        if problem["type"] == "literal_error":
            known = {part.strip("'") for part in str(problem["ctx"]["expected"]).replace(" or ", ", ").split(", ")}
            return f'{self.where(place)}: {name} = "{problem["input"]}" is unknown. {nearest(str(problem["input"]), known)}'
        if problem["type"] != "value_error":
            message = f"{problem['input']!r}: {message[0].lower()}{message[1:]}."
        if isinstance(problem["input"], dict) and problem["type"] == "value_error":
            name = name and f"{name}: "  # a rule about a section names its keys itself
        else:
            name = name and f"{name} = "
        return f"{self.where(place)}: {name}{message}"


def _within(place: Place) -> str:
    return f" in {'.'.join(str(part) for part in place)}" if place else ""


def _parse_yaml(text: str, *, name: str) -> Any:
    loader = YAML(typ="rt", pure=True)
    try:
        return loader.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        problem = str(error.problem or error.context).splitlines()[0]
        raise ConfigError(f"{place}: is not YAML: {problem}. Mend the line.") from None
    except YAMLError as error:
        raise ConfigError(f"{name}: is not YAML: {str(error).splitlines()[0]}. Mend the file.") from None
    except RecursionError:
        raise ConfigError(f"{name}: is nested too deeply. Mend the brackets.") from None


def _plain(node: Any) -> Any:
    """Plain dicts, lists and scalars of a ruamel tree; tagged nodes are refused as strings of their tag."""
    if isinstance(node, CommentedMap):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        return [_plain(value) for value in node]
    if isinstance(node, bool) or node is None:
        return node
    for scalar in (int, float, str):
        if isinstance(node, scalar):
            return scalar(node)
    return str(node)


def _place_in(data: Any, location: Sequence[str | int]) -> Place:
    """The part of a pydantic location that exists in the data (union tags and missing keys do not)."""
    place: list[str | int] = []
    node = data
    for part in location:
        if (isinstance(node, dict) and part in node) or (isinstance(node, list) and isinstance(part, int)):
            node = node[part]  # type: ignore[index]
            place.append(part)
    return tuple(place)


def _names_at(model: Any, location: Sequence[str | int]) -> set[str]:
    """Names of the keys allowed at a pydantic location below ``model``; the tag of a union chooses its member."""
    found = list(_models_in(model))
    for part in location:
        tagged = [kind for kind in found if "kind" in kind.model_fields and part in _literals(kind)]
        children: list[Any] = []
        for kind in tagged or found:
            fields = {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
            children.append(kind if tagged else fields.get(str(part), kind))  # an index stays where it is
        found = [kind for child in children for kind in _models_in(child)]
    return {field.alias or name for kind in found for name, field in kind.model_fields.items()}


def _literals(model: type[BaseModel]) -> tuple[Any, ...]:
    return get_args(model.model_fields["kind"].annotation)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, RootModel):
        yield from _models_in(annotation.model_fields["root"].annotation)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def named_document(name: str, folder: Path, *, what: str) -> Document:
    """A shipped YAML file of a folder, by its name, or a file of one's own, by its path.

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


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it when the block ends well; nothing half-written is left.

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
