"""``smoes-sim train``: a small vision-language model, trained for real, variant by variant and seed by seed."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from smoes_sim.cli import show
from smoes_sim.errors import ConfigError

_EXTRA = ("torch", "safetensors", "easy_vqa", "PIL")
_TRAFFIC = ("transmission_rate", "copies_per_token")
_RULES = ("data_parallel", "sharded", "modality", "affinity")
_WIDTH = 120
"""Columns of a line."""
Row = dict[str, Any]


def train(
    study: Annotated[str, typer.Argument(help="A shipped study or a file.")],
    overrides: Annotated[Optional[list[str]], typer.Argument(metavar="[KEY=VALUE]...")] = None,
    out: Annotated[Path, typer.Option(help="Folder of weights, traces and results; it is gone on with.")] = Path("study"),
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, one thread each.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Train every variant and seed of a study, measure routing and traffic, judge the claims."""
    from smoes_sim.learning.study_file import load_study
    from smoes_sim.results.write import to_json
    from smoes_sim.yaml_files import write_bytes

    loaded = load_study(study, overrides or [])
    if missing := [name for name in _EXTRA if find_spec(name) is None]:
        raise ConfigError(f"train needs {', '.join(missing)}. Install them with: pip install 'smoes-sim[learning]'")
    from smoes_sim.learning.study import run_study, total_steps
    from smoes_sim.learning.summary import summarise

    with show.progress("steps", total_steps(loaded)) as advance:
        measured = run_study(loaded, out, jobs=jobs, on_steps=advance, on_unit=_say)
    document = summarise(loaded, measured)
    as_bytes = to_json(document)
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
    from smoes_sim.display.charts import save_chart
    from smoes_sim.learning.charts import share_chart

    seed = min(measured[claim.first])
    chosen = {name: measured[name][seed] for name in (claim.second, claim.first)}
    if not all("msi" in result["sets"]["test"] for result in chosen.values()):
        return ""
    path = out / "modality-share.png"
    save_chart(share_chart({name.replace("_", " "): result for name, result in chosen.items()}), path)
    return f"\nplot: {path}\n"


def tables(document: Row) -> str:
    """The study as four tables of at most 120 columns, each number as mean and standard deviation over the seeds."""
    text = f"What was learned: mean (standard deviation) over {len(document['seeds'])} seeds; max/mean: busiest expert; "
    text += "K: experts of a token\n" + _learned(document)
    text += "\n" + _traffic_head(document) + _traffic(document)
    if document["claims"]:
        text += f"\nClaims over {document['ranks']} ranks: differences paired by seed, their mean and 95% interval. "
        text += "A part is supported or refuted\nif its whole interval is on one side; max/mean: busiest rank\n"
        text += _claims(document)
    text += f"\nOther task mixes over {document['ranks']} ranks: experts placed by training counts, ranks that serve text "
    text += "chosen on the mix of training.\nvision: tokens (%); right: questions (%); by where tokens live: "
    text += "tokens and layers that need another rank (%)\n"
    return text + _mixes(document)


def _learned(document: Row) -> str:
    header = ["variant", "questions %", "next token %", "bits/byte", "MSI", "MSI per layer", "max/mean", "K", "CPU s"]
    rows = []
    for name, variant in document["variants"].items():
        spread = variant["spread"]
        layers = variant["msi_per_layer"]
        rows.append(
            [
                name,
                _spread(spread["accuracy"], 100, 1),
                _spread(spread["language_accuracy"], 100, 1),
                _spread(spread["bits_per_byte"], 1, 2),
                _spread(spread.get("msi"), 1, 2),
                " ".join(f"{value:.2f}" for value in layers) if layers else "-",
                _spread(spread.get("expert_imbalance"), 1, 2),
                _mean(spread.get("experts_per_token"), 1, 1),
                _mean(spread["train_cpu_seconds"], 1, 0),
            ]
        )
    return show.table(header, rows)


def _traffic_head(document: Row) -> str:
    """What the table of traffic says, and how the experts of each variant are placed."""
    text = "Traffic of the test set, by where tokens live: tokens and layers that need another rank (%), MB between ranks\n"
    text += "(mean; dispatch and combine in bf16); max/mean: busiest rank\n"
    for rule, words in (("contiguous", "in the model's order"), ("bins", "sorted by the modality of their training tokens")):
        names = [name for name, variant in document["variants"].items() if variant["expert_placement"] == rule]
        if names:
            text += textwrap.fill(f"experts {words}: {', '.join(names)}", _WIDTH, subsequent_indent="  ") + "\n"
    return text


def _traffic(document: Row) -> str:
    header = ["", *(cell for rule in _RULES for cell in (rule, "MB")), "max/mean"]
    blocks: dict[str, list[list[str]]] = {}
    for name, variant in document["variants"].items():
        own = [row for row in variant["placements"] if row["experts"] == variant["expert_placement"]]
        for ranks in sorted({row["ranks"] for row in own}):
            here = {row["tokens"]: row for row in own if row["ranks"] == ranks}
            cells = [name]
            for rule in _RULES:
                cells += [_spread(here[rule]["transmission_rate"], 100, 1), _mean(here[rule]["bytes_remote"], 1e-6, 1)]
            blocks.setdefault(f"{ranks} ranks", []).append([*cells, _spread(here[_RULES[0]]["imbalance"], 1, 2)])
    return _blocks(header, sorted(blocks.items(), key=lambda block: int(block[0].split()[0])))


def _claims(document: Row) -> str:
    """A row per part; what does not depend on where tokens live is said once per claim."""
    header = ["tokens live", "together", "part", "wanted", "by seed", "mean", "95% interval", "this part"]
    blocks: dict[str, list[list[str]]] = {}
    for claim in document["claims"]:
        load = " -> ".join("-" if value is None else f"{value:.2f}" for value in reversed(claim["imbalance"].values()))
        rows = blocks.setdefault(f"{claim['claim']}: {claim['first']} - {claim['second']} (max/mean {load})", [])
        parts = [part for part in claim["parts"] if not rows or part["measure"] in _TRAFFIC]
        for number, part in enumerate(parts):
            tokens = claim["token_placement"] if part["measure"] in _TRAFFIC else "anywhere"
            head = [tokens, claim["verdict"]] if number == 0 else ["", ""]
            interval = part["interval"]
            rows.append(
                [
                    *head,
                    part["measure"],
                    part["wanted"],
                    " ".join(f"{difference:+.3f}" for difference in part["differences"]),
                    f"{part['mean']:+.3f}",
                    f"{interval[0]:+.3f} to {interval[1]:+.3f}" if interval else "-",
                    part["verdict"],
                ]
            )
    return _blocks(header, list(blocks.items()), left=3)


def _mixes(document: Row) -> str:
    header = ["", "vision", "right", "MSI", "max/mean", *_RULES]
    blocks: dict[str, list[list[str]]] = {}
    for row in document["other_mixes"]:
        blocks.setdefault(row["variant"], []).append(
            [
                row["set"],
                f"{100 * row['vision_share']:.0f}",
                _spread(row["accuracy"], 100, 1),
                _spread(row["msi"], 1, 2),
                _spread(row["imbalance"], 1, 2),
                *(_spread(row["transmission_rate"][rule], 100, 1) for rule in _RULES),
            ]
        )
    return _blocks(header, list(blocks.items()))


def _blocks(header: list[str], blocks: Sequence[tuple[str, list[list[str]]]], *, left: int = 1) -> str:
    """One table whose columns are aligned throughout, with a heading above each block of rows."""
    rows = [[f"  {row[0]}", *row[1:]] for _, block in blocks for row in block]
    lines = show.table([f"  {header[0]}", *header[1:]], rows, left=left).splitlines()
    text, done = lines[0] + "\n", 1
    for heading, block in blocks:
        text += (
            textwrap.fill(heading, _WIDTH, subsequent_indent="  ")
            + "\n"
            + "".join(f"{line}\n" for line in lines[done : done + len(block)])
        )
        done += len(block)
    return text


def _spread(value: Row | None, factor: float, digits: int) -> str:
    if value is None or value["sd"] is None:
        return _mean(value, factor, digits)
    return f"{_mean(value, factor, digits)} ({factor * value['sd']:.{digits}f})"


def _mean(value: Row | None, factor: float, digits: int) -> str:
    return "-" if value is None else f"{factor * value['mean']:.{digits}f}"
