"""``smoes-sim placement``: where experts go, decided by counts of another run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smoes_sim.cli import show

if TYPE_CHECKING:
    from smoes_sim.placement import ExpertRule

app = typer.Typer()
Trace = Annotated[Path, typer.Argument(metavar="TRACE", help="Routing of a training set (.npz).")]
Ranks = Annotated[int, typer.Option(min=1, help="Ranks of the EP group.")]
Spare = Annotated[int, typer.Option(min=0, help="Slots of each rank for replicas.")]


@app.command("make")
def make(
    trace: Trace,
    rule: Annotated[str, typer.Option(help="bins, eplb, coactivation, optimal, contiguous or random.")],
    ranks: Ranks,
    out: Annotated[Path, typer.Option("-o", "--out", help="Placement to write (JSON), for placement.experts={file: ...}.")],
    spare: Spare = 0,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes, for eplb.")] = 1,
    groups: Annotated[int, typer.Option(min=1, help="Groups of experts that eplb keeps on one node.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of random.")] = 0,
) -> None:
    """Write a placement from the counts of a trace, for scenarios of other data or for SGLang."""
    import numpy as np

    from smoes_sim.errors import ConfigError
    from smoes_sim.placement import place_experts
    from smoes_sim.placement.formats import write_placement
    from smoes_sim.routing import load_trace

    loaded = load_trace(trace)
    if (nodes > 1 or groups > 1) and rule != "eplb":
        raise ConfigError(f"--nodes {nodes} --groups {groups}: are for --rule eplb, not {rule}. Leave them out.")
    if ranks % nodes or loaded.num_experts % groups:
        raise ConfigError(
            f"--nodes {nodes} --groups {groups}: must divide the {ranks} ranks and the {loaded.num_experts} experts."
        )
    placed = place_experts(
        _rule(rule),
        loaded,
        num_ranks=ranks,
        rng=np.random.default_rng(seed),
        spare=spare,
        num_nodes=nodes,
        expert_groups=groups,
    )
    layers = loaded.moe_layers.tolist()
    num_layers = max(int(loaded.metadata.get("hidden_layers", 0)), max(layers) + 1)
    if placed.num_groups > 1:
        raise ConfigError(f"--ranks {ranks}: more than the {loaded.num_experts} experts. A file describes one EP group.")
    write_placement(placed, out, moe_layers=layers, num_layers=num_layers)
    show.talk(f"placement: {out}")


def _rule(name: str) -> ExpertRule:
    from typing import get_args

    from smoes_sim.errors import ConfigError
    from smoes_sim.placement import ExpertRule
    from smoes_sim.yaml_files import nearest

    for rule in get_args(ExpertRule):
        if rule == name:
            return rule
    raise ConfigError(f'--rule = "{name}" is unknown. {nearest(name, get_args(ExpertRule))}')


@app.command("judge")
def judge(
    trace: Trace,
    ranks: Ranks,
    spare: Spare = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Hold every rule against the exact optimum of a small case: load of the busiest rank, experts kept together."""
    from smoes_sim.placement.judge import optimality_gaps
    from smoes_sim.results.write import to_json
    from smoes_sim.routing import load_trace

    rows = optimality_gaps(load_trace(trace), num_ranks=ranks, spare=spare)
    typer.echo(to_json({"rows": rows}) if as_json else _text(rows), nl=False)


def _text(rows: list[dict[str, Any]]) -> str:
    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.2f}"

    body = [
        [row["rule"], f"{row['imbalance']:.4f}", *(percent(row[key]) for key in ("load_gap", "together", "together_gap"))]
        for row in rows
    ]
    return show.table(["rule", "max/mean", "gap (%)", "pairs together (%)", "gap (%)"], body)
