"""Demands, options and rows of one all-to-all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from build_from import NODES, star, topology

from smoes_sim.errors import ConfigError
from smoes_sim.exchanges import AlltoallOptions, Demand, alltoall
from smoes_sim.exchanges.demand import choose_matrices, sweep_sizes
from smoes_sim.exchanges.timing import time_alltoall
from smoes_sim.network import Network
from smoes_sim.prediction.constants import Calibration, Parameter
from smoes_sim.topology import find_topology
from smoes_sim.traffic.skewed import lognormal_matrix, uniform_matrix, workload_matrix, zipf_matrix

MIB = 2.0**20


def network(text=None, **constants):
    return Network.on(topology(text or star(4, latency="1 us")), **constants)


def timed(options, matrix, text=None, **constants):
    options.check()
    return time_alltoall(network(text, **constants), matrix, options)


@pytest.mark.parametrize(
    ("demand", "matrix"),
    [
        (Demand(), uniform_matrix(4, 64 * MIB)),
        (Demand(size="1 MiB"), uniform_matrix(4, MIB)),
        (Demand(size="1 MiB", zipf=1.2), zipf_matrix(4, MIB, exponent=1.2, seed=7, per_source=False)),
        (Demand(size="1 MiB", zipf=1.2, per_source=True), zipf_matrix(4, MIB, exponent=1.2, seed=7, per_source=True)),
        (Demand(size="1 MiB", lognormal=0.5), lognormal_matrix(4, MIB, sigma=0.5, seed=7)),
        (Demand(size="1 MiB", workload="W6", step=3), workload_matrix("W6", 4, MIB, seed=7, step=3)),
    ],
)
def test_each_kind_of_skew_gives_its_matrix(demand, matrix):
    (chosen,) = choose_matrices(4, demand, seed=7)
    assert np.array_equal(chosen, matrix)


@pytest.mark.parametrize("skew", [{}, {"zipf": 1.0}, {"lognormal": 1.0}, {"workload": "W1"}])
def test_a_sweep_scales_one_matrix(skew):
    matrices = list(choose_matrices(4, Demand(sweep="1 KiB:8 KiB", **skew), seed=0))
    assert [matrix.sum() / 4 for matrix in matrices] == pytest.approx([1024, 2048, 4096, 8192])
    assert matrices[3] == pytest.approx(8 * matrices[0], rel=1e-12)


@pytest.mark.parametrize(("low", "high", "count"), [(1, 1, 1), (1, 1.9, 1), (1, 2, 2), (3, 100, 6)])
def test_sizes_double_up_to_the_last(low, high, count):
    sizes = sweep_sizes(low, high)
    assert sizes == [low * 2.0**step for step in range(count)]
    assert sizes[-1] <= high < 2 * sizes[-1]


@pytest.mark.parametrize(
    ("demand", "message"),
    [
        (Demand(size="1 B", sweep="1 B:2 B"), "--bytes, --sweep and --matrix exclude each other"),
        (Demand(size="1 B", matrix=Path("m")), "--bytes, --sweep and --matrix exclude each other"),
        (Demand(matrix=Path("m"), zipf=1.0), "--matrix and --zipf each say who sends what"),
        (Demand(lognormal=1.0, zipf=1.0), "--zipf and --lognormal each say who sends what"),
        (Demand(workload="W0", trace=Path("t")), "--workload and --trace each say who sends what"),
        (Demand(per_source=True), "--per-source says how --zipf is drawn"),
        (Demand(step=1), "--step picks a step of --workload"),
        (Demand(zipf=float("nan")), "--zipf = nan: must be a number >= 0"),
        (Demand(lognormal=-1.0), r"--lognormal = -1\.0: must be a number >= 0"),
        (Demand(workload="W8"), 'workload = "W8" is unknown'),
    ],
)
def test_demands_that_contradict_themselves_are_refused(demand, message):
    with pytest.raises(ConfigError, match=message):
        choose_matrices(4, demand, seed=0)


@pytest.mark.parametrize(
    ("demand", "words", "is_uniform"),
    [
        (Demand(), "equal blocks", True),
        (Demand(zipf=1.0), "Zipf 1, the same for all sources", False),
        (Demand(zipf=0.8, per_source=True), "Zipf 0.8, drawn for each source", False),
        (Demand(lognormal=0.5), "log-normal, sigma 0.5, the same for all sources", False),
        (Demand(workload="W7", step=3), "workload W7_burst, step 3", False),
        (Demand(trace=Path("a.npz")), "in the proportions of a.npz", False),
        (Demand(matrix=Path("a.txt")), "a.txt", False),
    ],
)
def test_a_demand_says_what_it_is(demand, words, is_uniform):
    assert (demand.description, demand.is_uniform) == (words, is_uniform)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (AlltoallOptions(schedule="low_latency"), "low_latency sends one message a copy. Give --message-size"),
        (AlltoallOptions(schedule="low_latency", message_size=0.0), "--message-size = 0 B: must be more than 0"),
        (AlltoallOptions(fidelity="fifo", window=0.0), "--window = 0 B: must be more than 0"),
        (AlltoallOptions(fidelity="fifo", chunk=0.0), "--chunk = 0 B: must be more than 0"),
        (AlltoallOptions(tolerance=float("nan")), "--tolerance = nan: must be between 0"),
        (AlltoallOptions(tolerance=0.2), r"--tolerance = 0\.2: must be between 0"),
    ],
)
def test_options_that_break_a_rule_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        options.check()


@pytest.mark.parametrize("fidelity", ["bound", "fluid", "fifo"])
def test_every_fidelity_gives_a_row_that_is_not_below_the_bound(fidelity):
    matrix = zipf_matrix(4, MIB, exponent=1.0, seed=0, per_source=True)
    row = timed(AlltoallOptions(fidelity=fidelity), matrix).row
    assert row.time_s >= row.bound_s * (1 - 1e-9)
    assert row.size_bytes == pytest.approx(max(matrix.sum(axis=0).max(), matrix.sum(axis=1).max()))
    assert row.mean_bytes == pytest.approx(MIB)
    assert row.algbw_GBps == pytest.approx(row.size_bytes / row.time_s / 1e9)
    assert row.busbw_GBps == pytest.approx(row.algbw_GBps * 3 / 4)
    assert (row.flows, row.messages, row.links, row.error_bound) == (12, 12, 8, 0.0)


def test_low_latency_pays_for_every_copy():
    # 256 KiB a pair in copies of 64 KiB: 4 messages a pair, 12 a sender, 1 ms each: the last one leaves after 12 ms, and its
    # 256 KiB then cross two links as one flow: 262144 / 50e9 s and 2 us
    options = AlltoallOptions(schedule="low_latency", message_size=64 * 1024.0)
    row = timed(options, uniform_matrix(4, MIB), per_message=1e-3).row
    assert (row.flows, row.messages) == (12, 48)
    assert row.time_s == pytest.approx(12e-3 + 262144 / 50e9 + 2e-6, rel=1e-9)


def test_the_order_counts_in_fifo():
    options = {order: AlltoallOptions(fidelity="fifo", order=order) for order in ("naive", "shifted")}
    times = {order: timed(choice, uniform_matrix(4, MIB)).row.time_s for order, choice in options.items()}
    assert times["naive"] > 1.1 * times["shifted"]


def test_larger_chunks_make_fifo_coarser():
    # through ports of 50 GB/s a packet of 8940 B is forwarded when it is there: chunks of 256 KiB move the time a little
    times = [
        timed(AlltoallOptions(fidelity="fifo", order="naive", chunk=chunk), uniform_matrix(4, MIB)).row.time_s
        for chunk in (None, 262144.0)
    ]
    assert times[0] != times[1]
    assert times[1] == pytest.approx(times[0], rel=0.5)


def test_packets_judge_the_other_fidelities():
    matrix = uniform_matrix(4, MIB)
    times = {name: timed(AlltoallOptions(fidelity=name), matrix).row.time_s for name in ("fluid", "fifo", "packet")}
    assert times["packet"] == pytest.approx(times["fifo"], rel=0.05)
    assert times["packet"] > times["fluid"] * (1 - 1e-9)


def test_packets_are_for_small_cases():
    # 3 * 4 messages of 4 GiB over 2 links in packets of 8940 B: 11.5 million
    with pytest.raises(ConfigError, match=r"1\.2e\+07 packets would cross links, at most 2e\+06"):
        timed(AlltoallOptions(fidelity="packet"), uniform_matrix(4, 16 * 2.0**30))


def test_hot_links_and_their_use_over_time_come_with_the_row():
    result = timed(AlltoallOptions(num_hot=2, record_links=True), workload_matrix("W2", 8, MIB, seed=0), NODES)
    assert len(result.hot) == 2
    assert list(result.use) == [hot.group.label for hot in result.hot]
    assert all(steps[-1][0] == pytest.approx(result.row.time_s) for steps in result.use.values())
    assert result.hot[0].utilisation == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("fidelity", ["bound", "fifo"])
def test_other_fidelities_name_links_without_times(fidelity):
    result = timed(AlltoallOptions(fidelity=fidelity, num_hot=1, record_links=True), uniform_matrix(8, MIB), NODES)
    assert result.hot[0].to_dict()["first_s"] is None
    assert result.use == {}


@pytest.mark.parametrize(("ranks", "size"), [(1, MIB), (3, 0.0)])
def test_nothing_to_send_takes_no_time(ranks, size):
    result = timed(AlltoallOptions(num_hot=3, record_links=True), uniform_matrix(ranks, size), star(ranks))
    assert (result.row.time_s, result.row.busbw_GBps, result.hot, result.use) == (0, 0, [], {})


def test_the_document_has_the_keys_of_the_command_in_their_order():
    found = alltoall("lab-star-4", size="64K", zipf=1, links=2)
    names = "topology ranks collective traffic schedule message_size order calibration per_message fidelity tolerance"
    assert list(found.to_dict()) == [*names.split(), *["injection", "window", "chunk", "seed", "wall_s", "rows"]]
    (row,) = found.to_dict()["rows"]
    names = (
        "size_bytes mean_bytes time_s algbw_GBps busbw_GBps bound_s flows messages links error_bound error_kind hot_links"
    )
    assert list(row) == names.split()
    assert found.to_polars().columns == names.split()[:-1]
    assert found.links.to_polars()["link"].to_list() == [hot["link"] for hot in row["hot_links"]]


def test_objects_are_taken_as_well_as_names():
    matrix = uniform_matrix(4, MIB)
    by_name = alltoall("lab-star-4", size="1M").rows[0]
    by_object = alltoall(find_topology("lab-star-4"), matrix=matrix).rows[0]
    assert replace(by_name, time_s=by_object.time_s) == by_object
    assert by_name.time_s == pytest.approx(by_object.time_s, rel=1e-12)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [(np.ones((2, 2)), "matrix is 2 x 2, the topology has 4 ranks"), (-np.ones((4, 4)), "matrix holds negative")],
)
def test_a_matrix_that_does_not_fit_is_refused(matrix, message):
    with pytest.raises(ConfigError, match=message):
        alltoall("lab-star-4", matrix=matrix)


def test_progress_is_told_size_by_size():
    done = []
    alltoall("lab-star-4", sweep="1K:4K", on_size=done.append)
    assert done == [1, 2, 3]


@pytest.mark.parametrize(
    ("kind", "proof"), [("measured", "of two runs with wider windows"), ("certified", "proven by bounds")]
)
def test_an_error_above_zero_is_put_in_words(kind, proof):
    found = alltoall("lab-star-4", size="1M")
    row = replace(found.rows[0], error_bound=1.234e-5, error_kind=kind)
    rough = replace(found, times=[replace(one, row=row) for one in found.times])
    assert f"# schedule direct; solution within 1e-05 {proof}\n" in repr(rough)
    assert "# schedule direct; solution exact for the model\n" in repr(found)


def calibration(*efficiencies, spread=0.0):
    """Constants of the lab's ethernet as a fit gives them."""
    parameter = Parameter(value=0.5, low=0.5, high=0.5, identified=True, meaning="share of nominal bandwidth")
    return Calibration(
        parameters={"efficiency.ethernet": parameter},
        draws={"efficiency.ethernet": list(efficiencies)},
        fitted_on=[],
        spread=spread,
        data_hash="",
        command="",
        version="",
    )


def test_an_interval_is_printed_where_it_has_a_width_only():
    sure, unsure = (alltoall("lab-star-4", size="1M", calibration=calibration(*draws)) for draws in ([0.5], [0.4, 0.5]))
    assert "10%(us)" in repr(unsure)
    assert "10% and 90% are the ends of the 80% interval" in repr(unsure)
    assert "10%(us)" not in repr(sure)
    assert "# constants of a given calibration; without an interval\n" in repr(sure)
    # half of 25e6 B/s for three blocks of 256 KiB: 62.915 ms
    assert sure.rows[0].time_s == pytest.approx(3 * 2**18 / 12.5e6)
    assert sure.to_dict()["rows"][0]["low_s"] == sure.rows[0].low_s == pytest.approx(sure.rows[0].time_s)


def test_a_calibration_and_a_cost_per_message_exclude_each_other():
    with pytest.raises(ConfigError, match="--calibration already says the sender's time per message"):
        alltoall("lab-star-4", calibration=calibration(0.5), per_message="1 us")


def test_one_size_without_recorded_links_has_no_plot():
    with pytest.raises(ConfigError, match=r"which was not recorded\. Give links=8"):
        alltoall("lab-star-4").plot()
