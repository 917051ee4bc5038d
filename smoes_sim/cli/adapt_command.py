"""``smoes-sim adapt``: experts placed anew while the mix of modalities drifts."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from smoes_sim.cli import show
from smoes_sim.cli.first_use import compilation_told
from smoes_sim.errors import ConfigError

_EXAMPLE = "Write for example"


def adapt(
    scenario: Annotated[str, typer.Argument(help="A shipped scenario or a file.")],
    overrides: Annotated[
        Optional[list[str]], typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as placement.experts=eplb.")
    ] = None,
    windows: Annotated[int, typer.Option(min=2, help="Stretches of time; each has one mix.")] = 16,
    steps: Annotated[int, typer.Option(min=1, help="Prefill steps of a window.")] = 100,
    every: Annotated[str, typer.Option(help="Windows between re-placements, one or more to compare.")] = "1,2,4,8",
    images: Annotated[
        Optional[str], typer.Option(metavar="FIRST:LAST", help="Share of sequences with images over time [1:0].")
    ] = None,
    out: Annotated[Optional[Path], typer.Option(help="Folder for Parquet, JSON, SVG and PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Place experts anew as the mix of modalities drifts: time saved, weights moved, break-even."""
    from smoes_sim.adaptation.adapt import adapt as compare
    from smoes_sim.results.write import to_json, write_tables
    from smoes_sim.scenario import load_scenario

    loaded = load_scenario(scenario, overrides or [])
    if loaded.routing.trace is not None and images is not None:
        raise ConfigError(f"--images {images}: the mix is that of routing.trace = {loaded.routing.trace}. Leave one out.")
    with compilation_told(may_compile=True), show.progress("sets of constants", 16) as advance:
        document = compare(
            loaded, windows=windows, steps=steps, every=_every(every, windows), images=_images(images), on_timed=advance
        )
    document = {"name": scenario} | document
    if out is not None:
        write_tables(out, document["over_time"], document)
        show.talk(f"results: {out / 'runs.parquet'}, {out / 'summary.json'}")
        _plot(document, out)
    typer.echo(to_json(document) if as_json else _text(document), nl=False)


def _every(text: str, windows: int) -> list[int]:
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise ConfigError(f"--every {text}: must be whole numbers of windows. {_EXAMPLE} --every 1,2,4.") from None
    if not 1 <= numbers[0] <= numbers[-1] < windows:
        raise ConfigError(f"--every {text}: each must be from 1 to {windows - 1}, below the {windows} windows.")
    return numbers


def _images(text: str | None) -> tuple[float, float]:
    try:
        first, last = (float(part) for part in (text or "1:0").split(":"))
    except ValueError:
        raise ConfigError(f"--images {text}: must be two shares. {_EXAMPLE} --images 1:0.") from None
    if not (0 <= first <= 1 and 0 <= last <= 1):
        raise ConfigError(f"--images {text}: a share is from 0 to 1. {_EXAMPLE} --images 0.9:0.1.")
    return first, last


def _text(document: Mapping[str, Any]) -> str:
    over_time, rows = document["over_time"], document["policies"]
    mix = [100 * over_time[index]["vision_share"] for index in (0, document["windows"] - 1)]
    head = (
        f"# {document['name']}: {document['rule']}, {document['spare']} spare slots a rank, tokens "
        f"{document['token_placement']}; vision {mix[0]:.0f}% -> {mix[1]:.0f}% of tokens over {document['windows']} windows "
        f"of {document['steps_per_window']} prefill steps\n"
        "# saved: against never; weights move between steps, or hidden behind them; break-even: steps from one to the next\n"
    )
    body = [
        [
            row["name"],
            f"{row['total_s']:.5g}",
            _percent(row, "saved"),
            _percent(row, "saved_if_hidden"),
            f"{row['imbalance']:.2f}",
            f"{row['bytes_remote_per_step'] / 1e9:.3f}",
            str(row["replacements"]),
            f"{row['moved_bytes'] / 1e9:.4g}",
            f"{row['moving_s']:.3g}",
            "-" if row["break_even_steps"] is None else f"{row['break_even_steps']:.3g}",
        ]
        for row in rows
    ]
    names = [
        "placed anew",
        "total (s)",
        "saved (%)",
        "if hidden (%)",
        "max/mean",
        "GB/step",
        "times",
        "moved (GB)",
        "moving (s)",
    ]
    return head + show.table([*names, "break-even"], body)


def _percent(row: Mapping[str, Any], key: str) -> str:
    ends = row["intervals"].get(key)
    return f"{100 * row[key]:+.1f}" + (" [{:+.1f}, {:+.1f}]".format(*(100 * end for end in ends)) if ends else "")


def _plot(document: Mapping[str, Any], out: Path) -> None:
    """Draw it, if plotting is installed; PNG beside SVG."""
    if find_spec("altair") is None or find_spec("vl_convert") is None:
        show.talk("no plot: pip install 'smoes-sim[report]'")
        return
    from smoes_sim.adaptation.charts import adaptation_chart
    from smoes_sim.display.charts import save_chart

    title = f"{document['name']}: {document['rule']}, {document['spare']} spare slots a rank"
    chart = adaptation_chart(document, title=title)
    for suffix in ("svg", "png"):
        save_chart(chart, out / f"adapt.{suffix}")
    show.talk(f"plot: {out / 'adapt.png'}")
