"""What every public function returns: typed fields, and the same ways to print, plot and hand on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from smoes_sim.display.tables import Table, as_html, as_text
from smoes_sim.errors import ConfigError

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd
    import polars as pl


class Result(ABC):
    """Base of results: their fields are typed, ``print`` shows the command's table."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The JSON document that the command prints with ``--json``."""

    @abstractmethod
    def records(self) -> list[dict[str, Any]]:
        """The rows of :meth:`to_polars`, one flat dictionary each; units stand in the names."""

    @abstractmethod
    def tables(self) -> Sequence[Table]:
        """What is printed."""

    def to_polars(self) -> pl.DataFrame:
        """The rows as a polars frame."""
        import polars as pl

        return pl.DataFrame(self.records(), infer_schema_length=None)

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a pandas frame.

        Raises:
            ConfigError: If pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError:
            raise ConfigError("to_pandas needs pandas. Install it: pip install 'smoes-sim[report]'.") from None
        return pd.DataFrame(self.to_polars().to_dict(as_series=False))

    def plot(self) -> alt.TopLevelMixin:
        """An Altair chart of the result.

        Raises:
            ConfigError: If the plotting libraries are not installed, or there is nothing to plot.
        """
        raise ConfigError(f"a {type(self).__name__} has no plot. Use to_polars() and plot its columns.")

    def __repr__(self) -> str:
        return as_text(self.tables()).rstrip("\n")

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return as_html(self.tables())


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """One level of columns: nested keys joined by ``_``, intervals as ``_low`` and ``_high``, lists of words by commas.

    Example:
        >>> flat({"a": {"b": 1}, "t": [1.0, 2.0], "words": ["x", "y"]})
        {'a_b': 1, 't_low': 1.0, 't_high': 2.0, 'words': 'x, y'}
    """
    columns: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            columns |= {f"{key}_{name}": part for name, part in flat(value).items()}
        elif isinstance(value, list) and len(value) == 2 and all(isinstance(part, float) for part in value):
            columns[f"{key}_low"], columns[f"{key}_high"] = value
        else:
            columns[key] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return columns
