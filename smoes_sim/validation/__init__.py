"""How large are the errors of predictions against measurements?

``validate`` compares predictions with measured rows, ``published`` does so for the shipped measurements of public systems
with whole systems left out of the fit. ``errors`` and ``result`` are what both return, ``chart`` draws it.
"""

from smoes_sim.validation.published import PublishedValidation, published_errors
from smoes_sim.validation.result import Validation
from smoes_sim.validation.validate import validate_table

__all__ = ["PublishedValidation", "Validation", "published_errors", "validate_table"]
