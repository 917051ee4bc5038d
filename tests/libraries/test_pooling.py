import math

import numpy as np
import pytest
from scipy.optimize import minimize

from smoes_sim.libraries.families import prepare_case
from smoes_sim.libraries.family import Constant, kind_of
from smoes_sim.libraries.pooling import NOISE, FittedPool, PreparedCase, fit, terms_of
from tests.libraries.rows import row

SIZES = [2.0**power for power in range(10, 32, 3)]
PRIORS = FittedPool(deviations={}, covariance=np.zeros((0, 0)))


def prepared(system: str, size: float, *, seconds: float | None, **columns: object) -> PreparedCase:
    found = prepare_case(row(system=system, size=size, duration=seconds, **columns))
    assert isinstance(found, PreparedCase)
    return found


def times(system: str, factor: float, **columns: object) -> list[PreparedCase]:
    """A system whose every time is the priors' times ``factor``."""
    without = [prepared(system, size, seconds=None, **columns) for size in SIZES]
    return [
        prepared(system, size, seconds=factor * PRIORS.predict(bare)[0], **columns)
        for size, bare in zip(SIZES, without, strict=True)
    ]


def test_kinds_of_classes() -> None:
    assert [kind_of(name) for name in ("nvlink4", "nvlink5_mnnvl", "pcie5", "efa", "")] == [
        "nvlink",
        "nvlink",
        "pcie",
        "efa",
        "",
    ]


def test_a_share_moves_by_its_logit_and_stays_below_one() -> None:
    share = Constant(what="share", prior=0.8, spread=1.0, between=1.0, meaning="", is_share=True)
    # logit ln 4 + ln 2: 8 / 9
    assert share.moved(0.8, math.log(2)) == pytest.approx(8 / 9)
    assert share.moved(0.8, 30.0) <= 1


def test_a_fit_explains_the_fitted_rows() -> None:
    members = times("8x One", 1.3)
    fitted = fit(members)
    # small blocks: launch moves freely; large ones: a share of 0.8 can fall
    assert [fitted.predict(member)[0] for member in members] == pytest.approx(
        [member.measured for member in members], rel=0.06
    )


def test_the_fit_is_the_mode_that_a_general_optimiser_finds() -> None:
    # the model once more in plain words: soft-L1 of residuals over NOISE plus squared deviations over their spreads
    members = [*times("8x One", 1.3)[::4], *times("8x Two", 0.8)[::4]]
    terms = [terms_of(member.family, member.case) for member in members]
    spreads = {key: spread for needed in terms for term in needed for key, spread in term.chain}

    def cost(values: np.ndarray) -> float:
        moved = dict(zip(spreads, values, strict=True))
        total = sum((moved[key] / spread) ** 2 for key, spread in spreads.items())
        for member, needed in zip(members, terms, strict=True):
            constants = {term.name: term.value(sum(moved[key] for key, _ in term.chain)) for term in needed}
            seconds = member.family.duration(member.case, member.stages, constants)
            residual = math.log(seconds / member.measured) / NOISE
            total += 2 * (math.sqrt(1 + residual**2) - 1)
        return total

    fitted = np.array(list(fit(members).deviations.values()))
    found = minimize(cost, np.zeros(len(spreads)), method="L-BFGS-B", options={"maxfun": 10**6})
    assert cost(fitted) == pytest.approx(found.fun, rel=1e-3)
    assert fitted == pytest.approx(found.x, abs=0.02)


def test_a_new_system_profits_from_systems_of_its_class() -> None:
    fitted = fit([*times("8x One", 1.3), *times("8x Two", 1.3)])
    stranger = prepared("8x Renamed", 2.0**28, seconds=None)
    seconds, deviation = fitted.predict(stranger)
    before, wide = PRIORS.predict(stranger)
    assert 1.1 < seconds / before < 1.35
    assert NOISE < deviation < wide


def test_predictions_farther_from_the_data_are_less_certain() -> None:
    fitted = fit([*times("8x One", 1.2), *times("8x Two", 1.2)])
    sure = fitted.predict(prepared("8x One", 2.0**28, seconds=None))[1]
    stranger = fitted.predict(prepared("8x Three", 2.0**28, seconds=None))[1]
    other_software = fitted.predict(prepared("8x Three", 2.0**28, seconds=None, library="a new library"))[1]
    other_class = fitted.predict(
        prepared("8x Three", 2.0**28, seconds=None, library="a new library", intra_link="a new bus")
    )[1]
    assert sure < stranger < other_software < other_class


def test_an_outlier_has_less_influence_than_its_distance() -> None:
    members = times("8x One", 1.0)
    wild = [*members[:-1], prepared("8x One", SIZES[-1], seconds=100 * (members[-1].measured or 0.0))]
    shift = math.log(fit(wild).predict(members[-2])[0] / (members[-2].measured or 0.0))
    assert 0 <= shift < 0.5


def test_without_measurements_the_priors_remain() -> None:
    assert fit([]).deviations == {}
    assert PRIORS.constants(*_family_and_case())["launch.nvlink4"] == pytest.approx(6.6e-6)


def _family_and_case() -> tuple[object, object]:
    found = prepared("8x One", 1024.0, seconds=None)
    return found.family, found.case
