"""``smoes-sim train``: a small vision-language model, trained for real, variant by variant and seed by seed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from smoes_sim.cli import show
from smoes_sim.errors import ConfigError

_EXTRA = ("torch", "safetensors", "easy_vqa", "PIL")
_TRAFFIC = ("transmission_rate", "copies_per_token")
_RULES = ("data_parallel", "sharded", "modality", "affinity")
Row = dict[str, Any]


def train(
    study: Annotated[str, typer.Argument(help="A shipped study or a file.")],
    overrides: Annotated[Optional[list[str]], typer.Argument(metavar="[KEY=VALUE]...")] = None,
    out: Annotated[Path, typer.Option(help="Folder of weights, traces and results; it is gone on with.")] = Path("study"),
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, one thread each.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Train every variant and seed of a study, measure routing and traffic, judge the claims."""
    from smoes_sim import results
    from smoes_sim.files import write_bytes
    from smoes_sim.learning.study_file import load_study

    loaded = load_study(study, overrides or [])
    if missing := [name for name in _EXTRA if find_spec(name) is None]:
        raise ConfigError(f"train needs {', '.join(missing)}. Install them with: pip install 'smoes-sim[learning]'")
    from smoes_sim.learning.study import run_study, total_steps
    from smoes_sim.learning.summary import summarise

    with show.progress("steps", total_steps(loaded)) as advance:
        measured = run_study(loaded, out, jobs=jobs, on_steps=advance, on_unit=_say)
    document = summarise(loaded, measured)
    as_bytes = results.to_json(document)
    write_bytes(out / "summary.json", as_bytes)
    plot = _plot(loaded.claims[0] if loaded.claims else None, measured, out)
    typer.echo(as_bytes if as_json else tables(document) + plot, nl=False)


def _say(name: str, seed: int, result: Row) -> None:
    test = result["sets"]["test"]
    msi = f", specialisation {test['msi']:.3f}" if "msi" in test else ""
    show.talk(f"{name}, seed {seed}: {result['accuracy']:.1%} of questions right{msi}")


def _plot(claim: Any, measured: dict[str, dict[int, Row]], out: Path) -> str:
    """Draw the second and the first variant of the first claim, before and after, if plotting is installed."""
    if claim is None or find_spec("altair") is None or find_spec("vl_convert") is None:
        return ""
    from smoes_sim.learning.charts import share_chart
    from smoes_sim.report.charts import save_chart

    seed = min(measured[claim.first])
    chosen = {name: measured[name][seed] for name in (claim.second, claim.first)}
    if not all("msi" in result["sets"]["test"] for result in chosen.values()):
        return ""
    path = out / "modality-share.png"
    save_chart(share_chart({name.replace("_", " "): result for name, result in chosen.items()}), path)
    return f"\nplot: {path}\n"


def tables(document: Row) -> str:
    """The study as tables: learned, traffic, claims, other mixes."""
    seeds = len(document["seeds"])
    text = f"What was learned (mean +- standard deviation over {seeds} seeds)\n" + _learned(document)
    text += "\nTraffic of the test set (tokens and layers that need another rank, %, by where tokens live; "
    text += "MB between ranks, dispatch and combine in bf16; busiest rank / mean rank)\n" + _traffic(document)
    if document["claims"]:
        text += "\nClaims (differences paired by seed; supported or refuted if the 95% interval says so)\n" + _claims(
            document
        )
    return text + f"\nOther task mixes ({document['ranks']} ranks, experts placed by training counts)\n" + _mixes(document)


def _learned(document: Row) -> str:
    header = ["variant", "questions %", "next token %", "bits/byte", "MSI", "MSI per layer", "expert max/mean", "K", "CPU s"]
    rows = []
    for name, variant in document["variants"].items():
        spread = variant["spread"]
        layers = variant["msi_per_layer"]
        rows.append(
            [
                name,
                _spread(spread["accuracy"], 100, 1),
                _spread(spread["language_accuracy"], 100, 1),
                _spread(spread["bits_per_byte"], 1, 3),
                _spread(spread.get("msi"), 1, 2),
                " ".join(f"{value:.2f}" for value in layers) if layers else "-",
                _spread(spread.get("expert_imbalance"), 1, 2),
                _spread(spread.get("experts_per_token"), 1, 1),
                _spread(spread["train_cpu_seconds"], 1, 0),
            ]
        )
    return show.table(header, rows)


def _traffic(document: Row) -> str:
    header = ["variant", "experts", "ranks"]
    header += [f"{rule} %" for rule in _RULES] + [f"{rule} MB" for rule in _RULES] + ["max/mean"]
    rows = []
    for name, variant in document["variants"].items():
        own = [row for row in variant["placements"] if row["experts"] == variant["expert_placement"]]
        for ranks in sorted({row["ranks"] for row in own}):
            here = {row["tokens"]: row for row in own if row["ranks"] == ranks}
            cells = [_spread(here[rule]["transmission_rate"], 100, 1) for rule in _RULES]
            cells += [_spread(here[rule]["bytes_remote"], 1e-6, 1) for rule in _RULES]
            cells.append(_spread(here[_RULES[0]]["imbalance"], 1, 2))
            rows.append([name, variant["expert_placement"], str(ranks), *cells])
    return show.table(header, rows, left=2)


def _claims(document: Row) -> str:
    """A row per part; what does not depend on where tokens live is said once per claim."""
    rows, previous = [], ""
    for claim in document["claims"]:
        is_first = claim["claim"] != previous
        imbalance = [claim["imbalance"][name] for name in (claim["second"], claim["first"])]
        load = " -> ".join("-" if value is None else f"{value:.2f}" for value in imbalance)
        parts = [part for part in claim["parts"] if is_first or part["measure"] in _TRAFFIC]
        for number, part in enumerate(parts):
            head = ["", "", "", ""]
            if number == 0:
                tokens = claim["token_placement"] if part["measure"] in _TRAFFIC else "any"
                head = [claim["claim"] if is_first else "", tokens, claim["verdict"], load]
            differences = " ".join(f"{difference:+.3f}" for difference in part["differences"])
            rows.append([*head, part["measure"], differences, _spread(part, 1, 3), part["verdict"]])
        previous = claim["claim"]
    header = ["claim", "tokens", "verdict", "max/mean", "measure", "first - second by seed", "mean", "this part"]
    return show.table(header, rows, left=5)


def _mixes(document: Row) -> str:
    header = ["variant", "mix", "vision %", "questions %", "MSI", "max/mean", *(f"{rule} %" for rule in _RULES)]
    rows = [
        [
            row["variant"],
            row["set"],
            f"{100 * row['vision_share']:.0f}",
            _spread(row["accuracy"], 100, 1),
            _spread(row["msi"], 1, 2),
            _spread(row["imbalance"], 1, 2),
            *(_spread(row["transmission_rate"][rule], 100, 1) for rule in _RULES),
        ]
        for row in document["other_mixes"]
    ]
    return show.table(header, rows, left=2)


def _spread(value: Row | None, factor: float, digits: int) -> str:
    if value is None:
        return "-"
    deviation = "" if value["sd"] is None else f" +- {factor * value['sd']:.{digits}f}"
    return f"{factor * value['mean']:.{digits}f}{deviation}"
