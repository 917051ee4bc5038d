"""``smoes-sim topology``: what is wired to what."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from smoes_sim.cli import show

app = typer.Typer()
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Name = Annotated[str, typer.Argument(metavar="TOPOLOGY", help="Shipped topology or path of a file.")]


@app.command("list")
def list_topologies(as_json: Json = False) -> None:
    """List the shipped topologies."""
    from smoes_sim.results.write import to_json
    from smoes_sim.topology.shipped import topology_headings

    rows = [
        {"name": name, "kind": kind, "description": description} for name, (kind, description) in topology_headings().items()
    ]
    typer.echo(to_json({"topologies": rows}) if as_json else show.columns(rows), nl=False)


@app.command("show")
def show_topology(
    name: Name,
    svg: Annotated[Optional[Path], typer.Option(help="Draw it into this SVG file.")] = None,
    as_json: Json = False,
) -> None:
    """Show the size, links and sources of a topology; with --svg also a picture."""
    from smoes_sim.display.tables import as_text
    from smoes_sim.results.write import to_json
    from smoes_sim.topology import find_spec, find_topology
    from smoes_sim.topology.picture import draw_topology
    from smoes_sim.topology.summary import summarise
    from smoes_sim.yaml_files import write_bytes

    topology = find_topology(name)
    summary = summarise(topology, sources=find_spec(name).sources)
    if svg is not None:
        write_bytes(svg, draw_topology(topology).encode())
        show.talk(f"picture: {svg}")
    typer.echo(to_json(summary.to_dict()) if as_json else as_text(summary.tables()), nl=False)


@app.command("check")
def check_topology(name: Name, as_json: Json = False) -> None:
    """Check a topology file: it loads, every rank reaches every other. Exit 2 with the place if not."""
    from smoes_sim.results.write import to_json
    from smoes_sim.topology import find_spec, find_topology
    from smoes_sim.topology.summary import summarise

    summary = summarise(find_topology(name), sources=find_spec(name).sources)
    text = f"{name}: ok, {summary.topology.num_ranks} ranks, {summary.topology.num_links} directed links, all connected\n"
    typer.echo(to_json(summary.to_dict()) if as_json else text, nl=False)
