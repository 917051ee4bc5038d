"""Changes between predictions."""

from dataclasses import MISSING, fields

from smoes_sim.prediction.changes import Change, changes, changes_as_dict, changes_of_dict
from smoes_sim.prediction.prediction import Prediction

NOTHING = {field.name: None for field in fields(Prediction) if field.default is MISSING}


def prediction(draws: dict[str, list[float]], **values: float) -> Prediction:
    return Prediction(**(NOTHING | values | {"draws": draws}))


def test_what_both_do_not_know_cancels_draw_by_draw() -> None:
    found = changes(prediction({"ttft_s": [1.0, 2.0]}), prediction({"ttft_s": [2.0, 2.0]}))
    assert found == {"ttft_s": Change(value=-0.25, interval=(-0.5, 0.0))}  # 1/2 - 1 and 2/2 - 1
    document = changes_as_dict(found)
    assert document == {"ttft_s": -0.25, "ttft_s_interval": [-0.5, 0.0]}
    assert changes_of_dict(document) == found


def test_draws_that_do_not_pair_give_a_change_of_medians_without_interval() -> None:
    found = changes(prediction({"ttft_s": [3.0]}), prediction({"ttft_s": [1.0, 2.0, 9.0]}))
    assert found == {"ttft_s": Change(value=0.5)}  # 3 / 2 - 1


def test_counts_have_no_interval_and_what_one_side_lacks_or_is_zero_is_left_out() -> None:
    mine = prediction({"tpot_s": [1.0], "ep_comm_s": [1.0]}, bytes_remote=50.0)
    base = prediction({"ep_comm_s": [0.0]}, bytes_remote=200.0)
    assert changes(mine, base) == {"bytes_remote": Change(value=-0.75)}  # 50 / 200 - 1
