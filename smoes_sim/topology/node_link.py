"""Read large explicit graphs from node-link JSON, the form that networkx and most graph tools write.

``nodes`` are vertices with ``id`` and ``kind`` (``device``, ``nic``, ``switch``; devices become ranks in their order),
``edges`` (or ``links``) have ``source``, ``target`` and the fields of a link of a YAML graph, in the same units. JSON is
read many times faster than YAML, but errors name a key and no line.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import AliasChoices, Field

from smoes_sim.errors import ConfigError
from smoes_sim.topology.graph import Routing, VertexKind
from smoes_sim.topology.specs import GraphSpec
from smoes_sim.yaml_files import MappingDocument, Spec


class _AboutSpec(Spec):
    description: str = ""
    sources: dict[str, str] = Field(default_factory=dict)
    routing: Routing = "hash"
    device: str | None = None


class _VertexSpec(Spec):
    id: int | str
    kind: VertexKind
    name: str | None = None
    node: int | str | None = None

    @property
    def label(self) -> str:
        return str(self.id) if self.name is None else self.name


class _NodeLinkSpec(Spec):
    directed: bool
    multigraph: bool = True
    graph: _AboutSpec = _AboutSpec()
    nodes: list[_VertexSpec]
    edges: list[dict[str, Any]] = Field(validation_alias=AliasChoices("edges", "links"))


def read_node_link(text: str, *, name: str) -> GraphSpec | None:
    """The graph of a JSON text; None if it has a ``kind`` and so is an ordinary topology file.

    Edges of an undirected graph are links in both directions, each with the full bandwidth.

    Args:
        text: JSON.
        name: Name used in errors, usually the file's path.

    Raises:
        ConfigError: If the text is not JSON or breaks a rule of node-link data or of a graph.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{name}:{error.lineno}:{error.colno}: is not JSON: {error.msg}. Fix this line.") from None
    except RecursionError:
        raise ConfigError(f"{name}: is nested too deeply. Fix the brackets.") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{name}:1:1: is not a mapping of keys to values. Write node-link data: nodes and edges.")
    if "kind" in data:
        return None
    file = MappingDocument(data, name=name).validate(_NodeLinkSpec)
    return MappingDocument(_as_graph(file), name=name).validate(GraphSpec)


def _as_graph(file: _NodeLinkSpec) -> dict[str, Any]:
    """The content of the equivalent YAML graph."""
    label = {vertex.id: vertex.label for vertex in file.nodes}
    groups: dict[int | str, list[str]] = {}
    for vertex in file.nodes:
        if vertex.kind == "device" and vertex.node is not None:
            groups.setdefault(vertex.node, []).append(vertex.label)
    named = {kind: [vertex.label for vertex in file.nodes if vertex.kind == kind] for kind in ("device", "nic", "switch")}
    links = []
    for edge in file.edges:
        fields = {name: value for name, value in edge.items() if name not in {"key", "source", "target"}}
        ends = {end: edge[name] for end, name in (("from", "source"), ("to", "target")) if name in edge}
        links.append({"duplex": not file.directed} | fields | {end: label.get(id_, str(id_)) for end, id_ in ends.items()})
    return file.graph.model_dump() | {
        "kind": "graph",
        "devices": named["device"],
        "nodes": list(groups.values()) or None,
        "nics": named["nic"],
        "switches": named["switch"],
        "links": links,
    }
