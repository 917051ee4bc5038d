"""``smoes-sim measurements``: convert logs of nccl-tests and rccl-tests to a measurements table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from smoes_sim.cli import show

app = typer.Typer()


@app.command("import")
def import_measurements(
    logs: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Output of nccl-tests or rccl-tests: text, or JSON of -J.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Measurements table (CSV) to write.")],
    topology: Annotated[
        str, typer.Option(help="The measured system: a shipped topology or a file.", metavar="TOPOLOGY")
    ] = "",
    matrix: Annotated[Optional[Path], typer.Option(help="For alltoallv: file with bytes [from][to].")] = None,
    operation: Annotated[
        Optional[Literal["alltoall", "alltoallv", "sendrecv"]],
        typer.Option("--op", help="Operation, if the log does not name it."),
    ] = None,
    system: Annotated[str, typer.Option(help="Name of the hardware. [the log's device]")] = "",
    library: Annotated[str, typer.Option(help="Software. [the log's version]")] = "",
    nodes: Annotated[
        Optional[int], typer.Option(min=1, help="Number of nodes, without --topology. [hosts in the log]")
    ] = None,
    ranks_per_node: Annotated[
        Optional[int], typer.Option(min=1, help="Number of ranks per node, without --topology.")
    ] = None,
    intra_link: Annotated[str, typer.Option(help="Link inside a node, such as NVLink4, without --topology.")] = "",
    intra_rate: Annotated[
        Optional[str], typer.Option(metavar="RATE", help='Rate of that link per rank and direction: "450 GB/s".')
    ] = None,
    inter_link: Annotated[str, typer.Option(help="Network between nodes, without --topology.")] = "",
    nic_rate: Annotated[
        Optional[str], typer.Option(metavar="RATE", help='Rate of the NIC per rank and direction: "400 Gb/s".')
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Convert nccl-tests or rccl-tests logs to a measurements table for `calibrate` and `validate`.

    For example: smoes-sim measurements import run.log -o rows.csv --topology 8x-h100
    """
    from smoes_sim.display.tables import as_text
    from smoes_sim.errors import ConfigError
    from smoes_sim.measurements import write_measurements
    from smoes_sim.measurements.imported import Facts, import_logs
    from smoes_sim.results.write import to_json

    described = (nodes, ranks_per_node, intra_link, intra_rate, inter_link, nic_rate)
    if topology and any(described):
        raise ConfigError(
            "--topology already defines what --nodes, --intra-link and similar options give. Give one or the other."
        )
    facts = Facts(
        topology=topology, matrix=matrix, operation=operation or "", system=system, library=library, nodes=nodes,
        ranks_per_node=ranks_per_node, intra_link=intra_link, inter_link=inter_link,
        intra_bandwidth=None if intra_rate is None else show.bandwidth("--intra-rate", intra_rate),
        nic_bandwidth=None if nic_rate is None else show.bandwidth("--nic-rate", nic_rate),
    )  # fmt: skip
    imported = import_logs(logs, out, facts)
    write_measurements(out, imported.rows)
    for reason, count in imported.left_out.items():
        show.talk(f"left out: {count} rows ({reason})")
    typer.echo(to_json(imported.to_dict()) if as_json else as_text(imported.tables()), nl=False)
