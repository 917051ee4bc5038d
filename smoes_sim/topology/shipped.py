"""Find a topology: a shipped name, a file, or a spec written in place."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import RootModel

from smoes_sim.errors import ConfigError, TopologyError
from smoes_sim.topology.generators import build
from smoes_sim.topology.graph import Topology
from smoes_sim.topology.node_link import read_node_link
from smoes_sim.topology.specs import TopologySpec
from smoes_sim.yaml_files import Document, MappingDocument, nearest, read_text

_INSTALLED = Path(__file__).parent.parent / "data" / "topologies"
_HEADING = ("kind:", "description:")
_CHECKOUT = Path(__file__).parent.parent.parent / "topologies"


class TopologyFile(RootModel[TopologySpec]):
    """A topology file of any kind."""


def folder() -> Path:
    """The folder of shipped topologies, in the installed package or in a checkout."""
    return _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT


def topology_names() -> list[str]:
    """Names of the shipped topologies, sorted."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def topology_headings() -> dict[str, tuple[str, str]]:
    """Kind and description of each shipped topology, by its name, sorted.

    Only these two keys of each file are parsed, which takes a tenth of the time of all of it.

    Example:
        >>> topology_headings()["8x-h100"]
        ('scale_up_domain', 'One node of 8 H100 SXM on NVSwitch')
    """
    parts = {
        name: re.split(r"^(?=\w)", read_text(folder() / f"{name}.yaml"), flags=re.MULTILINE) for name in topology_names()
    }
    wanted = {name: "".join(part for part in found if part.startswith(_HEADING)) for name, found in parts.items()}
    text = "".join(f"{name}:\n{textwrap.indent(heading, '  ')}" for name, heading in wanted.items())
    return {name: (found["kind"], found["description"]) for name, found in Document(text, name="topologies").data.items()}


def topology_document(name: str) -> Document:
    """The file of a shipped topology, or a file by its path, not validated yet.

    Raises:
        ConfigError: If there is no such name or file, or it cannot be parsed.
    """
    path = _path_of(name)
    text = read_text(path)
    graph = read_node_link(text, name=str(path)) if path.suffix == ".json" else None
    if graph is not None:
        return MappingDocument(graph.model_dump(mode="json", by_alias=True, exclude_none=True), name=str(path))
    return Document(text, name=str(path))


def shipped_file(name: str) -> Path | None:
    """The file of a shipped topology; None if none has the name."""
    path = folder() / f"{name}.yaml"
    return path if path.is_file() and "/" not in name else None


def _path_of(name: str) -> Path:
    path = shipped_file(name) or Path(name)
    if not path.exists() and path.suffix not in {".yaml", ".yml", ".json"}:
        raise ConfigError(f'topology "{name}" is neither shipped nor a file. {nearest(name, topology_names())}')
    return path


def find_spec(name: str) -> TopologySpec:
    """The spec of a shipped topology or a file: YAML, or node-link JSON if the name ends in ``.json``.

    Raises:
        ConfigError: If there is no such name or file, or the file breaks a rule.
    """
    path = _path_of(name)
    text = read_text(path)
    graph = read_node_link(text, name=str(path)) if path.suffix == ".json" else None
    return graph or Document(text, name=str(path)).validate(TopologyFile).root


def find_topology(name: str) -> Topology:
    """The topology of a shipped name or a file.

    Raises:
        ConfigError: If there is no such name or file, or the file breaks a rule.

    Example:
        >>> find_topology("8x-h100").num_ranks
        8
    """
    try:
        spec = find_spec(name)
        return build(spec, name=spec.name or Path(name).stem)
    except TopologyError as error:
        raise error.at(name) if Path(name).exists() else error from None


def topology_of_mapping(data: Mapping[str, Any]) -> Topology:
    """Build the topology of a mapping with the keys of a topology file."""
    document = MappingDocument(dict(data), name="topology")
    return build(document.validate(TopologyFile).root, name="topology")
