"""``smoes-sim list``: what is shipped."""

from __future__ import annotations

from typing import Annotated

import typer


def list_(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="models, devices, workloads, topologies, scenarios, calibrations, libraries, routing, plans, sweeps, "
            "studies.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List what is shipped of a kind, with a line about each.

    For example: smoes-sim list models
    """
    from smoes_sim.api.catalogue import catalogue
    from smoes_sim.results.write import to_json

    found = catalogue(kind)
    typer.echo(to_json(found.to_dict()) if as_json else found, nl=not as_json)
