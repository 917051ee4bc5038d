"""Errors on the published systems, as text: every split by family and by system, never one mean over all."""

from __future__ import annotations

from typing import Any

from smoes_sim.cli import show
from smoes_sim.display.tables import percent

_COLUMNS = ("median_ape", "p90_ape", "max_ape", "coverage")


def published_text(document: dict[str, Any]) -> str:
    """The tables of :func:`smoes_sim.validation.published.published_errors`."""
    from smoes_sim.validation.published import SPLITS

    text = (
        f"Absolute relative error (%) on {document['calibrated_on']['rows']} published measurements; 80%: share inside the "
        "80% interval\nSame hardware at another site differs by 5-12%: the floor of any error\n"
    )
    by_system = {"system": "each left out whole", "size": "sizes left out"}
    for name, words in SPLITS.items():
        text += f"\n{name}: {words}\n" + _table("family", document["splits"][name]["families"])
        if name in by_system:
            text += f"\nby system, {by_system[name]}\n" + _table("system", document["splits"][name]["systems"])
    return text


def _table(what: str, groups: dict[str, dict[str, Any]]) -> str:
    body = [[name, str(errors["n"]), *(percent(errors[key]) for key in _COLUMNS)] for name, errors in groups.items()]
    return show.table([what, "n", "median", "p90", "worst", "80%"], body)
