"""Print documents for people: tables on stdout, talk and progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from smoes_sim.errors import ConfigError
from smoes_sim.units import parse_bandwidth, parse_duration, parse_size, print_bandwidth

if TYPE_CHECKING:
    from smoes_sim.prediction.constants import Calibration, Parameter
    from smoes_sim.scenario import Scenario

Row = dict[str, Any]
_TCP_WINDOW = "65535 B (TCP's first)"
"""The default of ``fifo`` and ``packet`` (``network.fifo.TCP_WINDOW``) in words."""
_ROUNDING = 1e-12
"""Smaller errors are those of floating-point sums."""


def talk(text: str) -> None:
    """Say something that is not data."""
    typer.echo(text, err=True)


def duration(option: str, text: str) -> float:
    """A duration given as an option, in seconds."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"{option} = {error}") from None


def size(option: str, text: str) -> float:
    """A number of bytes given as an option."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise ConfigError(f"{option} = {error}") from None


def bandwidth(option: str, text: str) -> float:
    """A rate given as an option, in bytes per second."""
    try:
        return parse_bandwidth(text)
    except ValueError as error:
        raise ConfigError(f"{option} = {error}") from None


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing in a pipe; yields a function that takes how many are done."""
    if not sys.stderr.isatty() or total < 2:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress, TimeRemainingColumn

    with Progress(
        *Progress.get_default_columns()[:-1], TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Aligned columns, the first ``left`` of them to the left."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    text = ""
    for line in lines:
        cells = [
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text += "  ".join(cells).rstrip() + "\n"
    return text


def columns(rows: Sequence[Row]) -> str:
    """Dictionaries of equal keys as a table of words."""
    return table(list(rows[0]), [[str(value) for value in row.values()] for row in rows], left=len(rows[0]))


def pairs(document: Row) -> str:
    """A dictionary as one line a key."""
    width = max(len(key) for key in document)
    return "".join(f"{key.ljust(width)}  {_plain(value)}\n" for key, value in document.items())


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(_plain(part) for part in value)
    return str(value)


def percent(value: float | None) -> str:
    """A share in %, one decimal."""
    return "-" if value is None else f"{100 * value:.1f}"


def seconds(value: float | None) -> str:
    """Seconds with four digits, in s, ms or us."""
    if value is None:
        return "-"
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if value >= factor:
            return f"{value / factor:.4g} {unit}"
    return f"{value / 1e-6:.4g} us"


def _with_range(row: Row, key: str, form: Callable[[float], str]) -> str:
    if row.get(key) is None:
        return "-"
    interval = row["intervals"].get(key)
    return form(row[key]) + (f" [{form(interval[0])}, {form(interval[1])}]" if interval else "")


def prediction(row: Row) -> str:
    """One deployment."""
    rate = row["transmission_rate"] or {}
    shares = ", ".join(f"{name.replace('_', ' ')} {percent(value)}" for name, value in rate.items())
    remote, decode_remote = row["bytes_remote"] / 1e6, row["decode_bytes_remote"] / 1e6
    lines = {
        "deployment": f"{row['model']} on {row['topology']} ({row['ranks']} ranks), routing {row['policy']}",
        "expert placement": row["expert_placement"],
        "token placement": f"{row['token_placement']}, deduplication {row['deduplicate']}",
        "transmission rate (%)": shares or "-",
        "bytes between ranks": f"{remote:.4g} MB in prefill, {decode_remote:.4g} MB a decode step",
        "imbalance (max/mean)": f"{row['imbalance']:.3f} in prefill, {row.get('decode_imbalance', 1.0):.3f} in decode",
        "TTFT": _with_range(row, "ttft_s", seconds),
        "TPOT": _with_range(row, "tpot_s", seconds),
        "output tokens/s": _with_range(row, "tokens_per_s", "{:.4g}".format),
        "EP communication, prefill": f"{_with_range(row, 'ep_comm_s', seconds)}, bound {seconds(row['bound_s'])}",
        "EP exposed, prefill": _exposed(row, ""),
        **({"TP communication, prefill": _with_range(row, "tp_comm_s", seconds)} if row["tp_comm_s"] else {}),
        **({"mixed step": _with_range(row, "mixed_step_s", seconds)} if "mixed_step_s" in row else {}),
        "EP exposed, decode": _exposed(row, "decode_"),
        "memory": _memory(row["memory"]),
        "network error": _network_error(row),
        "not counted": ", ".join(row["not_counted"]),
    }
    return pairs(lines)


def _memory(memory: Row) -> str:
    """What the busiest rank needs, and what to do where it is too much."""
    needed = f"{memory['bytes_needed'] / 1e9:.4g} of {memory['bytes_usable'] / 1e9:.4g} GB on the busiest rank"
    if memory["fits"]:
        return f"{needed}; cache for {memory['cache_capacity_tokens']} tokens, {memory['cache_tokens']} used"
    ranks = memory["ranks_needed"]
    return f"does not fit: {needed}; " + (f"needs {ranks} ranks" if ranks else "no number of ranks helps")


def _network_error(row: Row) -> str:
    error = max(row["network_error"], row.get("decode_network_error", 0.0))
    late = max(row["lateness_s"], row.get("decode_lateness_s", 0.0))
    if error == 0.0 and late == 0.0:
        return "every rate change followed"
    return f"windows: exchanges within {error:.1g} of two runs with wider windows, messages late by at most {seconds(late)}"


def _exposed(row: Row, phase: str) -> str:
    share = _with_range(row, f"{phase}ep_overhead", percent)
    return f"{_with_range(row, f'{phase}ep_exposed_s', seconds)} = {share} % of the pass"


def comparison(rows: Sequence[Row], deployments: Sequence[tuple[str, Scenario]], *, baseline: int) -> str:
    """Several deployments: what is counted, then what is timed, then what is not known."""
    counted = [_counted(row) for row in rows]
    timed = [_timed(row) for row in rows]
    text = "What travels (share of tokens and layers that need another rank, %; bytes between ranks in prefill)\n"
    text += table(["routing", "experts", "tokens", "vision", "text", "V+T", "decode", "GB", "max/mean"], counted, left=3)
    text += "\nHow long it takes"
    text += _meaning_of_brackets(rows, deployments)
    text += table(
        ["routing", "experts", "tokens", "TTFT (s)", "TPOT (s)", "output tokens/s", "EP overhead of prefill (%)"],
        timed,
        left=3,
    )
    return text + _changes(rows, baseline) + _unknown(deployments)


def _meaning_of_brackets(rows: Sequence[Row], deployments: Sequence[tuple[str, Scenario]]) -> str:
    if not rows[0]["intervals"]:
        return "\n"
    if deployments[0][1].calibration is None:
        return " (middle, [both ends] of the efficiencies' stated ranges)\n"
    return " (median over the calibration's draws, [10%, 90%])\n"


def _counted(row: Row) -> list[str]:
    rate = row["transmission_rate"] or {}
    shares = [percent(rate.get(name)) for name in ("prefill_vision", "prefill_text", "prefill", "decode")]
    size = f"{row['bytes_remote'] / 1e9:.3f}"
    return [row["policy"], row["expert_placement"], row["token_placement"], *shares, size, f"{row['imbalance']:.2f}"]


def _timed(row: Row) -> list[str]:
    number = "{:.3g}".format
    return [
        row["policy"],
        row["expert_placement"],
        row["token_placement"],
        _with_range(row, "ttft_s", number),
        _with_range(row, "tpot_s", number),
        _with_range(row, "tokens_per_s", number),
        _with_range(row, "ep_overhead", percent),
    ]


def change(row: Row, key: str) -> str:
    """A relative change in % with its interval."""
    value, interval = row["change"].get(key), row["change"].get(f"{key}_interval")
    if value is None:
        return "-"
    return f"{100 * value:+.1f}" + (f" [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]" if interval else "")


def _changes(rows: Sequence[Row], baseline: int) -> str:
    keys = ("ttft_s", "tpot_s", "tokens_per_s", "ep_comm_s", "bytes_remote")
    body = [
        [row["policy"], row["expert_placement"], row["token_placement"], *(change(row, key) for key in keys)] for row in rows
    ]
    header = ["routing", "experts", "tokens", "TTFT", "TPOT", "output tokens/s", "EP time of prefill", "bytes"]
    base = f"row {baseline + 1}" if baseline else "the first row"
    return f"\nChange from {base} (%)\n" + table(header, body, left=3)


def _unknown(deployments: Sequence[tuple[str, Scenario]]) -> str:
    from smoes_sim.prediction.constants import load_calibration

    names = list(dict.fromkeys(scenario.calibration for _, scenario in deployments if scenario.calibration))
    return "".join("\n" + calibration(load_calibration(name)) for name in names)


def calibration(fitted: Calibration) -> str:
    """The constants of a calibration, and which of them the data leave open."""
    if fitted.scenario:
        known = ", ".join(f"{row.quantity.upper()} {row.seconds:g} s" for row in fitted.fitted_on)
        text = f"Constants fitted on {known} of {fitted.scenario} (standard routing); "
        text += f"{fitted.num_draws} sets explain all of it exactly\n"
    else:
        text = f"Constants fitted on {len(fitted.fitted_on)} rows; {fitted.num_draws} sets say how well they are known\n"
    return text + parameters(fitted.parameters)


def parameters(fitted: Mapping[str, Parameter]) -> str:
    """Fitted constants, one a line."""
    body = []
    for name, parameter in fitted.items():
        verdict = "pinned down" if parameter.identified else "NOT pinned down by these data"
        if parameter.traded_with:
            verdict += f", trades against {', '.join(parameter.traded_with)}"
        if parameter.prior is not None and not parameter.identified:
            verdict += f"; prior {parameter.prior:.3g}"
        meaning = f"{parameter.meaning} ({verdict})"
        body.append([name, f"{parameter.value:.3g}", f"{parameter.low:.3g}", f"{parameter.high:.3g}", meaning])
    return table(["constant", "median", "10%", "90%", "meaning"], body, left=5)


def save_comparison(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Plot a comparison as SVG and PNG; without the report extra say so and plot nothing."""
    from smoes_sim.display.charts import save_chart
    from smoes_sim.prediction.charts import comparison_chart

    try:
        chart = comparison_chart(rows)
    except ConfigError as error:
        talk(str(error))
        return []
    paths = [folder / "comparison.png", folder / "comparison.svg"]
    for path in paths:
        save_chart(chart, path)
    return paths


def alltoall(document: Row) -> str:
    """nccl-tests' columns with the bound beside them, what the answer rests on, and the busiest links."""
    rows = document["rows"]
    is_uneven = document["collective"] == "alltoallv"
    body = [
        [
            f"{row['size_bytes']:.0f}",
            f"{row['size_bytes'] / 4:.0f}",
            "float",
            "none",
            "-1",
            f"{row['time_s'] * 1e6:.2f}",
            f"{row['algbw_GBps']:.2f}",
            f"{row['busbw_GBps']:.2f}",
            *(f"{row[key] * 1e6:.2f}" for key in ("low_s", "high_s") if key in row),
            f"{row['bound_s'] * 1e6:.2f}",
            f"{row['flows']}",
            *([f"{row['mean_bytes']:.0f}"] if is_uneven else []),
        ]
        for row in rows
    ]
    header = ["size(B)", "count", "type", "redop", "root", "time(us)", "algbw(GB/s)", "busbw(GB/s)"]
    header += ["10%(us)", "90%(us)"] * ("low_s" in rows[0]) + ["bound(us)", "flows"]
    text = _alltoall_head(document) + table(header + ["mean(B)"] * is_uneven, body, left=0)
    if "hot_links" not in rows[-1]:
        return text
    return text + _hot_links(rows[-1], is_windowed=document["tolerance"] > 0)


def _alltoall_head(document: Row) -> str:
    """What was asked and what the answer rests on, as comments."""
    rows, fidelity = document["rows"], document["fidelity"]
    size = "what a rank sends" if document["collective"] == "alltoall" else "the most that a rank sends or receives"
    window = "no window" if document["window"] == "inf" else f"window {document['window'] or _TCP_WINDOW}"
    queues = f"{document['order']} order, {document['injection']} injection, {window}"
    model = {
        "bound": "bound (no schedule beats it)",
        "fluid": "fluid (links shared max-min fairly; no packets, no queues)",
        "fifo": f"fifo (chunks through ports, {queues})",
        "packet": f"packet (every packet, {queues})",
    }
    error = max(row["error_bound"] for row in rows)
    certainty = f"within {max(error, _ROUNDING):.1g} of two runs with wider windows" if error else "exact for this model"
    lines = [
        f"{document['collective']} on {document['topology']}: {document['ranks']} ranks, {rows[0]['links']} directed links; "
        + document["traffic"],
        f"size is {size}, its own block included" + ("; mean is what a rank sends" * (size != "what a rank sends")),
        f"schedule {document['schedule']}; {model[fidelity]}; error: {certainty}",
    ]
    if document["calibration"]:
        lines.append(f"constants of {document['calibration']}; 10% and 90% are the ends of the 80% interval")
    return "".join(f"# {line}\n" for line in lines)


def _hot_links(row: Row, *, is_windowed: bool) -> str:
    """Which links are busiest in one exchange, when, how full."""
    body = [
        [
            hot["link"],
            hot["kind"],
            f"{hot['bytes']:.0f}",
            print_bandwidth(float(f"{hot['capacity_Bps']:.6g}")),
            f"{hot['busy_s'] * 1e6:.2f}",
            percent(hot["utilisation"]),
            *("-" if hot[key] is None else f"{hot[key] * 1e6:.2f}" for key in ("first_s", "last_s", "full_s")),
        ]
        for hot in row["hot_links"]
    ]
    if not body:
        return "\n# no link carries anything\n"
    header = ["link", "kind", "bytes", "capacity", "busy(us)", "busy(%)", "first(us)", "last(us)", "full(us)"]
    size = f"{row['size_bytes']:.0f}"
    head = f"\n# busiest links at size {size} B; busy: bytes at full rate; first, last: in use; full: at 99.9% or more\n"
    if is_windowed and body[0][-1] != "-":
        head += "# first, last and full are to within a window in large cases; --tolerance 0 is exact\n"
    return head + table(header, body, left=2)
