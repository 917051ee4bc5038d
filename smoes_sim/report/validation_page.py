"""The page of a validation: one HTML file that needs no other file, readable offline and on a phone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from smoes_sim.display.tables import percent, seconds
from smoes_sim.errors import ConfigError
from smoes_sim.report.inline import with_own_ids
from smoes_sim.report.page import picture, table_html, write_page
from smoes_sim.report.validation_charts import histogram_svg, page_rows, residual_svg, scatter_svg
from smoes_sim.validation.errors import ErrorSummary, SkippedRow, ValidatedRow
from smoes_sim.validation.result import Validation
from smoes_sim.version import __version__

_WORST = 12
_BETWEEN_SITES = 0.08
"""Same hardware at another site differs by 5-12% (docs/accuracy/predicted-vs-measured.md): the floor without repeats."""
_HEADER = ("rows", "median (%)", "mean (%)", "90th percentile (%)", "worst (%)", "inside 80% interval (%)")


def write_validation_page(result: Validation, path: Path, *, measurements: str, calibration: str) -> None:
    """Write the page of a validation.

    Args:
        result: The validation.
        path: File to write.
        measurements: Name of the table, for the title.
        calibration: Name of the calibration; "" without one.

    Raises:
        ConfigError: If nothing was predicted, or the file cannot be written.
    """
    if not result.rows:
        raise ConfigError(
            f"{measurements}: no row could be predicted, so there is nothing to report. See the reasons above."
        )
    body = "\n".join(_sections(result, measurements, calibration))
    write_page(path, "plain.html", title=f"Predicted and measured: {measurements}", body=picture(body))


def _sections(result: Validation, measurements: str, calibration: str) -> Iterable[str]:
    yield f"<h1>Predicted and measured: {escape(measurements)}</h1>"
    yield f'<p class="answer">{escape(_answer(result))}</p>'
    yield f'<p class="soft">{escape(_basis(result, calibration))}</p>'
    yield "<h2>Errors by family</h2>" + _errors_table("family", result.families)
    if len(result.systems) > 1:
        yield "<h2>Errors by system</h2>" + _errors_table("system", result.systems)
    yield "<h2>Every row</h2>" + _charts(result)
    yield "<h2>Largest errors and possible causes</h2>" + _worst(result.held_out)
    if result.in_sample:
        yield "<h2>In-sample: rows that were fitted</h2>" + _errors_table("family", result.in_sample)
    yield _all_rows(result.rows) + _skipped(result.skipped)
    yield f'<p class="soft">smoes_sim {escape(__version__)}</p>'


def _answer(result: Validation) -> str:
    """The first sentence: best and worst family by median error, and the interval's coverage."""
    families = result.families
    if not families:
        return "Every row here was fitted, so these rows cannot tell how wrong predictions are."
    ordered = sorted(families, key=lambda name: families[name].median_ape)
    best, worst = ordered[0], ordered[-1]
    text = f"The median error is {percent(families[best].median_ape)} % for {best} ({families[best].n} rows)"
    if best != worst:
        text += f" and {percent(families[worst].median_ape)} % for {worst} ({families[worst].n} rows)"
    inside = [row.inside for row in result.held_out if row.inside is not None]
    if inside:
        text += f"; {percent(sum(inside) / len(inside))} % of {len(inside)} measurements lie inside their 80% interval"
    return text + "."


def _basis(result: Validation, calibration: str) -> str:
    known = result.calibrated_on
    if known is None:
        return "Predicted at nominal link rates; nothing was fitted."
    if known.left_out:
        return f"Each {known.left_out} was predicted with constants fitted on the others. Made with: {known.command}"
    text = f"Constants: {calibration}, fitted on {known.rows} rows, which are counted apart (triangles)."
    if not known.same_file:
        text += " They come from another file, or this one has changed since; fitted rows are recognised by id and time."
    if known.open:
        text += f" Not pinned down by the fit: {', '.join(known.open)}."
    return text + f" Made with: {known.command}"


def _charts(result: Validation) -> str:
    rows = page_rows(result.rows)
    floor = result.repeatability
    words = "half the range of repeats" if floor else "5-12% between sites, see docs/accuracy/predicted-vs-measured.md"
    floor = floor or _BETWEEN_SITES
    band = f"dashed: identity; grey band: repeatability, +-{100 * floor:.2g}% ({words})"
    charts = [(f"Predicted over measured time; {band}", scatter_svg(result.rows, floor=floor))]
    if result.held_out:
        charts.append(("Relative error of rows that were not fitted", histogram_svg(rows)))
    if any(row["size"] for row in rows):
        charts.append(("Error over size: bytes that a rank sends", residual_svg(rows, key="size", title="bytes per rank")))
    charts.append(("Error over ranks", residual_svg(rows, key="ranks", title="ranks")))
    charts.append(("Error by system", residual_svg(rows, key="system", title="")))
    figures = (
        f"<figure><figcaption>{escape(caption)}</figcaption>{with_own_ids(svg, index)}</figure>"
        for index, (caption, svg) in enumerate(charts)
    )
    return f'<div class="charts">{"".join(figures)}</div>'


def _errors_table(what: str, groups: Mapping[str, ErrorSummary]) -> str:
    if not groups:
        return '<p class="soft">No row.</p>'
    rows = [
        [
            name,
            str(known.n),
            *map(percent, (known.median_ape, known.mape, known.p90_ape, known.max_ape, known.coverage)),
        ]
        for name, known in groups.items()
    ]
    return table_html([what, *_HEADER], rows)


def _worst(held_out: Sequence[ValidatedRow]) -> str:
    ordered = sorted(held_out, key=lambda row: (-abs(row.relative_error), row.id))[:_WORST]
    body = [
        [row.id, row.system, *_times(row), f"{100 * row.relative_error:+.1f}", row.doubt or "no known cause"]
        for row in ordered
    ]
    header = ["row", "system", "measured", "predicted", "80% interval", "error (%)", "possible cause"]
    return table_html(header, body, left=2, words=[6]) if body else '<p class="soft">No row.</p>'


def _all_rows(rows: Sequence[ValidatedRow]) -> str:
    body = [
        [
            row.id,
            row.family,
            row.system,
            *_times(row),
            f"{100 * row.relative_error:+.1f}",
            "fitted" if row.in_sample else "held out",
        ]
        for row in rows
    ]
    header = ["row", "family", "system", "measured", "predicted", "80% interval", "error (%)", "use"]
    return f"<details><summary>All {len(rows)} rows</summary>{table_html(header, body, left=3)}</details>"


def _skipped(skipped: Sequence[SkippedRow]) -> str:
    if not skipped:
        return ""
    reasons = Counter(row.reason for row in skipped)
    body = [[reason, str(count)] for reason, count in reasons.items()]
    return f"<details><summary>{len(skipped)} rows were skipped</summary>{table_html(['reason', 'rows'], body)}</details>"


def _times(row: ValidatedRow) -> list[str]:
    interval = "-" if row.low_s is None or row.high_s is None else f"{seconds(row.low_s)} to {seconds(row.high_s)}"
    return [seconds(row.measured_s), seconds(row.predicted_s), interval]
