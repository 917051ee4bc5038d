"""``smoes-sim alltoall``: nccl-tests for a cluster that is not there."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import typer

from smoes_sim.cli import show
from smoes_sim.cli.first_use import compilation_told

_SIZES, _SKEW = "How much", "Who sends what (one of them; equal blocks when left out)"
_LIBRARY, _MODEL, _OUTPUT = "How the library sends", "How it is timed", "What is shown"
_WORKLOADS = (
    "W0 balanced, W1 hot experts side by side, W2 hot rank, W3 hot experts apart, W4 ragged sources, W5 ranks without "
    "experts, W6 hot rank that moves by --step, W7 a burst every tenth --step."
)
_USED_BY = {
    "tolerance": ("fluid",),
    "injection": ("fifo", "packet"),
    "window": ("fifo", "packet"),
    "chunk": ("fifo",),
}
"""Fidelities that an option is for."""
_PLOTTED = 8
"""Links in the plot of one size when ``--links`` does not say."""


def option(text: str, group: str, *names: str, **more: Any) -> Any:
    """An option that the help lists under ``group``."""
    return typer.Option(*names, help=text, rich_help_panel=group, **more)


def alltoall(
    context: typer.Context,
    topology: Annotated[str, typer.Argument(metavar="TOPOLOGY", help="Shipped topology or path of a file.")],
    size: Annotated[
        Optional[str],
        option('Bytes a rank sends, its own block too: 64M or "64 MiB". [64M]', _SIZES, "--bytes", metavar="SIZE"),
    ] = None,
    sweep: Annotated[Optional[str], option("Sizes from LOW to HIGH, doubling: 1K:1G.", _SIZES, metavar="LOW:HIGH")] = None,
    zipf: Annotated[Optional[float], option("Destinations are popular by this Zipf exponent.", _SKEW, metavar="S")] = None,
    per_source: Annotated[
        bool, option("With --zipf: each rank has its own popular destinations.", _SKEW, "--per-source")
    ] = False,
    lognormal: Annotated[
        Optional[float], option("Destinations are popular log-normally, with this sigma.", _SKEW, metavar="SIGMA")
    ] = None,
    workload: Annotated[Optional[str], option(_WORKLOADS, _SKEW, metavar="NAME")] = None,
    step: Annotated[Optional[int], option("With --workload: its step. [0]", _SKEW, min=0, metavar="N")] = None,
    trace: Annotated[Optional[Path], option("In the proportions of a routing trace (.npz).", _SKEW, metavar="FILE")] = None,
    matrix: Annotated[
        Optional[Path],
        option("File of bytes [from][to], nccl-tests' alltoallv form; sets the size too.", _SKEW, metavar="FILE"),
    ] = None,
    schedule: Annotated[
        Literal["direct", "pairwise", "two_hop", "hierarchical", "low_latency", "all_to_all_single"],
        option(
            "What is posted when: direct, pairwise, two_hop, hierarchical, low_latency, all_to_all_single (gloo's).",
            _LIBRARY,
            metavar="NAME",
        ),
    ] = "direct",
    message_size: Annotated[
        Optional[str], option("With --schedule low_latency: bytes of a copy, one message each.", _LIBRARY, metavar="SIZE")
    ] = None,
    order: Annotated[
        Literal["naive", "shifted", "rail", "random"], option("In which order a rank posts its messages.", _LIBRARY)
    ] = "shifted",
    calibration: Annotated[
        Optional[str],
        option("Fitted constants (smoes-sim calibrate): an interval.", _LIBRARY, metavar="FILE"),
    ] = None,
    per_message: Annotated[str, option("Sender's time per message.", _LIBRARY, metavar="TIME")] = "0 us",
    fidelity: Annotated[
        Literal["bound", "fluid", "fifo", "packet"],
        option(
            "bound: no timing of these messages is faster; fluid: links are shared fairly; fifo: message order counts; "
            "packet: every packet, small cases.",
            _MODEL,
        ),
    ] = "fluid",
    tolerance: Annotated[float, option("fluid: relative error aimed at; 0 is exact.", _MODEL, metavar="E")] = 1e-4,
    injection: Annotated[
        Literal["fifo", "round_robin"], option("fifo, packet: messages of a rank one by one, or taking turns.", _MODEL)
    ] = "fifo",
    window: Annotated[
        Optional[str],
        option(
            'fifo, packet: bytes of a message before its receiver must answer, or "inf". [64 KiB - 1: TCP]',
            _MODEL,
            metavar="SIZE",
        ),
    ] = None,
    chunk: Annotated[
        Optional[str], option("fifo: bytes served together. [a packet, or more in large cases]", _MODEL, metavar="SIZE")
    ] = None,
    seed: Annotated[
        int, option("Of the skew, the random order and the choice between equal routes.", _MODEL, min=0, metavar="N")
    ] = 0,
    links: Annotated[Optional[int], option("Name the busiest links, this many lines.", _OUTPUT, min=1, metavar="K")] = None,
    plot: Annotated[
        Optional[Path],
        option("SVG or PNG: bandwidth over size, or of one size the busiest links over time.", _OUTPUT, metavar="FILE"),
    ] = None,
    as_json: Annotated[bool, option("Print one JSON document.", _OUTPUT, "--json")] = False,
) -> None:
    """Time an all-to-all, in nccl-tests' columns.

    For example: smoes-sim alltoall 8x8-h100-ndr400 --zipf 1 --links 8
    """
    from smoes_sim.display.charts import save_chart
    from smoes_sim.display.tables import as_text
    from smoes_sim.exchanges import alltoall as predict
    from smoes_sim.exchanges.demand import sizes_of
    from smoes_sim.network import may_compile
    from smoes_sim.results.write import to_json
    from smoes_sim.topology import find_topology

    plots_links = plot is not None and sweep is None
    if plot is not None:
        _check_plot(plot, is_sweep=sweep is not None, fidelity=fidelity)
    built = replace(find_topology(topology), name=topology)
    is_slow_at_first = may_compile(built.num_ranks, fidelity=fidelity)
    num_sizes = len(sizes_of(size, sweep))
    with compilation_told(may_compile=is_slow_at_first), show.progress("sizes", num_sizes) as advance:
        found = predict(
            built, size=size, sweep=sweep, zipf=zipf, per_source=per_source, lognormal=lognormal, workload=workload,
            step=step, trace=trace, matrix=matrix, schedule=schedule, message_size=message_size, order=order,
            calibration=calibration, per_message=per_message if _is_given(context, "per_message") else None,
            fidelity=fidelity, tolerance=tolerance, injection=injection, window=window, chunk=chunk, seed=seed,
            links=links or (_PLOTTED if plots_links else None), on_size=advance,
        )  # fmt: skip
    _tell_what_is_ignored(context, counts_messages=found.settings.counts_messages)
    if plot is not None:
        save_chart(found.plot(), plot)
        show.talk(f"plot: {plot}")
    typer.echo(to_json(found.to_dict()) if as_json else as_text(found.tables()), nl=False)
    if sys.stderr.isatty() and not as_json:
        show.talk(f"wall time {found.wall_s:.2f} s")


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _tell_what_is_ignored(context: typer.Context, *, counts_messages: bool) -> None:
    """Warn of options that were given but do not count."""
    fidelity = context.params["fidelity"]
    for name, fidelities in _USED_BY.items():
        if _is_given(context, name) and fidelity not in fidelities:
            show.talk(f"warning: --{name} is for --fidelity {' and '.join(fidelities)}; {fidelity} leaves it out")
    if _is_given(context, "order") and (fidelity == "bound" or (fidelity == "fluid" and not counts_messages)):
        where = "" if fidelity == "bound" else " while --per-message is 0"
        show.talk(f"warning: --order does not count with --fidelity {fidelity}{where}; use --fidelity fifo")
    if _is_given(context, "message_size") and context.params["schedule"] != "low_latency":
        show.talk("warning: --message-size is for --schedule low_latency; it is left out")


def _check_plot(path: Path, *, is_sweep: bool, fidelity: str) -> None:
    """Refuse a plot that cannot be made before anything is computed."""
    from smoes_sim.display.charts import check_chart_file
    from smoes_sim.errors import ConfigError

    check_chart_file(path)
    if not is_sweep and fidelity != "fluid":
        raise ConfigError(
            f"--plot of one size shows links over time, which --fidelity {fidelity} does not record. "
            "Use --fidelity fluid, or plot a --sweep."
        )
