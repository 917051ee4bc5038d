"""The fit on a model in closed form: t = exchange + messages * message + size / (efficiency * rate)."""

import numpy as np
import pytest

from smoes_sim.calibration.least_squares import Problem, error_spread, log_scatter, robust_spread, solve
from smoes_sim.prediction.constants import interval_of

TRUTH = np.log([600e-6, 300e-6, 0.9])
RATE = 12.5e6
SIZES = np.geomspace(1e4, 1e7, 12)
MESSAGES = np.tile([1.0, 3.0, 7.0], 4)


def times(x: np.ndarray, sizes: np.ndarray, messages: np.ndarray) -> np.ndarray:
    exchange, message, efficiency = np.exp(x)
    return np.log(exchange + message * messages + sizes / (efficiency * RATE))


def problem(
    measured: np.ndarray, sizes: np.ndarray = SIZES, messages: np.ndarray = MESSAGES, kinds: np.ndarray | None = None
) -> Problem:
    return Problem(
        log_times=lambda x: times(x, sizes, messages),
        measured=measured,
        scatter=np.zeros(len(measured)),
        middle=np.log([30e-6, 3e-6, 0.8]),
        spread=np.array([2.3, 2.3, 0.4]),
        most=np.array([np.inf, np.inf, 0.0]),
        powers=np.array([1.0, 1.0, -1.0]),
        groups=np.arange(len(measured)),
        kinds=np.zeros(len(measured), dtype=int) if kinds is None else kinds,
    )


def test_the_constants_behind_the_data_are_recovered() -> None:
    solution = solve(problem(times(TRUTH, SIZES, MESSAGES)), num_draws=8, rng=np.random.default_rng(0))
    assert np.exp(solution.best - TRUTH) == pytest.approx(np.ones(3), rel=2e-3)


def test_one_outlier_has_little_influence() -> None:
    measured = times(TRUTH, SIZES, MESSAGES) + 0.01 * np.random.default_rng(1).standard_normal(12)
    measured[4] += np.log(3.0)  # a repeat that something disturbed
    solution = solve(problem(measured), num_draws=8, rng=np.random.default_rng(0))
    assert np.exp(solution.best - TRUTH) == pytest.approx(np.ones(3), rel=0.1)


def test_intervals_cover_the_truth_and_80_percent_of_held_out_cases() -> None:
    rng = np.random.default_rng(2)
    sizes, messages = np.exp(rng.uniform(np.log(1e4), np.log(1e7), 40)), rng.integers(1, 8, 40).astype(float)
    fitted, count = np.repeat(SIZES, 2), np.repeat(MESSAGES, 2)
    inside, truths = [], []
    for seed in range(16):
        noise = np.random.default_rng(100 + seed)
        solution = solve(
            problem(times(TRUTH, fitted, count) + 0.03 * noise.standard_normal(24), fitted, count),
            num_draws=24,
            rng=np.random.default_rng(seed),
        )
        low, high = np.percentile(solution.draws, [10, 90], axis=0)
        truths.append((low <= TRUTH) & (high >= TRUTH))
        held_out = np.exp(times(TRUTH, sizes, messages) + 0.03 * noise.standard_normal(40))
        drawn = np.exp([times(draw, sizes, messages) for draw in solution.draws])
        for case, measured in enumerate(held_out):
            _, bottom, top = interval_of(drawn[:, case], spread=solution.spread)
            inside.append(bottom <= measured <= top)
    assert 0.7 <= np.mean(inside) <= 0.9
    assert np.mean(truths) >= 0.6


def test_each_kind_of_row_has_its_own_error() -> None:
    kinds = np.repeat([0, 1, 2], [6, 4, 2])
    noise = np.where(kinds == 1, 0.2, 0.002) * np.tile([1.0, -1.0], 6)
    solution = solve(problem(times(TRUTH, SIZES, MESSAGES) + noise, kinds=kinds), num_draws=4, rng=np.random.default_rng(0))
    calm, wild, few = (solution.spreads[kinds == kind] for kind in range(3))
    assert len(set(calm)) == len(set(wild)) == 1
    assert 3 * calm[0] < wild[0]
    assert set(few) == {solution.spread}, "two rows do not tell how wrong their kind is"


def test_a_constant_without_data_keeps_its_prior_and_its_width() -> None:
    # endless messages: software is lost in 100 s of transfer
    sizes = np.full(12, 1e9)
    measured = times(TRUTH, sizes, MESSAGES)
    solution = solve(problem(measured, sizes), num_draws=200, rng=np.random.default_rng(0))
    assert np.exp(solution.best[:2]) == pytest.approx([30e-6, 3e-6], rel=0.3)
    assert solution.draws[:, 1].std() == pytest.approx(2.3, rel=0.2)
    assert np.exp(solution.best[2]) == pytest.approx(0.9, rel=1e-3)


def test_draws_of_a_share_never_exceed_one() -> None:
    truth = np.log([600e-6, 300e-6, 1.0])
    solution = solve(problem(times(truth, SIZES, MESSAGES)), num_draws=24, rng=np.random.default_rng(0))
    assert solution.draws[:, 2].max() <= 0.0


def test_the_same_seed_gives_the_same_bytes() -> None:
    measured = times(TRUTH, SIZES, MESSAGES) + 0.02 * np.random.default_rng(3).standard_normal(12)
    first, again = (solve(problem(measured), num_draws=8, rng=np.random.default_rng(5)).draws.tobytes() for _ in range(2))
    assert first == again


def test_left_out_rows_reveal_an_overfit() -> None:
    # three rows for three constants: the fit meets them, left-out rows tell
    rows = [0, 4, 11]
    measured = (times(TRUTH, SIZES, MESSAGES) + 0.1 * np.random.default_rng(4).standard_normal(12))[rows]
    solution = solve(problem(measured, SIZES[rows], MESSAGES[rows]), num_draws=8, rng=np.random.default_rng(0))
    assert np.abs(solution.left_out).max() > 2 * np.abs(solution.residuals).max()


def test_spread_is_the_eighth_of_nine_errors() -> None:
    # place 0.8 * 10 = 8: 0.08 / 1.2816 = 0.0624
    assert error_spread(np.arange(1, 10) / -100) == pytest.approx(0.0624, abs=1e-4)
    assert error_spread(np.array([0.02, 0.01])) == pytest.approx(0.0156, abs=1e-4)


def test_an_outlier_does_not_move_the_robust_spread() -> None:
    # median of 0.1, 0.2, 9 is 0.2; 0.2 / 0.6745 = 0.2965
    assert robust_spread(np.array([0.1, -0.2, 9.0])) == pytest.approx(0.2965, abs=1e-4)


def test_scatter_of_repeats_follows_from_their_percentiles() -> None:
    # ln(1.1 / 0.9) / 2.5632 = 0.0783
    assert log_scatter(0.9, 1.1, 9) == pytest.approx(0.0783, abs=1e-4)
    assert log_scatter(None, 1.1, 9) == 0.0
    assert log_scatter(0.9, 1.1, 1) == 0.0


def test_interval_of_one_draw_is_that_of_the_error() -> None:
    middle, low, high = interval_of([2.0], spread=0.1)
    assert middle == 2.0
    assert (low, high) == pytest.approx((2 * np.exp(-0.128), 2 * np.exp(0.128)), rel=0.01)
    assert interval_of([1.0, 2.0, 3.0], spread=0.0)[0] == 2.0
