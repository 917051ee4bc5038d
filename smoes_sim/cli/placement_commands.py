"""``smoes-sim placement``: which rank holds which expert, decided by the routing of another run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smoes_sim.cli import show

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from smoes_sim.placement import ExpertRule
    from smoes_sim.routing import RoutingTrace

app = typer.Typer()
Ranks = Annotated[int, typer.Option(min=1, help="Number of ranks of the EP group.")]
Spare = Annotated[int, typer.Option(min=0, help="Slots for replicas on each rank.")]


@app.command("make")
def make(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="TRACE|COUNTS",
            help="Routing trace (.npz), or for eplb expert load counts: .json of `trace export --counts`, .pt of SGLang.",
        ),
    ],
    rule: Annotated[str, typer.Option(help="bins, eplb, coactivation, optimal, contiguous or random.")],
    ranks: Ranks,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Placement file to write (JSON), for placement.experts={file: ...}.")
    ],
    spare: Spare = 0,
    nodes: Annotated[int, typer.Option(min=1, help="Number of nodes, for eplb.")] = 1,
    groups: Annotated[int, typer.Option(min=1, help="Groups of experts that eplb keeps on one node.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the rule random.")] = 0,
) -> None:
    """Write a placement of experts, decided by a trace or by load counts, for scenarios or for SGLang."""
    from smoes_sim.errors import ConfigError

    checked = _rule(rule)
    if (nodes > 1 or groups > 1) and rule != "eplb":
        raise ConfigError(f"--nodes {nodes} --groups {groups}: are for --rule eplb, not {rule}. Leave them out.")
    if source.suffix in {".json", ".pt"}:
        if rule != "eplb":
            raise ConfigError(
                f"{source}: holds expert load counts, from which only --rule eplb can place experts, not {rule}. "
                "Use --rule eplb, or give a trace (.npz)."
            )
        _make_from_counts(_read_counts(source), out, ranks=ranks, spare=spare, nodes=nodes, groups=groups)
    else:
        from smoes_sim.routing import load_trace

        _make_from_trace(load_trace(source), checked, out, ranks=ranks, spare=spare, nodes=nodes, groups=groups, seed=seed)
    show.talk(f"placement: {out}")


def _make_from_trace(
    trace: RoutingTrace, rule: ExpertRule, out: Path, *, ranks: int, spare: int, nodes: int, groups: int, seed: int
) -> None:
    import numpy as np

    from smoes_sim.placement import place_experts
    from smoes_sim.placement.formats import write_placement

    _check_divisors(ranks, trace.num_experts, nodes=nodes, groups=groups)
    placed = place_experts(
        rule,
        trace,
        num_ranks=ranks,
        rng=np.random.default_rng(seed),
        spare=spare,
        num_nodes=nodes,
        expert_groups=groups,
    )
    layers = trace.moe_layers.tolist()
    num_layers = max(int(trace.metadata.get("hidden_layers", 0)), max(layers) + 1)
    write_placement(placed, out, moe_layers=layers, num_layers=num_layers)


def _make_from_counts(counts: NDArray[np.int64], out: Path, *, ranks: int, spare: int, nodes: int, groups: int) -> None:
    """Place the experts of the layers that have counts; the file gets a row for every layer."""
    from smoes_sim.errors import ConfigError
    from smoes_sim.placement.formats import write_placement
    from smoes_sim.placement.from_counts import place_by_load

    _check_divisors(ranks, counts.shape[1], nodes=nodes, groups=groups)
    layers = [layer for layer, loads in enumerate(counts) if loads.any()]
    if not layers:
        raise ConfigError("all expert load counts are 0. Record while requests are running.")
    placed = place_by_load(counts[layers], num_ranks=ranks, spare=spare, num_nodes=nodes, expert_groups=groups)
    write_placement(placed, out, moe_layers=layers, num_layers=len(counts))


def _read_counts(path: Path) -> NDArray[np.int64]:
    from smoes_sim.placement.formats import read_counts
    from smoes_sim.routing.sglang_dump import read_expert_counts

    return read_expert_counts(path) if path.suffix == ".pt" else read_counts(path)


def _check_divisors(ranks: int, experts: int, *, nodes: int, groups: int) -> None:
    from smoes_sim.errors import ConfigError

    if ranks % nodes or experts % groups:
        raise ConfigError(f"--nodes {nodes} --groups {groups}: must divide the {ranks} ranks and the {experts} experts.")


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
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="Routing trace (.npz).")],
    ranks: Ranks,
    spare: Spare = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Compare every rule with the exact optimum of a small case: load of the busiest rank, pairs of experts on one rank."""
    from smoes_sim.display.tables import as_text
    from smoes_sim.placement.judge import optimality_gaps
    from smoes_sim.results.write import to_json
    from smoes_sim.routing import load_trace

    found = optimality_gaps(load_trace(trace), num_ranks=ranks, spare=spare)
    typer.echo(to_json(found.to_dict()) if as_json else as_text(found.tables()), nl=False)
