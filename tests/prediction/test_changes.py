"""Changes between predictions."""

import pytest

from smoes_sim.prediction.changes import changes
from smoes_sim.prediction.simulate import Prediction


def prediction(draws: dict[str, list[float]], **values: float) -> Prediction:
    return Prediction(values=values, draws=draws)


def test_what_both_do_not_know_cancels_draw_by_draw() -> None:
    found = changes(prediction({"ttft_s": [1.0, 2.0]}), prediction({"ttft_s": [2.0, 2.0]}))
    assert found == {"ttft_s": -0.25, "ttft_s_interval": [-0.5, 0.0]}  # 1/2 - 1 and 2/2 - 1


def test_draws_that_do_not_pair_give_a_change_of_medians_without_interval() -> None:
    found = changes(prediction({"ttft_s": [3.0]}), prediction({"ttft_s": [1.0, 2.0, 9.0]}))
    assert found == {"ttft_s": 0.5}  # 3 / 2 - 1


def test_counts_have_no_interval_and_what_one_side_lacks_or_is_zero_is_left_out() -> None:
    mine = prediction({"tpot_s": [1.0], "ep_comm_s": [1.0]}, bytes_remote=50.0)
    base = prediction({"ep_comm_s": [0.0]}, bytes_remote=200.0)
    assert changes(mine, base) == {"bytes_remote": pytest.approx(-0.75)}
